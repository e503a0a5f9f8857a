"What training promises: it learns, repeats itself, stops when it should, loses nothing when it fails, and changes nothing when it refuses"
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from project import ROOT, cells

from backprop_nb.data import batches, load_digits, moons, split
from backprop_nb.layers import Linear, ReLU, Sequential
from backprop_nb.loss import binary_cross_entropy, cross_entropy, mse
from backprop_nb.optim import SGD, Adam, AdamW, RMSprop, cosine, step_decay
from backprop_nb.train import Diverged, History, accuracy, binary_accuracy, confusion, converged, fit, no_better, train_epoch, train_step, used_up


def net(*widths, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    layers = [layer for n_in, n_out in zip(widths, widths[1:]) for layer in (Linear(n_in, n_out, rng), ReLU())]
    return Sequential(*layers[:-1], dtype=dtype)

@pytest.fixture
def data():
    "Two classes in the plane: examples, labels, validation examples and labels"
    return split(*moons(100, .2, rng=0), rng=1)

def trained(data, opt=Adam, lr=.02, model=None, rng=3, **how):
    "A model and the history of its training"
    x, target, *_ = data
    model = model or net(2, 8, 2)
    return model, fit(model, x, target, opt(model, lr), rng, batch_size=16, **how)

def python(*args, **how):
    "Run a program of its own, which finds the package where this test found it"
    here = str(Path(sys.modules['backprop_nb'].__file__).parent.parent)
    return subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {'PYTHONPATH': here, 'PYTHONUNBUFFERED': '1'}, **how)


# --- it learns -------------------------------------------------------------------------------------------------------------------

def test_digits_are_read_to_97_percent():
    x, target, x_test, t_test = split(*load_digits(), rng=0)
    rng = np.random.default_rng(0)
    model = Sequential(Linear(64, 128, rng), ReLU(), Linear(128, 10, rng))
    history = fit(model, x, target, Adam(model), rng, n_epochs=20, schedule=cosine(.01, 20 * 45))
    assert accuracy(model.predict(x_test), t_test) >= .97
    assert history.loss[-1] < .02 and history.seconds[-1] < 60

def test_values_are_learned_too():
    x = np.linspace(-3, 3, 200)[:, None]
    model = net(1, 32, 1)
    fit(model, x, np.sin(x[:, 0]), Adam(model, .01), 0, loss=mse, n_epochs=100)
    assert mse(model.predict(x), np.sin(x)) < .01 * np.var(np.sin(x))

@pytest.mark.parametrize('make', [lambda m: SGD(m, .1), lambda m: SGD(m, .05, momentum=.9, nesterov=True, weight_decay=.01), lambda m: Adam(m, .01),
                                  lambda m: AdamW(m, .01, weight_decay=.1), lambda m: RMSprop(m, .01)], ids=['SGD', 'Nesterov', 'Adam', 'AdamW', 'RMSprop'])
def test_training_equals_pytorch_with_the_same_batches(make, data):
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    x, target, *_ = data
    model = net(2, 16, 8, 2)
    theirs = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).double()
    with torch.no_grad():
        for ours, their in zip(model.layers[::2], theirs[::2]):
            their.weight.copy_(torch.tensor(ours.w.T.copy()))
            their.bias.copy_(torch.tensor(ours.b))
    opt = make(model)
    names = {'SGD': ('momentum', 'nesterov', 'weight_decay'), 'RMSprop': ('alpha', 'eps', 'weight_decay')}
    settings = {k: getattr(opt, k) for k in names.get(type(opt).__name__, ('betas', 'eps', 'weight_decay'))}
    their_opt = getattr(torch.optim, type(opt).__name__)(theirs.parameters(), lr=opt.lr, **settings)
    rng, losses = np.random.default_rng(5), []
    for _ in range(3):
        total = 0
        for xb, tb in batches(x, target, 12, rng):
            their_opt.zero_grad()
            loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(xb)), torch.tensor(tb))
            loss.backward()
            their_opt.step()
            total += loss.item() * len(xb)
        losses.append(total / len(x))
    history = fit(model, x, target, opt, np.random.default_rng(5), n_epochs=3, batch_size=12)
    flat = np.concatenate([p.detach().numpy().T.ravel() for p in theirs.parameters()])
    assert_allclose(model.params, flat, rtol=0, atol=1e-9)
    assert_allclose(history.loss, losses, rtol=1e-9)


# --- it repeats itself -----------------------------------------------------------------------------------------------------------

RUN = '''
import hashlib
import numpy as np
from backprop_nb.data import load_digits
from backprop_nb.layers import Linear, ReLU, Sequential
from backprop_nb.optim import Adam
from backprop_nb.train import fit

def run():
    x, target = load_digits()
    rng = np.random.default_rng(4)
    model = Sequential(Linear(64, 16, rng), ReLU(), Linear(16, 10, rng))
    history = fit(model, x[:300], target[:300], Adam(model, .01), rng, n_epochs=3, validation=(x[300:400], target[300:400]))
    return hashlib.sha256(model.params.tobytes() + np.array([history.loss, history.val_loss]).tobytes()).hexdigest()
'''

def test_the_same_seed_gives_the_same_bits_in_a_fresh_process_too():
    space = {}
    exec(RUN, space)
    process = python('-c', RUN + 'print(run())')
    said, errors = process.communicate(timeout=120)
    assert said.strip() == space['run']() == space['run'](), errors

def test_another_seed_gives_other_bits(data):
    assert (trained(data, rng=3)[0].params != trained(data, rng=4)[0].params).any()

def test_a_run_cut_in_two_is_the_same_run(data):
    x, target, *_ = data
    whole, parts = net(2, 8, 2), net(2, 8, 2)
    fit(whole, x, target, Adam(whole), np.random.default_rng(1), n_epochs=5, schedule=cosine(.05, 25))
    opt, rng = Adam(parts), np.random.default_rng(1)
    for n_epochs in (2, 3): fit(parts, x, target, opt, rng, n_epochs=n_epochs, schedule=cosine(.05, 25))
    assert_array_equal(whole.params, parts.params)

def test_the_global_generator_is_not_touched(data):
    before = np.random.get_state()
    trained(data, validation=data[2:], patience=2)
    after = np.random.get_state()
    assert before[0] == after[0] and (before[1] == after[1]).all() and before[2:] == after[2:]

def test_validation_data_are_never_trained_on(data):
    alone, _ = trained(data, n_epochs=8)
    watched, history = trained(data, n_epochs=8, validation=data[2:])
    strange, _ = trained(data, n_epochs=8, validation=(100 * data[2], 1 - data[3]))
    assert_array_equal(alone.params, watched.params)
    assert_array_equal(alone.params, strange.params)
    assert len(history.val_loss) == 8


# --- an epoch and its history ----------------------------------------------------------------------------------------------------

def test_an_epoch_sees_every_example_once():
    seen = []
    class Spy(Sequential):
        def __call__(self, x):
            seen.append(x[:, 0].copy())
            return super().__call__(x)
    x = np.c_[np.arange(50.), np.zeros(50)]
    model = Spy(Linear(2, 2, 0), dtype=np.float64)
    fit(model, x, np.zeros(50, int), SGD(model, 1e-9), 0, n_epochs=2, batch_size=16)
    assert list(map(len, seen)) == [16, 16, 16, 2] * 2
    first, second = np.concatenate(seen[:4]), np.concatenate(seen[4:])
    assert_array_equal(np.sort(first), np.arange(50))
    assert_array_equal(np.sort(second), np.arange(50))
    assert (first != second).any()

@pytest.mark.parametrize('batch_size', [1, 7, 16, 79, 80, 1000])
def test_the_loss_counts_every_example_once_though_the_last_batch_is_smaller(batch_size, data):
    x, target, *_ = data
    model = net(2, 8, 2)
    opt = SGD(model)
    opt.lr = 0
    assert_allclose(train_epoch(model, x, target, opt, 0, batch_size=batch_size), cross_entropy(model.predict(x), target), rtol=1e-12)

def test_the_history_has_one_entry_an_epoch(data):
    _, history = trained(data, n_epochs=6, validation=data[2:])
    lists = {k: v for k, v in vars(history).items() if isinstance(v, list)}
    assert lists.keys() == {'loss', 'lr', 'val_loss', 'val_score', 'seconds'}
    assert {len(v) for v in lists.values()} == {6}
    assert all(type(e) is float for v in lists.values() for e in v)
    assert history.seconds == sorted(history.seconds) and history.lr == [.02] * 6
    assert history.stopped == 'n_epochs' and history.best_epoch is None

def test_the_history_says_what_predict_says(data):
    model, history = trained(data, n_epochs=3, validation=data[2:])
    y = model.predict(data[2])
    assert_allclose(history.val_loss[-1], cross_entropy(y, data[3]), rtol=1e-12)
    assert history.val_score[-1] == accuracy(y, data[3])
    assert repr(history) == f"History(3 epochs, loss {history.loss[-1]:.4f}, val_loss {history.val_loss[-1]:.4f}, " \
                            f"val_score {history.val_score[-1]:.4f}, stopped by 'n_epochs')"

def test_without_validation_and_without_a_score_the_lists_stay_empty(data):
    history = trained(data, n_epochs=2)[1]
    assert history.val_loss == history.val_score == [] and len(history.loss) == 2
    model = net(2, 1)
    history = fit(model, data[0], data[1], SGD(model), 0, loss=mse, n_epochs=2, validation=data[2:])
    assert len(history.val_loss) == 2 and history.val_score == []

def test_a_score_can_be_given(data):
    history = trained(data, n_epochs=2, validation=data[2:], score=lambda y, target: len(y) + target[0])[1]
    assert history.val_score == [20 + data[3][0]] * 2

def test_yes_or_no_is_scored_row_by_row():
    x, target, x_val, t_val = split(*moons(200, .1, rng=0), rng=1)
    model = net(2, 16, 1)
    history = fit(model, x, target, Adam(model, .05), 0, loss=binary_cross_entropy, n_epochs=30, validation=(x_val, t_val))
    assert history.val_score[-1] == np.mean((model.predict(x_val)[:, 0] > 0) == t_val) > .9

def test_no_epochs_change_nothing(data):
    start = net(2, 8, 2).params.copy()
    model, history = trained(data, n_epochs=0, validation=data[2:], patience=1)
    assert_array_equal(model.params, start)
    assert history.loss == history.val_loss == [] and history.stopped == 'n_epochs' and history.best_epoch is None
    assert repr(history) == "History(0 epochs, stopped by 'n_epochs')"

def test_the_schedule_sets_the_learning_rate_of_every_step(data):
    x, target, *_ = data                                         # 80 rows: 5 steps an epoch
    asked = []
    def schedule(t):
        asked.append(t)
        return .1 / (1 + t)
    model, history = trained(data, SGD, n_epochs=3, schedule=schedule)
    assert asked == list(range(15)) and history.lr == [.1 / 5, .1 / 10, .1 / 15]
    by_hand = net(2, 8, 2)
    opt, rng = SGD(by_hand), np.random.default_rng(3)
    for _ in range(3):
        for xb, tb in batches(x, target, 16, rng):
            opt.lr = .1 / (1 + opt.t)
            train_step(by_hand, cross_entropy, opt, xb, tb)
    assert_array_equal(model.params, by_hand.params)
    assert trained(data, n_epochs=4, schedule=step_decay(.1, 10, .5))[1].lr == [.1, .1, .05, .05]

def test_clipping_shortens_the_step_and_keeps_its_direction(data):
    x, target, *_ = data
    steps = []
    for clip in (None, 1e-3):
        model = net(2, 8, 2)
        start = model.params.copy()
        fit(model, x, target, SGD(model, 1.), 0, n_epochs=1, batch_size=80, clip=clip)
        steps.append(model.params - start)
    free, clipped = steps
    assert_allclose(np.linalg.norm(clipped), 1e-3, rtol=1e-12)
    assert_allclose(clipped / np.linalg.norm(clipped), free / np.linalg.norm(free), atol=1e-12)


# --- it stops when it should -----------------------------------------------------------------------------------------------------

def test_patience_gives_the_best_parameters_back(data):
    x, target, x_val, t_val = data
    after = []
    def score(y, target):
        after.append(model.params.copy())
        return 0.
    model = net(2, 32, 2)
    history = fit(model, x[:20], target[:20], Adam(model, .05), 0, n_epochs=500, validation=(x_val, t_val), score=score, patience=5)
    best = int(np.argmin(history.val_loss))
    assert history.stopped == 'patience' and history.best_epoch == best and 0 < best < 400
    assert len(history.val_loss) == best + 1 + 5
    assert_array_equal(model.params, after[best])
    assert (after[best] != after[-1]).any()
    assert history.val_loss[best] == pytest.approx(cross_entropy(model.predict(x_val), t_val), rel=1e-12)

def test_the_best_parameters_come_back_also_when_the_epochs_run_out(data):
    x, target, x_val, t_val = data
    model = net(2, 32, 2)
    history = fit(model, x[:20], target[:20], Adam(model, .05), 0, n_epochs=60, validation=(x_val, t_val), patience=1000)
    assert history.stopped == 'n_epochs' and len(history.loss) == 60
    assert history.best_epoch == np.argmin(history.val_loss) < 59
    assert_allclose(cross_entropy(model.predict(x_val), t_val), min(history.val_loss), rtol=1e-12)

def test_an_equal_validation_loss_is_no_better(data):
    model = net(2, 8, 2)
    history = fit(model, data[0], data[1], SGD(model), 0, n_epochs=50, validation=data[2:], patience=3, schedule=lambda t: 0.)
    assert history.best_epoch == 0 and len(history.val_loss) == 4

def test_a_tolerance_stops_when_an_epoch_gains_less(data):
    _, history = trained(data, n_epochs=500, tol=.01)
    gains = -np.diff(history.loss)
    assert history.stopped == 'converged' and 2 < len(history.loss) < 500
    assert gains[-1] < .01 and (gains[:-1] >= .01).all()

def test_a_tiny_budget_stops_after_one_epoch(data):
    for budget in (0, 1e-9):
        _, history = trained(data, n_epochs=500, budget=budget)
        assert history.stopped == 'budget' and len(history.loss) == 1

def test_a_budget_is_not_exceeded_by_much(data):
    start = time.perf_counter()
    _, history = trained(data, n_epochs=20_000, budget=.3, progress=False)
    assert history.stopped == 'budget' and history.seconds[-1] >= .3 > history.seconds[-2]
    assert time.perf_counter() - start < 3

def test_the_rules_by_hand():
    h = History(loss=[1., .5, .4], val_loss=[.9, .7, .8], seconds=[1, 2, 3])
    assert no_better(h, 1) and not no_better(h, 2)
    assert converged(h, .2) and not converged(h, .05) and not converged(History(loss=[1.]), np.inf)
    assert used_up(h, 3) and not used_up(h, 3.1)


# --- it loses nothing when it fails ----------------------------------------------------------------------------------------------

def line(dtype=np.float64):
    x = np.linspace(-3, 3, 40)[:, None]
    return x.astype(dtype), np.sin(x).astype(dtype)

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('opt', [lambda m: SGD(m, .3), lambda m: SGD(m, .3, momentum=.9)], ids=['SGD', 'momentum'])
def test_divergence_is_an_error_that_says_where_and_brings_the_parameters_back(opt, dtype):
    x, target = line(dtype)
    model = net(1, 16, 1, dtype=dtype)
    opt = opt(model)
    calm = opt.lr / 100
    history = fit(model, x, target, opt, 0, loss=mse, n_epochs=3, batch_size=2, schedule=lambda t: calm)
    params, t, state = model.params.copy(), opt.t, {k: v.copy() for k, v in opt.state.items()}
    assert t == 60 and len(history.loss) == 3
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(Diverged, match=r'diverged in epoch 0\b.* at step (6\d|7\d) with learning rate 0\.3\b') as caught:
            fit(model, x, target, opt, 0, loss=mse, n_epochs=5, batch_size=2, schedule=lambda t: .3)
    assert isinstance(caught.value, FloatingPointError)
    assert_array_equal(model.params, params)
    assert np.isfinite(model.predict(x)).all()
    assert opt.t == t and opt.lr == calm
    for name, v in opt.state.items(): assert_array_equal(v, state[name])
    again = fit(model, x, target, opt, 0, loss=mse, n_epochs=3, batch_size=2)
    assert again.loss[-1] <= history.loss[0]

def test_divergence_says_the_epoch_and_keeps_the_epochs_before(data):
    x, target = line()
    model, kept = net(1, 16, 1), []
    def schedule(t):
        if t == 40: kept.append(model.params.copy())      # the first step of the third epoch
        return .003 if t < 45 else 5.
    with pytest.raises(Diverged, match=r'epoch 2\b'):
        fit(model, x, target, SGD(model), 0, loss=mse, n_epochs=9, batch_size=2, schedule=schedule)
    assert_array_equal(model.params, kept[0])

def test_parameters_that_overflow_while_the_loss_is_finite_are_noticed():
    model = Sequential(Linear(1, 1, 0))
    start = model.params.copy()
    with pytest.raises(Diverged, match=r'epoch 0.*parameters.*step 1 with learning rate 1e\+38'):
        fit(model, [[100.]], [[-100.]], SGD(model, 1e38), 0, loss=mse, n_epochs=1)
    assert_array_equal(model.params, start)

def test_a_step_is_not_taken_when_the_loss_is_not_finite():
    model = Sequential(Linear(1, 1, 0))
    model.params = [1e30, 0]
    opt = SGD(model, .1)
    with np.errstate(over='ignore'), pytest.raises(Diverged, match='step 0 with learning rate 0.1'):
        train_step(model, mse, opt, [[1e5]], [[0.]])
    assert_array_equal(model.params, np.float32([1e30, 0]))
    assert opt.t == 0

@contextmanager
def pressed():
    "An interrupt that comes out of `fit` fails one test and not the whole run"
    try: yield
    except KeyboardInterrupt: pytest.fail('the interrupt came out of fit')

def stop_at(step, lr=.01):
    "A schedule that presses the stop button"
    def schedule(t):
        if t == step: raise KeyboardInterrupt
        return lr
    return schedule

def test_an_interrupt_is_a_reason_to_stop(data):
    with pressed(): model, history = trained(data, n_epochs=10, validation=data[2:], schedule=stop_at(12))
    assert history.stopped == 'interrupted'
    assert len(history.loss) == len(history.val_loss) == len(history.val_score) == len(history.lr) == len(history.seconds) == 2
    assert np.isfinite(model.predict(data[0])).all()

def test_an_interrupt_gives_the_best_parameters_back_if_patience_watches(data):
    x, target, x_val, t_val = data
    model = net(2, 32, 2)
    with pressed():
        history = fit(model, x[:20], target[:20], Adam(model), 0, n_epochs=500, batch_size=10, validation=(x_val, t_val), patience=1000,
                      schedule=stop_at(2*60, lr=.05))
    assert history.stopped == 'interrupted' and len(history.loss) == 60 and history.best_epoch == np.argmin(history.val_loss) < 59
    assert_allclose(cross_entropy(model.predict(x_val), t_val), min(history.val_loss), rtol=1e-12)

def test_an_interrupt_during_the_look_at_the_validation_data_is_one_too(data):
    def score(y, target): raise KeyboardInterrupt
    with pressed(): assert trained(data, n_epochs=10, validation=data[2:], score=score)[1].stopped == 'interrupted'

LONG = '''
import signal, sys
import numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)
from backprop_nb.data import load_digits
from backprop_nb.layers import Linear, ReLU, Sequential
from backprop_nb.optim import Adam
from backprop_nb.train import fit

x, target = load_digits()
rng = np.random.default_rng(0)
model = Sequential(Linear(64, 256, rng), ReLU(), Linear(256, 10, rng))
def schedule(t):
    if t == 200: print('at work')
    return .001
history = fit(model, x, target, Adam(model), rng, n_epochs=10**6, schedule=schedule)
print(history.stopped, len(history.loss) > 0, np.isfinite(model.predict(x)).all())
'''

@pytest.mark.skipif(sys.platform == 'win32', reason='sends a signal of Unix')
def test_ctrl_c_stops_within_two_seconds_and_the_model_answers():
    process = python('-c', LONG)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        assert process.stdout.readline() == 'at work\n', process.stderr.read()
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        said, errors = process.communicate(timeout=30)
        assert time.perf_counter() - start < 2
    finally:
        watchdog.cancel()
        process.kill()
    assert (process.returncode, said) == (0, 'interrupted True True\n'), errors


# --- it changes nothing when it refuses ------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(8, 3))
T = np.array([0, 1, 2, 3, 0, 1, 2, 3])
def put(a, i, v):
    a = np.array(a, float)
    a[i] = v
    return a

class Sparse:
    shape = X.shape
    def toarray(self): return X

BAD_X = {   # what comes as x -> the exceptions allowed, what the message holds
    'NaN': (put(X, (2, 1), np.nan), ValueError, r'x.*NaN.*row 2, column 1'),
    'infinity': (put(X, (3, 0), -np.inf), ValueError, r'x.*infinity.*row 3, column 0'),
    'too many features': (np.ones((8, 5)), ValueError, r'x.*\b3 features.*\b5\b'),
    'too few features': (np.ones((8, 2)), ValueError, r'x.*\b3 features.*\b2\b'),
    '0-D': (np.float64(1), ValueError, r'x.*2-D.*\(\)'),
    '1-D': (np.ones(3), ValueError, r'x.*2-D.*\(3,\).*reshape'),
    '3-D': (np.ones((8, 3, 1)), ValueError, r'x.*2-D.*\(8, 3, 1\)'),
    'no rows': (np.ones((0, 3)), ValueError, r'x.*empty'),
    'no columns': (np.ones((8, 0)), ValueError, r'x.*\(8, 0\)'),
    'ragged': ([[1, 2, 3], [1, 2]], ValueError, r'x.*ragged'),
    'text': ([['a', 'b', 'c']] * 8, TypeError, r'x.*real numbers.*<U1'),
    'objects': (np.full((8, 3), object()), TypeError, r'x.*real numbers.*object'),
    'dates': (np.full((8, 3), np.datetime64('2020-01-01')), TypeError, r'x.*real numbers.*datetime'),
    'complex': (X + 1j, TypeError, r'x.*real numbers.*complex'),
    'None': (None, TypeError, r'x.*real numbers.*None'),
    'sparse': (Sparse(), TypeError, r'x.*real numbers.*Sparse'),
    'dict': ({}, TypeError, r'x.*real numbers.*dict'),
}
BAD_T = {   # what comes as target, for four classes
    'too short': (T[:5], ValueError, r'target.*8.*5'),
    'too long': (np.r_[T, T], ValueError, r'target.*8.*16'),
    'negative': (put(T, 1, -1), ValueError, r'target.*0 to 3.*-1'),
    'negative integer': (put(T, 1, -1).astype(int), ValueError, r'target.*0 to 3.*-1'),
    'too large': (put(T, 1, 4), ValueError, r'target.*0 to 3.*\b4\b'),
    'fraction': (put(T, 1, .5), ValueError, r'target.*whole numbers.*0\.5'),
    'NaN': (put(T, 6, np.nan), ValueError, r'target.*NaN.*row 6'),
    'text': (['a'] * 8, TypeError, r'target.*real numbers'),
    'None': (None, TypeError, r'target.*real numbers'),
    'one-hot': (np.eye(4)[T], ValueError, r'target.*\(8,\).*\(8, 4\)'),
    'a column': (T[:, None], ValueError, r'target.*\(8,\).*\(8, 1\)'),
}
BAD_VALUES = {   # what comes as target, for four outputs and the squared error
    'a vector': (np.ones(8), ValueError, r'target.*\(8, 4\).*\(8,\)'),
    'a column': (np.ones((8, 1)), ValueError, r'target.*\(8, 4\).*\(8, 1\)'),
    'a row': (np.ones((1, 4)), ValueError, r'target.*\(8, 4\).*\(1, 4\)'),
    'NaN': (put(np.ones((8, 4)), (2, 3), np.nan), ValueError, r'target.*NaN.*row 2, column 3'),
    'infinity': (put(np.ones((8, 4)), (2, 3), np.inf), ValueError, r'target.*infinity.*row 2, column 3'),
}
BAD_SETTINGS = {
    'loss a name': (dict(loss='mse'), ValueError, r"loss.*cross_entropy, mse.*'mse'"),
    'loss a list': (dict(loss=[]), ValueError, r'loss.*cross_entropy'),
    'loss unknown': (dict(loss=lambda y, t: 0), ValueError, r'loss.*cross_entropy'),
    'no epochs below 0': (dict(n_epochs=-1), ValueError, r'n_epochs.*-1'),
    'epochs a fraction': (dict(n_epochs=2.), TypeError, r'n_epochs.*2\.0'),
    'epochs a text': (dict(n_epochs='2'), TypeError, r"n_epochs.*'2'"),
    'epochs True': (dict(n_epochs=True), TypeError, r'n_epochs.*True'),
    'batch 0': (dict(batch_size=0), ValueError, r'batch_size.*0'),
    'batch negative': (dict(batch_size=-32), ValueError, r'batch_size.*-32'),
    'batch a fraction': (dict(batch_size=.5), TypeError, r'batch_size.*0\.5'),
    'batch None': (dict(batch_size=None), TypeError, r'batch_size.*None'),
    'rng None': (dict(rng=None), TypeError, r'rng.*Generator.*None'),
    'rng negative': (dict(rng=-1), ValueError, r'rng.*-1'),
    'rng the module': (dict(rng=np.random), TypeError, r'rng.*Generator'),
    'patience alone': (dict(patience=3), ValueError, r'patience.*validation'),
    'patience 0': (dict(patience=0, validation=(X, T)), ValueError, r'patience.*0'),
    'patience a fraction': (dict(patience=1.5, validation=(X, T)), TypeError, r'patience.*1\.5'),
    'tol negative': (dict(tol=-1e-3), ValueError, r'tol.*-0\.001'),
    'tol NaN': (dict(tol=np.nan), ValueError, r'tol.*nan'),
    'budget negative': (dict(budget=-1), ValueError, r'budget.*-1'),
    'budget a text': (dict(budget='1 min'), TypeError, r"budget.*'1 min'"),
    'clip 0': (dict(clip=0), ValueError, r'clip.*0'),
    'clip NaN': (dict(clip=np.nan), ValueError, r'clip.*nan'),
    'clip a text': (dict(clip='1'), TypeError, r"clip.*'1'"),
    'schedule a number': (dict(schedule=.1), TypeError, r'schedule.*function.*0\.1'),
    'schedule gives NaN': (dict(schedule=lambda t: np.nan), ValueError, r'lr.*nan'),
    'schedule gives a negative rate': (dict(schedule=lambda t: -.1), ValueError, r'lr.*-0\.1'),
    'score a name': (dict(score='accuracy'), TypeError, r"score.*function.*'accuracy'"),
    'opt of another model': (dict(opt=SGD(net(3, 5, 4), .123)), ValueError, r'opt.*this model.*0\.123'),
    'opt a name': (dict(opt='adam'), ValueError, r"opt.*Adam\(model\).*'adam'"),
    'validation no pair': (dict(validation=X), TypeError, r'validation.*pair.*ndarray'),
    'validation a triple': (dict(validation=(X, T, T)), TypeError, r'validation.*pair'),
    'validation with NaN': (dict(validation=(put(X, (2, 1), np.nan), T)), ValueError, r'validation x.*NaN.*row 2, column 1'),
    'validation of other width': (dict(validation=(X[:, :2], T)), ValueError, r'validation x.*3 features'),
    'validation labels too large': (dict(validation=(X, T + 1)), ValueError, r'validation target.*0 to 3.*4'),
    'validation labels too few': (dict(validation=(X, T[:3])), ValueError, r'validation target.*8.*3'),
    'validation empty': (dict(validation=(X[:0], T[:0])), ValueError, r'validation x.*empty'),
}
CASES = [pytest.param(dict(x=x), error, match, id=f'x: {name}') for name, (x, error, match) in BAD_X.items()] + \
        [pytest.param(dict(target=t), error, match, id=f'target: {name}') for name, (t, error, match) in BAD_T.items()] + \
        [pytest.param(dict(target=t, loss=mse), error, match, id=f'values: {name}') for name, (t, error, match) in BAD_VALUES.items()] + \
        [pytest.param(how, error, match, id=name) for name, (how, error, match) in BAD_SETTINGS.items()]

@pytest.mark.parametrize('how, error, match', CASES)
def test_bad_input_is_refused_and_nothing_has_changed(how, error, match):
    model = net(3, 5, 4)
    opt = Adam(model, .01)
    fit(model, X, T, opt, 0, n_epochs=2)
    rng = np.random.default_rng(7)
    before = model.params.copy(), model.grads.copy(), opt.t, opt.lr, {k: v.copy() for k, v in opt.state.items()}
    args = dict(x=X, target=T, opt=opt, rng=rng) | how
    with pytest.raises(error, match=match) as caught: fit(model, **args)
    assert not isinstance(caught.value, Diverged)
    params, grads, t, lr, state = before
    assert_array_equal(model.params, params)
    assert (opt.t, opt.lr) == (t, lr)
    for name, v in opt.state.items(): assert_array_equal(v, state[name])
    if not callable(how.get('schedule')):      # what a schedule says is seen at the first step
        assert_array_equal(model.grads, grads)
        assert rng.bit_generator.state == np.random.default_rng(7).bit_generator.state

GOOD = {
    'lists': (X.tolist(), T.tolist()),
    'float16': (X.astype(np.float16), T),
    'float32': (X.astype(np.float32), T.astype(np.uint8)),
    'integers': (np.round(10 * X).astype(int), T.astype(float)),
    'booleans': (X > 0, T),
    'big-endian': (X.astype('>f8'), T.astype('>i4')),
    'every second': (np.repeat(X, 2, axis=0)[::2], np.repeat(T, 2)[::2]),
    'Fortran order': (np.asfortranarray(X), T),
    'objects that are numbers': (X.astype(object), T.astype(object)),
}

@pytest.mark.parametrize('name', GOOD)
def test_every_form_of_the_same_numbers_trains_alike_and_is_not_written_to(name):
    x, target = GOOD[name]
    for a in (x, target):
        if isinstance(a, np.ndarray): a.flags.writeable = False
    results = []
    for a, b in ((x, target), (np.array(x, float), np.array(target, int))):
        model = net(3, 5, 4)
        history = fit(model, a, b, Adam(model, .01), 0, n_epochs=3, batch_size=3, validation=(a, b))
        results.append((model.params, history.loss, history.val_loss, history.val_score))
    for one, other in zip(*results): assert_array_equal(one, other)


# --- the bar ---------------------------------------------------------------------------------------------------------------------

def test_fit_goes_through_the_data_as_it_is_told(data):
    seen = []
    def backwards(model, x, target, opt, rng, loss, batch_size, schedule, clip):
        seen.append((len(x), batch_size, clip))
        return train_epoch(model, x[::-1], target[::-1], opt, rng, loss, batch_size, schedule, clip)
    x, target = data[:2]
    model, other = net(2, 8, 2), net(2, 8, 2)
    history = fit(model, x, target, SGD(model), 0, n_epochs=2, batch_size=9, clip=5., epoch=backwards)
    assert seen == [(len(x), 9, 5.)] * 2
    assert fit(other, x[::-1], target[::-1], SGD(other), 0, n_epochs=2, batch_size=9, clip=5.).loss == history.loss
    for bad in (3, None):
        with pytest.raises(TypeError, match='epoch'): fit(model, x, target, SGD(model), 0, epoch=bad)

def test_an_epoch_of_ones_own_that_diverges_is_undone(data):
    def bad(model, *rest): model.params = np.full(model.params.size, np.inf); return 1.
    x, target = data[:2]
    for epoch in (bad, lambda *rest: np.nan):
        model = net(2, 8, 2)
        before = model.params.copy()
        with pytest.raises(Diverged, match='epoch 0'): fit(model, x, target, SGD(model), 0, epoch=epoch)
        assert_array_equal(model.params, before)

def test_a_short_run_imports_no_bar():
    process = python('-c', RUN + 'run()\nimport sys\nprint([m for m in sys.modules if m.startswith("tqdm")])')
    said, errors = process.communicate(timeout=120)
    assert (said, errors) == ('[]\n', '')

def test_a_long_run_shows_a_bar_that_counts_to_the_end(bars, data):
    trained(data, n_epochs=60)
    (bar,) = bars
    assert bar.settings['total'] == 60 and 0 < bar.settings['initial'] < 30
    assert bar.n == 60 and bar.closed

def test_the_bar_is_closed_when_training_ends_early(bars, data):
    with pressed(): trained(data, n_epochs=60, schedule=stop_at(200))
    trained(data, n_epochs=60, validation=data[2:], patience=20, lr=1.)
    model = net(1, 16, 1)
    with pytest.raises(Diverged):
        fit(model, *line(), SGD(model), 0, loss=mse, n_epochs=60, batch_size=2, schedule=lambda t: 1e-3 if t < 900 else 5.)
    assert len(bars) == 3 and all(b.closed for b in bars)

def test_no_bar_is_shown_to_who_wants_none(bars, data):
    trained(data, n_epochs=60, progress=False)
    assert not bars


# --- scores ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('k', [2, 3, 10])
def test_accuracy_and_confusion_equal_scikit_learn(k):
    metrics = pytest.importorskip('sklearn.metrics', reason='compares with scikit-learn')
    rng = np.random.default_rng(k)
    y, target = rng.normal(size=(200, k)), rng.integers(0, k, 200)
    assert accuracy(y, target) == metrics.accuracy_score(target, y.argmax(axis=1))
    assert_array_equal(confusion(y, target), metrics.confusion_matrix(target, y.argmax(axis=1), labels=range(k)))
    yes = rng.integers(0, 2, 200)
    assert binary_accuracy(y[:, 0], yes) == metrics.accuracy_score(yes, y[:, 0] > 0)

def test_confusion_has_a_row_and_a_column_for_classes_that_do_not_occur():
    assert_array_equal(confusion(np.eye(4)[[0, 2, 2]], [0, 0, 2]), [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])

def test_scores_take_any_axes_in_front():
    y, target = np.eye(3)[[[0, 1], [2, 2]]], [[0, 1], [2, 0]]
    assert accuracy(y, target) == 3/4 and confusion(y, target).sum() == 4

@pytest.mark.parametrize('score', [accuracy, confusion])
@pytest.mark.parametrize('target, match', [([0, 1], r'labels are needed.*\(2,\)'), ([0], r'labels are needed.*\(1,\)'), ([0, 1, 4], r'0 to 3.*4'), ([0, -1, 1], r'0 to 3.*-1'), ([0, .5, 1], 'whole')])
def test_scores_refuse_labels_that_do_not_fit(score, target, match):
    with pytest.raises(ValueError, match=match): score(np.eye(4)[:3], target)


# --- the page --------------------------------------------------------------------------------------------------------------------

def test_the_mnist_program_of_the_page_runs(monkeypatch, capsys):
    page = '\n'.join(c['source'] for c in cells(ROOT/'nbs'/'06_iterate.ipynb', 'markdown'))
    (program,) = re.findall(r'(?ms)^```python\n(.*?load_mnist.*?)^```', page)
    x = np.random.default_rng(0).random((240, 784)).astype(np.float32)
    target = (x[:, 0] > .5).astype(np.int64)
    monkeypatch.setattr('backprop_nb.data.load_mnist', lambda root, download: (x, target, x[:50], target[:50]))
    exec(program, {})
    assert re.fullmatch(r"History\(\d+ epochs, .*\) \[?[01]\.\d+\]?\n", capsys.readouterr().out)


# --- it goes on ------------------------------------------------------------------------------------------------------------------

def going_on(data, seed=3):
    model = net(2, 8, 2)
    return model, Adam(model, .02), np.random.default_rng(seed), dict(batch_size=16, validation=data[2:])

@pytest.mark.parametrize('how', [dict(), dict(patience=3), dict(patience=50), dict(tol=1e-3), dict(clip=.5, schedule=cosine(.05, 90))], ids=str)
@pytest.mark.parametrize('cuts', [[4], [0, 1, 2, 7], [9, 9, 15]], ids=str)
def test_a_run_in_pieces_equals_the_run_in_one_to_the_bit(data, how, cuts):
    model, opt, rng, settings = going_on(data)
    want = fit(model, *data[:2], opt, rng, n_epochs=15, **settings, **how)
    again, opt, rng, settings = going_on(data)
    history = History()
    for n in [*cuts, 15]: assert fit(again, *data[:2], opt, rng, n_epochs=n, history=history, **settings, **how) is history
    assert_array_equal(model.params, again.params)
    assert (history.loss, history.val_loss, history.val_score, history.lr, history.best_epoch) == (want.loss, want.val_loss, want.val_score, want.lr, want.best_epoch)
    assert history.stopped == want.stopped
    assert history.seconds == sorted(history.seconds)

def test_a_run_that_is_over_stays_over(data):
    model, opt, rng, settings = going_on(data)
    history = fit(model, *data[:2], opt, rng, n_epochs=300, patience=2, **settings)
    assert history.stopped == 'patience'
    n, params, steps = len(history.loss), model.params.copy(), opt.t
    assert n < 300
    for _ in range(3): fit(model, *data[:2], opt, rng, n_epochs=300, patience=2, history=history, **settings)
    assert (len(history.loss), opt.t, history.stopped) == (n, steps, 'patience')
    assert_array_equal(model.params, params)
    model.params = 0 * params
    fit(model, *data[:2], opt, rng, n_epochs=300, patience=2, history=history, **settings)     # the best parameters come back, as after any run
    assert_array_equal(model.params, params)

def test_after_each_epoch_the_function_sees_the_epoch_and_what_it_raises_is_raised(data):
    model, opt, rng, settings = going_on(data)
    seen = []
    history = fit(model, *data[:2], opt, rng, n_epochs=4, patience=9, after_epoch=lambda h: seen.append((len(h.loss), h.best_epoch, model.params.copy())), **settings)
    assert [n for n, *_ in seen] == [1, 2, 3, 4] and all(history.val_loss[best] == min(history.val_loss[:n]) for n, best, _ in seen)
    assert_array_equal(seen[history.best_epoch][2], model.params)

    def full(history): raise OSError('disk full')
    with pytest.raises(OSError, match='disk full'): fit(model, *data[:2], opt, rng, n_epochs=4, after_epoch=full, **settings)

    def stop(history):
        if len(history.loss) == 2: raise KeyboardInterrupt
    history = fit(model, *data[:2], opt, rng, n_epochs=4, after_epoch=stop, **settings)
    assert history.stopped == 'interrupted' and len(history.loss) == 2

@pytest.mark.parametrize('how, error, word', [
    (dict(history=[]), TypeError, 'history'), (dict(history=History(loss=[1.])), ValueError, 'validation'), (dict(after_epoch=3), TypeError, 'after_epoch'),
    (dict(history=History(loss=[1.], val_loss=[1.], seconds=[1.]), patience=3), ValueError, 'patience')], ids=str)
def test_what_no_run_can_go_on_from_is_refused_before_anything_changes(data, how, error, word):
    model, opt, rng, settings = going_on(data)
    before = model.params.copy(), rng.bit_generator.state
    with pytest.raises(error, match=word): fit(model, *data[:2], opt, rng, **settings, **how)
    assert_array_equal(model.params, before[0])
    assert rng.bit_generator.state == before[1] and opt.t == 0
