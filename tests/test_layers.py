"""What page 4 promises: a walk back through any row of layers gives the right gradients, in two vectors that stay in one piece."""
import copy
import io
import pickle
import pydoc
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from project import ROOT

from backprop_nb import layers as module
from backprop_nb.backward import linear_db, linear_dw, linear_dx, vjps
from backprop_nb.forward import linear
from backprop_nb.layers import (ELU, GELU, Layer, LeakyReLU, Linear, Model, ReLU, Sequential, Sigmoid, Softmax, Softplus, Tanh, fast, fused,
                                he_normal, value_and_grad)
from backprop_nb.loss import binary_cross_entropy, cross_entropy, huber, mae, mse

activations = {'relu': ReLU, 'leaky': lambda: LeakyReLU(.2), 'elu': lambda: ELU(.7), 'gelu': GELU, 'softplus': Softplus, 'sigmoid': Sigmoid,
               'tanh': Tanh, 'softmax': Softmax}
smooth = ['gelu', 'softplus', 'sigmoid', 'tanh', 'softmax']
losses = [mse, mae, huber, binary_cross_entropy, cross_entropy]

each_activation = pytest.mark.parametrize('name', activations)
both_dtypes = pytest.mark.parametrize('dtype', ['float32', 'float64'])


@pytest.fixture
def rng(): return np.random.default_rng(0)


@pytest.fixture
def silence():
    "Every warning is an error; what is smaller than any float may round to 0"
    with np.errstate(all='raise', under='ignore'), warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


def small_net(rng=0, dtype=np.float64):
    rng = np.random.default_rng(rng)
    return Sequential(Linear(5, 4, rng), Tanh(), Linear(4, 3, rng), dtype=dtype)


def a_batch(rng, n=6, n_in=5, k=3): return rng.normal(size=(n, n_in)), rng.integers(0, k, n)


def walk(model, x, target, loss=cross_entropy, need_dx=False):
    "Forward and back: the loss, a copy of the gradients, and the gradient at the input"
    value, g = value_and_grad(loss, model(x), target)
    dx = model.backward(g, need_dx)
    return value, model.grads.copy(), dx


def arrays_of(model, name='grads'): return [a for layer in model.layers for a in getattr(layer, name)]


def snapshot(model):
    "All that a refused call must leave as it was"
    memory = [(None if l.y is None else l.y.tobytes(), None if l.args is None else [np.asarray(a).tobytes() for a in l.args]) for l in model.layers]
    return model.params.tobytes(), model.grads.tobytes(), memory


# --- PyTorch's values and gradients --------------------------------------------------------------------------------------------------

def theirs(layer, x, *params):
    "The same layer in PyTorch, on tensors"
    import torch
    import torch.nn.functional as F
    if isinstance(layer, Linear): return F.linear(x, params[0].T, params[1])
    table = {ReLU: F.relu, LeakyReLU: lambda x: F.leaky_relu(x, *layer.settings), ELU: lambda x: F.elu(x, *layer.settings),
             GELU: lambda x: F.gelu(x, approximate='tanh'), Softplus: lambda x: -F.logsigmoid(-x), Sigmoid: torch.sigmoid,
             Tanh: torch.tanh, Softmax: lambda x: F.softmax(x, -1)}
    return table[type(layer)](x)


def tensor(a, **kw):
    import torch
    return torch.tensor(a, **kw)


def their_walk(model, x, target, loss):
    "The loss, and the gradients of all parameters and of the input, by torch.autograd"
    import torch.nn.functional as F
    names = {mse: F.mse_loss, mae: F.l1_loss, huber: F.huber_loss, binary_cross_entropy: F.binary_cross_entropy_with_logits,
             cross_entropy: F.cross_entropy}
    y = x = tensor(x.astype(model.dtype), requires_grad=True)
    params = [[tensor(p, requires_grad=True) for p in layer.params] for layer in model.layers]
    for layer, ps in zip(model.layers, params): y = theirs(layer, y, *ps)
    value = names[loss](y, tensor(target if loss is cross_entropy else target.astype(model.dtype)))
    value.backward()
    return value.item(), [p.grad.numpy() for ps in params for p in ps], x.grad.numpy()


@pytest.mark.parametrize('shape', [(7, 5), (1, 5), (2, 6, 5), (1, 1, 5)], ids=str)
@pytest.mark.parametrize('name', ['linear', *activations])
def test_each_layer_has_pytorchs_values_and_gradients(name, shape, rng):
    pytest.importorskip('torch', reason='compares with PyTorch')
    layer = Linear(5, 4, rng) if name == 'linear' else activations[name]()
    if name == 'linear': layer.b = rng.normal(size=4)
    x = 3 * rng.normal(size=shape)
    y = layer(x)
    g = rng.normal(size=y.shape)
    dx = layer.backward(g)

    tx, tp = tensor(x, requires_grad=True), [tensor(p, requires_grad=True) for p in layer.params]
    ty = theirs(layer, tx, *tp)
    ty.backward(tensor(g))
    assert_allclose(y, ty.detach().numpy(), rtol=1e-9, atol=1e-13)
    assert_allclose(dx, tx.grad.numpy(), rtol=1e-9, atol=1e-13)
    assert len(layer.grads) == len(tp)
    for ours, p in zip(layer.grads, tp): assert_allclose(ours, p.grad.numpy(), rtol=1e-9, atol=1e-13)


@st.composite
def networks(draw, names=tuple(activations), dtypes=('float32', 'float64'), losses=tuple(losses)):
    "A model of any depth, widths, activations and dtype, a loss, and a batch that fits"
    widths = draw(st.lists(st.integers(1, 7), min_size=2, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    row = []
    for n_in, n_out in zip(widths, widths[1:]):
        row.append(Linear(n_in, n_out, rng))
        row[-1].b = rng.normal(size=n_out)
        row += [activations[name]() for name in draw(st.lists(st.sampled_from(names), max_size=2))]
    if draw(st.booleans()): row.insert(0, activations[draw(st.sampled_from(names))]())
    if row[-1].params == () and draw(st.booleans()): row.append(Linear(widths[-1], widths[-1], rng))
    loss, n = draw(st.sampled_from(losses)), draw(st.integers(1, 6))
    x = rng.normal(size=(n, widths[0]))
    target = rng.integers(0, widths[-1], n) if loss is cross_entropy else rng.random((n, widths[-1]))
    return Sequential(*row, dtype=draw(st.sampled_from(dtypes))), loss, x, target


@settings(max_examples=150)
@given(networks())
def test_any_network_has_pytorchs_gradients(network):
    pytest.importorskip('torch', reason='compares with PyTorch')
    model, loss, x, target = network
    value, _, dx = walk(model, x, target, loss, need_dx=True)
    their_value, their_grads, their_dx = their_walk(model, x, target, loss)
    tolerance = dict(rtol=1e-9, atol=1e-12) if model.dtype == np.float64 else dict(rtol=1e-4, atol=1e-5)
    assert_allclose(value, their_value, **tolerance)
    for layer_grads, peer in zip(arrays_of(model), their_grads): assert_allclose(layer_grads, peer, **tolerance)
    assert_allclose(dx, their_dx, **tolerance)
    assert dx.dtype == model.grads.dtype == model.dtype


def nudged_grads(model, loss, x, target, eps=1e-6):
    p, d = model.params, np.zeros_like(model.params)
    for i, value in enumerate(p.tolist()):
        p[i] = value + eps
        up = loss(model.predict(x), target)
        p[i] = value - eps
        d[i] = (up - loss(model.predict(x), target)) / (2*eps)
        p[i] = value
    return d


@settings(max_examples=80)
@given(networks(names=tuple(smooth), dtypes=('float64',), losses=(mse, binary_cross_entropy, cross_entropy)))
def test_any_smooth_network_agrees_with_nudges_array_by_array(network):
    model, loss, x, target = network
    walk(model, x, target, loss)
    ours, nudged = arrays_of(model), nudged_grads(model, loss, x, target)
    for i, (a, b) in enumerate(zip(ours, np.split(nudged, np.cumsum([a.size for a in ours])))):
        assert np.linalg.norm(a.ravel() - b) <= 1e-6 * np.linalg.norm(b) + 1e-8, f'array {i} of {model}'


@settings(max_examples=80)
@given(networks(dtypes=('float64',)))
def test_the_gradients_follow_the_layers_order_in_the_vector(network):
    model, loss, x, target = network
    walk(model, x, target, loss)
    for name in 'params', 'grads':
        assert_array_equal(np.concatenate([a.ravel() for a in arrays_of(model, name)]), getattr(model, name))


def test_fifty_layers_deep(rng):
    pytest.importorskip('torch', reason='compares with PyTorch')
    row = [layer for _ in range(50) for layer in (Linear(8, 8, rng), Tanh())]
    model = Sequential(*row, Linear(8, 3, rng), dtype=np.float64)
    x, target = a_batch(rng, n_in=8)
    _, _, dx = walk(model, x, target, need_dx=True)
    _, grads, their_dx = their_walk(model, x, target, cross_entropy)
    for ours, peer in zip(arrays_of(model), grads): assert_allclose(ours, peer, rtol=1e-8, atol=1e-12)
    assert_allclose(dx, their_dx, rtol=1e-8, atol=1e-12)


# --- what may come in ----------------------------------------------------------------------------------------------------------------

def guises(x):
    "The same numbers in other clothes"
    frozen, wide = x.copy(), np.zeros((2*len(x), 2*x.shape[1]))
    frozen.flags.writeable = False
    wide[::2, ::2] = x
    return {'list': x.tolist(), 'tuple': tuple(map(tuple, x.tolist())), 'strided': wide[::2, ::2], 'reversed': x[::-1, ::-1].copy()[::-1, ::-1],
            'Fortran': np.asfortranarray(x), 'read-only': frozen, 'big-endian': x.astype('>f8'), 'integer': x.astype(int), 'byte': x.astype('u1'),
            'big-endian integer': x.astype('>i2'), 'float16': x.astype('f2'), 'float32': x.astype('f4'), 'Fortran float32': np.asfortranarray(x, 'f4'),
            'repeated': np.broadcast_to(x[:1], x.shape)}


@both_dtypes
@pytest.mark.parametrize('guise', guises(np.ones((6, 5))))
def test_the_clothes_of_the_numbers_do_not_matter_and_nothing_is_written_to_them(guise, dtype, rng):
    x = rng.integers(0, 9, (6, 5)).astype(float)
    if guise == 'repeated': x = x[:1].repeat(6, 0)
    target = rng.integers(0, 3, 6)
    same = guises(x)[guise]
    model, plain = small_net(dtype=dtype), small_net(dtype=dtype)
    before = copy.deepcopy(same)
    ours, expected = walk(model, same, target, need_dx=True), walk(plain, x.astype(dtype), target, need_dx=True)
    model.params -= .1 * model.grads
    tolerance = 1e-12 if dtype == 'float64' else 1e-5
    for a, b in zip(ours, expected): assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    assert_allclose(model.predict(same), model.predict(x), rtol=tolerance)
    assert_array_equal(same, before)


@pytest.mark.parametrize('guise', [g for g in guises(np.ones((6, 3)))])
@pytest.mark.parametrize('loss', losses, ids=lambda f: f.__name__)
def test_the_clothes_of_outputs_and_targets_do_not_matter_to_the_loss(loss, guise, rng):
    y = rng.integers(0, 9, (6, 3)).astype(float)
    if guise == 'repeated': y = y[:1].repeat(6, 0)
    target = rng.integers(0, 3, 6) if loss is cross_entropy else rng.integers(0, 2, (6, 3)).astype(float)
    value, g = value_and_grad(loss, y, target)
    same = guises(y)[guise]
    before = copy.deepcopy(same)
    for t in [target, target.tolist(), target.astype(float), np.asfortranarray(target), target.astype('>f8'), np.repeat(target, 2, axis=0)[::2]]:
        same_value, same_g = value_and_grad(loss, same, t)
        tolerance = {'float16': 2e-3, 'float32': 1e-6, 'Fortran float32': 1e-6}.get(guise, 1e-12)
        assert_allclose(same_value, value, rtol=tolerance)
        assert_allclose(same_g, g, rtol=tolerance, atol=tolerance)
    assert_array_equal(same, before)


@both_dtypes
def test_the_message_may_be_a_list_and_is_not_written_to(dtype, rng):
    model = small_net(dtype=dtype)
    x, _ = a_batch(rng)
    y = model(x)
    g = rng.normal(size=y.shape).astype(dtype)
    g.flags.writeable = False
    model.backward(g)
    expected = model.grads.copy()
    for same in g.tolist(), np.asfortranarray(g), g.astype('>f8'):
        model.backward(same)
        assert_allclose(model.grads, expected, rtol=1e-5 if dtype == 'float32' else 1e-12)


@both_dtypes
def test_all_that_flows_has_the_models_dtype(dtype, rng):
    row = [layer for make in activations.values() for layer in (Linear(5, 5, rng), make())]
    model = Sequential(*row, dtype=dtype)
    _, _, dx = walk(model, *a_batch(rng, k=5), need_dx=True)
    flowing = [a for layer in model.layers for a in (layer.y, layer.args[0], *layer.params, *layer.grads)]
    assert {str(a.dtype) for a in [*flowing, dx, model.params, model.grads, model.predict(np.ones((2, 5)))]} == {dtype}
    assert model.dtype == dtype


@pytest.mark.parametrize('dtype', [np.float64, 'float64', np.dtype('float64'), float, 'f8', 'd'], ids=repr)
def test_a_dtype_may_be_named_in_any_way(dtype): assert small_net(dtype=dtype).params.dtype == np.float64


def test_float32_unless_asked(): assert Sequential(Linear(2, 2, 0)).dtype == np.float32


# --- repeatability -------------------------------------------------------------------------------------------------------------------

FINGERPRINT = '''
import hashlib
import numpy as np
from backprop_nb.layers import *
from backprop_nb.loss import cross_entropy
rng = np.random.default_rng(7)
model = Sequential(Linear(20, 30, rng), GELU(), Linear(30, 9, 3), ReLU(), Linear(9, 4, rng))
x, target = rng.normal(size=(16, 20)), rng.integers(0, 4, 16)
for _ in range(5):
    value, g = value_and_grad(cross_entropy, model(x), target)
    model.backward(g)
    model.params -= .1 * model.grads
found = hashlib.sha256(model.params.tobytes() + model.grads.tobytes()).hexdigest()
'''


def test_the_same_seed_gives_the_same_bits_also_in_another_process():
    here = {}
    exec(FINGERPRINT, here)
    again = {}
    exec(FINGERPRINT, again)
    there = subprocess.run([sys.executable, '-c', FINGERPRINT + 'print(found)'], cwd=ROOT, capture_output=True, text=True, check=True)
    assert here['found'] == again['found'] == there.stdout.strip()


def test_another_seed_gives_other_weights():
    assert_array_equal(Linear(4, 4, 0).w, Linear(4, 4, np.random.default_rng(0)).w)
    assert (Linear(4, 4, 0).w != Linear(4, 4, 1).w).all()
    rng = np.random.default_rng(0)
    assert (Linear(4, 4, rng).w != Linear(4, 4, rng).w).all(), 'two layers from one generator are two draws'


def test_he_normal_has_the_variance_that_it_names():
    for n_in in (10, 50, 200): assert_allclose(he_normal(n_in, 4000, np.random.default_rng(0)).var(), 2 / n_in, rtol=.02)


# --- two vectors and their views -----------------------------------------------------------------------------------------------------

def assert_whole(model):
    "Every array of a layer is a writable view of its place in the vectors, in order and without gaps"
    for name in 'params', 'grads':
        vector, at = getattr(model, name), 0
        assert vector.ndim == 1 and vector.flags.c_contiguous and vector.flags.writeable and vector.dtype == model.dtype
        for array in arrays_of(model, name):
            assert np.shares_memory(array, vector) and array.flags.c_contiguous and array.flags.writeable
            assert array.__array_interface__['data'][0] == vector.__array_interface__['data'][0] + at * vector.itemsize
            at += array.size
        assert at == vector.size


def train(model, n_steps=3):
    rng = np.random.default_rng(5)
    for _ in range(n_steps):
        walk(model, *a_batch(rng))
        model.params -= .1 * model.grads
    return model


@both_dtypes
def test_layers_and_vectors_share_memory_before_and_after_steps(dtype):
    model = small_net(dtype=dtype)
    assert_whole(model)
    p, g = model.params, model.grads
    train(model)
    assert_whole(model)
    assert model.params is p and model.grads is g, 'an optimizer may keep the vectors'


def test_parameters_move_into_the_vector_unchanged(rng):
    row = Linear(5, 4, rng), Tanh(), Linear(4, 3, rng)
    before = [p.copy() for layer in row for p in layer.params]
    model = Sequential(*row, dtype=np.float64)
    for a, b in zip(arrays_of(model, 'params'), before): assert_array_equal(a, b)
    assert not model.grads.any()


@pytest.mark.parametrize('twin', [copy.deepcopy, copy.copy, *(lambda m, p=p: pickle.loads(pickle.dumps(m, p)) for p in range(2, 6))],
                         ids=['deepcopy', 'copy', *(f'pickle {p}' for p in range(2, 6))])
@both_dtypes
@pytest.mark.parametrize('width', [4, 300], ids=['small', 'large'])
def test_a_twin_is_whole_and_lives_on_its_own(twin, dtype, width):
    model = train(Sequential(Linear(5, width, 0), Tanh(), Linear(width, 3, 0), dtype=dtype))
    other = twin(model)
    assert_whole(other)
    assert_whole(model)
    assert_array_equal(other.params, model.params)
    assert_array_equal(other.grads, model.grads)
    assert not np.shares_memory(other.params, model.params) and not np.shares_memory(other.grads, model.grads)
    assert not set(map(id, other.layers)) & set(map(id, model.layers))
    with pytest.raises(RuntimeError): other.backward(np.ones((6, 3)))
    before = model.params.copy()
    train(other)
    assert_array_equal(model.params, before)
    train(model)
    assert_array_equal(other.params, model.params)


def test_a_pickle_holds_no_batch():
    model = small_net()
    empty = len(pickle.dumps(model))
    model(np.ones((1000, 5)))
    assert len(pickle.dumps(model)) == empty


def test_what_is_assigned_to_a_vector_is_copied_in(rng):
    model = small_net()
    for name in 'params', 'grads':
        vector = getattr(model, name)
        new = rng.normal(size=vector.size)
        setattr(model, name, new)
        assert getattr(model, name) is vector
        assert_array_equal(vector, new)
        setattr(model, name, getattr(model, name)[::-1])
        assert_array_equal(vector, new[::-1])
        new[:] = 0
        assert vector.all()
        setattr(model, name, list(range(vector.size)))
        assert_array_equal(vector, np.arange(vector.size))
    assert_whole(model)
    model.params = model.params - model.grads
    assert_whole(model)
    assert not model.params.any()


def test_what_is_assigned_to_a_layer_is_copied_in(rng):
    model = small_net()
    layer = model.layers[0]
    w, b = rng.normal(size=(5, 4)), rng.normal(size=4)
    layer.w, layer.b = w, b
    assert_array_equal(model.params[:24], np.append(w, b))
    layer.w -= 1
    layer.b *= 2
    assert_array_equal(model.params[:24], np.append(w - 1, b * 2))
    assert_whole(model)


def test_an_array_of_a_layer_cannot_be_replaced(rng):
    model = small_net()
    for name in 'params', 'grads':
        with pytest.raises(TypeError): getattr(model.layers[0], name)[0] = np.zeros((5, 4))
    assert_whole(model)


@pytest.mark.parametrize('where', ['model.params', 'model.grads', 'layer.w', 'layer.b'])
@pytest.mark.parametrize('bad, kind', [('short', ValueError), ('column', ValueError), ('scalar', ValueError), ('text', TypeError), (None, TypeError),
                                       ('complex', TypeError), ('ragged', ValueError)], ids=str)
def test_parameters_of_another_shape_or_kind_are_refused(where, bad, kind):
    model = train(small_net())
    owner, name = {'model': model, 'layer': model.layers[0]}[where.split('.')[0]], where.split('.')[1]
    right = getattr(owner, name)
    wrong = {'short': np.zeros(right.size - 1), 'column': np.zeros((right.size, 1)), 'scalar': 1., 'text': 'abc', None: None,
             'complex': right * 1j, 'ragged': [[1, 2], [3]]}[bad]
    before = snapshot(model)
    with pytest.raises(kind, match=name) as e: setattr(owner, name, wrong)
    if bad in ('short', 'column', 'scalar'): assert str(right.shape) in str(e.value) and str(np.shape(wrong)) in str(e.value)
    assert snapshot(model) == before
    assert_whole(model)


def test_a_layer_belongs_to_one_model(rng):
    model = small_net()
    before = snapshot(model)
    for layer in model.layers:
        with pytest.raises(ValueError, match=re.escape(f'{layer!r} at place 0 belongs to another model')): Sequential(layer)
    with pytest.raises(ValueError, match='place 1'): Sequential(Tanh(), model.layers[0])
    assert snapshot(model) == before
    assert_whole(model)
    first = copy.deepcopy(model.layers[0])
    other = Sequential(first, Tanh(), dtype=np.float64)
    assert_whole(other)
    assert_whole(model)
    assert_array_equal(other.predict(np.ones((2, 5))), np.tanh(linear(np.ones((2, 5)), model.layers[0].w, model.layers[0].b)))


def test_a_refused_row_leaves_its_layers_free(rng):
    one, two = Linear(5, 4, rng), Linear(3, 2, rng)
    w = one.w
    for refused in [lambda: Sequential(one, two), lambda: Sequential(one, dtype='float16'), lambda: Sequential(one, one), lambda: Sequential(one, 3)]:
        with pytest.raises((TypeError, ValueError)): refused()
    assert one.w is w and not one.owned
    assert_whole(Sequential(one, Tanh()))


def test_initial_weights_that_somebody_keeps_are_not_shared():
    mine = np.ones((2, 3))
    layer = Linear(2, 3, 0, init=lambda *_: mine)
    layer.w -= 1
    assert mine.all()


def test_initial_weights_may_be_stored_in_any_order(rng):
    layer = Linear(3, 3, 0, init=lambda n_in, n_out, rng: np.asfortranarray(rng.normal(size=(n_in, n_out))))
    layer(np.ones((2, 3)))
    layer.backward(np.ones((2, 3)))
    assert_allclose(layer.grads[0], 2)
    assert_whole(Sequential(layer))


def test_a_row_without_parameters_is_a_model_too(rng):
    model = Sequential(Tanh(), ReLU(), dtype=np.float64)
    assert model.params.shape == model.grads.shape == (0,) and model.n_in is None
    x = rng.normal(size=(3, 4))
    assert_array_equal(model(x), np.maximum(np.tanh(x), 0))
    assert model.backward(np.ones((3, 4))) is None
    assert_allclose(model.backward(np.ones((3, 4)), need_dx=True), (1 - np.tanh(x)**2) * (x > 0))
    assert_whole(copy.deepcopy(model))


def test_a_model_of_layers_in_no_row_has_its_vectors_too(rng):
    model = Model([Linear(3, 2, rng), Linear(7, 5, rng)], dtype=np.float64)
    assert_whole(model)
    assert_whole(copy.deepcopy(model))
    assert model.params.size == 3*2 + 2 + 7*5 + 5


# --- walking forward and back --------------------------------------------------------------------------------------------------------

@both_dtypes
def test_predict_answers_the_same_and_remembers_nothing(dtype, rng):
    model = small_net(dtype=dtype)
    x, target = a_batch(rng)
    assert all(layer.y is None and layer.args is None for layer in model.layers)
    y = model.predict(x)
    assert all(layer.y is None and layer.args is None for layer in model.layers)
    assert_array_equal(model(x), y)
    before = snapshot(model)
    model.predict(2 * x[:2])
    for layer in model.layers: layer.predict(layer.args[0])
    assert snapshot(model) == before
    _, grads, _ = walk(model, x, target)
    g = value_and_grad(cross_entropy, model(x), target)[1]
    model.predict(x[::-1])
    model.backward(g)
    assert_array_equal(model.grads, grads)


def test_each_layer_remembers_the_very_array_of_the_one_before(rng):
    model = small_net()
    x, _ = a_batch(rng)
    y = model(x)
    assert model.layers[0].args[0] is x and model.layers[-1].y is y
    for one, two in zip(model.layers, model.layers[1:]): assert two.args[0] is one.y


def test_gradients_are_written_anew_at_each_walk_back(rng):
    model = small_net()
    x, target = a_batch(rng)
    _, first, _ = walk(model, x, target)
    walk(model, x[::-1] + 1, target)
    assert not np.allclose(model.grads, first)
    _, again, _ = walk(model, x, target)
    assert_array_equal(again, first)
    model.grads = np.full(model.grads.shape, 1e9)
    _, again, _ = walk(model, x, target)
    assert_array_equal(again, first)


def test_the_input_gradient_comes_on_request_only(rng):
    model = small_net()
    x, target = a_batch(rng)
    value, grads, nothing = walk(model, x, target)
    assert nothing is None
    _, same, dx = walk(model, x, target, need_dx=True)
    assert_array_equal(same, grads)
    assert dx.shape == x.shape
    v, eps = rng.normal(size=x.shape), 1e-6
    nudged = (cross_entropy(model.predict(x + eps*v), target) - cross_entropy(model.predict(x - eps*v), target)) / (2*eps)
    assert_allclose(np.vdot(dx, v), nudged, rtol=1e-6)
    assert model.layers[0].backward(np.ones((6, 4)), need_dx=False) is None


def test_no_gradient_is_computed_that_nobody_wants(rng, monkeypatch):
    seen = []
    def spy(g, y, x, w, b): seen.append(x.shape[1]); return linear_dx(g, y, x, w, b)
    monkeypatch.setitem(fast, linear_dx, spy)
    x = np.ones((2, 5))
    for model, below in [(Sequential(Linear(5, 4, rng), Tanh(), Linear(4, 3, rng)), [4]),
                         (Sequential(Tanh(), Softplus(), Linear(5, 4, rng), Tanh(), Linear(4, 3, rng)), [4])]:
        for need_dx, widths in (False, below), (True, [*below, 5]):
            seen.clear()
            model(x)
            model.backward(np.ones((2, 3)), need_dx)
            assert seen == widths


def test_backward_before_forward_is_refused(rng):
    model = small_net()
    model.predict(np.ones((6, 5)))
    with pytest.raises(RuntimeError, match='call the model on a batch first'): model.backward(np.ones((6, 3)))
    assert not model.grads.any()
    for layer in Linear(5, 4, rng), Tanh(), LeakyReLU(.3):
        with pytest.raises(RuntimeError, match=re.escape(repr(layer))): layer.backward(np.ones((6, 4)))


@pytest.mark.parametrize('g', [np.ones((5, 3)), np.ones((6, 1)), np.ones((1, 3)), np.ones(3), np.ones((6, 3, 1)), 1.], ids=np.shape)
def test_a_message_of_another_shape_is_refused(g, rng):
    model = train(small_net())
    model(np.ones((6, 5)))
    before = snapshot(model)
    with pytest.raises(ValueError, match='g: ') as e: model.backward(g)
    assert '(6, 3)' in str(e.value) and str(np.shape(g)) in str(e.value)
    assert snapshot(model) == before


@pytest.mark.parametrize('g', [None, 'abc', [['a'] * 3] * 6, np.ones((6, 3), complex), {}], ids=['None', 'text', 'texts', 'complex', 'dict'])
def test_a_message_that_is_not_made_of_numbers_is_refused(g, rng):
    model = train(small_net())
    model(np.ones((6, 5)))
    before = snapshot(model)
    with pytest.raises(TypeError, match='g: '): model.backward(g)
    assert snapshot(model) == before


def test_settings_reach_the_rules_and_are_not_learned(rng):
    x = np.array([[-2., 3]])
    for layer, y, dx in [(LeakyReLU(.25), [[-.5, 3]], [[.25, 1]]), (ELU(2.), [[2*np.expm1(-2), 3]], [[2*np.exp(-2), 1]])]:
        assert_allclose(layer(x), y)
        assert_allclose(layer.backward(np.ones((1, 2))), dx)
        assert layer.params == layer.grads == ()


def test_a_new_row_of_the_table_makes_a_new_layer(rng, monkeypatch):
    def scale(x, s): return x * s
    def scale_dx(g, y, x, s): return g * s
    def scale_ds(g, y, x, s, out=None): return np.sum(g * x, axis=0, out=out)
    monkeypatch.setitem(vjps, scale, (scale_dx, scale_ds))
    model = Sequential(Linear(5, 4, rng), Layer(scale, rng.normal(size=4)), Tanh(), Linear(4, 3, rng), dtype=np.float64)
    assert_whole(model)
    x, target = a_batch(rng)
    _, grads, _ = walk(model, x, target)
    assert_allclose(grads, nudged_grads(model, cross_entropy, x, target), rtol=1e-6, atol=1e-9)


# --- layers inside layers, buffers, and the switch ----------------------------------------------------------------------------------------

class Residual(Layer):
    "What its layers make of `x`, and `x` itself"
    def __init__(self, *layers):
        super().__init__(None)
        self.layers = layers

    def __call__(self, x):
        self.y = x
        for layer in self.layers: self.y = layer(self.y)
        self.y = self.y + x
        return self.y

    def predict(self, x):
        y = x
        for layer in self.layers: y = layer.predict(y)
        return y + x

    def backward(self, g, need_dx=True):
        d = g
        for layer in reversed(self.layers): d = layer.backward(d)
        return d + g

    def __repr__(self): return f"Residual({', '.join(map(repr, self.layers))})"


class Counting(Layer):
    "Hands `x` through, and counts in a buffer how many rows it saw while training"
    def __init__(self):
        super().__init__(np.tanh)
        self.buffers = np.zeros(3),

    def __call__(self, x):
        if self.training: self.buffers[0][:] += len(x)
        return super().__call__(x)


def nested(rng=0, dtype=np.float64):
    rng = np.random.default_rng(rng)
    return Sequential(Tanh(), Residual(Linear(5, 4, rng), Residual(Counting(), Linear(4, 4, rng)), Linear(4, 5, rng)), Linear(5, 3, rng), dtype=dtype)


@pytest.fixture
def tanh_rule(monkeypatch): monkeypatch.setitem(vjps, np.tanh, (lambda g, y, x: g * (1 - y*y),))


def parts_of(model): return list(module.every(model.layers))


def test_layers_inside_layers_live_in_the_vectors_too(rng, tanh_rule):
    model = nested()
    linears = [layer for layer in parts_of(model) if isinstance(layer, Linear)]
    assert len(linears) == 4 and model.params.size == model.grads.size == 5*4 + 4 + 4*4 + 4 + 4*5 + 5 + 5*3 + 3
    for twin in model, copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model)):
        at = 0
        for layer in parts_of(twin):
            for p, g in zip(layer.params, layer.grads):
                assert np.shares_memory(p, twin.params[at:at + p.size]) and np.shares_memory(g, twin.grads[at:at + p.size])
                at += p.size
        assert at == twin.params.size
        if twin is not model: assert not np.shares_memory(twin.params, model.params)
    x, target = a_batch(rng)
    _, grads, _ = walk(model, x, target)
    assert_allclose(grads, nudged_grads(model, cross_entropy, x, target), rtol=1e-5, atol=1e-9)
    _, same, dx = walk(model, x, target, need_dx=True)
    assert_array_equal(same, grads)
    assert dx.shape == x.shape


def test_layers_inside_layers_are_counted_and_belong_to_one_model_too(rng):
    model = nested()
    lines = model.summary().splitlines()
    assert [line.split()[-1] for line in lines] == ['parameters', '0', str(5*4 + 4 + 4*4 + 4 + 4*5 + 5), '18', str(model.params.size)]
    inner = model.layers[1].layers[0]
    with pytest.raises(ValueError, match=re.escape('Linear(5, 4) at place 0 belongs to another model')): Sequential(inner)
    with pytest.raises(ValueError, match='belongs to another model'): Sequential(Residual(inner))
    free = Linear(5, 5, rng)
    with pytest.raises(ValueError, match='place 1 .*again'): Sequential(free, Residual(free))
    with pytest.raises(ValueError, match='place 0 .*again'): Sequential(Residual(free, free))
    assert not free.owned


@both_dtypes
def test_buffers_are_kept_copied_and_never_learned(dtype, rng, tanh_rule):
    model = nested(dtype=dtype)
    x, target = a_batch(rng)
    walk(model, x, target)
    model.params -= model.grads
    assert model.buffers.tolist() == [6, 6, 6] and model.buffers.dtype == dtype
    twin = copy.deepcopy(model)
    model(x)
    model.predict(x)
    assert model.buffers.tolist() == [12]*3 and twin.buffers.tolist() == [6]*3
    vector = model.buffers
    model.buffers = [1, 2, 3]
    assert model.buffers is vector and np.shares_memory(vector, parts_of(model)[4].buffers[0])
    with pytest.raises(ValueError, match=r'buffers: .*\(3,\).*\(2,\)'): model.buffers = [1, 2]
    assert vector.tolist() == [1, 2, 3]
    assert small_net().buffers.shape == (0,)


def test_the_switch_reaches_every_layer(tanh_rule):
    model = nested()
    assert all(layer.training for layer in parts_of(model))
    assert model.eval() is model and not any(layer.training for layer in parts_of(model))
    model(np.ones((2, 5)))
    assert not model.buffers.any()
    assert not any(layer.training for layer in parts_of(copy.deepcopy(model)))
    assert model.train() is model and all(layer.training for layer in parts_of(model))
    model(np.ones((2, 5)))
    assert model.buffers.all()


# --- constructors --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('args', [(0, 3), (-1, 3), (2.5, 3), (2., 3), ('3', 3), (True, 3), (None, 3), (np.nan, 3), ((), 3), ([2], 3)], ids=str)
@pytest.mark.parametrize('turned', [False, True], ids=['n_in', 'n_out'])
def test_a_width_that_is_no_whole_number_from_1_is_refused(args, turned):
    bad, name = args[0], 'n_out' if turned else 'n_in'
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    with pytest.raises((TypeError, ValueError), match=f'{name}: .*{re.escape(repr(bad))}'): Linear(*(args[::-1] if turned else args), rng)
    assert rng.bit_generator.state == before, 'a refusal draws no random numbers'


@pytest.mark.parametrize('rng', [None, 1.5, 'seed', True, -1, np.random], ids=str)
def test_a_source_of_chance_that_is_none_is_refused(rng):
    with pytest.raises((TypeError, ValueError), match='rng: '): Linear(2, 3, rng)


@pytest.mark.parametrize('init, kind, fact', [
    ('he_normal', ValueError, "'he_normal'"), (None, ValueError, 'he_normal'), (3, ValueError, '3'),
    (lambda n_in, n_out, rng: np.ones((n_out, n_in)), ValueError, r'\(3, 2\).*\(2, 3\)'),
    (lambda n_in, n_out, rng: 0., ValueError, r'\(3, 2\).*\(\)'),
    (lambda n_in, n_out, rng: np.full((n_in, n_out), np.nan), ValueError, 'NaN'),
    (lambda n_in, n_out, rng: 'zeros', TypeError, 'str')], ids=['name', 'None', 'number', 'transposed', 'scalar', 'NaN', 'text'])
def test_an_init_that_does_not_make_weights_is_refused(init, kind, fact):
    with pytest.raises(kind, match=f'init: .*{fact}'): Linear(3, 2, 0, init=init)


@pytest.mark.parametrize('make, bad', [(LeakyReLU, -.1), (LeakyReLU, 1.1), (LeakyReLU, np.nan), (LeakyReLU, 'a'), (LeakyReLU, None), (LeakyReLU, True),
                                       (ELU, 0), (ELU, -1.), (ELU, np.inf), (ELU, np.nan), (ELU, '1'), (ELU, None)],
                         ids=lambda v: getattr(v, '__name__', str(v)))
def test_a_setting_out_of_its_range_is_refused(make, bad):
    with pytest.raises((TypeError, ValueError), match=f"{'slope' if make is LeakyReLU else 'alpha'}: .*{re.escape(repr(bad))}"): make(bad)


@pytest.mark.parametrize('dtype', ['float61', 'float16', 'int64', np.int32, bool, complex, 'f2', None, 3, []], ids=str)
def test_a_dtype_other_than_the_two_is_refused_with_their_names(dtype):
    with pytest.raises(ValueError, match="dtype: .*'float32', 'float64'") as e: Sequential(Linear(2, 2, 0), dtype=dtype)
    if isinstance(dtype, str) and dtype != 'f2': assert dtype in str(e.value)


@pytest.mark.parametrize('row, kind, fact', [
    ([], TypeError, 'at least one'),
    ([None], TypeError, 'place 0.*None'),
    ([Linear(2, 2, 0), 'relu'], TypeError, "place 1.*'relu'"),
    ([Linear(2, 2, 0), ReLU], TypeError, 'class ReLU; call it'),
    ([[Linear(2, 2, 0)]], TypeError, 'place 0'),
    ([np.tanh], TypeError, 'tanh'),
    ([Linear(4, 3, 0), ReLU(), Linear(2, 1, 0)], ValueError, r'Linear\(4, 3\) gives 3 features, but Linear\(2, 1\) takes 2'),
    ([Linear(2, 3, 0), Linear(3, 4, 0), Linear(5, 4, 0)], ValueError, r'Linear\(3, 4\) gives 4 .* Linear\(5, 4\) takes 5'),
    ([*2*[Linear(2, 2, 0)]], ValueError, r'Linear\(2, 2\) at place 1 .*again')], ids=range(9))
def test_layers_that_do_not_make_a_row_are_refused(row, kind, fact):
    with pytest.raises(kind, match=f'layers: .*{fact}'): Sequential(*row)


# --- batches -------------------------------------------------------------------------------------------------------------------------

class Sparse:
    "What looks like a sparse matrix"
    shape = 6, 5
    def toarray(self): return np.ones((6, 5))


def spoilt(value):
    x = np.ones((6, 5))
    x[2, 3] = value
    return x


@pytest.mark.parametrize('x, kind, fact', [
    (spoilt(np.nan), ValueError, 'NaN at row 2, column 3'), (spoilt(np.inf), ValueError, 'infinity at row 2, column 3'),
    (spoilt(-np.inf), ValueError, 'infinity'), (np.full((6, 5), 1e39), ValueError, 'infinity'),
    (np.ones((6, 4)), ValueError, '5 features .* 4'), (np.ones((6, 6)), ValueError, '5 features .* 6'),
    (np.ones(5), ValueError, r'2-D .*\(5,\).*reshape\(1, -1\)'), (np.ones((1, 6, 5)), ValueError, r'2-D .*\(1, 6, 5\)'), (1., ValueError, r'2-D .*\(\)'),
    (np.ones((0, 5)), ValueError, r'empty.*\(0, 5\)'), (np.ones((6, 0)), ValueError, r'\(6, 0\)'), ([], ValueError, r'\(0,\)'),
    ([[1, 2], [3]], ValueError, 'ragged'), ('text', TypeError, 'real numbers.*str'), ([['a']*5], TypeError, 'real numbers'),
    (np.array([['a']*5]*6, object), TypeError, 'object'), (np.full((6, 5), None), ValueError, 'NaN'), (np.full((6, 5), '2020-01-01', 'M8[D]'), TypeError, 'datetime'),
    (np.ones((6, 5), complex), TypeError, 'complex'), (None, TypeError, 'NoneType'), (Sparse(), TypeError, 'sparse.*toarray'), ({'a': 1}, TypeError, 'dict')],
    ids=['NaN', 'inf', '-inf', 'too large', 'narrow', 'wide', '1-D', '3-D', '0-D', 'no rows', 'no columns', 'empty list', 'ragged', 'text', 'texts',
         'objects', 'Nones', 'dates', 'complex', 'None', 'sparse', 'dict'])
@pytest.mark.parametrize('how', ['call', 'predict'])
def test_a_bad_batch_is_refused_and_nothing_has_changed(how, x, kind, fact):
    model = train(small_net(dtype=np.float32))
    before, kept = snapshot(model), copy.deepcopy(x)
    with pytest.raises(kind, match=f'x: .*{fact}'): (model if how == 'call' else model.predict)(x)
    assert snapshot(model) == before
    if isinstance(x, np.ndarray): assert_array_equal(x, kept)


def test_a_row_that_starts_with_an_activation_still_knows_its_width():
    model = Sequential(Tanh(), Linear(5, 4, 0), ReLU(), Linear(4, 2, 0), Softmax())
    assert (model.n_in, model.n_out) == (5, 2)
    with pytest.raises(ValueError, match='5 features'): model(np.ones((3, 4)))


# --- losses --------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('loss', losses, ids=lambda f: f.__name__)
@both_dtypes
def test_value_and_grad_are_the_loss_and_its_rule(loss, dtype, rng):
    y = rng.normal(size=(6, 3)).astype(dtype)
    target = rng.integers(0, 3, 6) if loss is cross_entropy else rng.random((6, 3)).astype(dtype)
    value, g = value_and_grad(loss, y, target)
    tolerance = dict(rtol=1e-12, atol=1e-15) if dtype == 'float64' else dict(rtol=1e-5, atol=1e-7)
    assert type(value) is float
    assert_allclose(value, loss(y, target), **tolerance)
    assert_allclose(g, vjps[loss][0](1, loss(y, target), y, target), **tolerance)
    assert g.shape == y.shape and g.dtype == dtype and not np.shares_memory(g, y)


@pytest.mark.parametrize('target, kind, fact', [
    ([0, 1], ValueError, r'\(3,\).*\(2,\)'), ([[0], [1], [2]], ValueError, r'\(3, 1\)'), (0, ValueError, r'\(\)'),
    ([0, -1, 2], ValueError, '0 to 3 .*-1'), ([0, 4, 2], ValueError, '0 to 3 .*4'), ([0, 2**40, 2], ValueError, str(2**40)),
    ([0, .5, 2], ValueError, 'whole numbers.*0.5'), ([0, np.nan, 2], ValueError, 'NaN'), ([0, np.inf, 2], ValueError, 'infinity'),
    (['a', 'b', 'c'], TypeError, 'real numbers'), (None, TypeError, 'NoneType'), ([1j, 0, 0], TypeError, 'complex'), ([[0, 1], [2]], ValueError, 'ragged')],
    ids=['short', 'column', 'scalar', 'negative', 'too large', 'huge', 'fraction', 'NaN', 'infinity', 'text', 'None', 'complex', 'ragged'])
def test_labels_that_do_not_fit_are_refused(target, kind, fact):
    y = np.zeros((3, 4))
    with pytest.raises(kind, match=f'target: .*{fact}'): value_and_grad(cross_entropy, y, target)
    assert not y.any()


@pytest.mark.parametrize('loss', [mse, mae, huber, binary_cross_entropy], ids=lambda f: f.__name__)
@pytest.mark.parametrize('target, kind, fact', [
    (np.zeros(4), ValueError, r'\(3, 4\).*\(4,\)'), (np.zeros(3), ValueError, r'\(3, 4\).*\(3,\)'), (np.zeros((1, 4)), ValueError, r'\(1, 4\)'),
    (np.zeros((3, 1)), ValueError, r'\(3, 1\)'), (np.zeros((4, 3)), ValueError, r'\(4, 3\)'), (0., ValueError, r'\(\)'),
    (np.full((3, 4), np.nan), ValueError, 'NaN'), ([['a']*4]*3, TypeError, 'real numbers'), (None, TypeError, 'NoneType')],
    ids=['row', 'vector', 'one row', 'column', 'transposed', 'scalar', 'NaN', 'text', 'None'])
def test_values_that_do_not_fit_are_refused(loss, target, kind, fact):
    with pytest.raises(kind, match=f'target: .*{fact}'): value_and_grad(loss, np.zeros((3, 4)), target)


def test_a_vector_of_targets_fits_a_single_output():
    y = np.array([[1.], [2], [3]])
    value, g = value_and_grad(mse, y, [1, 0, 3])
    assert_allclose(value, 4/3)
    assert_allclose(g, [[0], [4/3], [0]])


@pytest.mark.parametrize('loss', ['mse', None, 3, np.mean, lambda y, target: 0.], ids=['name', 'None', 'number', 'mean', 'lambda'])
def test_an_unknown_loss_is_refused_with_the_names_of_those_we_have(loss):
    with pytest.raises(ValueError, match='loss: .*cross_entropy, mse, mae, huber, binary_cross_entropy'): value_and_grad(loss, np.ones((2, 2)), np.ones((2, 2)))


@pytest.mark.parametrize('loss', losses, ids=lambda f: f.__name__)
def test_outputs_without_rows_are_refused(loss):
    target = np.zeros(0, int) if loss is cross_entropy else np.zeros((0, 3))
    with pytest.raises(ValueError, match=r'y: .*empty.*\(0, 3\)'): value_and_grad(loss, np.zeros((0, 3)), target)


@pytest.mark.parametrize('loss', losses, ids=lambda f: f.__name__)
def test_a_missing_output_is_never_a_finite_loss(loss):
    y = np.ones((3, 4))
    y[1, 2] = np.nan
    value, g = value_and_grad(loss, y, [0, 1, 2] if loss is cross_entropy else np.zeros((3, 4)))
    assert np.isnan(value) and np.isnan(g[1, 2])


def test_a_loss_of_ones_own_needs_a_row_and_no_more(monkeypatch):
    def fourth(x, target): return ((x - target)**4).mean()
    monkeypatch.setitem(vjps, fourth, (lambda g, y, x, target: 4 * g / x.size * (x - target)**3,))
    value, g = value_and_grad(fourth, np.array([[2., 1]]), [[0, 1]])
    assert value == 8 and g.tolist() == [[16, 0]]
    with pytest.raises(ValueError, match='target: '): value_and_grad(fourth, np.ones((2, 2)), np.ones(2))


@pytest.mark.parametrize('k', [2, 10, 27])
def test_an_untrained_net_with_output_weights_of_zero_has_the_loss_of_chance(k, rng):
    model = Sequential(Linear(5, 7, rng), Tanh(), Linear(7, k, rng, init=lambda n_in, n_out, rng: np.zeros((n_in, n_out))), dtype=np.float64)
    x, target = a_batch(rng, k=k)
    value, _, _ = walk(model, x, target)
    assert_allclose(value, np.log(k), rtol=1e-15)
    assert not any(g.any() for g in model.layers[0].grads) and model.layers[2].grads[0].any()


def test_a_tiny_batch_is_learned_by_heart(rng):
    model = Sequential(Linear(5, 16, rng), ReLU(), Linear(16, 3, rng))
    x, target = a_batch(rng, n=12)
    for _ in range(400):
        value, _, _ = walk(model, x, target)
        model.params -= .5 * model.grads
    assert value < .02 and (model.predict(x).argmax(axis=1) == target).all()


# --- spelled for speed ---------------------------------------------------------------------------------------------------------------

def test_the_quick_spellings_are_those_we_know():
    assert set(fast) == {linear, linear_dx, linear_dw, linear_db} and set(fused) == {cross_entropy}


@both_dtypes
@pytest.mark.parametrize('layout', ['C', 'F', 'strided'])
@pytest.mark.parametrize('shape', [(5,), (1, 5), (9, 5), (2, 4, 5), (2, 1, 4, 5), (0, 5)], ids=str)
def test_fast_equals_the_clear_functions(shape, layout, dtype, rng):
    def put(a):
        a = a.astype(dtype)
        return {'C': a, 'F': np.asfortranarray(a), 'strided': np.repeat(a, 2, axis=-1)[..., ::2]}[layout]
    x, w, b, g = put(rng.normal(size=shape)), put(rng.normal(size=(5, 4))), put(rng.normal(size=4)), put(rng.normal(size=(*shape[:-1], 4)))
    for a in x, w, b, g: a.flags.writeable = False
    tolerance = dict(rtol=1e-12, atol=1e-13) if dtype == 'float64' else dict(rtol=1e-4, atol=1e-5)
    assert_allclose(fast[linear](x, w, b), linear(x, w, b), **tolerance)
    for rule, like in zip(vjps[linear], (x, w, b)):
        clear, quick = rule(g, None, x, w, b), fast[rule](g, None, x, w, b)
        assert quick.shape == like.shape and quick.dtype == dtype
        assert_allclose(quick, clear, **tolerance)
        if rule is not linear_dx:
            out = np.full(like.shape, 7, dtype)
            assert fast[rule](g, None, x, w, b, out=out) is out
            assert_array_equal(out, quick)


@both_dtypes
@pytest.mark.parametrize('layout', ['C', 'F', 'strided'])
@pytest.mark.parametrize('shape', [(4,), (1, 4), (9, 4), (2, 5, 4), (3, 1, 2, 4), (6, 1)], ids=str)
@pytest.mark.parametrize('scale', [1e-3, 1., 1e3])
def test_fused_equals_the_clear_functions(shape, layout, dtype, scale, rng):
    y = (scale * rng.normal(size=shape)).astype(dtype)
    y = {'C': y, 'F': np.asfortranarray(y), 'strided': np.repeat(y, 2, axis=-1)[..., ::2]}[layout]
    target = np.asarray(rng.integers(0, shape[-1], shape[:-1]))
    before = y.copy()
    for loss in fused:
        value, g = value_and_grad(loss, y, target)
        tolerance = dict(rtol=1e-11, atol=1e-15) if dtype == 'float64' else dict(rtol=1e-4, atol=1e-6)
        assert_allclose(value, loss(y, target), **tolerance)
        assert_allclose(g, vjps[loss][0](1, value, y, target), **tolerance)
        assert g.shape == y.shape and g.dtype == dtype
    assert_array_equal(y, before)


def test_emptying_the_tables_for_speed_changes_nothing_else(rng, monkeypatch):
    model, plain = small_net(), small_net()
    x, target = a_batch(rng)
    quick = walk(model, x, target, need_dx=True)
    monkeypatch.setattr(module, 'fast', {})
    monkeypatch.setattr(module, 'fused', {})
    for a, b in zip(quick, walk(plain, x, target, need_dx=True)): assert_allclose(a, b, rtol=1e-12, atol=1e-15)


# --- far out -------------------------------------------------------------------------------------------------------------------------

@each_activation
@both_dtypes
def test_extreme_sums_pass_every_activation_without_a_warning(name, dtype, silence):
    x = np.array([[-1e4, -100, -1, 0, 1, 100, 1e4], [1e4]*7, [-1e4]*7])
    model = Sequential(activations[name](), dtype=dtype)
    assert np.isfinite(model(x)).all()
    assert np.isfinite(model.backward(np.ones_like(x), need_dx=True)).all()


@pytest.mark.parametrize('loss', losses, ids=lambda f: f.__name__)
@both_dtypes
def test_extreme_logits_have_a_finite_loss_and_gradient_without_a_warning(loss, dtype, silence):
    y = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]], dtype)
    target = np.array([1, 0, 2]) if loss is cross_entropy else np.array([[0., 1, 1], [1, 0, 1], [0, 0, 0]])
    value, g = value_and_grad(loss, y, target)
    assert np.isfinite(value) and value > 1000 and np.isfinite(g).all()
    if loss is cross_entropy: assert_allclose(g, np.array([[1, -1, 0], [-1, .5, .5], [1/3, 1/3, -2/3]]) / 3, atol=1e-6)


@both_dtypes
def test_a_sure_and_right_answer_has_no_loss_and_no_gradient(dtype, silence):
    value, g = value_and_grad(cross_entropy, np.array([[1e4, -1e4], [-1e4, 1e4]], dtype), [0, 1])
    assert value == 0 and not g.any()


def test_a_forbidden_class_gets_no_gradient(silence):
    value, g = value_and_grad(cross_entropy, np.array([[0., 0, -np.inf]]), [0])
    assert_allclose(value, np.log(2))
    assert_allclose(g, [[-.5, .5, 0]])


# --- words ---------------------------------------------------------------------------------------------------------------------------

def test_repr_says_how_the_model_was_made():
    model = Sequential(Linear(4, 3, 0), LeakyReLU(.2), ELU(1), Linear(3, 2, 0), Softmax())
    assert repr(model) == 'Sequential(Linear(4, 3), LeakyReLU(0.2), ELU(1.0), Linear(3, 2), Softmax())'
    assert repr(Layer(np.tanh)) == 'Layer(tanh)'


def test_summary_counts_parameters_in_aligned_lines():
    text = Sequential(ReLU(), Linear(784, 128, 0), GELU(), Linear(128, 10, 0)).summary()
    assert repr(text) == str(text)
    lines = text.splitlines()
    assert len(set(map(len, lines))) == 1
    assert [line.split()[-1] for line in lines] == ['parameters', '0', '100,480', '0', '1,290', '101,770']
    assert [re.search(r'\(n, (\w+)\)', line)[1] for line in lines[1:-1]] == ['784', '128', '128', '10']
    assert lines[2].startswith('Linear(784, 128)')


@pytest.mark.parametrize('widths, count', [((3, 4, 2), 26), ((3, 4, 4, 1), 41), ((784, 16, 16, 10), 13_002), ((784, 30, 10), 23_860), ((784, 100, 10), 79_510)],
                         ids=str)
def test_published_numbers_of_parameters(widths, count):
    model = Sequential(*[Linear(a, b, 0) for a, b in zip(widths, widths[1:])])
    assert model.params.size == count and model.summary().endswith(f'{count:,}')


def test_help_tells_the_shapes():
    def helped(thing):
        text = io.StringIO()
        pydoc.Helper(output=text)(thing)
        return text.getvalue()
    for shape in '(n, n_in)', '(n_in, n_out)', '(n_out,)', '(n, n_out)': assert shape in helped(Linear)
    for shape in '(n, n_in)', '(n, n_out)':
        assert shape in helped(Sequential.__call__) + helped(Sequential.predict)


def test_every_public_name_has_a_docstring():
    for name in module.__all__:
        thing = getattr(module, name)
        if callable(thing): assert thing.__doc__ and thing.__doc__ != dict.__doc__, name
    for cls in Layer, Linear, Model, Sequential:
        for name, thing in vars(cls).items():
            if not name.startswith('_') and (callable(thing) or isinstance(thing, property)): assert thing.__doc__, f'{cls.__name__}.{name}'
