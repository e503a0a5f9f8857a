"What the data page promises: published shapes and rows, splits that lose nothing, scales without a leak, downloads only on demand"
import gzip
import hashlib
import math
import random
import subprocess
import sys
import urllib.request
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb.data import (MNIST_FILES, MNIST_MIRRORS, batches, circles, load_digits, load_mnist, moons, one_hot, read_idx, spirals, split,
                              standardize, two_spirals, xor)

laws = settings(derandomize=True, deadline=None, max_examples=100)
shapes = {moons: 2, circles: 2, spirals: 3, xor: 2}   # shape -> classes
each_shape = pytest.mark.parametrize('shape', shapes, ids=lambda f: f.__name__)


def sorted_rows(x): return x[np.lexsort(x.T)]


# --- shapes ------------------------------------------------------------------------------------

@each_shape
@pytest.mark.parametrize('n', [4, 5, 10, 101, 300])
def test_a_shape_has_n_points_in_two_dimensions_and_fair_classes(shape, n):
    x, target = shape(n, .1, 0)
    assert x.shape == (n, 2) and x.dtype == np.float64 and np.isfinite(x).all()
    assert target.shape == (n,) and target.dtype == np.int64
    counts = np.bincount(target)
    assert len(counts) == shapes[shape]
    assert counts.max() - counts.min() <= 1, counts

@each_shape
def test_a_seed_repeats_a_shape_and_another_seed_does_not(shape):
    first, again, other = shape(50, .1, 7), shape(50, .1, np.random.default_rng(7)), shape(50, .1, 8)
    for a, b in zip(first, again): assert_array_equal(a, b)
    assert not np.allclose(first[0], other[0])

@each_shape
def test_a_generator_moves_on(shape):
    rng = np.random.default_rng(0)
    assert not np.allclose(shape(50, .1, rng)[0], shape(50, .1, rng)[0])

def test_the_global_generators_are_left_alone():
    def state():
        kind, keys, *rest = np.random.get_state()
        return kind, keys.tolist(), rest, random.getstate()
    before = state()
    for shape in shapes: shape(20, .1, 0)
    x, target = load_digits()
    split(x, target, rng=0, stratify=True)
    list(batches(x, target, 100, 0))
    assert state() == before

@pytest.mark.parametrize('shape', [moons, circles, spirals], ids=lambda f: f.__name__)
def test_the_classes_are_shuffled(shape):
    target = shape(300, .1, 0)[1]
    half = np.bincount(target[:150], minlength=shapes[shape])
    assert half.min() > 25, f'the first half of the rows has classes {half}'

@pytest.mark.parametrize('shape', [moons, circles, xor], ids=lambda f: f.__name__)
def test_noise_is_a_standard_deviation(shape):
    blur = shape(20_000, .3, 1)[0] - shape(20_000, 0, 1)[0]
    assert_allclose(blur.std(axis=0), .3, rtol=.02)
    assert_allclose(blur.mean(axis=0), 0, atol=.01)
    assert abs(np.corrcoef(blur.T)[0, 1]) < .03

def test_noise_of_a_spiral_turns_its_points_and_leaves_their_radius():
    clean, target = spirals(20_000, 0, 1)
    noisy, same = spirals(20_000, .2, 1)
    assert_array_equal(target, same)
    assert_allclose(np.hypot(*noisy.T), np.hypot(*clean.T), atol=1e-12)
    away = np.hypot(*clean.T) > 0
    turn = np.angle((noisy @ [1, 1j])[away] / (clean @ [1, 1j])[away])
    assert_allclose(turn.std(), .2, rtol=.02)

@pytest.mark.parametrize('n_arms', [2, 3, 5])
def test_the_arms_of_a_spiral_are_one_arm_turned(n_arms):
    x, target = spirals(20 * n_arms, 0, 0, n_arms=n_arms)
    places = x[:, 1] + 1j*x[:, 0]   # r cos + i r sin
    first = places[target == 0]
    first = first[np.argsort(abs(first))]
    assert_allclose(first, np.linspace(0, 1, 20) * np.exp(4j * np.linspace(0, 1, 20)), atol=1e-12)
    for k in range(1, n_arms):
        arm = places[target == k]
        assert_allclose(arm[np.argsort(abs(arm))], first * np.exp(2j*np.pi * k/n_arms), atol=1e-12)

@pytest.mark.parametrize('n', [2, 3, 100, 101])
def test_moons_and_circles_lie_evenly_on_their_curves(n):
    few, many = n // 2, n - n // 2
    x, target = moons(n, 0, 0)
    places = x @ [1, 1j]
    assert_allclose(np.sort(np.angle(places[target == 0])), np.linspace(0, np.pi, few), atol=1e-12)
    assert_allclose(np.sort(np.angle(1 + .5j - places[target == 1])), np.linspace(0, np.pi, many), atol=1e-12)   # the same, half a turn on
    x, target = circles(n, 0, 0, factor=.3)
    places = x @ [1, 1j]
    for k, count, radius in ((0, few, 1), (1, many, .3)):
        assert_allclose(abs(places[target == k]), radius)
        assert_allclose(np.sort(np.angle(places[target == k]).round(9) % (2*np.pi)), 2*np.pi * np.arange(count) / count, atol=1e-8)

@pytest.mark.parametrize('n', [2, 3, 100, 101])
def test_moons_and_circles_have_scikit_learns_geometry(n):
    peer = pytest.importorskip('sklearn.datasets', reason='compares with scikit-learn')
    for ours, theirs in ((moons(n, 0, 0), peer.make_moons(n, shuffle=False)),
                         (circles(n, 0, 0, factor=.3), peer.make_circles(n, shuffle=False, factor=.3))):
        for k in range(2): assert_allclose(sorted_rows(ours[0][ours[1] == k].round(9)), sorted_rows(theirs[0][theirs[1] == k].round(9)), atol=1e-9)

def test_xor_of_four_points_is_the_truth_table():
    x, target = xor(4, 0, 0)
    assert_array_equal(x, [[0, 0], [0, 1], [1, 0], [1, 1]])
    assert_array_equal(target, [0, 1, 1, 0])

def test_xor_deals_its_points_to_the_corners_in_turn():
    x, target = xor(10, 0, 0)
    assert_array_equal(x[4:], x[:6])
    assert_array_equal(target, x.sum(axis=1) == 1)

def test_the_two_spirals_are_those_of_lang_and_witbrock():
    x, target = two_spirals()
    assert x.shape == (194, 2) and x.dtype == np.float64 and target.dtype == np.int64
    assert_array_equal(np.bincount(target), [97, 97])
    for i in range(97):   # their program prints a point of class 1, then its mirror image of class 0
        angle, radius = i * math.pi / 16, 6.5 * (104 - i) / 104
        assert_allclose(x[2*i], [radius * math.sin(angle), radius * math.cos(angle)], atol=1e-12)
        assert_array_equal(x[2*i + 1], -x[2*i])
    assert_array_equal(target, np.tile([1, 0], 97))

@pytest.mark.parametrize('call, error, words', [
    (lambda: moons(1, .1, 0), ValueError, ['n:', '1']),
    (lambda: circles(0, .1, 0), ValueError, ['n:', '0']),
    (lambda: xor(3, .1, 0), ValueError, ['n:', '3']),
    (lambda: spirals(2, .1, 0), ValueError, ['n:', '2']),
    (lambda: spirals(9, .1, 0, n_arms=1), ValueError, ['n_arms:', '1']),
    (lambda: moons(2.5, .1, 0), TypeError, ['n:', '2.5']),
    (lambda: moons('10', .1, 0), TypeError, ['n:', "'10'"]),
    (lambda: moons(True, .1, 0), TypeError, ['n:', 'True']),
    (lambda: moons(10, -.1, 0), ValueError, ['noise:', '-0.1']),
    (lambda: circles(10, math.nan, 0), ValueError, ['noise:', 'nan']),
    (lambda: spirals(10, math.inf, 0), ValueError, ['noise:', 'inf']),
    (lambda: xor(10, None, 0), TypeError, ['noise:', 'None']),
    (lambda: circles(10, .1, 0, factor=1), ValueError, ['factor:', '1']),
    (lambda: circles(10, .1, 0, factor=-.5), ValueError, ['factor:', '-0.5']),
    (lambda: moons(10, .1, None), TypeError, ['rng:', 'None', 'default_rng']),
    (lambda: moons(10, .1, 'seed'), TypeError, ['rng:', "'seed'"]),
    (lambda: moons(10, .1, -1), ValueError, ['rng:', '-1']),
])
def test_a_shape_refuses_a_setting_by_its_name(call, error, words):
    with pytest.raises(error) as refusal: call()
    assert all(w in str(refusal.value) for w in words), refusal.value


# --- digits ------------------------------------------------------------------------------------

def sha256(data): return hashlib.sha256(data).hexdigest()

def test_the_digits_are_the_published_rows():
    x, target = load_digits()
    assert x.shape == (1797, 64) and x.dtype == np.float32 and target.shape == (1797,) and target.dtype == np.int64
    pixels = np.rint(x * 16).astype(np.uint8)
    assert_array_equal(pixels / np.float32(16), x)
    assert sha256(pixels.tobytes()) == '8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3'
    assert sha256(target.astype(np.uint8).tobytes()) == '8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0'
    assert_array_equal(np.bincount(target), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])

def test_the_digits_are_those_of_scikit_learn():
    peer = pytest.importorskip('sklearn.datasets', reason='compares with scikit-learn').load_digits()
    x, target = load_digits()
    assert_array_equal(x * 16, peer.data)
    assert_array_equal(target, peer.target)

def test_each_call_gives_fresh_digits():
    load_digits()[0][:] = -1
    assert load_digits()[0].min() == 0

def test_the_digits_come_with_their_credit():
    import backprop_nb
    from importlib.resources import files
    credit = (files(backprop_nb) / 'digits_8x8.LICENSE.txt').read_text(encoding='utf-8')
    assert all(w in credit for w in ('Alpaydin', 'Kaynak', '1998', 'UCI', 'CC BY 4.0', 'creativecommons.org/licenses/by/4.0'))

def test_importing_the_module_costs_numpy_and_nothing_more():
    program = 'import sys, numpy; before = set(sys.modules); import backprop_nb.data; print(*sorted(set(sys.modules) - before))'
    new = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True).stdout.split()
    assert all(m.startswith('backprop_nb') for m in new), new


# --- split -------------------------------------------------------------------------------------

@laws
@given(n=st.integers(2, 200), share=st.floats(.01, .99), seed=st.integers(0, 2**32), stratify=st.booleans(), k=st.integers(1, 6))
def test_a_split_has_every_row_once_with_its_target(n, share, seed, stratify, k):
    rows = np.arange(n)
    target = rows // 2 % k        # two neighbours share a class, so that no class has a single row unless the last does
    if stratify and np.bincount(target)[np.unique(target)].min() < 2: stratify = False
    if math.ceil(share * n - 1e-9) == n: return
    x_train, t_train, x_test, t_test = split(np.c_[rows, rows**2], target, share, seed, stratify)
    assert_array_equal(np.sort(np.r_[x_train[:, 0], x_test[:, 0]]), rows)
    for x, t in ((x_train, t_train), (x_test, t_test)):
        assert_array_equal(x[:, 1], x[:, 0]**2)
        assert_array_equal(t, target[x[:, 0]])
    assert len(x_test) == math.ceil(share * n - 1e-9) == len(t_test)

@laws
@given(counts=st.lists(st.integers(2, 60), min_size=1, max_size=8), share=st.floats(.05, .95), seed=st.integers(0, 1000))
def test_a_stratified_split_gives_every_class_its_share_to_within_one_row(counts, share, seed):
    target = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) - 3, counts))   # labels need not start at 0
    if math.ceil(share * len(target) - 1e-9) == len(target): return
    _, _, _, t_test = split(target, target, share, seed, stratify=True)
    for k, count in zip(np.arange(len(counts)) - 3, counts):
        exact = Fraction(len(t_test), len(target)) * count
        assert abs(int((t_test == k).sum()) - exact) < 1, (k, count)

@pytest.mark.parametrize('stratify', [False, True])
def test_a_split_is_shuffled_and_each_row_has_the_same_chance(stratify):
    target = np.repeat([0, 1, 2], [50, 30, 20])
    times = np.zeros(100)
    for seed in range(1000):
        _, t_train, test, t_test = split(np.arange(100), target, .2, seed, stratify)
        times[test] += 1
    assert np.any(np.diff(t_train) < 0) and np.any(np.diff(t_test) < 0), 'the rows are sorted by class'
    assert abs(times - 200).max() < 5 * math.sqrt(1000 * .2 * .8), times

def test_the_size_of_the_test_is_rounded_up_as_elsewhere():
    x, target = load_digits()
    assert len(split(x, target)[2]) == 360
    assert len(split(np.arange(100), np.arange(100), .07)[2]) == 7   # .07 * 100 is a hair above 7
    assert len(split(np.arange(30), np.arange(30), .1)[2]) == 3

def test_a_split_copies_and_keeps_dtypes_and_shapes():
    x, target = np.ones((10, 2, 3), np.float32), np.zeros((10, 1), np.float64)
    parts = split(x, target)
    assert [p.shape for p in parts] == [(8, 2, 3), (8, 1), (2, 2, 3), (2, 1)]
    assert [p.dtype for p in parts] == [np.float32, np.float64] * 2
    assert not any(np.shares_memory(p, whole) for p in parts for whole in (x, target))

@pytest.mark.parametrize('call, error, words', [
    (lambda x, t: split(x, t[:-1]), ValueError, ['x', 'target', '10', '9']),
    (lambda x, t: split(x[:0], t[:0]), ValueError, ['x', '(0, 2)']),
    (lambda x, t: split(5, t), ValueError, ['x', '()']),
    (lambda x, t: split(x, t, 0), ValueError, ['test', '0']),
    (lambda x, t: split(x, t, 1), ValueError, ['test', '1']),
    (lambda x, t: split(x, t, -.2), ValueError, ['test', '-0.2']),
    (lambda x, t: split(x, t, math.nan), ValueError, ['test', 'nan']),
    (lambda x, t: split(x, t, '20%'), TypeError, ['test', '20%']),
    (lambda x, t: split(x, t, .95), ValueError, ['test', '0.95', '10 rows']),
    (lambda x, t: split(x, t, 1e-12), ValueError, ['test', '1e-12']),
    (lambda x, t: split(x, t, rng=None), TypeError, ['rng', 'None']),
    (lambda x, t: split(x, t + .5, stratify=True), TypeError, ['target', 'float64']),
    (lambda x, t: split(x, t[:, None], stratify=True), TypeError, ['target', '(10, 1)']),
    (lambda x, t: split(x, np.r_[t[:9], 7], stratify=True), ValueError, ['target', '7', '1 row']),
])
def test_a_split_refuses_what_cannot_be_split(call, error, words):
    with pytest.raises(error) as refusal: call(np.zeros((10, 2)), np.arange(10) % 2)
    assert all(w in str(refusal.value) for w in words), refusal.value


# --- standardize -------------------------------------------------------------------------------

def tables(): return arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.integers(-1000, 1000).map(lambda i: i / 8))

@laws
@given(tables())
def test_a_standardized_column_has_mean_0_and_spread_1_or_is_0(x):
    z = standardize(x)
    assert_allclose(z.mean(axis=0), 0, atol=1e-9)
    assert_allclose(z.std(axis=0), np.where(np.ptp(x, axis=0) == 0, 0, 1), atol=1e-9)

@laws
@given(tables(), st.sampled_from([.001, .5, 3, 1000]), st.sampled_from([-100, 0, 7]))
def test_units_do_not_matter(x, scale, shift):
    assert_allclose(standardize(scale*x + shift), standardize(x), atol=1e-7)

@laws
@given(tables(), st.integers(0, 2**32))
def test_the_statistics_are_those_of_like_alone(x, seed):
    other = np.random.default_rng(seed).normal(50, 20, (7, x.shape[1]))
    spread = np.where(np.ptp(x, axis=0) == 0, 1, x.std(axis=0))
    z = standardize(other, like=x)
    assert_allclose(z * spread + x.mean(axis=0), other, atol=1e-9)
    assert_allclose(standardize(other[:1], like=x), z[:1], atol=0)   # a row alone is treated as in company
    assert_allclose(standardize(x, like=x), standardize(x), atol=0)

@pytest.mark.parametrize('value', [.1, 1/3, 1e-300, 1e9 + .1, 0, -7])
def test_a_constant_column_becomes_0_and_does_not_blow_up(value):
    x = np.full((7, 1), value)
    assert_allclose(standardize(x), 0, atol=1e-6)
    assert_allclose(standardize(x + 2, like=x), 2, atol=1e-6)

def test_a_spread_too_small_for_its_type_is_not_divided_by():
    with np.errstate(all='raise', under='ignore'):
        assert_array_equal(standardize(np.array([[0.], [1e-200]])), [[-5e-201], [5e-201]])

@pytest.mark.parametrize('given_dtype, wanted', [(np.float32, np.float32), (np.float64, np.float64), (np.uint8, np.float64), (bool, np.float64)])
def test_standardize_keeps_the_precision(given_dtype, wanted):
    x = np.array([[0, 1], [1, 0], [1, 1]], given_dtype)
    assert standardize(x).dtype == wanted
    assert standardize(x, like=x.astype(np.float64)).dtype == wanted

def test_float32_columns_are_averaged_in_float64():
    x = np.full((100_000, 1), 2**24, np.float32)   # their mean, 2**24 + 2, is a float32, but a running float32 sum loses the last digits
    x[::2] += 4
    assert abs(x.mean(axis=0) - (2**24 + 2)) > 1
    assert_allclose(np.unique(standardize(x)), [-1, 1])

def test_standardize_leaves_its_input_alone():
    x = np.arange(6.).reshape(3, 2)
    x.flags.writeable = False
    assert not np.shares_memory(standardize(x), x)
    assert_array_equal(x, np.arange(6.).reshape(3, 2))

@pytest.mark.parametrize('call, error, words', [
    (lambda x: standardize(np.where(x == 3, np.nan, x)), ValueError, ['x:', 'NaN', 'row 1', 'column 1']),
    (lambda x: standardize(x, like=np.where(x == 4, np.inf, x)), ValueError, ['like:', 'infinity', 'row 2', 'column 0']),
    (lambda x: standardize(x, like=x[:, :1]), ValueError, ['like:', '(2,)', '(1,)']),
    (lambda x: standardize(x[:0]), ValueError, ['x:', '(0, 2)']),
    (lambda x: standardize(x, like=x[:0]), ValueError, ['like:', '(0, 2)']),
    (lambda x: standardize(5.), ValueError, ['x:', '()']),
    (lambda x: standardize([['a', 'b']]), TypeError, ['x:', 'real numbers']),
    (lambda x: standardize(x * 1j), TypeError, ['x:', 'complex']),
    (lambda x: standardize([[1, 2], [3]]), ValueError, ['x:', 'ragged']),
    (lambda x: standardize(None), TypeError, ['x:', 'None']),
    (lambda x: standardize(x, x), TypeError, ['positional']),   # which of the two would be the training part? it has to be said
])
def test_standardize_refuses_what_has_no_scale(call, error, words):
    with pytest.raises(error) as refusal: call(np.arange(6.).reshape(3, 2))
    assert all(w in str(refusal.value) for w in words), refusal.value


# --- batches, one_hot --------------------------------------------------------------------------

@laws
@given(n=st.integers(1, 100), size=st.integers(1, 120), seed=st.integers(0, 2**32))
def test_an_epoch_has_every_row_once_with_its_target(n, size, seed):
    rows = np.arange(n)
    dealt = list(batches(np.c_[rows, rows].astype(np.float32), rows**2, size, seed))
    assert [len(x) for x, _ in dealt[:-1]] == [size] * (len(dealt) - 1) and 1 <= len(dealt[-1][0]) <= size
    for x, t in dealt: assert_array_equal(x[:, 0]**2, t)
    assert_array_equal(np.sort(np.concatenate([x[:, 0] for x, _ in dealt])), rows)

def test_every_epoch_has_a_new_order_from_a_generator_and_the_same_from_a_seed():
    def order(rng): return np.concatenate([x for x, _ in batches(np.arange(50), np.arange(50), 8, rng)]).tolist()
    rng = np.random.default_rng(3)
    orders = [order(rng) for _ in range(20)]
    assert len(set(map(tuple, orders))) == 20
    assert order(3) == order(3) == orders[0]

def test_each_row_is_equally_often_first():
    rng, n = np.random.default_rng(0), 10
    firsts = [next(batches(np.arange(n), np.arange(n), 1, rng))[0][0] for _ in range(5000)]
    assert abs(np.bincount(firsts, minlength=n) - 500).max() < 5 * math.sqrt(5000 * .1 * .9)

@pytest.mark.parametrize('x', [np.zeros((10, 3), np.float32), np.zeros((10, 3), order='F'), np.zeros((20, 6))[::2, ::2],
                               np.zeros((10, 2, 2), np.float16), np.zeros(10, int), [[0., 1.]] * 10], ids=str)
def test_batches_are_contiguous_copies_of_the_same_dtype(x):
    target = np.zeros((10, 2), np.float32)
    for b, t in batches(x, target, 4, 0):
        assert b.flags.c_contiguous and t.flags.c_contiguous
        assert b.dtype == np.asarray(x).dtype and t.dtype == target.dtype and b.shape[1:] == np.shape(x)[1:]
        assert not np.shares_memory(b, x) and not np.shares_memory(t, target)

@pytest.mark.parametrize('call, error, words', [
    (lambda x: batches(x, x[:-1], 2, 0), ValueError, ['x', 'target', '5', '4']),
    (lambda x: batches(x[:0], x[:0], 2, 0), ValueError, ['x', '(0,)']),
    (lambda x: batches(x, x, 0, 0), ValueError, ['batch_size', '0']),
    (lambda x: batches(x, x, -3, 0), ValueError, ['batch_size', '-3']),
    (lambda x: batches(x, x, 2.5, 0), TypeError, ['batch_size', '2.5']),
    (lambda x: batches(x, x, '2', 0), TypeError, ['batch_size', "'2'"]),
    (lambda x: batches(x, x, 2, None), TypeError, ['rng', 'None']),
])
def test_batches_refuse_at_the_call_and_not_at_the_first_batch(call, error, words):
    with pytest.raises(error) as refusal: call(np.arange(5))
    assert all(w in str(refusal.value) for w in words), refusal.value

def test_a_refused_call_leaves_the_generator_where_it_was():
    rng, fresh = np.random.default_rng(0), np.random.default_rng(0)
    for call in (lambda: batches([1, 2], [1], 1, rng), lambda: batches([1], [1], 0, rng), lambda: split([1, 2], [1, 2], 2., rng),
                 lambda: moons(10, -1, rng), lambda: circles(10, .1, rng, factor=2), lambda: spirals(10, .1, rng, n_arms=0)):
        with pytest.raises(ValueError): call()
    assert rng.random() == fresh.random()

@laws
@given(st.integers(1, 12).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.integers(0, k - 1), max_size=30))))
def test_one_hot_and_argmax_undo_each_other(case):
    k, target = case
    y = one_hot(np.array(target, int), k)
    assert y.shape == (len(target), k) and y.dtype == np.float32
    assert_array_equal(y.argmax(axis=1), target)
    assert_array_equal(np.sort(y, axis=1), np.eye(k)[[-1] * len(target)])

def test_one_hot_in_another_dtype(): assert one_hot([0, 1], 2, dtype=np.float64).dtype == np.float64

@pytest.mark.parametrize('target, k, error, words', [
    ([0, -1], 3, ValueError, ['target', '-1', '2']),
    ([0, 3], 3, ValueError, ['target', '3', '2']),
    ([.5, 1], 3, ValueError, ['target', '0.5', 'whole']),
    ([math.nan, 1], 3, ValueError, ['target', 'NaN']),
    (['a', 'b'], 3, TypeError, ['target']),
    ([0, 1], 0, ValueError, ['k:', '0']),
    ([0, 1], 2., TypeError, ['k:', '2.0']),
])
def test_one_hot_refuses_labels_outside_the_classes(target, k, error, words):
    with pytest.raises(error) as refusal: one_hot(target, k)
    assert all(w in str(refusal.value) for w in words), refusal.value


# --- IDX files and MNIST -----------------------------------------------------------------------

def idx(a): return bytes([0, 0, 8, a.ndim]) + b''.join(n.to_bytes(4, 'big') for n in a.shape) + a.astype(np.uint8).tobytes()

@laws
@given(arrays(np.uint8, st.one_of(st.tuples(st.integers(0, 300)), st.tuples(*[st.integers(0, 5)]*3))))
def test_an_idx_file_is_read_as_it_was_written(a):
    assert_array_equal(read_idx(idx(a), 2048 + a.ndim), a)

def test_every_idx_file_that_is_cut_short_or_too_long_is_refused():
    whole = idx(np.arange(12).reshape(3, 2, 2))
    for n in range(len(whole)):
        with pytest.raises(ValueError, match='train: '): read_idx(whole[:n], 2051, 'train')
    with pytest.raises(ValueError, match='28 bytes.* 29'): read_idx(whole + b'\0', 2051)

@pytest.mark.parametrize('data', [idx(np.arange(3)), b'\x1f\x8b' + bytes(20), b'<html>not found</html>', bytes([0, 0, 13, 3]) + bytes(12), b''], ids=repr)
def test_a_file_of_another_kind_is_refused_by_its_magic_number(data):
    with pytest.raises(ValueError, match=f'magic number 2051.*{int.from_bytes(data[:4], "big")}'): read_idx(data, 2051)

class Tiny:
    "A small MNIST: a folder that a mirror could serve, its table of fingerprints and the arrays in it"
    def __init__(self, folder, n_train=5, n_test=3):
        rng = np.random.default_rng(0)
        self.mirror, self.home, self.empty = folder/'mirror', folder/'home', folder/'empty'
        for f in (self.mirror, self.home, self.empty): f.mkdir()
        self.arrays = {}
        for part, n in (('train', n_train), ('t10k', n_test)):
            self.arrays[f'{part}-images-idx3-ubyte'] = rng.integers(0, 256, (n, 4, 3))
            self.arrays[f'{part}-labels-idx1-ubyte'] = rng.integers(0, 10, n)
        self.contents = {name: idx(a) for name, a in self.arrays.items()}
        self.packed = {name: gzip.compress(c, mtime=0) for name, c in self.contents.items()}
        self.files = {name: (sha256(self.packed[name]), sha256(self.contents[name])) for name in self.contents}
        self.fill(self.mirror)

    def fill(self, folder, packed=True):
        for name in self.files: (folder/(name + '.gz'*packed)).write_bytes((self.packed if packed else self.contents)[name])

    def load(self, **kwargs): return load_mnist(self.home, **{'files': self.files, 'mirrors': [self.mirror.as_uri()], **kwargs})

    def at_home(self): return sorted(f.name for f in self.home.iterdir())

    def check(self, loaded):
        for a, (name, wanted) in zip(loaded, self.arrays.items(), strict=True):
            if 'images' in name:
                assert a.dtype == np.float32 and a.shape == (len(wanted), 12)
                assert_array_equal(a, wanted.reshape(-1, 12).astype(np.float32) / np.float32(255))
            else:
                assert a.dtype == np.int64
                assert_array_equal(a, wanted)

images = 'train-images-idx3-ubyte'

@pytest.fixture
def tiny(tmp_path): return Tiny(tmp_path)

@pytest.fixture
def offline(monkeypatch):
    "Any use of the network fails the test"
    def refuse(*args, **kwargs): pytest.fail(f'opened {args}')
    monkeypatch.setattr(urllib.request, 'urlopen', refuse)

def test_the_published_fingerprints_are_whole():
    assert list(MNIST_FILES) == [f'{part}-{kind}-ubyte' for part in ('train', 't10k') for kind in ('images-idx3', 'labels-idx1')]
    sums = [s for pair in MNIST_FILES.values() for s in pair]
    assert len(set(sums)) == 8 and all(len(s) == 64 and set(s) <= set('0123456789abcdef') for s in sums)
    assert all(m.startswith('https://') and m.endswith('/') for m in MNIST_MIRRORS)

@pytest.mark.parametrize('packed', [True, False])
def test_mnist_is_read_packed_or_not(tiny, packed, offline):
    tiny.fill(tiny.home, packed)
    tiny.check(tiny.load())
    tiny.check(tiny.load(download=True))   # nothing is missing, so nothing is fetched
    tiny.check(load_mnist(str(tiny.home), files=tiny.files))

def test_a_part_needs_only_its_own_files(tiny, offline):
    for name in tiny.files:
        if name.startswith('t10k'): (tiny.home/f'{name}.gz').write_bytes(tiny.packed[name])
    x, target = tiny.load(part='test')
    assert_array_equal(target, tiny.arrays['t10k-labels-idx1-ubyte'])
    assert len(x) == 3
    with pytest.raises(FileNotFoundError, match=images): tiny.load(part='train')

def test_a_copy_that_was_packed_again_is_known_by_its_content(tiny, offline):
    tiny.fill(tiny.home)
    (tiny.home/f'{images}.gz').write_bytes(again := gzip.compress(tiny.contents[images], compresslevel=1, mtime=5))
    assert sha256(again) not in tiny.files[images]
    tiny.check(tiny.load())

def test_nothing_is_downloaded_unless_asked(tiny, offline):
    tiny.home.rmdir()
    with pytest.raises(FileNotFoundError) as refusal: tiny.load()
    assert all(w in str(refusal.value) for w in (images, str(tiny.home), 'download=True'))
    assert str(refusal.value).count('\n') == 0
    assert not tiny.home.exists()

def damage(tiny, how):
    packed, content = tiny.packed[images], tiny.contents[images]
    return {'a pixel changed': gzip.compress(content[:-1] + bytes([content[-1] ^ 1])), 'cut short': packed[:-9], 'cut short inside': gzip.compress(content[:-9]),
            'too long': gzip.compress(content + b'\0'), 'labels': tiny.packed['train-labels-idx1-ubyte'], 'a web page': b'<html>moved</html>', 'empty': b'',
            'a broken stream': packed[:20] + bytes([packed[20] ^ 255]) + packed[21:]}[how]

damages = pytest.mark.parametrize('how, words', [
    ('a pixel changed', ['SHA-256']), ('cut short', ['damaged or cut short']), ('cut short inside', ['promises 76 bytes', '67']),
    ('too long', ['promises 76 bytes', '77']), ('labels', ['2051', '2049']), ('a web page', ['magic number']), ('empty', ['magic number']),
    ('a broken stream', [])])

@damages
def test_a_damaged_file_is_refused_by_name(tiny, how, words, offline):
    tiny.fill(tiny.home)
    (tiny.home/f'{images}.gz').write_bytes(bad := damage(tiny, how))
    for download in (False, True):
        with pytest.raises(ValueError) as refusal: tiny.load(download=download)
        assert all(w in str(refusal.value) for w in [f'{images}.gz', *words]), refusal.value
    assert (tiny.home/f'{images}.gz').read_bytes() == bad, 'a file of the user was changed'

def test_an_unpacked_file_is_checked_too(tiny, offline):
    tiny.fill(tiny.home, packed=False)
    (tiny.home/images).write_bytes(tiny.contents[images][:-1] + b'\7')
    with pytest.raises(ValueError, match='SHA-256'): tiny.load()
    (tiny.home/images).write_bytes(tiny.contents[images][:-1])
    with pytest.raises(ValueError, match='promises 76 bytes.* 75'): tiny.load()

def test_images_without_their_labels_are_refused(tiny, offline):
    tiny.fill(tiny.home)
    name = 'train-labels-idx1-ubyte'
    (tiny.home/f'{name}.gz').write_bytes(four := gzip.compress(idx(np.arange(4))))
    with pytest.raises(ValueError, match='5 images but 4 labels'): tiny.load(files=tiny.files | {name: (sha256(four),)})

def test_a_download_brings_the_files_and_keeps_them(tiny, monkeypatch):
    tiny.home.rmdir()
    tiny.check(tiny.load(download=True))
    assert tiny.at_home() == sorted(f'{name}.gz' for name in tiny.files)
    monkeypatch.setattr(urllib.request, 'urlopen', lambda *a, **k: pytest.fail('asked again'))
    tiny.check(tiny.load(download=True))

def test_a_mirror_may_be_one_address_with_or_without_a_slash(tiny):
    tiny.check(tiny.load(download=True, mirrors=tiny.mirror.as_uri() + '/'))

def test_mirrors_are_tried_in_order_and_only_until_one_helps(tiny, monkeypatch):
    asked, really = [], urllib.request.urlopen
    monkeypatch.setattr(urllib.request, 'urlopen', lambda url, **kwargs: (asked.append(url), really(url, **kwargs))[1])
    empty, good = tiny.empty.as_uri(), tiny.mirror.as_uri()
    tiny.load(download=True, mirrors=[empty, good + '/', 'https://never.invalid'])
    assert asked == [f'{m}/{name}.gz' for name in tiny.files for m in (empty, good)]

@damages
def test_a_mirror_with_a_wrong_file_is_passed_over(tiny, how, words):
    Tiny.fill(tiny, tiny.empty)
    (tiny.empty/f'{images}.gz').write_bytes(damage(tiny, how))
    tiny.check(tiny.load(download=True, mirrors=[tiny.empty.as_uri(), tiny.mirror.as_uri()]))
    assert tiny.at_home() == sorted(f'{name}.gz' for name in tiny.files)
    assert (tiny.home/f'{images}.gz').read_bytes() == tiny.packed[images]

@damages
def test_without_a_good_mirror_nothing_is_left_behind(tiny, how, words):
    (tiny.mirror/f'{images}.gz').write_bytes(damage(tiny, how))
    mirrors = [tiny.empty.as_uri(), tiny.mirror.as_uri(), 'nonsense']
    with pytest.raises(OSError) as refusal: tiny.load(download=True, mirrors=mirrors)
    assert all(w in str(refusal.value) for w in [images, str(tiny.home), *mirrors, *words]), refusal.value
    assert tiny.at_home() == []

def test_an_interrupted_download_leaves_no_file_that_could_be_taken_for_a_whole_one(tiny, monkeypatch):
    seen = []
    def half(source, target):
        target.write(source.read(10))
        seen.extend(tiny.at_home())
        raise KeyboardInterrupt
    monkeypatch.setattr('shutil.copyfileobj', half)
    with pytest.raises(KeyboardInterrupt): tiny.load(download=True)
    assert seen == [f'{images}.gz.part']
    assert tiny.at_home() == []

def test_the_real_name_appears_only_after_the_fingerprint_was_found_right(tiny, monkeypatch):
    moves = []
    def replace(a, b):
        assert sha256(open(a, 'rb').read()) in tiny.files[images]
        moves.append((a, b))
        raise OSError('no room')
    monkeypatch.setattr('os.replace', replace)
    with pytest.raises(OSError, match='no room'): tiny.load(download=True)
    path = str(tiny.home/f'{images}.gz')
    assert moves == [(f'{path}.part', path)] and tiny.at_home() == []

@pytest.mark.parametrize('call, error, words', [
    (lambda tiny: tiny.load(part='valid'), ValueError, ['part', 'valid', 'train', 'test']),
    (lambda tiny: load_mnist(None), TypeError, ['root', 'None']),
])
def test_the_loader_refuses_a_setting_by_its_name(tiny, call, error, words, offline):
    with pytest.raises(error) as refusal: call(tiny)
    assert all(w in str(refusal.value) for w in words), refusal.value
