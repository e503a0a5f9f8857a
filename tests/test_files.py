"What files promise: what was saved comes back to the bit, no fault leaves half of it, and nothing that stands in a file is run or believed"
import errno
import gc
import json
import os
import pickle
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zipfile
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file
from safetensors.numpy import save as packed

import backprop_nb.files as files
from backprop_nb.attention import Formula, Transformer
from backprop_nb.backward import vjps
from backprop_nb.conv import AvgPool, Conv, Flatten, Image, MaxPool
from backprop_nb.data import moons, split
from backprop_nb.files import ModelFileError, blank, checkpoint, load, resume, save, write_whole
from backprop_nb.layers import (ELU, GELU, Layer, LeakyReLU, Linear, Model, ReLU, Sequential, Sigmoid, Softmax, Softplus, Tanh, every)
from backprop_nb.norm import BatchNorm, BatchNormalize, Chain, LayerNorm, Residual, scale
from backprop_nb.optim import SGD, Adam, AdamW
from backprop_nb.regularize import Dropout
from backprop_nb.rnn import GRU, LSTM, RNN, Embedding
from backprop_nb.scale import Checkpoint
from backprop_nb.train import Diverged, History, fit


def net(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return Sequential(Linear(2, 8, rng), BatchNorm(8), ReLU(), Dropout(.25, rng), Linear(8, 2, rng), dtype=dtype)

def python(code, *args, flags=(), **how):
    "Run a program of its own, which finds the package where this test found it"
    here = str(Path(files.__file__).parent.parent)
    return subprocess.Popen([sys.executable, *flags, '-c', code, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {'PYTHONPATH': here, 'PYTHONUNBUFFERED': '1'}, **how)

@pytest.fixture(scope='module')
def data():
    "Two classes in the plane: examples, labels, validation examples and labels"
    return split(*moons(200, .2, rng=0), rng=1)

@pytest.fixture
def path(tmp_path): return tmp_path/'model.safetensors'

@pytest.fixture
def run(data):
    "A model, its optimizer, generator and history after three epochs with patience"
    rng = np.random.default_rng(5)
    model = net(3)
    opt = Adam(model, .01)
    return model, opt, rng, fit(model, *data[:2], opt, rng, n_epochs=3, validation=data[2:], patience=2)

def header_of(data): return json.loads(data[8:8 + int.from_bytes(data[:8], 'little')])

def spec_of(data): return json.loads(header_of(data)['__metadata__']['backprop_nb'])

def resealed(data):
    "The same file with a right fingerprint, as a forger makes it"
    digest = re.search(rb'sha256\\": \\"([0-9a-f]{64})', data)[1]
    return data.replace(digest, sha256(data.replace(digest, blank.encode(), 1)).hexdigest().encode(), 1)

def forged(spec, arrays):
    "A file with any description and any arrays, and a right fingerprint"
    text = json.dumps({'format': 'backprop_nb', 'version': 1} | spec | {'sha256': blank})
    data = packed(arrays, {'backprop_nb': text})
    return data.replace(blank.encode(), sha256(data).hexdigest().encode(), 1)

def opened(path): return spec_of(path.read_bytes()), load_file(path)


# --- what was saved comes back -------------------------------------------------------------------------------------------------------

tables = [Linear(3, 4, 0), LeakyReLU(.2), ELU(2), GELU(), Softplus(), Sigmoid(), Tanh(), ReLU(), Softmax(), Dropout(.5, 0), BatchNorm(3, 1e-3, .2),
          BatchNormalize(3, 1e-4, .3), LayerNorm(3, 1e-3), Chain(Linear(3, 5, 0), Tanh()), Residual(Linear(3, 3, 0), Dropout(.1, 1)),
          Checkpoint(Linear(3, 5, 0), Residual(Linear(5, 5, 1), ReLU()))]
images = [Image(4, 4, 2), MaxPool(2), AvgPool(2), Flatten(), Conv(2, 3, 3, 0, stride=1, padding=1)]

def rows(model, seed=2):
    first = model.layers[0]
    rng = np.random.default_rng(seed)
    if isinstance(first, (Embedding, Transformer)): return rng.integers(0, 5, (4, 6))
    return rng.normal(size=(4, 6, 3) if isinstance(first, RNN) else (4, model.n_in or 3))

def answer(model, x):
    "What the layers make of x; sequences and images too"
    for layer in model.layers: x = layer.predict(x)
    return x

def same(a, b):
    "Do two models agree in everything?"
    assert repr(a) == repr(b) and a.dtype == b.dtype and (a.n_in, a.n_out) == (b.n_in, b.n_out)
    assert a.params.tobytes() == b.params.tobytes() and a.buffers.tobytes() == b.buffers.tobytes()
    assert [part.training for part in every(a.layers)] == [part.training for part in every(b.layers)]
    assert [vars(part).keys() for part in every(a.layers)] == [vars(part).keys() for part in every(b.layers)]
    def told(model): return [part.settings for part in every(model.layers) if type(part) is not BatchNormalize]    # which notes there what it saw last
    assert told(a) == told(b)

made = [[layer] for layer in tables] + [[Image(4, 4, 2), layer, Flatten()] for layer in images[1:]] + [
    [Embedding(5, 3, 0), GRU(3, 4, 0, keep=2, truncate=2), LSTM(4, 2, 1, last=True)], [RNN(3, 4, 0, last=True)],
    [Transformer(5, 3, 4, 0, n_heads=2, n_blocks=2, causal=True, wide=3)], [Transformer(5, 3, 4, 0, n_blocks=0)]]

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('layers', made, ids=lambda layers: '-'.join(type(layer).__name__ for layer in layers))
def test_every_layer_comes_back(layers, dtype, path):
    import copy
    model = Sequential(*copy.deepcopy(layers), dtype=dtype)
    model.params += np.random.default_rng(1).normal(size=model.params.size).astype(dtype)
    model.buffers += np.random.default_rng(1).random(size=model.buffers.size).astype(dtype)
    save(path, model)
    again = load(path)
    same(model, again)
    x = rows(model)
    if model.layers[0].__class__ is not Transformer and not isinstance(model.layers[0], Embedding): x = x.astype(dtype)
    assert_array_equal(answer(model, x), answer(again, x))

def test_all_classes_of_the_library_are_in_the_tables():
    import importlib
    import pkgutil

    import backprop_nb
    base = {'Layer', 'Chain', 'Norm', 'Window', 'Recurrent', 'Named', 'Formula', 'Optimizer'}    # of which no model is made directly
    seen = set()
    for module in pkgutil.iter_modules(backprop_nb.__path__):
        if module.name in ('files', 'viz', 'live', 'studio', 'microscope', 'estimators', 'exchange', 'data'): continue
        found = vars(importlib.import_module(f'backprop_nb.{module.name}')).values()
        seen |= {c for c in found if isinstance(c, type) and issubclass(c, (Layer, files.Optimizer))}
    assert {c.__name__ for c in seen} - base <= files.layer_classes.keys() | files.optimizer_classes.keys()

def test_a_mask_that_comes_next_is_the_one_that_would_have_come(path):
    model = net()
    save(path, model)
    again, x = load(path), np.random.default_rng(0).normal(size=(6, 2))
    for _ in range(3): assert_array_equal(model(x), again(x))

def test_layers_that_shared_a_generator_share_one_again(path):
    rng = np.random.default_rng(0)
    save(path, Sequential(Linear(2, 4, rng), Dropout(.5, rng), Residual(Linear(4, 4, rng), Dropout(.5, rng)), Dropout(.5, 1)))
    a, b, c = (part.rng for part in every(load(path).layers) if isinstance(part, Dropout))
    assert a is b and a is not c

def test_layers_at_rest_stay_at_rest(path):
    model = net().eval()
    model.layers[3].training = True
    save(path, model)
    assert [layer.training for layer in load(path).layers] == [False, False, False, True, False]

def test_a_loaded_model_is_whole_its_layers_are_views(path, data):
    save(path, net())
    model = load(path)
    assert all(np.shares_memory(p, model.params) for part in every(model.layers) for p in part.params)
    before = model.params.copy()
    fit(model, *data[:2], Adam(model), 0, n_epochs=1)
    assert (model.params != before).any()

def test_the_same_model_gives_the_same_bytes_and_saving_changes_nothing(path, tmp_path):
    model = net()
    before = model.params.copy(), model.layers[3].rng.bit_generator.state
    save(path, model)
    save(tmp_path/'b', model)
    assert path.read_bytes() == (tmp_path/'b').read_bytes()
    assert_array_equal(model.params, before[0])
    assert model.layers[3].rng.bit_generator.state == before[1]
    save(path, load(path))
    assert path.read_bytes() == (tmp_path/'b').read_bytes()

def test_pytorch_reads_the_arrays(path):
    torch = pytest.importorskip('torch', reason='compares with PyTorch')
    from safetensors.torch import load_file as torch_load
    model = net()
    save(path, model)
    assert_array_equal(torch_load(path)['0.params.0'].numpy(), model.layers[0].w)
    assert torch_load(path)['0.params.0'].dtype is torch.float32

@given(widths=st.lists(st.integers(1, 9), min_size=2, max_size=5), acts=st.lists(st.sampled_from([ReLU, Tanh, GELU, lambda: LeakyReLU(.3),
       lambda: Dropout(.2, 3), lambda: Residual(ReLU())]), max_size=4), seed=st.integers(0, 2**130), double=st.booleans(), kind=st.sampled_from(
       sorted(files.generator_classes)), drawn=st.integers(0, 700))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_model_comes_back_to_the_bit(widths, acts, seed, double, kind, drawn, tmp_path):
    rng = np.random.Generator(files.generator_classes[kind](seed))
    layers = [Linear(a, b, rng) for a, b in zip(widths, widths[1:])]
    for i, act in enumerate(acts): layers.insert(min(2*i + 1, len(layers)), act())
    layers = [layer if not isinstance(layer, Residual) else ReLU() for layer in layers] + [Dropout(.5, rng)]
    rng.random(drawn, dtype=np.float32)
    model = Sequential(*layers, dtype=np.float64 if double else np.float32)
    save(tmp_path/'m', model)
    again = load(tmp_path/'m')
    same(model, again)
    assert_array_equal(again.layers[-1].rng.random(9), rng.random(9))


# --- a reader's own layers -----------------------------------------------------------------------------------------------------------

class Scale(Layer):
    def __init__(self, n, start=(1., 0.)):
        self.n = self.n_in = self.n_out = n
        self.start = start
        super().__init__(scale, np.full(n, start[0]), np.full(n, start[1]))

def test_a_layer_of_ones_own_comes_back_if_its_class_is_handed_in(path):
    model = Sequential(Linear(2, 3, 0), Residual(Scale(3, (2., 1.))))
    save(path, model)
    with pytest.raises(ModelFileError, match=f"{re.escape(str(path))}.*1.0: there is no layer 'Scale'"): load(path)
    again = load(path, classes={'Scale': Scale})
    same(model, again)
    assert type(again.layers[1].layers[0]) is Scale

def test_a_class_is_never_found_by_its_name_alone(path):
    save(path, Sequential(Scale(2)))
    for name in ('builtins.print', 'os.system', 'print', 'tests.test_files.Scale', '__main__.Scale', 'backprop_nb.files.Scale', 'Optimizer'):
        spec, arrays = opened(path)
        spec['model']['layers'][0]['kind'] = name
        path.write_bytes(forged(spec, arrays))
        with pytest.raises(ModelFileError, match='there is no layer'): load(path)

@pytest.mark.parametrize('classes, error', [({'Linear': Scale}, ValueError), ({'Scale': print}, TypeError), ({'Scale': Scale(2)}, TypeError), ({'Scale': int}, TypeError)])
def test_what_is_no_class_of_ones_own_is_refused(path, classes, error):
    save(path, net())
    with pytest.raises(error, match='classes'): load(path, classes)

def own(**space): return type('Odd', (Layer,), space)

def forgetful(self, size): Layer.__init__(self, scale, np.ones(size), np.ones(size))
def function(self, act):
    self.act = act
    Layer.__init__(self, vjps and scale, np.ones(2), np.ones(2))
def changing(self, n):
    self.n = n + 1
    Layer.__init__(self, scale, np.ones(n), np.ones(n))
def strict(self, n):
    self.n = -1
    if n < 0: raise ValueError('n: not below 0')
    Layer.__init__(self, scale, np.ones(n), np.ones(n))

@pytest.mark.parametrize('layer, word', [
    (own(__init__=forgetful)(2), 'size'), (own(__init__=function)(np.tanh), 'act'), (own(__init__=changing)(2), 'shapes'), (own(__init__=strict)(2), 'n: not below 0'),
    (Layer(scale, np.ones(2), np.ones(2)), 'op'), (Formula(lambda x, p: x * p['a'], {'a': np.ones(2)}), 'Formula'),
    (Transformer(5, 3, 4, 0, places=lambda t, d: np.zeros((t, d))), 'places'), (type('Linear', (Linear,), {})(2, 2, 0), 'Linear')],
    ids=['forgets', 'function', 'changes', 'strict', 'bare', 'formula', 'places', 'namesake'])
def test_what_cannot_be_saved_is_told_before_the_file_is_touched(layer, word, path):
    save(path, net())
    before = path.read_bytes()
    with pytest.raises(TypeError, match=word): save(path, Sequential(layer))
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]

def test_what_is_no_sequential_is_refused(path):
    class Other(Model): pass
    for model in (Other([Linear(2, 2, 0)]), Linear(2, 2, 0), None, {}):
        with pytest.raises(TypeError, match=f'Sequential.*{type(model).__name__}'): save(path, model)
    for swapped in (net(), 3, None, 1.5):
        with pytest.raises(TypeError): save(swapped, net())
        with pytest.raises(TypeError): load(swapped)
    assert not os.listdir(path.parent)

@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('where', ['params', 'buffers'])
def test_numbers_that_are_not_finite_are_not_saved_over_good_ones(path, bad, where):
    save(path, net())
    before, model = path.read_bytes(), net()
    getattr(model, where)[3] = bad
    with pytest.raises(ValueError, match='NaN' if bad != bad else 'infinity'): save(path, model)
    assert path.read_bytes() == before

def test_nothing_is_deeper_than_can_be_read_again(path):
    def deep(n): return Linear(2, 2, 0) if n == 0 else Residual(deep(n - 1))
    save(path, Sequential(deep(files.deepest)))
    load(path)
    with pytest.raises(ValueError, match='deep'): save(path, Sequential(deep(files.deepest + 1)))


# --- a run goes on -------------------------------------------------------------------------------------------------------------------

GOES_ON = '''
import sys
import numpy as np
from backprop_nb.data import moons, split
from backprop_nb.files import checkpoint, resume
from backprop_nb.layers import *
from backprop_nb.norm import BatchNorm
from backprop_nb.optim import *
from backprop_nb.regularize import Dropout
from backprop_nb.train import History, fit
x, target, x_val, t_val = split(*moons(200, .2, rng=0), rng=1)
optimizers = dict(SGD=lambda m: SGD(m, .1), Nesterov=lambda m: SGD(m, .05, .9, True, 1e-3), Adagrad=lambda m: Adagrad(m, .05, weight_decay=.01),
                  RMSprop=lambda m: RMSprop(m, .01), Adam=lambda m: Adam(m, .02), AdamW=lambda m: AdamW(m, .02, (.8, .99), weight_decay=.1))
kinds = dict(SGD='PCG64', Nesterov='MT19937', Adagrad='Philox', RMSprop='SFC64', Adam='PCG64DXSM', AdamW='PCG64')
settings = dict(batch_size=16, validation=(x_val, t_val), patience=4, schedule=warm_up(cosine(.03, 150), 20), clip=.7)

def begin(name):
    rng = np.random.Generator(getattr(np.random, kinds[name])(7))
    dtype = np.float64 if name in ('Adagrad', 'Adam') else np.float32
    model = Sequential(Linear(2, 16, rng), BatchNorm(16), GELU(), Dropout(.2, rng), Linear(16, 2, rng), dtype=dtype)
    return model, optimizers[name](model), rng, History()

def bits(model, opt, rng, history):
    state = [v.tobytes() for v in opt.state.values()] + [a.tobytes() for pair in history.kept.values() for a in pair]
    return repr((model.params.tobytes(), model.buffers.tobytes(), opt.t, opt.lr, repr(opt), state, rng.random(3).tolist(), sorted(history.kept),
                 history.loss, history.lr, history.val_loss, history.val_score, history.best_epoch, history.stopped))
'''
space = {}
exec(GOES_ON, space)

@pytest.mark.parametrize('name', ['SGD', 'Nesterov', 'Adagrad', 'RMSprop', 'Adam', 'AdamW'])
@pytest.mark.parametrize('n', [2, 10])
def test_half_a_run_saved_and_resumed_in_a_new_process_equals_the_whole_to_the_bit(name, n, path):
    x, target, begin = space['x'], space['target'], space['begin']
    def whole_run():
        model, opt, rng, history = begin(name)
        return space['bits'](model, opt, rng, fit(model, x, target, opt, rng, n_epochs=n, history=history, **space['settings']))
    model, opt, rng, history = begin(name)
    history = fit(model, x, target, opt, rng, n_epochs=n // 2, history=history, **space['settings'])
    checkpoint(path, model, opt, rng, history)
    code = GOES_ON + f'''
model, opt, rng, history = resume(sys.argv[1])
history = fit(model, x, target, opt, rng, n_epochs={n}, history=history, **settings)
print(bits(model, opt, rng, history))
'''
    process = python(code, path)
    said, errors = process.communicate(timeout=120)
    assert said.strip() == whole_run(), errors

@pytest.mark.parametrize('at', [1, 4, 9])
def test_a_checkpoint_of_every_epoch_goes_on_to_the_same_bits_and_stops_where_patience_stopped(at, path):
    settings = space['settings'] | dict(patience=2)
    model, opt, rng, history = space['begin']('Adam')
    history = fit(model, space['x'], space['target'], opt, rng, n_epochs=200, history=history, **settings)
    want, n = space['bits'](model, opt, rng, history), len(history.loss)
    assert history.stopped == 'patience' and history.best_epoch == n - 3 and n > 4
    model, opt, rng, history = space['begin']('Adam')

    def note(history):
        if len(history.loss) == min(at, n): checkpoint(path, model, opt, rng, history)
    fit(model, space['x'], space['target'], opt, rng, n_epochs=200, history=history, after_epoch=note, **settings)
    again = model, opt, rng, history = resume(path)
    assert history.stopped == ('patience' if at >= n else '')
    fit(model, space['x'], space['target'], opt, rng, n_epochs=200, history=history, **settings)
    assert space['bits'](*again) == want

def test_the_model_of_a_checkpoint_can_be_loaded_alone_and_a_model_is_no_run(run, path):
    checkpoint(path, *run)
    same(load(path), run[0])
    save(path, run[0])
    with pytest.raises(ModelFileError, match='model and no run'): resume(path)

def test_the_generator_of_the_run_is_the_one_in_its_layers(path):
    rng = np.random.default_rng(0)
    model = Sequential(Linear(2, 2, rng), Dropout(.5, rng))
    checkpoint(path, model, SGD(model), rng, History())
    model, opt, rng, history = resume(path)
    assert model.layers[1].rng is rng and opt.model is model and history == History()

def test_children_of_a_generator_come_back_too(path):
    rng = np.random.default_rng([1, 2**70])
    rng.spawn(2)
    model = net()
    checkpoint(path, model, SGD(model), rng, History())
    assert resume(path)[2].spawn(1)[0].random() == rng.spawn(1)[0].random()

def test_a_learning_rate_that_has_fallen_to_0_comes_back(path):
    model = net()
    opt = AdamW(model)
    opt.lr = 0
    checkpoint(path, model, opt, np.random.default_rng(0), History())
    assert resume(path)[1].lr == 0

def test_an_optimizer_of_ones_own_comes_back_if_its_class_is_handed_in(path):
    class Sign(SGD):
        def update(self, p, g, s, v=None): super().update(p, np.sign(g), s, v)
    model = net()
    checkpoint(path, model, Sign(model, momentum=.5), np.random.default_rng(0), History())
    with pytest.raises(ModelFileError, match="optimizer: one of 'SGD'"): resume(path)
    opt = resume(path, classes={'Sign': Sign})[1]
    assert type(opt) is Sign and opt.momentum == .5

def test_what_does_not_belong_together_is_no_run(run, path):
    model, opt, rng, history = run
    for wrong, error, word in [((net(), opt, rng, history), ValueError, 'opt'), ((model, None, rng, history), ValueError, 'opt'),
                               ((model, opt, 5, history), TypeError, 'rng'), ((model, opt, None, history), TypeError, 'rng'),
                               ((model, opt, np.random.RandomState(0), history), TypeError, 'rng'), ((model, opt, rng, {}), TypeError, 'history')]:
        with pytest.raises(error, match=word): checkpoint(path, *wrong)
    opt.state['m'][2] = np.inf
    with pytest.raises(ValueError, match='opt.m: infinity'): checkpoint(path, *run)
    assert not os.listdir(path.parent)

def test_a_generator_that_is_not_numpys_own_is_refused(path):
    class Loud(np.random.PCG64): pass
    model = Sequential(Linear(2, 2, 0), Dropout(.5, np.random.Generator(Loud(0))))
    with pytest.raises(TypeError, match='Loud'): save(path, model)

@pytest.mark.parametrize('flags', [['-O'], ['-W', 'error'], ['-O', '-W', 'error']], ids=' '.join)
def test_nothing_depends_on_assertions_and_nothing_warns(flags, tmp_path):
    code = GOES_ON + '''
from backprop_nb.files import ModelFileError, load, save
from pathlib import Path
for name in optimizers:
    model, opt, rng, history = begin(name)
    fit(model, x, target, opt, rng, n_epochs=2, history=history, **settings)
    checkpoint(sys.argv[1], model, opt, rng, history)
    want = bits(model, opt, rng, history)
    if bits(*resume(sys.argv[1])) != want: sys.exit('differs')
save(sys.argv[1], model)
data = Path(sys.argv[1]).read_bytes()
refused = 0
for i in range(0, len(data), 7):
    Path(sys.argv[1]).write_bytes(data[:i] + bytes([data[i] ^ 4]) + data[i+1:])
    try: load(sys.argv[1])
    except ModelFileError: refused += 1
print(refused == len(range(0, len(data), 7)))
'''
    process = python(code, tmp_path/'run', flags=flags)
    said, errors = process.communicate(timeout=120)
    assert said.strip() == 'True' and process.returncode == 0, errors


# --- damage --------------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def good(path):
    save(path, Sequential(Linear(2, 2, 0), Dropout(.5, 0)))
    return path.read_bytes()

def refused(path, data, match=None):
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=match or None) as e: load(path)
    assert str(path) in str(e.value) and isinstance(e.value, ValueError)
    return str(e.value)

def test_a_bit_that_turns_over_is_noticed_wherever_it_is(good, path):
    for i, byte in enumerate(good): refused(path, good[:i] + bytes([byte ^ 1 << i % 8]) + good[i + 1:])

def test_every_length_but_the_right_one_is_noticed(good, path):
    for n in range(0, len(good), 3): refused(path, good[:n], 'cut short' if n > 100 else None)
    for more in (b'\0', good, bytes(1000)): refused(path, good + more, 'damaged')

@given(st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=9)), min_size=1, max_size=6), st.booleans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_of_any_kind_is_refused_or_gives_the_same_model(good_file, changes, insert):
    good, path, model = good_file
    data = good
    for at, new in changes:
        at %= len(good)
        data = data[:at] + new + data[at + (0 if insert else len(new)):]
    path.write_bytes(data)
    try: again = load(path)
    except ModelFileError as e: assert str(path) in str(e)
    else:
        assert data == good
        same(again, model)

@pytest.fixture
def good_file(tmp_path):
    model = net(1)
    save(tmp_path/'good', model)
    return (tmp_path/'good').read_bytes(), tmp_path/'bad', model

def test_a_file_from_a_newer_version_says_so(good, path):
    for version in (2, 3, 10**6):
        newer = good.replace(b'\\"version\\": 1', b'\\"version\\": %d' % version)
        n = int.from_bytes(good[:8], 'little') + len(newer) - len(good)
        text = refused(path, struct.pack('<Q', n) + newer[8:], 'newer version')
        assert f'format {version}' in text and 'up to 1' in text

class Bomb:
    def __reduce__(self): return os.mkdir, ('exploded',)

@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('what', [Bomb(), {'w': np.ones(3)}, [1, 2, 3], net()], ids=['bomb', 'arrays', 'list', 'model'])
def test_a_pickle_is_never_loaded(protocol, what, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    refused(path, pickle.dumps(what, protocol), 'pickles are never loaded')
    assert os.listdir() == [path.name]

def test_files_of_other_programs_are_told_apart(path, tmp_path):
    np.savez(tmp_path/'a.npz', w=np.ones(3))
    assert 'zip' in refused(path, (tmp_path/'a.npz').read_bytes(), 'pickles are never loaded')
    np.save(tmp_path/'a.npy', np.ones(3))
    refused(path, (tmp_path/'a.npy').read_bytes(), 'no model file')
    refused(path, packed({'w': np.ones(3)}), 'of another program')
    refused(path, packed({'w': np.ones(3)}, {'format': 'pt'}), 'of another program')
    for text in (b'', b'a', b'{}', b'<html></html>', b'%PDF-1.7 ' * 50, bytes(5000), b'\xff' * 5000, '{"größe": 1}'.encode() * 30):
        refused(path, text, 'no model file')

def test_a_model_of_pytorch_is_not_loaded(path):
    torch = pytest.importorskip('torch', reason='writes a file with PyTorch')
    torch.save(torch.nn.Linear(2, 2), path)
    refused(path, path.read_bytes(), 'pickles are never loaded')


# --- files made to do harm -----------------------------------------------------------------------------------------------------------

def small_memory(f):
    "The most memory that Python objects and arrays held while f ran, in bytes, and what it raised"
    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError) as e: f()
    finally: peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert peak < 30e6, f'{peak/1e6:.0f} MB'
    return str(e.value)

def test_a_header_that_claims_to_be_huge_is_not_read(path):
    for n in (0, 1, 2**20, 10**8, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1):
        path.write_bytes(struct.pack('<Q', n) + b'{"__metadata__":')
        small_memory(lambda: load(path))

def hole(path, header, size):
    "A file that takes no room on the disk and is of any size"
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(header)) + header)
        try: f.truncate(size)
        except OSError: pytest.skip('the file system has no files of that size')

def test_a_bomb_of_emptiness_is_not_unfolded(path):
    "The likeness of a zip bomb: a sparse file of 1 TB whose header is right"
    n = 2**38
    text = json.dumps(dict(format='backprop_nb', version=1, sha256=blank))
    header = json.dumps({'__metadata__': {'backprop_nb': text}, 'w': {'dtype': 'F32', 'shape': [n], 'data_offsets': [0, 4*n]}}).encode()
    hole(path, header, 8 + len(header) + 4*n)
    assert 'limit=' in small_memory(lambda: load(path))
    hole(path, b'  {}', 2**40)
    small_memory(lambda: load(path))
    with open(path, 'r+b') as f: f.write(struct.pack('<Q', 2**28))      # the hole is said to be a header
    small_memory(lambda: load(path))

def test_a_zip_bomb_is_not_unzipped(path):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('w.npy', bytes(30_000_000))
    assert path.stat().st_size < 10**5
    assert 'zip' in small_memory(lambda: load(path))

def header_file(header, data=b''):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + data

meta = {'__metadata__': {'backprop_nb': json.dumps(dict(format='backprop_nb', version=1, sha256=blank))}}
def array(dtype='F32', shape=(1,), at=(0, 4)): return meta | {'w': dict(dtype=dtype, shape=list(shape), data_offsets=list(at))}

@pytest.mark.parametrize('data', [
    header_file(array(at=(0, 2**62)), bytes(4)), header_file(array(at=(-4, 4)), bytes(4)), header_file(array(at=(4, 0)), bytes(4)), header_file(array(at=(0, '4')), bytes(4)),
    header_file(array(at=(0, 4.0)), bytes(4)), header_file(array(at=(0, True)), bytes(1)), header_file(array(at=()), bytes(4)), header_file(array(at=(0, None)), bytes(4)),
    header_file(b'[' * 100_000), header_file(b'{"a":' * 50_000), header_file(b'"' + b'a' * 100), header_file(b'[]'), header_file(b'null'), header_file(b'3'),
    header_file({'__metadata__': None}), header_file({'__metadata__': []}), header_file({'__metadata__': {'backprop_nb': 3}}), header_file({'__metadata__': {'backprop_nb': '['}}),
    header_file({'__metadata__': {'backprop_nb': '[' * 100_000}}), header_file({'__metadata__': {'backprop_nb': '{}'}}), header_file({'__metadata__': {'backprop_nb': '[]'}}),
    header_file(b'{"__metadata__": {"backprop_nb": "{\\"version\\": ' + b'9' * 5000 + b'}"}}'), header_file(b'\xff\xfe{}'), header_file('{}'.encode('utf-16'))],
    ids=lambda data: repr(data[8:60])[2:-1])
def test_a_hostile_header_is_refused(data, path):
    path.write_bytes(data)
    assert str(path) in small_memory(lambda: load(path))

@pytest.mark.parametrize('header', [array(shape=(2**40, 2**40)), array(shape=(2,)), array(dtype='F99'), array(dtype='BF16', shape=(2,)), array(shape=(-1,)), array(shape=(1.5,)),
    array() | {'v': dict(dtype='F32', shape=[1], data_offsets=[0, 4])}, array(at=(1, 4)), array(dtype='F64', shape=(2**61,))], ids=str)
def test_arrays_that_do_not_fit_their_bytes_are_refused_whatever_the_fingerprint_says(header, path):
    data = header_file(header, bytes(4))
    refused(path, data.replace(blank.encode(), sha256(data).hexdigest().encode(), 1))

def layer_file(layer, arrays=None, **more):
    "A file with one layer, with any arguments and a right fingerprint"
    spec = dict(holds='model', generators=[], model=dict(dtype='float32', layers=[layer], resting=[], random=[]) | more)
    return forged(spec, arrays or {})

def kind(kind, **args): return dict(kind=kind, args=args)
big, w, b = 10**6, np.ones((2, 3), np.float32), np.ones(3, np.float32)
recurrent = dict(last=False, truncate=None)
transformer = dict(n_tokens=3, n_out=2, d=2, n_heads=1, n_blocks=10**9, causal=False, wide=1)

@pytest.mark.parametrize('layer', [
    kind('Linear', n_in=big, n_out=big), kind('Conv', c_in=big, c_out=big, k=9, stride=1, padding=0), kind('Embedding', n_symbols=big, n_out=big),
    kind('RNN', n_in=big, n_out=big, **recurrent), kind('GRU', n_in=1, n_out=big, **recurrent), kind('LSTM', n_in=1, n_out=big, **recurrent),
    kind('BatchNorm', n=10**10, eps=1e-5, momentum=.1), kind('BatchNormalize', n=10**10, eps=1e-5, momentum=.1), kind('LayerNorm', n=10**10, eps=1e-5),
    kind('Transformer', **transformer), kind('Transformer', **transformer | dict(d=big)), kind('Transformer', **transformer | dict(wide='x', d=10**12)),
    kind('Linear', n_in=[0] * 1000, n_out=10**9), kind('Linear', n_in='x', n_out=10**9), kind('Conv', c_in='x', c_out=1, k=10**6, stride=1, padding=0)],
    ids=lambda layer: f"{layer['kind']} {str(layer['args'])[:30]}")
def test_a_small_description_cannot_ask_for_much_memory(layer, path):
    path.write_bytes(layer_file(layer, {'0.params.0': w, '0.params.1': b}))
    start = time.perf_counter()
    small_memory(lambda: load(path))
    assert time.perf_counter() - start < 5

honest = kind('Linear', n_in=2, n_out=3)

@pytest.mark.parametrize('layer, arrays, word', [
    (honest, {'0.params.0': w.T.copy(), '0.params.1': b}, r'shape \(2, 3\) is needed, and the file has \(3, 2\)'),
    (honest, {'0.params.0': w}, r'0.params.1: an array of shape \(3,\) is needed, and the file has none'),
    (honest, {'0.params.0': w, '0.params.1': b, '9.params.0': b}, 'no layer needs'),
    (honest, {'0.params.0': w.astype(np.float64), '0.params.1': b}, 'float32 is needed, and the file has float64'),
    (honest, {'0.params.0': w * np.nan, '0.params.1': b}, 'NaN'),
    (kind('Linear', n_in=2.0, n_out=3), {'0.params.0': w, '0.params.1': b}, 'n_in'), (kind('Linear', n_in=2), {}, 'n_out'),
    (kind('Linear', n_in=2, n_out=3, init=3), {'0.params.0': w, '0.params.1': b}, 'init'), (kind('Linear', n_in=-2, n_out=3), {}, '-2'),
    (kind('Linear', n_in=2, n_out=3, rng=[1]), {'0.params.0': w, '0.params.1': b}, 'rng'), (kind('LeakyReLU', slope=5), {}, 'slope'),
    (kind('LeakyReLU', slope='5'), {}, 'slope'), (kind('ReLU', x=1), {}, 'x'), (kind('ReLU') | {'args': [1]}, {}, ''), ({}, {}, 'kind'), ([], {}, ''), (kind(['ReLU']), {}, ''),
    (kind('ReLU') | {'layers': [kind('ReLU')]}, {}, ''), (kind('Dropout', p=1), {}, '1'), (kind('Dropout', p={'whole': 'x'}), {}, ''), (kind('Chain'), {}, 'at least one'),
    (kind('Chain', layers=3), {}, ''), (kind('Residual') | {'layers': [honest]}, {'0.0.params.0': w, '0.0.params.1': b}, 'as many features'),
    (kind('Checkpoint') | {'layers': [kind('Dropout', p=.5)]}, {}, 'random numbers'), (kind('Image', h=0, w=1, c=1), {}, 'h')])
def test_a_wrong_description_is_refused_with_what_is_wrong(layer, arrays, word, path):
    refused(path, layer_file(layer, arrays), word)

def test_layers_without_end_are_refused(path):
    layer = kind('ReLU')
    for _ in range(100): layer = kind('Chain') | {'layers': [layer]}
    refused(path, layer_file(layer), 'deep')
    layer = '{"kind": "Chain", "args": {}, "layers": [' * 3000 + '{"kind": "ReLU", "args": {}}' + ']}' * 3000
    text = json.dumps(dict(format='backprop_nb', version=1, sha256=blank))[:-1] + f', "holds": "model", "generators": [], "model": {{"layers": [{layer}]}}}}'
    data = packed({}, {'backprop_nb': text})
    refused(path, data.replace(blank.encode(), sha256(data).hexdigest().encode(), 1))

@pytest.mark.parametrize('more', [dict(dtype='float16'), dict(dtype='object'), dict(dtype=None), dict(resting=[7]), dict(resting=[-1]), dict(resting=['x']), dict(resting=None),
    dict(random=[[0, 'rng', 0]]), dict(random=[[0, '__class__', 0]]), dict(random=[[0, 'predict', 0]]), dict(random=[[5, 'rng', 0]]), dict(random=[3]), dict(layers=[]),
    dict(layers=None)], ids=str)
def test_a_wrong_model_is_refused(more, path): refused(path, layer_file(kind('ReLU'), **more))

STATES = dict(PCG64=['has_uint32', 'uinteger', 'state.state', 'state.inc'], MT19937=['state.pos', 'state.key'], Philox=['buffer_pos', 'has_uint32', 'buffer', 'state.key'],
              SFC64=['has_uint32', 'state.state'], PCG64DXSM=['uinteger'])

@pytest.mark.parametrize('value', [-1, 10**9, 2**128, 2**5000, 1.5, True, 'x', None, [], {}, [0] * 10**4, [-1] * 4, [2**64] * 4], ids=lambda v: repr(v)[:20])
@pytest.mark.parametrize('name', STATES)
def test_a_generator_whose_state_cannot_be_is_refused_and_crashes_nothing(name, value, path):
    good = files.generator_spec(np.random.Generator(files.generator_classes[name](0)))
    for place in STATES[name]:
        if place in ('state.state', 'state.inc') and value == 10**9: continue      # a state like any other
        if place == 'uinteger' and value in (10**9,) and value is not True: continue
        spec = json.loads(json.dumps(good))
        inner = spec['state']
        for key in place.split('.')[:-1]: inner = inner[key]
        inner[place.split('.')[-1]] = {'whole': str(value)} if isinstance(value, int) and 2**53 < value < 2**4000 else value if not (isinstance(value, int) and value > 2**53) else 0.5
        data = forged(dict(holds='model', generators=[spec], model=dict(dtype='float32', layers=[kind('ReLU')], resting=[], random=[])), {})
        refused(path, data)

@pytest.mark.parametrize('spec', [{}, None, [], dict(kind='RandomState'), dict(kind='PCG64'), dict(kind='PCG64', state={}, seed={}), dict(kind='PCG64', seed=dict(pool_size=10**9), state={}),
    dict(kind='PCG64', seed=dict(entropy='x'), state={}), dict(kind='PCG64', seed=dict(entropy=0, spawn_key='x'), state={})], ids=str)
def test_a_wrong_generator_is_refused(spec, path):
    path.write_bytes(forged(dict(holds='model', generators=[spec], model=dict(dtype='float32', layers=[kind('ReLU')], resting=[], random=[])), {}))
    small_memory(lambda: load(path))

def places(tree, at=()):
    "Every place in a nest of dicts and lists"
    yield at
    for k, v in (tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()): yield from places(v, (*at, k))

junk = st.recursive(st.none() | st.booleans() | st.integers(-3, 10**6) | st.sampled_from([10**30, 1e300, 1e999, -0.0, '', 'rng', 'Linear', 'Chain', '__class__', 'float64', 'best']) | st.floats(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['kind', 'args', 'layers', 'whole', 'x']), inner, max_size=3), max_leaves=5)

@given(pick=st.integers(0, 10**6), value=junk, drop=st.booleans(), data=st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_forged_description_gives_a_model_or_one_clear_error(pick, value, drop, data, forged_run):
    spec, arrays, path = forged_run
    spec = json.loads(json.dumps(spec))
    all_places = [p for p in places(spec) if p and p[0] not in ('sha256', 'format', 'version')]
    *way, last = all_places[pick % len(all_places)]
    inner = spec
    for key in way: inner = inner[key]
    if drop: del inner[last]
    else: inner[last] = value
    path.write_bytes(forged(spec, arrays))
    for read in (load, resume):
        try: got = read(path)
        except ModelFileError as e: assert str(path) in str(e)
        else:
            model = got if read is load else got[0]
            assert np.isfinite(model.params).all() and model.params.size < 1000
            if read is resume: got[2].random(700)

@pytest.fixture
def forged_run(run, tmp_path):
    checkpoint(tmp_path/'run', *run)
    return *opened(tmp_path/'run'), tmp_path/'forged'

@pytest.mark.parametrize('name, value', [('opt.m', None), ('opt.m', np.zeros(3, np.float32)), ('opt.v', np.full(50, np.nan, np.float32)), ('history.loss', None), ('history.loss', np.zeros(2)),
    ('history.val_loss', np.zeros(0, np.float32)), ('history.seconds', np.zeros((3, 1))), ('best.params', None), ('best.params', np.zeros(3, np.float32)), ('opt.other', np.zeros(3)), ('x', np.zeros(3))])
def test_a_run_with_wrong_arrays_is_refused(name, value, forged_run):
    spec, arrays, path = forged_run
    if value is None: del arrays[name]
    else: arrays[name] = value
    path.write_bytes(forged(spec, arrays))
    with pytest.raises(ModelFileError, match=f'{re.escape(str(path))}.*{name.split(".")[0]}'): resume(path)


# --- no file ---------------------------------------------------------------------------------------------------------------------

def test_a_file_that_is_not_there_or_a_folder_is_an_oserror_with_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path/'none'))): load(tmp_path/'none')
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))): load(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path/'none/model'))): save(tmp_path/'none/model', net())
    (tmp_path/'folder').mkdir()
    with pytest.raises(OSError, match=re.escape(str(tmp_path/'folder'))): save(tmp_path/'folder', net())
    assert os.listdir(tmp_path) == ['folder']

@contextmanager
def ordinary_user():
    "Nothing may be read or written but what the permissions allow"
    if os.geteuid(): yield
    else:
        os.seteuid(65534)
        try: yield
        finally: os.seteuid(0)

@pytest.fixture
def public():
    "A folder that everybody can enter and write to"
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)

def closed(path): return not os.access(path, os.W_OK, effective_ids=True)

def test_without_permission_it_is_a_permissionerror_with_the_path_and_all_is_as_before(public):
    path = public/'model'
    save(path, net())
    before = path.read_bytes()
    path.chmod(0)
    with ordinary_user():
        if not closed(path): pytest.skip('this user may read and write everything')
        with pytest.raises(PermissionError, match=re.escape(str(path))): load(path)
        with pytest.raises(PermissionError, match=re.escape(str(path))): save(path, net(1))
    path.chmod(0o666)
    public.chmod(0o755 if os.geteuid() == 0 else 0o555)
    with ordinary_user():
        for name in ('model', 'new'):
            with pytest.raises(PermissionError, match=re.escape(str(public/name))): save(public/name, net(1))
    public.chmod(0o777)
    assert path.read_bytes() == before and os.listdir(public) == ['model']

def test_a_file_that_is_protected_is_not_replaced_although_its_folder_would_allow_it(public):
    path = public/'model'
    save(path, net())
    before = path.read_bytes()
    path.chmod(0o444)
    with ordinary_user():
        if not closed(path): pytest.skip('this user may write everything')
        with pytest.raises(PermissionError, match='protected'): save(path, net(1))
    assert path.read_bytes() == before and os.listdir(public) == ['model']

def test_who_may_read_the_old_file_may_read_the_new_one_and_no_one_else(path):
    save(path, net())
    for mode in (0o600, 0o640, 0o666):
        path.chmod(mode)
        save(path, net(1))
        assert stat.S_IMODE(path.stat().st_mode) == mode

def test_a_link_stays_a_link_and_a_trap_beside_the_file_is_not_followed(path, tmp_path):
    (tmp_path/'far').mkdir()
    save(tmp_path/'far/real', net())
    path.symlink_to(tmp_path/'far/real')
    save(path, net(1))
    assert path.is_symlink() and (load(tmp_path/'far/real').params == net(1).params).all()
    victim = tmp_path/'victim'
    victim.write_text('precious')
    os.symlink(victim, tmp_path/'far/real.part')
    with pytest.raises(OSError): save(path, net(2))
    assert victim.read_text() == 'precious' and (load(path).params == net(1).params).all()

@pytest.mark.parametrize('made', ['pipe', 'socket', 'device'])
def test_a_pipe_or_a_device_is_refused_at_once(made, tmp_path, monkeypatch):
    path = tmp_path/'it'
    if made == 'pipe': os.mkfifo(path)
    elif made == 'socket':
        monkeypatch.chdir(tmp_path)
        socket.socket(socket.AF_UNIX).bind('it')
    else: path = Path('/dev/zero')
    start = time.perf_counter()
    with pytest.raises((ModelFileError, OSError), match=f'{re.escape(str(path))}.*pipe or a device|No such device.*{re.escape(str(path))}'): load(path)
    assert time.perf_counter() - start < 5

@pytest.mark.parametrize('limit, error', [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError), ('1', TypeError)])
def test_a_limit_is_a_whole_number(limit, error, good, path):
    with pytest.raises(error, match='limit'): load(path, limit=limit)

def test_a_file_above_the_limit_is_read_when_the_limit_is_raised(good, path):
    with pytest.raises(ModelFileError, match='limit'): load(path, limit=100)
    load(path, limit=len(good))


# --- half a file -----------------------------------------------------------------------------------------------------------------------

WRITER = '''
import sys
import numpy as np
from backprop_nb.files import write_whole, sealed
versions = [sealed({'n': i}, {'w': np.full(60_000, float(i))}) for i in range(3)]
print('ready')
i = 0
while True:
    write_whole(sys.argv[1], versions[i % 3])
    i += 1
'''

def test_kill_minus_9_at_any_moment_leaves_one_complete_version_and_at_most_one_other_file(tmp_path):
    process = python(KILLED, tmp_path/'model')
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    outcome = json.loads(said)
    assert outcome['kills'] == 40 and outcome['bad'] == []
    assert outcome['strays'] > 0, 'no kill ever fell into a write: the test tests nothing'

KILLED = WRITER.split('print')[0] + '''
import json, os, random, signal, time
from backprop_nb.files import read_sealed
path, rng = sys.argv[1], random.Random(0)
write_whole(path, versions[0])
kills, strays, bad = 0, 0, []
for _ in range(40):
    child = os.fork()
    if not child:
        i = 0
        while True:
            i += 1
            write_whole(path, versions[i % 3])
    time.sleep(rng.uniform(.005, .06))
    os.kill(child, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    there = sorted(os.listdir(os.path.dirname(path)))
    strays += len(there) - 1
    try:
        spec, arrays = read_sealed(path, 10**7)
        if (arrays['w'] != spec['n']).any() or not set(there) <= {'model', 'model.part'}: bad.append(there)
    except Exception as e: bad.append(repr(e))
print(json.dumps(dict(kills=kills, strays=strays, bad=bad)))
'''

@contextmanager
def file_limit(n):
    "No file may grow beyond n bytes"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, old[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)

@pytest.mark.parametrize('room', [0, 1, 700, 1024])
def test_where_no_room_is_left_the_old_file_stays_and_the_error_has_the_path(room, path):
    save(path, net())
    before = path.read_bytes()
    with file_limit(room), pytest.raises(OSError, match=re.escape(str(path))) as e: save(path, net(1))
    assert e.value.errno == errno.EFBIG
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
    save(path, net(1))
    assert (load(path).params == net(1).params).all()

def test_on_a_full_disk_the_old_file_stays_and_the_error_has_the_path(tmp_path):
    disk = tmp_path/'disk'
    disk.mkdir()
    try: done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(disk)], capture_output=True)
    except FileNotFoundError: pytest.skip('there is no mount')
    if done.returncode: pytest.skip('this user may not mount a small disk')
    try:
        path = disk/'model'
        save(path, net())
        before = path.read_bytes()
        large = Sequential(Linear(300, 300, 0))
        with pytest.raises(OSError, match=re.escape(str(path))) as e: save(path, large)
        assert e.value.errno == errno.ENOSPC
        assert path.read_bytes() == before and os.listdir(disk) == ['model']
        (disk/'filler').write_bytes(bytes(40_000))
        for _ in range(3): save(path, net(1))
        assert (load(path).params == net(1).params).all()
    finally: subprocess.run(['umount', str(disk)], check=True)

STEPS = 'open', 'fstat', 'ftruncate', 'chmod', 'write', 'fsync', 'replace'

@pytest.mark.parametrize('error', [KeyboardInterrupt, MemoryError, OSError(errno.EIO, 'Input/output error'), SystemExit], ids=lambda e: getattr(e, '__name__', 'EIO'))
@pytest.mark.parametrize('step', STEPS)
def test_a_fault_at_any_step_is_told_and_leaves_the_old_file_and_nothing_else(step, error, path, monkeypatch):
    save(path, net())
    before, descriptors = path.read_bytes(), len(os.listdir('/proc/self/fd')) if os.path.exists('/proc/self/fd') else 0

    def fault(*args, **how): raise error
    with monkeypatch.context() as m, pytest.raises(type(error) if isinstance(error, OSError) else error) as e:
        m.setattr(os, step, fault)
        save(path, net(1))
    if isinstance(error, OSError): assert str(path) in str(e.value)
    assert path.read_bytes() == before
    left = set(os.listdir(path.parent)) - {path.name}
    assert left <= ({path.name + '.part'} if step in ('fstat', 'ftruncate') else set())
    if descriptors: assert len(os.listdir('/proc/self/fd')) == descriptors
    save(path, net(1))
    assert (load(path).params == net(1).params).all() and os.listdir(path.parent) == [path.name]

def test_numbers_are_on_the_disk_before_the_name_and_the_name_before_save_returns(path, monkeypatch):
    heard = []
    for name in ('write', 'fsync', 'replace', 'close'):
        real = getattr(os, name)
        def spy(*args, name=name, real=real):
            kind = 'folder' if name != 'replace' and stat.S_ISDIR(os.fstat(args[0]).st_mode) else 'file'
            heard.append(f'{name} {kind}')
            return real(*args)
        monkeypatch.setattr(os, name, spy)
    save(path, net())
    assert heard == ['write file', 'fsync file', 'replace file', 'close file', 'fsync folder', 'close folder']

def test_a_write_that_takes_only_a_part_is_continued(path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, 'write', lambda fd, data: real(fd, data[:100]))
    save(path, net())
    assert (load(path).params == net().params).all()

INTERRUPTED = '''
import sys
import numpy as np
from backprop_nb.files import write_whole, sealed
versions = [sealed({'n': i}, {'w': np.full(60_000, float(i))}) for i in range(3)]
write_whole(sys.argv[1], versions[0])
print('ready')
i = 0
try:
    while True:
        write_whole(sys.argv[1], versions[i % 3])
        i += 1
except KeyboardInterrupt: print('interrupted')
'''

@pytest.mark.parametrize('wait', [.01, .03, .05])
def test_ctrl_c_while_saving_leaves_one_complete_file(wait, path):
    process = python(INTERRUPTED, path)
    assert process.stdout.readline() == 'ready\n'
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert said == 'interrupted\n', errors
    spec, arrays = files.read_sealed(path, 10**7)
    assert (arrays['w'] == spec['n']).all() and os.listdir(path.parent) == [path.name]

def test_ctrl_c_in_a_run_that_writes_checkpoints_leaves_the_last_whole_epoch(path, data):
    model = net()
    opt, rng = Adam(model), np.random.default_rng(0)

    def schedule(t):
        if t == 12: raise KeyboardInterrupt
        return .01
    history = fit(model, *data[:2], opt, rng, n_epochs=5, schedule=schedule, after_epoch=lambda history: checkpoint(path, model, opt, rng, history))
    assert history.stopped == 'interrupted'
    assert len(resume(path)[3].loss) == 12 // 5 and resume(path)[1].t == 10

def test_a_checkpoint_that_cannot_be_written_stops_the_run_and_says_why(tmp_path, data):
    model = net()
    opt, rng = Adam(model), np.random.default_rng(0)
    with pytest.raises(OSError, match='gone'):
        fit(model, *data[:2], opt, rng, n_epochs=5, after_epoch=lambda history: checkpoint(tmp_path/'gone/run', model, opt, rng, history))

def test_two_writers_at_once_do_not_spoil_each_other(path):
    "Threads and processes write the same file; whatever is read is one whole version"
    code = WRITER.replace('while True:', 'while i < 60:')
    others = [python(code, path) for _ in range(2)]
    for process in others: assert process.stdout.readline() == 'ready\n'
    versions = [files.sealed({'n': i}, {'w': np.full(30_000, float(i))}) for i in range(5)]
    faults = []

    def work(i):
        try:
            for _ in range(30): write_whole(path, versions[i])
        except Exception as e: faults.append(e)
    write_whole(path, versions[0])
    threads = [threading.Thread(target=work, args=[i]) for i in range(5)]
    for t in threads: t.start()
    while any(t.is_alive() for t in threads):
        spec, arrays = files.read_sealed(path, 10**7)
        assert (arrays['w'] == spec['n']).all()
    for t in threads: t.join()
    for process in others:
        said, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert not faults and os.listdir(path.parent) == [path.name]

def test_training_that_diverges_leaves_the_checkpoint_of_the_last_good_epoch(path, data):
    model = net(dtype=np.float64)
    opt, rng = SGD(model, .1), np.random.default_rng(0)

    def rate(t): return .1 if t < 15 else 1e200
    history = History()
    with pytest.raises(Diverged): fit(model, *data[:2], opt, rng, n_epochs=9, schedule=rate, history=history,
                                      after_epoch=lambda history: checkpoint(path, model, opt, rng, history))
    assert len(history.loss) == len(resume(path)[3].loss) == 15 // 5


# --- leaks -----------------------------------------------------------------------------------------------------------------------------

@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='asks Linux what the process holds')
def test_600_loads_and_resumes_leave_memory_objects_and_open_files_flat(run, tmp_path):
    good, bad = tmp_path/'good', tmp_path/'bad'
    model = Sequential(Linear(200, 200, 0), Dropout(.5, 0))
    save(good, model)
    bad.write_bytes(good.read_bytes()[:-3])
    checkpoint(tmp_path/'run', *run)

    def once(i):
        load(good)
        if i % 3 == 0: resume(tmp_path/'run')
        if i % 3 == 1: save(tmp_path/'again', model)
        if i % 3 == 2:
            with pytest.raises(ModelFileError): load(bad)

    def used():
        gc.collect()
        return len(gc.get_objects()), len(os.listdir('/proc/self/fd')), resident()
    for i in range(30): once(i)
    objects, open_files, memory = used()
    for i in range(600): once(i)
    after = used()
    assert after[0] - objects < 300 and after[1] == open_files and after[2] - memory < 8e6, (after, (objects, open_files, memory))

def resident():
    "Bytes of memory that this process holds"
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
