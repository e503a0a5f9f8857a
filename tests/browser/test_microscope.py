"The microscope in JupyterLab and as a page of its own: all by keyboard, and its numbers are the package's"
import json

import numpy as np
import pytest
from browse import lab_execute, lab_theme, new_page, violations

from backprop_nb import microscope as m
from backprop_nb.layers import Linear, ReLU, Sequential, Sigmoid
from backprop_nb.loss import mse

BITS, ANSWERS = np.array([[0., 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])

def xor_trace():
    model = Sequential(Linear(2, 3, rng=5), ReLU(), Linear(3, 2, rng=0), dtype=np.float64)
    model.layers[0].b = [.3, -.2, .4]
    return m.trace(model, BITS, ANSWERS)

def mazur():
    model = Sequential(Linear(2, 2, 0), Sigmoid(), Linear(2, 2, 0), Sigmoid(), dtype=np.float64)
    model.params = [.15, .25, .2, .3, .35, .35, .4, .5, .45, .55, .6, .6]
    return m.trace(model, [[.05, .1]], [[.01, .99]], loss=mse)

# ------------------------------------------------------------------ helpers

def find(box, number): return box.locator(f'[data-number="{number}"]')

def after(page, box, do, counter='data-paints'):
    "Do something, and wait until the microscope has been painted anew"
    before = int(box.get_attribute(counter) or 0)
    do()
    page.wait_for_function('([box, n, c]) => Number(box.getAttribute(c) ?? 0) > n', arg=[box.element_handle(), before, counter], timeout=60_000)

def knob(page, box, name, *keys):
    control = box.locator(f'[data-knob="{name}"]')
    control.focus()
    for key in keys: page.keyboard.press(key)

def drawn(box):
    "What the drawing says of each number: name -> value, gradient (None where it is not there yet)"
    read = box.locator('[data-number]').evaluate_all("all => all.map(g => [g.dataset.number, g.dataset.value ?? null, g.dataset.grad ?? null])")
    return {name: tuple(None if v is None else float(v) for v in pair) for name, *pair in read}

def agree(box, trace, names=None):
    "Every number in the drawing is the trace's, to the bit"
    seen = drawn(box)
    assert len(seen) > 5
    for name, (value, grad) in seen.items():
        array, _, index = name.partition('[')
        index = tuple(map(int, index.rstrip(']').split(','))) if index else ()
        assert value == float(trace[array][index]), name
        assert grad == float(trace.grads[array][index]), name

# ------------------------------------------------------------------ JupyterLab

@pytest.fixture(scope='module')
def page(lab_page): return lab_page('04b_microscope.ipynb', size=(1280, 1000))

@pytest.fixture(scope='module')
def box(page):
    box = page.locator('.bp-micro').last
    box.wait_for(timeout=60_000)
    box.scroll_into_view_if_needed()
    return box

def at_the_end(page, box):
    knob(page, box, 'fault', 'Home')
    undo = box.get_by_role('button', name='Undo all edits')
    if undo.is_visible(): after(page, box, undo.click)
    knob(page, box, 'step', 'Home')
    box.get_by_label('operation', exact=True).focus()
    page.keyboard.press('End')
    page.wait_for_function("box => box.dataset.fault === '' && box.dataset.step === '0' && !box.dataset.busy", arg=box.element_handle())

def test_the_drawing_shows_the_kernels_numbers(page, box):
    at_the_end(page, box)
    told = json.loads(lab_execute(page, "import json; print(json.dumps({k: [bits[k].tolist(), bits.grads[k].tolist()] for k in bits.grads}))"))
    assert told['loss'][0] == xor_trace().loss
    agree(box, xor_trace())

def test_it_steps_forward_and_back_by_keyboard(page, box):
    at_the_end(page, box)
    slider = box.get_by_label('operation', exact=True)
    slider.focus()
    after(page, box, lambda: page.keyboard.press('Home'))
    seen = drawn(box)
    assert seen['w1[0, 0]'][0] is not None and seen['z1[1, 0]'][0] is not None and seen['h1[1, 0]'] == (None, None)
    names = [s.array for s in xor_trace().steps]
    for i, step in enumerate(xor_trace().steps[1:], 1):
        after(page, box, lambda: page.keyboard.press('ArrowRight'))
        assert box.get_attribute('data-walk') == str(i)
        assert step.name in box.locator('.bpm-card').inner_text() and step.code in box.locator('.bpm-card').inner_text()
        made = {name.partition('[')[0]: pair for name, pair in drawn(box).items()}
        if step.phase == 'backward':
            assert made[step.array][1] is not None
            assert all(made[later][1] is None for later in names[i + 1:])
    page.keyboard.press('ArrowLeft')
    assert box.get_attribute('data-walk') == str(len(names) - 2)

def test_arrow_keys_move_between_numbers_and_say_the_packages_words(page, box):
    at_the_end(page, box)
    find(box, 'x[1, 0]').click()
    said = []
    for key in ['ArrowRight', 'ArrowRight', 'ArrowDown', 'ArrowRight', 'ArrowRight']:
        page.keyboard.press(key)
        said.append(page.evaluate('document.activeElement.dataset.number'))
    assert len(set(said)) >= 4 and None not in said
    t = xor_trace()
    for name, index in [('h1', (1, 1)), ('z1', (1, 0)), ('w1', (1, 1)), ('y', (1, 0))]:
        find(box, m.label(t, name, m.place(t, name, index))).click()
        assert tuple(box.locator('.bpm-line').all_inner_texts()) == t.explain(name, *index)
        paths = t.paths(name, *index)
        assert box.locator('.bpm-path').count() == len(paths)
        shown = box.locator('.bpm-product').all_inner_texts()
        assert shown == [m.shown(p.product, 3) for p in paths]

def test_a_path_lights_up(page, box):
    at_the_end(page, box)
    find(box, 'w1[1, 1]').click()
    box.locator('.bpm-path').first.focus()
    page.keyboard.press('Enter')
    assert box.locator('.bpm-path').first.get_attribute('aria-pressed') == 'true' and box.locator('.bpm-lit').count() >= 2

def test_an_edit_recomputes_in_the_kernel(page, box):
    at_the_end(page, box)
    find(box, 'w2[1, 0]').click()
    field = box.locator('[data-edit="w2[1, 0]"]')
    field.fill('1.5')
    after(page, box, lambda: page.keyboard.press('Enter'), 'data-answers')
    new, _ = xor_trace().edit('w2', (1, 0), 1.5)
    agree(box, new)
    assert '0.523 → 1.5' in find(box, 'w2[1, 0]').text_content()
    assert box.locator('.bpm-same').count() > 5 and box.locator('.bpm-new').count() > 5
    find(box, 'w1[1, 1]').click()
    assert box.locator('.bpm-factors .bpm-new').count() > 0 and box.locator('.bpm-factors .bpm-same').count() > 0
    after(page, box, box.get_by_role('button', name='Undo all edits').click)
    agree(box, xor_trace())

def test_a_mistake_turns_the_check_red(page, box):
    at_the_end(page, box)
    assert '✓' in box.locator('.bpm-judge').inner_text()
    for i, name in enumerate(m.faults, 1):
        after(page, box, lambda i=i: box.locator('[data-knob=fault]').select_option(index=i))
        with m.faults[name]():
            t = m.with_leaves(xor_trace(), {})
            verdict, run = t.check(), m.rewind(t, lr=1, n_steps=60)
            agree(box, t)
        assert box.get_attribute('data-wrong').split() == verdict.wrong and verdict.rule in box.locator('.bpm-judge').inner_text()
        assert box.locator('.bpm-wrong').count() > 0
        assert np.isclose(json.loads(box.get_attribute('data-ends'))['wrong'], run.losses[-1], rtol=1e-6)
    at_the_end(page, box)
    assert box.locator('.bpm-wrong').count() == 0

def test_training_is_rewound(page, box):
    at_the_end(page, box)
    run = m.rewind(xor_trace(), lr=1, n_steps=60)
    for keys, step in [(['End'], 60), (['ArrowLeft'] * 3, 57), (['Home'], 0)]:
        knob(page, box, 'step', *keys)
        page.wait_for_function("([box, k]) => box.dataset.step === String(k) && !box.dataset.busy", arg=[box.element_handle(), step], timeout=60_000)
        agree(box, run[step])

def test_an_error_is_shown_and_the_controls_stay_usable(page, box):
    at_the_end(page, box)
    assert lab_execute(page, "lens.asked = dict(id=-5, edits=[['y', 0, 1.0]]); print(lens.error)").startswith('ValueError')
    alert = box.get_by_role('alert')
    alert.wait_for(timeout=10_000)
    assert 'name' in alert.inner_text()
    box.get_by_role('button', name='dismiss the message').click()
    test_training_is_rewound(page, box)

def test_the_readers_model_is_untouched(page, box):
    assert lab_execute(page, 'print(model.layers[0].y is None, bool(model.grads.any()))') == 'True False'

def test_axe_finds_nothing_in_either_theme(page, box):
    at_the_end(page, box)
    find(box, 'w1[1, 1]').click()
    for theme in ('JupyterLab Dark', 'JupyterLab Light'):
        lab_theme(page, theme)
        assert violations(page, '.bp-micro') == []

def test_voila(browser, voila):
    with new_page(browser, f'{voila.url}/voila/render/nbs/04b_microscope.ipynb', allow=['federation|favicon|notebook']) as page:
        box = page.locator('.bp-micro')
        box.wait_for(timeout=120_000)
        agree(box, xor_trace())
        knob(page, box, 'step', 'ArrowRight')
        page.wait_for_function("box => box.dataset.step === '1' && !box.dataset.busy", arg=box.element_handle(), timeout=60_000)
        agree(box, m.rewind(xor_trace(), lr=1, n_steps=60)[1])              # asked of the kernel: it was not sent along

# ------------------------------------------------------------------ a page of its own

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pages')
    large = m.trace(Sequential(Linear(30, 12, 0), ReLU(), Linear(12, 4, 1)), np.random.default_rng(0).normal(size=(8, 30)), np.arange(8) % 4)
    for name, t, run in [('xor', xor_trace(), dict(lr=1, n_steps=60)), ('mazur', mazur(), dict(lr=.5)), ('large', large, {})]:
        (folder/f'{name}.html').write_text(t.to_html(**run), encoding='utf-8')
    return folder

@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
@pytest.mark.parametrize('width', [420, 1280])
def test_the_page_works_from_a_file(visit, files, width, dark):
    page = visit(size=(width, 900), dark=dark)
    asked = []
    page.on('request', lambda r: asked.append(r.url))
    page.goto((files/'xor.html').as_uri())
    box = page.locator('.bp-micro')
    example = int(box.locator('[data-knob=example]').input_value())
    agree(box, xor_trace())
    knob(page, box, 'step', 'End')
    agree(box, m.rewind(xor_trace(), lr=1, n_steps=60)[60])
    knob(page, box, 'step', 'Home')
    box.locator('[data-knob=fault]').select_option(index=5)
    assert '✗' in box.locator('.bpm-judge').inner_text() and box.locator('.bpm-wrong').count() > 0
    assert box.locator('[data-knob=step]').is_disabled() and box.locator('.bpm-edit').count() == 0     # what needs a kernel is not offered
    assert violations(page, '.bp-micro') == []
    assert all(url.startswith(('file:', 'data:')) for url in asked) and 0 <= example < 4
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')

def test_the_numbers_of_mazur_are_on_his_page(visit, files):
    page = visit((files/'mazur.html').as_uri())
    box = page.locator('.bp-micro')
    find(box, 'w1[0, 0]').click()
    assert box.locator('[data-fact=gradient]').inner_text() == '4.386×10⁻⁴'
    assert box.locator('.bpm-product').all_inner_texts() == [m.shown(p.product, 3) for p in mazur().paths('w1', 0, 0)]
    assert tuple(box.locator('.bpm-line').all_inner_texts()) == mazur().explain('w1', 0, 0)

def test_a_large_net_is_shown_as_maps(visit, files):
    page = visit((files/'large.html').as_uri())
    box = page.locator('.bp-micro')
    maps = box.locator('canvas[data-map]')
    assert maps.count() == 2 * 8 and box.locator('svg').count() == 0
    weights = box.locator('canvas[data-map="w1 grads"]')
    weights.focus()
    for key in ['ArrowDown', 'ArrowRight', 'ArrowRight']: page.keyboard.press(key)
    assert box.locator('.bpm-number h3').inner_text().startswith('w1[1, 2]')
    box.locator('[data-knob=fault]').select_option(index=5)
    assert 'relu_dx' in box.locator('.bpm-judge').inner_text()
    assert violations(page, '.bp-micro') == []

def test_it_plays_when_asked_and_not_before(visit, files):
    page = visit((files/'mazur.html').as_uri(), calm=True)
    box = page.locator('.bp-micro')
    page.wait_for_timeout(1200)
    assert box.get_attribute('data-walk') == str(len(mazur().steps) - 1)
    box.get_by_role('button', name='Play').click()
    page.wait_for_timeout(400)
    box.get_by_role('button', name='Pause').click()
    assert int(box.get_attribute('data-walk')) < len(mazur().steps) - 1
