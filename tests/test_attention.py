"Attention and the transformer agree with PyTorch to nine digits; a mask cuts exactly; what does not fit is refused; a formula is a layer like others"
import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb.attention import *
from backprop_nb.autograd import Tensor, apply, topological_order
from backprop_nb.forward import linear, softmax
from backprop_nb.layers import Linear, Sequential, Tanh, value_and_grad
from backprop_nb.loss import cross_entropy
from backprop_nb.optim import Adam, cosine, warm_up
from backprop_nb.train import fit

NEAR = dict(rtol=1e-9, atol=1e-9)

def numbers(*shape, seed=0): return np.random.default_rng((seed, *shape)).normal(size=shape)

def qkv(*shape, seed=0): return numbers(3, *shape, seed=seed)

def attention_params(d):
    return {f'w{c}': numbers(d, d, seed=i) for i, c in enumerate('qkvo')} | {f'b{c}': numbers(d, seed=i) for i, c in enumerate('qkvo')}

def learned(model, x, target):
    "Loss, and the gradients in `model.grads`"
    value, g = value_and_grad(cross_entropy, model(x), target)
    model.backward(g)
    return value

def shaken(model, seed=0):
    "The model with parameters none of which is 0"
    model.params += np.random.default_rng(seed).normal(0, .1, model.params.size)
    return model

# against PyTorch

MASKS = {'no mask': None, 'causal': np.tri(6, dtype=bool), 'a mask for each head': numbers(2, 3, 6, 6) > -1, 'padding': np.arange(6) < np.array([6, 2])[:, None, None, None]}

@pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)
def test_attention_is_that_of_pytorch_forward_and_back(mask):
    torch = pytest.importorskip('torch', reason='PyTorch is the judge')
    if mask is not None: mask = mask | np.eye(6, dtype=bool)
    ours, g = [Tensor(a) for a in qkv(2, 3, 6, 4)], numbers(2, 3, 6, 4, seed=1)
    y = attention(*ours, mask)
    y.backward(g)
    theirs = [torch.tensor(a.data.copy(), requires_grad=True) for a in ours]
    z = torch.nn.functional.scaled_dot_product_attention(*theirs, attn_mask=None if mask is None else torch.tensor(mask))
    z.backward(torch.tensor(g))
    assert_allclose(y.data, z.detach(), **NEAR)
    for a, b in zip(ours, theirs): assert_allclose(a.grad, b.grad, **NEAR)

def test_causal_masks_mean_the_same_in_pytorch():
    torch = pytest.importorskip('torch', reason='PyTorch is the judge')
    a = qkv(2, 6, 4)
    z = torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, a), is_causal=True)
    assert_allclose(attention(*a, causal_mask(6)), z, **NEAR)

@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('n_heads', [1, 2, 8])
def test_self_attention_is_multihead_attention_of_pytorch(n_heads, causal):
    torch = pytest.importorskip('torch', reason='PyTorch is the judge')
    d, t = 8, 5
    p, x, g = {k: Tensor(v) for k, v in attention_params(d).items()}, Tensor(numbers(3, t, d)), numbers(3, t, d, seed=1)
    y = self_attention(x, p, n_heads, causal_mask(t) if causal else None)
    y.backward(g)

    judge = torch.nn.MultiheadAttention(d, n_heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        judge.in_proj_weight[:] = torch.tensor(np.concatenate([p[f'w{c}'].data.T for c in 'qkv']))
        judge.in_proj_bias[:] = torch.tensor(np.concatenate([p[f'b{c}'].data for c in 'qkv']))
        judge.out_proj.weight[:], judge.out_proj.bias[:] = torch.tensor(p['wo'].data.T.copy()), torch.tensor(p['bo'].data.copy())
    xs = torch.tensor(x.data.copy(), requires_grad=True)
    z, _ = judge(xs, xs, xs, attn_mask=torch.tensor(~causal_mask(t)) if causal else None, need_weights=False)
    z.backward(torch.tensor(g))

    assert_allclose(y.data, z.detach(), **NEAR)
    assert_allclose(x.grad, xs.grad, **NEAR)
    assert_allclose(np.concatenate([p[f'w{c}'].grad.T for c in 'qkv']), judge.in_proj_weight.grad, **NEAR)
    assert_allclose(np.concatenate([p[f'b{c}'].grad for c in 'qkv']), judge.in_proj_bias.grad, **NEAR)
    assert_allclose(p['wo'].grad.T, judge.out_proj.weight.grad, **NEAR)
    assert_allclose(p['bo'].grad, judge.out_proj.bias.grad, **NEAR)

def torch_block(torch, p, d, n_heads, wide):
    "PyTorch's block with our parameters, and the pairs (its parameter, our name, transposed?)"
    z = torch.nn.TransformerEncoderLayer(d, n_heads, wide*d, dropout=0, activation='relu', batch_first=True, norm_first=True, dtype=torch.float64)
    pairs = [(z.self_attn.out_proj.weight, 'wo', 1), (z.self_attn.out_proj.bias, 'bo', 0), (z.linear1.weight, 'w1', 1), (z.linear1.bias, 'b1', 0),
             (z.linear2.weight, 'w2', 1), (z.linear2.bias, 'b2', 0), (z.norm1.weight, 'gamma1', 0), (z.norm1.bias, 'beta1', 0),
             (z.norm2.weight, 'gamma2', 0), (z.norm2.bias, 'beta2', 0), (z.self_attn.in_proj_weight, ('wq', 'wk', 'wv'), 1), (z.self_attn.in_proj_bias, ('bq', 'bk', 'bv'), 0)]
    for there, name, turned in pairs: there.data[:] = torch.tensor(as_there(p, name, turned))
    return z, pairs

def as_there(p, name, turned):
    "Our array in PyTorch's shape"
    a = np.concatenate([p[n] for n in name], axis=-1) if isinstance(name, tuple) else p[name]
    return (a.T if turned else a).copy()

@pytest.mark.parametrize('causal', [False, True])
def test_the_transformer_is_that_of_pytorch_to_the_last_gradient(causal):
    torch = pytest.importorskip('torch', reason='PyTorch is the judge')
    d, n_blocks, wide = 8, 2, 3
    model = shaken(Sequential(Transformer(7, 5, d, 0, n_heads=2, n_blocks=n_blocks, causal=causal, wide=wide), dtype=np.float64))
    layer, rng = model.layers[0], np.random.default_rng(0)
    x, target = rng.integers(0, 7, (4, 6)), rng.integers(0, 5, (4, 6))
    value = learned(model, x, target)
    p, grads = layer.named, dict(zip(layer.names, layer.grads))

    table = torch.nn.Embedding(7, d, dtype=torch.float64)
    norm, last = torch.nn.LayerNorm(d, dtype=torch.float64), torch.nn.Linear(d, 5, dtype=torch.float64)
    ends = [(table.weight, 'embedding', 0), (norm.weight, 'gamma', 0), (norm.bias, 'beta', 0), (last.weight, 'w', 1), (last.bias, 'b', 0)]
    for there, name, turned in ends: there.data[:] = torch.tensor(as_there(p, name, turned))
    blocks = [torch_block(torch, part(p, f'{i}.'), d, 2, wide) for i in range(n_blocks)]
    h = table(torch.tensor(x)) + torch.tensor(positions(6, d))
    for z, _ in blocks: h = z(h, src_mask=torch.tensor(~causal_mask(6)) if causal else None)
    loss = torch.nn.functional.cross_entropy(last(norm(h)).reshape(-1, 5), torch.tensor(target).reshape(-1))
    loss.backward()

    assert_allclose(value, loss.item(), **NEAR)
    for there, name, turned in ends: assert_allclose(as_there(grads, name, turned), there.grad, err_msg=str(name), **NEAR)
    for i, (_, pairs) in enumerate(blocks):
        for there, name, turned in pairs: assert_allclose(as_there(part(grads, f'{i}.'), name, turned), there.grad, err_msg=f'{i}.{name}', **NEAR)

# attention by itself

@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_shares_are_shares_and_the_order_of_keys_does_not_matter(t, s, d, seed):
    rng = np.random.default_rng(seed)
    q, k, v = rng.normal(size=(t, d)), rng.normal(size=(s, d)), rng.normal(size=(s, 3))
    shares, order = attention_shares(q, k), rng.permutation(s)
    assert_allclose(shares.sum(axis=-1), 1)
    y = attention(q, k, v)
    assert_allclose(y, attention(q, k[order], v[order]), atol=1e-12)
    assert (y <= v.max(axis=0) + 1e-12).all() and (y >= v.min(axis=0) - 1e-12).all()

def test_a_mask_gives_exact_zeros_both_ways():
    mask = numbers(5, 5) > 0
    mask |= np.eye(5, dtype=bool)
    q, k, v = map(Tensor, qkv(2, 5, 4))
    shares = attention_shares(q, k, mask)
    assert ((shares.data == 0) == np.broadcast_to(~mask, shares.shape)).all()
    for i in range(5):
        attention(q, k, v, mask)[:, i].sum().backward()
        for a in (k, v): assert_array_equal((a.grad == 0).all(axis=(0, 2)), ~mask[i])

def test_large_scores_do_no_harm():
    q, k, v = (Tensor(a * s) for a, s in zip(qkv(2, 5, 4), (1e4, 1e4, 1)))
    y = attention(q, k, v, causal_mask(5))
    y.backward(np.ones(y.shape))
    assert all(np.isfinite(a).all() for a in (y.data, q.grad, k.grad, v.grad))

def test_heads_are_shared_out_and_come_back():
    x, y = numbers(2, 5, 6), numbers(2, 3, 5, 2)
    assert_array_equal(join_heads(split_heads(x, 3)), x)
    assert_allclose(np.vdot(split_heads(x, 3), y), np.vdot(x, join_heads(y)))    # each is the other's transpose
    t = Tensor(x)
    split_heads(t, 3).backward(y)
    assert_array_equal(t.grad, join_heads(y))

def test_self_attention_does_not_know_the_order_and_positions_tell_it():
    x, p, order = numbers(2, 6, 8), attention_params(8), np.array([3, 0, 5, 1, 4, 2])
    assert_allclose(self_attention(x[:, order], p, 2), self_attention(x, p, 2)[:, order], atol=1e-12)
    P = positions(6, 8)
    assert not np.allclose(self_attention(x[:, order] + P, p, 2), self_attention(x + P, p, 2)[:, order], atol=1e-3)

@given(st.integers(1, 40), st.integers(1, 33))
def test_positions_have_their_shape_and_depend_on_distance(t, d):
    P = positions(t, d)
    assert P.shape == (t, d) and np.isfinite(P).all()
    if d % 2 == 0:
        near = P @ P.T
        for i in range(t): assert_allclose(near.diagonal(i), near[0, i], atol=1e-9)

def test_positions_turn_at_the_published_frequencies():
    assert_allclose(positions(3, 4)[2], [np.sin(2), np.cos(2), np.sin(.02), np.cos(.02)])

BAD_ATTENTION = {
    'features differ': (lambda: attention(numbers(5, 4), numbers(6, 3), numbers(6, 3)), ValueError, r'matmul|matrix'),
    'features differ, tensors': (lambda: attention(Tensor(numbers(5, 4)), numbers(6, 3), numbers(6, 3)), ValueError, r'matmul of \(5, 4\), \(3, 6\)'),
    'keys and values differ': (lambda: attention(Tensor(numbers(5, 4)), numbers(6, 4), numbers(5, 3)), ValueError, r'matmul of \(5, 6\), \(5, 3\)'),
    'mask of another shape': (lambda: attention(numbers(5, 4), numbers(6, 4), numbers(6, 3), causal_mask(4)), ValueError, r'where of \(5, 6\).*\(4, 4\)'),
    'mask of numbers': (lambda: attention(numbers(5, 4), numbers(6, 4), numbers(6, 3), np.ones((5, 6))), TypeError, 'mask'),
    'a query sees nothing': (lambda: attention(numbers(5, 4), numbers(6, 4), numbers(6, 3), np.tri(5, 6, -1, dtype=bool)), ValueError, 'at least one key'),
    'heads do not divide': (lambda: split_heads(numbers(2, 5, 6), 4), ValueError, '6 features .* 4 heads'),
    'no places': (lambda: positions(0, 4), ValueError, 't: a whole number'),
    'half a place': (lambda: causal_mask(2.5), TypeError, 't: a whole number'),
}

@pytest.mark.parametrize('call, kind, message', BAD_ATTENTION.values(), ids=BAD_ATTENTION)
def test_what_does_not_fit_is_named(call, kind, message):
    with pytest.raises(kind, match=message): call()

# formulas

def gated(x, p, power=1): return (x @ p['w']) * np.tanh(x @ p['u'])**power

def gate(**kwargs): return Formula(gated, dict(w=numbers(3, 4), u=numbers(3, 4, seed=1), unused=numbers(2)), n_in=3, n_out=4, **kwargs)

@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_a_formula_stays_in_its_dtype_and_predicts_the_same_bits(dtype):
    for model, x in ((Sequential(Linear(5, 3, 0), gate(), Linear(4, 2, 1), dtype=dtype), numbers(6, 5)),
                     (Sequential(Transformer(5, 3, 8, 0, n_heads=2, n_blocks=2, causal=True), dtype=dtype), np.ones((2, 4)))):
        y = model(x)
        assert y.dtype == model.grads.dtype == dtype
        assert_array_equal(y, model.predict(x))
        graph = next(layer for layer in model.layers if isinstance(layer, Formula)).args[-1]
        assert {t.dtype for t in topological_order(graph)} == {np.dtype(dtype)}

def test_a_formula_has_the_gradients_of_a_nudge_and_0_for_what_it_does_not_use():
    model = Sequential(Linear(5, 3, 0), Formula(gated, gate().named, 3, n_in=3, n_out=4), Tanh(), Linear(4, 2, 1), dtype=np.float64)
    x, g = numbers(6, 5), numbers(6, 2)
    model(x)
    dx = model.backward(g, need_dx=True)
    layer = model.layers[1]
    assert (layer.grads[2] == 0).all() and layer.grads[0].any()
    for _ in range(3):
        v = np.random.default_rng(_).normal(size=model.params.size)
        start = model.params.copy()
        model.params = start + 1e-6*v
        up = np.vdot(g, model.predict(x))
        model.params = start - 1e-6*v
        down = np.vdot(g, model.predict(x))
        model.params = start
        assert_allclose(model.grads @ v, (up - down) / 2e-6, rtol=1e-7)
    u = numbers(6, 5, seed=3)
    assert_allclose(np.vdot(dx, u), np.vdot(g, model.predict(x + 1e-6*u) - model.predict(x - 1e-6*u)) / 2e-6, rtol=1e-7)

def test_gradients_are_overwritten_and_live_in_the_models_vector():
    model = Sequential(gate(), dtype=np.float64)
    x, g = numbers(6, 3), numbers(6, 4)
    model(x)
    model.backward(g)
    once = model.grads.copy()
    model.backward(g)
    assert_array_equal(model.grads, once)
    assert all(np.shares_memory(a, model.grads) for a in model.layers[0].grads)
    assert all(np.shares_memory(a, model.params) for a in model.layers[0].named.values())

def test_copies_and_pickles_forget_the_graph_and_keep_the_numbers():
    model = Sequential(Transformer(5, 3, 8, 0, n_heads=2), dtype=np.float64)
    x = np.array([[1, 2, 3]])
    y = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_array_equal(other.predict(x), y)
        with pytest.raises(RuntimeError): other.backward(np.ones(y.shape))
        other.params *= 2
        assert_array_equal(model.predict(x), y)
        assert (other.predict(x) != y).any()

def test_a_formula_refuses_what_cannot_be_walked_back():
    with pytest.raises(RuntimeError, match=r'Formula\(gated\): nothing to go back'): gate().backward(np.ones((2, 4)))
    with pytest.raises(TypeError, match='must return a Tensor, not ndarray'): Formula(lambda x, p: x.data, {})(numbers(2, 3))
    with pytest.raises(ValueError, match='Linear'): Sequential(Linear(5, 2, 0), gate())

# the transformer

@pytest.mark.parametrize('settings', [{}, dict(n_heads=4), dict(n_blocks=0), dict(n_blocks=3, causal=True), dict(wide=1, n_heads=2)], ids=str)
def test_every_parameter_has_the_gradient_of_a_nudge(settings):
    model = shaken(Sequential(Transformer(6, 5, 8, 0, **settings), dtype=np.float64))
    rng = np.random.default_rng(0)
    x, target = rng.integers(0, 6, (3, 5)), rng.integers(0, 5, (3, 5))
    learned(model, x, target)
    start, ends = model.params.copy(), np.cumsum([a.size for a in model.layers[0].params])
    for name, low, high in zip(model.layers[0].names, [0, *ends], ends):
        v = np.zeros_like(start)
        v[low:high] = rng.normal(size=high - low)
        values = []
        for step in (1e-6, -1e-6):
            model.params = start + step*v
            values.append(cross_entropy(model.predict(x), target))
        assert_allclose(model.grads @ v, (values[0] - values[1]) / 2e-6, rtol=1e-6, atol=1e-9, err_msg=name)

@pytest.mark.parametrize('n_blocks', [1, 3])
def test_no_number_of_a_later_place_reaches_an_earlier_one(n_blocks):
    model = Sequential(Transformer(9, 4, 8, 0, n_heads=2, n_blocks=n_blocks, causal=True), dtype=np.float64)
    x = np.arange(8)[None]                       # every place has a token of its own, and so a row of the embedding
    y = model(x)
    table = model.layers[0].grads[0]
    for i in range(8):
        g = np.zeros(y.shape)
        g[0, i] = 1
        model.backward(g)
        assert (table[i + 1:] == 0).all() and (np.abs(table[:i + 1]).sum(axis=1) > 0).all()
        other = x.copy()
        other[0, i] = 8
        same = (model.predict(other) == y)[0].all(axis=-1)
        assert same[:i].all() and not same[i:].any()

def test_without_a_mask_every_place_reaches_every_other():
    model = Sequential(Transformer(8, 4, 8, 0), dtype=np.float64)
    g = np.zeros_like(model(np.arange(8)[None]))
    g[0, 0] = 1
    model.backward(g)
    assert (np.abs(model.layers[0].grads[0]).sum(axis=1) > 0).all()

def test_the_bias_of_the_keys_has_no_gradient():
    model = shaken(Sequential(Transformer(6, 5, 8, 0), dtype=np.float64))
    learned(model, np.array([[1, 2, 3, 3]]), np.array([[1, 2, 3, 4]]))
    sizes = {name: np.abs(g).max() for name, g in zip(model.layers[0].names, model.layers[0].grads)}
    assert sizes['0.bk'] < 1e-15 and all(size > 1e-6 for name, size in sizes.items() if name != '0.bk')

@pytest.mark.parametrize('x, message', [([[0, 6]], 'not 6'), ([[-1, 0]], 'not -1'), ([[.5, 0]], 'not 0.5'), ([0, 1], '2-D'), ([[np.nan, 0]], 'NaN'), ([[]], 'empty')])
def test_what_is_no_token_is_refused_and_changes_nothing(x, message):
    model = Sequential(Transformer(6, 5, 8, 0))
    before = model.params.copy()
    for call in (model, model.predict):
        with pytest.raises(ValueError, match=message): call(x)
    with pytest.raises(ValueError, match=message): fit(model, x, np.zeros((1, 2), int), Adam(model), rng=0, progress=False)
    assert_array_equal(model.params, before)

@pytest.mark.parametrize('change, kind', [(dict(n_heads=3), ValueError), (dict(n_heads=0), ValueError), (dict(d=8.), TypeError), (dict(n_blocks=-1), ValueError),
                                          (dict(rng=None), TypeError), (dict(n_tokens=0), ValueError), (dict(wide=0), ValueError)])
def test_settings_that_make_no_transformer_are_refused(change, kind):
    with pytest.raises(kind, match=next(iter(change))): Transformer(**dict(n_tokens=6, n_out=5, d=8, rng=0) | change)

def test_tokens_may_come_as_lists_or_any_numbers_and_in_any_length():
    model = Sequential(Transformer(6, 5, 8, 0), dtype=np.float64)
    for t in (1, 2, 50):
        x = np.arange(t)[None] % 6
        y = model.predict(x)
        assert y.shape == (1, t, 5)
        for same in (x.tolist(), x.astype(np.uint8), x.astype(np.float32)): assert_array_equal(model.predict(same), y)

def test_the_seed_decides():
    a, b, c = (Sequential(Transformer(6, 5, 8, seed)).params for seed in (0, 0, 1))
    assert (a == b).all() and (a != c).any()

@pytest.mark.parametrize('seed', range(3))
def test_it_learns_to_reverse_rows_that_it_has_not_seen(seed):
    rng = np.random.default_rng(seed)
    x = np.unique(rng.integers(0, 10, (2600, 6)), axis=0)
    rng.shuffle(x)
    x, x_test = x[:2000], x[2000:2500]
    assert not {*map(tuple, x)} & {*map(tuple, x_test)}
    model = Sequential(Transformer(10, 10, 32, rng))
    fit(model, x, x[:, ::-1].copy(), Adam(model), rng=rng, n_epochs=8, batch_size=64, schedule=warm_up(cosine(3e-3, 256), 30), progress=False)
    assert (model.predict(x_test).argmax(axis=-1) == x_test[:, ::-1]).all(axis=1).mean() > .95

def test_the_work_of_attention_grows_with_the_square_of_the_length():
    model = Sequential(Transformer(5, 3, 8, 0, n_heads=2))
    def work(t, op):
        model(np.zeros((1, t)))
        return sum(node.size * node.values[0].shape[-1] for node in topological_order(model.layers[0].args[-1]) if node.op is op)
    assert work(32, np.matmul) == 4 * work(16, np.matmul) == 2 * 8 * 32**2
    assert work(32, linear) == 2 * work(16, linear)

def test_shares_can_be_read_from_the_graph():
    model = Sequential(Transformer(5, 3, 8, 0, n_heads=2, n_blocks=3))
    model(np.zeros((4, 6)))
    shares = [t.data for t in topological_order(model.layers[0].args[-1]) if t.op is softmax]
    assert [a.shape for a in shares] == [(4, 2, 6, 6)] * 3
    assert_allclose([a.sum(axis=-1) for a in shares], 1, rtol=1e-5)
    assert apply(softmax, np.zeros(2)).tolist() == [.5, .5]      # without a Tensor nothing is remembered
