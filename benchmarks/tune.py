"""How much faster a search is in several processes than in one.

    python benchmarks/tune.py [--rounds 5] [--cases light,heavy] [--trials 16] [--workers 2]

The same random search (same seed, so the same trials) in each of these ways, in turn, round by round, so that a change in the machine's
speed meets all of them. What counts is the ratio of two searches of one round to the one in this process with one BLAS thread, and its
median over the rounds; a ratio of 2 is twice as fast. Starting and ending the workers is counted.

    here        in this process, one BLAS thread
    here, N     in this process, as many BLAS threads as workers below
    workers     N worker processes, one BLAS thread each: what `search(workers=N)` does
    too many    N worker processes, N BLAS threads each: they get into each other's way
    pool        concurrent.futures.ProcessPoolExecutor(N); each trial starts a Python of its own
    dask        a local Dask cluster of N processes; likewise, and the start of the cluster is not counted

Every search must find the same losses. A trial of `light` takes some tens of milliseconds, one of `heavy` about half a second.
"""
import argparse
import statistics as st
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from time import perf_counter

import numpy as np
from threadpoolctl import threadpool_limits

from backprop_nb.data import load_digits, split
from backprop_nb.layers import Linear, ReLU, Sequential
from backprop_nb.loss import cross_entropy
from backprop_nb.optim import Adam
from backprop_nb.train import train_epoch
from backprop_nb.tune import log, search

CASES = {'light': ((64, 32, 10), 30), 'heavy': ((64, 512, 512, 10), 10)}    # name: widths, epochs

def make_objective(case):
    "An objective that is sent as it is, and loads the digits where it runs"
    widths, n_epochs = CASES[case]
    def objective(p, rng, report):
        x, target, x_val, t_val = split(*load_digits(), rng=0)
        layers = [l for a, b in zip(widths, widths[1:]) for l in (Linear(a, b, rng), ReLU())][:-1]
        model = Sequential(*layers)
        opt = Adam(model, p['lr'])
        for _ in range(n_epochs): train_epoch(model, x, target, opt, rng)
        return cross_entropy(model.predict(x_val), t_val)
    return objective

def timed(case, n_trials, here, **how):
    "Seconds of a search, with so many BLAS threads `here`, and its losses"
    objective = make_objective(case)
    with threadpool_limits(here):
        start = perf_counter()
        result = search(objective, dict(lr=log(1e-4, 1e-2)), n_trials, sampler='random', progress=False, **how)
        seconds = perf_counter() - start
    assert not result.lost, result.lost
    return seconds, np.array([t.value for t in result.trials])

def measure(case, n_rounds, n_trials, n):
    with ExitStack() as stack:
        ways = {'here': dict(threads=1), f'here, {n}': dict(threads=n), 'workers': dict(threads=1, how=dict(workers=n)),
                'too many': dict(threads=1, how=dict(workers=n, threads=n)),
                'pool': dict(threads=1, how=dict(workers=stack.enter_context(ProcessPoolExecutor(n)), ahead=2*n))}
        try:
            from distributed import Client, LocalCluster
            client = stack.enter_context(Client(stack.enter_context(LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None, silence_logs=50))))
            ways['dask'] = dict(threads=1, how=dict(workers=client.get_executor(), ahead=2*n))
        except ImportError as e: print(f'  dask: left out ({e})')
        seconds, losses = {k: [] for k in ways}, None
        for i in range(n_rounds + 1):       # the first round warms up, and is not counted
            for name, way in ways.items():
                t, v = timed(case, n_trials, way['threads'], **way.get('how', {}))
                if losses is None: losses = v
                np.testing.assert_allclose(v, losses, rtol=1e-2, err_msg=f'{name} found other losses')
                if i: seconds[name].append(t)
    print(f'\n{case}: {n_trials} trials of {"-".join(map(str, CASES[case][0]))}, {CASES[case][1]} epochs, {n} workers, {n_rounds} rounds')
    print(f'  {"":<10}{"seconds, median (min)":>24}{"faster than here, median (min-max)":>40}')
    for name, t in seconds.items():
        ratios = [a / b for a, b in zip(seconds['here'], t)]
        print(f'  {name:<10}{st.median(t):>15.2f} ({min(t):.2f}){st.median(ratios):>28.2f} ({min(ratios):.2f}-{max(ratios):.2f})')

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--cases', default=','.join(CASES))
    parser.add_argument('--trials', type=int, default=16)
    parser.add_argument('--workers', type=int, default=2)
    args = parser.parse_args()
    for case in args.cases.split(','): measure(case, args.rounds, args.trials, args.workers)
