"""What the losses promise: PyTorch's values, right numbers for extreme answers, and the laws that make them losses."""
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

from backprop_nb.forward import sigmoid, softmax
from backprop_nb.loss import binary_cross_entropy, cross_entropy, huber, logsumexp, mae, mse

torch_names = {mse: 'mse_loss', mae: 'l1_loss', huber: 'huber_loss', binary_cross_entropy: 'binary_cross_entropy_with_logits'}
pairwise = list(torch_names)                      # losses of an answer and a target of one shape
shapes = [(), (1,), (7,), (5, 3), (32, 10), (2, 3, 4), (1, 1, 1), (2, 3, 4, 5)]
row_shapes = [(1, 1), (1, 2), (5, 3), (32, 10), (7, 27), (3,), (2, 5, 3), (4, 3, 27), (2, 2, 2, 5)]
rtol = {'float64': 1e-13, 'float32': 2e-6}
laws = settings(derandomize=True, deadline=None, max_examples=150)

each = pytest.mark.parametrize('loss', pairwise, ids=lambda f: f.__name__)
both_dtypes = pytest.mark.parametrize('dtype', ['float64', 'float32'])


@pytest.fixture
def F():
    return pytest.importorskip('torch', reason='compares with PyTorch').nn.functional


@pytest.fixture
def strict():
    "Every warning is an error, and so is every overflow, division by zero and invalid operation; exp(-10000) may round to 0, its right value"
    with warnings.catch_warnings(), np.errstate(all='raise', under='ignore'):
        warnings.simplefilter('error')
        yield


def pair(loss, shape, dtype='float64', seed=0, scale=1.):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, scale, shape)
    target = rng.uniform(size=shape) if loss is binary_cross_entropy else rng.normal(0, scale, shape)
    return np.asarray(x, dtype), np.asarray(target, dtype)


def labelled(shape, dtype='float64', seed=0, scale=1.):
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(0, scale, shape), dtype), np.asarray(rng.integers(0, shape[-1], shape[:-1]))


def value(tensor): return tensor.detach().numpy()


# PyTorch's values

@each
@both_dtypes
@pytest.mark.parametrize('shape', shapes, ids=str)
@pytest.mark.parametrize('scale', [1e-3, 1., 50.])
def test_equals_pytorch(F, loss, dtype, shape, scale):
    from torch import tensor
    x, target = pair(loss, shape, dtype, scale=scale)
    theirs = getattr(F, torch_names[loss])(tensor(x), tensor(target))
    assert_allclose(loss(x, target), value(theirs), rtol=rtol[dtype], atol=0)


@pytest.mark.parametrize('delta', [.01, .5, 1., 7.5])
@both_dtypes
def test_huber_equals_pytorch_for_every_delta(F, delta, dtype):
    from torch import tensor
    x, target = pair(huber, (40, 5), dtype, scale=2)
    assert_allclose(huber(x, target, delta), value(F.huber_loss(tensor(x), tensor(target), delta=delta)), rtol=rtol[dtype])


def test_huber_at_the_joint_belongs_to_both_branches():
    x = np.array([2.5])
    assert huber(x, np.zeros(1), 2.5) == 2.5**2 / 2 == 2.5 * (2.5 - 2.5 / 2)


@both_dtypes
@pytest.mark.parametrize('shape', row_shapes, ids=str)
@pytest.mark.parametrize('scale', [1e-3, 1., 50.])
def test_cross_entropy_equals_pytorch(F, dtype, shape, scale):
    from torch import tensor
    x, target = labelled(shape, dtype, scale=scale)
    theirs = F.cross_entropy(tensor(x).reshape(-1, shape[-1]), tensor(target).reshape(-1))
    assert_allclose(cross_entropy(x, target), value(theirs), rtol=rtol[dtype], atol=1e-7 if dtype == 'float32' else 0)


def test_cross_entropy_of_sequences_is_pytorchs_with_classes_moved_to_its_axis(F):
    from torch import tensor
    x, target = labelled((4, 6, 9))
    assert_allclose(cross_entropy(x, target), value(F.cross_entropy(tensor(x).movedim(-1, 1), tensor(target))), rtol=1e-13)


@pytest.mark.parametrize('kind', ['int8', 'uint8', 'int16', 'int32', 'int64', '>i4'])
def test_labels_may_be_integers_of_any_width(kind):
    x, target = labelled((12, 5))
    assert cross_entropy(x, target.astype(kind)) == cross_entropy(x, target)


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(IndexError): cross_entropy(np.zeros((3, 4)), np.array([0, 4, 1]))


@both_dtypes
@pytest.mark.parametrize('shape', row_shapes, ids=str)
def test_logsumexp_equals_pytorch(F, dtype, shape):
    from torch import tensor
    x, _ = labelled(shape, dtype, scale=30)
    ours = logsumexp(x)
    assert ours.shape == shape[:-1] and ours.dtype == dtype
    assert_allclose(ours, value(tensor(x).logsumexp(-1)), rtol=rtol[dtype])


def test_float32_is_as_near_to_the_truth_as_float32_allows():
    for loss in pairwise:
        x, target = pair(loss, (256, 10), 'float32')
        assert_allclose(loss(x, target), loss(x.astype(float), target.astype(float)), rtol=5e-7, err_msg=loss.__name__)
    x, target = labelled((256, 10), 'float32')
    assert_allclose(cross_entropy(x, target), cross_entropy(x.astype(float), target), rtol=5e-7)


# Extreme answers

@pytest.mark.parametrize('dtype, big', [('float32', 1e4), ('float64', 1e4), ('float32', 1e30), ('float64', 1e300)])
@pytest.mark.parametrize('sign, target, factor', [(1, 1, 0), (1, 0, 1), (-1, 0, 0), (-1, 1, 1)])
def test_binary_cross_entropy_of_an_extreme_logit_is_exact(strict, dtype, big, sign, target, factor):
    x = np.full(3, sign * big, dtype)
    assert binary_cross_entropy(x, np.full(3, target, dtype)) == factor * x.dtype.type(3 * np.abs(x[0])) / 3


@pytest.mark.parametrize('dtype, big', [('float32', 1e4), ('float64', 1e4), ('float32', 1e30), ('float64', 1e300)])
def test_cross_entropy_of_extreme_logits_is_exact(strict, dtype, big):
    def ce(row, label): return cross_entropy(np.array([row], dtype), np.array([label]))
    big = np.dtype(dtype).type(big)
    assert ce([0, -big], 0) == ce([big, 0], 0) == ce([big, -big], 0) == ce([-big, -big / 2], 1) == 0
    assert ce([0, -big], 1) == ce([big, 0], 1) == big and ce([big, -big], 1) == 2 * big
    assert_allclose([ce([big, big], 0), ce([-big, -big, -3 * big], 1)], np.log(2), rtol=1e-7 if dtype == 'float32' else 1e-15)


@pytest.mark.parametrize('dtype, big', [('float32', 1e4), ('float64', 1e4), ('float32', 1e30), ('float64', 1e300)])
def test_logsumexp_of_extreme_rows_is_their_maximum(strict, dtype, big):
    x = np.array([[big, 0], [-big, 0], [-big, -big / 2], [big, -big]], dtype)
    assert (logsumexp(x) == x.max(axis=-1)).all()
    assert_allclose(logsumexp(np.full((1, 3), -1e4, dtype)), -1e4 + np.log(3), rtol=1e-7)


@pytest.mark.parametrize('dtype, big', [('float32', 1e4), ('float64', 1e4), ('float32', 1e30), ('float64', 1e300)])
def test_distances_of_extreme_answers_are_exact(strict, dtype, big):
    x, zero = np.array([big, -big], dtype), np.zeros(2, dtype)
    assert mae(x, zero) == x[0]
    assert huber(x, zero) == x[0] - x.dtype.type(.5)
    if big == 1e4: assert mse(x, zero) == x[0]**2


def test_a_squared_error_beyond_the_largest_float_is_infinite_and_warns():
    with pytest.warns(RuntimeWarning, match='overflow'): assert mse(np.array([1e300]), np.zeros(1)) == np.inf


def test_a_small_surprise_keeps_its_digits():
    for x in (0., 1., 20., 40., 300., 700.):
        for sure, answer in ((x, 1.), (-x, 0.)):
            assert_allclose(binary_cross_entropy(np.array([sure]), np.array([answer])), np.log1p(np.exp(-x)), rtol=1e-15)


def test_a_large_shift_costs_float32_no_digits():
    x = np.float32([[0, 1, 2], [3, 1, 0]])
    for shift in (2.**10, 2.**20, -2.**22):
        assert cross_entropy(x + np.float32(shift), np.array([0, 1])) == cross_entropy(x, np.array([0, 1]))


def test_a_class_with_logit_minus_infinity_is_as_good_as_absent(strict):
    x, target = labelled((6, 4))
    masked = np.concatenate([x, np.full((6, 1), -np.inf)], axis=1)
    assert_allclose(cross_entropy(masked, target), cross_entropy(x, target), rtol=1e-15)
    assert_allclose(logsumexp(masked), logsumexp(x), rtol=1e-15)
    assert cross_entropy(masked, np.full(6, 4)) == np.inf


# What comes back, and what is left alone

@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
def test_a_loss_is_one_number_of_the_inputs_dtype(dtype):
    for loss in pairwise:
        for shape in shapes:
            y = loss(*pair(loss, shape, dtype))
            assert isinstance(y, np.dtype(dtype).type), f'{loss.__name__}{shape}: {type(y)}'
    for shape in row_shapes:
        assert isinstance(cross_entropy(*labelled(shape, dtype)), np.dtype(dtype).type)


@each
@pytest.mark.parametrize('where', [0, 1], ids=['answer', 'target'])
def test_one_nan_makes_the_loss_nan(loss, where):
    for i in range(6):
        args = pair(loss, (2, 3))
        args[where].flat[i] = np.nan
        assert np.isnan(loss(*args)), f'a NaN at place {i} is lost'


def test_one_nan_logit_makes_the_cross_entropy_nan():
    for i in range(6):
        x, target = labelled((2, 3))
        x.flat[i] = np.nan
        assert np.isnan(cross_entropy(x, target)), f'a NaN at place {i} is lost'
        assert (np.isnan(logsumexp(x)) == [i < 3, i >= 3]).all()


def all_cases():
    for loss in pairwise: yield loss, pair(loss, (6, 4))
    for shape in ((6, 4), (3, 2, 4)): yield cross_entropy, labelled(shape)
    yield logsumexp, labelled((6, 4))[:1]


def test_inputs_are_never_written_to():
    for loss, args in all_cases():
        before = [a.copy() for a in args]
        for a in args: a.flags.writeable = False
        loss(*args)
        for a, b in zip(args, before): np.testing.assert_array_equal(a, b, err_msg=loss.__name__)


def test_the_layout_in_memory_does_not_matter():
    layouts = dict(fortran=np.asfortranarray, reversed=lambda a: a[::-1].copy()[::-1], spread=lambda a: np.repeat(a, 2, axis=0)[::2],
                   swapped=lambda a: np.ascontiguousarray(np.swapaxes(a, 0, -1)).swapaxes(0, -1), big_endian=lambda a: a.astype(a.dtype.newbyteorder('>')))
    for loss, args in all_cases():
        for name, layout in layouts.items():
            changed = [layout(a) for a in args]
            for a in changed: a.flags.writeable = False
            assert_allclose(loss(*changed), loss(*args), rtol=1e-14, err_msg=f'{loss.__name__}, {name}')


# Laws

def numbers(low, high): return st.floats(low, high, allow_nan=False, width=64)


@st.composite
def batches(draw, bound=1e4, max_classes=6):
    "Logits (n, k) and labels (n,)"
    n, k = draw(st.integers(1, 5)), draw(st.integers(1, max_classes))
    return draw(arrays(float, (n, k), elements=numbers(-bound, bound))), draw(arrays(int, n, elements=st.integers(0, k - 1)))


@st.composite
def pairs(draw, low=-1e4, high=1e4, target_low=None, target_high=None):
    n = draw(st.integers(1, 8))
    x = draw(arrays(float, n, elements=numbers(low, high)))
    return x, draw(arrays(float, n, elements=numbers(low if target_low is None else target_low, high if target_high is None else target_high)))


yes_or_no = pairs(target_low=0., target_high=1.)


@laws
@given(batches())
def test_cross_entropy_is_between_0_and_the_range_plus_log_k(batch):
    x, target = batch
    assert 0 <= cross_entropy(x, target) <= np.ptp(x) + np.log(x.shape[1]) * (1 + 1e-12) + 1e-9


@laws
@given(batches(), numbers(-1e4, 1e4))
def test_a_shift_of_all_logits_changes_nothing(batch, shift):
    x, target = batch
    assert_allclose(cross_entropy(x + shift, target), cross_entropy(x, target), rtol=1e-10, atol=1e-10)
    assert_allclose(logsumexp(x + shift), logsumexp(x) + shift, rtol=1e-10, atol=1e-10)


@laws
@given(batches(), st.randoms(use_true_random=False))
def test_the_names_of_the_classes_do_not_matter(batch, random):
    x, target = batch
    order = np.array(random.sample(range(x.shape[1]), x.shape[1]))
    assert_allclose(cross_entropy(x[:, order], np.argsort(order)[target]), cross_entropy(x, target), rtol=1e-12, atol=1e-13)


@laws
@given(batches(bound=30))
def test_cross_entropy_is_the_surprise_of_softmax(batch):
    x, target = batch
    assert_allclose(cross_entropy(x, target), -np.log(softmax(x)[np.arange(len(x)), target]).mean(), rtol=1e-10, atol=1e-13)


@laws
@given(batches())
def test_logsumexp_is_between_the_maximum_and_log_k_above_it(batch):
    x, _ = batch
    m = x.max(axis=1)
    assert (logsumexp(x) >= m).all() and (logsumexp(x) <= m + np.log(x.shape[1]) + 1e-12 * (1 + np.abs(m))).all()


@pytest.mark.parametrize('k', [1, 2, 10, 27, 65, 1000])
def test_equal_logits_cost_log_k(k):
    assert_allclose(cross_entropy(np.full((4, k), 3.), np.arange(4) % k), np.log(k), rtol=1e-15)


@laws
@given(arrays(float, 6, elements=numbers(-1e4, 1e4)), arrays(int, 6, elements=st.integers(0, 1)))
def test_binary_cross_entropy_is_cross_entropy_with_two_classes(x, target):
    two = np.stack([np.zeros(6), x], axis=1)
    assert_allclose(binary_cross_entropy(x, target.astype(float)), cross_entropy(two, target), rtol=1e-13, atol=1e-15)


@laws
@given(yes_or_no)
def test_binary_cross_entropy_is_not_negative_and_yes_mirrors_no(batch):
    x, target = batch
    assert binary_cross_entropy(x, target) >= 0
    assert_allclose(binary_cross_entropy(-x, 1 - target), binary_cross_entropy(x, target), rtol=1e-12, atol=1e-11)


@laws
@given(pairs(-30, 30, 0., 1.))
def test_binary_cross_entropy_is_the_surprise_of_sigmoid(batch):
    x, target = batch
    naive = -(target * np.log(sigmoid(x)) + (1 - target) * np.log(sigmoid(-x))).mean()
    assert_allclose(binary_cross_entropy(x, target), naive, rtol=1e-12, atol=1e-14)


@laws
@given(pairs(), numbers(1e-3, 1e3))
def test_huber_lies_between_its_squares_and_its_straight_lines(batch, delta):
    x, target = batch
    h = huber(x, target, delta)
    slack = 1 + 1e-12
    assert delta * (mae(x, target) - delta / 2) <= h * slack + 1e-12 * delta**2
    assert h <= mse(x, target) / 2 * slack + 1e-300 and h <= delta * mae(x, target) * slack
    e = np.abs(x - target)
    if (e <= delta).all(): assert_allclose(h, mse(x, target) / 2, rtol=1e-12, atol=1e-300)
    if (e >= delta).all(): assert_allclose(h, delta * (mae(x, target) - delta / 2), rtol=1e-9)


@laws
@given(pairs())
def test_a_distance_is_symmetric_and_0_only_for_the_truth(batch):
    x, target = batch
    for loss in (mse, mae, huber):
        assert loss(x, target) == loss(target, x) >= 0 == loss(x, x)
        if np.abs(x - target).max() > 1e-100: assert loss(x, target) > 0


@laws
@given(st.data(), st.integers(2, 4), st.integers(1, 5))
def test_the_loss_of_equal_batches_together_is_the_mean_of_their_losses(data, n_batches, n):
    x = data.draw(arrays(float, (n_batches, n, 3), elements=numbers(-1e3, 1e3)))
    target = data.draw(arrays(float, (n_batches, n, 3), elements=numbers(0, 1)))
    labels = data.draw(arrays(int, (n_batches, n), elements=st.integers(0, 2)))
    for loss, t in [(loss, target) for loss in pairwise] + [(cross_entropy, labels)]:
        together = loss(x.reshape(-1, 3), t.reshape(-1, *t.shape[2:]))
        assert_allclose(together, np.mean([loss(a, b) for a, b in zip(x, t)]), rtol=1e-12, atol=1e-14, err_msg=loss.__name__)
        assert_allclose(together, loss(x, t), rtol=1e-12, atol=1e-14, err_msg=loss.__name__)


@laws
@given(batches(bound=100), st.data())
def test_every_loss_is_convex_in_the_answers(batch, data):
    a, labels = batch
    b = data.draw(arrays(float, a.shape, elements=numbers(-100, 100)))
    target = data.draw(arrays(float, a.shape, elements=numbers(0, 1)))
    for loss, t in [(loss, target) for loss in pairwise] + [(cross_entropy, labels)]:
        ends = (loss(a, t) + loss(b, t)) / 2
        assert loss((a + b) / 2, t) <= ends + 1e-12 * (1 + ends), f'{loss.__name__} bulges'
