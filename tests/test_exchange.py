"A network that moves to PyTorch, scikit-learn or ONNX gives equal answers and equal gradients, and one that comes in does, too"
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb import exchange
from backprop_nb.attention import Formula, Transformer
from backprop_nb.conv import AvgPool, Conv, Flatten, Image, MaxPool
from backprop_nb.exchange import from_mlp, from_state_dict, layouts, to_mlp, to_onnx, to_state_dict, writers
from backprop_nb.forward import sigmoid, softmax
from backprop_nb.layers import ELU, GELU, Layer, LeakyReLU, Linear, ReLU, Sequential, Sigmoid, Softmax, Softplus, Tanh, value_and_grad
from backprop_nb.loss import binary_cross_entropy, cross_entropy, mse
from backprop_nb.norm import BatchNorm, Chain, LayerNorm, Residual
from backprop_nb.regularize import Dropout
from backprop_nb.rnn import GRU, LSTM, RNN, Embedding
from backprop_nb.scale import Checkpoint

NEAR = dict(rtol=1e-10, atol=1e-12)

def shaken(model, seed=0):
    "Other numbers everywhere, so that no place can be taken for another: biases, norms and averages do not stay at 0 and 1"
    rng = np.random.default_rng(seed)
    model.params = model.params + .3 * rng.normal(size=model.params.size)
    model.buffers = np.abs(model.buffers + .5 * rng.normal(size=model.buffers.size)) + .1
    return model

def numbers(*shape): return np.random.default_rng(7).normal(size=shape)
def codes(*shape): return np.random.default_rng(7).integers(0, 9, shape)

# --- PyTorch ---------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def torch(): return pytest.importorskip('torch', reason='PyTorch is the judge')

def parts(torch):
    "Modules that PyTorch does not have ready"
    nn = torch.nn

    class Reader(nn.Module):
        "A recurrent layer without the second thing that it returns; its parameters keep their names"
        def __init__(self, kind, *sizes, last=False):
            super().__init__()
            self.last, cell = last, kind(*sizes, batch_first=True)
            self.cell = [cell]                          # in a list: no part of the name
            for name, p in cell.named_parameters(): self.register_parameter(name, p)
        def forward(self, x):
            y, _ = self.cell[0](x)
            return y[:, -1] if self.last else y

    class Residual(nn.Sequential):
        def forward(self, x): return x + super().forward(x)

    class Transformer(nn.Module):
        def __init__(self, n_tokens, n_out, d, n_heads, n_blocks, wide, causal):
            super().__init__()
            self.embedding, self.linear, self.causal = nn.Embedding(n_tokens, d), nn.Linear(d, n_out), causal
            block = nn.TransformerEncoderLayer(d, n_heads, wide*d, dropout=0, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(block, n_blocks, norm=nn.LayerNorm(d), enable_nested_tensor=False)
        def forward(self, x):
            from backprop_nb.attention import positions
            h, t = self.embedding(x), x.shape[1]
            mask = torch.triu(torch.ones(t, t, dtype=bool), 1) if self.causal else None
            return self.linear(self.encoder(h + torch.tensor(positions(t, h.shape[2])), mask=mask))

    return Reader, Residual, Transformer

def acts(torch): return torch.nn.ReLU(), torch.nn.LeakyReLU(.2), torch.nn.ELU(.7), torch.nn.GELU('tanh'), torch.nn.Softplus(), torch.nn.Sigmoid(), torch.nn.Tanh()
def our_acts(): return ReLU(), LeakyReLU(.2), ELU(.7), GELU(), Softplus(), Sigmoid(), Tanh()
def between(make, between): return [layer for act in between for layer in (make(), act)]

# name -> (our layers, theirs, what goes in)
PAIRS = {
    'activations': (lambda: [*between(lambda: Linear(4, 4, 0), our_acts()), Linear(4, 3, 0), Softmax()],
                    lambda t: [*between(lambda: t.nn.Linear(4, 4), acts(t)), t.nn.Linear(4, 3), t.nn.Softmax(-1)], numbers(6, 4)),
    'norms': (lambda: [Linear(4, 5, 0), BatchNorm(5), Tanh(), LayerNorm(5), Linear(5, 2, 0)],
              lambda t: [t.nn.Linear(4, 5), t.nn.BatchNorm1d(5), t.nn.Tanh(), t.nn.LayerNorm(5), t.nn.Linear(5, 2)], numbers(6, 4)),
    'layers inside layers': (lambda: [Linear(4, 5, 0), Chain(Linear(5, 5, 0), BatchNorm(5), Chain(Tanh(), Linear(5, 5, 1))), Residual(LayerNorm(5), Linear(5, 5, 2)), Checkpoint(Linear(5, 5, 3), Tanh())],

                             lambda t: [t.nn.Linear(4, 5),
                                 t.nn.Sequential(t.nn.Linear(5, 5), t.nn.BatchNorm1d(5), t.nn.Sequential(t.nn.Tanh(), t.nn.Linear(5, 5))),
                                        parts(t)[1](t.nn.LayerNorm(5), t.nn.Linear(5, 5)), t.nn.Sequential(t.nn.Linear(5, 5), t.nn.Tanh())], numbers(6, 4)),
    'convolution': (lambda: [Image(8, 7, 2), Conv(2, 3, 3, 0, stride=2, padding=1), Tanh(), Conv(3, 4, 2, 1), Flatten(), Linear(36, 5, 0)],
                    lambda t: [t.nn.Conv2d(2, 3, 3, stride=2, padding=1), t.nn.Tanh(), t.nn.Conv2d(3, 4, 2), t.nn.Flatten(), t.nn.Linear(36, 5)], numbers(6,
                        8*7*2)),
    'pools': (lambda: [Image(9, 8, 2), Conv(2, 3, 2, 0), MaxPool(2), AvgPool(2), Flatten(), Linear(6, 2, 0)],
              lambda t: [t.nn.Conv2d(2, 3, 2), t.nn.MaxPool2d(2), t.nn.AvgPool2d(2), t.nn.Flatten(), t.nn.Linear(6, 2)], numbers(6, 9*8*2)),
    'norms of images': (lambda: [Image(5, 4, 2), Conv(2, 3, 2, 0), BatchNorm(3), Flatten(), Tanh(), BatchNorm(36), LayerNorm(36), Chain(Dropout(0, 0), Linear(36, 2, 0)), Linear(2, 2, 1)],

                        lambda t: [t.nn.Conv2d(2, 3, 2), t.nn.BatchNorm2d(3), t.nn.Flatten(), t.nn.Tanh(), t.nn.BatchNorm1d(36), t.nn.LayerNorm(36),
                                   t.nn.Sequential(t.nn.Dropout(0), t.nn.Linear(36, 2)), t.nn.Linear(2, 2)], numbers(6, 5*4*2)),
} | {
    f'{ours.__name__}': (lambda ours=ours: [Embedding(9, 5, 0), ours(5, 4, 0), ours(4, 3, 1, last=True), Linear(3, 2, 0)],
                         lambda t, ours=ours: [t.nn.Embedding(9, 5), parts(t)[0](getattr(t.nn, ours.__name__), 5, 4),
                             parts(t)[0](getattr(t.nn, ours.__name__), 4, 3, last=True), t.nn.Linear(3, 2)], codes(6, 5))
    for ours in (RNN, GRU, LSTM)
} | {
    f'transformer, causal={causal}': (lambda causal=causal: [Transformer(9, 5, 6, 0, n_heads=2, n_blocks=2, wide=3, causal=causal)],
                                      lambda t, causal=causal: [parts(t)[2](9, 5, 6, 2, 2, 3, causal)], codes(4, 5))
    for causal in (False, True)
}

def theirs_of(torch, name):
    "PyTorch's network, with an identity in the place of our `Image`"
    torch.manual_seed(0)
    made = PAIRS[name][1](torch)
    if isinstance(PAIRS[name][0]()[0], Image): made = [torch.nn.Identity(), *made]
    return torch.nn.Sequential(*made).double()

def as_images(model, x):
    "What PyTorch gets: images with channels in front, where we begin with an `Image`"
    first = model.layers[0]
    return np.ascontiguousarray(first.predict(x).transpose(0, 3, 1, 2)) if isinstance(first, Image) else x

def agree(torch, ours, theirs, x):
    "Equal answers in training and after, equal gradients of every parameter, by their names"
    xs = torch.tensor(as_images(ours, x))
    ours.train(), theirs.train()
    y, z = ours(x), theirs(xs)
    assert_allclose(y, z.detach(), err_msg='answers in training', **NEAR)
    g = np.random.default_rng(3).normal(size=y.shape)
    ours.backward(g)
    theirs.zero_grad()
    z.backward(torch.tensor(g))
    kept, ours.params = ours.params.copy(), ours.grads                     # gradients have the places of parameters
    there = to_state_dict(ours)
    ours.params = kept
    for name, p in theirs.named_parameters():
        if name.endswith('bias_hh_l0') and not there[name].any(): there[name] = there[name.replace('_hh_', '_ih_')]   # one bias here: both have its gradient
        assert_allclose(there[name], p.grad, err_msg=name, **NEAR)
    assert_allclose(ours.predict(x), theirs.eval()(xs).detach(), err_msg='answers after training', **NEAR)

@pytest.mark.parametrize('name', PAIRS)
def test_a_network_goes_to_pytorch(torch, name):
    make, _, x = PAIRS[name]
    ours, theirs = shaken(Sequential(*make(), dtype=np.float64)), theirs_of(torch, name)
    state = {k: torch.from_numpy(v) for k, v in to_state_dict(ours).items()}
    assert set(state) == set(theirs.state_dict())
    theirs.load_state_dict(state, strict=True)
    agree(torch, ours, theirs, x)

@pytest.mark.parametrize('name', PAIRS)
def test_a_network_comes_from_pytorch(torch, name):
    make, _, x = PAIRS[name]
    ours, theirs = Sequential(*make(), dtype=np.float64), theirs_of(torch, name)
    with torch.no_grad():
        for i, v in enumerate(theirs.state_dict().values()):
            if v.dtype == torch.float64: v.copy_(v + .2 * torch.tensor(np.random.default_rng(i).random(v.shape)))
    assert from_state_dict(ours, theirs.state_dict()) is ours
    agree(torch, ours, theirs, x)

@pytest.mark.parametrize('name', PAIRS)
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_there_and_back_is_the_same_network_to_the_bit(name, dtype):
    make, _, x = PAIRS[name]
    one, other = (shaken(Sequential(*make(), dtype=dtype), seed) for seed in (1, 2))
    state = to_state_dict(one)
    assert {v.dtype for k, v in state.items() if 'batches' not in k} == {np.dtype(dtype)}
    from_state_dict(other, state)
    assert_array_equal(other.params, one.params)
    assert_array_equal(other.buffers, one.buffers)
    assert_array_equal(other.predict(x), one.predict(x))

def test_a_state_dict_is_a_copy():
    model = Sequential(Linear(3, 2, 0), BatchNorm(2))
    before, state = model.params.copy(), to_state_dict(model)
    for a in state.values(): a[...] = 7
    assert_array_equal(model.params, before)
    read = to_state_dict(model)
    from_state_dict(model, read)
    read['0.weight'][:] = 7
    assert_array_equal(model.params, before)

def test_where_only_the_sum_of_two_biases_counts_it_comes_in():
    model = Sequential(Embedding(3, 2, 0), LSTM(2, 2, 0))
    state = to_state_dict(model)
    assert not state['1.bias_hh_l0'].any()
    from_state_dict(model, state | {'1.bias_ih_l0': np.full(8, 1.), '1.bias_hh_l0': np.full(8, 2.)})
    assert (model.layers[1].params[2] == 3).all()

@examples(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_the_numbers_of_any_image_are_counted_in_their_order(h, w, c, n_out, seed):
    rng = np.random.default_rng(seed)
    model, x = Sequential(Image(h, w, c), Flatten(), Linear(h*w*c, n_out, rng), dtype=np.float64), rng.normal(size=(3, h, w, c))
    state = to_state_dict(model)
    assert_allclose(x.transpose(0, 3, 1, 2).reshape(3, -1) @ state['2.weight'].T + state['2.bias'], model.predict(x.reshape(3, -1)), rtol=1e-12, atol=1e-12)

def net(): return Sequential(Linear(3, 4, 0), Tanh(), BatchNorm(4), Linear(4, 2, 0))
STATE = to_state_dict(net())

@pytest.mark.parametrize('state, error, match', [
    ({k: v for k, v in STATE.items() if k != '3.bias'}, ValueError, r"missing: \['3\.bias'\]"),
    (STATE | {'4.weight': np.ones(3)}, ValueError, r"without a place: \['4\.weight'\]"),
    (STATE | {'0.weight': STATE['0.weight'].T}, ValueError, r'0\.weight.*\(4, 3\).*\(3, 4\)'),
    (STATE | {'3.bias': np.ones(3)}, ValueError, r'3\.bias.*\(2,\).*\(3,\)'),
    (STATE | {'3.bias': [1, np.nan]}, ValueError, r'3\.bias.*NaN'),
    (STATE | {'3.bias': [1, 1e300]}, ValueError, r'3\.bias.*infinity'),
    (STATE | {'2.running_var': ['a'] * 4}, TypeError, r'2\.running_var.*real numbers'),
    (STATE | {'3.weight': None}, TypeError, r'3\.weight.*None'),
    ([STATE], TypeError, r'state.*dict.*list'),
    (None, TypeError, r'state.*dict.*NoneType'),
    ('weights.pt', TypeError, r'state.*dict.*str'),
])
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(state, error, match):
    model = shaken(net())
    params, buffers = model.params.copy(), model.buffers.copy()
    with pytest.raises(error, match=match): from_state_dict(model, state)
    assert_array_equal(model.params, params)
    assert_array_equal(model.buffers, buffers)

def test_the_count_of_batches_may_be_missing():
    from_state_dict(net(), {k: v for k, v in STATE.items() if 'batches' not in k})

def times_two(x, p): return x * 2

@pytest.mark.parametrize('layers, match', [
    ([Linear(2, 2, 0), Layer(np.tanh)], r'Layer\(tanh\).*torch\.nn'),
    ([Formula(times_two, {'w': np.ones(2)})], r'Formula\(times_two\).*torch\.nn'),
    ([Image(2, 2, 1), Conv(1, 3, 1, 0), LayerNorm(3)], r'LayerNorm\(3\).*channels'),
    ([Image(2, 2, 1), Conv(1, 3, 1, 0), Linear(3, 2, 0)], r'Linear\(3, 2\).*channels'),
    ([Image(2, 2, 1), Flatten(), Residual(Linear(4, 4, 0))], r'Residual.*order'),
    ([Chain(Linear(2, 2, 0), Layer(np.tanh))], r'Layer\(tanh\).*torch\.nn'),
])
def test_a_layer_without_a_counterpart_is_refused_by_name(layers, match):
    with pytest.raises(ValueError, match=match): to_state_dict(Sequential(*layers))

def test_exchange_needs_none_of_the_other_houses():
    code = "import sys, backprop_nb.exchange as e\nprint([m for m in ('torch', 'sklearn', 'onnx', 'onnxruntime') if m in sys.modules])\n" \
           "from backprop_nb.layers import *\nm = Sequential(Linear(2, 2, 0))\ne.from_state_dict(m, e.to_state_dict(m))\nprint('torch' in sys.modules)"
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert said == '[]\nFalse\n'

@pytest.mark.parametrize('f, args, module', [(to_onnx, (), 'onnx'), (to_mlp, (), 'sklearn.neural_network')])
def test_who_is_missing_is_named_with_what_to_install(f, args, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "backprop_nb\[(onnx|sklearn)\]"'): f(Sequential(Linear(2, 2, 0)), *args)

# --- scikit-learn ----------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def neural(): return pytest.importorskip('sklearn.neural_network', reason='scikit-learn is the judge')

def quiet(f, *args):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args)

def their_gradient(mlp, x, target):
    "What one step of plain descent with learning rate 1 subtracts"
    mlp.set_params(solver='sgd', learning_rate_init=1, momentum=0, nesterovs_momentum=False, alpha=0, batch_size=len(x))
    vars(mlp).pop('_optimizer', None)
    def vector(): return np.concatenate([a.ravel() for pair in zip(mlp.coefs_, mlp.intercepts_) for a in pair])
    before = vector().copy()
    mlp.partial_fit(x, target)
    return before - vector()

KINDS = {   # name -> (classes or None, target, our loss, by what our gradient is larger: theirs is that of half the squares, summed over the outputs)
    'two classes': (2, np.arange(20) % 2, binary_cross_entropy, 1),
    'three classes': (3, np.arange(20) % 3, cross_entropy, 1),
    'one value': (None, numbers(20), mse, 2),
    'two values': (None, numbers(20, 2), mse, 1),
}

def answers(mlp, x, k): return mlp.predict(x) if k is None else mlp.predict_proba(x)
def ours_as_theirs(model, x, k):
    y = model.predict(x)
    if k is None: return y.squeeze(axis=1) if y.shape[1] == 1 else y
    return np.c_[1 - sigmoid(y), sigmoid(y)] if y.shape[1] == 1 else softmax(y)

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('activation', exchange.activations)
@pytest.mark.parametrize('hidden', [(), (5,), (5, 4, 3)])
def test_a_network_comes_from_scikit_learn_and_goes_back(neural, kind, activation, hidden):
    k, target, loss, scale = KINDS[kind]
    x = numbers(20, 3)
    mlp = (neural.MLPRegressor if k is None else neural.MLPClassifier)(hidden_layer_sizes=hidden, activation=activation, random_state=1, max_iter=5)
    quiet(mlp.fit, x, target)
    model = from_mlp(mlp)
    assert_allclose(ours_as_theirs(model, x, k), answers(mlp, x, k), **NEAR)
    back = to_mlp(model, None if k is None else list(range(k)))
    assert_array_equal(answers(back, x, k), answers(mlp, x, k))

    _, g = value_and_grad(loss, model(x), target)
    model.backward(g)
    for m in (mlp, back): assert_allclose(scale * their_gradient(m, x, target), model.grads, rtol=1e-9, atol=1e-11)   # a difference of weights

def test_two_scores_become_one_logit(neural):
    model, x = Sequential(Linear(3, 4, 0), ReLU(), Linear(4, 2, 0), dtype=np.float64), numbers(20, 3)
    mlp = to_mlp(model, ['no', 'yes'])
    assert_allclose(mlp.predict_proba(x), softmax(model.predict(x)), **NEAR)
    assert mlp.predict(x).tolist() == [['no', 'yes'][i] for i in model.predict(x).argmax(axis=1)]

def test_an_estimator_with_our_weights_can_be_cloned_searched_and_trained_on(neural):
    from sklearn.base import clone
    model = Sequential(Linear(3, 4, 0), Tanh(), Linear(4, 3, 0))
    mlp = to_mlp(model, [0, 1, 2], alpha=.5, max_iter=7, random_state=3, early_stopping=True)
    assert (mlp.alpha, mlp.max_iter, mlp.random_state, mlp.early_stopping) == (.5, 7, 3, True)
    assert mlp.coefs_[0].dtype == np.float32
    again = clone(mlp).set_params(early_stopping=False)
    assert quiet(again.fit, numbers(40, 3), np.arange(40) % 3).coefs_[0].shape == (3, 4)
    assert not hasattr(mlp, '_optimizer')
    assert_array_equal(mlp.coefs_[0], model.layers[0].w)

def test_the_global_generator_rests_and_the_model_too(neural):
    model, state = Sequential(Linear(3, 2, 0)), np.random.get_state()
    before = model.params.copy()
    mlp = to_mlp(model, [0, 1])
    mlp.coefs_[0][:] = 7
    assert_array_equal(model.params, before)
    for a, b in zip(np.random.get_state(), state): assert_array_equal(a, b)

@pytest.mark.parametrize('layers', [
    [Linear(2, 3, 0), GELU(), Linear(3, 2, 0)], [Linear(2, 3, 0), Tanh(), Linear(3, 3, 0), ReLU(), Linear(3, 2, 0)], [Linear(2, 2, 0), Tanh()],
    [Tanh(), Linear(2, 2, 0)], [Linear(2, 3, 0), Dropout(.5, 0), Linear(3, 2, 0)], [Linear(2, 2, 0), Linear(2, 2, 0), Tanh(), Linear(2, 2, 0)],
    [Tanh()], [Chain(Linear(2, 2, 0))]], ids=str)
def test_what_scikit_learn_cannot_have_is_refused(neural, layers):
    with pytest.raises(ValueError, match='model.*Sigmoid, Tanh, ReLU'): to_mlp(Sequential(*layers))

@pytest.mark.parametrize('classes, match',
    [([0], 'classes: 3.*shape'), ([0, 1], 'classes: 3'), ([0, 1, 1], 'different'), ([2, 1, 0], 'rising'), (3, 'classes: 3')])
def test_classes_that_do_not_fit_are_refused(neural, classes, match):
    with pytest.raises(ValueError, match=match): to_mlp(Sequential(Linear(2, 3, 0)), classes)

def test_what_is_no_fitted_network_is_refused(neural):
    for mlp in (neural.MLPClassifier(), None, 'mlp', Sequential(Linear(2, 2, 0))):
        with pytest.raises(TypeError, match='mlp: a fitted'): from_mlp(mlp)

# --- ONNX ------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def run():
    ort = pytest.importorskip('onnxruntime', reason='onnxruntime is the judge')
    def run(data, x):
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        return ort.InferenceSession(data, options, providers=['CPUExecutionProvider']).run(['y'], {'x': x})[0]
    return run

FILES = {name: (make, x) for name, (make, _, x) in PAIRS.items()} | {
    'one activation': (lambda: [Tanh()], numbers(6, 3)),
    'dropout': (lambda: [Linear(3, 4, 0), Dropout(.5, 0), Linear(4, 2, 0)], numbers(6, 3)),
    'states of all steps': (lambda: [Embedding(9, 5, 0), GRU(5, 4, 0), RNN(4, 3, 0, truncate=2), LSTM(3, 2, 0)], codes(6, 5)),
    'a pool with rows left over': (lambda: [Image(7, 5, 2), MaxPool(3), Flatten(), Linear(4, 2, 0)], numbers(6, 70)),
    'odd features': (lambda: [Transformer(9, 2, 5, 0, n_blocks=1)], codes(3, 4)),
    'no blocks': (lambda: [Transformer(9, 2, 4, 0, n_blocks=0)], codes(3, 4)),
}

@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_a_file_gives_our_answers_for_any_number_of_rows(run, name, dtype):
    make, x = FILES[name]
    model = shaken(Sequential(*make(), dtype=dtype))
    data = to_onnx(model.train())
    for rows in (x, x[:1], np.r_[x, x]):
        rows = rows if rows.dtype.kind == 'i' else rows.astype(dtype)
        y = run(data, rows)
        assert y.dtype == dtype
        assert_allclose(y, model.predict(rows), **(NEAR if dtype == np.float64 else dict(rtol=1e-4, atol=1e-5)))

def test_sequences_of_any_length_are_read(run):
    for layer in (lambda: Transformer(9, 2, 4, 0, causal=True), lambda: Chain(Embedding(9, 3, 0), LSTM(3, 2, 0))):
        model = Sequential(Embedding(9, 3, 0), LSTM(3, 2, 0), dtype=np.float64) if isinstance(layer(), Chain) else Sequential(layer(), dtype=np.float64)
        data = to_onnx(model)
        for t in (1, 2, 9): assert_allclose(run(data, codes(2, t)), model.predict(codes(2, t)), **NEAR)

@pytest.mark.parametrize('act', our_acts(), ids=repr)
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_extreme_numbers_are_answered_alike(run, act, dtype):
    model, top = Sequential(type(act)(*act.settings), dtype=dtype), float(np.finfo(dtype).max) / 1e8
    x = np.array([[-top, -1e4, -50, -1e-5, 0, 1e-5, 50, 1e4, top]], dtype)
    assert_allclose(run(to_onnx(model), x), model.predict(x), rtol=1e-5 if dtype == np.float32 else 1e-9, atol=1e-7 if dtype == np.float32 else 1e-15)

def test_a_file_says_its_axes_and_passes_the_checker(tmp_path):
    onnx = pytest.importorskip('onnx')
    path = tmp_path/'net.onnx'
    data = to_onnx(Sequential(Image(4, 4), Conv(1, 2, 3, 0), Flatten(), Linear(8, 3, 0)), path)
    assert path.read_bytes() == data and os.listdir(tmp_path) == ['net.onnx']
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    def axes(v): return [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
    assert axes(model.graph.input[0]) == ['n', 16] and axes(model.graph.output[0]) == ['n', 3]
    assert (model.producer_name, model.ir_version, [o.version for o in model.opset_import]) == ('backprop_nb', 8, [18])

def test_the_same_model_gives_the_same_bytes_and_is_not_changed():
    pytest.importorskip('onnx')
    model = shaken(Sequential(Linear(3, 4, 0), BatchNorm(4), Dropout(.5, 0)))
    before = model.params.tobytes(), model.buffers.tobytes(), model.layers[2].rng.bit_generator.state, model.layers[0].args
    assert to_onnx(model) == to_onnx(model)
    assert before == (model.params.tobytes(), model.buffers.tobytes(), model.layers[2].rng.bit_generator.state, model.layers[0].args)

def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    pytest.importorskip('onnx')
    path = tmp_path/'net.onnx'
    path.write_bytes(b'old')
    def full(*_): raise OSError(28, 'No space left on device', str(path))
    monkeypatch.setattr('backprop_nb.exchange.os.replace', full)
    with pytest.raises(OSError, match=r'No space.*net\.onnx'): to_onnx(Sequential(Linear(2, 2, 0)), path)
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['net.onnx']
    monkeypatch.undo()
    for wrong in (tmp_path, tmp_path/'no'/'where'):
        with pytest.raises(OSError, match=tmp_path.name): to_onnx(Sequential(Linear(2, 2, 0)), wrong)
    assert os.listdir(tmp_path) == ['net.onnx']

class Doubled(Linear):
    "A layer with a way of its own"
    def predict(self, x): return 2 * super().predict(x)

def other_places(t, d): return np.zeros((t, d))

@pytest.mark.parametrize('layers, match', [
    ([Linear(2, 2, 0), Layer(np.tanh)], r'Layer\(tanh\)'), ([Doubled(2, 2, 0)], 'Linear'), ([Formula(times_two, {'w': np.ones(2)})], r'Formula\(times_two\)'),
    ([Transformer(3, 2, 4, 0, places=other_places)], r'Transformer.*places'), ([Chain(Linear(2, 2, 0), Doubled(2, 2, 0))], 'Linear'),
])
def test_what_cannot_be_written_is_refused_by_name(layers, match):
    pytest.importorskip('onnx')
    with pytest.raises(ValueError, match=f'model.*{match}'): to_onnx(Sequential(*layers))

def test_every_layer_of_the_course_has_a_row_in_both_tables():
    import inspect

    from backprop_nb import attention, conv, layers, norm, regularize, rnn
    from backprop_nb import scale as costs
    kinds = {v for m in (attention, conv, layers, norm, regularize, rnn, costs) for v in vars(m).values() if inspect.isclass(v) and issubclass(v, Layer)}
    bases = {Layer, attention.Named, attention.Formula, conv.Window, norm.Norm, norm.BatchNormalize,
        rnn.Recurrent}   # other layers are made of them, or anything can be
    assert kinds - bases <= set(layouts) | set(exchange.rows_of_layers)
    ops = {m.op for m in (*our_acts(), Softmax(), Linear(1, 1, 0))}
    assert ops <= set(writers)
    assert kinds - bases - {type(m) for m in (*our_acts(), Softmax(), Linear(1, 1, 0))} <= set(writers)
