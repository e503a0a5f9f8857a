"Shared weights add the messages of all steps; cells agree with PyTorch; gates keep; names go in and come out; what does not fit is refused"
import copy
import inspect
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb import rnn
from backprop_nb.autograd import Tensor
from backprop_nb.backward import check_vjp, vjps
from backprop_nb.data import load_names
from backprop_nb.layers import Linear, Sequential, value_and_grad
from backprop_nb.loss import cross_entropy
from backprop_nb.optim import Adam
from backprop_nb.rnn import *
from backprop_nb.train import accuracy, fit, train_step

CELLS = RNN, GRU, LSTM
every_cell = pytest.mark.parametrize('kind', CELLS, ids=lambda k: k.__name__)

def numbers(shape, seed=0): return np.random.default_rng(seed).normal(size=shape)

def reader(kind, dtype=np.float64, n=5, **settings):
    rng = np.random.default_rng(0)
    return Sequential(Embedding(n, 3, rng), kind(3, 4, rng, **settings), Linear(4, n, rng), dtype=dtype)

# operations and their rules

@pytest.mark.parametrize('op, args', [(embedding, [numbers((5, 3)), np.array([[4, 0, 4], [4, 1, 1]])]),
                                      (part, [numbers((2, 3, 8)), 1, 4]), (part, [numbers(6), 2, 3]),
                                      (sequence_cross_entropy, [numbers((2, 3, 5)), np.array([[1, -1, 4], [0, 0, -1]])])],
                         ids=['embedding', 'part', 'part of a vector', 'sequence_cross_entropy'])
def test_every_rule_is_the_derivative_of_its_op(op, args):
    rule, = vjps[op]
    assert rule.__name__ == f'{op.__name__}_d{next(iter(inspect.signature(op).parameters))}' and getattr(rnn, rule.__name__) is rule
    check_vjp(op, *args)

@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.integers(1, 4))
def test_an_embedding_is_a_product_with_one_hot_rows(at, k):
    w, at = np.random.default_rng(k).integers(-9, 10, (7, k)).astype(float), np.array(at)
    g = np.random.default_rng(1).integers(-9, 10, (len(at), k)).astype(float)
    onehot = np.eye(7)[at]
    assert_array_equal(embedding(w, at), onehot @ w)
    assert_array_equal(embedding_dw(g, None, w, at), onehot.T @ g)

def test_places_without_a_target_change_nothing():
    x, target = numbers((2, 3, 5)), np.array([[1, -1, 4], [0, 0, -1]])
    other = x.copy()
    other[target < 0] = 99
    assert sequence_cross_entropy(x, target) == sequence_cross_entropy(other, target)
    assert_allclose(sequence_cross_entropy(x, np.abs(target)), cross_entropy(x, np.abs(target)))

# cells

def torch_layer(torch, kind, layer):
    "PyTorch's layer with the weights of ours"
    n_in, k = layer.n_in, layer.n_out
    w, u, b, *c = layer.params
    theirs = {RNN: torch.nn.RNN, GRU: torch.nn.GRU, LSTM: torch.nn.LSTM}[kind](n_in, k, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for name, v in dict(weight_ih_l0=w.T, weight_hh_l0=u.T, bias_ih_l0=b, bias_hh_l0=c[0] if c else np.zeros_like(b)).items():
            getattr(theirs, name).copy_(torch.tensor(v.copy()))
    return theirs

@every_cell
@pytest.mark.parametrize('last', [False, True], ids=['all states', 'last state'])
def test_cells_agree_with_pytorch(kind, last):
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    layer = kind(3, 4, rng=0, last=last)
    for p in layer.params: p += numbers(p.shape, 1) / 3
    theirs = torch_layer(torch, kind, layer)
    x = numbers((2, 6, 3))
    tx = torch.tensor(x, requires_grad=True)
    ty = theirs(tx)[0][:, -1] if last else theirs(tx)[0]
    y = layer(x)
    assert_allclose(y, ty.detach().numpy(), rtol=0, atol=1e-12)
    g = numbers(y.shape, 2)
    ty.backward(torch.tensor(g))
    dx = layer.backward(g)
    expected = [theirs.weight_ih_l0.grad.T, theirs.weight_hh_l0.grad.T, theirs.bias_ih_l0.grad, theirs.bias_hh_l0.grad]
    for d, e in zip([dx, *layer.grads], [tx.grad, *expected]): assert_allclose(d, e.numpy(), rtol=0, atol=1e-9)

@every_cell
def test_predict_is_what_a_call_gives_and_keeps_no_graph(kind):
    layer, x = kind(3, 4, rng=0), numbers((2, 6, 3))
    y = layer(x)
    assert y.shape == (2, 6, 4)
    assert_array_equal(layer.predict(x), y)
    assert_array_equal(kind(3, 4, rng=0, last=True).predict(x), y[:, -1])
    assert type(layer.predict(x)) is np.ndarray

@every_cell
def test_the_future_changes_nothing(kind):
    layer, x = kind(3, 4, rng=0), numbers((2, 6, 3))
    other = x.copy()
    other[:, 4:] = 9
    assert_array_equal(layer.predict(x)[:, :4], layer.predict(other)[:, :4])
    assert_array_equal(layer.predict(x[:, :4]), layer.predict(x)[:, :4])

@every_cell
def test_shared_weights_add_the_messages_of_all_steps(kind):
    layer, x, g = kind(3, 4, rng=0), numbers((2, 5, 3)), numbers((2, 4), 1)
    copies = [[Tensor(p) for p in layer.params] for _ in range(5)]
    state = (np.zeros((2, 4)),) * layer.n_states
    for t, params in enumerate(copies): state = layer.step(x[:, t], state, *params)
    state[0].backward(g)
    whole = kind(3, 4, rng=0, last=True)
    whole(x)
    whole.backward(g)
    for i, d in enumerate(whole.grads): assert_allclose(d, sum(c[i].grad for c in copies), rtol=1e-10, atol=1e-12)

@every_cell
def test_truncation_keeps_the_states_and_stops_the_gradient_at_the_cut(kind):
    x, g = numbers((2, 7, 3)), numbers((2, 4), 1)
    free, cut = kind(3, 4, rng=0, last=True), kind(3, 4, rng=0, last=True, truncate=3)
    assert_array_equal(free(x), cut(x))
    full, short = free.backward(g), cut.backward(g)
    assert not short[:, :6].any()                     # steps 0-2, 3-5 and 6 are the pieces
    assert_array_equal(short[:, 6], full[:, 6])
    assert full.any(axis=(0, 2)).all()
    longer = kind(3, 4, rng=0, last=True, truncate=7)
    assert_array_equal(longer(x), free.y)
    assert_array_equal(longer.backward(g), full)

def test_an_open_gate_hands_state_and_gradient_on_unchanged():
    layer = GRU(3, 4, rng=0, keep=1000.)
    layer.params[1][...] = 0
    h, x = Tensor(numbers((2, 4))), numbers((5, 2, 3))
    last, = unroll(layer.step, x, (h,), layer.params)[-1]
    last.backward(np.ones((2, 4)))
    assert_allclose(last.data, h.data, rtol=1e-14)     # n + (h - n) rounds
    assert_allclose(h.grad, 1, rtol=1e-14)

@every_cell
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_a_model_keeps_its_dtype_and_its_gradient_is_the_slope(kind, dtype):
    model, x, target = reader(kind, dtype), np.array([[0, 3, 3, 1], [4, 4, 2, 0]]), np.array([[3, 3, 1, 0], [4, -1, 0, -1]])
    y = model(x)
    assert y.dtype == dtype and y.shape == (2, 4, 5)
    value, g = value_and_grad(sequence_cross_entropy, y, target)
    model.backward(g)
    assert model.grads.dtype == dtype and value > 0
    if dtype == np.float32: return
    v, p = numbers(model.params.shape), model.params.copy()
    values = []
    for sign in (1, -1):
        model.params = p + sign * 1e-6 * v
        values.append(sequence_cross_entropy(model.predict(x), target))
    assert_allclose(np.subtract(*values) / 2e-6, model.grads @ v, rtol=1e-6)

@every_cell
def test_a_model_reads_sequences_of_any_length(kind):
    model = reader(kind)
    assert model.n_in is None
    for t in (1, 2, 9): assert model.predict(np.zeros((3, t))).shape == (3, t, 5)

@every_cell
def test_copies_and_files_are_models_of_their_own(kind):
    model = reader(kind)
    x = np.array([[0, 3, 1]])
    y = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_array_equal(other.predict(x), y)
        with pytest.raises(RuntimeError): other.backward(np.ones_like(y))
        other.params += 1
        assert_array_equal(model.predict(x), y)

def test_gates_learn_what_lies_far_back():
    rng = np.random.default_rng(0)
    model = Sequential(Embedding(2, 8, rng), GRU(8, 16, rng, keep=3, last=True), Linear(16, 2, rng), dtype=np.float64)
    opt = Adam(model, lr=.01)
    for _ in range(200):
        x = rng.integers(0, 2, (32, 20))
        train_step(model, cross_entropy, opt, x, x[:, 0], clip=1)
    x = rng.integers(0, 2, (200, 20))
    assert accuracy(model.predict(x), x[:, 0]) > .95

# names

@given(st.lists(st.text('abcxyz', min_size=1, max_size=9), min_size=1, max_size=5))
def test_codes_spell_the_names(names):
    x, target = encode(names)
    assert x.shape == target.shape == (len(names), max(map(len, names)) + 1)
    for name, row, t in zip(names, x, target):
        assert ''.join(symbols[c] for c in row[1:]).rstrip('.') == name and row[0] == 0
        assert [symbols[c] for c in t if c >= 0] == [*name, '.'] and (t >= 0).sum() == len(name) + 1

def test_a_model_learns_names_and_generates_some():
    x, target = encode(load_names()[::20])
    rng = np.random.default_rng(0)
    model = Sequential(Embedding(27, 8, rng), RNN(8, 16, rng), Linear(16, 27, rng))
    fit(model, x, target, Adam(model, 1e-2), rng=0, loss=sequence_cross_entropy, n_epochs=8, progress=False)
    assert sequence_cross_entropy(model.predict(x), target) < .8 * np.log(27)
    made = generate(model, 20, rng=0, longest=7)
    assert made == generate(model, 20, rng=0, longest=7) and len(made) == 20
    assert all(len(name) <= 7 and set(name) <= set(symbols[1:]) for name in made)

def test_letters_are_drawn_with_the_probabilities_of_the_model():
    p = np.full(27, .5 / 25)
    p[0], p[5] = 0, .5
    p /= p.sum()
    class Fixed:
        def predict(self, x): return np.broadcast_to(np.log(np.maximum(p, 1e-300)), (*x.shape, 27))
    made = ''.join(generate(Fixed(), 4000, rng=0, longest=2))
    assert len(made) == 8000
    assert_allclose(np.bincount([symbols.index(c) for c in made], minlength=27) / 8000, p, atol=.02)

# doors

@pytest.mark.parametrize('make', [lambda: RNN(0, 4, 0), lambda: GRU(3, 4.5, 0), lambda: LSTM(3, 4, None), lambda: RNN(3, 4, 0, truncate=0),
                                  lambda: GRU(3, 4, 0, keep=np.nan), lambda: Embedding(0, 3, 0), lambda: Embedding(5, 3, 'x')])
def test_bad_settings_are_refused(make):
    with pytest.raises((TypeError, ValueError)): make()

@pytest.mark.parametrize('codes', [[[5]], [[-1]], [[.5]], [[np.nan]]], ids=['too large', 'negative', 'no integer', 'NaN'])
def test_codes_that_are_none_are_refused(codes):
    with pytest.raises(ValueError, match='codes|x: NaN'): reader(RNN)(np.array(codes, float))

@every_cell
def test_shapes_that_do_not_fit_are_named(kind):
    layer = kind(3, 4, rng=0)
    for x in (np.zeros((2, 3)), np.zeros((2, 5, 4)), np.zeros((2, 0, 3))):
        with pytest.raises(ValueError, match=rf'{kind.__name__}\(3, 4\).*{x.shape[-1]}\)'): layer(x)
    with pytest.raises(RuntimeError, match=kind.__name__): kind(3, 4, rng=0).backward(np.ones((2, 5, 4)))
    with pytest.raises(ValueError, match=r'linear of \(2, 5\), \(3, '): layer.step(np.zeros((2, 5)), (np.zeros((2, 4)),) * layer.n_states, *map(Tensor, layer.params))
    with pytest.raises(ValueError, match='features'): Sequential(Embedding(5, 7, 0), kind(3, 4, 0))

@pytest.mark.parametrize('names', ['eve', [], [''], ['Eve'], ['e.v'], ['zoë'], [3], [None]], ids=repr)
def test_names_that_are_none_are_refused(names):
    with pytest.raises((TypeError, ValueError), match='names'): encode(names)
    with pytest.raises(ValueError, match='longest'): encode(['anna'], longest=3)

def test_targets_that_do_not_fit_are_refused():
    y = np.zeros((2, 3, 5))
    for target in (np.zeros((2, 2)), np.full((2, 3), 5), np.full((2, 3), -2), np.full((2, 3), -1), np.full((2, 3), .5)):
        with pytest.raises(ValueError, match='target'): value_and_grad(sequence_cross_entropy, y, target)
