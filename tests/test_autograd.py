"Any formula, in numbers or arrays, has the gradient that PyTorch has, costs what a row of layers costs in bits, and leaves nothing behind"
import copy
import gc
import html
import inspect
import math
import pickle
import re
import runpy
import shutil
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes
from numpy.testing import assert_allclose, assert_array_equal
from project import ROOT

from backprop_nb import autograd, backward
from backprop_nb.autograd import *
from backprop_nb.backward import check_vjp, vjps
from backprop_nb.dual import *
from backprop_nb.forward import *
from backprop_nb.layers import *
from backprop_nb.layers import fast
from backprop_nb.loss import *
from backprop_nb.norm import Residual

OWN = {op: rules for op, rules in vjps.items() if all(rule.__module__ == autograd.__name__ for rule in rules) or op is np.tanh}
EARLIER = [op for op, rules in vjps.items() if op not in OWN and all(rule.__module__ == backward.__name__ for rule in rules)]   # other pages add rows of their own
seeds = st.integers(0, 2**32 - 1)

def torch_or_skip(): return pytest.importorskip('torch', reason='compares with PyTorch')

@pytest.fixture
def no_collector():
    "The garbage collector off: what goes, goes by reference counting"
    gc.collect()
    gc.disable()
    yield
    gc.enable()

@pytest.fixture
def no_recursion():
    "Leave hardly any room for recursion"
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 60)
    yield
    sys.setrecursionlimit(limit)

# numbers

def safe(a): return a*a + 1    # away from 0, where powers, quotients and logarithms end

STEPS = {   # a, b: earlier results; c: a number from 0.5 to 2
    'a+b': lambda a, b, c: a + b, 'a-b': lambda a, b, c: a - b, 'a*b': lambda a, b, c: a * b, 'a/b': lambda a, b, c: a / safe(b),
    'a**-1': lambda a, b, c: safe(a)**-1, 'a**-.5': lambda a, b, c: safe(a)**-.5, 'a**.5': lambda a, b, c: safe(a)**.5, 'a**3': lambda a, b, c: a**3, 'a**0': lambda a, b, c: a**0,
    'a**b': lambda a, b, c: safe(a)**b.tanh(), 'c+a': lambda a, b, c: c + a, 'c-a': lambda a, b, c: c - a, 'c*a': lambda a, b, c: c * a, 'c/a': lambda a, b, c: c / safe(a),
    'c**a': lambda a, b, c: c ** a.tanh(), 'a+c': lambda a, b, c: a + c, 'a-c': lambda a, b, c: a - c, 'a*c': lambda a, b, c: a * c, 'a/c': lambda a, b, c: a / c, '-a': lambda a, b, c: -a,
    'exp': lambda a, b, c: a.tanh().exp(), 'log': lambda a, b, c: safe(a).log(), 'tanh': lambda a, b, c: a.tanh(), 'relu': lambda a, b, c: a.relu()}

def grow(steps, values):
    "A formula that uses earlier results at random; the same for any kind of number"
    made = list(values)
    for name, i, j, c in steps:
        y = STEPS[name](made[i % len(made)], made[j % len(made)], c)
        made.append(y.tanh() if abs(float(y.data)) > 50 else y)
    return sum(made[len(values):], made[0])

@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 99), st.integers(0, 99), st.floats(.5, 2)), min_size=1, max_size=25), st.lists(st.floats(-2, 2).filter(lambda v: abs(v) > 1e-3), min_size=3, max_size=3))
def test_any_formula_of_numbers_has_pytorchs_value_and_slopes(steps, values):
    torch = torch_or_skip()
    ours, theirs = [Scalar(v) for v in values], [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    y, z = grow(steps, ours), grow(steps, theirs)
    y.backward()
    z.backward()
    assert_allclose(y.data, z.item(), rtol=1e-9)
    for a, b in zip(ours, theirs): assert_allclose(a.grad, 0 if b.grad is None else b.grad.item(), rtol=1e-9, atol=1e-9)

@pytest.mark.parametrize('f, error', [
    (lambda x: x / 0, ZeroDivisionError), (lambda x: 1 / (x - x), ZeroDivisionError), (lambda x: (x - x)**-1, ZeroDivisionError),
    (lambda x: (x - x)**.5, ZeroDivisionError), (lambda x: (x - x).log(), ValueError), (lambda x: (-x).log(), ValueError), (lambda x: (-x)**.5, ValueError),
    (lambda x: (1000 * x).exp(), OverflowError), (lambda x: (1000 * x)**1000, OverflowError), (lambda x: x + 'one', TypeError), (lambda x: x * None, TypeError),
    (lambda x: x + np.ones(3), TypeError), (lambda x: np.ones(3) * x, TypeError), (lambda x: x**'2', TypeError), (lambda x: Scalar(True), TypeError),
    (lambda x: Scalar('1'), TypeError), (lambda x: Scalar(float('nan')), ValueError), (lambda x: Scalar([1.]), TypeError)])
def test_where_a_number_has_no_result_or_no_slope_it_says_so(f, error):
    with pytest.raises(error): f(Scalar(2))

def test_numbers_of_numpy_are_numbers():
    x = Scalar(np.float32(2))
    for y in (np.float64(3) * x, x * np.int64(3), np.float32(3) * x): assert isinstance(y, Scalar) and y.data == 6
    assert type(x.data) is float
    with pytest.raises(ZeroDivisionError): x / np.float64(0)

def test_a_nan_stays_visible():
    x = Scalar(1e308) * 10
    nan = x - x
    assert x.data == math.inf and math.isnan(nan.data)
    for y in (nan.relu(), nan.tanh(), nan.exp(), nan.log(), nan + 1, nan * 0, nan**2): assert math.isnan(y.data)

def test_a_power_of_zero_has_its_slope():
    for n, slope in ((0, 0), (1, 1), (2, 0), (1.5, 0)):
        x = Scalar(0)
        (x**n).backward()
        assert x.grad == slope

@pytest.mark.parametrize('kind', [Scalar, Tensor])
def test_a_long_chain_is_built_walked_and_freed_without_recursion(kind, no_collector, no_recursion):
    x, n = kind(1.), 300_000 if kind is Scalar else 100_000
    y = x
    for _ in range(n): y = y + x
    y.backward()
    assert float(x.grad) == n + 1
    alive = sum(type(o) is kind for o in gc.get_objects())
    del y
    assert sum(type(o) is kind for o in gc.get_objects()) == alive - n

def test_a_ladder_of_reused_values_takes_a_visit_for_each():
    x = Tensor(1.)
    y, n_calls = x, []
    rule = vjps[np.add]
    vjps[np.add] = tuple(lambda *args, r=r: (n_calls.append(1), r(*args))[1] for r in rule)
    try:
        for _ in range(50): y = y + y
        y.backward()
    finally: vjps[np.add] = rule
    assert x.grad == 2**50 and len(n_calls) == 100

# the walk

def random_graph(kind, seed, n=40):
    rng = np.random.default_rng(seed)
    made = [kind(float(v)) for v in rng.uniform(.5, 1, 3)]
    for _ in range(n):
        i, j = rng.integers(0, len(made), 2)
        made.append(made[i] + made[j] if rng.random() < .5 else made[i] * made[j] * .3)
    return made

@given(st.sampled_from([Scalar, Tensor]), seeds)
def test_each_comes_once_and_after_all_that_use_it(kind, seed):
    y = random_graph(kind, seed)[-1]
    order = topological_order(y)
    place = {v: i for i, v in enumerate(order)}
    assert order[0] is y and len(place) == len(order)
    for v in order:
        for a in v.inputs: assert a is None or place[a] > place[v]

@given(st.sampled_from([Scalar, Tensor]), seeds)
def test_a_second_walk_gives_the_same_and_a_walk_elsewhere_starts_anew(kind, seed):
    made = random_graph(kind, seed)
    made[-1].backward()
    once = [None if v.grad is None else float(v.grad) for v in topological_order(made[-1])]
    made[-2].backward()
    made[-1].backward()
    assert [None if v.grad is None else float(v.grad) for v in topological_order(made[-1])] == once

@given(seeds)
def test_both_spellings_of_the_walk_find_the_same(seed):
    y = random_graph(Scalar, seed)[-1]
    y.backward()
    grads = dict.fromkeys(topological_order(y), 0.) | {y: 1.}
    for v in grads:
        for a, slope in ((v.a, v.da), (v.b, v.db)):
            if a is not None: grads[a] += grads[v] * slope
    assert_allclose([v.grad for v in grads], list(grads.values()), rtol=1e-13)

class Interrupting(float):
    "A slope at which somebody presses Ctrl-C, once"
    def __rmul__(self, g):
        if not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        return g * float(self)
    pressed = False

def test_a_walk_that_was_interrupted_leaves_nothing_behind():
    x = Scalar(3)
    h = x * x
    y = (h * x + h) * h
    y.backward()
    once = x.grad, h.grad
    for node in (y, h, y.a, y.a.a):
        slope, node.da = node.da, Interrupting(node.da)
        with pytest.raises(KeyboardInterrupt): y.backward()
        y.backward()
        assert (x.grad, h.grad) == once
        node.da = slope

def test_an_interrupted_count_leaves_nothing_behind():
    x = Scalar(3)
    h = x * x
    y = (h * x + h) * h
    y.backward()
    once = x.grad, h.grad
    for node in (x, h, y.a):
        node.grad, node.waiting = 0., 5              # as after a first round that did not come to its end
        y.backward()
        assert (x.grad, h.grad) == once

def test_a_lean_walk_keeps_the_gradients_of_what_was_given_alone():
    rng = np.random.default_rng(0)
    x, w = Tensor(rng.normal(size=(5, 4))), Tensor(rng.normal(size=(4, 3)))
    h = np.tanh(x @ w)
    y = (h * h).sum()
    y.backward()
    once = x.grad, w.grad
    assert all(t.grad is not None for t in topological_order(y))
    y.backward(keep=False)
    assert_array_equal(x.grad, once[0])
    assert_array_equal(w.grad, once[1])
    assert {t for t in topological_order(y) if t.grad is not None} == {x, w}
    x.backward(np.ones((5, 4)), keep=False)           # nothing but a given tensor
    assert (x.grad == 1).all()

def test_a_lean_walk_holds_few_gradients_at_a_time():
    def peak(keep):
        y = Tensor(np.ones((100, 100)))
        for _ in range(20): y = y * 1.5
        tracemalloc.start()
        y.backward(np.ones((100, 100)), keep=keep)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most / y.data.nbytes
    assert peak(keep=True) > 20 and peak(keep=False) < 4

@given(seeds)
def test_numbers_and_arrays_agree(seed):
    a, b = random_graph(Scalar, seed), random_graph(Tensor, seed)
    a[-1].backward()
    b[-1].backward()
    for v, w in zip(a[:3], b[:3]): assert_allclose(0 if w.grad is None else w.grad, v.grad, rtol=1e-12)

# the rules, and their judges

def shaped(rng, shape, kind='normal'):
    x = rng.normal(size=shape)
    if kind == 'positive': x = np.exp(x / 2)
    if kind == 'off zero': x = np.where(np.abs(x) < .05, .3, x)
    return x

BINARY = {np.add: 'add', np.subtract: 'sub', np.multiply: 'mul', np.divide: 'div', np.power: 'pow', np.maximum: 'maximum', np.minimum: 'minimum'}
UNARY = {np.negative: 'neg', np.exp: 'exp', np.expm1: 'expm1', np.log: 'log', np.log1p: 'log1p', np.tanh: 'tanh', np.square: 'square', np.sqrt: 'sqrt',
         np.absolute: 'abs', np.sign: 'sign'}
POSITIVE = {np.log, np.log1p, np.sqrt}
STRETCHED = [((4, 3), (4, 3)), ((4, 3), (3,)), ((3,), (4, 3)), ((4, 3), (4, 1)), ((4, 3), ()), ((), (4, 3)), ((2, 1, 3), (4, 1)), ((1, 1), (5, 2, 3)), ((), ()), ((0, 3), (3,)), ((1,), (1, 1))]

def operands(op, shapes, seed=0):
    rng = np.random.default_rng(seed)
    a, b = (shaped(rng, s) for s in shapes)
    if op is np.divide: b = np.where(np.abs(b) < .2, .5, b)
    if op is np.power: a = np.exp(a / 2)
    if op in (np.maximum, np.minimum): b = np.where(np.abs(np.broadcast_arrays(a, b)[0] - b).min(axis=None, initial=1) < .01, b + .0123, b)
    return a, b

def against_torch(op, peer, args, n_inputs=None, seed=1):
    "Values and gradients through the graph equal PyTorch's, in float64"
    torch = torch_or_skip()
    n = len(vjps[op]) if n_inputs is None else n_inputs
    ours, theirs = [Tensor(a) for a in args[:n]], [torch.tensor(a, requires_grad=True) for a in args[:n]]
    y, z = apply(op, *ours, *args[n:]), peer(*theirs)
    assert_allclose(y.data, z.detach().numpy(), rtol=1e-9, atol=1e-12)
    assert y.shape == tuple(z.shape)
    g = np.random.default_rng(seed).normal(size=y.shape)
    y.backward(g)
    z.backward(torch.tensor(g))
    for a, b in zip(ours, theirs):
        assert a.grad.shape == a.shape and a.grad.dtype == a.dtype
        assert_allclose(a.grad, b.grad.numpy(), rtol=1e-9, atol=1e-9)

@pytest.mark.parametrize('shapes', STRETCHED, ids=str)
@pytest.mark.parametrize('op', BINARY, ids=lambda op: op.__name__)
def test_arithmetic_equals_pytorch_however_it_is_stretched(op, shapes):
    torch = torch_or_skip()
    against_torch(op, getattr(torch, BINARY[op]), operands(op, shapes))

@pytest.mark.parametrize('shape', [(), (3,), (2, 4, 3), (0,)], ids=str)
@pytest.mark.parametrize('op', UNARY, ids=lambda op: op.__name__)
def test_functions_of_one_number_equal_pytorch(op, shape):
    torch = torch_or_skip()
    against_torch(op, getattr(torch, UNARY[op]), [shaped(np.random.default_rng(0), shape, 'positive' if op in POSITIVE else 'off zero')])

@pytest.mark.parametrize('keepdims', [False, True])
@pytest.mark.parametrize('axis', [None, 0, 1, -1, (0, 2), (-1, 0), (0, 1, 2)], ids=str)
@pytest.mark.parametrize('op', [sum_over, mean_over, max_over], ids=lambda op: op.__name__)
def test_sums_means_and_maxima_equal_pytorch_over_any_axes(op, axis, keepdims):
    torch = torch_or_skip()
    dims = (0, 1, 2) if axis is None else axis
    peer = {sum_over: lambda x: x.sum(dim=dims, keepdim=keepdims), mean_over: lambda x: x.mean(dim=dims, keepdim=keepdims),
            max_over: lambda x: torch.amax(x, dim=dims, keepdim=keepdims)}[op]
    against_torch(op, peer, [shaped(np.random.default_rng(0), (2, 4, 3)), axis, keepdims])

def test_the_largest_share_evenly_as_in_pytorch():
    torch = torch_or_skip()
    x = np.array([[1., 3, 3], [2, 2, 2]])
    against_torch(max_over, lambda x: torch.amax(x, dim=-1), [x, -1])
    for op in (np.maximum, np.minimum): against_torch(op, getattr(torch, BINARY[op]), [x, np.array([3., 3, 2])])

@pytest.mark.parametrize('axes', [None, (0, 1, 2), (2, 0, 1), (1, 2, 0), (-1, 0, 1), (0, -1, -2)], ids=str)
def test_turning_equals_pytorch(axes):
    against_torch(transpose, lambda x: x.permute(*(axes or (2, 1, 0))), [shaped(np.random.default_rng(0), (2, 4, 3)), axes])

@pytest.mark.parametrize('shape', [(24,), (4, 6), (2, 1, 4, 3), (-1, 3), (2, 4, 3)], ids=str)
def test_another_shape_equals_pytorch(shape):
    against_torch(reshape, lambda x: x.reshape(shape), [shaped(np.random.default_rng(0), (2, 4, 3)), shape])

PICKS = {'one': 1, 'last': -1, 'piece': slice(1, 3), 'steps': slice(None, None, 2), 'two axes': (slice(None), 1), 'dots': (..., 0), 'new axis': (None, slice(None)),
         'list': [0, 2], 'twice': [0, 0, 3, 0], 'array': np.array([[0, 3], [3, 3]]), 'pairs': (np.array([0, 1, 0]), np.array([2, 2, 2])),
         'pairs and all': (np.array([1, 1]), slice(None), np.array([0, 1])), 'mask': np.arange(60).reshape(4, 3, 5) % 3 == 0, 'rows': np.array([True, False, True, True])}

@pytest.mark.parametrize('at', PICKS.values(), ids=PICKS)
def test_picking_equals_pytorch_also_where_a_number_is_picked_twice(at):
    torch = torch_or_skip()
    def as_torch(a): return torch.tensor(a) if isinstance(a, np.ndarray) else a
    key = tuple(map(as_torch, at)) if isinstance(at, tuple) else as_torch(at)
    against_torch(getitem, lambda x: x[key], [shaped(np.random.default_rng(0), (4, 3, 5)), at])

@pytest.mark.parametrize('axis', [0, 1, -1])
def test_joining_equals_pytorch(axis):
    torch = torch_or_skip()
    a, b = shaped(np.random.default_rng(0), (2, 4, 3)), shaped(np.random.default_rng(1), tuple(n + 2*(i == axis % 3) for i, n in enumerate((2, 4, 3))))
    against_torch(concatenate, lambda a, b: torch.cat([a, b], dim=axis), [a, b, axis])

@pytest.mark.parametrize('shapes', STRETCHED[:9], ids=str)
def test_choosing_equals_pytorch(shapes):
    torch = torch_or_skip()
    a, b = operands(np.add, shapes)
    mask = np.random.default_rng(2).random((1, 3)) > .5
    against_torch(where, lambda a, b: torch.where(torch.tensor(mask), a, b), [a, b, mask])

@pytest.mark.parametrize('shapes', [((4, 3), (3, 2)), ((2, 4, 3), (3, 2)), ((4, 3), (5, 3, 2)), ((2, 1, 4, 3), (5, 3, 2)), ((1, 4, 3), (6, 3, 2)), ((3,), (3, 2)), ((4, 3), (3,)),
                                    ((3,), (3,)), ((2, 4, 3), (3,)), ((3,), (5, 3, 2)), ((5, 1, 1, 3), (2, 3, 1))], ids=str)
def test_products_of_stacks_equal_pytorch(shapes):
    torch = torch_or_skip()
    rng = np.random.default_rng(0)
    against_torch(np.matmul, torch.matmul, [rng.normal(size=s) for s in shapes])

@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(BINARY)), mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3), seeds)
def test_arithmetic_passes_the_check_for_any_shapes(op, shapes, seed): check_vjp(op, *operands(op, shapes.input_shapes, seed))

@settings(max_examples=150, deadline=None)
@given(st.sampled_from([sum_over, mean_over, max_over]), array_shapes(max_dims=4, max_side=4), seeds, st.booleans(), st.data())
def test_axes_pass_the_check(op, shape, seed, keepdims, data):
    axes = data.draw(st.none() | st.integers(-len(shape), len(shape) - 1) | st.sets(st.integers(0, len(shape) - 1)).map(tuple))
    check_vjp(op, shaped(np.random.default_rng(seed), shape), axes, keepdims)

@settings(max_examples=100, deadline=None)
@given(mutually_broadcastable_shapes(signature='(n?,k),(k,m?)->(n?,m?)', max_dims=2, max_side=3), seeds)
def test_products_pass_the_check(shapes, seed):
    rng = np.random.default_rng(seed)
    check_vjp(np.matmul, *[rng.normal(size=s) for s in shapes.input_shapes])

@given(mutually_broadcastable_shapes(num_shapes=2, max_dims=5, max_side=3), seeds)
def test_unbroadcast_is_the_way_back_from_stretching(shapes, seed):
    rng = np.random.default_rng(seed)
    x, g = rng.normal(size=shapes.input_shapes[0]), rng.normal(size=shapes.result_shape)
    back = unbroadcast(g, x.shape)
    assert back.shape == x.shape
    assert_allclose(np.vdot(g, np.broadcast_to(x, g.shape)), np.vdot(back, x), rtol=1e-9, atol=1e-9)   # <g, S x> = <S' g, x>

CASES = [   # op and arguments of every row of this page
    *[(op, operands(op, ((4, 3), (3,)))) for op in BINARY], *[(op, (shaped(np.random.default_rng(0), (4, 3), 'positive'),)) for op in UNARY],
    *[(op, (shaped(np.random.default_rng(0), (4, 3)), *rest)) for op, rest in (
        (sum_over, (0,)), (mean_over, (-1, True)), (max_over, (1,)), (reshape, ((6, 2),)), (transpose, ()), (getitem, ([0, 0, 2],)),
        (concatenate, (np.ones((4, 2)),)), (where, (np.ones(3), np.eye(4, 3) > 0)), (np.matmul, (np.ones((3, 2)),)))]]

def test_the_cases_cover_the_table(): assert {op for op, _ in CASES} | {call_model} == set(OWN)

every_case = pytest.mark.parametrize('op, args', CASES, ids=[op.__name__ for op, _ in CASES])

@every_case
def test_rules_stand_in_the_order_of_the_inputs_and_are_named_after_them(op, args):
    letters = 'ab' if len(vjps[op]) == 2 else 'x'
    assert [rule.__name__ for rule in vjps[op]] == [f'{op.__name__}_d{letter}' for letter in letters]
    for rule in vjps[op]: assert list(inspect.signature(rule).parameters)[:2 + len(letters)] == ['g', 'y', *letters]

@every_case
def test_every_row_passes_the_check(op, args): check_vjp(op, *args)

@every_case
def test_float32_stays_float32(op, args):
    args = [a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == float else a for a in args]
    y = op(*args)
    assert y.dtype == np.float32
    for rule in vjps[op]: assert rule(np.ones_like(y), y, *args).dtype == np.float32 or op is max_over, rule.__name__
    inputs = [Tensor(a) for a in args[:len(vjps[op])]]
    apply(op, *inputs, *args[len(vjps[op]):]).backward(np.ones_like(y))
    assert all(t.grad.dtype == t.dtype == np.float32 for t in inputs)

@every_case
def test_rules_never_write_to_their_inputs(op, args):
    frozen = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    y = np.asarray(op(*args))
    g = np.random.default_rng(0).normal(size=y.shape)
    for a in (*frozen, y, g):
        if isinstance(a, np.ndarray): a.setflags(False)
    for rule in vjps[op]: rule(g, y, *frozen)              # writing to a read-only array raises

def test_powers_at_zero_have_no_hidden_infinity():
    torch = torch_or_skip()
    with np.errstate(all='ignore'):
        for base, exponent in ((0., 0.), (0., 1.), (0., 2.), (0., .5), (2., 0.), (0., -1.)):
            a, c = Tensor(base), torch.tensor(base, dtype=torch.float64, requires_grad=True)
            (a ** exponent).backward()
            (c ** exponent).backward()
            assert_array_equal(a.grad, c.grad)
            b, d = Tensor(exponent), torch.tensor(exponent, dtype=torch.float64, requires_grad=True)
            if exponent < 0: continue
            (base ** b).backward()
            (torch.tensor(base, dtype=torch.float64) ** d).backward()
            assert_array_equal(b.grad, d.grad)

# tensors

def network(x, w, b, v):
    "A formula with most kinds of operations in it"
    h = np.tanh(x @ w + b)
    h = np.maximum(h, .1 * h) * (h.mean(axis=-1, keepdims=True) + 2)
    s = np.exp(h - h.max(axis=0)) / (1 + h*h)**.5
    return ((s[[0, 2, 2]].T @ s[1:4]).reshape(-1).sum() - (v / (2 - s.sum(1))).mean()) ** 2

def network_in_torch(torch, x, w, b, v):
    h = torch.tanh(x @ w + b)
    h = torch.maximum(h, .1 * h) * (h.mean(dim=-1, keepdim=True) + 2)
    s = torch.exp(h - torch.amax(h, dim=0)) / (1 + h*h)**.5
    return ((s[[0, 2, 2]].T @ s[1:4]).reshape(-1).sum() - (v / (2 - s.sum(1))).mean()) ** 2

def test_a_longer_formula_equals_pytorch():
    torch = torch_or_skip()
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s) for s in ((4, 5), (5, 6), (6,), (4,))]
    ours, theirs = [Tensor(a) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = network(*ours), network_in_torch(torch, *theirs)
    y.backward()
    z.backward()
    assert_allclose(y.data, z.item(), rtol=1e-12)
    for a, b in zip(ours, theirs): assert_allclose(a.grad, b.grad, rtol=1e-10)
    assert isinstance(network(*arrays), np.floating) and network(*arrays) == y.data, 'with plain arrays it is plain arithmetic'

def test_arrays_and_numbers_stand_on_either_side():
    x, a = Tensor([1., 2]), np.array([3., 4])
    for y, value in ((a + x, [4, 6]), (a - x, [2, 2]), (a * x, [3, 8]), (a / x, [3, 2]), (a ** x, [3, 16]), (a @ x, 11), (2 - x, [1, 0]), (2 ** x, [2, 4]), (np.float32(2) * x, [2, 4])):
        assert isinstance(y, Tensor)
        assert_allclose(y.data, value)
    y = x
    y += 1
    y *= a
    assert isinstance(y, Tensor) and x.data.tolist() == [1, 2] and y.data.tolist() == [6, 12]
    assert (x > 1).tolist() == [False, True] and (x == x.data).all() and type(x < a) is np.ndarray
    assert [float(v) for v in x] == [1, 2] and len(x) == 2 and abs(Tensor(-1.)).data == 1 and (-x).data.tolist() == [-1, -2]

REFUSED = {
    'shapes of a product': (lambda x: x @ x, ValueError, 'matmul of (4, 3), (4, 3)'),
    'shapes of a sum': (lambda x: x + np.ones(4), ValueError, 'add of (4, 3), (4,)'),
    'index': (lambda x: x[4], IndexError, 'getitem of (4, 3)'),
    'axis': (lambda x: x.sum(2), ValueError, 'sum_over of (4, 3)'),
    'new shape': (lambda x: x.reshape(5, 2), ValueError, 'reshape of (4, 3)'),
    'join': (lambda x: apply(concatenate, x, x.T), ValueError, 'concatenate of (4, 3), (3, 4)'),
    'tensor as setting': (lambda x: apply(mse, x, x), TypeError, 'mse: argument 1'),
    'no row': (lambda x: np.arctan(x), TypeError, 'arctan'),
    'no row, by apply': (lambda x: apply(len, x), TypeError, 'len'),
    'function of NumPy': (lambda x: np.linalg.norm(x), TypeError, 'norm'),
    'join of NumPy': (lambda x: np.stack([x, x]), TypeError, 'stack'),
    'out': (lambda x: np.add(x, x, out=np.zeros((4, 3))), TypeError, 'add'),
    'reduce': (lambda x: np.add.reduce(x), TypeError, 'add'),
    'array': (lambda x: np.asarray(x), TypeError, '.data'),
    'mask first': (lambda x: apply(where, x > 0, x, 0.), TypeError, 'mask'),
    'more than one number': (lambda x: x.backward(), ValueError, '(4, 3)'),
    'shape of g': (lambda x: x.backward(np.ones(3)), ValueError, '(4, 3)'),
    'g of text': (lambda x: x.backward('g'), TypeError, 'g'),
    'text': (lambda x: Tensor('text'), TypeError, 'data'),
    'ragged': (lambda x: Tensor([[1], [1, 2]]), ValueError, 'ragged'),
    'a tensor of a tensor': (lambda x: Tensor(x), TypeError, '.data'),
    'length of a number': (lambda x: list(x.sum()), TypeError, ''),
}

@pytest.mark.parametrize('f, error, words', REFUSED.values(), ids=REFUSED)
def test_a_refusal_names_the_operation_and_the_shapes(f, error, words):
    with pytest.raises(error) as e: f(Tensor(np.ones((4, 3))))
    assert words in str(e.value)

def test_a_wrong_rule_is_named_when_its_shape_is_wrong(monkeypatch):
    def add_da_without_sum(g, y, a, b): return g
    monkeypatch.setitem(vjps, np.add, (add_da_without_sum, vjps[np.add][1]))
    with pytest.raises(ValueError, match='add_da_without_sum.*(3,)'): (Tensor(np.ones(3)) + Tensor(np.ones((4, 3)))).sum().backward()

def test_a_rule_that_fails_is_named(monkeypatch):
    def add_da_forgot_transpose(g, y, a, b): return g @ np.ones((7, 2))
    monkeypatch.setitem(vjps, np.add, (add_da_forgot_transpose, vjps[np.add][1]))
    with pytest.raises(ValueError, match=r'add_da_forgot_transpose of \(4, 3\)'): (Tensor(np.ones((4, 3))) + 1).sum().backward()

def test_what_is_handed_in_is_copied_and_what_is_made_cannot_be_written_to():
    own = np.array([1., 2])
    x = Tensor(own)
    y = x * x
    own[:] = 0
    y.sum().backward()
    assert x.data.tolist() == [1, 2] and x.grad.tolist() == [2, 4]
    for a in (x.data, y.data, x.grad, y.grad, x[1:].data, x.T.data):
        with pytest.raises(ValueError): a[0] = 0
    with pytest.raises(AttributeError): x.data = own
    own[:] = 1                                                   # and the owner's array is still writable
    shared = Tensor(own, copy=False)
    assert np.shares_memory(shared.data, own) and own.flags.writeable and not shared.data.flags.writeable

def test_the_message_that_arrives_stays_the_callers():
    x, g = Tensor([1., 2]), np.array([3., 4])
    (x + 0).backward(g)
    g[:] = 0
    assert x.grad.tolist() == [3, 4]

def test_a_graph_goes_when_its_last_name_goes(no_collector):
    x, w = Tensor(np.ones((50, 40))), Tensor(np.ones((40, 30)))
    loss = apply(cross_entropy, network_of(x, w), np.zeros(50, int))
    loss.backward()
    arrays = [weakref.ref(t.data) for t in topological_order(loss) if t.op and isinstance(t.data, np.ndarray)]
    assert len(arrays) > 5 and all(a() is not None for a in arrays)
    del loss
    assert not any(a() is not None for a in arrays)
    assert x.grad.shape == x.shape

def network_of(x, w):
    h = np.tanh(x @ w)
    return h * h.mean(axis=0) + h.reshape(-1, 30)[::-1] @ np.eye(30)

def test_steps_of_training_use_no_more_memory_than_one(no_collector):
    x, target, w = np.ones((50, 40)), np.zeros(50, int), np.ones((40, 30))
    def step():
        t = Tensor(w)
        apply(cross_entropy, network_of(x, t), target).backward()
        w[:] -= .1 * t.grad
    step()
    tracemalloc.start()
    try:
        step()
        first = tracemalloc.get_traced_memory()[0]
        for _ in range(20): step()
        assert tracemalloc.get_traced_memory()[0] - first < w.nbytes, 'more than the smallest of its arrays is left'
    finally: tracemalloc.stop()

def test_a_copy_holds_the_numbers_and_no_past():
    y = Tensor([1., 2]) * 3
    for z in (copy.copy(y), copy.deepcopy(y), pickle.loads(pickle.dumps(y)), y.detach()):
        assert z.op is None and z.inputs == () and (z.data == y.data).all()

def test_what_nobody_asks_for_is_not_computed(monkeypatch):
    calls = []
    def counted(g, y, a, b):
        calls.append(1)
        return autograd.matmul_da(g, y, a, b)
    monkeypatch.setitem(vjps, np.matmul, (counted, autograd.matmul_db))
    (np.ones((4, 3)) @ Tensor(np.ones((3, 2)))).sum().backward()
    assert not calls

# chain and graph

LAYERS = [ReLU, Tanh, Sigmoid, GELU, Softplus, Softmax, lambda: LeakyReLU(.2), lambda: ELU(1.3)]

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('layer', LAYERS, ids=lambda layer: repr(layer()))
def test_chain_and_graph_give_the_same_bits(layer, dtype):
    rng = np.random.default_rng(0)
    model = Sequential(Linear(6, 20, rng), layer(), Linear(20, 20, rng), layer(), Linear(20, 4, rng), dtype=dtype)
    x, target = rng.normal(size=(33, 6)).astype(dtype), rng.normal(size=(33, 4)).astype(dtype)
    value, g = value_and_grad(mse, model(x), target)
    dx = model.backward(g, need_dx=True)
    params, start = [Tensor(p) for l in model.layers for p in l.params], Tensor(x)
    loss = apply(mse, through(model, params, start), target)
    loss.backward()
    assert float(loss) == value
    assert_array_equal(start.grad, dx)
    assert_array_equal(np.concatenate([t.grad.ravel() for t in params]), model.grads)

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_a_model_inside_a_graph_gives_the_same_bits(dtype):
    rng = np.random.default_rng(0)
    model = Sequential(Linear(6, 20, rng), Tanh(), Linear(20, 4, rng), dtype=dtype)
    x = rng.normal(size=(33, 6)).astype(dtype)
    a, b, params = Tensor(x), Tensor(x), [Tensor(p) for l in model.layers for p in l.params]
    (np.tanh(apply(call_model, np.exp(a), model))**2).mean().backward()
    (np.tanh(through(model, params, np.exp(b)))**2).mean().backward()
    assert_array_equal(a.grad, b.grad)
    assert_array_equal(model.grads, np.concatenate([t.grad.ravel() for t in params]))
    if dtype == np.float64: check_vjp(call_model, x, model)

def test_a_layer_made_of_layers_is_refused_by_name_and_goes_as_one_op():
    model = Sequential(Linear(3, 3, 0), Residual(Linear(3, 3, 1), Tanh()), dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(TypeError, match=r'Residual.*call_model'): through(model, [Tensor(p) for layer in every(model.layers) for p in layer.params], x)
    assert_array_equal(apply(call_model, Tensor(x), model).data, model.predict(x))

def test_a_model_called_again_does_not_go_back_through_the_wrong_call():
    model = Sequential(Linear(2, 2, 0), dtype=np.float64)
    x = Tensor(np.ones((3, 2)))
    y = apply(call_model, x, model).sum() + apply(call_model, 2 * x, model).sum()
    with pytest.raises(RuntimeError, match='called again'): y.backward()

# forward mode

def dual_arguments(op, seed=0):
    rng = np.random.default_rng(seed)
    if op in OWN: return next(args for o, args in CASES if o is op)
    x = shaped(rng, (5, 3), 'off zero')
    if op is linear: return x, rng.normal(size=(3, 2)), rng.normal(size=2)
    if op is cross_entropy: return x, rng.integers(0, 3, 5)
    if op in (mse, mae, huber, binary_cross_entropy): return x, rng.random((5, 3))
    return x,

def moving(args, n, rng): return [Dual(a, rng.normal(size=np.shape(a))) for a in args[:n]] + list(args[n:])

EVERY_OP = [op for op in (*EARLIER, *OWN) if op is not call_model]

@pytest.mark.parametrize('op', EVERY_OP, ids=lambda op: op.__name__)
def test_forward_and_backward_of_every_operation_agree(op):
    args, n, rng = dual_arguments(op), len(vjps[op]), np.random.default_rng(1)
    duals = moving(args, n, rng)
    y = op(*duals)
    assert_allclose(y.value, op(*args), rtol=1e-13)
    assert y.tangent.shape == y.value.shape
    g = rng.normal(size=y.shape)
    back = sum(np.vdot(rule(g, y.value, *args), a.tangent) for rule, a in zip(vjps[op], duals))   # <g, J v> = <g J, v>
    assert_allclose(np.vdot(g, y.tangent), back, rtol=1e-11, atol=1e-13)

@pytest.mark.parametrize('op', EVERY_OP, ids=lambda op: op.__name__)
def test_every_rule_takes_dual_numbers(op):
    args, n, rng = dual_arguments(op), len(vjps[op]), np.random.default_rng(1)
    duals = moving(args, n, rng)
    g = Dual(rng.normal(size=np.shape(op(*args))), rng.normal(size=np.shape(op(*args))))
    def at(rule, t):
        moved = [a.value + t*a.tangent for a in duals[:n]] + list(args[n:])
        return rule(g.value + t*g.tangent, op(*moved), *moved)
    for rule in vjps[op]:
        for spelling in {rule, fast.get(rule, rule)}:
            d = spelling(g, fast.get(op, op)(*duals), *duals)
            assert_allclose(d.value, at(rule, 0), rtol=1e-12, atol=1e-14)
            assert_allclose(d.tangent, (at(rule, 1e-6) - at(rule, -1e-6)) / 2e-6, rtol=1e-5, atol=1e-7)

def small_network(seed=0, layer=Tanh, loss=cross_entropy):
    rng = np.random.default_rng(seed)
    model = Sequential(Linear(3, 5, rng), layer(), Linear(5, 4, rng), dtype=np.float64)
    x, target = rng.normal(size=(12, 3)), rng.integers(0, 4, 12)
    if loss is not cross_entropy: target = rng.random((12, 4))
    shapes = [p.shape for l in model.layers for p in l.params]
    ends = np.cumsum([math.prod(s) for s in shapes])
    def f(p): return apply(loss, through(model, [p[e - math.prod(s):e].reshape(s) for s, e in zip(shapes, ends)], x), target)
    return f, model.params.copy(), rng

@pytest.mark.parametrize('loss', [cross_entropy, mse, binary_cross_entropy, huber], ids=lambda f: f.__name__)
@pytest.mark.parametrize('layer', [Tanh, Sigmoid, GELU, Softplus, Softmax, lambda: ELU(1.3)], ids=lambda layer: repr(layer()))
def test_the_hessian_is_symmetric_and_the_slope_of_the_gradient(layer, loss):
    f, p, rng = small_network(layer=layer, loss=loss)
    u, v = rng.normal(size=(2, p.size))
    assert_allclose(u @ hvp(f, p, v), v @ hvp(f, p, u), rtol=1e-10)
    assert_allclose(hvp(f, p, v), (gradient(f, p + 1e-5*v) - gradient(f, p - 1e-5*v)) / 2e-5, rtol=1e-5, atol=1e-7)
    assert_allclose(gradient(f, Dual(p, v)).value, gradient(f, p), rtol=1e-12, atol=1e-15)
    assert_allclose(jvp(f, p, v)[1], gradient(f, p) @ v, rtol=1e-11)

def test_hessian_times_vector_equals_pytorch():
    torch = torch_or_skip()
    rng = np.random.default_rng(0)
    x, p, v = rng.normal(size=(6, 4)), rng.normal(size=12), rng.normal(size=12)
    def f(p): return (np.tanh(x @ p.reshape(4, 3))**2 / (1 + np.exp(x[:, :3] * p[:3]))).mean()
    def f_torch(p): return (torch.tanh(torch.tensor(x) @ p.reshape(4, 3))**2 / (1 + torch.exp(torch.tensor(x[:, :3]) * p[:3]))).mean()
    _, theirs = torch.autograd.functional.hvp(f_torch, torch.tensor(p), torch.tensor(v))
    assert_allclose(hvp(f, p, v), theirs.numpy(), rtol=1e-10, atol=1e-14)

def test_rows_and_columns_make_the_same_table_as_pytorch():
    torch = torch_or_skip()
    w = np.random.default_rng(0).normal(size=(3, 5))
    x = np.array([.3, -1, 2])
    def f(x): return np.exp(np.tanh(x @ w)) * x.sum()
    theirs = torch.autograd.functional.jacobian(lambda x: torch.exp(torch.tanh(x @ torch.tensor(w))) * x.sum(), torch.tensor(x)).numpy()
    for table in (jacobian_by_rows, jacobian_by_columns): assert_allclose(table(f, x), theirs, rtol=1e-12)

def test_whole_numbers_move_by_fractions():
    y = Dual([1, 2], [.5, 0]) * 3
    assert y.tangent.tolist() == [1.5, 0] and y.value.dtype == float

@pytest.mark.parametrize('axis, keepdims', [(None, False), (0, False), (-1, True), ((0, 1), False)])
@pytest.mark.parametrize('largest', [np.max, lambda x, **how: x.max(**how)], ids=['np.max', 'method'])
def test_the_largest_moves_as_fast_as_the_number_that_is_largest(largest, axis, keepdims):
    rng = np.random.default_rng(0)
    x, v = rng.permutation(12).reshape(3, 4).astype(float), rng.normal(size=(3, 4))
    y = largest(Dual(x, v), axis=axis, keepdims=keepdims)
    assert_array_equal(y.value, x.max(axis=axis, keepdims=keepdims))
    assert_allclose(y.tangent, ((x + 1e-3*v).max(axis=axis, keepdims=keepdims) - y.value) / 1e-3, rtol=1e-9)
    assert np.max(Dual([3., 3, 1], [1., 5, 9])).tangent == 3           # equal ones share, as on the way back

def test_a_tensor_takes_dual_numbers_as_constants():
    t, c = Tensor([1., 2]), Dual([3., 4], [1., 0])
    for y in (t * c, c * t):
        y.sum().backward()
        assert_array_equal(y.data.tangent, [1, 0])
        assert_array_equal(t.grad.value, [3, 4])
        assert_array_equal(t.grad.tangent, [1, 0])

def test_what_does_not_depend_on_x_has_slope_zero():
    assert gradient(lambda x: 3 + 0*x.sum(), np.ones(2)).tolist() == [0, 0] and jvp(lambda x: 3., np.ones(2), np.ones(2))[1] == 0
    assert gradient(lambda x: x[0] * 2, np.ones(2)).tolist() == [2, 0] and hvp(lambda x: x[0] * 2, np.ones(2), np.ones(2)).tolist() == [0, 0]

@pytest.mark.parametrize('f', [lambda x: np.linalg.norm(x), lambda x: np.floor(x), lambda x: np.add(np.ones(2), x, out=np.zeros(2)), lambda x: Dual([1, 2], [1])],
                         ids=['no rule', 'no row', 'out', 'shape'])
def test_dual_numbers_refuse_what_has_no_rule(f):
    with pytest.raises((TypeError, ValueError, KeyError)): f(Dual([1., 2], [1., 0]))

def test_automatic_and_symbolic_derivatives_agree():
    x, y = sympy.symbols('x y')
    e = sympy.exp(sympy.tanh(x * y)) * sympy.log(x) / (1 + y**2) + x**sympy.Rational(3, 2)
    def f(v): return np.exp(np.tanh(v[0] * v[1])) * np.log(v[0]) / (1 + v[1]**2) + v[0]**1.5
    at = np.array([1.3, -.4])
    value = {x: sympy.Float(1.3, 30), y: sympy.Float(-.4, 30)}
    assert_allclose(gradient(f, at), [float(e.diff(s).evalf(20, subs=value)) for s in (x, y)], rtol=1e-13)
    hessian = [[float(e.diff(s, t).evalf(20, subs=value)) for t in (x, y)] for s in (x, y)]
    assert_allclose([hvp(f, at, v) for v in np.eye(2)], hessian, rtol=1e-12)
    a, b = Scalar(1.3), Scalar(-.4)
    ((a * b).tanh().exp() * a.log() / (1 + b**2) + a**1.5).backward()
    assert_allclose([a.grad, b.grad], gradient(f, at), rtol=1e-13)

# on paper

@given(st.sampled_from([Scalar, Tensor]), seeds)
def test_a_picture_has_a_place_for_everything_right_of_its_inputs(kind, seed):
    y = random_graph(kind, seed)[-1]
    y.backward()
    drawn = layout(y)
    nodes = topological_order(y)
    assert len(drawn['places']) == len(set(drawn['places'].values())) == len(nodes) == len(drawn['values']) == len(drawn['grads'])
    assert len(drawn['edges']) == sum(a is not None for v in nodes for a in v.inputs)
    for a, b in drawn['edges']: assert drawn['places'][a][0] < drawn['places'][b][0]

def test_names_are_written_on_the_nodes():
    x, w = Scalar(2), Scalar(3)
    y = w * x + w
    y.backward()
    assert {'x', 'w', '×', '+'} == set(layout(y, x=x, w=w)['places'])
    assert layout(y, x=x, w=w)['grads']['w'] == '3.00'
    assert outline(y, x=x, w=w).splitlines() == ['+  9.00, gradient 1.00', '    ×  6.00, gradient 1.00', '        w  3.00, gradient 3.00', '        x  2.00, gradient 3.00', '    w  3.00, gradient 3.00']

def test_an_outline_of_a_deep_graph_needs_no_recursion(no_recursion):
    x = Scalar(1)
    y = x
    for _ in range(500): y = y + x
    assert len(outline(y).splitlines()) == 1001

@pytest.fixture
def bare(monkeypatch): monkeypatch.setenv('PATH', '')      # no Graphviz here

def neuron():
    w, x = Scalar(-3), Scalar(2)
    y = (w * x + 6).tanh()
    y.backward()
    return y, dict(w=w, x=x)

def test_a_name_is_kept_for_the_number_that_was_given_it():
    c = Scalar(2)
    y = c + 1 + c
    nodes = set(layout(y, c=c)['places'])
    assert nodes == {'c', 'c₂', '+', '+₂'} and layout(y, c=c)['values']['c'] == '2.00'

def test_a_layout_says_what_it_shows():
    y, names = neuron()
    assert layout(y, **names)['alt'] == 'A graph of 6 values, from w, x, c to tanh, 0.00.'

@given(st.sampled_from([Scalar, Tensor]), seeds)
def test_graphviz_is_told_every_node_and_arrow(kind, seed):
    y = random_graph(kind, seed)[-1]
    y.backward()
    nodes, said = topological_order(y), dot(y, digits=3)
    assert len(re.findall(r'(?m)^\d+ \[label=', said)) == len(nodes)
    assert sorted(re.findall(r'#0072B2">(.*?)<', said)) == sorted(f'{float(v.data):.3f}' for v in nodes)
    assert sorted(re.findall(r'#D55E00">(.*?)<', said)) == sorted(f'{float(v.grad):.3f}' for v in nodes)
    assert said.count('->') == sum(a is not None for v in nodes for a in v.inputs)

def test_without_graphviz_a_drawing_is_text(bare):
    y, names = neuron()
    assert draw(y, **names)._repr_mimebundle_() == {'text/plain': outline(y, **names)} and repr(draw(y, **names)) == outline(y, **names)
    with pytest.raises(FileNotFoundError, match='graphviz.org'): draw(y).svg()

def texts(svg): return sorted(html.unescape(t) for t in re.findall(r'<text[^>]*>(.*?)</text>', svg))

def graphviz_or_skip():
    if shutil.which('dot') is None: pytest.skip('asks Graphviz')

def test_graphviz_draws_names_values_and_gradients():
    graphviz_or_skip()
    y, names = neuron()
    svg = draw(y, **names)._repr_mimebundle_()['image/svg+xml']
    assert svg.startswith('<svg role="img" aria-label="A graph of 6 values, from w, x, c to tanh, 0.00."')
    assert texts(svg) == sorted(['w', '-3.00', '2.00', 'x', '2.00', '-3.00', '×', '-6.00', '1.00', 'c', '6.00', '1.00', '+', '0.00', '1.00', 'tanh', '0.00', '1.00'])

def test_the_picture_on_the_page_shows_what_the_engine_computes():
    graphviz_or_skip()
    drawing = runpy.run_path(str(ROOT/'tools'/'draw_images.py'))['graph']()
    assert texts((ROOT/'images'/'graph.svg').read_text(encoding='utf-8')) == texts(drawing.svg())

@pytest.mark.parametrize('f', [lambda x: float((x*x).sum()), lambda x: (x*x).sum().data, lambda x: 3.], ids=['float', 'data', 'constant'])
def test_a_derivative_of_what_was_cut_off_is_refused(f):
    for derivative in (gradient, jacobian_by_rows):
        with pytest.raises(TypeError, match='made from x'): derivative(f, np.array([1., 2]))
    with pytest.raises(TypeError): hvp(f, np.array([1., 2]), np.ones(2))

def test_parts_that_are_not_one_array_are_refused():
    with pytest.raises(TypeError, match='np.concatenate'): jacobian_by_columns(lambda x: [x[0], x[1]], np.ones(2))

def test_what_is_detached_does_not_move_either():
    table = [hvp(lambda x: x[0] * x[1].detach(), np.array([1., 2]), v) for v in np.eye(2)]
    assert not np.any(table)

def test_through_refuses_another_number_of_parameters():
    model = Sequential(Linear(3, 4, 0), Tanh(), Linear(4, 2, 1), dtype=np.float64)
    params = [p for layer in model.layers for p in layer.params]
    for bad in (model.params, params + params, params[:2]):
        with pytest.raises(ValueError, match='params: 4 arrays are needed'): through(model, bad, np.ones((2, 3)))

@pytest.mark.parametrize('data', [[1., 2], np.ones(2, int), np.ones(2, np.float16), 1.], ids=['list', 'int', 'float16', 'number'])
def test_only_what_can_be_shared_is_shared(data):
    with pytest.raises(TypeError, match='copy=False'): Tensor(data, copy=False)

@pytest.mark.parametrize('f', [np.sum, np.mean, np.max, lambda x: np.sum(x, axis=0, keepdims=True), lambda x: np.reshape(x, (3, 2)), np.transpose, lambda x: np.transpose(x, (1, 0)),
                               lambda x: np.dot(x, np.ones((3, 2))), lambda x: np.where(np.eye(2, 3) > 0, x, 0.), lambda x: np.concatenate([x, x**2, x], axis=1), softmax])
def test_numpys_functions_of_arrays_take_tensors(f):
    x, g = np.random.default_rng(0).normal(size=(2, 3)), np.random.default_rng(1)
    t = Tensor(x)
    y = f(t)
    assert_array_equal(y.data, f(x))
    y.backward(g := g.normal(size=y.shape))
    v = np.random.default_rng(2).normal(size=(2, 3))
    assert_allclose(np.vdot(t.grad, v), np.vdot(g, f(x + 1e-6*v) - f(x - 1e-6*v)) / 2e-6, rtol=1e-6)

def test_a_function_without_a_rule_names_those_that_have_one():
    with pytest.raises(TypeError, match='stack: no rule.*concatenate'): np.stack([Tensor([1.])])

def test_numbers_are_printed_and_asked_like_numbers():
    assert f'{Scalar(2/3):.3f}' == f'{Tensor(2/3):.3f}' == '0.667' and float(Scalar(2)) == 2
    assert not Tensor([0.]) and not Tensor(0.) and Tensor([1.])

def test_threads_that_share_numbers_take_turns():
    x = h = Scalar(1)
    for _ in range(300): h = h + h * 1e-3            # every number is used twice
    results = h * 2, h * 3
    results[0].backward()
    half = x.grad
    def walk(y):
        for _ in range(30): y.backward()
    threads = [threading.Thread(target=walk, args=(y,), daemon=True) for y in results]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for t in threads: t.start()
        for t in threads: t.join(30)
    finally: sys.setswitchinterval(before)
    assert not any(t.is_alive() for t in threads)
    assert_allclose(x.grad, half * h.grad / 2)

def test_a_name_of_something_else_is_refused():
    a = Scalar(2)
    y = a * 3
    for wrong in (Scalar(2), 2., np.ones(2)):
        with pytest.raises(ValueError, match='lost: one of the values of this graph'): draw(y, lost=wrong)

def test_no_two_titles_are_alike():
    a = Scalar(1)
    y = (Scalar(5) + Scalar(7)) * a
    assert len(layout(y, **{'c₂': a})['places']) == len(layout(y, y=y, c=a)['places']) == 5

def test_a_sentence_names_a_few_and_counts_the_rest():
    y = sum(Scalar(v) for v in range(30))
    assert layout(y)['alt'].endswith('c₈ and 23 more to +₃₀, 435.00.'), layout(y)['alt']
    assert layout(Tensor([1., 2]) * 2)['alt'] == 'A graph of 2 values, from c to ×.'

@pytest.mark.skipif(sys.platform == 'win32', reason='writes a program of Unix')
def test_a_graphviz_that_fails_says_why_and_the_text_is_shown(tmp_path, monkeypatch):
    program = tmp_path/'dot'
    program.write_text('#!/bin/sh\necho no plugin >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    y, names = neuron()
    assert draw(y)._repr_mimebundle_() == {'text/plain': outline(y)}
    with pytest.raises(RuntimeError, match='no plugin'): draw(y).svg()

def test_a_drawing_is_saved(tmp_path):
    graphviz_or_skip()
    y, names = neuron()
    draw(y, **{'a\\N<b>&"': names['x']}).save(tmp_path/'graph.svg')
    assert 'a\\N<b>&"' in texts((tmp_path/'graph.svg').read_text(encoding='utf-8'))
