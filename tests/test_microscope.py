"What the microscope shows is what the package computed, and nothing of it changes what it looks at"
import json
import math
import re
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from project import ROOT

from backprop_nb import microscope as m
from backprop_nb.autograd import Tensor
from backprop_nb.backward import vjps
from backprop_nb.layers import ELU, Linear, ReLU, Sequential, Sigmoid, Softmax, Softplus, Tanh, fused, value_and_grad
from backprop_nb.live import front_end, style
from backprop_nb.loss import binary_cross_entropy, cross_entropy, huber, mae, mse
from backprop_nb.norm import BatchNorm, LayerNorm, Residual
from backprop_nb.optim import SGD, Adam
from backprop_nb.regularize import Dropout

BITS = np.array([[0., 0], [0, 1], [1, 0], [1, 1]])

def xor_net(dtype=np.float64):
    model = Sequential(Linear(2, 3, rng=5), ReLU(), Linear(3, 2, rng=0), dtype=dtype)
    model.layers[0].b = [.3, -.2, .4]
    return model

def xor_trace(dtype=np.float64): return m.trace(xor_net(dtype), BITS, np.array([0, 1, 1, 0]))

def mazur():
    model = Sequential(Linear(2, 2, 0), Sigmoid(), Linear(2, 2, 0), Sigmoid(), dtype=np.float64)
    model.params = [.15, .25, .2, .3, .35, .35, .4, .5, .45, .55, .6, .6]
    return m.trace(model, [[.05, .1]], [[.01, .99]], loss=mse)

NETS = {
    'chain': lambda: [Linear(5, 4, 1), Tanh(), Linear(4, 3, 2)],
    'activations': lambda: [Linear(5, 4, 1), ELU(.7), Linear(4, 4, 2), Softplus(), Linear(4, 3, 3), Softmax()],
    'norms': lambda: [Linear(5, 4, 1), BatchNorm(4), ReLU(), Linear(4, 4, 2), LayerNorm(4), Linear(4, 3, 3)],
    'dropout': lambda: [Linear(5, 8, 1), ReLU(), Dropout(.4, 3), Linear(8, 3, 2)],
    'residual': lambda: [Linear(5, 4, 1), Residual(Linear(4, 4, 2), Tanh()), Linear(4, 3, 3)],
}
LOSSES = {cross_entropy: np.array([0, 1, 2, 2, 1, 0]), **dict.fromkeys([mse, mae, huber], np.linspace(-1, 1, 18).reshape(6, 3)), binary_cross_entropy: np.eye(3)[[0, 1, 2, 0, 1, 2]]}

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('loss', LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize('net', NETS)
def test_values_and_gradients_are_the_packages_to_the_bit(net, loss, dtype):
    model, x = Sequential(*NETS[net](), dtype=dtype), np.random.default_rng(0).normal(size=(6, 5))
    t = m.trace(model, x, LOSSES[loss], loss)
    y = model(x)
    value, g = value_and_grad(loss, y, LOSSES[loss])
    dx = model.backward(g, need_dx=True)
    assert t.loss == value and (t['y'] == y).all()
    assert (np.concatenate([t.grads[name].ravel() for name in t.weights]) == model.grads).all()
    assert (t.grads['x'] == dx).all() and (t.grads['y'] == g).all()
    for name in t.grads: assert t.grads[name].dtype == t[name].dtype and t.grads[name].shape == t[name].shape

@pytest.mark.parametrize('net', NETS)
def test_nothing_of_the_reader_is_touched(net):
    model, x = Sequential(*NETS[net]()), np.random.default_rng(0).normal(size=(6, 5))
    model(x[:3])
    model.backward(np.ones((3, 3)))
    twin, before = deepcopy(model), [a.copy() for a in (model.params, model.grads, model.buffers)]
    memory, opt = [layer.y for layer in model.layers], SGD(model, lr=.1, momentum=.9)
    table, quick = dict(vjps), dict(fused)
    t = m.trace(model, x, LOSSES[cross_entropy])
    t.edit('w1', (0, 0), 3.), t.check(2), m.rewind(t, opt, n_steps=2), m.scene(t, opt, n_steps=2), t.to_json()
    assert all((a == b).all() for a, b in zip(before, (model.params, model.grads, model.buffers)))
    assert all(layer.y is y for layer, y in zip(model.layers, memory))
    assert opt.t == 0 and not opt.state['v'].any()
    assert (model(x) == twin(x)).all()                                    # the same random numbers come next
    assert vjps == table and fused == quick and m.meeting['add'] is np.add

def graph_loss(share=True):
    rng = np.random.default_rng(1)
    x, w, b = Tensor(rng.normal(size=(3, 2))), Tensor(rng.normal(size=(2, 2))), Tensor(rng.normal(size=2))
    h = np.tanh(x @ w + b)
    return ((h * h - .3)**2).mean() + (w * w).sum() * .1 if share else ((h - .3)**2).mean(), dict(x=x, w=w, b=b)

@pytest.mark.parametrize('share', [True, False])
def test_a_graph_of_tensors_has_the_same_numbers(share):
    y, names = graph_loss(share)
    t = m.trace(y, names=names)
    assert all(v.grad is None for v in names.values())                    # tracing went its own way
    y.backward()
    assert t.loss == float(y)
    for name, v in names.items(): assert (t[name] == v.data).all() and (t.grads[name] == v.grad).all()
    assert t.check().ok

@pytest.mark.parametrize('make', [mazur, xor_trace, lambda: m.trace(graph_loss(False)[0])], ids=['mazur', 'batch', 'graph'])
def test_paths_and_messages_add_up_to_the_gradient(make):
    t = make()
    for name in t.grads:
        if name == 'loss': continue
        for index in np.ndindex(t[name].shape):
            paths, heard = t.paths(name, *index), t.messages(name, *index)
            g = float(t.grads[name][index])
            assert abs(math.fsum(p.product for p in paths) - g) <= 1e-12 * max(1, abs(g))
            assert abs(math.fsum(h.product for h in heard) - g) <= 1e-12 * max(1, abs(g))
            assert [abs(p.product) for p in paths] == sorted([abs(p.product) for p in paths], reverse=True)
            assert [abs(h.product) for h in heard] == sorted([abs(h.product) for h in heard], reverse=True)
            for p in paths: assert p.names[-1] == 'loss' and math.isclose(math.prod(p.factors), p.product, abs_tol=1e-300)

def test_too_many_numbers_and_too_many_paths_are_refused_in_words():
    large = m.trace(Sequential(Linear(20, 20, 0), ReLU(), Linear(20, 2, 0)), np.ones((2, 20)), [0, 1])
    with pytest.raises(ValueError, match='too many to follow one by one'): large.paths('w1', 0, 0)
    with pytest.raises(ValueError, match='fewer examples'): m.paths(xor_trace(), 'b1', (0,), most=3)
    with pytest.raises(ValueError, match="'w1'"): mazur().paths('w7', 0, 0)
    with pytest.raises(IndexError, match=r'\(2, 2\)'): mazur().paths('w1', 0, 5)

@given(st.sampled_from(['x', 'w1', 'b1', 'w2', 'b2']), st.floats(-3, 3), st.integers(0, 100))
def test_an_edit_equals_a_fresh_trace(name, value, at):
    t = xor_trace()
    index = np.unravel_index(at % t[name].size, t[name].shape)
    new, changes = t.edit(name, tuple(map(int, index)), value)
    x, model = BITS.copy(), xor_net()
    arrays = dict(x=x, w1=model.layers[0].w, b1=model.layers[0].b, w2=model.layers[2].w, b2=model.layers[2].b)
    arrays[name][index] = value
    fresh = m.trace(model, x, np.array([0, 1, 1, 0]))
    for k in fresh.values: assert (fresh[k] == new[k]).all()
    for k in fresh.grads: assert (fresh.grads[k] == new.grads[k]).all()
    told = {(c.what, c.where): (c.old, c.new) for c in changes}
    for what, old, now in (('value', t.values, new.values), ('gradient', t.grads, new.grads)):
        for k in old:
            for i in range(old[k].size):
                a, b = float(old[k].flat[i]), float(now[k].flat[i])
                assert (told.get((what, m.label(t, k, i))) == (a, b)) if a != b else ((what, m.label(t, k, i)) not in told)

def test_an_edit_greys_the_factors_that_do_not_depend_on_it():
    old = mazur()
    new, changes = old.edit('w2', (0, 1), 1.)
    slopes = {c.where for c in changes if c.what == 'slope'}
    assert slopes == {'h1[0, 0] → z2[0, 1]', 'z2[0, 1] → y[0, 1]', 'y[0, 1] → loss'}
    assert old['w2'][0, 1] == .5

@pytest.mark.parametrize('name, index, value', [('y', (0, 0), 1.), ('w1', (0, 9), 1.), ('w1', (0, 0), math.nan), ('w1', (0, 0), 'one'), ('w1', (0,), 1.), ('nobody', (), 1.)])
def test_an_edit_that_makes_no_sense_is_refused(name, index, value):
    with pytest.raises((ValueError, IndexError, TypeError), match='name|index|value|w1'): mazur().edit(name, index, value)

BLAME = {'drop a factor': ('relu_dx', 'tanh_dx'), 'forget a sum over the batch': ('linear_dw', 'add_db'), 'overwrite instead of add': ('linear_dx', 'matmul_da'),
         'skip a transpose': ('linear_dx', 'matmul_da'), 'wrong mask': ('relu_dx', None), 'forget the mean': ('cross_entropy_dx', None)}

def test_every_mistake_is_known_to_these_tests(): assert BLAME.keys() == m.faults.keys()

@pytest.mark.parametrize('name', BLAME)
def test_every_mistake_is_caught_and_named(name):
    t = xor_trace()
    assert t.check().ok
    with m.faults[name]():
        verdict = t.check()
        assert not verdict.ok and verdict.rule == BLAME[name][0] and verdict.rule in repr(verdict)
    assert t.check().ok and t.check().rule == ''
    if BLAME[name][1]:
        graph = m.trace(graph_loss(False)[0])
        with m.faults[name](): assert graph.check().rule == BLAME[name][1]

@pytest.mark.parametrize('name', BLAME)
def test_mistakes_in_a_large_net_are_named_though_few_numbers_are_asked(name):
    rng = np.random.default_rng(0)
    for n_in, n_hidden, n_out, n in [(40, 30, 5, 16), (30, 12, 4, 8)]:
        t = m.trace(Sequential(Linear(n_in, n_hidden, 0), ReLU(), Linear(n_hidden, n_out, 1)), rng.normal(size=(n, n_in)), np.arange(n) % n_out)
        for at_most in (1, 4):
            assert t.check(at_most).ok
            with m.faults[name](): assert t.check(at_most).rule == BLAME[name][0]

def test_a_lost_message_in_a_graph_is_blamed_on_the_meeting(monkeypatch):
    monkeypatch.setitem(m.meeting, 'add', lambda old, new: new)
    verdict = m.trace(graph_loss()[0]).check()
    assert verdict.rule == 'the sum of the messages at tanh1'

@pytest.mark.parametrize('name', BLAME)
def test_every_mistake_spoils_training_and_is_taken_back(name):
    t = xor_trace()
    right = m.rewind(t, lr=1, n_steps=60).losses[-1]
    with pytest.raises(KeyError):
        with m.faults[name]():
            wrong = m.rewind(t, lr=1, n_steps=60).losses[-1]
            assert wrong > 4 * right
            raise KeyError                                                # even an error takes it back
    assert m.rewind(t, lr=1, n_steps=60).losses[-1] == right

@pytest.mark.parametrize('name', BLAME)
def test_mistakes_reach_the_layers_of_the_package_too(name):
    model, target = xor_net(), np.array([0, 1, 1, 0])
    _, g = value_and_grad(cross_entropy, model(BITS), target)
    model.backward(g)
    right = model.grads.copy()
    with m.faults[name]():
        _, g = value_and_grad(cross_entropy, model(BITS), target)
        model.backward(g)
        t = m.trace(model, BITS, target)
        assert (model.grads == np.concatenate([t.grads[k].ravel() for k in t.weights])).all()
    if name != 'overwrite instead of add': assert not np.allclose(model.grads, right)

def test_a_gradient_at_a_corner_is_not_called_wrong():
    t = m.trace(Sequential(Linear(2, 3, 0), ReLU(), Linear(3, 2, 1), dtype=np.float64), BITS, [0, 1, 1, 0])
    assert (t['z1'][0] == 0).all() and t.check().ok                       # zeros before a ReLU

def test_nan_is_not_called_right():
    t = xor_trace()
    right = vjps[xor_net().layers[1].op]
    try:
        vjps[xor_net().layers[1].op] = lambda g, y, x: g * np.nan,
        assert not t.check().ok
    finally: vjps[xor_net().layers[1].op] = right

@pytest.mark.parametrize('make', [mazur, xor_trace, lambda: xor_trace(np.float32), lambda: m.trace(graph_loss()[0]),
                                  lambda: m.trace(Sequential(Linear(30, 30, 0), Dropout(.5, 1), Linear(30, 2, 0)), np.random.default_rng(0).normal(size=(3, 30)), [0, 1, 1])],
                         ids=['mazur', 'float64', 'float32', 'graph', 'large'])
def test_json_keeps_every_bit(make):
    t = make()
    text = t.to_json()
    again = m.from_json(text)
    for part in ('values', 'grads'):
        a, b = getattr(t, part), getattr(again, part)
        assert list(a) == list(b)
        for k in a: assert a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes()
    assert again.to_json() == text and again.title == t.title and again.n == t.n
    assert [c.op for c in again.calls] == [c.op for c in t.calls]
    moved, same = (u.edit(u.weights[0], (0,) * u[u.weights[0]].ndim, .5)[0] for u in (t, again))
    assert moved.loss == same.loss and again.check(2).ok

@pytest.mark.parametrize('a', [np.array([np.nan, np.inf, -np.inf, -0., 5e-324, 1/3]), np.float32([1e-45, 1/3, 3.4e38]), np.zeros((0, 3)), np.array(2.5), np.arange(5), np.random.default_rng(0).normal(size=700)])
def test_arrays_survive_json(a):
    b = m.unpacked(json.loads(json.dumps(m.packed(a), allow_nan=False)))
    assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()

@pytest.mark.parametrize('text', ['', '{', '[]', '{"format": "other"}', 'null'])
def test_other_text_is_no_trace(text):
    with pytest.raises(ValueError, match='text: '): m.from_json(text)

def test_an_operation_that_a_file_does_not_hold_can_be_looked_at():
    t = m.trace(Sequential(*NETS['residual']()), np.ones((6, 5)), LOSSES[cross_entropy])
    again = m.from_json(t.to_json())
    assert again.loss == t.loss
    with pytest.raises(RuntimeError, match='Residual'): again.edit('w1', (0, 0), 2.)

def test_the_page_holds_no_address_and_is_one_file():
    page = xor_trace().to_html(lr=1, n_steps=20)
    assert set(re.findall(r'\w+://[^\s"\'`)]+', page)) == {'http://www.w3.org/2000/svg'}       # the name of SVG
    assert not re.search(r'<(script|link|img)[^>]*\b(src|href)="(?!data:)', page) and '@import' not in page and 'url(' not in page
    assert len(page) < 300_000
    data = json.loads(re.search(r'id="scene">(.*?)</script>', page, re.S)[1])
    assert data['trace']['title'] == xor_trace().title and '<noscript><table>' in page

def test_the_example_that_the_readme_links_to_has_the_front_end_of_today():
    page = (ROOT/'images'/'microscope.html').read_text(encoding='utf-8')
    for part in (front_end('microscope.js'), style('microscope.css')):
        assert part in page, 'images/microscope.html is older than backprop_nb/static: python tools/draw_images.py writes it anew'

def test_a_name_cannot_break_out_of_the_page():
    t = xor_trace()
    t.title = '</script><script>alert(1)</script>'
    assert '<script>alert' not in t.to_html(n_steps=1)

def test_rewinding_gives_back_every_step_to_the_bit():
    model = xor_net()
    run = m.rewind(xor_trace(), lr=.5, n_steps=6)
    assert len(run) == len(run.losses) == 7
    for step in range(7):
        t = m.trace(model, BITS, np.array([0, 1, 1, 0]))
        assert run[step].loss == run.losses[step] == t.loss
        model.params = model.params - .5 * np.concatenate([t.grads[k].ravel() for k in t.weights])

@pytest.mark.parametrize('make', [lambda model: SGD(model, .3, momentum=.9), lambda model: Adam(model, .05)])
def test_an_optimizer_steps_as_it_does_in_training(make):
    model, target = xor_net(), np.array([0, 1, 1, 0])
    opt = make(model)
    run = m.rewind(m.trace(model, BITS, target), opt, n_steps=5)
    for step in range(5):
        value, g = value_and_grad(cross_entropy, model(BITS), target)
        assert run.losses[step] == value
        model.backward(g)
        opt.step()

def test_an_optimizer_starts_where_an_edit_has_put_the_weights():
    model = xor_net()
    new, _ = m.trace(model, BITS, np.array([0, 1, 1, 0])).edit('w1', (0, 0), 2.)
    run = m.rewind(new, SGD(model, .3), n_steps=3)
    assert run.losses == m.rewind(new, lr=.3, n_steps=3).losses and run[0]['w1'][0, 0] == 2

@pytest.mark.parametrize('name', BLAME)
def test_the_scene_holds_the_numbers_of_the_mistake(name):
    t = xor_trace()
    sent = next(f for f in m.scene(t, n_steps=2)['faults'] if f['name'] == name)
    with m.faults[name](): wrong = m.with_leaves(t, {})
    for k, g in wrong.grads.items(): assert (m.unpacked(sent['frame']['grads'][k]) == g).all()
    assert any((t.grads[k] != wrong.grads[k]).any() for k in t.grads) and sent['wrong'] and sent['words']

@given(st.one_of(st.floats(allow_nan=True), st.integers(-10**7, 10**7).map(float)))
def test_a_number_is_written_for_a_reader(v):
    text = m.shown(v)
    assert '-' not in text and len(text) < 14
    if math.isfinite(v) and v and '10' not in text: assert math.isclose(float(text.replace('−', '-')), v, rel_tol=6e-4)

@pytest.mark.parametrize('v, text', [(0, '0'), (-0., '0'), (3, '3'), (-2.5, '−2.5'), (1/3, '0.3333'), (1.0625, '1.063'), (123456.7, '1.235×10⁵'), (4.3857e-4, '4.386×10⁻⁴'), (1e-7, '10⁻⁷'), (1234.56, '1235'), (.99999, '1'), (1e6, '10⁶')])
def test_some_numbers(v, text): assert m.shown(v) == text

@pytest.mark.parametrize('what', [lambda: m.trace(3), lambda: m.trace(xor_net()), lambda: m.trace(xor_net(), BITS, [0, 1, 2, 0]), lambda: m.trace(xor_net(), BITS, [0, 1, 1, 0], loss=len),
                                  lambda: m.trace(Tensor([1., 2.]) * 2), lambda: m.rewind(xor_trace(), lr=0), lambda: m.rewind(xor_trace(), n_steps=-1), lambda: xor_trace().check(0)])
def test_what_cannot_be_traced_is_refused(what):
    with pytest.raises((TypeError, ValueError), match='model|x:|target|loss|lr|n_steps|at_most'): what()

# ------------------------------------------------------------------ the widget, without a browser

def test_the_widget_answers_what_it_is_asked():
    lens = m.backprop(xor_net(), BITS, np.array([0, 1, 1, 0]), lr=1, n_steps=10)
    lens.asked = dict(id=1, edits=[['w1', 0, 2.]], step=3, fault='wrong mask')
    reply = json.loads(lens.answer)
    assert reply['id'] == 1 and lens.error == ''
    with m.faults['wrong mask']():
        run = m.rewind(xor_trace().edit('w1', (0, 0), 2.)[0], lr=1, n_steps=10)
        assert reply['losses'] == run.losses and m.unpacked(reply['frame']['grads']['w1']).tolist() == run[3].grads['w1'].tolist()
        assert m.unpacked(reply['base']['values']['w1'])[0, 0] == m.rewind(xor_trace(), lr=1, n_steps=10)[3]['w1'][0, 0]
    lens.close()

@pytest.mark.parametrize('asked', [dict(edits=[['y', 0, 1.]]), dict(edits=[['w1', 99, 1.]]), dict(step=-1), dict(step=99), dict(fault='none such'), dict(what=1)])
def test_what_cannot_be_answered_is_said_in_the_panel(asked):
    lens = m.backprop(xor_trace(), n_steps=5)
    lens.asked = dict(id=1) | asked
    assert lens.error and lens.answer == ''
    lens.asked = dict(id=2)
    assert lens.error == '' and json.loads(lens.answer)['id'] == 2
    lens.close()

def test_the_notebook_keeps_a_picture_that_says_what_it_shows():
    for t in (xor_trace(), mazur(), m.trace(graph_loss()[0]), m.trace(Sequential(Linear(30, 9, 0), ReLU(), Linear(9, 4, 1)), np.ones((3, 30)), [0, 1, 2])):
        lens = m.backprop(t, n_steps=2)
        data = lens._repr_mimebundle_()[0]
        assert 'image/png' in data and '<img alt=' in data['text/html'] and len(data['text/plain'].split()) > 8
        assert data['text/plain'] == m.backprop(t, n_steps=2)._repr_mimebundle_()[0]['text/plain']
