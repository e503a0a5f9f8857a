"Work is counted exactly, checkpoints change no bit, float16 keeps its gradients, and a run on many workers is the run on one"
import copy
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
from collections import Counter
from concurrent.futures import CancelledError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from backprop_nb.backward import linear_dw, linear_dx
from backprop_nb.data import load_digits
from backprop_nb.forward import linear
from backprop_nb.init import lecun_normal
from backprop_nb.layers import Linear, ReLU, Sequential, Sigmoid, Tanh, fast, value_and_grad
from backprop_nb.loss import cross_entropy, mse
from backprop_nb.norm import BatchNorm, LayerNorm, Residual
from backprop_nb.optim import SGD, Adam, cosine
from backprop_nb.regularize import Dropout
from backprop_nb.scale import *
from backprop_nb.scale import Shards
from backprop_nb.train import Diverged, accuracy, fit


def digits(n=300, dtype=np.float64):
    x, target = load_digits()
    return x[:n].astype(dtype), target[:n]

def net(dtype=np.float64, act=Tanh): return Sequential(Linear(64, 12, 0), act(), Linear(12, 10, 1), dtype=dtype)

def grad(model, x, target, loss=mse, need_dx=False):
    "Gradients of the parameters, and that of the inputs if it is wanted"
    _, g = value_and_grad(loss, model(x), target)
    dx = model.backward(g, need_dx)
    return model.grads.copy(), dx

# --- work ------------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def counts(monkeypatch):
    "Multiply-adds of the matrix products that layers ask for, function by function"
    counts = Counter()
    def counter(f, quick):
        def counted(*args, **out):
            counts[f] += len(args[-3]) * args[-2].size
            return quick(*args, **out)
        return counted
    for f in (linear, linear_dx, linear_dw): monkeypatch.setitem(fast, f, counter(f, fast[f]))
    return counts

@pytest.mark.parametrize('widths, n', [((3, 2), 1), ((5, 7, 2), 4), ((64, 32, 32, 10), 16)])
def test_the_multiply_adds_are_those_that_happen(widths, n, counts):
    model = Sequential(*(layer for a, b in zip(widths, widths[1:]) for layer in (Linear(a, b, 0), ReLU())))
    grad(model, np.ones((n, widths[0])), np.ones((n, widths[-1])))
    assert multiply_adds(model, n) == (counts[linear], counts[linear_dx] + counts[linear_dw])

@given(st.lists(st.integers(1, 50), min_size=2, max_size=6), st.integers(1, 100))
def test_a_gradient_costs_less_than_three_forward_passes(widths, n):
    forward, backward = multiply_adds(Sequential(*(Linear(a, b, 0) for a, b in zip(widths, widths[1:]))), n)
    assert forward <= backward < 2 * forward

def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match='LayerNorm'): multiply_adds(Sequential(Linear(3, 3, 0), LayerNorm(3)), 1)
    with pytest.raises(ValueError, match='n: '): multiply_adds(net(), 0)

# --- checkpoints -----------------------------------------------------------------------------------------------------------------

def rows_of_layers():
    return [Linear(6, 8, 0), Tanh(), Residual(Linear(8, 8, 1), ReLU()), LayerNorm(8), Linear(8, 8, 2), Sigmoid(), Linear(8, 3, 3)]

@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('size', [None, 1, 2, 3, 7, 100])
def test_checkpoints_change_no_bit_of_any_gradient(size, dtype):
    x, target = np.random.default_rng(0).normal(size=(2, 20, 6))
    target = target[:, :3]
    plain, thrifty = Sequential(*rows_of_layers(), dtype=dtype), Sequential(*checkpointed(rows_of_layers(), size), dtype=dtype)
    assert_array_equal(thrifty.predict(x), plain.predict(x))
    for a, b in zip(grad(thrifty, x, target, need_dx=True), grad(plain, x, target, need_dx=True)): assert_array_equal(a, b)
    assert_array_equal(grad(thrifty, x, target)[0], plain.grads)
    _, g = value_and_grad(mse, thrifty(x), target)
    thrifty.backward(g)
    thrifty.backward(g)                              # a second walk over the same call
    assert_array_equal(thrifty.grads, plain.grads)

def test_a_run_of_training_with_checkpoints_is_the_same_run():
    x, target = digits()
    plain, thrifty = net(), Sequential(*checkpointed([Linear(64, 12, 0), Tanh(), Linear(12, 10, 1)], 2), dtype=np.float64)
    for model in (plain, thrifty): fit(model, x, target, Adam(model), 0, n_epochs=2)
    assert_array_equal(thrifty.params, plain.params)

def test_between_the_walks_a_segment_remembers_only_its_input_and_output():
    model = Sequential(*checkpointed(rows_of_layers(), 3))
    x = np.ones((4, 6), np.float32)
    g = np.ones_like(model(x))
    for when in (lambda: None, lambda: model.backward(g)):
        when()
        for segment in model.layers:
            parts = [part for layer in segment.layers for part in (layer, *layer.layers)]
            assert all(part.args is None and part.y is None for part in parts)

def deep(size=None):
    layers = [layer for i in range(50) for layer in (Linear(16, 16, i, lecun_normal), Tanh())]
    return Sequential(*(checkpointed(layers, size) if size else layers))

def peak(model, x):
    tracemalloc.start()
    try:
        grad(model, x, x)
        return tracemalloc.get_traced_memory()[1] / x.nbytes
    finally: tracemalloc.stop()

def test_checkpoints_hold_about_two_roots_of_the_arrays():
    x = np.random.default_rng(0).normal(size=(2048, 16)).astype(np.float32)
    assert peak(deep(), x) > 100
    for size in (5, 10, 20): assert held(100, size) - 2 < peak(deep(size), x) < held(100, size) + 8

def test_checkpoints_cost_one_more_forward_pass(counts):
    x = np.ones((8, 16))
    grad(deep(), x, x)
    plain = dict(counts)
    counts.clear()
    grad(deep(10), x, x)
    assert counts[linear] == 2 * plain[linear] and counts[linear_dw] == plain[linear_dw]

def test_a_checkpoint_is_copied_and_pickled_like_any_layer():
    model = Sequential(*checkpointed(rows_of_layers(), 3), dtype=np.float64)
    x, target = np.ones((4, 6)), np.zeros((4, 3))
    want, _ = grad(model, x, target)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))): assert_array_equal(grad(other, x, target)[0], want)

@pytest.mark.parametrize('layer', [lambda: Dropout(.5, 0), lambda: BatchNorm(3), lambda: Residual(Dropout(.5, 0), Linear(3, 3, 0))])
def test_what_answers_differently_the_second_time_is_refused(layer):
    with pytest.raises(ValueError, match='Dropout|BatchNorm'): Checkpoint(Linear(3, 3, 0), layer())
    model = Sequential(Linear(3, 3, 0), layer())
    with pytest.raises(ValueError, match='Dropout|BatchNorm'): half_grad(model, mse, np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match='Dropout|BatchNorm'): fit_parallel(model, np.ones((2, 3)), np.ones((2, 3)), SGD(model), 0, InTurn(), mse)

def test_a_bad_checkpoint_is_refused():
    with pytest.raises(TypeError, match='at least one'): Checkpoint()
    with pytest.raises(ValueError, match='gives 2 features'): Checkpoint(Linear(3, 2, 0), Linear(3, 3, 0))
    with pytest.raises(ValueError, match='size'): checkpointed(rows_of_layers(), 0)
    with pytest.raises(RuntimeError, match='call it'): Checkpoint(Linear(3, 2, 0)).backward(np.ones((1, 2)))

# --- float16 ---------------------------------------------------------------------------------------------------------------------

def test_half_the_bits_give_the_gradient_to_three_digits():
    x, target = digits(100, np.float32)
    model = net(np.float32)
    want, _ = grad(model, x, target, cross_entropy)
    before = model.params.copy(), model.grads.copy()
    value, g = half_grad(model, cross_entropy, x, target, 1024)
    assert g.dtype == np.float16 and abs(value - cross_entropy(model.predict(x), target)) < .01
    assert np.linalg.norm(g.astype(np.float32)/1024 - want) < .01 * np.linalg.norm(want)
    assert_array_equal(model.params, before[0])
    assert_array_equal(model.grads, before[1])

@pytest.mark.parametrize('seed', range(3))
def test_gradients_that_vanish_in_float16_come_back_with_a_factor(seed):
    rng = np.random.default_rng(seed)
    layers = [layer for n_in in (64, *[24]*7) for layer in (Linear(n_in, 24, rng, lecun_normal), Sigmoid())]
    model = Sequential(*layers, Linear(24, 10, rng, lecun_normal))
    x, target = digits(256, np.float32)
    want, _ = grad(model, x, target, cross_entropy)
    lost = [((half_grad(model, cross_entropy, x, target, scale)[1] == 0) & (want != 0)).mean() for scale in (1, 1024)]
    assert lost[0] > .1 and lost[1] < .01

def test_the_factor_halves_on_overflow_and_doubles_after_good_steps():
    scale = LossScale(1024, patience=3)
    assert scale.unscale(np.float16([1, np.inf])) is None and scale.scale == 512
    assert scale.unscale(np.float16([1, np.nan])) is None and scale.scale == 256
    for want in (256, 256, 512):
        g = scale.unscale(np.float16([256]))
        assert g.dtype == np.float32 and g == 1 and scale.scale == want
    assert scale.unscale(np.float16([256])) == .5 and scale.scale == 512       # it counts anew
    for bad in (dict(scale=0), dict(scale=np.nan), dict(patience=0)):
        with pytest.raises(ValueError, match=next(iter(bad))): LossScale(**bad)

def test_a_scale_below_zero_is_refused():
    with pytest.raises(ValueError, match='scale'): half_grad(net(), cross_entropy, *digits(10), scale=-1)

# --- many workers ----------------------------------------------------------------------------------------------------------------

@given(st.sets(st.integers(1, 49), max_size=6))
@examples(max_examples=25)
def test_the_parts_of_a_batch_add_up_to_the_whole(cuts):
    model, (x, target) = net(), digits(50)
    want, _ = grad(model, x, target, cross_entropy)
    parts = [part_grad(model, cross_entropy, *part) for part in zip(np.split(x, sorted(cuts)), np.split(target, sorted(cuts)))]
    assert_allclose(sum(g for _, g in parts) / 50, want, atol=1e-15)

def runs(client, opt=lambda model: SGD(model, .1, momentum=.9), model=net, data=None, **how):
    "One run of `fit` and one of `fit_parallel`: their models and histories"
    x, target = data or digits()
    alone, shared = model(), model()
    how = dict(n_epochs=2, batch_size=50) | how
    single = {k: v for k, v in how.items() if k != 'n_parts'}
    return alone, fit(alone, x, target, opt(alone), 3, **single), shared, fit_parallel(shared, x, target, opt(shared), 3, client, **how)

def assert_same_run(alone, history, shared, history_shared):
    assert_allclose(shared.params, alone.params, rtol=0, atol=1e-12)
    assert_allclose(history_shared.loss, history.loss, rtol=0, atol=1e-12)
    assert_allclose(history_shared.val_loss, history.val_loss, rtol=0, atol=1e-12)
    assert history_shared.stopped == history.stopped and history_shared.lr == history.lr and history_shared.best_epoch == history.best_epoch

@pytest.mark.parametrize('how', [dict(n_parts=1), dict(n_parts=3), dict(n_parts=299, batch_size=7, n_epochs=1), dict(schedule=cosine(.1, 12), n_parts=2),
                                 dict(clip=.1, n_parts=2), dict(n_epochs=0), dict(n_parts=10**6, n_epochs=1)], ids=str)
def test_a_run_in_parts_is_the_run_in_one_piece(how): assert_same_run(*runs(InTurn(), **how))

def test_a_run_in_parts_watches_validation_data_and_goes_back_to_the_best():
    x, target = digits()
    noted = []
    alone, history, shared, history_shared = runs(InTurn(), n_parts=3, n_epochs=30, validation=(x[:40], (target[:40] + 1) % 10), patience=2,
                                                  after_epoch=lambda h: noted.append(len(h.loss)))
    assert_same_run(alone, history, shared, history_shared)
    assert history.stopped == 'patience' and noted[:len(noted)//2] == noted[len(noted)//2:]

def test_a_run_in_parts_goes_on_where_it_stopped():
    x, target = digits()
    at_once, _, model, _ = runs(InTurn(), n_epochs=3, n_parts=2)
    model = net()
    opt, rng = SGD(model, .1, momentum=.9), np.random.default_rng(3)
    history = fit_parallel(model, x, target, opt, rng, InTurn(), n_epochs=1, batch_size=50, n_parts=2)
    fit_parallel(model, x, target, opt, rng, InTurn(), n_epochs=3, batch_size=50, n_parts=2, history=history)
    assert_allclose(model.params, at_once.params, rtol=0, atol=1e-12)
    assert len(history.loss) == 3

def test_values_are_learned_in_parts_too():
    x = np.linspace(-1, 1, 60)[:, None]
    assert_same_run(*runs(InTurn(), model=lambda: Sequential(Linear(1, 5, 0), Tanh(), Linear(5, 1, 1), dtype=np.float64),
                          data=(x, np.sin(3*x[:, 0])), loss=mse, n_parts=4, batch_size=16))

@pytest.mark.parametrize('bad, match', [(dict(x=np.ones((300, 63))), '64 features'), (dict(target=np.full(300, 10)), 'target'), (dict(n_parts=0), 'n_parts'),
                                        (dict(batch_size=0), 'batch_size'), (dict(n_epochs=-1), 'n_epochs'), (dict(loss='mse'), 'loss'),
                                        (dict(opt=SGD(net())), 'opt')], ids=lambda v: next(iter(v)) if isinstance(v, dict) else '')
def test_bad_input_is_refused_and_changes_nothing(bad, match):
    model = net()
    x, target = digits()
    before = model.params.copy()
    with pytest.raises(ValueError, match=match):
        fit_parallel(**dict(model=model, x=x, target=target, opt=SGD(model), rng=0, client=InTurn()) | bad)
    assert_array_equal(model.params, before)

def test_divergence_stops_before_the_parameters_are_spoilt():
    x, target = digits()
    model = net(act=ReLU)
    with pytest.raises(Diverged, match=r'epoch \d.*step .* learning rate'):
        fit_parallel(model, x, x @ np.ones((64, 10)), SGD(model, 1e3), 0, InTurn(), mse, n_epochs=50)
    assert np.isfinite(model.params).all()

def test_a_last_step_that_spoils_the_parameters_is_undone():
    x, target = digits()
    model = Sequential(Linear(64, 10, 0))
    before = model.params.copy()
    with pytest.raises(Diverged): fit_parallel(model, x, target, SGD(model, 1e40), 0, InTurn(), n_parts=2, n_epochs=1, batch_size=len(x))
    assert_array_equal(model.params, before)

@pytest.mark.parametrize('client', [InTurn, 3, None], ids=str)
def test_what_is_no_client_is_refused(client):
    model = net()
    with pytest.raises(TypeError, match='client: InTurn'): fit_parallel(model, *digits(), SGD(model), 0, client)

class Forgetful(InTurn):
    "A client that loses what it holds at some of its calls"
    def __init__(self, lost): self.lost, self.calls, self.sent = lost, 0, 0

    def scatter(self, data, **how):
        self.sent += 1
        return super().scatter(data)

    def gather(self, futures):
        self.calls += 1
        if self.calls in self.lost: raise CancelledError
        return super().gather(futures)

def test_a_lost_step_is_repeated_and_what_was_lost_is_sent_again():
    client = Forgetful({2, 5, 6})
    assert_same_run(*runs(client, n_parts=2))
    assert client.sent == 1 + 3

def test_who_loses_everything_always_is_given_up():
    client = Forgetful(range(1000))
    with pytest.raises(CancelledError): runs(client)
    assert client.sent == Shards.retries + 1

@pytest.fixture(scope='module')
def client():
    "Two processes on this machine, closed when the tests are over"
    pytest.importorskip('distributed', reason='runs with several processes need Dask: pip install "backprop_nb[scale]"')
    with local_client(2) as client: yield client

def test_a_run_on_two_processes_is_the_run_on_one_and_data_travel_once(client, monkeypatch):
    sent = []
    send = Shards.send
    monkeypatch.setattr(Shards, 'send', lambda self: (sent.append(1), send(self)))
    assert len(set(client.run(os.getpid).values()) - {os.getpid()}) == 2
    assert_same_run(*runs(client))
    assert len(sent) == 1

def test_two_workers_share_the_work(client):
    model, (x, target) = net(), digits()
    shards = Shards(client, 2, model, cross_entropy, x, target)
    shards.grad(np.arange(300))
    holders = [set(who) for who in client.who_has(shards.sent).values()]
    assert len(holders) == 2 and len(set.union(*holders)) == 2

def test_a_run_survives_a_worker_that_is_killed(client, monkeypatch):
    sent, killed = [], []
    send = Shards.send
    monkeypatch.setattr(Shards, 'send', lambda self: (sent.append(self), send(self)))
    pids = client.run(os.getpid)
    def murderous(t):
        if t == 4:      # whoever holds the first shard, so that it is nowhere any more
            for address in client.who_has(sent[0].sent[:1]).popitem()[1]:
                killed.append(address)
                os.kill(pids[address], signal.SIGKILL)
        return .1
    x, target = digits()
    alone, shared = net(), net()
    history = fit(alone, x, target, SGD(alone, .1, momentum=.9), 3, n_epochs=3, batch_size=50, schedule=lambda t: .1)
    history_shared = fit_parallel(shared, x, target, SGD(shared, .1, momentum=.9), 3, client, n_epochs=3, batch_size=50, schedule=murderous)
    assert_same_run(alone, history, shared, history_shared)
    assert killed and len(sent) >= 2, 'the first shard was lost and not sent again'

def test_a_mistake_on_a_worker_is_told_and_not_repeated(client):
    shards = Shards(client, 2, net(), cross_entropy, *digits())
    shards.shards = [(model, loss, x, target + 100) for model, loss, x, target in shards.shards]
    with pytest.raises(ValueError, match='target'): shards.grad(np.arange(300))

# --- what it needs ---------------------------------------------------------------------------------------------------------------

def test_without_dask_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'distributed', None)
    with pytest.raises(ImportError, match=r'pip install "backprop_nb\[scale\]"'), local_client(): pass

def test_importing_the_module_does_not_import_dask():
    code = 'import sys, backprop_nb.scale; assert not {"distributed", "dask", "matplotlib"} & sys.modules.keys()'
    subprocess.run([sys.executable, '-c', code], check=True, env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)})

def test_a_network_learns_in_float16():
    x, target = digits(600, np.float32)
    model = net(np.float32, ReLU)
    opt, scale = Adam(model, .01), LossScale(2.**24)
    rng = np.random.default_rng(0)
    for _ in range(100):
        rows = rng.integers(0, 500, 50)
        g = scale.unscale(half_grad(model, cross_entropy, x[rows], target[rows], scale.scale)[1])
        if g is not None:
            model.grads = g
            opt.step()
    assert scale.scale < 2.**24 and accuracy(model.predict(x[500:]), target[500:]) > .75
