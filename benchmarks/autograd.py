"""How long a walk over a graph takes: numbers against micrograd, arrays against HIPS autograd and against our own row of layers.

    python benchmarks/autograd.py [--rounds 9] [--cases numbers,small,medium,deep,large]

`numbers` is micrograd's own example: two moons, a network of 2, 16, 16 and 1 neurons in plain numbers, all 100 points, hinge loss and a
little weight decay. Each engine runs it in a process of its own, with Python's garbage collector on, as for everybody who runs it, and then with the
collector off. The other cases are those of step.py: forward, cross-entropy, backward and an update by gradient descent, in float32, all engines in one process. `walk` leaves
the update out: `graph_walk` has tensors that share the memory of the parameters and keeps no gradients but theirs, like training, `fresh_walk` copies the parameters into new
tensors first and keeps all gradients, and `chain_walk` is a `Sequential`. `chain_op` is a `Sequential` that stands in a graph as one operation; it also finds
the gradient at the inputs, like `chain_dx`, the same one without a graph.

The engines take turns. What counts is the ratio of two neighbours and its median over the rounds, in seconds of the processor; everything runs in one thread.
OPENBLAS_NUM_THREADS=2 gives the matrix products two; then the clock on the wall counts. First, gradients must agree. micrograd and autograd are on PyPI; what is not installed is left out.
"""
import argparse
import gc
import os
import random
import statistics as st
import subprocess
import sys
from time import perf_counter, process_time

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
sys.path = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(os.path.abspath(__file__))]   # this file is called autograd, too

import numpy as np  # noqa: E402    the engines are imported where they are used: each process holds one

CASES = {   # name: widths, batch size, steps a block
    'numbers': ((2, 16, 16, 1), 100, 8),
    'small': ((64, 32, 10), 32, 400),
    'medium': ((784, 128, 64, 10), 64, 50),
    'deep': ((64,)*50 + (10,), 64, 20),
    'large': ((784, 1024, 1024, 10), 256, 4),
}
LR = 0.01
clock = process_time if os.environ['OPENBLAS_NUM_THREADS'] == '1' else perf_counter

def moons(n):
    rng, t = np.random.default_rng(0), np.linspace(0, np.pi, n//2)
    x = np.concatenate([np.c_[np.cos(t), np.sin(t)], np.c_[1 - np.cos(t), .5 - np.sin(t)]]) + rng.normal(0, .1, (n, 2))
    return x.tolist(), [-1]*(n//2) + [1]*(n//2)

def in_numbers(kind, widths, n):
    "A step of micrograd's example with numbers of the class `kind`; it returns the gradients"
    rng = random.Random(1337)
    layers = [[([kind(rng.uniform(-1, 1)) for _ in range(a)], kind(0)) for _ in range(b)] for a, b in zip(widths, widths[1:])]
    params = [p for layer in layers for w, b in layer for p in (*w, b)]
    points, target = moons(n)
    def score(x):
        for i, layer in enumerate(layers):
            x = [sum((wi*xi for wi, xi in zip(w, x)), b) for w, b in layer]
            if i < len(layers) - 1: x = [v.relu() for v in x]
        return x[0]
    def step():
        scores = [score([kind(v) for v in point]) for point in points]
        losses = [(1 + -t*s).relu() for t, s in zip(target, scores)]
        loss = sum(losses) * (1/len(losses)) + 1e-4 * sum(p*p for p in params)
        for p in params: p.grad = 0
        loss.backward()
        return [p.grad for p in params]
    return step

def micrograd(widths, n):
    from micrograd.engine import Value
    return in_numbers(Value, widths, n)

def model_and_batch(widths, n):
    from backprop_nb.layers import Linear, ReLU, Sequential
    rng = np.random.default_rng(0)
    layers = [l for a, b in zip(widths, widths[1:]) for l in (Linear(a, b, a + b), ReLU())][:-1]
    return Sequential(*layers), rng.normal(size=(n, widths[0])).astype(np.float32), rng.integers(0, widths[-1], n)

def graph(widths, n, fresh=False, update=True):
    from backprop_nb.autograd import Tensor, through
    from backprop_nb.layers import value_and_grad
    from backprop_nb.loss import cross_entropy
    model, x, target = model_and_batch(widths, n)
    params = [p for l in model.layers for p in l.params]
    shared = [Tensor(p, copy=False) for p in params]
    def step():
        tensors = [Tensor(p) for p in params] if fresh else shared
        y = through(model, tensors, x)
        value, g = value_and_grad(cross_entropy, y.data, target)
        y.backward(g, keep=fresh)
        if update:
            for p, t in zip(params, tensors): p -= LR * t.grad
        return np.concatenate([t.grad.ravel() for t in tensors]) if step.wanted else None
    step.wanted = False
    return step

def graph_walk(widths, n): return graph(widths, n, update=False)
def fresh_walk(widths, n): return graph(widths, n, fresh=True, update=False)

def chain_walk(widths, n):
    from backprop_nb.layers import value_and_grad
    from backprop_nb.loss import cross_entropy
    model, x, target = model_and_batch(widths, n)
    def step():
        value, g = value_and_grad(cross_entropy, model(x), target)
        model.backward(g)
        return model.grads
    return step

def chain_dx(widths, n):
    from backprop_nb.layers import value_and_grad
    from backprop_nb.loss import cross_entropy
    model, x, target = model_and_batch(widths, n)
    def step():
        value, g = value_and_grad(cross_entropy, model(x), target)
        model.backward(g, need_dx=True)
        return model.grads
    return step

def chain_op(widths, n):
    from backprop_nb.autograd import Tensor, apply, call_model
    from backprop_nb.layers import value_and_grad
    from backprop_nb.loss import cross_entropy
    model, x, target = model_and_batch(widths, n)
    x = Tensor(x)
    def step():
        y = apply(call_model, x, model)
        value, g = value_and_grad(cross_entropy, y.data, target)
        y.backward(g)
        return model.grads
    return step

def hips(widths, n):
    import autograd.numpy as anp
    from autograd import value_and_grad as gradient_of
    model, x, target = model_and_batch(widths, n)
    params, rows = [p for l in model.layers for p in l.params], np.arange(n)
    def loss(params):
        h = x
        for i in range(0, len(params), 2):
            if i: h = anp.maximum(h, 0)
            h = anp.dot(h, params[i]) + params[i + 1]
        h = h - anp.max(h, axis=1, keepdims=True)
        return anp.mean(anp.log(anp.sum(anp.exp(h), axis=1)) - h[rows, target])
    both = gradient_of(loss)
    def step():
        _, grads = both(params)
        for p, g in zip(params, grads): p -= LR * g
        return np.concatenate([g.ravel() for g in grads]) if step.wanted else None
    step.wanted = False
    return step

def ours_in_numbers(widths, n):
    from backprop_nb.autograd import Scalar
    return in_numbers(Scalar, widths, n)

def built(engines, *case):
    "A step function for each engine that is installed"
    steps = {}
    for engine in engines:
        try: steps[engine.__name__] = engine(*case)
        except ImportError as e: print(f'  {engine.__name__}: left out ({e})')
    return steps

def agree(steps):
    "From the same parameters all must have the same gradients"
    grads = {}
    for name, step in steps.items():
        step.wanted = True
        grads[name] = np.array(step())
        step.wanted = False
    first = next(iter(grads.values()))
    for name, g in grads.items(): np.testing.assert_allclose(g, first, rtol=1e-3, atol=1e-6, err_msg=name)

def alone(engine, widths, n, n_steps, collector):
    "Seconds of a step in a process of its own, as somebody who runs the example has them; None if the engine is not installed"
    code = f"import runpy; runpy.run_path({__file__!r})['repeat']({engine!r}, {widths}, {n}, {n_steps}, {collector})"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | {'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)})
    return float(out.stdout) if out.returncode == 0 else None

def repeat(engine, widths, n, n_steps, collector):
    step = globals()[engine](widths, n)
    seconds = []
    for _ in range(n_steps):
        if not collector: gc.disable()
        start = clock()
        step()
        seconds.append(clock() - start)
        if not collector: gc.collect()
    print(st.median(seconds[2:]))

def report(case, times, pairs):
    print(case.ljust(8), '  '.join(f'{name} {st.median(t)*1e6:.0f} us' for name, t in times.items()))
    for a, b in pairs:
        if a not in times or b not in times: continue
        ratios = sorted(x/y for x, y in zip(times[a], times[b]))
        print(f'         {a}/{b} {st.median(ratios):.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f})', end='')
        print(f', {1/st.median(ratios):.1f} times as fast' if ratios[-1] < .5 else '')
    sys.stdout.flush()

def measure_numbers(n_rounds):
    widths, n, n_steps = CASES['numbers']
    agree(built((ours_in_numbers, micrograd), widths, n))
    for collector in (True, False):
        times = {}
        for _ in range(n_rounds):
            for name in ('ours_in_numbers', 'micrograd'):
                seconds = alone(name, widths, n, n_steps, collector)
                if seconds is not None: times.setdefault(name, []).append(seconds)
        report('numbers' if collector else 'no gc', times, [('ours_in_numbers', 'micrograd')])

def measure(case, n_rounds):
    widths, n, n_steps = CASES[case]
    engines = graph, hips, graph_walk, fresh_walk, chain_walk, chain_op, chain_dx
    agree(built(engines, widths, n))
    steps = built(engines, widths, n)
    times = {name: [] for name in steps}
    for r in range(n_rounds + 1):                         # the first round warms up
        for name, step in steps.items():
            start = clock()
            for _ in range(n_steps): step()
            if r: times[name].append((clock() - start) / n_steps)
    report(case, times, [('graph', 'hips'), ('graph_walk', 'chain_walk'), ('fresh_walk', 'chain_walk'), ('chain_op', 'chain_dx')])

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--cases', default=','.join(CASES))
    args = parser.parse_args()
    for case in args.cases.split(','):
        if case == 'numbers': measure_numbers(args.rounds)
        else: measure(case, args.rounds)
