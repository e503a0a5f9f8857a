"""How long one training step takes, against other engines on the same network, data and batches.

    python benchmarks/step.py [--rounds 9] [--cases small,medium] [--optimizers SGD,Adam]

A step is forward, loss (as a number), backward and update, in float32. All engines and thread counts take turns in one process, block by
block, so that a change in the machine's speed meets all of them; what counts is the ratio of two blocks of one round, and its median over
the rounds. Each engine is judged at its best thread count. `products` is no engine: it is the matrix products of the step and nothing
else, the limit that no NumPy program can pass. PyTorch runs eagerly with its fused optimizers; JAX, where it is installed, with one compiled step.

First every engine trains for a few steps from the same parameters, and their losses must agree.
"""
import argparse
import statistics as st
from time import perf_counter

import numpy as np
from threadpoolctl import threadpool_limits

from backprop_nb.layers import Linear, ReLU, Sequential
from backprop_nb.loss import cross_entropy
from backprop_nb.optim import SGD, Adam
from backprop_nb.train import train_step

CASES = {   # name: widths, batch size, steps a block
    'small': ((64, 32, 10), 32, 200),
    'medium': ((784, 128, 64, 10), 64, 40),
    'deep': ((64,)*50 + (10,), 64, 8),
    'large': ((784, 1024, 1024, 10), 256, 3),
}
LR = {'SGD': 0.01, 'Adam': 1e-3}
N_BATCHES = 8

def network(widths):
    "Our network with fixed parameters, which the others copy"
    layers = [l for a, b in zip(widths, widths[1:]) for l in (Linear(a, b, a + b), ReLU())][:-1]
    return Sequential(*layers)

def ours(widths, optimizer, x, t):
    model = network(widths)
    opt = {'SGD': SGD, 'Adam': Adam}[optimizer](model, LR[optimizer])
    return lambda i: train_step(model, cross_entropy, opt, x[i], t[i])

def torch_eager(widths, optimizer, x, t):
    import torch
    F = torch.nn.functional
    layers = []
    for l in network(widths).layers:
        layers.append(torch.nn.Linear(l.n_in, l.n_out) if l.params else torch.nn.ReLU())
        for p, q in zip(layers[-1].parameters(), l.params): p.data = torch.tensor(np.ascontiguousarray(q.T))
    model = torch.nn.Sequential(*layers)
    opt = getattr(torch.optim, optimizer)(model.parameters(), LR[optimizer], fused=True)
    x, t = [torch.tensor(a) for a in x], [torch.tensor(a) for a in t]
    def step(i):
        opt.zero_grad()
        loss = F.cross_entropy(model(x[i]), t[i])
        loss.backward()
        opt.step()
        return loss.item()
    return step

def jax_compiled(widths, optimizer, x, t):
    import jax
    import jax.numpy as jnp
    lr, tree = LR[optimizer], jax.tree
    params = [tuple(map(jnp.array, l.params)) for l in network(widths).layers if l.params]
    zeros = tree.map(jnp.zeros_like, params)
    x, t = [jnp.array(a) for a in x], [jnp.array(a) for a in t]
    def loss(params, x, t):
        *hidden, (w, b) = params
        for v, c in hidden: x = jnp.maximum(x @ v + c, 0)
        return -jnp.take_along_axis(jax.nn.log_softmax(x @ w + b), t[:, None], 1).mean()
    def sgd(state, x, t):
        params, *rest = state
        value, g = jax.value_and_grad(loss)(params, x, t)
        return (tree.map(lambda p, g: p - lr*g, params, g), *rest), value
    def adam(state, x, t):
        params, m, v, n = state
        value, g = jax.value_and_grad(loss)(params, x, t)
        n = n + 1
        m, v = tree.map(lambda m, g: .9*m + .1*g, m, g), tree.map(lambda v, g: .999*v + .001*g*g, v, g)
        new = tree.map(lambda p, m, v: p - lr * (m/(1 - .9**n)) / (jnp.sqrt(v/(1 - .999**n)) + 1e-8), params, m, v)
        return (new, m, v, n), value
    compiled = jax.jit({'SGD': sgd, 'Adam': adam}[optimizer], donate_argnums=0)
    state = (params, zeros, tree.map(jnp.zeros_like, params), jnp.float32(0))
    def step(i):
        nonlocal state
        state, value = compiled(state, x[i], t[i])
        return float(value)
    return step

def sklearn_mlp(widths, optimizer, x, t):
    from sklearn.neural_network import MLPClassifier
    kind = dict(solver='sgd', momentum=0) if optimizer == 'SGD' else dict(solver='adam')
    n = len(t[0])
    model = MLPClassifier(widths[1:-1], batch_size=n, learning_rate_init=LR[optimizer], alpha=0, shuffle=False, **kind)
    model.partial_fit(x[0][:1], t[0][:1], classes=np.arange(widths[-1]))
    for i, l in enumerate(l for l in network(widths).layers if l.params): model.coefs_[i][:], model.intercepts_[i][:] = l.params
    everything, labels = np.concatenate(x), np.concatenate(t)
    def step(i):
        "One call makes all the steps of the batches, so that checking the arguments is paid for once"
        if i == 0: model.partial_fit(everything, labels)
        return None
    return step

def products(widths, optimizer, x, t):
    "Forward, weight gradient, and (but for the first layer) input gradient: nothing but matrix products"
    layers = [l for l in network(widths).layers if l.params]
    n = len(t[0])
    rng = np.random.default_rng(0)
    h = [x[0]] + [rng.normal(size=(n, l.n_out)).astype(np.float32) for l in layers]
    out, dw, dx = [np.empty_like(a) for a in h], [np.empty_like(l.w) for l in layers], [np.empty_like(a) for a in h]
    def step(i):
        for k, l in enumerate(layers): np.dot(h[k], l.w, out[k + 1])
        for k, l in reversed(list(enumerate(layers))):
            np.dot(h[k].T, h[k + 1], dw[k])
            if k: np.dot(h[k + 1], l.w.T, dx[k])
    return step

ENGINES = dict(ours=ours, torch=torch_eager, jax=jax_compiled, sklearn=sklearn_mlp, products=products)

def threads(n):
    "Let BLAS and PyTorch use n threads"
    try:
        import torch
        torch.set_num_threads(n)
    except ImportError: pass
    return threadpool_limits(n)

def built(widths, optimizer, x, t):
    "A step function for each engine that is installed"
    steps = {}
    for name, engine in ENGINES.items():
        try: steps[name] = engine(widths, optimizer, x, t)
        except ImportError as e: print(f'  {name}: left out ({e})')
    return steps

def agree(widths, optimizer, x, t):
    "From the same parameters the engines must have the same losses"
    steps = built(widths, optimizer, x, t)
    losses = {name: [step(i) for i in range(3)] for name, step in steps.items() if name not in ('sklearn', 'products')}
    for name, values in losses.items(): np.testing.assert_allclose(values, losses['ours'], rtol=2e-3, err_msg=name)

def measure(case, optimizer, n_rounds):
    widths, n, n_steps = CASES[case]
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, widths[0])).astype(np.float32) for _ in range(N_BATCHES)]
    t = [rng.integers(0, widths[-1], n) for _ in range(N_BATCHES)]
    agree(widths, optimizer, x, t)
    steps = built(widths, optimizer, x, t)
    n_steps = -(-n_steps // N_BATCHES) * N_BATCHES
    times = {(name, k): [] for k in (1, 2) for name in steps}
    for r in range(n_rounds + 1):                         # the first round warms up
        for name, k in times:
            with threads(k):
                start = perf_counter()
                for i in range(n_steps): steps[name](i % N_BATCHES)
                if r: times[name, k].append((perf_counter() - start) / n_steps * 1e6)
    best = {name: min((times[name, k] for k in (1, 2)), key=st.median) for name in steps}
    print(f'{case:7s} {"-".join(map(str, widths)) if len(widths) < 6 else f"{len(widths) - 1} layers of {widths[0]}":18s} batch {n:3d} {optimizer:5s}', end='')
    print(f'  ours {st.median(best["ours"]):8.1f} us', end='')
    for name in steps:
        if name == 'ours': continue
        ratios = sorted(a/b for a, b in zip(best['ours'], best[name]))
        print(f'   /{name} {st.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})', end='')
    print(flush=True)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--cases', default=','.join(CASES))
    parser.add_argument('--optimizers', default='SGD,Adam')
    args = parser.parse_args()
    for case in args.cases.split(','):
        for optimizer in args.optimizers.split(','): measure(case, optimizer, args.rounds)
