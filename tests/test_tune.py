"What tuning promises: the same seed tries the same settings anywhere, a trial that fails is lost alone, and nothing is left running"
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb.data import load_digits, split
from backprop_nb.layers import Linear, ReLU, Sequential
from backprop_nb.loss import cross_entropy
from backprop_nb.optim import SGD, Adam
from backprop_nb.train import Diverged, train_epoch
from backprop_nb.tune import (
    Pruned, SearchResult, Worker, attempt, between, choice, folds, importance, log, lr_range_test, picture_history, picture_importance, picture_parallel,
    search, whole,
)

optuna = pytest.importorskip('optuna', reason='tuning is built on Optuna')

def made_inside():
    "A function of a function, so that it is sent as it is, and no worker has to import this file to find it"
    def bowl(p, rng, report): return (p['x'] - .3)**2 + (p['y'] - .6)**2
    return bowl

bowl = made_inside()

def plane(): return dict(x=between(0, 1), y=between(0, 1))

def tried(result): return [t.params for t in result.trials]

def told(result): return [(t.params, t.outcome, t.value, t.reports) for t in result.trials]

def quick(objective, space=None, n_trials=8, **how): return search(objective, space or plane(), n_trials, **({'sampler': 'random'} | how), progress=False)

def children():
    "Processes started here, but for those of a Dask cluster, which stays for several tests, and Python's own helper"
    def ours(c):
        try: return c.status() != psutil.STATUS_ZOMBIE and 'serve()' in ' '.join(c.cmdline())
        except psutil.Error: return False
    return {c.pid for c in psutil.Process().children(recursive=True) if ours(c)}

@pytest.fixture(autouse=True)
def nothing_is_left_running():
    "No test may leave a process behind"
    before = children()
    yield
    end = time.monotonic() + 10
    while children() - before and time.monotonic() < end: time.sleep(.05)
    assert not children() - before, [psutil.Process(pid) for pid in children() - before]


# --- the space -------------------------------------------------------------------------------------------------------------------

def test_the_words_of_a_space_draw_what_they_say():
    space = dict(a=log(1e-4, 1), b=between(-1, 1), c=whole(2, 200, log=True), d=whole(0, 3), e=choice(['u', 'v', None]))
    trials = tried(quick(lambda p, rng, report: 0, space, 400))
    a, b, c, d, e = ([t[k] for t in trials] for k in 'abcde')
    assert_allclose(np.histogram(np.log10(a), [-4, -3, -2, -1, 0])[0], 100, atol=35)
    assert_allclose(np.histogram(b, 4, (-1, 1))[0], 100, atol=35)
    assert_allclose(np.histogram(np.log(c), 2, (np.log(2), np.log(200)))[0], 200, atol=50)
    assert all(isinstance(v, int) and 2 <= v <= 200 for v in c) and set(d) == {0, 1, 2, 3} and set(e) == {'u', 'v', None}

@pytest.mark.parametrize('make, error, says', [
    (lambda: log(0, 1), ValueError, 'low'), (lambda: log(1, 1), ValueError, 'high'), (lambda: log('a', 1), TypeError, 'low'),
    (lambda: between(1, 0), ValueError, 'high'), (lambda: between(0, np.inf), ValueError, 'high'), (lambda: between(True, 2), TypeError, 'low'),
    (lambda: whole(1.5, 2), TypeError, 'low'), (lambda: whole(3, 3), ValueError, 'high'), (lambda: whole(0, 3, log=True), ValueError, 'low'),
    (lambda: choice('ab'), TypeError, 'options'), (lambda: choice([1]), ValueError, 'options'), (lambda: choice([1, 1]), ValueError, 'options'),
    (lambda: choice([SGD, Adam]), TypeError, 'choose a name'),
])
def test_a_space_that_makes_no_sense_is_refused(make, error, says):
    with pytest.raises(error, match=says): make()


# --- one trial -------------------------------------------------------------------------------------------------------------------

def raising(error):
    def objective(p, rng, report): raise error
    return objective

@pytest.mark.parametrize('objective, outcome, why', [
    (lambda p, rng, report: 2, 'done', ''),
    (lambda p, rng, report: np.float32(2), 'done', ''),
    (lambda p, rng, report: np.nan, 'diverged', 'the loss is nan'),
    (lambda p, rng, report: report(np.inf), 'diverged', 'the loss is inf'),
    (raising(Diverged('at step 3')), 'diverged', 'at step 3'),
    (raising(Pruned()), 'pruned', 'after 0 reports'),
    (raising(KeyError('lr')), 'failed', "KeyError: 'lr'"),
    (raising(SystemExit(2)), 'failed', 'SystemExit: 2'),
    (lambda p, rng, report: None, 'failed', 'not None'),
    (lambda p, rng, report: True, 'failed', 'not True'),
    (lambda p, rng, report: np.ones(2), 'failed', 'a number'),
    (lambda p, rng, report: report('low'), 'failed', "not 'low'"),
])
def test_what_becomes_of_a_trial(objective, outcome, why):
    a = attempt(objective, {}, [0, 0])
    assert a['outcome'] == outcome and why in a['why']
    assert a['value'] == (2 if outcome == 'done' else None) and a['seconds'] >= 0

def test_the_stop_button_is_not_taken_for_an_error():
    with pytest.raises(KeyboardInterrupt): attempt(raising(KeyboardInterrupt()), {}, [0, 0])

def test_a_trial_cannot_change_what_was_drawn():
    def objective(p, rng, report): return p.pop('x')
    assert tried(quick(objective, n_trials=2)) == tried(quick(bowl, n_trials=2))

def test_each_trial_has_random_numbers_of_its_own():
    r = quick(lambda p, rng, report: rng.random(), seed=3)
    assert [t.value for t in r.trials] == [np.random.default_rng([3, i]).random() for i in range(8)]


# --- the same seed, the same trials ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('sampler', ['tpe', 'random'])
def test_the_same_seed_tries_the_same(sampler):
    one, two, other = (quick(bowl, n_trials=14, sampler=sampler, seed=s) for s in (1, 1, 2))
    assert told(one) == told(two) and tried(one) != tried(other)

@pytest.mark.parametrize('sampler', ['tpe', 'random'])
def test_many_processes_try_the_same_in_whatever_order_they_finish(sampler):
    def slow_first(p, rng, report):
        time.sleep(.1 * (p['x'] > .3))
        return at_once(p, rng, report)
    def at_once(p, rng, report):
        report(p['x'])
        return (p['x'] - .3)**2 + (p['y'] - .6)**2
    here = quick(at_once, n_trials=40, sampler=sampler, ahead=6)
    there = quick(slow_first, n_trials=40, sampler=sampler, ahead=6, workers=3)
    assert told(here) == told(there)

def test_random_trials_do_not_depend_on_how_many_are_under_way():
    assert tried(quick(bowl, ahead=1)) == tried(quick(bowl, ahead=5))

def test_tpe_comes_closer_than_chance():
    losses = [[np.median([t.value for t in quick(bowl, n_trials=30, sampler=s, seed=seed).trials[10:]]) for seed in range(4)] for s in ('tpe', 'random')]
    assert np.mean(losses[0]) < .5 * np.mean(losses[1])

def test_any_sampler_of_optunas_will_do():
    grid = optuna.samplers.GridSampler(dict(x=[0, .5], y=[0, .5, 1]), seed=0)
    r = quick(bowl, n_trials=99, sampler=grid)
    assert {tuple(p.values()) for p in tried(r)} == {(x, y) for x in (0, .5) for y in (0, .5, 1)}
    assert len(r.trials) == 6 and r.stopped == 'sampler'


# --- faults ----------------------------------------------------------------------------------------------------------------------

def make_faulty():
    def faulty(p, rng, report):
        "By its number: raises, exits, is killed, sleeps for ever, computes for ever, or answers"
        if p['x'] == 1: raise ValueError('no')
        if p['x'] == 2: os._exit(7)
        if p['x'] == 3: os.kill(os.getpid(), signal.SIGKILL)
        if p['x'] == 4: time.sleep(60)
        while p['x'] == 5: pass
        print('this must not disturb')
        return float(p['x'])
    return faulty

def grid(n): return optuna.samplers.GridSampler(dict(x=list(range(n))), seed=0)

FATES = {1: 'ValueError: no', 2: 'its process died (exit code 7)', 3: 'its process died (exit code -9)', 4: 'took longer than 3 s', 5: 'took longer than 3 s'}

def check_fates(r, n):
    assert len(r.trials) == n and r.stopped == 'n_trials'
    for t in r.trials:
        x = t.params['x']
        assert (t.outcome, t.why, t.value) == (('failed', FATES[x], None) if x in FATES else ('done', '', x)), t
    assert r.lost == {t.number: FATES[t.params['x']] for t in r.trials if t.params['x'] in FATES}
    assert r.best.params == {'x': 0}

posix = pytest.mark.skipif(os.name != 'posix', reason='kills by signal')

@posix
@pytest.mark.parametrize('workers', [1, 2])
def test_a_trial_that_fails_is_lost_alone(workers):
    check_fates(search(make_faulty(), dict(x=whole(0, 9)), 10, sampler=grid(10), workers=workers, time_limit=3, progress=False), 10)

def test_an_error_is_lost_alone_in_this_process_too():
    r = quick(lambda p, rng, report: 1 / (p['x'] > .5), n_trials=10)
    assert len(r.lost) + len(r.ranked) == 10 and set(r.lost.values()) == {'ZeroDivisionError: division by zero'}

@posix
def test_what_a_trial_has_started_is_stopped_with_it(tmp_path):
    def forks(p, rng, report):
        pid = os.fork()
        if pid: Path(tmp_path, 'pid').write_text(str(pid))
        time.sleep(60)
    r = quick(forks, n_trials=1, workers=1, time_limit=2)
    assert r.lost == {0: 'took longer than 2 s'}
    child, end = int(Path(tmp_path, 'pid').read_text()), time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE and time.monotonic() < end: time.sleep(.05)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE

def test_an_objective_that_cannot_be_read_there_fails_by_name(tmp_path, monkeypatch):
    Path(tmp_path, 'only_here.py').write_text('def f(p, rng, report): return 0')
    monkeypatch.syspath_prepend(tmp_path)
    import only_here
    Path(tmp_path, 'only_here.py').unlink()
    r = quick(only_here.f, n_trials=2, workers=1)
    assert set(r.lost) == {0, 1} and all('ModuleNotFoundError' in why for why in r.lost.values())

def test_a_worker_is_used_again():
    r = quick(lambda p, rng, report: os.getpid(), n_trials=6, workers=2)
    assert len({t.value for t in r.trials}) <= 2 and os.getpid() not in {t.value for t in r.trials}
    assert not [c for c in psutil.Process().children() if c.pid in {t.value for t in r.trials}], 'ended, and seen to have ended'

def test_nothing_is_done_when_all_fails():
    r = quick(raising(OSError('disk full')), n_trials=3)
    with pytest.raises(RuntimeError, match='trial 0 failed: OSError: disk full'): _ = r.best
    assert '3 failed' in repr(r) and 'OSError: disk full' in r.table()

PROGRAM = '''
import os, signal, sys, time
from pathlib import Path
from backprop_nb.tune import between, search
signal.signal(signal.SIGINT, signal.default_int_handler)     # a shell's background jobs are started deaf to it
folder, storage, seconds, workers = sys.argv[1:]
def objective(p, rng, report):
    Path(folder, f"{p['x']}").touch()
    time.sleep(float(seconds))
    return (p['x'] - .3)**2
r = search(objective, dict(x=between(0, 1)), 14, storage=storage or None, workers=int(workers) or None, ahead=2, progress=False)
print([(t.params['x'], t.value) for t in r.trials], r.stopped)
'''

def program(folder, storage='', seconds=0, workers=0, **how):
    here = str(Path(sys.modules['backprop_nb'].__file__).parent.parent)
    return subprocess.Popen([sys.executable, '-c', PROGRAM, str(folder), storage, str(seconds), str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=os.environ | {'PYTHONPATH': here}, **how)

def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(.02)

@posix
def test_workers_stop_in_the_middle_of_a_trial_when_the_search_is_killed(tmp_path):
    p = program(tmp_path, seconds=60, workers=2)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    workers = psutil.Process(p.pid).children(recursive=True)
    assert len(workers) == 2
    p.kill()
    p.wait()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    p.communicate()
    assert not alive

@posix
@pytest.mark.parametrize('workers', [0, 2])
def test_the_stop_button_ends_a_search_and_keeps_what_was_found(tmp_path, workers):
    p = program(tmp_path, seconds=.5, workers=workers)
    wait_for(lambda: len(list(tmp_path.iterdir())) >= 4)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=30)
    assert out.endswith('interrupted\n') and 'None' in out and not err


# --- executors -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', [ProcessPoolExecutor, ThreadPoolExecutor])
def test_any_executor_will_do(kind):
    with kind(2) as pool: there = quick(bowl, n_trials=12, sampler='tpe', workers=pool, ahead=4)
    assert told(there) == told(quick(bowl, n_trials=12, sampler='tpe', ahead=4))

@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    "A Dask cluster on this machine: a scheduler and two worker processes"
    distributed = pytest.importorskip('distributed', reason='searches on a Dask cluster')
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50,
                                  local_directory=str(tmp_path_factory.mktemp('dask'))) as cluster:
        with distributed.Client(cluster) as client: yield client

@pytest.fixture
def executor(cluster): return cluster.get_executor()

def test_a_cluster_tries_the_same(executor):
    def slow(p, rng, report):
        time.sleep(.2 * (p['x'] > .5))
        report(p['y'])
        return (p['x'] - .3)**2
    def fast(p, rng, report):
        report(p['y'])
        return (p['x'] - .3)**2
    assert told(quick(slow, n_trials=12, sampler='tpe', workers=executor, ahead=4)) == told(quick(fast, n_trials=12, sampler='tpe', ahead=4))

def test_both_workers_of_a_cluster_are_used(executor):
    def parent(p, rng, report):
        time.sleep(.3)
        return os.getppid()
    r = quick(parent, workers=executor, ahead=4)
    assert len({t.value for t in r.trials}) == 2 and os.getpid() not in {t.value for t in r.trials}

@posix
def test_on_a_cluster_a_trial_that_fails_is_lost_alone(executor, cluster):
    before = set(cluster.scheduler_info()['workers'])
    check_fates(search(make_faulty(), dict(x=whole(0, 7)), 8, sampler=grid(8), workers=executor, ahead=4, time_limit=3, progress=False), 8)
    assert set(cluster.scheduler_info()['workers']) == before, 'no worker of the cluster was lost'

@posix
def test_a_cluster_that_loses_a_worker_loses_no_trial(executor, cluster, tmp_path):
    def once(p, rng, report):
        flag = tmp_path/'killed'
        if not flag.exists():
            flag.touch()
            os.kill(os.getppid(), signal.SIGKILL)      # the Dask worker, which looks after this process
            time.sleep(60)
        return p['x']
    r = quick(once, n_trials=6, workers=executor, ahead=2)
    assert len(r.ranked) == 6 and (tmp_path/'killed').exists()

def test_an_executor_that_breaks_ends_the_search(tmp_path):
    def kills_the_pool(p, rng, report):
        if p['x'] > .5: os.kill(os.getppid(), signal.SIGKILL)
        return p['x']
    with ProcessPoolExecutor(1) as pool: r = quick(kills_the_pool, n_trials=20, workers=pool, ahead=1)
    assert r.stopped == 'broken executor' and r.trials[-1].outcome == 'unfinished' and '1 unfinished' in repr(r) and not r.lost


# --- resuming --------------------------------------------------------------------------------------------------------------------

@posix
@pytest.mark.parametrize('workers', [0, 2])
def test_a_search_that_is_killed_goes_on_as_if_nothing_had_happened(tmp_path, workers):
    whole_run = program(tmp_path/'.', seconds=0).communicate()[0]
    (tmp_path/'seen').mkdir()
    storage = f'sqlite:///{tmp_path}/search.db'
    p = program(tmp_path/'seen', storage, seconds=.3, workers=workers)
    wait_for(lambda: len(list((tmp_path/'seen').iterdir())) >= 5)
    p.kill()
    p.communicate()
    n = len(list((tmp_path/'seen').iterdir()))
    assert n < 14
    out, err = program(tmp_path/'seen', storage, workers=workers).communicate()
    assert out == whole_run and not err

def test_more_trials_can_be_asked_for_later(tmp_path):
    storage = f'sqlite:///{tmp_path}/search.db'
    first = quick(bowl, n_trials=5, storage=storage)
    assert len(first.trials) == 5
    more = quick(bowl, n_trials=9, storage=storage)
    assert told(more) == told(quick(bowl, n_trials=9)) and tried(more)[:5] == tried(first)
    assert told(quick(bowl, n_trials=9, storage=storage)) == told(more), 'all is done already'

def test_a_storage_with_another_search_is_refused(tmp_path):
    storage = f'sqlite:///{tmp_path}/search.db'
    quick(bowl, n_trials=2, storage=storage)
    with pytest.raises(ValueError, match='another space'): quick(bowl, dict(x=between(0, 2), y=between(0, 1)), storage=storage)
    assert len(quick(bowl, dict(x=between(0, 2), y=between(0, 1)), n_trials=2, storage=storage, name='wider').trials) == 2


# --- pruning, budget, threads, silence -------------------------------------------------------------------------------------------

def steps(p, rng, report):
    for _ in range(10): report(p['x'])
    return p['x']

@pytest.mark.parametrize('workers', [None, 2])
@pytest.mark.parametrize('pruner', ['median', 'halving', 'hyperband', optuna.pruners.ThresholdPruner(upper=.5)], ids=['median', 'halving', 'hyperband', 'threshold'])
def test_hopeless_trials_are_cut_short(workers, pruner):
    r = quick(steps, n_trials=20, pruner=pruner, workers=workers)
    cut = [t for t in r.trials if t.outcome == 'pruned']
    assert cut and all(1 <= len(t.reports) <= 10 and t.value is None and t.why == f'after {len(t.reports)} reports' for t in cut)
    assert sum(len(t.reports) for t in cut) < 10 * len(cut) and all(len(t.reports) == 10 for t in r.ranked)
    assert np.mean([t.params['x'] for t in cut]) > np.mean([t.params['x'] for t in r.ranked])

def test_a_budget_starts_no_further_trial():
    r = quick(lambda p, rng, report: time.sleep(.1) or 0, n_trials=10_000, budget=.5)
    assert r.stopped == 'budget' and 2 <= len(r.trials) <= 6 and all(t.outcome == 'done' for t in r.trials)

@pytest.mark.parametrize('threads', [1, 2])
def test_workers_use_the_threads_that_they_are_given(threads, monkeypatch):
    for name in 'OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS': monkeypatch.delenv(name, raising=False)
    def n_threads(p, rng, report):
        from threadpoolctl import threadpool_info
        return max(pool['num_threads'] for pool in threadpool_info())
    if os.cpu_count() < 2: pytest.skip('needs two cores')
    assert quick(n_threads, n_trials=1, workers=1, threads=threads).best.value == threads

def test_a_search_is_silent_and_leaves_optuna_as_it_was(capfd):
    level = optuna.logging.get_verbosity()
    quick(bowl, n_trials=3, workers=1)
    quick(bowl, n_trials=3, pruner='hyperband')
    out, err = capfd.readouterr()
    assert not out and not err and optuna.logging.get_verbosity() == level

def test_a_long_search_shows_a_bar(bars):
    search(bowl, plane(), 12)
    search(bowl, plane(), 12, progress=False)
    (bar,) = bars
    assert bar.settings['total'] == 12 and 0 < bar.settings['initial'] < 12 and bar.n == 12 and bar.closed

@pytest.mark.parametrize('how, error, says', [
    (dict(objective=3), TypeError, 'objective'), (dict(space={}), TypeError, 'space'), (dict(space=[1]), TypeError, 'space'), (dict(space=dict(lr=(0, 1))), TypeError, "'lr'"),
    (dict(n_trials=0), ValueError, 'n_trials'), (dict(n_trials=2.), TypeError, 'n_trials'), (dict(seed=-1), ValueError, 'seed'), (dict(seed=None), TypeError, 'seed'),
    (dict(sampler='best'), ValueError, 'sampler'), (dict(sampler=3), TypeError, 'sampler'), (dict(pruner='best'), ValueError, 'pruner'), (dict(pruner=True), TypeError, 'pruner'),
    (dict(workers=0), ValueError, 'workers'), (dict(workers='all'), TypeError, 'workers'), (dict(ahead=0), ValueError, 'ahead'), (dict(threads=0), ValueError, 'threads'),
    (dict(time_limit=0, workers=1), ValueError, 'time_limit'), (dict(time_limit=5), ValueError, 'give workers'), (dict(budget=-1), ValueError, 'budget'),
    (dict(storage=3), TypeError, 'storage'), (dict(name=''), TypeError, 'name'), (dict(workers=ThreadPoolExecutor(1)), ValueError, 'ahead'),
    (dict(workers=ThreadPoolExecutor(1), ahead=2, pruner='median'), ValueError, 'pruner'),
], ids=str)
def test_what_cannot_be_searched_is_refused_before_the_first_trial(how, error, says):
    ran = []
    with pytest.raises(error, match=says): search(**(dict(objective=lambda *a: ran.append(a), space=plane(), n_trials=2) | how))
    assert not ran

def test_without_optuna_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'optuna', None)
    with pytest.raises(ImportError, match=r'pip install "backprop_nb\[tune\]"'): log(1e-4, 1)
    with pytest.raises(ImportError, match=r'pip install "backprop_nb\[tune\]"'): search(bowl, dict(x=1), 3)


# --- what it leaves behind -------------------------------------------------------------------------------------------------------

def test_the_table_shows_the_best_first_and_why_others_failed():
    r = quick(lambda p, rng, report: 1 / (p['x'] > .5) + p['x'], n_trials=10)
    lines = r.table(10).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [str(t.number) for t in [*r.ranked, *(t for t in r.trials if t.outcome != 'done')]]
    assert lines[0].split() == ['trial', 'loss', 'x', 'y'] and lines[-1].endswith('failed: ZeroDivisionError: division by zero')
    assert r.best.value == min(t.value for t in r.ranked) and isinstance(r, SearchResult)

def test_importance_finds_the_knob_that_matters():
    r = quick(lambda p, rng, report: (p['x'] - .3)**2 + 1e-3 * p['y'], n_trials=60)
    shares = importance(r)
    assert list(shares) == ['x', 'y'] and shares['x'] > .8 and np.isclose(sum(shares.values()), 1)
    with pytest.raises(ValueError, match='at least 10'): importance(quick(bowl, n_trials=9))

def test_divergence_is_learned_from_and_does_not_disturb_the_pictures():
    def cliff(p, rng, report): return np.inf if p['x'] > .5 else p['x'] + p['y']
    r = quick(cliff, n_trials=40, sampler='tpe')
    assert np.mean([t.outcome == 'diverged' for t in r.trials[20:]]) < .3
    for picture in picture_history, picture_parallel, picture_importance: assert picture(r, alt='what it shows').png()[:4] == b'\x89PNG'

def test_a_search_tunes_a_net(tmp_path):
    x, target, x_val, t_val = split(*load_digits(), rng=0)
    def objective(p, rng, report):
        model = Sequential(Linear(64, p['width'], rng), ReLU(), Linear(p['width'], 10, rng))
        opt = Adam(model, p['lr'])
        for _ in range(3):
            train_epoch(model, x, target, opt, rng)
            report(loss := cross_entropy(model.predict(x_val), t_val))
        return loss
    r = search(objective, dict(lr=log(1e-4, 1), width=whole(8, 64, log=True)), 12, workers=2, progress=False)
    assert r.best.value < .3 and all(len(t.reports) == 3 for t in r.ranked)


# --- range test and folds --------------------------------------------------------------------------------------------------------

def fresh():
    x, target, *_ = split(*load_digits(), rng=0)
    rng = np.random.default_rng(0)
    return Sequential(Linear(64, 16, rng), ReLU(), Linear(16, 10, rng)), x, target

@pytest.mark.parametrize('kind', [lambda m: SGD(m, momentum=.5), Adam])
def test_a_range_test_changes_nothing_and_repeats(kind):
    model, x, target = fresh()
    opt = kind(model)
    params, state, lr = model.params.copy(), {k: v.copy() for k, v in opt.state.items()}, opt.lr
    one, two = (lr_range_test(model, x, target, opt, rng=4) for _ in range(2))
    assert_array_equal(one, two)
    assert (model.params == params).all() and opt.t == 0 and opt.lr == lr
    for k in state: assert_array_equal(opt.state[k], state[k])
    rates, losses = one
    assert len(rates) == len(losses) <= 100 and rates[0] == 1e-4 and np.allclose(rates[1:] / rates[:-1], rates[1] / rates[0])
    assert np.isclose(losses[0], cross_entropy(model.predict(x[np.random.default_rng(4).permutation(len(x))[:32]]), target[np.random.default_rng(4).permutation(len(x))[:32]]), rtol=1e-5)

def test_a_range_test_stops_when_the_loss_explodes():
    model, x, target = fresh()
    rates, losses = lr_range_test(model, x, target, SGD(model), 0, high=1e6, n_steps=60)
    assert len(rates) < 60 and np.isfinite(losses).all() and rates[losses.argmin()] < 10

@pytest.mark.parametrize('how, error, says', [(dict(low=0), ValueError, 'low'), (dict(high=1e-5), ValueError, 'high'), (dict(n_steps=1), ValueError, 'n_steps'),
                                              (dict(rng='a'), TypeError, 'rng'), (dict(batch_size=0), ValueError, 'batch_size'), (dict(opt=None), ValueError, 'opt')], ids=str)
def test_a_range_test_refuses_what_it_cannot_do(how, error, says):
    model, x, target = fresh()
    with pytest.raises(error, match=says): lr_range_test(**(dict(model=model, x=x, target=target, opt=SGD(model), rng=0) | how))

@given(st.integers(2, 40), st.data())
def test_each_row_validates_once(n, data):
    k = data.draw(st.integers(2, n))
    parts = folds(n, k, data.draw(st.integers(0, 9)))
    assert len(parts) == k and sorted(i for _, b in parts for i in b) == list(range(n))
    assert all(sorted([*a, *b]) == list(range(n)) for a, b in parts)
    assert {len(b) for _, b in parts} <= {n // k, n // k + 1}

@pytest.mark.parametrize('args, error, says', [((1, 2, 0), ValueError, 'n:'), ((5, 1, 0), ValueError, 'k:'), ((5, 6, 0), ValueError, 'at most 5'), ((5, 2., 0), TypeError, 'k:'), ((5, 2, None), TypeError, 'rng')])
def test_folds_that_cannot_be_are_refused(args, error, says):
    with pytest.raises(error, match=says): folds(*args)

def test_a_worker_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(sys, 'executable', 'false' if os.name == 'posix' else sys.executable)
    if os.name != 'posix': pytest.skip('needs a program that does nothing')
    with pytest.raises(RuntimeError, match='could not start'): Worker()
