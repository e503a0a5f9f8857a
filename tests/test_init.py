"""What page 7 promises: first weights have the variances that they name, and the instruments read what they say and touch nothing."""
import copy

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb.backward import relu_dx, sigmoid_dx, tanh_dx
from backprop_nb.forward import relu, sigmoid, tanh
from backprop_nb.init import (glorot_normal, glorot_uniform, he_normal, he_uniform, instrument_panel, instruments, lecun_normal, lecun_uniform,
                              orthogonal)
from backprop_nb.layers import Linear, ReLU, Sequential, Sigmoid, Tanh, value_and_grad
from backprop_nb.loss import cross_entropy, mse
from backprop_nb.norm import BatchNorm, Residual
from backprop_nb.optim import SGD, Adam

VARIANCES = {lecun_normal: lambda n_in, n_out: 1/n_in, lecun_uniform: lambda n_in, n_out: 1/n_in,
             glorot_normal: lambda n_in, n_out: 2/(n_in + n_out), glorot_uniform: lambda n_in, n_out: 2/(n_in + n_out),
             he_normal: lambda n_in, n_out: 2/n_in, he_uniform: lambda n_in, n_out: 2/n_in,
             orthogonal: lambda n_in, n_out: 1/max(n_in, n_out)}
every_init = pytest.mark.parametrize('init', VARIANCES, ids=lambda f: f.__name__)


@every_init
@pytest.mark.parametrize('shape', [(300, 300), (400, 100), (100, 400)], ids=str)
def test_an_initialiser_has_mean_0_and_the_variance_that_it_names(init, shape):
    w = init(*shape, np.random.default_rng(0))
    assert w.shape == shape and abs(w.mean()) < .02 * w.std() * 3
    assert_allclose(w.var(), VARIANCES[init](*shape), rtol=.02)


@every_init
def test_a_seed_repeats_the_weights_and_a_generator_goes_on(init):
    assert_array_equal(Linear(7, 5, 3, init).w, Linear(7, 5, 3, init).w)
    rng = np.random.default_rng(3)
    assert (Linear(7, 5, rng, init).w != Linear(7, 5, rng, init).w).any()


@pytest.mark.parametrize('init', [lecun_uniform, glorot_uniform, he_uniform], ids=lambda f: f.__name__)
def test_a_uniform_initialiser_is_flat_up_to_its_limits(init):
    w, limit = init(200, 300, np.random.default_rng(0)), np.sqrt(3 * VARIANCES[init](200, 300))
    assert .999 * limit < np.abs(w).max() <= limit
    counts, _ = np.histogram(w, 10, (-limit, limit))
    assert_allclose(counts, w.size / 10, rtol=.05)


@pytest.mark.parametrize('ours, theirs', [(glorot_uniform, 'xavier_uniform_'), (glorot_normal, 'xavier_normal_'),
                                          (he_uniform, 'kaiming_uniform_'), (he_normal, 'kaiming_normal_')], ids=lambda a: getattr(a, '__name__', a))
def test_pytorch_draws_with_the_same_spread(ours, theirs):
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    torch.manual_seed(0)
    settings = dict(nonlinearity='relu') if 'kaiming' in theirs else {}
    peer = getattr(torch.nn.init, theirs)(torch.empty(300, 500), **settings).numpy()     # torch: (n_out, n_in)
    w = ours(500, 300, np.random.default_rng(0))
    assert_allclose(w.std(), peer.std(), rtol=.01)
    assert_allclose(np.quantile(np.abs(w), .99), np.quantile(np.abs(peer), .99), rtol=.02)


@pytest.mark.parametrize('shape', [(6, 6), (9, 4), (4, 9), (1, 5), (5, 1)], ids=str)
def test_orthogonal_weights_stretch_nothing(shape):
    w = orthogonal(*shape, np.random.default_rng(0))
    assert_allclose(np.linalg.svd(w, compute_uv=False), 1, rtol=1e-12)


def test_all_turns_are_equally_likely():
    corner = [orthogonal(2, 2, np.random.default_rng(seed))[0, 0] for seed in range(2000)]
    assert abs(np.mean(corner)) < .05, 'without the signs of R, the first entry would be negative more often'


# --- Glorot & Bengio (2010), He et al. (2015) -------------------------------------------------------------------------------------------

def rms(a): return np.sqrt(np.mean(np.square(a)))


def deep(activation, init, depth, width, seed=0):
    rng = np.random.default_rng(seed)
    return Sequential(*[layer for _ in range(depth) for layer in (Linear(width, width, rng, init), activation())], dtype=np.float64)


def sizes(model, x):
    "Sizes of the outputs and of the gradients after each activation"
    model(x)
    outputs, g, grads = [rms(layer.y) for layer in model.layers[1::2]], np.random.default_rng(9).normal(size=(len(x), model.n_out)), []
    for i, layer in reversed(list(enumerate(model.layers))):
        if i % 2: grads.append(rms(g))
        g = layer.backward(g)
    return np.array(outputs), np.array(grads[::-1])


def test_the_old_habit_loses_a_factor_root_3_a_layer_and_glorots_nothing():
    def habit(n_in, n_out, rng): return rng.uniform(-1/np.sqrt(n_in), 1/np.sqrt(n_in), (n_in, n_out))
    x = .01 * np.random.default_rng(1).normal(size=(100, 500))
    for init, factor in (habit, 1/np.sqrt(3)), (glorot_uniform, 1), (glorot_normal, 1), (lecun_normal, 1), (orthogonal, 1):
        forward, back = sizes(deep(Tanh, init, 6, 500), x)
        assert_allclose(forward[1:] / forward[:-1], factor, rtol=.03)
        assert_allclose(back[:-1] / back[1:], factor, rtol=.03)


def test_five_tanh_layers_of_1000_as_published():
    forward, _ = sizes(deep(Tanh, glorot_uniform, 5, 1000), np.random.default_rng(0).normal(size=(100, 1000)))
    assert_allclose(forward, [.628, .486, .408, .358, .321], rtol=.02)


@pytest.mark.parametrize('init', [he_normal, he_uniform], ids=lambda f: f.__name__)
def test_relu_with_hes_weights_keeps_sizes_over_thirty_layers(init):
    forward, back = sizes(deep(ReLU, init, 30, 300), np.random.default_rng(0).normal(size=(100, 300)))
    assert .4 < forward[-1] / forward[0] < 2.5 and .4 < back[0] / back[-1] < 2.5
    starved, _ = sizes(deep(ReLU, lecun_normal, 30, 300), np.random.default_rng(0).normal(size=(100, 300)))
    assert_allclose((starved[-1] / starved[0])**(1/29), np.sqrt(.5), rtol=.03)


@pytest.mark.parametrize('activation, f, slope', [(Sigmoid, sigmoid, sigmoid_dx), (Tanh, tanh, tanh_dx), (ReLU, relu, relu_dx)], ids=str)
@pytest.mark.parametrize('variance', [.5, 1, 2, 4])
def test_the_rate_is_the_variance_times_the_mean_squared_slope(activation, f, slope, variance):
    n, z = 400, np.random.default_rng(0).normal(size=400_000)
    model = deep(activation, lambda n_in, n_out, rng: np.sqrt(variance) * lecun_normal(n_in, n_out, rng), 6, n)
    x = np.random.default_rng(1).normal(size=(200, n))
    _, back = sizes(model, x)
    q, predicted = variance, []
    for _ in range(5):
        q_next = variance * np.mean(f(np.sqrt(q) * z)**2)
        q = q_next
        predicted.append(np.sqrt(variance * np.mean(slope(1, f(np.sqrt(q) * z), np.sqrt(q) * z)**2)))
    assert_allclose(back[:-1] / back[1:], predicted, rtol=.06)


def test_vgg_b_as_published():
    d = np.array([64, 128, 256, 512])
    right = np.array([he_normal(9*k, 50_000 // k, np.random.default_rng(0)).std() for k in d])
    assert_allclose(right, [.059, .042, .029, .021], atol=6e-4)
    assert_allclose(np.prod((right / .01)**[1, 2, 2, 4]), 1.7e4, rtol=.05)


# --- the instruments --------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def sick():
    rng = np.random.default_rng(0)
    model = Sequential(Linear(6, 5, rng), ReLU(), Residual(Linear(5, 5, rng), BatchNorm(5), Tanh()), Linear(5, 3, rng), dtype=np.float64)
    model.layers[0].b = [0, -1e3, 0, -1e3, 1e3]
    return model, rng.normal(size=(20, 6)), rng.integers(0, 3, 20)


def test_the_instruments_change_nothing(sick):
    model, x, target = sick
    model(x)
    model.backward(np.ones((20, 3)))
    opt = Adam(model)
    opt.step()
    state = [model.params.copy(), model.grads.copy(), model.buffers.copy(), *[v.copy() for v in opt.state.values()]]
    seen = instruments(model, x[:7], target[:7], opt=opt)
    for before, after in zip(state, [model.params, model.grads, model.buffers, *opt.state.values()]): assert_array_equal(before, after)
    assert opt.t == 1 and len(model.layers[0].y) == 20 and opt.model is model
    assert_array_equal(seen['activation'], instruments(model, x[:7], target[:7], opt=opt)['activation'])


def test_the_instruments_read_what_they_say_also_inside_other_layers(sick):
    model, x, target = sick
    lr = .01
    seen = instruments(model, x, target, opt=SGD(model, lr=lr))
    assert seen['layer'] == ['Linear', 'ReLU', 'Residual', 'Linear', 'BatchNorm', 'BatchNormalize', 'Layer', 'Tanh', 'Linear']
    assert seen['dead'].tolist()[:2] == [0, .4]
    model(x)
    block = model.layers[2]
    layers = [*model.layers[:3], block.layers[0], block.layers[1], *block.layers[1].layers, block.layers[2], model.layers[3]]
    assert_allclose(seen['activation'], [layer.y.std() for layer in layers])
    _, g = value_and_grad(cross_entropy, model(x), target)
    model.backward(g)
    assert_allclose(seen['gradient'][[2, 7, 8]], [model.layers[3].backward(g).std()]*2 + [g.std()])
    model.backward(g)
    for i in 0, 3, 6, 8:
        length = [np.sqrt(sum((a**2).sum() for a in arrays)) for arrays in (layers[i].grads, layers[i].params)]
        assert_allclose(seen['update'][i], lr * length[0] / length[1])
    assert np.isnan(seen['update'][[1, 2, 4, 5, 7]]).all()


def test_the_instruments_take_other_losses_and_no_optimizer(sick):
    model, x, _ = sick
    seen = instruments(model, x, np.zeros((20, 3)), loss=mse)
    assert np.isnan(seen['update']).all() and np.isfinite(seen['gradient']).all()
    assert len({len(v) for v in seen.values()}) == 1


def test_an_optimizer_of_another_model_is_refused(sick):
    model, x, target = sick
    with pytest.raises(ValueError, match='opt'): instruments(model, x, target, opt=SGD(copy.deepcopy(model)))


def test_the_panel_draws_any_readings(sick):
    model, x, target = sick
    for opt in None, SGD(model, lr=.1):
        picture = instrument_panel(instruments(model, x, target, opt=opt), 'Three panels with the readings of a small net.')
        assert picture.png().startswith(b'\x89PNG') and len(picture.fig.axes) == 3
    model.params[:] = 0     # nothing flows at all
    assert instrument_panel(instruments(model, x, target, opt=SGD(model)), 'Three panels with the readings of a silent net.').png()
