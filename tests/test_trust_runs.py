"What holds while it runs: extremes pass without a warning, a run repeats to the bit, nothing leaks, and a stopped run leaves a model that goes on"
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from backprop_nb.conv import Conv, Flatten, Image, MaxPool
from backprop_nb.layers import Linear, ReLU, Sequential, Tanh
from backprop_nb.norm import BatchNorm, LayerNorm, Residual
from backprop_nb.optim import SGD, Adagrad, Adam, AdamW, RMSprop
from backprop_nb.regularize import Dropout
from backprop_nb.rnn import GRU, LSTM, Embedding
from backprop_nb.train import Diverged, History, fit

ONE_THREAD = {name: '1' for name in ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'VECLIB_MAXIMUM_THREADS')}
unix = pytest.mark.skipif(sys.platform == 'win32', reason='signals and fork are those of Unix')
linux = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')

def start(*args): return subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD)

def said(*args, timeout=300):
    "What a fresh Python prints; its last words, if it fails"
    process = start(*args)
    try: out, errors = process.communicate(timeout=timeout)
    finally: process.kill()
    assert process.returncode == 0, errors
    return out.split()

# --- with every warning an error, and without assertions -------------------------------------------------------------------------

HEAD = '''
import numpy as np
from backprop_nb.layers import *
from backprop_nb.loss import *
def near(a, b, rtol=1e-6):          # an assertion that `-O` does not remove
    if not np.allclose(a, b, rtol=rtol, atol=0): raise SystemExit(f'{a} is not {b}')
'''
STRICT = {
'logits of ten thousand': '''
for dtype in (np.float32, np.float64):
    y, labels = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0]], dtype), [0, 0]
    value, g = value_and_grad(cross_entropy, y, labels)
    near(value, 1e4), near(g, [[0, 0, 0], [-.5, .5, 0]]), near(cross_entropy(y, np.array(labels)), 1e4)
    y, target = np.array([[1e4], [-1e4], [1e4], [-1e4]], dtype), np.array([[1], [0], [0], [1]])
    value, g = value_and_grad(binary_cross_entropy, y, target)
    near(value, 5e3), near(g, [[0], [0], [.25], [-.25]])
    for loss, worth, slope in ((mse, 1e8, 2e4/4), (mae, 1e4, .25), (huber, 1e4 - .5, .25)):
        value, g = value_and_grad(loss, y, np.zeros((4, 1)))
        near(value, worth), near(g, slope * np.sign(y))
    model = Sequential(Linear(1, 2, 0), Softmax(), dtype=dtype)
    model.params = [1e4, -1e4, 0, 0]
    near(model([[1], [-1]]), [[1, 0], [0, 1]]), near(model.backward(np.ones((2, 2)), need_dx=True), 0)
''',
'inputs up to 1e300': '''
big = np.array([[1e300, -1e300], [1e-300, 1], [-1e300, -1e300]])
for act, at_big, slope in ((ReLU(), 1e300, 1), (LeakyReLU(), 1e300, 1), (ELU(), 1e300, 1), (GELU(), 1e300, 1), (Softplus(), 1e300, 1), (Sigmoid(), 1, 0), (Tanh(), 1, 0)):
    model = Sequential(Linear(2, 2, 0), act, dtype=np.float64)
    model.params = [1, 0, 0, 1, 0, 0]
    y = model(big)
    near(y[0, 0], at_big), near(y, model.predict(big))
    if not np.isfinite(y).all(): raise SystemExit(f'{act}: {y}')
    dx = model.backward(np.ones((3, 2)), need_dx=True)
    near(dx[0, 0], slope)
    if not np.isfinite(model.grads).all(): raise SystemExit(f'{act}: {model.grads}')
for loss, worth in ((cross_entropy, 2e300), (mae, 1e300), (huber, 1e300)):
    target = [1] if loss is cross_entropy else np.zeros((1, 2))
    value, g = value_and_grad(loss, big[:1], target)
    near(value, worth), near(np.abs(g), 1 if loss is cross_entropy else .5)
''',
'numbers too small to have all digits': '''
tiny = np.full((4, 2), 1e-310)
model = Sequential(Linear(2, 3, 0), Tanh(), Linear(3, 2, 1), dtype=np.float64)
value, g = value_and_grad(cross_entropy, model(tiny), [0, 1, 0, 1])
near(value, np.log(2)), model.backward(g)
''',
'a gradient that is clipped': '''
from backprop_nb.optim import clip_norm
g = np.full(4, 1e300)
near(clip_norm(g, 1.), 2e300), near(g, .5)
''',
'a run with everything in it': '''
from backprop_nb.conv import *
from backprop_nb.data import load_digits, split, standardize
from backprop_nb.norm import *
from backprop_nb.optim import *
from backprop_nb.regularize import Dropout
from backprop_nb.train import fit
x, target = load_digits()
x, target, x_val, t_val = split(x[:500], target[:500], stratify=True)
model = Sequential(Image(8, 8), Conv(1, 4, 3, 0, padding=1), BatchNorm(4), ReLU(), MaxPool(2), AvgPool(2), Flatten(), Linear(16, 32, 0), LayerNorm(32), GELU(), Residual(Linear(32, 32, 1), Tanh()), Dropout(.1, 0), Linear(32, 10, 2))
history = fit(model, x, target, AdamW(model, .02), 0, n_epochs=8, validation=(x_val, t_val), patience=5, clip=5., schedule=warm_up(cosine(.02, 100), 5))
if not history.val_score[history.best_epoch] > .6: raise SystemExit(str(history))
''',
'a run that diverges': '''
from backprop_nb.optim import SGD
from backprop_nb.train import Diverged, fit
model = Sequential(Linear(2, 8, 0), ReLU(), Linear(8, 1, 1))
before = model.params.copy()
try: fit(model, np.ones((9, 2)), np.zeros(9), SGD(model, 1e30), 0, loss=mse, batch_size=3)
except Diverged: near(model.params, before)
else: raise SystemExit('it did not diverge')
''',
'sequences': '''
from backprop_nb.attention import Transformer
from backprop_nb.optim import Adam
from backprop_nb.rnn import GRU, LSTM, RNN, Embedding, sequence_cross_entropy
from backprop_nb.train import fit
x = np.random.default_rng(0).integers(0, 5, (40, 6))
for layers in ([Embedding(5, 8, 0), GRU(8, 8, 0), LSTM(8, 8, 1), RNN(8, 8, 2), Linear(8, 5, 3)], [Transformer(5, 5, 8, 0, n_heads=2, causal=True)]):
    model = Sequential(*layers)
    history = fit(model, x, x, Adam(model, .01), 0, loss=sequence_cross_entropy, n_epochs=20)
    if not history.loss[-1] < .5 * history.loss[0]: raise SystemExit(str(history))
''',
'wrong calls': '''
from backprop_nb.optim import Adam
from backprop_nb.train import fit
model = Sequential(Linear(2, 3, 0))
model([[1, 2]])
wrongs = [lambda: model([[1, np.nan]]), lambda: model([1, 2]), lambda: fit(model, [[1, 2]], [7], Adam(model), 0), lambda: Adam(model, lr=-1), lambda: model.backward([[1.]]), lambda: setattr(model, 'params', [1])]
for wrong in wrongs:
    try: wrong()
    except ValueError: continue
    raise SystemExit('a door stands open')
''',
'graphs': '''
from backprop_nb.autograd import Scalar, Tensor
x = Tensor(np.array([[1e4, -1e4]]))
y = np.tanh(x).sum()
y.backward(), near(x.grad, 0)
a = Scalar(3.)
b = a * a + a.tanh()
b.backward(), near(a.grad, 6 + 1 - np.tanh(3)**2)
''',
}

@pytest.mark.parametrize('program', STRICT)
def test_a_program_runs_without_assertions_and_with_every_warning_an_error(program):
    said('-O', '-W', 'error', '-c', HEAD + STRICT[program])

def test_the_programs_would_notice():
    for program in ("import warnings; warnings.warn('x')", 'near(1, 2)', 'np.float64(1) / 0'):
        with pytest.raises(AssertionError): said('-O', '-W', 'error', '-c', HEAD + program)

# --- the same seed, the same bits --------------------------------------------------------------------------------------------------

REPEAT = '''
import hashlib, multiprocessing, random, sys, threading
import numpy as np
from backprop_nb.data import load_digits
from backprop_nb.layers import *
from backprop_nb.norm import BatchNorm
from backprop_nb.optim import AdamW
from backprop_nb.regularize import Dropout
from backprop_nb.rnn import LSTM, Embedding
from backprop_nb.train import fit

def run(seed=4):
    "A fingerprint of two trained models and of all that was seen on the way"
    x, target = load_digits()
    rng = np.random.default_rng(seed)
    model = Sequential(Linear(64, 16, rng), BatchNorm(16), ReLU(), Dropout(.2, rng), Linear(16, 10, rng))
    history = fit(model, x[:300], target[:300], AdamW(model, .01), rng, n_epochs=3, validation=(x[300:400], target[300:400]))
    reader = Sequential(Embedding(17, 6, rng), LSTM(6, 6, rng, last=True), Linear(6, 10, rng), dtype=np.float64)
    read = fit(reader, x[:100, :9] * 16, target[:100], AdamW(reader, .01), rng, n_epochs=2)
    seen = np.array([*history.loss, *history.val_loss, *history.val_score, *read.loss])
    return hashlib.sha256(b''.join(a.tobytes() for a in (model.params, model.buffers, reader.params, seen, rng.random(3)))).hexdigest()

def at_once(n):
    "In n threads at the same time, one pair of models each"
    found, gate = [], threading.Barrier(n)
    def work(): gate.wait(); found.append(run())
    threads = [threading.Thread(target=work) for _ in range(n)]
    for t in threads: t.start()
    for t in threads: t.join()
    return found

def in_pool(kind):
    with multiprocessing.get_context(kind).Pool(2) as pool: return pool.map(run, [4] * 4)

if __name__ == '__main__': print(*(in_pool(sys.argv[1]) if len(sys.argv) > 1 else [run()]))
'''

@pytest.fixture(scope='module')
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp('repeat')/'program.py'
    path.write_text(REPEAT)
    return str(path)

@pytest.fixture(scope='module')
def here():
    space = {'__name__': 'here'}
    exec(REPEAT, space)
    return space

def test_twice_in_one_process_is_the_same_and_another_seed_is_not(here): assert here['run']() == here['run']() != here['run'](5)

def test_threads_do_not_disturb_each_other(here): assert set(here['at_once'](4)) == {here['run']()}

def test_a_fresh_process_gives_the_same_bits(here, program): assert said(program) == [here['run']()]

@pytest.mark.parametrize('kind', [pytest.param('fork', marks=unix), 'spawn'])
def test_a_pool_of_processes_gives_the_same_bits(here, program, kind): assert said(program, kind) == [here['run']()] * 4

def test_the_global_generators_rest_through_all_of_it(here):
    import random
    before = random.getstate(), repr(np.random.get_state())
    here['run']()
    for layers, x in FAMILIES.values(): Sequential(*layers()).predict(x)
    assert before == (random.getstate(), repr(np.random.get_state()))

FAMILIES = {    # layers of every kind, and what goes in
    'dense': (lambda: [Linear(6, 16, 0), ReLU(), Linear(16, 3, 1)], np.random.default_rng(0).normal(size=(40, 6))),
    'norms and dropout': (lambda: [Linear(6, 16, 0), BatchNorm(16), Tanh(), Dropout(.3, 2), Residual(LayerNorm(16), Linear(16, 16, 1)), Linear(16, 3, 3)], np.random.default_rng(0).normal(size=(40, 6))),

    'images': (lambda: [Image(6, 6), Conv(1, 4, 3, 0), BatchNorm(4), ReLU(), MaxPool(2), Flatten(), Linear(16, 3, 1)], np.random.default_rng(0).normal(size=(40, 36))),

    'recurrent': (lambda: [Embedding(9, 6, 0), GRU(6, 6, 1), LSTM(6, 6, 2, last=True), Dropout(.2, 5), Linear(6, 3, 3)], np.random.default_rng(0).integers(0, 9, (40, 5))),

}
every_family = pytest.mark.parametrize('family', FAMILIES)
LABELS = np.arange(40) % 3

# --- nothing leaks ---------------------------------------------------------------------------------------------------------------

LEAK = '''
import gc, os, sys
import numpy as np
def held():
    "Blocks that Python holds, objects that the collector knows, open files, and bytes in memory"
    gc.collect()
    return [sys.getallocatedblocks(), len(gc.get_objects()), len(os.listdir('/proc/self/fd')), int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGESIZE')]
def flat(work, first, then, blocks, memory):
    work(first)
    before = held()
    work(then)
    more = [b - a for a, b in zip(before, held())]
    if more[0] > blocks or more[1] > blocks or more[2] > 0 or more[3] > memory: raise SystemExit(f'{more} more: blocks, objects, files, memory')
'''
LEAKS = {
'100,000 steps': '''
from backprop_nb.layers import *
from backprop_nb.loss import cross_entropy
from backprop_nb.optim import Adam
from backprop_nb.train import train_step
model = Sequential(Linear(2, 4, 0), ReLU(), Linear(4, 2, 1))
opt, x, target = Adam(model), np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32), np.arange(8) % 2
def work(n):
    for _ in range(n): train_step(model, cross_entropy, opt, x, target)
flat(work, 500, 100_000, 200, 4e6)
''',
'1,000 runs of fit, half of which diverge': '''
from backprop_nb.layers import *
from backprop_nb.loss import mse
from backprop_nb.norm import BatchNorm
from backprop_nb.optim import SGD
from backprop_nb.regularize import Dropout
from backprop_nb.train import Diverged, fit
x = np.ones((9, 2), np.float32)
def work(n):
    for i in range(n):
        model = Sequential(Linear(2, 4, i), BatchNorm(4), ReLU(), Dropout(.1, i), Linear(4, 1, i))
        try: fit(model, x, np.zeros(9), SGD(model, 1e30 if i % 2 else 1e-3), i, loss=mse, n_epochs=2, validation=(x, np.zeros(9)))
        except Diverged: pass
flat(work, 100, 1000, 200, 4e6)
''',
'graphs and sequences': '''
from backprop_nb.autograd import Scalar, Tensor
from backprop_nb.layers import *
from backprop_nb.rnn import LSTM, Embedding
model = Sequential(Embedding(5, 4, 0), LSTM(4, 4, 0), Linear(4, 2, 0))
def work(n):
    for _ in range(n):
        y = model([[0, 1, 2, 3]])
        model.backward(np.ones_like(y))
        a = Scalar(1.)
        for _ in range(20): a = (a * a + 1).tanh()
        a.backward()
        t = Tensor(np.ones((3, 3)))
        (t @ t).sum().backward()
flat(work, 100, 1000, 200, 4e6)
''',
'200 figures': '''
from backprop_nb.viz import curve, images
def work(n):
    for i in range(n):
        if i % 20: picture = curve({'train': np.arange(9.) + i}, 'step', 'loss', alt='A line that rises.')
        else: picture = images(np.ones((4, 64)), list('abcd'), alt='Four grey squares.')
        if i % 25 == 0: picture._repr_mimebundle_()
flat(work, 20, 200, 1000, 30e6)
''',
'100 widgets': '''
from backprop_nb.live import lines_panel, live, range_knob
def line(slope): return [lines_panel({'train': ([0., 1.], [0., slope])}, x='step', y='loss')]
def work(n):
    for _ in range(n):
        widget = live(line, range_knob('slope', 0, 1, .5), alt='A line that rises.')
        widget.values = {'slope': .7}
        widget.close()
flat(work, 20, 100, 300, 30e6)
''',
}

@linux
@pytest.mark.parametrize('what', LEAKS)
def test_memory_objects_and_open_files_stay_flat(what): said('-c', LEAK + LEAKS[what])

@linux
def test_a_leak_would_be_noticed():
    with pytest.raises(AssertionError, match='more: blocks'): said('-c',
        LEAK + 'kept = []\ndef work(n):\n    for _ in range(n): kept.append(np.ones(100))\nflat(work, 10, 1000, 200, 4e6)')
    with pytest.raises(AssertionError, match='more: blocks'): said('-c',
        LEAK + 'kept = []\ndef work(n):\n    kept.append(open(os.devnull))\nflat(work, 10, 1000, 200, 4e6)')

# --- when it goes wrong --------------------------------------------------------------------------------------------------------------

def bits(model, opt, *rngs):
    sources = [layer.rng for layer in model.layers if hasattr(layer, 'rng')]
    return (model.params.tobytes(), model.grads.tobytes(), model.buffers.tobytes(), opt.lr, opt.t, [(k, v.tobytes()) for k, v in opt.state.items()],
            [repr(r.bit_generator.state) for r in (*rngs, *sources)])

@every_family
@pytest.mark.parametrize('Opt', [SGD, Adagrad, RMSprop, Adam, AdamW])
def test_divergence_is_one_error_with_the_facts_and_the_last_good_epoch_is_kept(family, Opt):
    layers, x = FAMILIES[family]
    model, rng = Sequential(*layers()), np.random.default_rng(0)
    opt, kept = Opt(model, .001), []
    def look(history): kept.append(bits(model, opt, rng))
    def schedule(t): return .001 if t < 12 else 3e38
    with pytest.raises(Diverged) as caught: fit(model, x, LABELS, opt, rng, n_epochs=50, batch_size=8, schedule=schedule, after_epoch=look)
    message = str(caught.value)
    epoch = len(kept)
    assert epoch >= 2 and isinstance(caught.value, FloatingPointError)
    assert all(fact in message for fact in (f'diverged in epoch {epoch}', 'step ', 'learning rate 3e+38', 'try a smaller one, or clip',
        'not finite' if 'parameters' in message else 'the loss is'))
    assert 12 <= int(message.split(' at step ')[1].split()[0]) <= 5 * (epoch + 1)
    assert bits(model, opt, rng) == kept[-1], 'model, optimizer and generators are those of the last good epoch'
    fit(model, x, LABELS, opt, rng, n_epochs=2, batch_size=8, schedule=lambda t: .001)
    assert np.isfinite(model.predict(x)).all()

def test_any_error_in_the_middle_of_an_epoch_takes_the_epoch_back():
    "Batch norm meets a last batch of one row, a schedule breaks: the epoch has not happened"
    layers, x = FAMILIES['norms and dropout']
    for how, error, match in ((dict(batch_size=13), ValueError, 'at least 2 rows.*batch_size'),
        (dict(batch_size=10, schedule=lambda t: .1 if t < 2 else 1/0), ZeroDivisionError, 'division')):
        model, rng = Sequential(*layers()), np.random.default_rng(0)
        opt = Adam(model)
        before = bits(model, opt, rng)
        with pytest.raises(error, match=match): fit(model, x, LABELS, opt, rng, **how)
        assert bits(model, opt, rng) == before

# --- when it is stopped -------------------------------------------------------------------------------------------------------------

STOP = '''
import pickle, signal, sys
import numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)
from backprop_nb.layers import *
from backprop_nb.attention import Transformer
from backprop_nb.conv import *
from backprop_nb.norm import *
from backprop_nb.optim import Adam
from backprop_nb.regularize import Dropout
from backprop_nb.rnn import GRU, LSTM, Embedding
from backprop_nb.train import fit
rng = np.random.default_rng(0)
MODEL
target = rng.integers(0, 10, len(x))
opt = Adam(model, .001)
start = opt.t
def schedule(t):
    if t == START: print('at work', flush=True)
    return .001
history = fit(model, x, target, opt, rng, n_epochs=10**6, batch_size=BATCH, schedule=schedule, progress=False, VALIDATION)
print(history.stopped)
y = model.predict(x[:50])
twin = pickle.loads(pickle.dumps(model))                       # it can be saved,
more = fit(model, x[:200], target[:200], opt, rng, n_epochs=1) # and trained on
print(np.isfinite(y).all(), (twin.predict(x[:50]) == y).all(), np.isfinite(more.loss).all(), more.stopped)
'''
STOPS = {   # name -> (the model and its x, batch size, steps before it is stopped, validation)
    'large': ('model = Sequential(Linear(784, 1024, rng), ReLU(), Linear(1024, 1024, rng), ReLU(), Linear(1024, 10, rng))\nx = rng.random((2000, 784), dtype=np.float32)', 256, 5, ''),

    'batch norm and dropout': ('model = Sequential(Linear(64, 64, rng), BatchNorm(64), ReLU(), Dropout(.5, rng), Linear(64, 10, rng))\nx = rng.random((1000, 64), dtype=np.float32)', 32, 100, ''),

    'with patience': ('model = Sequential(Linear(64, 64, rng), BatchNorm(64), ReLU(), Dropout(.5, 3), Linear(64, 10, rng))\nx = rng.random((1000, 64), dtype=np.float32)',
        32, 100,
                      'validation=(x[:200], target[:200]), patience=10**6'),
    'convolution': ('model = Sequential(Image(28, 28), Conv(1, 8, 3, rng), BatchNorm(8), ReLU(), MaxPool(2), Flatten(), Linear(8*13*13, 10, rng))\nx = rng.random((500, 784), dtype=np.float32)', 64, 5, ''),

    'recurrent': ('model = Sequential(Embedding(9, 16, rng), LSTM(16, 32, rng, last=True), Linear(32, 10, rng))\nx = rng.integers(0, 9, (300, 30))', 32, 5, ''),

    'one step is the whole epoch': ('model = Sequential(Linear(784, 512, rng), ReLU(), Linear(512, 10, rng))\nx = rng.random((8000, 784), dtype=np.float32)', 8000, 1, ''),

}

@unix
@pytest.mark.parametrize('name', STOPS)
def test_ctrl_c_stops_any_net_within_two_seconds_and_it_goes_on(name):
    model, batch, first, validation = STOPS[name]
    process = start('-c', STOP.replace('MODEL', model).replace('BATCH', str(batch)).replace('START', str(first)).replace('VALIDATION', validation))
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        assert process.stdout.readline() == 'at work\n', process.stderr.read()
        time.sleep(.05)
        process.send_signal(signal.SIGINT)
        begin = time.perf_counter()
        assert process.stdout.readline() == 'interrupted\n', process.stderr.read()
        assert time.perf_counter() - begin < 2
        rest, errors = process.communicate(timeout=100)
    finally:
        watchdog.cancel()
        process.kill()
    assert (process.returncode, rest) == (0, 'True True True n_epochs\n'), errors

def test_an_epoch_counts_whole_or_not_at_all(monkeypatch):
    "Stopped while the history writes down its third epoch"
    def add(self, **numbers):
        for i, (name, value) in enumerate(numbers.items()):
            if i == 2 and len(self.seconds) == 2: raise KeyboardInterrupt
            getattr(self, name).append(value)
    monkeypatch.setattr(History, 'add', add)
    layers, x = FAMILIES['dense']
    model = Sequential(*layers())
    history = fit(model, x, LABELS, Adam(model), 0, n_epochs=5, validation=(x, LABELS))
    assert history.stopped == 'interrupted'
    assert [len(v) for v in (history.loss, history.lr, history.val_loss, history.val_score, history.seconds)] == [2] * 5

@unix
@every_family
def test_stopped_at_any_moment_the_model_is_finite_and_learns_on(family):
    "Forty alarms at random moments: in the middle of a layer, of an update, of a look at the validation data"
    layers, x = FAMILIES[family]
    model, rng = Sequential(*layers()), np.random.default_rng(0)
    opt = Adam(model, .01)
    def press(*_): raise KeyboardInterrupt
    old = signal.signal(signal.SIGALRM, press)
    try:
        for _ in range(40):
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(.002, .02))
            history = fit(model, x, LABELS, opt, 0, n_epochs=10**6, batch_size=8, validation=(x, LABELS), patience=10**6)
            assert history.stopped == 'interrupted'
            assert len(history.loss) == len(history.lr) == len(history.val_loss) == len(history.val_score) == len(history.seconds)
            assert np.isfinite(model.params).all() and np.isfinite(model.buffers).all() and all(np.isfinite(v).all() for v in opt.state.values())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    history = fit(model, x, LABELS, opt, 0, n_epochs=5)
    assert np.isfinite(history.loss).all() and np.isfinite(model.predict(x)).all()
