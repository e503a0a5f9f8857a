"""What page 8 promises: dropout is PyTorch's, its way back uses the same mask, and changed images obey the laws of geometry."""
import copy
import inspect
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb import regularize as module
from backprop_nb.backward import check_vjp, vjps
from backprop_nb.data import load_digits
from backprop_nb.layers import Linear, ReLU, Sequential, value_and_grad
from backprop_nb.loss import cross_entropy
from backprop_nb.optim import SGD, Adam, AdamW
from backprop_nb.regularize import Dropout, dropout, jitter, l1, l1_dw, l2, l2_dw, rotate, sample, shift, soft_threshold
from backprop_nb.train import fit

both_dtypes = pytest.mark.parametrize('dtype', [np.float32, np.float64])
rates = st.floats(0, .95)
seeds = st.integers(0, 2**32)

def numbers(shape, seed=0, dtype=np.float64): return np.random.default_rng(seed).normal(size=shape).astype(dtype)

def small_net(p=.5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return Sequential(Linear(5, 8, rng), ReLU(), Dropout(p, rng), Linear(8, 3, rng), dtype=dtype)

def a_batch(n=6): return numbers((n, 5), 1), np.random.default_rng(2).integers(0, 3, n)

@st.composite
def batches_of_images(draw, square=False):
    n, h, w = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return numbers((n, h, h if square else w), draw(st.integers(0, 9)))

# the operations

@pytest.mark.parametrize('op, args', [(dropout, [numbers((3, 4)), np.random.default_rng(0).integers(0, 2, (3, 4)) * 1.25]),
                                      (l1, [numbers((3, 4))]), (l2, [numbers((3, 4))])], ids=lambda v: getattr(v, '__name__', ''))
def test_every_op_has_one_rule_which_is_its_derivative(op, args):
    rule, = vjps[op]
    name = next(iter(inspect.signature(op).parameters))
    assert rule.__name__ == f'{op.__name__}_d{name}' and getattr(module, rule.__name__) is rule
    assert list(inspect.signature(rule).parameters) == ['g', 'y', *inspect.signature(op).parameters]
    check_vjp(op, *args)

@both_dtypes
def test_operations_and_rules_keep_the_dtype_and_their_arguments(dtype):
    x, mask = numbers((3, 4), dtype=dtype), np.ones((3, 4), dtype)
    kept = x.copy()
    for op, args in (dropout, (x, mask)), (l1, (x,)), (l2, (x,)):
        y = op(*args)
        assert y.dtype == dtype and vjps[op][0](.1, y, *args).dtype == dtype
    assert soft_threshold(x, .1).dtype == dtype
    assert_array_equal(x, kept)

@given(seeds, st.floats(0, 3))
def test_the_soft_threshold_is_the_lowest_point_of_square_and_size(seed, c):
    a = numbers(20, seed)
    w = soft_threshold(a, c)
    def price(w): return (w - a)**2/2 + c*np.abs(w)
    for other in (0*a, a, w + 1e-3, w - 1e-3, np.random.default_rng(seed).normal(size=20)): assert (price(w) <= price(other) + 1e-12).all()
    assert (np.abs(w) <= np.abs(a)).all() and (w * a >= 0).all() and (w[np.abs(a) <= c] == 0).all()

@pytest.mark.parametrize('rule, penalty', [(l2_dw, 'l2'), (l1_dw, 'l1')])
def test_penalties_have_pytorchs_gradients(rule, penalty):
    torch = pytest.importorskip('torch', reason='the comparison needs PyTorch')
    w = numbers((4, 3))
    t = torch.tensor(w, requires_grad=True)
    value = (t**2).sum()/2 if penalty == 'l2' else t.abs().sum()
    value.backward()
    assert_allclose(rule(1, None, w), t.grad.numpy(), rtol=1e-12)
    assert_allclose(getattr(module, penalty)(w), value.item(), rtol=1e-12)

@pytest.mark.parametrize('make, same', [(SGD, True), (Adam, False), (AdamW, True)])
def test_a_penalty_is_a_decay_for_plain_descent_and_for_adamw_alone(make, same):
    x, target = a_batch()
    def stepped(c, decay):
        model = small_net(0)
        opt = make(model, .1, weight_decay=c)
        model.backward(value_and_grad(cross_entropy, model(x), target)[1])
        model.params *= 1 - decay
        opt.step()
        return model.params
    assert np.allclose(stepped(.5, 0), stepped(0, .1 * .5), atol=1e-12) == same

@pytest.mark.parametrize('make', [SGD, Adam])
def test_weight_decay_adds_the_rule_of_l2_to_the_gradient(make):
    x, target = a_batch()
    one, other = small_net(0), small_net(0)
    opts = make(one, .1, weight_decay=.3), make(other, .1)
    for _ in range(5):
        for model in (one, other): model.backward(value_and_grad(cross_entropy, model(x), target)[1])
        other.grads += l2_dw(.3, None, other.params)
        for opt in opts: opt.step()
    assert_allclose(one.params, other.params, atol=1e-12)

# dropout, the layer

@given(rates, seeds)
def test_a_mask_holds_zeros_and_one_scale_in_the_dtype_of_the_inputs(p, seed):
    for dtype in (np.float32, np.float64):
        x = np.ones((20, 30), dtype)
        y = Dropout(p, seed)(x)
        assert y.dtype == dtype
        assert set(np.unique(y)) <= {dtype(0), 1 / dtype(1 - p)}

@pytest.mark.parametrize('p', [0, .1, .5, .9])
@both_dtypes
def test_what_is_expected_stays_and_a_share_p_is_silent(p, dtype):
    y = Dropout(p, 0)(np.ones((400, 500), dtype))
    assert abs((y == 0).mean() - p) < 5*(p*(1 - p)/y.size)**.5 + 1e-12
    assert abs(y.mean(dtype=float) - 1) < 5*(p/(1 - p)/y.size)**.5 + 1e-6

def test_every_input_has_a_mask_of_its_own():
    y = Dropout(.5, 0)(np.ones((200, 100)))
    assert len(np.unique(y, axis=0)) == 200 and len(np.unique(y, axis=1)[0]) == 100

@pytest.mark.parametrize('shape', [(7, 5), (1, 5), (2, 6, 5), (2, 3, 4, 5), (0, 5)], ids=str)
@both_dtypes
def test_given_the_mask_values_and_gradients_are_pytorchs(shape, dtype):
    torch = pytest.importorskip('torch', reason='the comparison needs PyTorch')
    x, g, p = numbers(shape, dtype=dtype), numbers(shape, 1, dtype), .3
    layer = Dropout(p, 0)
    y = layer(x)
    kept = torch.tensor(y != 0)
    tx = torch.tensor(x, requires_grad=True)
    ty = torch.ops.aten.native_dropout_backward(tx, kept, 1/(1 - p))   # what PyTorch does with a mask, forward and back alike
    assert_allclose(y, ty.detach().numpy(), rtol=1e-6)
    ty.backward(torch.tensor(g))
    dx = layer.backward(g)
    assert dx.dtype == dtype
    assert_allclose(dx, tx.grad.numpy(), rtol=1e-6)

def test_scale_and_rate_are_those_of_pytorchs_layer():
    torch = pytest.importorskip('torch', reason='the comparison needs PyTorch')
    torch.manual_seed(0)
    x = np.ones((300, 400), np.float32)
    theirs, ours = torch.nn.Dropout(.2)(torch.tensor(x)).numpy(), Dropout(.2, 0)(x)
    assert_array_equal(np.unique(theirs), np.unique(ours))
    assert abs((theirs == 0).mean() - (ours == 0).mean()) < .01

@given(rates, seeds)
def test_the_way_back_has_the_mask_of_the_last_call(p, seed):
    layer, x, g = Dropout(p, seed), numbers((4, 6)) + 10, numbers((4, 6), 1)
    layer(x)
    y = layer(x)
    assert_allclose(layer.backward(g), g * y / x, rtol=1e-12)

def test_a_net_with_dropout_has_the_gradient_that_nudges_find_under_its_mask():
    x, target = a_batch()
    model = small_net()
    def loss_along(v):
        twin = copy.deepcopy(model)
        twin.params += v
        return cross_entropy(twin(x), target)
    directions = numbers((5, model.params.size), 3)
    nudged = [(loss_along(1e-6*v) - loss_along(-1e-6*v)) / 2e-6 for v in directions]
    model.backward(value_and_grad(cross_entropy, model(x), target)[1])
    assert_allclose(directions @ model.grads, nudged, rtol=1e-6, atol=1e-9)

@both_dtypes
def test_predict_and_evaluation_let_everybody_work_and_draw_nothing(dtype):
    x, _ = a_batch()
    x = x.astype(dtype)
    model, plain = small_net(.7, dtype=dtype), small_net(0, dtype=dtype)
    expected, state = plain.predict(x), model.layers[2].rng.bit_generator.state
    assert_array_equal(model.predict(x), expected)
    assert_array_equal(model.eval()(x), expected)
    assert model.layers[2].rng.bit_generator.state == state
    assert (model.train()(x) != expected).any()

def test_in_evaluation_the_gradient_flows_through_everybody():
    x, target = a_batch()
    model, plain = small_net(.7).eval(), small_net(0)
    for m in (model, plain): m.backward(value_and_grad(cross_entropy, m(x), target)[1])
    assert_array_equal(model.grads, plain.grads)

def test_predict_between_a_call_and_its_way_back_changes_nothing():
    x, target = a_batch()
    one, other = small_net(), small_net()
    g = [value_and_grad(cross_entropy, m(x), target)[1] for m in (one, other)]
    other.predict(numbers((9, 5), 7))
    for m, message in zip((one, other), g): m.backward(message)
    assert_array_equal(one.grads, other.grads)

@both_dtypes
def test_all_that_flows_keeps_the_dtype_of_the_model(dtype):
    x, target = a_batch()
    model = small_net(dtype=dtype)
    y = model(x)
    g = value_and_grad(cross_entropy, y, target)[1]
    assert y.dtype == dtype and model.backward(g, need_dx=True).dtype == dtype
    assert all(layer.y.dtype == dtype for layer in model.layers)

def trained(seed):
    x, target = load_digits()
    rng = np.random.default_rng(seed)
    model = Sequential(Linear(64, 16, rng), ReLU(), Dropout(.5, rng), Linear(16, 10, rng))
    fit(model, x[:100], target[:100], Adam(model), rng, n_epochs=3, progress=False)
    return model

def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    assert_array_equal(trained(0).params, trained(0).params)
    assert (trained(0).params != trained(1).params).any()

@pytest.mark.parametrize('twin', [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))], ids=['deepcopy', 'copy', 'pickle'])
def test_a_twin_draws_the_masks_that_the_model_would_have_drawn_without_disturbing_it(twin):
    x, _ = a_batch()
    model = small_net()
    model(x)
    other, third = twin(model), twin(model)
    assert_array_equal(other(x), model(x))
    other(x)
    other(x)
    third(x)
    assert_array_equal(third(x), model(x))

def test_a_pickle_holds_no_mask():
    model = small_net()
    fresh = len(pickle.dumps(model))
    model(numbers((2000, 5)))
    assert len(pickle.dumps(model)) < fresh + 100      # the mask alone has 2000 times 8 numbers

def test_before_the_first_call_there_is_nothing_to_go_back_through():
    with pytest.raises(RuntimeError, match='call it on a batch first'): Dropout(.5, 0).backward(np.ones((2, 3)))

@pytest.mark.parametrize('p', [1, 1., 1.5, -.1, -1e-9, np.nan, np.inf, '0.5', None, True, [.5], 1j], ids=repr)
def test_a_rate_that_is_no_share_below_one_is_refused_and_named(p):
    with pytest.raises((TypeError, ValueError)) as e: Dropout(p, 0)
    assert 'p:' in str(e.value) and repr(p) in str(e.value)

@pytest.mark.parametrize('rng', [None, .5, 'seed', True, -1, np.random], ids=str)
def test_a_source_of_chance_that_is_none_is_refused(rng):
    with pytest.raises((TypeError, ValueError), match='rng'): Dropout(.5, rng)
    with pytest.raises((TypeError, ValueError), match='rng'): jitter(np.ones(3), .1, rng)

@pytest.mark.parametrize('p', [0, np.float32(.25), np.int64(0), .999])
def test_any_share_below_one_is_welcome_and_shown(p): assert repr(Dropout(p, 0)) == f'Dropout({float(p):g})'

# images

@given(batches_of_images())
def test_to_move_by_nothing_or_turn_by_nothing_changes_no_number(x):
    assert_array_equal(shift(x, 0, 0), x)
    assert_array_equal(rotate(x, 0), x)
    assert_array_equal(jitter(x, 0, 0), x)
    assert_array_equal(sample(x, *(a[None].astype(float) for a in np.indices(x.shape[1:]))), x)

@given(batches_of_images(), st.integers(-10, 10), st.integers(-10, 10))
def test_a_shift_by_whole_pixels_moves_each_pixel_and_leaves_paper(x, dy, dx):
    n, h, w = x.shape
    expected = np.zeros_like(x)
    for i in range(h):
        for j in range(w):
            if 0 <= i - dy < h and 0 <= j - dx < w: expected[:, i, j] = x[:, i - dy, j - dx]
    assert_array_equal(shift(x, dy, dx), expected)

def test_one_dot_moves_down_and_to_the_right():
    x = np.zeros((1, 4, 5))
    x[0, 1, 1] = 1
    assert np.argwhere(shift(x, 2, 3)[0]).tolist() == [[3, 4]]
    assert_allclose(shift(x, .25, 0)[0, :, 1], [0, .75, .25, 0])

@given(batches_of_images(square=True), st.integers(-5, 5))
def test_quarter_turns_are_numpys(x, k): assert_allclose(rotate(x, 90*k), np.rot90(x, k, axes=(1, 2)), atol=1e-12)

@given(batches_of_images())
def test_a_half_turn_is_numpys_for_any_sides(x): assert_allclose(rotate(x, 180), np.rot90(x, 2, axes=(1, 2)), atol=1e-12)

@given(batches_of_images(), st.floats(-3, 3), st.floats(-3, 3), st.floats(-400, 400))
def test_changed_images_are_linear_and_never_brighter(x, dy, dx, angle):
    other = numbers(x.shape, 11)
    for change in (lambda x: shift(x, dy, dx)), (lambda x: rotate(x, angle)):
        assert_allclose(change(x + 2*other), change(x) + 2*change(other), atol=1e-10)
        assert change(x).max() <= max(x.max(), 0) + 1e-12 and change(x).min() >= min(x.min(), 0) - 1e-12

@given(batches_of_images(), seeds)
def test_each_image_gets_its_own_number(x, seed):
    dy, dx, angle = np.random.default_rng(seed).uniform(-3, 3, (3, len(x)))
    assert_array_equal(shift(x, dy, dx), np.concatenate([shift(x[i:i+1], dy[i], dx[i]) for i in range(len(x))]))
    assert_array_equal(rotate(x, 20*angle), np.concatenate([rotate(x[i:i+1], 20*angle[i]) for i in range(len(x))]))

@pytest.mark.parametrize('angle', [10, -25, 45, 200])
def test_a_turn_is_scipys(angle):
    ndimage = pytest.importorskip('scipy.ndimage', reason='the comparison needs SciPy')
    x = load_digits()[0][:5].reshape(-1, 8, 8).astype(float)
    paper = np.pad(x, ((0, 0), (2, 2), (2, 2)))          # SciPy's paper starts at once, ours one pixel further on
    theirs = ndimage.rotate(paper, angle, axes=(1, 2), reshape=False, order=1)
    assert_allclose(rotate(paper, angle), theirs, atol=1e-9)

@pytest.mark.parametrize('by', [(.5, 0), (.3, -.7), (-1.25, 2)], ids=str)
def test_a_shift_between_pixels_is_scipys(by):
    ndimage = pytest.importorskip('scipy.ndimage', reason='the comparison needs SciPy')
    x = np.pad(numbers((3, 6, 7)), ((0, 0), (3, 3), (3, 3)))
    assert_allclose(shift(x, *by), ndimage.shift(x, (0, *by), order=1), atol=1e-9)

def test_turns_are_against_the_clock():
    x = np.zeros((1, 5, 5))
    x[0, 2, 4] = 1                                       # on the right
    assert rotate(x, 90)[0, 0, 2] == pytest.approx(1)    # comes to the top

CHANGES = {'shift': lambda x: shift(x, .5, 1), 'rotate': lambda x: rotate(x, 20), 'jitter': lambda x: jitter(x, .1, 0)}
every_change = pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)

@every_change
def test_float32_stays_and_all_other_numbers_become_float64(change):
    x = np.random.default_rng(0).integers(0, 16, (3, 4, 5))
    expected = change(x.astype(float))
    assert change(x.astype(np.float32)).dtype == np.float32 and expected.dtype == np.float64
    for guise in (x, x.tolist(), x.astype('>f8'), x.astype(np.uint8), np.asfortranarray(x.astype(float)), x.astype(float)[:, :, ::-1][:, :, ::-1]):
        assert_array_equal(change(guise), expected)

@every_change
def test_images_are_read_and_not_written(change):
    x = numbers((3, 4, 5))
    x.flags.writeable = False
    assert not np.shares_memory(change(x), x)

@pytest.mark.parametrize('change', [shift, rotate], ids=['shift', 'rotate'])
@pytest.mark.parametrize('x, kind, fact', [
    (np.ones((3, 64)), ValueError, 'reshape'), (np.ones(5), ValueError, r'\(5,\)'), (np.ones((1, 2, 3, 4)), ValueError, r'\(1, 2, 3, 4\)'), (3., ValueError, r'\(\)'),
    (np.full((1, 2, 2), np.nan), ValueError, 'NaN'), (np.full((1, 2, 2), np.inf), ValueError, 'infinity'), (None, TypeError, 'NoneType'),
    ('abc', TypeError, 'str'), (np.ones((1, 2, 2), complex), TypeError, 'complex'), ([[['a']]], TypeError, 'real numbers'),
    ([[[1, 2], [3]]], ValueError, 'ragged')], ids=str)
def test_what_are_no_images_is_refused(change, x, kind, fact):
    with pytest.raises(kind, match=fact): change(x, *[0] * (2 if change is shift else 1))

@pytest.mark.parametrize('v, kind', [(np.nan, ValueError), (np.inf, ValueError), ([1, 2], ValueError), ([[1, 2, 3]], ValueError), ('a', TypeError), (None, TypeError), (1j, TypeError)], ids=repr)
def test_distances_and_angles_that_do_not_fit_are_refused_by_name(v, kind):
    x = numbers((3, 4, 4))
    for name, call in dict(dy=lambda: shift(x, v, 0), dx=lambda: shift(x, 0, v), angle=lambda: rotate(x, v)).items():
        with pytest.raises(kind, match=f'^{name}'): call()

@pytest.mark.parametrize('noise', [-.1, np.nan, np.inf, '1', None, True], ids=repr)
def test_a_noise_that_is_no_size_is_refused(noise):
    with pytest.raises((TypeError, ValueError), match='noise'): jitter(np.ones((2, 3)), noise, 0)

@both_dtypes
def test_noise_has_the_size_that_was_asked_for_and_repeats_with_its_seed(dtype):
    x = numbers((300, 400), dtype=dtype)
    e = jitter(x, .3, 0) - x
    assert abs(e.mean()) < .005 and abs(e.std() - .3) < .005
    assert_array_equal(jitter(x, .3, 0), jitter(x, .3, np.random.default_rng(0)))
    assert (jitter(x, .3, 0) != jitter(x, .3, 1)).any()

def test_every_public_name_has_a_docstring_and_is_offered():
    for name in ('Dropout', 'dropout', 'dropout_dx', 'l1', 'l1_dw', 'l2', 'l2_dw', 'soft_threshold', 'sample', 'shift', 'rotate', 'jitter'):
        assert name in module.__all__ and getattr(module, name).__doc__
