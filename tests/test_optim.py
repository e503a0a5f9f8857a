"What the optimizers promise: PyTorch's steps, in place, in any pieces; settings that are checked; schedules and clipping that do what they say"
import copy
import inspect
import pickle
import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb.layers import Linear, ReLU, Sequential, Tanh, value_and_grad
from backprop_nb.loss import cross_entropy
from backprop_nb.optim import SGD, Adagrad, Adam, AdamW, RMSprop, clip_norm, cosine, flush, pieces, step_decay, warm_up

laws = settings(derandomize=True, deadline=None, max_examples=100)
kinds = [SGD, Adagrad, RMSprop, Adam, AdamW]
each = pytest.mark.parametrize('Opt', kinds, ids=lambda o: o.__name__)


def grid(Opt, **choices):
    "Every combination of settings"
    return [(Opt, dict(zip(choices, values))) for values in product(*choices.values())]


betas = (.9, .999), (.5, .6), (0., .99), (.99, .9999), (.9, .5)
combinations = [
    *grid(SGD, lr=[.1, .003], momentum=[0, .5, .9, .99], weight_decay=[0, .01, .5]),
    *grid(SGD, lr=[.05], momentum=[.5, .9, .99], nesterov=[True], weight_decay=[0, .01, .5]),
    *grid(Adagrad, lr=[.5, .01], eps=[1e-10, 1e-2], weight_decay=[0, .1]),
    *grid(RMSprop, lr=[.05, .01], alpha=[.99, .9, .5], eps=[1e-8, 1e-2], weight_decay=[0, .1]),
    *grid(Adam, lr=[.05, .001], betas=betas, eps=[1e-8, 1e-2], weight_decay=[0, .1]),
    *grid(AdamW, lr=[.05, .001], betas=betas, eps=[1e-8, 1e-2], weight_decay=[0, .01, .5]),
]
every = pytest.mark.parametrize('Opt, kwargs', combinations, ids=lambda v: v.__name__ if isinstance(v, type) else ','.join(f'{k}={x}' for k, x in v.items()))
# one of each kind, with all the running vectors it can have, and with weight decay
full = [(SGD, dict(lr=.1, momentum=.9, nesterov=True, weight_decay=.1)), (SGD, dict(lr=.1)), (Adagrad, dict(lr=.1, weight_decay=.1)),
        (RMSprop, dict(lr=.01, weight_decay=.1)), (Adam, dict(lr=.01, weight_decay=.1)), (AdamW, dict(lr=.01, weight_decay=.1))]
some = pytest.mark.parametrize('Opt, kwargs', full, ids=lambda v: v.__name__ if isinstance(v, type) else ','.join(v))


class Vectors:
    "The least that an optimizer takes for a model"
    def __init__(self, params, grads=None):
        self.params = np.array(params)
        self.grads = np.zeros_like(self.params) if grads is None else np.array(grads, self.params.dtype)


def problem(n=37, dtype='float64', seed=0):
    "A start, and a gradient that depends on the place and on the step, with sizes from 0.001 to 1000"
    rng = np.random.default_rng(seed)
    curvature = rng.uniform(.01, 2, n).astype(dtype)
    shake = (rng.normal(size=(1000, n)) * np.logspace(-3, 3, n) / 100).astype(dtype)
    return rng.normal(size=n).astype(dtype), lambda w, t: curvature * w + shake[t]


def run(opt, gradient, n_steps, first=0):
    for t in range(first, first + n_steps):
        opt.model.grads[:] = gradient(opt.model.params, t)
        opt.step()
    return opt.model.params


def network(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return Sequential(Linear(5, 8, rng), ReLU(), Linear(8, 6, rng), Tanh(), Linear(6, 3, rng), dtype=dtype)


def train(model, opt, n_steps, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        _, g = value_and_grad(cross_entropy, model(rng.normal(size=(8, 5))), rng.integers(0, 3, 8))
        model.backward(g)
        opt.step()


# PyTorch's steps

@pytest.fixture
def torch(): return pytest.importorskip('torch', reason='compares with PyTorch')


def torch_run(torch, Opt, kwargs, start, gradient, n_steps, before=lambda opt, t: None):
    w = torch.nn.Parameter(torch.tensor(start))
    opt = getattr(torch.optim, Opt.__name__)([w], **kwargs)
    for t in range(n_steps):
        before(opt, t)
        w.grad = torch.tensor(gradient(w.detach().numpy(), t))
        opt.step()
    return w.detach().numpy()


@every
def test_a_hundred_steps_are_pytorchs(torch, Opt, kwargs):
    start, gradient = problem()
    ours = run(Opt(Vectors(start), **kwargs), gradient, 100)
    theirs = torch_run(torch, Opt, kwargs, start, gradient, 100)
    assert np.isfinite(theirs).all() and not np.allclose(theirs, start, atol=1e-4)
    assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@some
def test_six_hundred_steps_are_pytorchs(torch, Opt, kwargs):
    start, gradient = problem(seed=1)
    assert_allclose(run(Opt(Vectors(start), **kwargs), gradient, 600), torch_run(torch, Opt, kwargs, start, gradient, 600), rtol=1e-9, atol=1e-9)


@some
def test_float32_steps_are_pytorchs_within_its_precision(torch, Opt, kwargs):
    start, gradient = problem(dtype='float32')
    assert_allclose(run(Opt(Vectors(start), **kwargs), gradient, 20), torch_run(torch, Opt, kwargs, start, gradient, 20), rtol=1e-4, atol=1e-5)


@each
def test_default_settings_are_pytorchs(torch, Opt):
    theirs = inspect.signature(getattr(torch.optim, Opt.__name__)).parameters
    for name, p in inspect.signature(Opt).parameters.items():
        if name != 'model': assert p.default == theirs[name].default, f'{Opt.__name__}: {name}'


@some
def test_a_rate_changed_between_steps_acts_as_in_pytorch(torch, Opt, kwargs):
    start, gradient = problem()
    rate = cosine(.1, 40, .001)
    opt = Opt(Vectors(start), **kwargs)
    for t in range(50):
        opt.lr = rate(t)
        run(opt, gradient, 1, t)

    def cut(their_opt, t): their_opt.param_groups[0]['lr'] = rate(t)
    assert_allclose(opt.model.params, torch_run(torch, Opt, kwargs, start, gradient, 50, cut), rtol=1e-9, atol=1e-9)


def their_rates(torch, make, lr, n):
    "The rates of n steps with the scheduler that `make` puts on an optimizer"
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, rates = make(torch.optim.lr_scheduler, opt), []
    for _ in range(n):
        rates.append(opt.param_groups[0]['lr'])
        opt.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize('lr, every, factor', [(.1, 30, .1), (3., 1, .9), (.01, 7, .5), (1, 5, 1)])
def test_stairs_are_StepLR(torch, lr, every, factor):
    theirs = their_rates(torch, lambda s, opt: s.StepLR(opt, every, factor), lr, 100)
    assert_allclose([step_decay(lr, every, factor)(t) for t in range(100)], theirs, rtol=1e-12)


@pytest.mark.parametrize('lr, n_steps, lr_min', [(.1, 99, 0), (.1, 50, .01), (2., 10, 2.), (.3, 1, 0)])
def test_cosine_is_CosineAnnealingLR_and_then_stays(torch, lr, n_steps, lr_min):
    ours = cosine(lr, n_steps, lr_min)
    theirs = their_rates(torch, lambda s, opt: s.CosineAnnealingLR(opt, n_steps, lr_min), lr, n_steps + 1)
    assert_allclose([ours(t) for t in range(n_steps + 1)], theirs, rtol=1e-9, atol=1e-12)
    assert {ours(t) for t in range(n_steps, n_steps + 50)} == {lr_min}


@pytest.mark.parametrize('n_warm', [2, 5, 20])
def test_warm_up_is_LinearLR_and_then_the_other_schedule(torch, n_warm):
    def make(s, opt):
        rise = s.LinearLR(opt, start_factor=1/n_warm, end_factor=1, total_iters=n_warm - 1)
        return s.SequentialLR(opt, [rise, s.CosineAnnealingLR(opt, 60, .01)], milestones=[n_warm])
    ours = warm_up(cosine(.5, 60, .01), n_warm)
    assert_allclose([ours(t) for t in range(n_warm + 60)], their_rates(torch, make, .5, n_warm + 60), rtol=1e-9)


# PyTorch divides by norm + 1e-6, which makes every clipped gradient a little too short; we divide by the norm

@pytest.mark.parametrize('scale', [1e-3, 1., 100.])
@pytest.mark.parametrize('max_norm', [1e-2, 1., 50.])
def test_clip_is_clip_grad_norm_without_its_shortfall(torch, scale, max_norm):
    g = np.random.default_rng(0).normal(0, scale, 40)
    w = torch.nn.Parameter(torch.zeros(40, dtype=torch.float64))
    w.grad = torch.tensor(g)
    their_norm = float(torch.nn.utils.clip_grad_norm_([w], max_norm))
    theirs = w.grad.numpy()
    norm = clip_norm(g, max_norm)
    assert_allclose(norm, their_norm, rtol=1e-12)
    if norm > max_norm: theirs = theirs * (norm + 1e-6) / norm
    assert_allclose(g, theirs, rtol=1e-12)


# In place, in any pieces, in the model's precision

@some
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('n, chunk', [(37, 8), (37, 1), (37, 36), (37, 37), (64, 16), (1, 4)])
def test_pieces_change_no_bit(Opt, kwargs, dtype, n, chunk):
    start, gradient = problem(n, dtype)
    Cut = type(Opt.__name__, (Opt,), dict(chunk=chunk))
    at_once, cut = Opt(Vectors(start), **kwargs), Cut(Vectors(start), **kwargs)
    assert_array_equal(run(cut, gradient, 30), run(at_once, gradient, 30))
    for name in at_once.state: assert_array_equal(cut.state[name], at_once.state[name])


def test_a_model_larger_than_a_piece_is_updated_to_its_end():
    n = 2*SGD.chunk + 5
    opt = SGD(Vectors(np.zeros(n), np.ones(n)), lr=1)
    opt.step()
    assert_array_equal(opt.model.params, -np.ones(n))


@laws
@given(st.integers(0, 50), st.integers(1, 60))
def test_pieces_are_views_that_cover_the_vectors_once(n, size):
    a, b = np.zeros(n), np.arange(n)
    parts = pieces([a, b], size)
    for x, y in parts:
        assert len(x) == len(y) <= size
        x += y + 1
    assert_array_equal(a, np.arange(n) + 1)


@some
def test_float32_stays_float32(Opt, kwargs):
    start, gradient = problem(dtype='float32')
    opt = Opt(Vectors(start), **kwargs)
    opt.lr = np.float64(.01)
    run(opt, gradient, 300)
    assert {v.dtype for v in (opt.model.params, opt.model.grads, *opt.state.values())} == {np.dtype('float32')}


@some
def test_layers_see_every_step(Opt, kwargs):
    model = network()
    params, layer = model.params, model.layers[0]
    w = layer.w
    before = w.copy()
    train(model, Opt(model, **kwargs), 3)
    assert model.params is params and layer.w is w
    assert np.shares_memory(w, model.params)
    assert (w != before).any()
    assert_array_equal(w.ravel(), model.params[:w.size])


@some
def test_a_step_leaves_the_gradient_alone(Opt, kwargs):
    start, gradient = problem()
    opt = Opt(Vectors(start, gradient(start, 0)), **kwargs)
    opt.step()
    assert_array_equal(opt.model.grads, gradient(start, 0))


@some
def test_a_step_makes_no_new_vectors(Opt, kwargs):
    n = Opt.chunk
    opt = Opt(Vectors(np.ones(n), np.ones(n)), **kwargs)
    opt.step()
    tracemalloc.start()
    opt.step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n, f'{peak} bytes, where a vector has {8*n}'


@some
def test_a_gradient_that_is_a_new_array_each_time_is_the_one_that_counts(Opt, kwargs):
    start, gradient = problem()
    written, rebound = Opt(Vectors(start), **kwargs), Opt(Vectors(start), **kwargs)
    for t in range(5):
        rebound.model.grads = gradient(rebound.model.params, t)
        rebound.step()
    assert_array_equal(rebound.model.params, run(written, gradient, 5))


@each
def test_a_model_without_parameters_may_step(Opt):
    model = Sequential(ReLU())
    Opt(model).step()
    assert model.params.size == 0


# Settings are checked, and a refusal changes nothing

never = [-1, -1e-9, np.nan, np.inf, '0.1', None, True, [.1], 1j]
bad = [
    *[(Opt, 'lr', v) for Opt in kinds for v in [0, *never]],
    *[(Opt, 'weight_decay', v) for Opt in kinds for v in never],
    *[(SGD, 'momentum', v) for v in [1, 1.5, *never]],
    *[(Opt, 'eps', v) for Opt in kinds[1:] for v in [0, *never]],
    *[(RMSprop, 'alpha', v) for v in [1, 1.01, *never]],
    *[(Opt, 'betas', v) for Opt in (Adam, AdamW) for v in [1, (.9, 1), (1, .9), (.9, 1.5), (-.1, .9), (.9, np.nan), (.9,), (.9, .99, .999), .9, None, 'ab',
                                                           ('a', 'b'), (.9, None), (True, .9), ()]],
]


@pytest.mark.parametrize('Opt, name, value', bad, ids=lambda v: v.__name__ if isinstance(v, type) else repr(v))
def test_a_setting_out_of_range_is_refused_by_name_and_value(Opt, name, value):
    model = network()
    model.grads = np.linspace(-1, 1, model.grads.size)
    before = copy.deepcopy(model)
    with pytest.raises((ValueError, TypeError)) as e: Opt(model, **{name: value})
    wrong = [v for v in value if isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 <= v < 1] if np.shape(value) == (2,) else [value]
    assert name in str(e.value) and repr(wrong[0]) in str(e.value)
    assert_array_equal(model.params, before.params)
    assert_array_equal(model.grads, before.grads)


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match='nesterov.*momentum.*0'): SGD(network(), nesterov=True)


@pytest.mark.parametrize('model', [None, 3, 'model', [np.ones(3)], np.ones(3), Linear(2, 3, 0), Vectors(np.ones((2, 2))), Vectors([1, 2]), Vectors([1j])],
                         ids=lambda m: type(m).__name__)
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match='model.*params.*grads'): SGD(model, .1)


def test_params_and_grads_of_two_lengths_are_refused():
    model = Vectors(np.ones(3))
    model.grads = np.ones(2)
    with pytest.raises(TypeError, match='one length'): Adam(model)


@some
@pytest.mark.parametrize('lr', never, ids=repr)
def test_a_bad_rate_is_refused_between_steps_too(Opt, kwargs, lr):
    start, gradient = problem()
    opt, other = Opt(Vectors(start), **kwargs), Opt(Vectors(start), **kwargs)
    run(opt, gradient, 5)
    run(other, gradient, 5)
    with pytest.raises((ValueError, TypeError)) as e: opt.lr = lr
    assert 'lr' in str(e.value) and repr(lr) in str(e.value)
    assert opt.lr == kwargs['lr'] and opt.t == 5
    assert_array_equal(run(opt, gradient, 5, 5), run(other, gradient, 5, 5))


@each
def test_at_rate_0_parameters_rest(Opt):
    opt = Opt(Vectors(np.ones(3), [1, 2, 3]), lr=.1)
    opt.lr = 0
    opt.step()
    assert_array_equal(opt.model.params, np.ones(3))


@pytest.mark.parametrize('make, name, value', [
    *[(lambda v: step_decay(v, 3), 'lr', v) for v in [0, *never]],
    *[(lambda v: step_decay(.1, v), 'every', v) for v in [0, -1, 2.5, '3', None, True]],
    *[(lambda v: step_decay(.1, 3, v), 'factor', v) for v in [0, 1.5, *never]],
    *[(lambda v: cosine(v, 3), 'lr', v) for v in [0, *never]],
    *[(lambda v: cosine(.1, v), 'n_steps', v) for v in [0, -1, 2.5, '3', None, True]],
    *[(lambda v: cosine(.1, 3, v), 'lr_min', v) for v in [.2, *never]],
    *[(lambda v: warm_up(cosine(.1, 3), v), 'n_steps', v) for v in [0, -1, 2.5, '3', None, True]],
    *[(lambda v: warm_up(v, 3), 'schedule', v) for v in [.1, None, 'cosine']],
    *[(lambda v: clip_norm(np.ones(3), v), 'max_norm', v) for v in [0, *never]],
], ids=lambda v: repr(v) if not callable(v) else '')
def test_a_bad_setting_of_a_schedule_or_of_clipping_is_refused_by_name_and_value(make, name, value):
    with pytest.raises((ValueError, TypeError)) as e: make(value)
    assert name in str(e.value) and repr(value) in str(e.value)


@pytest.mark.parametrize('opt, said', [
    (SGD(Vectors([1.]), .5), 'SGD(lr=0.5, momentum=0.0, nesterov=False, weight_decay=0.0)'),
    (SGD(Vectors([1.]), momentum=.9), 'SGD(lr=0.001, momentum=0.9, nesterov=False, weight_decay=0.0)'),
    (Adam(Vectors([1.])), 'Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)'),
    (AdamW(Vectors([1.])), 'AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)'),
])
def test_an_optimizer_says_its_settings(opt, said): assert repr(opt) == said


# Laws

numbers = st.floats(-1e3, 1e3)
vectors = st.integers(1, 12).flatmap(lambda n: arrays(float, (2, n), elements=numbers))


def moved(Opt, g, **kwargs):
    opt = Opt(Vectors(np.zeros(len(g)), g), **kwargs)
    opt.step()
    return opt.model.params


@laws
@given(vectors, st.floats(-5, 5), st.floats(-5, 5), st.sampled_from([0, .9]))
def test_a_step_of_sgd_is_linear_in_the_gradient(pair, a, b, momentum):
    g, h = pair
    kwargs = dict(lr=.1, momentum=momentum)
    assert_allclose(moved(SGD, a*g + b*h, **kwargs), a*moved(SGD, g, **kwargs) + b*moved(SGD, h, **kwargs), rtol=1e-9, atol=1e-9)


@laws
@given(arrays(float, st.tuples(st.integers(1, 10), st.integers(1, 6)), elements=numbers), st.floats(-3, 3))
def test_adam_does_not_know_the_scale_of_the_gradient(gradients, power):
    assume((np.abs(gradients[gradients != 0]) > 1e-3).all())
    ends = []
    for scale in 1, 10**power:
        opt = Adam(Vectors(np.zeros(gradients.shape[1])), lr=.01, eps=1e-15)
        ends.append(run(opt, lambda w, t, scale=scale: scale * gradients[t], len(gradients)).copy())
    assert_allclose(*ends, atol=1e-9)


@laws
@given(st.floats(-1e6, 1e6))
def test_the_first_step_of_adam_and_adagrad_has_the_length_of_the_rate(g):
    assume(abs(g) > 1e-3)
    for Opt in Adam, Adagrad: assert_allclose(moved(Opt, np.array([g]), lr=.01), -.01*np.sign(g), rtol=1e-4)


@laws
@given(arrays(float, st.integers(1, 30), elements=st.floats(-1e100, 1e100)), st.floats(1e-6, 1e6))
def test_clipping_never_lengthens_and_keeps_the_direction(g, max_norm):
    before = g.copy()
    norm = clip_norm(g, max_norm)
    assert np.linalg.norm(g) <= min(norm, max_norm) * (1 + 1e-12)
    if norm <= max_norm: assert_array_equal(g, before)
    else:
        assert_allclose(np.linalg.norm(g), max_norm, rtol=1e-12)
        assert_allclose(g / max_norm, before / norm, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize('dtype, size', [('float32', 1e25), ('float64', 1e200)])
def test_clipping_survives_gradients_whose_squares_overflow(dtype, size):
    g = np.array([3, -4, 0], dtype) * np.dtype(dtype).type(size)
    with np.errstate(over='ignore'): norm = clip_norm(g, 1.)
    assert_allclose(norm, 5*size, rtol=1e-6)
    assert_allclose(g, [.6, -.8, 0], rtol=1e-6)
    assert g.dtype == dtype


@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_clipping_leaves_a_gradient_that_is_not_finite_and_says_so(wrong):
    g = np.array([1., wrong, 2.])
    with np.errstate(invalid='ignore'): norm = clip_norm(g, .1)
    assert not np.isfinite(norm)
    assert_array_equal(g, [1, wrong, 2])


def test_clipping_a_gradient_of_zeros_leaves_it():
    g = np.zeros(5)
    assert clip_norm(g, 1e-9) == 0 and not g.any()


def test_clipping_works_in_place_on_any_shape():
    table = np.arange(12.).reshape(3, 4)
    view = table[:, 1]
    assert_allclose(clip_norm(view, 1.), np.sqrt(1 + 25 + 81))
    assert_allclose(np.linalg.norm(table[:, 1]), 1)
    assert_array_equal(table[:, 0], [0, 4, 8])
    assert_allclose(clip_norm(table, 2.), np.sqrt((np.arange(12)**2).sum() - 107 + 1))


@laws
@given(st.floats(1e-6, 10), st.integers(1, 50), st.floats(0, 1), st.integers(1, 20))
def test_schedules_rise_once_and_never_leave_their_range(lr, n_steps, share, n_warm):
    schedule = warm_up(cosine(lr, n_steps, share*lr), n_warm)
    rates = np.array([schedule(t) for t in range(n_warm + n_steps + 10)])
    assert rates.max() <= lr * (1 + 1e-12) and rates.min() >= 0
    assert (np.diff(rates[:n_warm]) > 0).all() and (np.diff(rates[n_warm:]) <= 1e-12 * lr).all()
    assert_allclose(rates[n_warm - 1], lr)
    stairs = [step_decay(lr, n_warm)(t) for t in range(3*n_warm)]
    assert_allclose(stairs[::n_warm], [lr, lr/10, lr/100])


# Weight decay

def test_decay_in_adam_spares_weights_with_large_gradients_and_in_adamw_spares_none():
    ends = {}
    for Opt in Adam, AdamW:
        opt = Opt(Vectors(np.ones(2)), lr=.01, weight_decay=.1)
        ends[Opt] = run(opt, lambda w, t: (-1)**t * np.array([100, .01]), 1000)
    assert ends[Adam][0] > .95 and ends[Adam][1] < .01
    assert_allclose(ends[AdamW], .999**1000, atol=.01)


def test_sgd_with_l2_shrinks_parameters_by_lr_times_weight_decay():
    opt = SGD(Vectors(np.ones(3)), lr=.1, weight_decay=.5)
    for _ in range(4): opt.step()
    assert_allclose(opt.model.params, .95**4)


# Copies

@some
@pytest.mark.parametrize('duplicate', [lambda pair: pickle.loads(pickle.dumps(pair)), copy.deepcopy], ids=['pickle', 'deepcopy'])
def test_a_copy_of_model_and_optimizer_goes_on_bit_for_bit(Opt, kwargs, duplicate):
    model = network()
    opt = Opt(model, **kwargs)
    train(model, opt, 7)
    model2, opt2 = duplicate((model, opt))
    assert opt2.model is model2 and model2 is not model
    assert opt2.t == 7 and repr(opt2) == repr(opt)
    train(model, opt, 20, seed=1)
    train(model2, opt2, 20, seed=1)
    assert_array_equal(model2.params, model.params)
    for name in opt.state: assert_array_equal(opt2.state[name], opt.state[name])
    for layer in model2.layers:
        for p in layer.params: assert np.shares_memory(p, model2.params)


def test_an_optimizer_alone_brings_its_model_along():
    model = network()
    opt = Adam(model)
    train(model, opt, 3)
    opt2 = pickle.loads(pickle.dumps(opt))
    before = opt2.model.params.copy()
    train(opt2.model, opt2, 1)
    assert (opt2.model.params != before).any()
    assert_array_equal(model.params, before)


def test_a_pickle_of_the_same_state_is_the_same_bytes():
    def trained():
        model = network()
        opt = Adam(model, weight_decay=.1)
        train(model, opt, 3)
        return pickle.dumps(opt)
    assert trained() == trained()


# Numbers that are too small

@pytest.mark.parametrize('Opt, kwargs', [(SGD, dict(momentum=.9)), (RMSprop, dict(alpha=.9)), (Adam, dict(betas=(.9, .9)))], ids=['SGD', 'RMSprop', 'Adam'])
@pytest.mark.parametrize('dtype, n_steps', [('float32', 1280), ('float64', 8192)])
def test_a_gradient_that_dies_leaves_no_denormal_numbers(Opt, kwargs, dtype, n_steps):
    n = 10
    opt = Opt(Vectors(np.ones(n, dtype), np.linspace(.1, 1, n)), lr=1e-3, **kwargs)
    for _ in range(3): opt.step()
    opt.model.grads[::2] = 0
    while opt.t < n_steps: opt.step()
    for v in opt.state.values():
        assert not v[::2].any(), f'still {v[::2].max()}'
        assert (v[1::2] > 1e-3).all()


@laws
@given(arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32, allow_nan=False)))
def test_flushing_takes_denormal_numbers_and_nothing_else(v):
    before = v.copy()
    flush(v)
    denormal = (before != 0) & (np.abs(before) < np.float32(2.)**-126)
    assert_array_equal(v, np.where(denormal, 0, before))
