"""What page 7b promises: norms and skips have PyTorch's values and gradients, in training and after it, inside models that stay whole."""
import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb.backward import check_vjp, vjps
from backprop_nb.data import batches
from backprop_nb.layers import Layer, Linear, ReLU, Sequential, Sigmoid, Tanh, every, value_and_grad
from backprop_nb.loss import cross_entropy, mse
from backprop_nb.norm import BatchNorm, Chain, LayerNorm, Residual, normalize, normalize_by, scale
from backprop_nb.optim import SGD
from backprop_nb.train import Diverged, fit

shapes = pytest.mark.parametrize('shape', [(2, 5), (7, 5), (4, 3, 5), (3, 4, 4, 5)], ids=str)


@pytest.fixture
def rng(): return np.random.default_rng(0)


@st.composite
def tables(draw, least=2):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, k = draw(st.integers(least, 9)), draw(st.integers(1, 6))
    return draw(st.sampled_from([.1, 1, 30])) * rng.normal(size=(n, k)) + draw(st.sampled_from([0, 5, -40]))


# --- the operations ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('axis', [0, 1, -1, (0, 1), (0, 2)], ids=str)
@pytest.mark.parametrize('eps', [1e-5, .1, 0.])
def test_every_rule_agrees_with_nudges(axis, eps, rng):
    x = 3 * rng.normal(size=(4, 3, 5)) + 2
    check_vjp(normalize, x, axis, eps)
    check_vjp(normalize_by, x, rng.normal(size=5), rng.random(5) + .5, eps)
    check_vjp(scale, x, rng.normal(size=5), rng.normal(size=5))


def test_a_rule_that_takes_mean_and_deviation_for_given_is_refused(rng):
    right = vjps[normalize]
    vjps[normalize] = lambda g, y, x, axis, eps: g / np.sqrt(x.var(axis=axis, keepdims=True) + eps),
    try:
        with pytest.raises(AssertionError, match='input 0 of normalize'): check_vjp(normalize, rng.normal(size=(6, 4)), 0, 1e-5)
    finally: vjps[normalize] = right


@given(tables())
def test_shift_and_stretch_do_not_matter_and_their_messages_are_taken_out(x):
    y, g = normalize(x, 0, 0.), np.random.default_rng(1).normal(size=x.shape)
    assert_allclose(normalize(7*x - 3, 0, 0.), y, atol=1e-7)
    d = vjps[normalize][0](g, y, x, 0, 0.)
    size = np.abs(d).max(axis=0) + 1e-12 + np.abs(g).max() / x.std(axis=0)
    assert (np.abs(d.sum(axis=0)) < 1e-9 * size).all() and (np.abs((d * y).sum(axis=0)) < 1e-9 * size).all()


def test_a_feature_that_does_not_vary_gives_zeros_and_no_warning(rng):
    x = np.c_[np.full(5, 3.), rng.normal(size=5)]
    with np.errstate(all='raise'):
        y = normalize(x, 0)
        d = vjps[normalize][0](np.ones((5, 2)), y, x, 0)
    assert not y[:, 0].any() and np.isfinite(d).all()


# --- PyTorch ----------------------------------------------------------------------------------------------------------------------------

def channels_first(a): return np.moveaxis(a, -1, 1)


def compare(ours, theirs, x, g, swap):
    "Outputs and all gradients of our layer and PyTorch's"
    import torch
    to, fro = (channels_first, lambda a: np.moveaxis(a, 1, -1)) if swap else (np.asarray, np.asarray)
    tx = torch.tensor(to(x).copy(), requires_grad=True)
    ty = theirs(tx)
    theirs.zero_grad()
    ty.backward(torch.tensor(to(g).copy()))
    y = ours(x)
    dx = ours.backward(g)
    assert_allclose(y, fro(ty.detach().numpy()), rtol=1e-9, atol=1e-11)
    assert_allclose(dx, fro(tx.grad.numpy()), rtol=1e-9, atol=1e-11)
    dgamma, dbeta = ours.layers[1].grads
    assert_allclose(dgamma, theirs.weight.grad.numpy(), rtol=1e-9, atol=1e-11)
    assert_allclose(dbeta, theirs.bias.grad.numpy(), rtol=1e-9, atol=1e-11)


@shapes
@pytest.mark.parametrize('momentum, eps', [(.1, 1e-5), (.3, 1e-3), (1., 1e-5), (0., 1e-5)])
def test_batch_norm_is_pytorchs_in_training_and_after_it(shape, momentum, eps, rng):
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    ours = BatchNorm(5, eps, momentum)
    theirs = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[len(shape)](5, eps, momentum, dtype=torch.float64)
    ours.gamma, ours.beta = gamma, beta = rng.normal(size=(2, 5))
    theirs.weight.data, theirs.bias.data = torch.tensor(gamma), torch.tensor(beta)
    for _ in range(4): compare(ours, theirs, 3*rng.normal(size=shape) + 1, rng.normal(size=shape), len(shape) > 2)
    mean, var = ours.layers[0].buffers
    assert_allclose(mean, theirs.running_mean.numpy(), rtol=1e-9, atol=1e-12)
    assert_allclose(var, theirs.running_var.numpy(), rtol=1e-9)
    theirs.eval()
    for layer in every([ours]): layer.training = False
    x = rng.normal(size=shape)
    compare(ours, theirs, x, rng.normal(size=shape), len(shape) > 2)
    assert_allclose(ours.predict(x), ours(x), rtol=1e-14)
    compare(ours, theirs, x[:1], rng.normal(size=shape)[:1], len(shape) > 2)
    assert_array_equal([mean, var], ours.layers[0].buffers, 'after training nothing is averaged any more')


@shapes
@pytest.mark.parametrize('eps', [1e-5, 1e-2])
def test_layer_norm_is_pytorchs(shape, eps, rng):
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    ours, theirs = LayerNorm(5, eps), torch.nn.LayerNorm(5, eps, dtype=torch.float64)
    ours.gamma, ours.beta = gamma, beta = rng.normal(size=(2, 5))
    theirs.weight.data, theirs.bias.data = torch.tensor(gamma), torch.tensor(beta)
    for n in len(rng.normal(size=shape)), 1: compare(ours, theirs, 3*rng.normal(size=shape)[:n] + 1, rng.normal(size=shape)[:n], False)


def test_a_whole_training_with_norms_and_skips_is_pytorchs(rng):
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    F = torch.nn.functional
    model = Sequential(Linear(5, 6, rng), BatchNorm(6), ReLU(), Residual(LayerNorm(6), Linear(6, 6, rng), Tanh()), Linear(6, 3, rng), dtype=np.float64)
    block = model.layers[3].layers
    p = [torch.tensor(a, requires_grad=True) for layer in every(model.layers) for a in layer.params]
    bn = torch.nn.BatchNorm1d(6, dtype=torch.float64, affine=False)
    def theirs(x):
        h = F.relu(bn(F.linear(x, p[0].T, p[1])) * p[2] + p[3])
        h = h + torch.tanh(F.linear(F.layer_norm(h, (6,)) * p[4] + p[5], p[6].T, p[7]))
        return F.linear(h, p[8].T, p[9])
    x, target, opt = rng.normal(size=(30, 5)), rng.integers(0, 3, 30), SGD(model, lr=.2)
    peer = torch.optim.SGD(p, lr=.2)
    for xb, tb in [b for _ in range(5) for b in batches(x, target, 10, rng)]:
        value, g = value_and_grad(cross_entropy, model(xb), tb)
        model.backward(g)
        opt.step()
        peer.zero_grad()
        loss = F.cross_entropy(theirs(torch.tensor(xb)), torch.tensor(tb))
        loss.backward()
        peer.step()
        assert_allclose(value, loss.item(), rtol=1e-9)
    for ours, other in zip([a for layer in every(model.layers) for a in layer.params], p): assert_allclose(ours, other.detach().numpy(), rtol=1e-7, atol=1e-10)
    bn.eval()
    assert_allclose(model.predict(x), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-7, atol=1e-10)
    assert len(block) == 3


# --- any model with layers inside layers ----------------------------------------------------------------------------------------------------

def block(rng, norm): return Residual(norm(4), Linear(4, 6, rng), Tanh(), Residual(Linear(6, 6, rng), Sigmoid()), Linear(6, 4, rng))


def nested(rng=0, dtype=np.float64, norm=BatchNorm):
    rng = np.random.default_rng(rng)
    return Sequential(norm(5), Linear(5, 4, rng), block(rng, norm), Chain(Tanh(), block(rng, norm)), Linear(4, 3, rng), dtype=dtype)


def loss_of(model, x, target): return cross_entropy(model(x), target)


@pytest.mark.parametrize('norm', [BatchNorm, LayerNorm])
@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_every_gradient_of_a_nested_model_agrees_with_nudges(norm, mode, rng):
    model, x, target = nested(norm=norm), rng.normal(size=(8, 5)), rng.integers(0, 3, 8)
    for _ in range(3): model(x)
    getattr(model, mode)()
    _, g = value_and_grad(cross_entropy, model(x), target)
    dx = model.backward(g, need_dx=True)
    p, ours, eps = model.params, model.grads.copy(), 1e-6
    nudged = np.zeros_like(p)
    for i, value in enumerate(p.tolist()):
        p[i] = value + eps
        up = loss_of(model, x, target)
        p[i] = value - eps
        nudged[i] = (up - loss_of(model, x, target)) / (2*eps)
        p[i] = value
    assert_allclose(ours, nudged, rtol=1e-5, atol=1e-8)
    v = rng.normal(size=x.shape)
    along = (loss_of(model, x + eps*v, target) - loss_of(model, x - eps*v, target)) / (2*eps)
    assert_allclose(np.vdot(dx, v), along, rtol=1e-6)


def assert_whole(model):
    "Every array of every layer, at any depth, is a view of its place in the vectors"
    for name in 'params', 'grads', 'buffers':
        vector, at = getattr(model, name), 0
        assert vector.dtype == model.dtype
        for array in [a for layer in every(model.layers) for a in getattr(layer, name)]:
            assert array.__array_interface__['data'][0] == vector.__array_interface__['data'][0] + at * vector.itemsize
            at += array.size
        assert at == vector.size


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_the_vectors_hold_all_that_layers_inside_layers_own(dtype, rng):
    model = nested(dtype=dtype)
    assert_whole(model)
    inner = 8 + (4*6 + 6) + (6*6 + 6) + (6*4 + 4)
    assert model.params.size == 10 + (5*4 + 4) + 2*inner + (4*3 + 3) and model.buffers.size == 10 + 2*8
    x = rng.normal(size=(6, 5))
    model.backward(np.ones_like(model(x)))
    assert_whole(model)
    flowing = [a for layer in every(model.layers) for a in (layer.y, layer.args[0])]
    assert {str(a.dtype) for a in [*flowing, model.predict(x), model.eval()(x), model.backward(np.ones((6, 3)), need_dx=True)]} == {dtype}


@pytest.mark.parametrize('twin', [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))], ids=['deepcopy', 'copy', 'pickle'])
def test_a_twin_keeps_the_averages_and_the_mode_and_lives_on_its_own(twin, rng):
    model, x = nested(), rng.normal(size=(6, 5)) + 3
    for _ in range(5): model(x)
    model.eval()
    other = twin(model)
    assert_whole(other)
    assert_whole(model)
    assert_array_equal(other.buffers, model.buffers)
    assert_array_equal(other.predict(x), model.predict(x))
    assert_array_equal(other(x), other.predict(x))
    averages = model.buffers.copy()
    other.train()(x)
    assert_array_equal(model.buffers, averages)
    assert (other.buffers != averages).any() and not model.layers[2].training


def test_averages_can_be_put_back_as_one_vector(rng):
    model, x = nested(), rng.normal(size=(6, 5)) + 3
    model(x)
    answers, kept = model.predict(x), model.buffers.copy()
    model(x - 7)
    assert not np.allclose(model.predict(x), answers)
    model.buffers = kept
    assert_array_equal(model.predict(x), answers)
    assert_whole(model)
    with pytest.raises(ValueError, match='buffers'): model.buffers = kept[1:]


def test_train_and_eval_reach_every_layer_and_return_the_model():
    model = nested()
    assert model.eval() is model and not any(layer.training for layer in every(model.layers))
    assert model.train() is model and all(layer.training for layer in every(model.layers))
    assert nested().layers[0].training, 'a model is in training from its birth'


def test_predict_answers_as_after_eval_and_remembers_nothing(rng):
    model, x = nested(), rng.normal(size=(6, 5))
    for _ in range(3): model(x)
    state = model.buffers.copy(), [layer.y for layer in every(model.layers)]
    answers = model.predict(x + 1)
    assert_allclose(model.predict((x + 1)[:1]), answers[:1], rtol=1e-12)
    assert_array_equal(model.buffers, state[0])
    assert all(a is b for a, b in zip(state[1], [layer.y for layer in every(model.layers)]))
    assert_array_equal(model.eval()(x + 1), answers)


@settings(max_examples=40)
@given(tables())
def test_in_evaluation_a_row_does_not_depend_on_its_neighbours(x):
    layer = BatchNorm(x.shape[1])
    layer(x)
    assert_allclose(np.concatenate([layer.predict(row[None]) for row in x]), layer.predict(x), rtol=1e-12)
    rowwise = LayerNorm(x.shape[1])
    assert_allclose(np.concatenate([rowwise(row[None]) for row in x]), rowwise(x), rtol=1e-9, atol=1e-12)


# --- what is refused ------------------------------------------------------------------------------------------------------------------------

def test_batch_norm_in_training_refuses_one_row_and_stays_as_it_was(rng):
    model, x = Sequential(Linear(3, 2, rng), BatchNorm(2), dtype=np.float64), rng.normal(size=(6, 3))
    model(x)
    state = model.params.copy(), model.buffers.copy()
    with pytest.raises(ValueError, match='at least 2 rows'): model(x[:1])
    assert_array_equal(model.params, state[0])
    assert_array_equal(model.buffers, state[1])
    assert model.predict(x[:1]).shape == model.eval()(x[:1]).shape == (1, 2)
    assert BatchNorm(2)(rng.normal(size=(1, 3, 3, 2))).shape == (1, 3, 3, 2), 'nine places of one image are enough'


@pytest.mark.parametrize('make', [lambda: BatchNorm(0), lambda: BatchNorm(2.5), lambda: BatchNorm(2, eps=0), lambda: BatchNorm(2, eps='a'),
                                  lambda: BatchNorm(2, momentum=1.5), lambda: BatchNorm(2, momentum=np.nan), lambda: LayerNorm(-1),
                                  lambda: LayerNorm(3, eps=-1.), lambda: LayerNorm(None), lambda: Residual(), lambda: Residual(Linear(3, 2, 0)),
                                  lambda: Residual(ReLU), lambda: Chain(Linear(3, 2, 0), Linear(3, 2, 0)), lambda: Chain(3)])
def test_bad_settings_are_refused(make):
    with pytest.raises((TypeError, ValueError)): make()


def test_a_residual_that_cannot_be_added_names_both_widths():
    with pytest.raises(ValueError, match='not 3 and 2'): Residual(Linear(3, 2, 0))


def test_norms_refuse_neighbours_of_another_width():
    for norm in BatchNorm(5), LayerNorm(5):
        with pytest.raises(ValueError, match='takes 5'): Sequential(Linear(3, 4, 0), norm)


def test_a_layer_cannot_stand_in_two_places_at_any_depth():
    shared = Linear(3, 3, 0)
    with pytest.raises(ValueError, match='once'): Sequential(Residual(shared), Residual(shared))
    with pytest.raises(ValueError, match='once'): Sequential(shared, Residual(shared))
    with pytest.raises(ValueError, match='once'): Residual(shared, shared)
    model = Sequential(Residual(shared))
    with pytest.raises(ValueError, match='another model'): Sequential(shared)
    with pytest.raises(ValueError, match='another model'): Sequential(model.layers[0])
    assert_whole(model)


def test_backward_before_the_first_call_is_refused():
    with pytest.raises(RuntimeError): nested().backward(np.ones((2, 3)))


# --- what they are for ------------------------------------------------------------------------------------------------------------------------

def test_the_scale_of_the_weights_before_a_norm_does_not_matter(rng):
    for norm in BatchNorm, LayerNorm:
        model, x = Sequential(Linear(6, 5, 0), norm(5, 1e-12), Tanh(), Linear(5, 2, 0), dtype=np.float64), rng.normal(size=(9, 6))
        y, g = model(x), rng.normal(size=(9, 2))
        model.backward(g)
        before = model.layers[0].grads[0].copy()
        model.layers[0].w *= 10
        assert_allclose(model(x), y, rtol=1e-7)
        model.backward(g)
        assert_allclose(model.layers[0].grads[0], before / 10, rtol=1e-6, atol=1e-9)


def test_a_residual_of_layers_that_give_zero_is_the_identity_both_ways(rng):
    layer = Residual(Linear(4, 4, 0, lambda *_: np.zeros((4, 4))))
    x, g = rng.normal(size=(2, 3, 4))
    assert_array_equal(layer(x), x)
    assert_array_equal(layer.backward(g), g)
    assert layer.backward(g, need_dx=False) is None and layer.layers[0].grads[0].any()


def test_nothing_below_the_first_parameters_is_walked(rng):
    class Wall(Layer):
        def backward(self, g, need_dx=True): raise AssertionError('nobody asked for this')
    model = Sequential(Wall(np.tanh), Residual(Linear(3, 3, rng)), dtype=np.float64)
    model.backward(np.ones_like(model(rng.normal(size=(2, 3)))))
    assert model.grads.any()


def test_the_summary_counts_what_is_inside():
    text = str(nested().summary())
    assert f'{nested().params.size:,}' == text.split()[-1]


def test_what_a_layer_keeps_goes_back_together_with_the_parameters():
    "Stopping by patience, and divergence, must not leave newer running averages beside older parameters"
    rng = np.random.default_rng(0)
    x, t = rng.normal(3, 2, (64, 4)), rng.normal(size=(64, 2))
    def model(): return Sequential(Linear(4, 8, 0), BatchNorm(8), Linear(8, 2, 1), dtype=np.float64)
    long, short = model(), model()
    history = fit(long, x, t, SGD(long, .5), 0, loss=mse, n_epochs=30, validation=(x + 1, t[::-1]), patience=2)
    fit(short, x, t, SGD(short, .5), 0, loss=mse, n_epochs=history.best_epoch + 1)
    assert history.best_epoch + 1 < len(history.loss)
    assert (long.params == short.params).all() and (long.buffers == short.buffers).all()
    wild = model()
    before = wild.buffers.copy()
    with pytest.raises(Diverged): fit(wild, x, t * 1e200, SGD(wild, 1e200), 0, loss=mse)
    assert (wild.buffers == before).all()
