"Every rule of the table is the derivative of its operation, and `check_vjp` lets no wrong one pass"
import functools
import inspect
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb import backward, forward, loss
from backprop_nb.backward import *
from backprop_nb.forward import *
from backprop_nb.loss import *

OPS = [getattr(module, name) for module in (forward, loss) for name in module.__all__]
ELEMENTWISE = [sigmoid, tanh, relu, leaky_relu, elu, gelu, softplus]
SETTINGS = {leaky_relu: (0.3,), elu: (1.7,), huber: (0.7,)}
WITH_SETTINGS = [(op, ()) for op in OPS] + list(SETTINGS.items())
SHAPES = [(3,), (1, 1), (4, 3), (2, 4, 3)]

every_op = pytest.mark.parametrize('op', OPS, ids=lambda op: op.__name__)
every_case = pytest.mark.parametrize('op, extra', WITH_SETTINGS, ids=lambda a: getattr(a, '__name__', None) or '_'.join(map(str, a)))
every_shape = pytest.mark.parametrize('shape', SHAPES, ids=str)

def away(a, *kinks):
    "Numbers that lie at least a hundredth from every kink"
    for kink in kinks: a = np.where(np.abs(a - kink) < .01, kink + .05, a)
    return a

def arguments(op, shape, seed=0, n_out=2):
    "Inputs for `op` whose first one has this shape"
    rng = np.random.default_rng(seed)
    x = away(rng.normal(size=shape), 0)
    if op is linear: return x, rng.normal(size=(shape[-1], n_out)), rng.normal(size=n_out)
    if op is cross_entropy: return x, rng.integers(0, shape[-1], shape[:-1])
    if op is binary_cross_entropy: return x, rng.random(shape)
    if op in (mse, mae, huber): return x, x - away(1.5 * rng.normal(size=shape), 0, 1, -1, .7, -.7)
    return x,

def slopes(rule, args, y):
    "The Jacobian that a rule stands for: its answer to each unit message, flattened, one row for each output"
    units = np.eye(np.size(y)).reshape(-1, *np.shape(y))
    return np.stack([np.ravel(rule(g, y, *args)) for g in units])

def measured(op, args, i, eps=1e-6):
    "The Jacobian at input `i`, by central differences, one element at a time"
    columns = []
    for v in eps * np.eye(args[i].size).reshape(-1, *args[i].shape):
        up, down = (op(*args[:i], x, *args[i+1:]) for x in (args[i] + v, args[i] - v))
        columns.append(np.ravel(up - down) / (2*eps))
    return np.stack(columns, axis=1)

# the table

@every_op
def test_every_op_has_a_row(op):
    assert op in vjps, f'{op.__name__} has no rules'
    assert isinstance(vjps[op], tuple)

@every_op
def test_rules_stand_in_the_order_of_the_inputs_and_are_named_after_them(op):
    inputs = inspect.signature(op).parameters
    assert [rule.__name__ for rule in vjps[op]] == [f'{op.__name__}_d{name}' for name in list(inputs)[:len(vjps[op])]]
    assert all(getattr(backward, rule.__name__) is rule for rule in vjps[op])

@every_op
def test_a_rule_takes_what_its_op_takes_with_the_same_defaults(op):
    for rule in vjps[op]:
        g, y, *inputs = inspect.signature(rule).parameters.values()
        assert (g.name, y.name) == ('g', 'y')
        assert [(p.name, p.default) for p in inputs if p.name != 'out'] == [(p.name, p.default) for p in inspect.signature(op).parameters.values()]

def test_only_settings_are_without_a_rule():
    without = {(op.__name__, name) for op in OPS for name in list(inspect.signature(op).parameters)[len(vjps[op]):]}
    assert {name for _, name in without} == {'target', 'slope', 'alpha', 'delta'}

@every_op
def test_every_rule_says_in_words_what_it_does(op):
    assert all(rule.__doc__ for rule in vjps[op])

# against three judges

@every_case
@every_shape
def test_rules_equal_central_differences_element_by_element(op, extra, shape):
    args = *arguments(op, shape), *extra
    y = op(*args)
    for i, rule in enumerate(vjps[op]):
        assert_allclose(slopes(rule, args, y), measured(op, args, i), rtol=1e-7, atol=2e-9, err_msg=rule.__name__)

# textbook forms, analytic where they are not at a kink, that know nothing of the forms of the package
def _log_softmax(x): return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
def _bend(x, left): return np.where(x.real > 0, x, left)
def _huber(d, delta): return np.where(np.abs(d.real) < delta, d*d/2, delta * (d*np.sign(d.real) - delta/2))

ANALYTIC = {
    linear: lambda x, w, b: np.einsum('...i,ij->...j', x, w) + b,
    sigmoid: lambda x: 1 / (1 + np.exp(-x)),
    tanh: lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)),
    relu: lambda x: _bend(x, 0*x),
    leaky_relu: lambda x, slope=0.01: _bend(x, slope * x),
    elu: lambda x, alpha=1.0: _bend(x, alpha * (np.exp(x) - 1)),
    gelu: lambda x: x/2 * (1 + np.tanh(np.sqrt(2/np.pi) * (x + 0.044715*x**3))),
    softplus: lambda x: np.log(1 + np.exp(x)),
    softmax: lambda x: np.exp(_log_softmax(x)),
    logsumexp: lambda x: np.log(np.exp(x).sum(axis=-1)),
    mse: lambda x, target: ((x - target)**2).mean(),
    mae: lambda x, target: ((x - target) * np.sign((x - target).real)).mean(),
    huber: lambda x, target, delta=1.0: _huber(x - target, delta).mean(),
    binary_cross_entropy: lambda x, target: -(target * np.log(1/(1 + np.exp(-x))) + (1 - target) * np.log(1/(1 + np.exp(x)))).mean(),
    cross_entropy: lambda x, target: -np.take_along_axis(_log_softmax(x), np.expand_dims(target, -1), -1).mean(),
}

@every_case
@every_shape
def test_rules_equal_the_complex_step_element_by_element(op, extra, shape):
    args, textbook = (*arguments(op, shape), *extra), ANALYTIC[op]
    y = op(*args)
    assert_allclose(textbook(*args), y, rtol=1e-13, atol=1e-14)
    for i, rule in enumerate(vjps[op]):
        steps = 1e-30j * np.eye(args[i].size).reshape(-1, *args[i].shape)
        J = np.stack([np.ravel(textbook(*args[:i], args[i] + v, *args[i+1:]).imag) for v in steps], axis=1) / 1e-30
        assert_allclose(slopes(rule, args, y), J, rtol=1e-11, atol=1e-14, err_msg=rule.__name__)

def peers():
    "What PyTorch calls our operations"
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    F = torch.nn.functional
    def classes_second(x, target): return F.cross_entropy(x.movedim(-1, 1) if x.ndim > 1 else x, target)
    return torch, {
        linear: lambda x, w, b: F.linear(x, w.T, b), sigmoid: torch.sigmoid, tanh: torch.tanh, relu: F.relu,
        leaky_relu: F.leaky_relu, elu: F.elu, gelu: lambda x: F.gelu(x, approximate='tanh'), softplus: F.softplus,
        softmax: lambda x: F.softmax(x, dim=-1), logsumexp: lambda x: torch.logsumexp(x, dim=-1),
        mse: F.mse_loss, mae: F.l1_loss, huber: lambda x, target, delta=1.0: F.huber_loss(x, target, delta=delta),
        binary_cross_entropy: F.binary_cross_entropy_with_logits, cross_entropy: classes_second}

@every_case
@every_shape
def test_rules_equal_pytorch(op, extra, shape):
    torch, peer = peers()
    args = *arguments(op, shape, seed=1), *extra
    theirs = [torch.tensor(a) if isinstance(a, np.ndarray) or np.ndim(a) == 0 and op is cross_entropy else a for a in args]
    leaves = [t.requires_grad_() for t in theirs[:len(vjps[op])]]
    y = op(*args)
    g = np.random.default_rng(2).normal(size=np.shape(y))
    output = peer[op](*theirs)
    output.backward(torch.tensor(g))
    assert_allclose(y, output.detach(), rtol=1e-12, atol=1e-15)
    for rule, leaf in zip(vjps[op], leaves):
        assert_allclose(rule(g, y, *args), leaf.grad, rtol=1e-10, atol=1e-15, err_msg=rule.__name__)

@pytest.mark.parametrize('op', [relu, leaky_relu, elu, mae], ids=lambda op: op.__name__)
def test_at_a_kink_we_choose_as_pytorch_does(op):
    torch, peer = peers()
    x, rest = np.zeros(1), [np.zeros(1)] if op is mae else []
    leaf = torch.tensor(x, requires_grad=True)
    peer[op](leaf, *map(torch.tensor, rest)).sum().backward()
    assert vjps[op][0](1., op(x, *rest), x, *rest) == leaf.grad.numpy()

# extremes

def no_warnings(rule, *args):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        return rule(*args)

RIGHT = {sigmoid: (0, 0), tanh: (0, 0), relu: (0, 1), leaky_relu: (.01, 1), elu: (0, 1), gelu: (0, 1), softplus: (0, 1)}

@pytest.mark.parametrize('far', [1e4, 1e30])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('op', ELEMENTWISE, ids=lambda op: op.__name__)
def test_activations_far_out_have_their_limiting_slope(op, dtype, far):
    x = np.array([-far, far], dtype)
    d = no_warnings(vjps[op][0], np.ones(2, dtype), op(x), x)
    assert_allclose(d, RIGHT[op], rtol=1e-6)

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_huge_scores_have_finite_right_gradients(dtype):
    x, target = np.array([[1e4, -1e4, 0], [-1e4, 0, 1e4]], dtype), np.array([0, 0])
    assert_allclose(no_warnings(cross_entropy_dx, 1, None, x, target), [[0, 0, 0], [-.5, 0, .5]])
    assert_allclose(no_warnings(logsumexp_dx, np.ones(2, dtype), logsumexp(x), x), [[1, 0, 0], [0, 0, 1]])
    assert_allclose(no_warnings(softmax_dx, np.ones((2, 3), dtype), softmax(x), x), np.zeros((2, 3)))
    x, target = np.array([1e4, -1e4, 1e4, -1e4], dtype), np.array([1, 0, 0, 1], dtype)
    assert_allclose(no_warnings(binary_cross_entropy_dx, 1, None, x, target), [0, 0, .25, -.25])

@pytest.mark.parametrize('x, t', [(-30., 0), (-700., 0), (-5., 0)])
def test_a_small_binary_gradient_keeps_its_digits(x, t):
    assert_allclose(binary_cross_entropy_dx(1, None, np.array([x]), np.array([t])), [np.exp(x) / (1 + np.exp(x))], rtol=1e-14)

MASKS = relu, leaky_relu   # their rules only ask where x is positive; the forward pass has shown the NaN

@pytest.mark.parametrize('op', [op for op in OPS if op not in MASKS], ids=lambda op: op.__name__)
def test_nan_is_not_hidden(op):
    args = arguments(op, (4, 3))
    args[0][1, 2] = np.nan
    y = op(*args)
    g = np.ones(np.shape(y))
    assert any(np.isnan(rule(g, y, *args)).any() for rule in vjps[op])

# dtypes, memory, layouts

@every_case
def test_float32_stays_float32(op, extra):
    args = [a.astype(np.float32) if a.dtype == float else a for a in arguments(op, (4, 3))]
    y = op(*args, *extra)
    assert y.dtype == np.float32
    for rule in vjps[op]:
        assert rule(np.ones_like(y), y, *args, *extra).dtype == np.float32, rule.__name__
        if np.ndim(y) == 0:
            for g in (1, 1., np.float32(1)): assert rule(g, y, *args, *extra).dtype == np.float32, rule.__name__

RULES = [pytest.param(op, i, id=rule.__name__) for op in OPS for i, rule in enumerate(vjps[op])]

def test_rules_of_parameters_take_out():
    assert [p.id for p in RULES if 'out' in inspect.signature(vjps[p.values[0]][p.values[1]]).parameters] == ['linear_dw', 'linear_db']

@pytest.mark.parametrize('shape', [(3,), (4, 3), (2, 4, 3)], ids=str)
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('i', [1, 2], ids=['linear_dw', 'linear_db'])
def test_out_is_written_and_returned(i, dtype, shape):
    args = [a.astype(dtype) for a in arguments(linear, shape)]
    y = linear(*args)
    g = np.random.default_rng(3).normal(size=y.shape).astype(dtype)
    rule, flat = vjps[linear][i], np.full(20, np.nan, dtype)
    out = flat[5:5 + args[i].size].reshape(args[i].shape)   # a view into a longer vector, as in a model
    assert rule(g, y, *args, out=out) is out
    assert_array_equal(out, rule(g, y, *args))
    assert np.isnan(flat[:5]).all() and np.isnan(flat[5 + out.size:]).all()

def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a

@every_case
@every_shape
def test_rules_never_write_to_their_inputs(op, extra, shape):
    args = [*map(frozen, arguments(op, shape)), *extra]
    y = frozen(op(*args))
    g = frozen(np.random.default_rng(4).normal(size=y.shape))
    for rule in vjps[op]:
        d = rule(g, y, *args)   # a write to a read-only array raises
        assert not any(np.shares_memory(d, a) for a in (g, y, *args)), f'{rule.__name__} returns a view of what it was given'

LAYOUTS = {'fortran': np.asfortranarray, 'every other': lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
           'backward': lambda a: a[..., ::-1].copy()[..., ::-1], 'turned': lambda a: a.T.copy().T}

@every_case
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('shape', [(3,), (4, 3), (2, 4, 3)], ids=str)
def test_the_layout_in_memory_does_not_matter(op, extra, layout, shape):
    args = *arguments(op, shape), *extra
    y = op(*args)
    g = np.random.default_rng(5).normal(size=np.shape(y))
    strange = [LAYOUTS[layout](a) if np.ndim(a) else a for a in args]
    g2, y2 = (LAYOUTS[layout](a) if np.ndim(a) else a for a in (g, y))
    for rule in vjps[op]:
        assert_allclose(rule(g2, y2, *strange), rule(g, y, *args), rtol=1e-13, atol=1e-15, err_msg=rule.__name__)

# laws

shapes = array_shapes(min_dims=1, max_dims=4, max_side=4)
seeds = st.integers(0, 2**32 - 1)

@settings(max_examples=150, deadline=None)
@given(st.sampled_from(WITH_SETTINGS), shapes, seeds, st.integers(1, 4))
def test_any_shape_passes_the_check(case, shape, seed, n_out):
    op, extra = case
    check_vjp(op, *arguments(op, shape, seed, n_out), *extra)

@settings(max_examples=100, deadline=None)
@given(st.sampled_from(WITH_SETTINGS), shapes, seeds)
def test_a_rule_is_linear_in_g(case, shape, seed):
    op, extra = case
    args, rng = (*arguments(op, shape, seed), *extra), np.random.default_rng(seed)
    y = op(*args)
    g1, g2 = rng.normal(size=(2, *np.shape(y)))
    for rule in vjps[op]:
        assert_allclose(rule(2*g1 - 3*g2, y, *args), 2*rule(g1, y, *args) - 3*rule(g2, y, *args), rtol=1e-9, atol=1e-12)

@settings(max_examples=100, deadline=None)
@given(shapes, seeds)
def test_what_comes_back_from_shares_sums_to_zero(shape, seed):
    x, = arguments(softmax, shape, seed)
    g = np.random.default_rng(seed).normal(size=shape)
    assert_allclose(softmax_dx(g, softmax(x), x).sum(axis=-1), 0, atol=1e-14)
    assert_allclose(cross_entropy_dx(1, None, *arguments(cross_entropy, shape, seed)).sum(axis=-1), 0, atol=1e-14)

@settings(max_examples=100, deadline=None)
@given(shapes, seeds)
def test_a_long_batch_is_the_sum_of_its_parts(shape, seed):
    shape = (2, *shape)
    x, w, b = arguments(linear, shape, seed)
    g = np.random.default_rng(seed).normal(size=(*shape[:-1], 2))
    for rule in (linear_dw, linear_db):
        assert_allclose(rule(g, None, x, w, b), sum(rule(gi, None, xi, w, b) for gi, xi in zip(g, x)), rtol=1e-10, atol=1e-13)

@given(shapes)
def test_rows_keeps_the_last_axis_and_copies_nothing(shape):
    a = np.zeros(shape)
    assert rows(a).shape == (a.size // shape[-1], shape[-1])
    assert np.shares_memory(rows(a), a)

# check_vjp

def check(monkeypatch, op, i, rule, *args):
    "Put `rule` in the place of rule `i` and check"
    right = vjps[op]
    monkeypatch.setitem(vjps, op, (*right[:i], rule, *right[i+1:]))
    check_vjp(op, *args)

def onehot(target, k): return (np.arange(k) == target[..., None]).astype(float)

BATCH, SQUARE, TIME = (4, 3), (3, 3), (2, 4, 3)

WRONG = [   # op, which rule, shape of x, what is wrong, the wrong rule
    (linear, 0, SQUARE, 'forgotten transpose', lambda g, y, x, w, b: g @ w),
    (linear, 0, SQUARE, 'x for w', lambda g, y, x, w, b: g @ x),
    (linear, 0, BATCH, 'transposed result', lambda g, y, x, w, b: (g @ w.T).T),
    (linear, 0, SQUARE, 'transposed result of a square', lambda g, y, x, w, b: (g @ w.T).T),
    (linear, 0, BATCH, 'mean over the batch', lambda g, y, x, w, b: g @ w.T / len(x)),
    (linear, 0, BATCH, 'the bias sent back too', lambda g, y, x, w, b: (g + b) @ w.T),
    (linear, 1, SQUARE, 'operands swapped', lambda g, y, x, w, b: g.T @ x),
    (linear, 1, SQUARE, 'forgotten transpose', lambda g, y, x, w, b: x @ g),
    (linear, 1, BATCH, 'mean over the batch', lambda g, y, x, w, b: x.T @ g / len(x)),
    (linear, 1, BATCH, 'first example only', lambda g, y, x, w, b: np.outer(x[0], g[0])),
    (linear, 1, BATCH, 'last example lost', lambda g, y, x, w, b: x[:-1].T @ g[:-1]),
    (linear, 1, TIME, 'last time step only', lambda g, y, x, w, b: x[:, -1].T @ g[:, -1]),
    (linear, 1, TIME, 'batch not summed', lambda g, y, x, w, b: x.swapaxes(1, 2) @ g),
    (linear, 1, BATCH, 'summed before multiplying', lambda g, y, x, w, b: np.outer(x.sum(0), g.sum(0))),
    (linear, 2, BATCH, 'forgotten batch sum', lambda g, y, x, w, b: g),
    (linear, 2, BATCH, 'mean over the batch', lambda g, y, x, w, b: g.mean(axis=0)),
    (linear, 2, BATCH, 'an axis kept', lambda g, y, x, w, b: g.sum(axis=0, keepdims=True)),
    (linear, 2, BATCH, 'everything summed', lambda g, y, x, w, b: g.sum()),
    (linear, 2, SQUARE, 'wrong axis', lambda g, y, x, w, b: g.sum(axis=1)),
    (linear, 2, BATCH, 'last example only', lambda g, y, x, w, b: g[-1]),
    (linear, 2, TIME, 'one axis of two summed', lambda g, y, x, w, b: g.sum(axis=0)),
    (linear, 2, BATCH, 'times the bias', lambda g, y, x, w, b: g.sum(axis=0) * b),
    (sigmoid, 0, BATCH, 'slope of the input', lambda g, y, x: g * x * (1 - x)),
    (sigmoid, 0, BATCH, 'applied twice', lambda g, y, x: g * sigmoid(y) * (1 - sigmoid(y))),
    (sigmoid, 0, BATCH, 'message lost', lambda g, y, x: y * (1 - y)),
    (sigmoid, 0, BATCH, 'slope of tanh', lambda g, y, x: g * (1 - y*y)),
    (sigmoid, 0, BATCH, 'slope lost', lambda g, y, x: g),
    (tanh, 0, BATCH, 'lost square', lambda g, y, x: g * (1 - y)),
    (tanh, 0, BATCH, 'slope of the input', lambda g, y, x: g * (1 - x*x)),
    (tanh, 0, BATCH, 'applied twice', lambda g, y, x: g * (1 - np.tanh(y)**2)),
    (tanh, 0, BATCH, 'wrong sign', lambda g, y, x: g * (y*y - 1)),
    (tanh, 0, BATCH, 'brackets', lambda g, y, x: g * 1 - y*y),
    (relu, 0, BATCH, 'mask of the message', lambda g, y, x: g * (g > 0)),
    (relu, 0, BATCH, 'mask upside down', lambda g, y, x: g * (x < 0)),
    (relu, 0, BATCH, 'mask lost', lambda g, y, x: g),
    (relu, 0, BATCH, 'mask without message', lambda g, y, x: (y > 0) * 1.),
    (relu, 0, BATCH, 'times the output', lambda g, y, x: g * y),
    (leaky_relu, 0, BATCH, 'no leak', lambda g, y, x, slope=0.01: g * (x > 0)),
    (leaky_relu, 0, BATCH, 'setting ignored', lambda g, y, x, slope=0.01: np.where(x > 0, g, .01*g)),
    (leaky_relu, 0, BATCH, 'sides swapped', lambda g, y, x, slope=0.01: np.where(x > 0, slope*g, g)),
    (leaky_relu, 0, BATCH, 'the value for the slope', lambda g, y, x, slope=0.01: np.where(x > 0, g, slope*x*g)),
    (elu, 0, BATCH, 'setting ignored', lambda g, y, x, alpha=1.0: np.where(x > 0, g, g * (y + 1))),
    (elu, 0, BATCH, 'the value for the slope', lambda g, y, x, alpha=1.0: np.where(x > 0, g, g * y)),
    (elu, 0, BATCH, 'factor lost', lambda g, y, x, alpha=1.0: np.where(x > 0, g, g * np.exp(x))),
    (softplus, 0, BATCH, 'other side', lambda g, y, x: g * sigmoid(-x)),
    (softplus, 0, BATCH, 'sigmoid of the output', lambda g, y, x: g * sigmoid(y)),
    (softplus, 0, BATCH, 'one derivative too many', lambda g, y, x: g * sigmoid(x) * (1 - sigmoid(x))),
    (gelu, 0, BATCH, 'second road lost', lambda g, y, x: g * y / x),
    (gelu, 0, BATCH, 'another gelu', lambda g, y, x: g * sigmoid(1.702*x) * (1 + 1.702*x*sigmoid(-1.702*x))),
    (gelu, 0, BATCH, 'exact form', lambda g, y, x: g * (y/x + x * np.exp(-x*x/2) / np.sqrt(2*np.pi))),
    (gelu, 0, BATCH, 'cube left as it was', lambda g, y, x: g * (y/x + y * (1 - y/x) * np.sqrt(8/np.pi) * (1 + 0.044715*x*x))),
    (softmax, 0, BATCH, 'diagonal only', lambda g, y, x: g * y * (1 - y)),
    (softmax, 0, BATCH, 'average not weighted', lambda g, y, x: y * (g - g.mean(axis=-1, keepdims=True))),
    (softmax, 0, BATCH, 'sum over everything', lambda g, y, x: y * (g - (g*y).sum())),
    (softmax, 0, SQUARE, 'an axis lost', lambda g, y, x: y * (g - (g*y).sum(axis=-1))),
    (softmax, 0, BATCH, 'wrong axis', lambda g, y, x: y * (g - (g*y).sum(axis=0))),
    (softmax, 0, BATCH, 'shares lost', lambda g, y, x: g - (g*y).sum(axis=-1, keepdims=True)),
    (logsumexp, 0, BATCH, 'not normalised', lambda g, y, x: g[..., None] * np.exp(x)),
    (logsumexp, 0, SQUARE, 'message along the wrong axis', lambda g, y, x: g * softmax(x)),
    (logsumexp, 0, BATCH, 'the maximum only', lambda g, y, x: g[..., None] * (x == x.max(axis=-1, keepdims=True))),
    (mse, 0, BATCH, 'factor of the square lost', lambda g, y, x, target: g * (x - target) / x.size),
    (mse, 0, BATCH, 'lost mean', lambda g, y, x, target: g * 2 * (x - target)),
    (mse, 0, BATCH, 'mean over rows only', lambda g, y, x, target: g * 2 * (x - target) / len(x)),
    (mse, 0, BATCH, 'wrong sign', lambda g, y, x, target: g * 2 * (target - x) / x.size),
    (mse, 0, BATCH, 'message lost', lambda g, y, x, target: 2 * (x - target) / x.size),
    (mae, 0, BATCH, 'the error for its sign', lambda g, y, x, target: g * (x - target) / x.size),
    (mae, 0, BATCH, 'lost mean', lambda g, y, x, target: g * np.sign(x - target)),
    (mae, 0, BATCH, 'sign of the prediction', lambda g, y, x, target: g * np.sign(x) / x.size),
    (huber, 0, BATCH, 'never clipped', lambda g, y, x, target, delta=1.0: g * (x - target) / x.size),
    (huber, 0, BATCH, 'setting ignored', lambda g, y, x, target, delta=1.0: g * np.clip(x - target, -1, 1) / x.size),
    (huber, 0, BATCH, 'always clipped', lambda g, y, x, target, delta=1.0: g * delta * np.sign(x - target) / x.size),
    (huber, 0, BATCH, 'clipped on one side', lambda g, y, x, target, delta=1.0: g * np.minimum(x - target, delta) / x.size),
    (binary_cross_entropy, 0, BATCH, 'lost mean', lambda g, y, x, target: g * (sigmoid(x) - target)),
    (binary_cross_entropy, 0, BATCH, 'mean over rows only', lambda g, y, x, target: g * (sigmoid(x) - target) / len(x)),
    (binary_cross_entropy, 0, BATCH, 'score for prediction', lambda g, y, x, target: g * (x - target) / x.size),
    (binary_cross_entropy, 0, BATCH, 'slope of the sigmoid once more', lambda g, y, x, target: g * (sigmoid(x) - target) * sigmoid(x) * sigmoid(-x) / x.size),
    (binary_cross_entropy, 0, BATCH, 'target rounded', lambda g, y, x, target: g * (sigmoid(x) - np.round(target)) / x.size),
    (cross_entropy, 0, BATCH, 'lost mean', lambda g, y, x, target: g * (softmax(x) - onehot(target, 3))),
    (cross_entropy, 0, BATCH, 'mean over everything', lambda g, y, x, target: g * (softmax(x) - onehot(target, 3)) / x.size),
    (cross_entropy, 0, TIME, 'mean over the first axis only', lambda g, y, x, target: g * (softmax(x) - onehot(target, 3)) / len(x)),
    (cross_entropy, 0, BATCH, 'target lost', lambda g, y, x, target: g * softmax(x) / target.size),
    (cross_entropy, 0, BATCH, 'target off by one', lambda g, y, x, target: g * (softmax(x) - onehot((target + 1) % 3, 3)) / target.size),
    (cross_entropy, 0, BATCH, 'shares over the wrong axis', lambda g, y, x, target: g * (softmax(x.T).T - onehot(target, 3)) / target.size),
    (cross_entropy, 0, BATCH, 'right class only', lambda g, y, x, target: g * (softmax(x) - 1) * onehot(target, 3) / target.size),
    (cross_entropy, 0, BATCH, 'message lost', lambda g, y, x, target: (softmax(x) - onehot(target, 3)) / target.size),
    (cross_entropy, 0, BATCH, 'softmax rule once more', lambda g, y, x, target: softmax_dx(g * (softmax(x) - onehot(target, 3)) / target.size, softmax(x), x)),
]

def test_the_bank_of_wrong_rules_covers_every_rule():
    assert len(WRONG) >= 25
    assert {(op, i) for op, i, *_ in WRONG} == {(op, i) for op in OPS for i in range(len(vjps[op]))}

@pytest.mark.parametrize('op, i, shape, what, wrong', WRONG, ids=[f'{vjps[w[0]][w[1]].__name__}-{w[3]}' for w in WRONG])
def test_a_wrong_rule_is_refused_by_name(monkeypatch, op, i, shape, what, wrong):
    args = *arguments(op, shape, n_out=3), *SETTINGS.get(op, ())
    wrong.__name__ = f'wrong_{op.__name__}_rule'
    with pytest.raises(AssertionError, match=rf'^wrong_{op.__name__}_rule \(input {i} of {op.__name__}\): .*expected .*came '):
        check(monkeypatch, op, i, wrong, *args)

SPOILERS = {
    'a ten-thousandth too large': lambda d: d * 1.0001,
    'wrong sign': lambda d: -d,
    'zero': lambda d: d * 0,
    'one element lost': lambda d: d * (np.arange(d.size) != np.abs(d).argmax()).reshape(d.shape),
    'a little added': lambda d: d + 1e-4,
    'not a number': lambda d: d * np.nan,
    'infinite': lambda d: d + np.inf,
    'an axis more': lambda d: d[None],
    'flattened': lambda d: d.ravel() if d.ndim > 1 else d[:, None],
    'nothing returned': lambda d: None,
}

@pytest.mark.parametrize('spoil', SPOILERS)
@pytest.mark.parametrize('op, i', RULES)
def test_a_spoiled_rule_is_refused_by_name(monkeypatch, op, i, spoil):
    right = vjps[op][i]
    @functools.wraps(right)
    def spoiled(*args): return SPOILERS[spoil](right(*args))
    with pytest.raises(AssertionError, match=rf'^{right.__name__} '): check(monkeypatch, op, i, spoiled, *arguments(op, (4, 3)))

@every_case
def test_check_vjp_takes_settings_lists_and_float32(op, extra):
    args = arguments(op, (4, 3))
    check_vjp(op, *args, *extra)
    check_vjp(op, *[a.astype(np.float32) if a.dtype == float else a for a in args], *extra)
    check_vjp(op, *[a.tolist() for a in args[:len(vjps[op])]], *args[len(vjps[op]):], *extra)

def test_check_vjp_hands_float64_to_ops_and_rules(monkeypatch):
    kinds = []
    def seen(g, y, x):
        kinds.extend([g.dtype, y.dtype, x.dtype])
        return tanh_dx(g, y, x)
    check(monkeypatch, tanh, 0, seen, np.ones(3, np.float32))
    assert kinds == [float] * 3

def test_check_vjp_takes_whole_numbers_and_single_ones():
    check_vjp(linear, np.arange(6).reshape(2, 3), np.ones((3, 2), int), np.zeros(2, int))
    for op in ELEMENTWISE: check_vjp(op, .5)

@every_op
def test_check_vjp_writes_to_nothing_and_always_asks_the_same(op):
    args = arguments(op, (4, 3))
    before = [a.copy() for a in args]
    assert check_vjp(op, *args) is check_vjp(op, *map(frozen, args)) is None
    for a, b in zip(args, before): assert_array_equal(a, b)

def test_check_vjp_names_an_op_without_rules():
    def cube(x): return x**3
    with pytest.raises(AssertionError, match='cube has no row in vjps'): check_vjp(cube, np.ones(3))

def test_check_vjp_shows_both_shapes(monkeypatch):
    with pytest.raises(AssertionError, match=r'expected a gradient of shape \(2,\), came \(4, 2\)'):
        check(monkeypatch, linear, 2, lambda g, y, x, w, b: g, *arguments(linear, (4, 3)))

def test_check_vjp_names_the_first_of_several_rules_that_is_wrong(monkeypatch):
    def linear_dw(g, y, x, w, b): return -x.T @ g
    with pytest.raises(AssertionError, match=r'^linear_dw \(input 1 of linear\)'): check(monkeypatch, linear, 1, linear_dw, *arguments(linear, (4, 3)))

def test_a_factor_shows_in_the_message(monkeypatch):
    with pytest.raises(AssertionError) as refused: check(monkeypatch, mse, 0, lambda g, y, x, target: 2 * g * (x - target), *arguments(mse, (4, 3)))
    expected, came = (np.array([float(n) for n in part.split(', ')]) for part in str(refused.value).split('expected ')[1].split('; came '))
    assert_allclose(came / expected, 12, rtol=1e-3)

def test_a_kink_within_a_nudge_is_reported_and_a_smaller_nudge_clears_it():
    x = np.array([3e-7, -1, 2])
    with pytest.raises(AssertionError, match='relu_dx'): check_vjp(relu, x)
    check_vjp(relu, x, eps=1e-8)

def test_a_large_layer_takes_a_moment():
    check_vjp(linear, *arguments(linear, (64, 784), n_out=128))
