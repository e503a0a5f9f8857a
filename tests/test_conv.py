"Patches are copies and their rule adds up; convolution and pooling agree with PyTorch; what does not fit is refused"
import copy
import inspect
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb import conv
from backprop_nb.backward import check_vjp, vjps
from backprop_nb.conv import *
from backprop_nb.data import load_digits, split
from backprop_nb.layers import Linear, ReLU, Sequential, Tanh, value_and_grad
from backprop_nb.loss import cross_entropy
from backprop_nb.optim import Adam
from backprop_nb.train import accuracy, fit

OPS = {pad: (2,), patches: (2, 1, 1), max_pool: (2,), avg_pool: (2,), image: (4, 5, 1), flatten: ()}
every_op = pytest.mark.parametrize('op', OPS, ids=lambda op: op.__name__)

def numbers(shape, seed=0): return np.random.default_rng(seed).normal(size=shape)

def integers(shape, seed=0): return np.random.default_rng(seed).integers(-9, 10, shape)

@st.composite
def windows(draw):
    "A shape of images (n, h, w, c), and a window, stride and padding that fit them"
    n, h, w, c = (draw(st.integers(1, top)) for top in (3, 8, 8, 3))
    padding = draw(st.integers(0, 3))
    return (n, h, w, c), draw(st.integers(1, min(h, w) + 2*padding)), draw(st.integers(1, 4)), padding

@st.composite
def pools(draw):
    "A shape of images, and the side of a window that fits them"
    n, h, w, c = (draw(st.integers(1, top)) for top in (3, 9, 9, 3))
    return (n, h, w, c), draw(st.integers(1, min(h, w)))

def slow_patches(x, k, stride, padding):
    "Every window, found one at a time"
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    tops, lefts = (range(0, side - k + 1, stride) for side in x.shape[1:3])
    return np.array([[[image[i:i+k, j:j+k].ravel() for j in lefts] for i in tops] for image in x])

# the operations

@every_op
def test_every_op_has_a_rule_named_after_its_input(op):
    rule, = vjps[op]
    assert rule.__name__ == f'{op.__name__}_dx' and getattr(conv, rule.__name__) is rule
    names = list(inspect.signature(rule).parameters)
    assert names == ['g', 'y', *inspect.signature(op).parameters]

@every_op
def test_every_rule_is_the_derivative_of_its_op(op):
    x = numbers((3, 20)) if op is image else numbers((3, 4, 5, 2))
    check_vjp(op, x, *OPS[op])

@given(windows())
def test_patches_are_the_windows_at_every_place(case):
    shape, *settings = case
    x = integers(shape)
    assert_array_equal(patches(x, *settings), slow_patches(x, *settings))

@given(windows())
def test_as_many_places_as_the_formula_says(case):
    (n, h, w, c), *settings = case
    assert patches(np.zeros((n, h, w, c)), *settings).shape == (n, n_places(h, *settings), n_places(w, *settings), settings[0]**2 * c)

@given(windows())
def test_patches_dx_is_the_exact_transpose_of_patches(case):
    shape, *settings = case
    x = integers(shape)
    y = patches(x, *settings)
    g = integers(y.shape, 1)
    d = patches_dx(g, y, x, *settings)
    assert d.shape == x.shape
    assert np.vdot(g, y) == np.vdot(d, x)

@given(windows())
def test_check_vjp_passes_patches(case):
    shape, *settings = case
    check_vjp(patches, numbers(shape), *settings)

@given(pools())
def test_pooling_drops_what_is_left_over_and_passes_check_vjp(case):
    (n, h, w, c), k = case
    x = numbers((n, h, w, c))
    for op, reduce in (max_pool, np.max), (avg_pool, np.mean):
        y = op(x, k)
        assert y.shape == (n, h // k, w // k, c)
        assert_allclose(y[0, -1, -1, 0], reduce(x[0, (h//k - 1)*k:h//k * k, (w//k - 1)*k:w//k * k, 0]), rtol=1e-12)
        check_vjp(op, x, k)

@given(pools())
def test_a_maximum_gives_all_of_its_message_to_one_pixel_even_among_equals(case):
    (n, h, w, c), k = case
    x = np.random.default_rng(0).integers(0, 2, (n, h, w, c)).astype(float)
    y = max_pool(x, k)
    d = max_pool_dx(np.ones_like(y), y, x, k)
    assert ((d == 0) | (d == 1)).all() and d.sum() == y.size

def test_a_maximum_of_minus_infinities_still_has_a_winner():
    x = np.full((1, 2, 2, 1), -np.inf)
    assert max_pool(x, 2).item() == -np.inf
    assert_array_equal(max_pool_dx(np.ones((1, 1, 1, 1)), None, x, 2).ravel(), [1, 0, 0, 0])

@pytest.mark.parametrize('op', OPS, ids=lambda op: op.__name__)
def test_float32_stays_float32(op):
    x = (numbers((3, 20)) if op is image else numbers((3, 4, 5, 2))).astype(np.float32)
    y = op(x, *OPS[op])
    assert y.dtype == np.float32
    assert vjps[op][0](np.ones_like(y), y, x, *OPS[op]).dtype == np.float32

@every_op
def test_ops_and_rules_leave_their_arguments_as_they_were(op):
    x = numbers((3, 20)) if op is image else numbers((3, 4, 5, 2))
    y = op(x, *OPS[op])
    g = numbers(y.shape, 1)
    kept = [a.copy() for a in (x, y, g)]
    vjps[op][0](g, y, x, *OPS[op])
    for a, before in zip((x, y, g), kept): assert_array_equal(a, before)

# against PyTorch, whose images are (n, c, h, w) and whose kernels are (c_out, c_in, k, k)

def to_torch(torch, x): return torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)

def from_torch(t): return np.moveaxis(t.detach().numpy(), 1, -1)

@pytest.mark.parametrize('padding', [0, 1, 3])
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('k', [1, 2, 3, 5])
@pytest.mark.parametrize('shape, c_out', [((2, 7, 6, 3), 4), ((1, 5, 9, 1), 2)], ids=str)
def test_conv_agrees_with_pytorch(shape, c_out, k, stride, padding):
    torch = pytest.importorskip('torch', reason='the comparison needs PyTorch')
    layer, x = Conv(shape[3], c_out, k, 0, stride, padding), numbers(shape)
    layer.b = numbers(c_out, 1)
    tx = to_torch(torch, x)
    tw = torch.tensor(layer.w.reshape(k, k, shape[3], c_out).transpose(3, 2, 0, 1).copy(), requires_grad=True)
    tb = torch.tensor(layer.b.copy(), requires_grad=True)
    ty = torch.nn.functional.conv2d(tx, tw, tb, stride, padding)
    y = layer(x)
    assert_allclose(y, from_torch(ty), rtol=1e-9, atol=1e-9)
    g = numbers(y.shape, 2)
    ty.backward(torch.tensor(np.moveaxis(g, -1, 1).copy()))
    assert_allclose(layer.backward(g), from_torch(tx.grad), rtol=1e-9, atol=1e-9)
    dw, db = layer.grads
    assert_allclose(dw.reshape(k, k, shape[3], c_out), tw.grad.numpy().transpose(2, 3, 1, 0), rtol=1e-9, atol=1e-9)
    assert_allclose(db, tb.grad.numpy(), rtol=1e-9, atol=1e-9)

@pytest.mark.parametrize('ties', [False, True], ids=['distinct', 'ties'])
@pytest.mark.parametrize('k', [1, 2, 3, 5])
@pytest.mark.parametrize('layer, name', [(MaxPool, 'max_pool2d'), (AvgPool, 'avg_pool2d')], ids=['max', 'avg'])
def test_pooling_agrees_with_pytorch_also_among_equals(layer, name, k, ties):
    torch = pytest.importorskip('torch', reason='the comparison needs PyTorch')
    x = np.random.default_rng(0).integers(0, 2, (3, 9, 7, 4)).astype(float) if ties else numbers((3, 9, 7, 4))
    layer, tx = layer(k), to_torch(torch, x)
    ty = getattr(torch.nn.functional, name)(tx, k)
    y = layer(x)
    assert_allclose(y, from_torch(ty), rtol=1e-9, atol=1e-9)
    g = numbers(y.shape, 2)
    ty.backward(torch.tensor(np.moveaxis(g, -1, 1).copy()))
    assert_allclose(layer.backward(g), from_torch(tx.grad), rtol=1e-9, atol=1e-9)

def test_patches_agree_with_pytorchs_unfold():
    torch = pytest.importorskip('torch', reason='the comparison needs PyTorch')
    x = numbers((2, 6, 5, 3))
    theirs = torch.nn.functional.unfold(to_torch(torch, x), 3, padding=1, stride=2).detach().numpy()      # n, c*k*k, places
    ours = patches(x, 3, 2, 1)
    assert_array_equal(ours.reshape(2, -1, 9, 3), theirs.transpose(0, 2, 1).reshape(2, -1, 3, 9).swapaxes(2, 3))

# the layers

def network(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return Sequential(Image(8, 8), Conv(1, 4, 3, rng, padding=1), ReLU(), MaxPool(2), Conv(4, 6, 3, rng, stride=2, padding=1), Tanh(),
                      AvgPool(2), Flatten(), Linear(6, 10, rng), dtype=dtype)

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_predict_equals_the_call_remembers_nothing_and_keeps_the_dtype(dtype):
    model, x = network(dtype), numbers((5, 64)).astype(dtype)
    y = model.predict(x)
    assert all(layer.y is None and layer.args is None for layer in model.layers)
    assert all(layer.cut.y is None for layer in model.layers if isinstance(layer, Conv))
    assert_array_equal(model(x), y)
    g = model.backward(np.ones_like(y), need_dx=True)
    assert {a.dtype for a in (y, g, model.grads, *(layer.y for layer in model.layers))} == {np.dtype(dtype)}
    assert g.shape == x.shape

def test_the_gradient_of_a_whole_network_is_what_nudges_say():
    model, rng = network(np.float64), np.random.default_rng(1)
    x, target = rng.normal(size=(4, 64)), rng.integers(0, 10, 4)
    _, g = value_and_grad(cross_entropy, model(x), target)
    dx = model.backward(g, need_dx=True)
    p, grads, eps = model.params.copy(), model.grads.copy(), 1e-6
    def loss(p, x):
        model.params = p
        return cross_entropy(model.predict(x), target)
    for i in range(p.size):
        v = eps * (np.arange(p.size) == i)
        assert_allclose(grads[i], (loss(p + v, x) - loss(p - v, x)) / (2*eps), rtol=1e-5, atol=1e-8)
    v = rng.normal(size=x.shape)
    assert_allclose(np.vdot(dx, v), (loss(p, x + eps*v) - loss(p, x - eps*v)) / (2*eps), rtol=1e-6)

def test_the_gradient_at_the_images_is_only_computed_on_request(monkeypatch):
    calls = []
    def spy(*args):
        calls.append(args)
        return patches_dx(*args)
    monkeypatch.setitem(vjps, patches, (spy,))
    model = Sequential(Image(8, 8), Conv(1, 2, 3, 0), ReLU(), Conv(2, 3, 3, 1), Flatten())
    y = model(numbers((2, 64)))
    assert model.backward(np.ones_like(y)) is None
    assert len(calls) == 1
    assert model.backward(np.ones_like(y), need_dx=True).shape == (2, 64)
    assert len(calls) == 3

def test_a_copied_or_pickled_network_is_a_network_of_its_own():
    model, x = network(), numbers((3, 64))
    y = model(x)
    for twin in copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
        assert twin.layers[1].y is None and twin.layers[1].cut.y is None
        assert_array_equal(twin.predict(x), y)
        twin.params = twin.params + 1
        assert np.shares_memory(twin.layers[1].w, twin.params)
        assert_array_equal(model.predict(x), y)

def test_weights_that_are_assigned_are_copied_in():
    model = network()
    layer = model.layers[1]
    layer.w = np.ones((9, 4))
    assert (model.params[:36] == 1).all() and np.shares_memory(layer.w, model.params)
    with pytest.raises(ValueError, match=r'\(9, 4\)'): layer.w = np.ones((3, 3, 4))

@given(st.integers(-2, 2), st.integers(-2, 2))
def test_a_convolution_of_a_moved_image_is_the_moved_convolution(down, right):
    x = pad(integers((2, 5, 5, 2)).astype(float), 4)
    layer = Conv(2, 3, 3, 0)
    layer.w = integers(layer.w.shape, 1)       # in whole numbers no order of adding is better than another
    assert_array_equal(layer.predict(np.roll(x, (down, right), (1, 2))), np.roll(layer.predict(x), (down, right), (1, 2)))

def test_one_pixel_kernels_are_a_linear_layer_at_each_pixel():
    layer, x = Conv(3, 2, 1, 0), numbers((2, 4, 5, 3))
    assert_allclose(layer(x), x @ layer.w + layer.b, rtol=1e-12)

@pytest.mark.parametrize('build, error, words', [
    (lambda: Conv(0, 8, 3, 0), ValueError, ['c_in', '0']),
    (lambda: Conv(1, 2.5, 3, 0), TypeError, ['c_out', '2.5']),
    (lambda: Conv(1, 8, 0, 0), ValueError, ['k', '0']),
    (lambda: Conv(1, 8, True, 0), TypeError, ['k', 'True']),
    (lambda: Conv(1, 8, 3, 0, stride=0), ValueError, ['stride', '0']),
    (lambda: Conv(1, 8, 3, 0, padding=-1), ValueError, ['padding', '-1']),
    (lambda: Conv(1, 8, 3, None), TypeError, ['rng', 'None']),
    (lambda: MaxPool(0), ValueError, ['k', '0']),
    (lambda: AvgPool('2'), TypeError, ['k', "'2'"]),
    (lambda: Image(8, 0), ValueError, ['w', '0']),
    (lambda: MaxPool(4)(np.ones((5, 3, 8, 2))), ValueError, ['max_pool', '4 by 4', '3 by 8', '(5, 3, 8, 2)']),
    (lambda: AvgPool(4).predict(np.ones((5, 8, 3, 2))), ValueError, ['avg_pool', '4 by 4', '8 by 3', '(5, 8, 3, 2)']),
    (lambda: Conv(2, 8, 6, 0, padding=1)(np.ones((5, 3, 3, 2))), ValueError, ['patches', '6 by 6', 'padding 1', '(5, 3, 3, 2)']),
    (lambda: Conv(3, 8, 2, 0).predict(np.ones((5, 3, 3, 2))), ValueError, ['patches', '3 channels', 'have 2', '(5, 3, 3, 2)']),
    (lambda: Conv(1, 8, 2, 0)(np.ones((5, 64))), ValueError, ['patches', '(n, h, w, c)', '(5, 64)', 'Image']),
    (lambda: Sequential(Image(8, 8), Flatten(), Linear(64, 2, 0))(np.ones((5, 63))), ValueError, ['64', '63']),
])
def test_what_does_not_fit_is_refused_by_name(build, error, words):
    with pytest.raises(error) as caught: build()
    assert all(word in str(caught.value) for word in words), caught.value

def test_a_window_may_be_larger_than_the_image_if_the_padding_makes_room():
    assert Conv(1, 2, 5, 0, padding=1)(np.ones((2, 3, 3, 1))).shape == (2, 1, 1, 2)

def test_a_refused_batch_leaves_the_memory_of_the_last_call():
    layer = Conv(1, 2, 3, 0)
    y = layer(numbers((2, 5, 5, 1)))
    with pytest.raises(ValueError): layer(np.ones((2, 2, 2, 1)))
    assert layer.y is y
    assert layer.backward(np.ones_like(y)).shape == (2, 5, 5, 1)

def test_a_small_convolutional_network_learns_the_digits():
    x, target = load_digits()
    x, target, x_test, t_test = split(x, target, rng=0)
    rng = np.random.default_rng(0)
    model = Sequential(Image(8, 8), Conv(1, 8, 3, rng, padding=1), ReLU(), MaxPool(2), Flatten(), Linear(128, 10, rng))
    fit(model, x, target, Adam(model, lr=3e-3), rng=0, n_epochs=15, progress=False)
    assert accuracy(model.predict(x_test), t_test) > .95

def test_a_norm_of_channels_may_stand_before_the_images_become_rows():
    from backprop_nb.norm import BatchNorm, Chain
    from backprop_nb.rnn import Embedding
    for middle in ([BatchNorm(3), Flatten()], [Chain(BatchNorm(3), Flatten())]):
        model = Sequential(Image(5, 4, 2), Conv(2, 3, 2, 0), *middle, Linear(36, 4, 0))
        assert (model.n_in, model.n_out) == (40, 4) and model(numbers((6, 40))).shape == (6, 4)
        with pytest.raises(ValueError, match='40 features'): model.predict(numbers((6, 36)))
    with pytest.raises(ValueError, match=r'gives 4 features, but Linear\(5, 2\) takes 5'):
        Sequential(Image(5, 4, 2), Conv(2, 3, 2, 0), BatchNorm(3), Chain(Flatten(), Linear(36, 4, 0)), Linear(5, 2, 0))
    drawn = Sequential(Linear(3, 20, 0), Image(5, 4), Conv(1, 2, 2, 0), BatchNorm(2), Flatten())
    assert drawn(numbers((6, 3))).shape == (6, 24)
    words = Sequential(Embedding(9, 5, 0), Flatten(), Linear(20, 2, 0))
    assert words.n_in is None and words.predict(integers((3, 4)) % 9).shape == (3, 2)
