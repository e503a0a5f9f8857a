"""What page 1 promises of every operation in `backprop_nb.forward`."""
import inspect
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb import forward
from backprop_nb.forward import elu, gelu, leaky_relu, linear, relu, sigmoid, softmax, softplus, tanh

elementwise = [sigmoid, tanh, relu, leaky_relu, elu, gelu, softplus]
ops = elementwise + [softmax]
each = pytest.mark.parametrize('op', elementwise, ids=lambda f: f.__name__)
every = pytest.mark.parametrize('op', ops, ids=lambda f: f.__name__)

extremes = np.array([s*m for m in (0., 5e-324, 1e-300, 1e-10, 40, 500, 709, 745, 800, 1e4, 1e300) for s in (1, -1)])
grid = np.concatenate([np.linspace(-30, 30, 2001), extremes])


@pytest.fixture
def rng(): return np.random.default_rng(0)


@pytest.fixture
def silence():
    "Every warning is an error. Underflow stays allowed, as it is in NumPy: what is smaller than any float is 0."
    with np.errstate(all='raise', under='ignore'), warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


def floats(limit=1e4): return st.floats(-limit, limit)


def vectors(limit=1e4): return arrays(float, st.integers(1, 20), elements=floats(limit))


def matrices(limit=1e4): return arrays(float, array_shapes(min_dims=2, max_dims=3, max_side=5), elements=floats(limit))


# --- agreement with PyTorch ------------------------------------------------------------------------------------------------------

def peer(op):
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    F = torch.nn.functional
    table = {sigmoid: torch.sigmoid, tanh: torch.tanh, relu: F.relu, leaky_relu: F.leaky_relu, elu: F.elu,
             gelu: lambda x: F.gelu(x, approximate='tanh'),
             softplus: lambda x: -F.logsigmoid(-x),      # torch's softplus replaces log(1 + e^x) by x above 20, which costs 2e-9
             softmax: lambda x: F.softmax(x, -1)}
    return lambda x: table[op](torch.tensor(x)).numpy()


@each
def test_equals_pytorch_also_far_out(op, silence):
    # the tanh form of gelu is x(1 + tanh): its error is relative to x, and not to what is left of it
    tolerance = dict(rtol=1e-12, atol=1e-15 if op is gelu else 1e-300)
    assert_allclose(op(grid), peer(op)(grid), **tolerance)


@pytest.mark.parametrize('shape', [(7,), (5, 3), (4, 6, 3), (1, 1), (2, 1, 9)])
@pytest.mark.parametrize('scale', [1, 1e2, 1e4, 1e300])
def test_softmax_equals_pytorch(shape, scale, rng, silence):
    x = rng.normal(size=shape) * scale
    assert_allclose(softmax(x), peer(softmax)(x), rtol=1e-12, atol=1e-300)


@every
@pytest.mark.parametrize('shape', [(8, 5), (3, 8, 5)])
def test_equals_pytorch_in_float32(op, shape, rng):
    x = (rng.normal(size=shape) * 4).astype(np.float32)
    assert_allclose(op(x), peer(op)(x), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize('slope', [0, .01, .3, 1, 2, -.5])
def test_leaky_relu_slope_equals_pytorch(slope):
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    assert_array_equal(leaky_relu(grid, slope), torch.nn.functional.leaky_relu(torch.tensor(grid), slope).numpy())


@pytest.mark.parametrize('alpha', [0, .5, 1, 2])
def test_elu_alpha_equals_pytorch(alpha):
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    assert_allclose(elu(grid, alpha), torch.nn.functional.elu(torch.tensor(grid), alpha).numpy(), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize('shape', [(3,), (1, 3), (6, 3), (2, 5, 3), (2, 4, 5, 3), (0, 3)])
def test_linear_equals_pytorch_with_the_transposed_weights(shape, rng):
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    x, w, b = rng.normal(size=shape), rng.normal(size=(3, 4)), rng.normal(size=4)
    y = torch.nn.functional.linear(*map(torch.tensor, (x, w.T.copy(), b))).numpy()
    assert y.shape == shape[:-1] + (4,)
    assert_allclose(linear(x, w, b), y, rtol=1e-12, atol=1e-14)


# --- far out ---------------------------------------------------------------------------------------------------------------------

@each
def test_no_input_overflows(op, silence):
    for dtype in (np.float64, np.float32, np.float16):
        top = np.finfo(dtype).max
        x = np.array([-top, -1e4, -60, -1, 0, 1, 60, 1e4, top], dtype)
        assert np.isfinite(op(x)).all(), dtype


def test_softmax_of_huge_scores_is_silent_and_sums_to_one(silence):
    for dtype in (np.float64, np.float32, np.float16):
        top = np.finfo(dtype).max / 4
        y = softmax(np.array([[-top, 0, top], [top, top, -top], [-top, -top, -top]], dtype))
        assert_allclose(y, [[0, 0, 1], [.5, .5, 0], [1/3]*3], atol=1e-3)


@pytest.mark.parametrize('op, left, right', [
    (sigmoid, 0, 1), (tanh, -1, 1), (relu, 0, np.inf), (leaky_relu, -np.inf, np.inf), (elu, -1, np.inf), (gelu, 0, np.inf), (softplus, 0, np.inf)],
    ids=lambda v: getattr(v, '__name__', ''))
def test_infinity_gives_the_limit(op, left, right, silence):
    assert_array_equal(op(np.array([-np.inf, np.inf])), [left, right])


def test_softmax_gives_a_forbidden_score_nothing(silence):
    assert_array_equal(softmax(np.array([[-np.inf, 3, 3], [-np.inf, -np.inf, 0]])), [[0, .5, .5], [0, 0, 1]])


@pytest.mark.parametrize('x', [-20., -40., -100., -700.])
def test_small_values_keep_their_digits(x):
    assert math.isclose(sigmoid(x), 1 / (1 + math.exp(-x)), rel_tol=1e-13)
    assert math.isclose(softplus(x), math.log1p(math.exp(x)), rel_tol=1e-13)
    assert math.isclose(elu(x / 1e12), math.expm1(x / 1e12), rel_tol=1e-13)


@every
def test_nan_stays_nan_and_touches_nothing_else(op):
    x = np.array([[1., -2, 3], [-1, 2, .5]])
    dirty = x.copy()
    dirty[0, 1] = np.nan
    lost = np.isnan(dirty) if op is not softmax else np.array([[True]*3, [False]*3])     # a row of shares is lost as a whole
    y = op(dirty)
    assert_array_equal(np.isnan(y), lost)
    assert_array_equal(y[~lost], op(x)[~lost])


def test_linear_keeps_nan_in_its_row(rng):
    x, w, b = rng.normal(size=(3, 4)), rng.normal(size=(4, 2)), rng.normal(size=2)
    dirty = x.copy()
    dirty[1, 2] = np.nan
    assert_array_equal(np.isnan(linear(dirty, w, b)), [[False]*2, [True]*2, [False]*2])


# --- what may come in, and what goes out --------------------------------------------------------------------------------------------

@every
@pytest.mark.parametrize('dtype, tolerance', [(np.float64, 1e-14), (np.float32, 2e-6), (np.float16, 4e-3)])
def test_dtype_stays(op, dtype, tolerance, rng):
    x = rng.normal(size=(6, 5)).astype(dtype) * 3
    y = op(x)
    assert y.dtype == dtype
    assert_allclose(y, op(x.astype(float)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('dtype', [np.float64, np.float32, np.float16])
def test_dtype_stays_in_linear(dtype):
    assert linear(np.ones((2, 3), dtype), np.ones((3, 4), dtype), np.ones(4, dtype)).dtype == dtype


@every
@pytest.mark.parametrize('shape', [(4,), (3, 4), (2, 3, 4), (0, 4), (2, 0, 4), (5, 1)])
def test_shape_stays(op, shape, rng):
    assert op(rng.normal(size=shape)).shape == shape


@each
def test_plain_numbers_are_welcome(op):
    assert np.shape(op(.5)) == () and np.isclose(op(.5), op(np.array([.5]))[0], rtol=1e-15)
    assert op(2) == op(2.)


@every
def test_inputs_are_never_written_to_nor_handed_out(op, rng):
    x = rng.normal(size=(4, 5)) * 20
    before = x.copy()
    y = op(x)
    y += 1
    assert_array_equal(x, before)
    assert not np.shares_memory(x, y)


def test_linear_never_writes_to_its_inputs(rng):
    args = rng.normal(size=(4, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)
    before = [a.copy() for a in args]
    y = linear(*args)
    y += 1
    for a, old in zip(args, before): assert_array_equal(a, old)
    assert not any(np.shares_memory(y, a) for a in args)


def guises(x):
    "The same numbers in other clothes"
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.zeros((*x.shape[:-1], 2*x.shape[-1]))
    wide[..., ::2] = x
    return {'read-only': frozen, 'strided': wide[..., ::2], 'backwards': x[..., ::-1].copy()[..., ::-1], 'Fortran': np.asfortranarray(x),
            'transposed': x.T.copy().T, 'big-endian': x.astype('>f8'), 'list': x.tolist()}


@every
@pytest.mark.parametrize('shape', [(6, 4), (2, 3, 4)])
def test_clothes_do_not_matter(op, shape, rng):
    x = rng.normal(size=shape) * 5
    for name, same in guises(x).items(): assert_allclose(op(same), op(x), rtol=1e-14, atol=1e-300, err_msg=name)


@pytest.mark.parametrize('shape', [(6, 4), (2, 3, 4)])
def test_clothes_do_not_matter_to_linear(shape, rng):
    x, w, b = rng.normal(size=shape), rng.normal(size=(4, 3)), rng.normal(size=3)
    for name, same in guises(x).items(): assert_allclose(linear(same, w, b), linear(x, w, b), rtol=1e-13, atol=1e-14, err_msg=name)
    for name, same in guises(w).items():
        if name != 'list': assert_allclose(linear(x, same, b), linear(x, w, b), rtol=1e-13, atol=1e-14, err_msg=name)


@every
@pytest.mark.parametrize('dtype', ['i4', 'i8', '>i8'])
def test_whole_numbers_are_welcome(op, dtype):
    whole = np.array([[-3, 0, 2], [7, -1, 40]], dtype)
    assert_allclose(op(whole), op(whole.astype(float)), rtol=1e-14)


@each
def test_pixels_are_welcome(op):
    pixels = np.array([0, 1, 3, 10], np.uint8)     # -x of a byte wraps round: 256 - x
    assert_allclose(op(pixels), op(pixels.astype(float)), rtol=1e-3 if op is tanh else 1e-14)


# --- laws ------------------------------------------------------------------------------------------------------------------------

@given(vectors())
def test_sigmoid_laws(x):
    y = sigmoid(x)
    assert ((y >= 0) & (y <= 1)).all()
    assert_allclose(sigmoid(-x), 1 - y, atol=2e-16)
    assert (np.diff(sigmoid(np.sort(x))) >= -2e-16).all(), 'it must rise'


@given(vectors())
def test_tanh_laws(x):
    assert_allclose(tanh(x), 2*sigmoid(2*x) - 1, atol=4e-16)
    assert_array_equal(tanh(-x), -tanh(x))


@given(vectors(1e300))
def test_relu_laws(x):
    assert_array_equal(relu(relu(x)), relu(x))
    assert_array_equal(relu(x) - relu(-x), x)
    assert_array_equal(relu(x) + relu(-x), np.abs(x))
    assert_array_equal(leaky_relu(x, 0), relu(x))
    assert_array_equal(leaky_relu(x, 1), x)
    assert_array_equal(elu(x, 0), relu(x))
    assert_array_equal(elu(x)[x >= 0], x[x >= 0])


@given(vectors())
def test_softplus_laws(x):
    assert_allclose(softplus(x) - softplus(-x), x, rtol=1e-14, atol=1e-14)
    assert (softplus(x) >= relu(x)).all()
    assert (softplus(x) - relu(x) <= np.log(2) + 1e-15).all()


@given(vectors())
def test_gelu_laws(x):
    assert_allclose(gelu(x) - gelu(-x), x, rtol=1e-14, atol=1e-14)
    exact = [a/2 * math.erfc(-a / 2**.5) for a in x]
    assert_allclose(gelu(x), exact, atol=5e-4)


@given(matrices(), floats(1e3))
def test_softmax_laws(x, c):
    y = softmax(x)
    assert ((y >= 0) & (y <= 1)).all()
    assert_allclose(y.sum(axis=-1), 1, rtol=1e-14)
    assert_allclose(softmax(x + c), y, rtol=1e-10, atol=1e-300)
    assert_array_equal(np.take_along_axis(y, x.argmax(axis=-1)[..., None], -1)[..., 0], y.max(axis=-1))
    assert_allclose(softmax(x[..., ::-1]), y[..., ::-1], rtol=1e-13, atol=1e-300)
    assert_allclose(np.stack([softmax(row) for row in x]), y, rtol=1e-14, err_msg='a row must not see the other rows')


@given(arrays(float, (3, 2), elements=floats()))
def test_softmax_of_two_is_the_sigmoid_of_the_difference(x):
    assert_allclose(softmax(x)[:, 0], sigmoid(x[:, 0] - x[:, 1]), rtol=1e-13, atol=1e-300)


@given(st.data(), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_linear_is_the_loop_over_rows_columns_and_inputs(data, n, n_in, n_out):
    draw = lambda *shape: data.draw(arrays(float, shape, elements=st.integers(-99, 99)))     # noqa: E731
    x, w, b = draw(n, n_in), draw(n_in, n_out), draw(n_out)
    loop = [[sum(x[i, k]*w[k, j] for k in range(n_in)) + b[j] for j in range(n_out)] for i in range(n)]
    assert_array_equal(linear(x, w, b), loop)
    assert_array_equal(linear(x, w, b) + linear(-x, w, b), np.tile(2*b, (n, 1)))


def test_linear_refuses_weights_the_wrong_way_round():
    with pytest.raises(ValueError): linear(np.ones((4, 3)), np.ones((2, 3)), np.ones(2))


# --- the module ------------------------------------------------------------------------------------------------------------------

def test_module_offers_these_and_nothing_else():
    assert set(forward.__all__) == {f.__name__ for f in ops} | {'linear'}


@pytest.mark.parametrize('op', [linear, *ops], ids=lambda f: f.__name__)
def test_ops_say_what_they_do_and_settings_have_defaults(op):
    assert op.__doc__ and '\n' not in op.__doc__.strip()
    _, *rest = inspect.signature(op).parameters.values()
    assert [p.name for p in rest] == {'linear': ['w', 'b'], 'leaky_relu': ['slope'], 'elu': ['alpha']}.get(op.__name__, [])
    assert op is linear or all(p.default is not p.empty for p in rest)
