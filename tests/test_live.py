"Live pictures: knobs and panels are data that is checked, the newest value wins, errors are shown, and a still stands in"
import ast
import asyncio
import base64
import gc
import json
import re
import shutil
import subprocess
import threading
import tracemalloc

import numpy as np
import pytest
from ipywidgets import Widget as AnyWidget
from matplotlib import colormaps
from norm_widgets import VIEW, normalise
from project import PAGES, cells

from backprop_nb import viz
from backprop_nb.live import STATIC, Live, Still, Widget, front_end, knob, live, newest, on_main, pack, panel, settle, style

ALT = 'A straight line from the left to the right'

def line(slope, up=True, word='a'):
    if word == 'oops': raise ArithmeticError('no such word')
    return [panel.lines({'line': (np.arange(3.), slope * np.arange(3.) * (1 if up else -1))}, 'x', 'y'), panel.text(f'The slope is {slope:.2f}.')]

KNOBS = knob.range('slope', 0, 4, 1.), knob.switch('up', True), knob.words('word', 'a')

@pytest.fixture
def widget():
    w = live(line, *KNOBS, alt=ALT)
    yield w
    w.close()

def shown(w): return w.picture['frames'][-1]

# ------------------------------------------------------------------ what runs in the browser

SCRIPTS = sorted(p.name for p in STATIC.glob('*.js'))

def declared(name): return re.findall(r'(?m)^(?:export )?(?:async )?(?:function\*?|const|let|class) (\w+)', (STATIC/name).read_text(encoding='utf-8'))

@pytest.mark.parametrize('name', [s for s in SCRIPTS if s != 'base.js'])
def test_a_front_end_shares_its_scope_with_the_base_and_takes_none_of_its_names(name):
    assert not set(declared(name)) & set(declared('base.js'))

@pytest.mark.parametrize('name', SCRIPTS)
def test_the_base_says_what_it_offers_and_no_name_is_declared_twice(name):
    names = declared(name)
    assert len(set(names)) == len(names)

@pytest.mark.parametrize('file', sorted(p.name for p in STATIC.glob('*.[cj]s*')))
def test_front_ends_ask_for_nothing_from_the_network(file):
    text = (STATIC/file).read_text(encoding='utf-8').replace('http://www.w3.org/', '')
    assert not re.search(r'https?://|@import|\bimport\s*\(|\bfetch\s*\(|^import\b|url\((?!["\']?data:)', text, re.MULTILINE)

def test_a_front_end_is_the_base_and_its_own_file():
    assert front_end('live.js') == front_end() + '\n' + (STATIC/'live.js').read_text(encoding='utf-8')
    assert style('live.css').startswith(style())
    with pytest.raises(FileNotFoundError): front_end('nothing.js')

@pytest.fixture(scope='module')
def node():
    path = shutil.which('node')
    if not path: pytest.skip('Node.js is not installed: the browser tests run the same code')
    def run(expression):
        done = subprocess.run([path, '--input-type=module'], input=f'{front_end()}\nconsole.log(JSON.stringify({expression}))', capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    return run

@pytest.mark.parametrize('value, text', [(0, '0'), (-3, '−3'), (.125, '0.125'), (1234567, '1.23×10⁶'), (1.2e-7, '1.2×10⁻⁷'), (1e-5, '10⁻⁵'), (2/3, '0.667'), (42.0, '42')])
def test_numbers_for_readers(node, value, text): assert node(f'fmt({value!r})') == text

def test_numbers_that_are_none(node): assert node('[fmt(Infinity), fmt(-Infinity), fmt(NaN)]') == ['∞', '−∞', 'NaN']

@pytest.mark.parametrize('script, name, at', [('signed', 'PuOr_r', np.linspace(-1, 1, 21)), ('size', 'cividis', np.linspace(0, 1, 21))])
def test_colours_are_those_of_the_figures(node, script, name, at):
    ours = np.array(node(f'{at.tolist()}.map({script})'))
    t = (at + 1) / 2 if script == 'signed' else at
    assert np.abs(ours - colormaps[name](t)[:, :3] * 255).max() < 4

def test_the_palette_and_the_meanings_are_those_of_the_figures(node):
    assert node('okabe') == viz.palette
    names = ['train', 'validation', 'other', 'forward', 'gradient', 'update', 'truth']
    ours = node(f'styleOf({names})')
    assert [ours[n]['colour'].lower() for n in names] == [colour.lower() for colour, _ in viz.styles(names)]
    assert not ours['train']['dash'] and ours['validation']['dash']

def test_many_lines_look_different(node):
    look = node('styleOf([..."abcdef"])')
    assert len({str(v) for v in look.values()}) == 6

# ------------------------------------------------------------------ knobs

@pytest.mark.parametrize('make, error, words', [
    (lambda: knob.range('a', 2, 1, 1), ValueError, 'high'), (lambda: knob.range('a', 0, 1, 2), ValueError, 'a: a number >= 0.0 and <= 1.0'),
    (lambda: knob.range('a', 0, 1, .5, step=0), ValueError, 'step'), (lambda: knob.range('2a', 0, 1, .5), ValueError, 'name'), (lambda: knob.range(3, 0, 1, .5), ValueError, 'name'),
    (lambda: knob.log('a', 0, 1, .5), ValueError, 'low: a number > 0'), (lambda: knob.log('a', .1, 1, 'x'), TypeError, 'a:'), (lambda: knob.log('a', .1, 1, .5, step=0), ValueError, 'step'),
    (lambda: knob.whole('a', 0, 9, 1.5), TypeError, 'whole'), (lambda: knob.whole('a', 0, 9, 10), ValueError, '<= 9'), (lambda: knob.whole('a', 0, 0, 0), ValueError, 'high'),
    (lambda: knob.choice('a', ['x']), ValueError, 'at least two'), (lambda: knob.choice('a', ['x', 'y'], 'z'), ValueError, "'x', 'y'"), (lambda: knob.switch('a', 1), TypeError, 'True or False'),
    (lambda: knob.words('a', 3), TypeError, 'text'), (lambda: knob.range('a', 0, 1, float('nan')), ValueError, 'a:')])
def test_a_knob_that_makes_no_sense_is_refused(make, error, words):
    with pytest.raises(error, match=re.escape(words)): make()

def test_a_name_of_two_words_is_an_argument():
    k = knob.log('learning rate', 1e-3, 2, .1)
    assert (k['name'], k['label']) == ('learning_rate', 'learning rate')

@pytest.mark.parametrize('k, good, bad', [(KNOBS[0], 2.5, 5), (KNOBS[1], False, 'no'), (KNOBS[2], 'b', None), (knob.whole('n', -3, 9, 2), -3, -4),
                                          (knob.choice('c', ['x', 'y']), 'y', 'z'), (knob.log('r', .1, 10, 1), 10, 11)])
def test_a_value_is_checked_against_its_knob(k, good, bad):
    assert settle(k, good) == good
    with pytest.raises((TypeError, ValueError)): settle(k, bad)

def test_knobs_are_plain_data():
    assert json.loads(json.dumps(KNOBS)) == list(KNOBS)

# ------------------------------------------------------------------ panels, and their way over the wire

@pytest.mark.parametrize('make', [lambda: panel.lines({'a': (np.arange(3), np.arange(4))}), lambda: panel.lines({'a': np.zeros((2, 2))}), lambda: panel.heat(np.arange(3)),
                                  lambda: panel.heat(np.zeros((2, 2)), colours='rainbow'), lambda: panel.heat(np.zeros((0, 3))), lambda: panel.table(['a', 'b'], [[1]])])
def test_a_panel_that_makes_no_sense_is_refused(make):
    with pytest.raises(ValueError): make()

def test_arrays_travel_as_bytes_and_each_once():
    a, b = np.linspace(0, 1, 7), np.arange(6, dtype='u1').reshape(2, 3)
    sent = pack([[panel.lines({'a': a}), panel.heat(b)], [panel.lines({'a': a.copy()}), panel.heat(b)]])
    kinds = [(s['dtype'], len(s['data'])) for s in sent['arrays']]
    assert sorted(kinds) == [('f4', 28), ('f4', 28), ('u1', 6)]     # places, values, cells
    back = sent['arrays'][sent['frames'][1][0]['lines']['a'][1]['$']]
    assert np.array_equal(np.frombuffer(back['data'], back['dtype']), np.float32(a))
    json.dumps(sent['frames'])

def test_numbers_without_a_word_in_json_travel_as_words():
    sent = pack([[panel.bars({'a': np.inf, 'b': np.nan, 'c': -np.inf, 'd': np.float32(.5)})]])
    assert sent['frames'][0][0]['values'] == ['inf', 'nan', '-inf', .5]

# ------------------------------------------------------------------ the still

def test_the_output_holds_a_still_and_its_text_does_not_depend_on_the_run(widget):
    other = live(line, *KNOBS, alt=ALT)
    (one, _), (two, _) = widget._repr_mimebundle_(), other._repr_mimebundle_()
    other.close()
    assert one[VIEW]['model_id'] != two[VIEW]['model_id']
    assert {k: v for k, v in one.items() if k != VIEW} == {k: v for k, v in two.items() if k != VIEW}
    assert one['text/plain'] == ALT and base64.b64decode(one['image/png'])[:4] == b'\x89PNG'
    assert f'<img alt="{ALT}"' in one['text/html'] and 'The slope is 1.00.' in one['text/html'] and 'slope 1' in one['text/html']
    assert not re.search('[0-9a-f]{32}', one['text/plain'])

def test_the_still_shows_how_the_knobs_are_turned(widget):
    widget.values = dict(slope=2.5, up=False, word='b')
    assert 'slope 2.5, up False, word b.' in widget._repr_mimebundle_()[0]['text/html']

def test_words_in_a_still_are_escaped():
    html = Still([panel.text('<b>'), panel.table(['<i>'], [['&']])], ALT, '')._repr_mimebundle_()['text/html']
    assert '&lt;b&gt;' in html and '&lt;i&gt;' in html and '&amp;' in html and '<img' not in html

@pytest.mark.parametrize('p', [panel.lines({'a': [1., 2, 3], 'b': [3., 2, 1]}, xlog=False, ylog=True, dots=['a'], at=1, upto=1, xlim=(0, 2)), panel.bars({'a': 1., 'b': 2.}, log=True),
    panel.heat(np.eye(3)), panel.heat(-np.eye(3), 'signed'), panel.heat(np.eye(3, dtype=int), 'classes'),
    panel.heat(np.add.outer(np.arange(9.), np.arange(9.)), 'bands', levels=[2, 5], xlim=(0, 1), ylim=(0, 1), walks={'w': np.eye(2), 'v': np.ones((2, 2))}, upto=0)])
def test_every_kind_of_panel_is_drawn_on_paper(p): assert Still([p], ALT, '').png() not in (Still([], ALT, '').png(), Still([panel.heat(np.zeros((3, 3)))], ALT, '').png())

def test_a_stored_page_keeps_the_still_and_not_the_view():
    bundle = {VIEW: {'model_id': '0' * 31 + 'a'}, 'text/html': '<img alt="a">', 'text/plain': 'a'}
    bare = {VIEW: {'model_id': '0' * 31 + 'b'}, 'text/plain': 'b'}
    state = {'application/vnd.jupyter.widget-state+json': {'state': {'0' * 31 + 'a': {}, '0' * 31 + 'b': {}}}}
    def page(*bundles): return {'metadata': {'widgets': json.loads(json.dumps(state))}, 'cells': [{'outputs': [{'data': dict(b)} for b in bundles]}]}
    one = normalise(page(bundle))
    assert one['cells'][0]['outputs'][0]['data'] == {'text/html': '<img alt="a">', 'text/plain': 'a'} and 'widgets' not in one['metadata']
    both = normalise(page(bundle, bare))
    assert both['cells'][0]['outputs'][1]['data'][VIEW]['model_id'] == f'{1:032x}' and list(both['metadata']['widgets'].popitem()[1]['state']) == [f'{1:032x}']
    assert normalise(both) == both

# ------------------------------------------------------------------ the picture follows the knobs

def test_the_picture_is_what_the_function_returns(widget):
    widget.values = dict(slope=2., up=False, word='a')
    ys = shown(widget)[0]['lines']['line'][1]
    sent = widget.picture['arrays'][ys['$']]
    assert np.frombuffer(sent['data'], sent['dtype']).tolist() == [0, -2, -4] and shown(widget)[1]['text'] == 'The slope is 2.00.'

@pytest.mark.parametrize('bad, words', [(dict(slope=9., up=True, word='a'), 'ValueError: slope: a number'), (dict(slope=1., up=True, word='oops'), 'ArithmeticError: no such word'),
                                        (dict(up=True, word='a'), 'KeyError')])
def test_an_error_is_shown_and_the_knobs_stay_usable(widget, bad, words):
    before = shown(widget)
    widget.values = bad
    assert words in widget.error and shown(widget) == before
    widget.values = dict(slope=3., up=True, word='a')
    assert widget.error == '' and shown(widget)[1]['text'] == 'The slope is 3.00.'

def test_a_mistake_in_the_function_raises_where_it_was_written():
    with pytest.raises(ArithmeticError): live(line, *KNOBS[:2], knob.words('word', 'oops'), alt=ALT)

@pytest.mark.parametrize('make, error, words', [
    (lambda: live(3, alt=ALT), TypeError, 'compute'), (lambda: live(line, 'slope', alt=ALT), TypeError, 'knob.log'), (lambda: live(line, *KNOBS, KNOBS[0], alt=ALT), ValueError, 'own name'),
    (lambda: live(line, KNOBS[1], alt=ALT), TypeError, "missing a required argument: 'slope'"), (lambda: live(line, *KNOBS, knob.switch('more'), alt=ALT), TypeError, 'more'),
    (lambda: live(line, *KNOBS, alt=' '), ValueError, 'alt'), (lambda: live(line, *KNOBS, alt=ALT, fps=0), ValueError, 'fps'),
    (lambda: live(lambda: [3], alt=ALT), TypeError, 'panels'), (lambda: live(lambda: [], alt=ALT, frames='step'), TypeError, 'frames'), (lambda: live(lambda: [panel.text('a')], alt=ALT, frames='step'), TypeError, 'frames')])
def test_what_makes_no_picture_is_refused(make, error, words):
    with pytest.raises(error, match=re.escape(words)): make()

def test_frames():
    w = live(lambda n: [[panel.text(str(i))] for i in range(n)], knob.whole('n', 1, 9, 3), alt=ALT, frames='step')
    assert [f[0]['text'] for f in w.picture['frames']] == ['0', '1', '2']
    assert '<p>2</p>' in w._repr_mimebundle_()[0]['text/html']
    w.close()

# ------------------------------------------------------------------ threads

def from_thread(f):
    t = threading.Thread(target=f)
    t.start()
    t.join()

def test_without_a_loop_nothing_is_marshalled():
    def f(): return 7
    assert on_main(f) is f

def test_a_call_from_another_thread_runs_at_home():
    async def main():
        seen = []
        call = on_main(lambda word: seen.append((word, threading.get_ident())))
        call('here')
        from_thread(lambda: call('there'))
        assert [w for w, _ in seen] == ['here']            # the other one waits for the loop
        await asyncio.sleep(.01)
        assert seen == [('here', threading.get_ident()), ('there', threading.get_ident())]
    asyncio.run(main())

def test_after_the_loop_a_call_runs_where_it_is():
    calls = []
    async def main(): return on_main(lambda: calls.append(threading.get_ident()))
    late = asyncio.run(main())
    from_thread(late)
    assert len(calls) == 1

def test_the_newest_value_wins():
    async def main():
        asked = []
        def slow(n):
            asked.append((n, threading.get_ident()))
            return [panel.text(str(n))]
        w = live(slow, knob.whole('n', 0, 1000, 0), alt=ALT)
        def turn():
            for n in range(1, 501): w.values = dict(n=n)
        from_thread(turn)
        await asyncio.sleep(.02)
        assert [n for n, _ in asked] == [0, 500] and {t for _, t in asked} == {threading.get_ident()}
        assert shown(w)[0]['text'] == '500'
        w.close()
    asyncio.run(main())

def test_newest_asks_again_after_an_error():
    calls = []
    def f():
        calls.append(1)
        raise ValueError
    ask = newest(f)
    for _ in range(2):
        with pytest.raises(ValueError): ask()
    assert len(calls) == 2

# ------------------------------------------------------------------ an end

class Runs(Widget):
    stopped = 0
    def still(self): return viz.Picture(viz.panels()[0], ALT)
    def stop(self): self.stopped += 1

def test_closing_stops_what_runs():
    w = Runs()
    w.close()
    assert w.stopped == 1 and w.comm is None

def test_a_widget_must_have_a_still():
    w = Widget()
    with pytest.raises(NotImplementedError, match='still'): w._repr_mimebundle_()
    w.close()

def test_a_thousand_changes_leave_nothing_behind(widget):
    def turn(n):
        for i in range(n): widget.values = dict(slope=(i % 40) / 10, up=i % 2 == 0, word='oops' if i % 10 == 9 else 'a')
        gc.collect()
    def alive(): return sum(issubclass(type(o), AnyWidget) for o in gc.get_objects())
    turn(100)
    widgets = alive()
    tracemalloc.start()
    turn(100)
    before = tracemalloc.get_traced_memory()[0]
    turn(1000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert alive() == widgets and grown < 30_000, grown

def test_live_is_what_live_makes(widget): assert isinstance(widget, Live) and isinstance(widget, Widget)

# ------------------------------------------------------------------ on the pages

def bound(tree):
    "Names that the top level of a cell binds"
    found = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    todo = [n for n in tree.body if not isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)): continue    # scopes of their own
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store): found.add(node.id)
        todo += ast.iter_child_nodes(node)
    return found

def rebound(sources):
    "What the function of a live picture reads when a knob is turned, and a later cell binds to something else"
    trees = [ast.parse(re.sub(r'(?m)^\s*[%!].*$', '', s)) for s in sources]
    functions = {n.name: n for t in trees for n in t.body if isinstance(n, ast.FunctionDef)}
    for i, tree in enumerate(trees):
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == 'live' and isinstance(n.args[0], ast.Name)):
            reads, todo = set(), [call.args[0].id]
            while todo:
                name = todo.pop()
                if name in reads: continue
                reads.add(name)
                if name in functions:
                    own = {a.arg for a in ast.walk(functions[name]) if isinstance(a, ast.arg)} | {n.id for n in ast.walk(functions[name]) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
                    todo += [n.id for n in ast.walk(functions[name]) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and n.id not in own]
            yield from sorted(reads & set().union(*map(bound, trees[i + 1:])))

@pytest.mark.parametrize('page', [p for p in PAGES if any('live(' in c['source'] for c in cells(p, 'code'))], ids=lambda p: p.stem)
def test_no_later_cell_takes_away_what_a_live_picture_reads(page):
    assert not list(rebound([c['source'] for c in cells(page, 'code')]))

def test_the_rule_about_later_cells_itself():
    first = 'a = 1\ndef g(x): return a + x\ndef f(x):\n    b = g(x)\n    return b\nlive(f)'
    assert list(rebound([first, 'a = 2'])) == ['a'] and list(rebound([first, 'b = 2', '[a for a in c]'])) == []
