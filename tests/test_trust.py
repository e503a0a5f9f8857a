"""What the library promises to whoever calls it wrongly, and to whoever calls it oddly but rightly

The first half is a walk along every door. A *row* says what is wrong, which error comes, and which facts stand in its message. Each row is tried at
each *door* that the wrong thing can come to, and every time the whole world must afterwards be as it was before, bit for bit: model, memory of the
last call, optimizer, generators (the global ones, too), inputs. The second half hands the right numbers over in odd clothes: lists, integers, half
precision, foreign byte order, every second row, read-only. They must give what a plain float array gives, and must not be written to.

Model files are walked in test_files.py, searches in test_tune.py, estimators in test_estimators.py; divergence and Ctrl-C in test_trust_runs.py.
"""
import random
import re
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from backprop_nb.attention import Transformer, causal_mask, positions
from backprop_nb.autograd import Scalar, Tensor
from backprop_nb.conv import AvgPool, Conv, Flatten, Image, MaxPool
from backprop_nb.data import batches, circles, moons, one_hot, spirals, split, standardize, xor
from backprop_nb.dual import Dual
from backprop_nb.exchange import from_state_dict, to_state_dict
from backprop_nb.init import instruments
from backprop_nb.layers import ELU, LeakyReLU, Linear, ReLU, Sequential, Tanh, value_and_grad
from backprop_nb.loss import binary_cross_entropy, cross_entropy, huber, mae, mse
from backprop_nb.norm import BatchNorm, LayerNorm
from backprop_nb.optim import SGD, Adagrad, Adam, AdamW, RMSprop, clip_norm, cosine, step_decay, warm_up
from backprop_nb.regularize import Dropout, jitter, rotate, shift
from backprop_nb.rnn import GRU, LSTM, RNN, Embedding, generate
from backprop_nb.scale import InTurn, LossScale, fit_parallel, half_grad
from backprop_nb.train import accuracy, confusion, fit, train_epoch, train_step
from backprop_nb.tune import folds, lr_range_test

# --- the world, of which nothing may change --------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(8, 3))
LABELS = np.array([0, 1, 2, 3, 0, 1, 2, 3])
VALUES = np.random.default_rng(1).normal(size=(8, 4))

class World:
    "A model of three features and four classes that has learned a little, its optimizer, a generator, and good data"
    def __init__(self):
        self.model = Sequential(Linear(3, 5, 0), Tanh(), Linear(5, 4, 1), dtype=np.float64)
        self.opt, self.rng = Adam(self.model, .01), np.random.default_rng(7)
        self.x, self.labels, self.values = X.copy(), LABELS.copy(), VALUES.copy()
        fit(self.model, self.x, self.labels, self.opt, 0, n_epochs=2)
        self.y = self.model(self.x)                       # somebody is about to walk back

    def bits(self, *more):
        "Everything, so that two worlds can be compared"
        arrays = self.model.params, self.model.grads, self.model.buffers, *self.opt.state.values(), self.x, self.labels, self.values, self.y, *more
        memory = [(id(layer.y), id(layer.args[0])) for layer in self.model.layers]
        chance = self.rng.bit_generator.state, random.getstate(), [str(part) for part in np.random.get_state()]
        return [(a.dtype.str, a.shape, a.tobytes()) for a in arrays], self.opt.t, self.opt.lr, memory, chance

walk = []   # all cases: (row, door, function of a world, error, facts)

def row(what, error, facts, **doors):
    "One thing that is wrong -> the error and the facts in its message, at each of these doors"
    for door, call in doors.items(): walk.append((what, door, call, error, facts))

def each(doors, wrong):
    "The same wrong thing at many doors: a door is a function of the world and of what comes in"
    return {name: (lambda w, door=door: door(w, wrong)) for name, door in doors.items()}

# --- examples that are none ------------------------------------------------------------------------------------------------------

def put(a, at, v):
    "A copy with another number in one place"
    a = np.array(a, float)
    a[at] = v
    return a

class Sparse:
    "As SciPy's matrices look from outside"
    shape = X.shape
    def toarray(self): return X

TABLES = dict(      # doors to which a table of examples comes
    call=lambda w, x: w.model(x),
    predict=lambda w, x: w.model.predict(x),
    fit=lambda w, x: fit(w.model, x, w.labels, w.opt, w.rng),
    validation=lambda w, x: fit(w.model, w.x, w.labels, w.opt, w.rng, validation=(x, w.labels)),
    train_step=lambda w, x: train_step(w.model, cross_entropy, w.opt, x, w.labels),
    fit_parallel=lambda w, x: fit_parallel(w.model, x, w.labels, w.opt, w.rng, InTurn()),
    half_grad=lambda w, x: half_grad(w.model, cross_entropy, x, w.labels),
    instruments=lambda w, x: instruments(w.model, x, w.labels, opt=w.opt),
    lr_range_test=lambda w, x: lr_range_test(w.model, x, w.labels, w.opt, w.rng),
)
ARRAYS = TABLES | dict(     # and doors to which any array of numbers comes
    standardize=lambda w, x: standardize(x),
    like=lambda w, x: standardize(w.x, like=x),
    backward=lambda w, x: w.model.backward(x),
    value_and_grad=lambda w, x: value_and_grad(mse, w.y, x),
)

row('x with NaN', ValueError, ['x', 'NaN', 'row 2, column 1', '1 of 24'], **each(TABLES, put(X, (2, 1), np.nan)))
row('x with infinity', ValueError, ['x', 'infinity', 'row 3, column 0'], **each(TABLES, put(X, (3, 0), -np.inf)))
row('x of more features', ValueError, ['x', '3 features', '(8, 5)'], **each(TABLES, np.ones((8, 5))))
row('x of fewer features', ValueError, ['x', '3 features', '(8, 2)'], **each(TABLES, np.ones((8, 2))))
row('x 1-D', ValueError, ['x', '2-D', '(3,)', 'reshape(1, -1)'], **each(TABLES, np.ones(3)))
row('x 3-D', ValueError, ['x', '2-D', '(8, 3, 1)'], **each(TABLES, X[..., None]))
row('x without columns', ValueError, ['x', 'empty', '(8, 0)'], **each(TABLES, np.ones((8, 0))))
row('x without rows', ValueError, ['x', 'empty', '(0, 3)'], **each(TABLES, np.ones((0, 3))))
row('x 0-D', ValueError, ['x', '2-D', '()'], **each(TABLES, np.float64(1)))

NO_NUMBERS = {   # what -> an example, and what the message calls it
    'text': ([['a', 'b', 'c']] * 8, '<U1'), 'objects': (np.full((8, 3), object()), 'object'),
    'dates': (np.full((8, 3), np.datetime64('2020-01-01')), 'datetime64'), 'complex numbers': (X + 1j, 'complex128'),
    'None': (None, 'NoneType'), 'a dict': ({'a': 1}, 'dict'), 'one string': ('abc', 'str'), 'a sparse matrix': (Sparse(), 'toarray'),
}
for what, (wrong, found) in NO_NUMBERS.items():
    doors = {name: door for name, door in ARRAYS.items() if (name, what) != ('like', 'None')}      # like=None asks for the statistics of x
    row(f'{what} for numbers', TypeError, ['real numbers', found], **each(doors, wrong))
row('ragged rows', ValueError, ['ragged'], **each(ARRAYS, [[1, 2, 3], [1, 2]]))

# --- targets that do not belong to the examples ------------------------------------------------------------------------------------

LABEL_DOORS = dict(
    fit=lambda w, t: fit(w.model, w.x, t, w.opt, w.rng),
    validation=lambda w, t: fit(w.model, w.x, w.labels, w.opt, w.rng, validation=(w.x, t)),
    value_and_grad=lambda w, t: value_and_grad(cross_entropy, w.y, t),
    fit_parallel=lambda w, t: fit_parallel(w.model, w.x, t, w.opt, w.rng, InTurn()),
    accuracy=lambda w, t: accuracy(w.y, t),
    confusion=lambda w, t: confusion(w.y, t),
    lr_range_test=lambda w, t: lr_range_test(w.model, w.x, t, w.opt, w.rng),
)
VALUE_DOORS = {f'{loss.__name__}, {name}': (lambda w, t, loss=loss, door=door: door(w, t, loss)) for loss in (mse, mae, huber, binary_cross_entropy) for name,
    door in dict(
    fit=lambda w, t, loss: fit(w.model, w.x, t, w.opt, w.rng, loss=loss),
    validation=lambda w, t, loss: fit(w.model, w.x, w.values, w.opt, w.rng, loss=loss, validation=(w.x, t)),
    value_and_grad=lambda w, t, loss: value_and_grad(loss, w.y, t),
).items()}

row('fewer labels than rows', ValueError, ['target', '8', '5'], **each(LABEL_DOORS, LABELS[:5]))
row('more labels than rows', ValueError, ['target', '8', '16'], **each(LABEL_DOORS, np.r_[LABELS, LABELS]))
row('a negative label', ValueError, ['target', '0 to 3', '-1'], **each(LABEL_DOORS, put(LABELS, 1, -1)))
row('a negative label, as integer', ValueError, ['target', '0 to 3', '-1'], **each(LABEL_DOORS, put(LABELS, 1, -1).astype(int)))
row('a label beyond the classes', ValueError, ['target', '0 to 3', '4'], **each(LABEL_DOORS, LABELS + 1))
row('half a label', ValueError, ['target', 'whole numbers (integers)', '0.5'], **each(LABEL_DOORS, put(LABELS, 1, .5)))
row('a label that is missing', ValueError, ['target', 'NaN', 'row 6'], **each(LABEL_DOORS, put(LABELS, 6, np.nan)))
row('labels in words', TypeError, ['target', 'real numbers'], **each(LABEL_DOORS, ['cat', 'dog'] * 4))
row('no labels', TypeError, ['target', 'NoneType'], **each({k: v for k, v in LABEL_DOORS.items() if k != 'fit_parallel'}, None))
row('labels one-hot', ValueError, ['target', '(8,)', '(8, 4)'], **each(LABEL_DOORS, np.eye(4)[LABELS]))
row('labels in a column', ValueError, ['target', '(8,)', '(8, 1)'], **each(LABEL_DOORS, LABELS[:, None]))

row('values that would stretch: (n,)', ValueError, ['target', '(8, 4)', '(8,)'], **each(VALUE_DOORS, np.ones(8)))
row('values that would stretch: (1, k)', ValueError, ['target', '(8, 4)', '(1, 4)'], **each(VALUE_DOORS, np.ones((1, 4))))
row('values that would stretch: (n, 1)', ValueError, ['target', '(8, 4)', '(8, 1)'], **each(VALUE_DOORS, np.ones((8, 1))))
row('one value for all', ValueError, ['target', '(8, 4)', '()'], **each(VALUE_DOORS, 1.))
row('a value that is missing', ValueError, ['target', 'NaN', 'row 2, column 3'], **each(VALUE_DOORS, put(VALUES, (2, 3), np.nan)))
row('an infinite value', ValueError, ['target', 'infinity', 'row 2, column 3'], **each(VALUE_DOORS, put(VALUES, (2, 3), np.inf)))

row('two lengths', ValueError, ['equally many rows', '8', '5'],
    split=lambda w: split(w.x, w.labels[:5], rng=w.rng), batches=lambda w: batches(w.x, w.labels[:5], 2, w.rng),
    train_epoch=lambda w: train_epoch(w.model, w.x, w.labels[:5], w.opt, w.rng))
row('nothing to cut', ValueError, ['rows'], split=lambda w: split([], [], rng=w.rng), batches=lambda w: batches([], [], 2, w.rng))
row('a class of one row', ValueError, ['class 1', '1 row'], split=lambda w: split(w.x[:4], [0, 0, 1, 3], .5, w.rng, stratify=True))
row('a label beyond', ValueError, ['0 to 3', '9'], one_hot=lambda w: one_hot([0, 9], 4))

# --- gradients that do not belong to the outputs ----------------------------------------------------------------------------------

row('a message of another shape', ValueError, ['g', '(8, 4)', '(8, 3)'], backward=lambda w: w.model.backward(np.ones((8, 3))))
row('nothing to go back through', RuntimeError, ['call'], model=lambda w: deepcopy(w.model).backward(w.y), layer=lambda w: Linear(2, 2, 0).backward(w.y),
    dropout=lambda w: Dropout(.5, 0).backward(w.y), norm=lambda w: BatchNorm(2).backward(w.y),
    embedding=lambda w: Embedding(3, 2, 0).backward(w.y), lstm=lambda w: LSTM(2, 2, 0).backward(w.y))
row('scores without rows', ValueError, ['y', 'empty'], value_and_grad=lambda w: value_and_grad(cross_entropy, np.ones((0, 4)), []))

# --- settings that are whole numbers ----------------------------------------------------------------------------------------------

WIDTHS = {  # door -> name of the setting, function of the world and the value
    'Linear in': ('n_in', lambda w, v: Linear(v, 2, 0)), 'Linear out': ('n_out', lambda w, v: Linear(2, v, 0)),
    'Conv in': ('c_in', lambda w, v: Conv(v, 2, 3, 0)), 'Conv out': ('c_out', lambda w, v: Conv(2, v, 3, 0)),
    'Conv window': ('k', lambda w, v: Conv(2, 2, v, 0)),
    'Conv stride': ('stride', lambda w, v: Conv(2, 2, 3, 0, stride=v)), 'MaxPool': ('k', lambda w, v: MaxPool(v)), 'AvgPool': ('k', lambda w, v: AvgPool(v)),
    'Image height': ('h', lambda w, v: Image(v, 2)), 'Image width': ('w', lambda w, v: Image(2, v)), 'Image channels': ('c', lambda w, v: Image(2, 2, v)),
    'BatchNorm': ('n', lambda w, v: BatchNorm(v)), 'LayerNorm': ('n', lambda w, v: LayerNorm(v)),
    'Embedding symbols': ('n_symbols', lambda w, v: Embedding(v, 2, 0)), 'Embedding out': ('n_out', lambda w, v: Embedding(2, v, 0)),
    'RNN in': ('n_in', lambda w, v: RNN(v, 2, 0)), 'GRU out': ('n_out', lambda w, v: GRU(2, v, 0)),
    'LSTM truncate': ('truncate', lambda w, v: LSTM(2, 2, 0, truncate=v)),
    'Transformer tokens': ('n_tokens', lambda w, v: Transformer(v, 2, 4, 0)),
    'Transformer heads': ('n_heads', lambda w, v: Transformer(2, 2, 4, 0, n_heads=v)),
    'causal_mask': ('t', lambda w, v: causal_mask(v)), 'positions': ('d', lambda w, v: positions(2, v)),
    'batch_size in fit': ('batch_size', lambda w, v: fit(w.model, w.x, w.labels, w.opt, w.rng, batch_size=v)),
    'batch_size in batches': ('batch_size', lambda w, v: batches(w.x, w.labels, v, w.rng)),
    'batch_size in fit_parallel': ('batch_size', lambda w, v: fit_parallel(w.model, w.x, w.labels, w.opt, w.rng, InTurn(), batch_size=v)),
    'stairs': ('every', lambda w, v: step_decay(.1, v)), 'cosine': ('n_steps', lambda w, v: cosine(.1, v)),
    'warm_up': ('n_steps', lambda w, v: warm_up(cosine(.1, 9), v)),
    'folds': ('n', lambda w, v: folds(v, 2, w.rng)), 'LossScale': ('patience', lambda w, v: LossScale(1, v)),
    'names': ('n', lambda w, v: generate(w.model, v, w.rng)),
}
for door, (name, call) in WIDTHS.items():
    for wrong in (0, -1): row(f'{wrong} for a whole number from 1', ValueError, [name, repr(wrong)], **each({door: call}, wrong))
    for wrong in (2.5, 'three', True, np.nan): row(f'{wrong!r} for a whole number', TypeError, [name, repr(wrong)], **each({door: call}, wrong))
for wrong, error in ((-1, ValueError), (2., TypeError), ('2', TypeError), (None, TypeError), (True, TypeError)):
    row(f'{wrong!r} epochs', error, ['n_epochs', repr(wrong)], fit=lambda w, v=wrong: fit(w.model, w.x, w.labels, w.opt, w.rng, n_epochs=v),
        fit_parallel=lambda w, v=wrong: fit_parallel(w.model, w.x, w.labels, w.opt, w.rng, InTurn(), n_epochs=v))
row('no layers at all', TypeError, ['layers', 'at least one'], Sequential=lambda w: Sequential())
row('widths in place of layers', TypeError, ['layers', '64'], Sequential=lambda w: Sequential(64, 32))
row('a class in place of a layer', TypeError, ['ReLU', 'call it'], Sequential=lambda w: Sequential(Linear(2, 2, 0), ReLU))
row('layers that do not fit', ValueError, ['Linear(3, 5)', '5', 'Linear(4, 2)'], Sequential=lambda w: Sequential(Linear(3, 5, 0), Tanh(), Linear(4, 2, 0)))
row('a layer of another model', ValueError, ['belongs to another model'], Sequential=lambda w: Sequential(w.model.layers[0]))

# --- settings that are numbers of a range -----------------------------------------------------------------------------------------

OPTIMIZERS = SGD, Adagrad, RMSprop, Adam, AdamW
def optimizer(Opt, name): return lambda w, v: Opt(w.model, **{'lr': .1, name: v})

for Opt in OPTIMIZERS:
    for wrong in (0, -.1, np.nan, np.inf, '0.1', None, True, [.1]):
        row(f'lr={wrong!r}', ValueError if type(wrong) in (int, float) else TypeError, ['lr', repr(wrong)], **{Opt.__name__: lambda w, Opt=Opt, v=wrong: Opt(w.model, lr=v)})
    for wrong, error in ((-1e-9, ValueError), (np.nan, ValueError), (np.inf, ValueError), ('0', TypeError), (None, TypeError)):
        row(f'weight_decay={wrong!r}', error, ['weight_decay', repr(wrong)], **each({Opt.__name__: optimizer(Opt, 'weight_decay')}, wrong))
row('a learning rate changed to nonsense', ValueError, ['lr', 'nan'], setter=lambda w: setattr(w.opt, 'lr', np.nan))

RANGES = {  # door -> name of the setting, function of the world and the value, values that are out of range
    'SGD': ('momentum', optimizer(SGD, 'momentum'), (-.1, 1, 1.5, np.nan)),
    'RMSprop': ('alpha', optimizer(RMSprop, 'alpha'), (-.1, 1, np.nan)), 'RMSprop eps': ('eps', optimizer(RMSprop, 'eps'), (0, -1e-8, np.nan, np.inf)),
    'Adagrad eps': ('eps', optimizer(Adagrad, 'eps'), (0, -1e-8, np.nan)), 'Adam eps': ('eps', optimizer(Adam, 'eps'), (0, -1e-8, np.nan)),
    'AdamW eps': ('eps', optimizer(AdamW, 'eps'), (0, np.inf)),
    'Adam first beta': ('betas', lambda w, v: Adam(w.model, betas=(v, .999)), (-.1, 1, np.nan)),
    'AdamW second beta': ('betas', lambda w, v: AdamW(w.model, betas=(.9, v)), (-.1, 1, np.nan)),
    'Dropout': ('p', lambda w, v: Dropout(v, w.rng), (-.1, 1, 1.5, np.nan)), 'LeakyReLU': ('slope', lambda w, v: LeakyReLU(v), (-.1, 1.1, np.nan)),
    'ELU': ('alpha', lambda w, v: ELU(v), (0, -1, np.inf)),
    'BatchNorm eps': ('eps', lambda w, v: BatchNorm(2, eps=v), (0, -1, np.nan)),
    'BatchNorm momentum': ('momentum', lambda w, v: BatchNorm(2, momentum=v), (-.1, 1.1, np.nan)),
    'LayerNorm eps': ('eps', lambda w, v: LayerNorm(2, eps=v), (0, np.nan)),
    'clip': ('clip', lambda w, v: fit(w.model, w.x, w.labels, w.opt, w.rng, clip=v), (0, -1, np.nan, np.inf)),
    'clip_norm': ('max_norm', lambda w, v: clip_norm(w.y, v), (0, -1, np.nan)),
    'tol': ('tol', lambda w, v: fit(w.model, w.x, w.labels, w.opt, w.rng, tol=v), (-1, np.nan)),
    'budget': ('budget', lambda w, v: fit(w.model, w.x, w.labels, w.opt, w.rng, budget=v), (-1, np.nan, np.inf)),
    'split': ('test', lambda w, v: split(w.x, w.labels, v, w.rng), (0, 1, -.2, np.nan)),
    'stairs': ('factor', lambda w, v: step_decay(.1, 9, v), (0, 1.1, np.nan)), 'cosine': ('lr_min', lambda w, v: cosine(.1, 9, v), (-.1, .2, np.nan)),
    'rate of a schedule': ('lr', lambda w, v: cosine(v, 9), (0, -1, np.nan)),
    'LossScale': ('scale', lambda w, v: LossScale(v), (0, -1, np.nan)), 'jitter': ('noise', lambda w, v: jitter(w.x, v, w.rng), (-1, np.nan, np.inf)),
    'moons': ('noise', lambda w, v: moons(9, v, w.rng), (-1, np.nan)),
    'circles': ('factor', lambda w, v: circles(9, 0, w.rng, v), (-.1, 1, np.nan)),
    'lr_range_test': ('low', lambda w, v: lr_range_test(w.model, w.x, w.labels, w.opt, w.rng, low=v), (0, np.nan)),
    'GRU': ('keep', lambda w, v: GRU(2, 2, 0, keep=v), (np.nan, np.inf)),
}
for door, (name, call, wrongs) in RANGES.items():
    for wrong in wrongs: row(f'{name}={wrong!r}', ValueError, [name, repr(wrong)], **each({door: call}, wrong))
    row(f'{name} in words', TypeError, [name, "'much'"], **each({f'{door}': call}, 'much'))
row('one beta', ValueError, ['betas', '0.9'], Adam=lambda w: Adam(w.model, betas=.9), AdamW=lambda w: AdamW(w.model, betas=(.9,)))
row('nesterov without momentum', ValueError, ['nesterov', 'momentum'], SGD=lambda w: SGD(w.model, .1, nesterov=True))
row('patience without validation', ValueError, ['patience', 'validation'], fit=lambda w: fit(w.model, w.x, w.labels, w.opt, w.rng, patience=3))
row('validation that is no pair', TypeError, ['validation', 'pair'], fit=lambda w: fit(w.model, w.x, w.labels, w.opt, w.rng, validation=w.x))

# --- names that nobody knows, and functions that are none --------------------------------------------------------------------------

for wrong in ('mse', 'cross-entropy', None, [], lambda y, t: 0):
    row(f'loss={wrong if not callable(wrong) else "a function without a rule"!r}', ValueError, ['loss', 'cross_entropy, mse', repr(wrong)[:9]], fit=lambda w,
        v=wrong: fit(w.model, w.x, w.labels, w.opt, w.rng, loss=v),
        value_and_grad=lambda w, v=wrong: value_and_grad(v, w.y, w.labels), lr_range_test=lambda w, v=wrong: lr_range_test(w.model, w.x, w.labels, w.opt,
            w.rng, loss=v))
for wrong in ('float16', np.int64, 'double precision', None, 64):
    name = wrong if isinstance(wrong, str) else str(wrong) if wrong is None else np.dtype(wrong).name if isinstance(wrong, type) else '64'
    row(f'dtype={name}', ValueError, ['dtype', name, "'float32', 'float64'"], Sequential=lambda w, v=wrong: Sequential(Linear(2, 2, 0), dtype=v))
for wrong in ('he_normal', None, 1): row(f'init={wrong!r}', ValueError, ['init', 'he_normal', repr(wrong)], Linear=lambda w,
    v=wrong: Linear(2, 2, w.rng, init=v))
for wrong in ('adam', None, Adam): row(f'opt={wrong!r}', ValueError, ['opt', 'Adam(model)', 'dam' if wrong else 'None'], fit=lambda w,
    v=wrong: fit(w.model, w.x, w.labels, v, w.rng))
row('an optimizer of another model', ValueError, ['opt', 'this model'], fit=lambda w: fit(deepcopy(w.model), w.x, w.labels, w.opt, w.rng),
    fit_parallel=lambda w: fit_parallel(deepcopy(w.model), w.x, w.labels, w.opt, w.rng, InTurn()))
for wrong in (None, 'model', X): row(f'{type(wrong).__name__} in place of a model', TypeError, ['model', type(wrong).__name__],
    **{Opt.__name__: lambda w, Opt=Opt, v=wrong: Opt(v, lr=.1) for Opt in OPTIMIZERS})
row('a schedule that is a number', TypeError, ['schedule', '0.1'], fit=lambda w: fit(w.model, w.x, w.labels, w.opt, w.rng, schedule=.1),
    warm_up=lambda w: warm_up(.1, 5))
row('a score that is a name', TypeError, ['score', "'accuracy'"], fit=lambda w: fit(w.model, w.x, w.labels, w.opt, w.rng, score='accuracy'))

CHANCE = dict(Linear=lambda v: Linear(2, 2, v), Dropout=lambda v: Dropout(.5, v), Conv=lambda v: Conv(1, 1, 2, v), Embedding=lambda v: Embedding(2, 2, v),
    RNN=lambda v: RNN(2, 2, v), LSTM=lambda v: LSTM(2, 2, v),
              Transformer=lambda v: Transformer(2, 2, 2, v), moons=lambda v: moons(9, 0, v), xor=lambda v: xor(9, 0, v), spirals=lambda v: spirals(9, 0,
                  v), split=lambda v: split(X, LABELS, rng=v), batches=lambda v: batches(X, LABELS, 2, v),
              jitter=lambda v: jitter(X, 1, v), folds=lambda v: folds(9, 2, v))
for wrong, error in ((None, TypeError), (-1, ValueError), (1.5, TypeError), ('seed', TypeError), (True, TypeError), (np.random, TypeError),
    (np.random.RandomState(0), TypeError)):
    said = repr(wrong)[:10] if not isinstance(wrong, np.random.RandomState) else 'RandomState'
    row(f'rng={said}', error, ['rng', said], fit=lambda w, v=wrong: fit(w.model, w.x, w.labels, w.opt, v),
        **{name: lambda w, make=make, v=wrong: make(v) for name, make in CHANCE.items()})

# --- what depends on neighbours, shapes that must be those that are there, numbers by themselves -------------------------------------

def normed(): return Sequential(Linear(3, 4, 0), BatchNorm(4), Linear(4, 4, 0), dtype=np.float64)
row('batch norm of one row', ValueError, ['at least 2 rows', 'batch_size', 'eval()'], call=lambda w: normed()(w.x[:1]))

SHAPES = dict(params=lambda w, v: setattr(w.model, 'params', v), grads=lambda w, v: setattr(w.model, 'grads', v))
row('a vector of another length', ValueError, ['(44,)', '(43,)'], **each(SHAPES, np.ones(43)))
row('one number for a vector', ValueError, ['(44,)', '()'], **each(SHAPES, 1.))
row('text for a vector', TypeError, ['real numbers'], **each(SHAPES, ['a'] * 44))
row('weights of another shape', ValueError, ['w', '(3, 5)', '(5, 3)'], w=lambda w: setattr(w.model.layers[0], 'w', np.ones((5, 3))))
row('biases of another shape', ValueError, ['b', '(5,)', '(1, 5)'], b=lambda w: setattr(w.model.layers[0], 'b', np.ones((1, 5))))
row('a state dict of another network', ValueError, ['0.weight', '(5, 3)', '(3, 5)'],
    from_state_dict=lambda w: from_state_dict(w.model, to_state_dict(w.model) | {'0.weight': np.ones((3, 5))}))
row('a state dict with a name too few', ValueError, ['missing', '2.bias'],
    from_state_dict=lambda w: from_state_dict(w.model, {k: v for k, v in to_state_dict(w.model).items() if k != '2.bias'}))
row('images of no three axes', ValueError, ['images', '(8, 3)'], shift=lambda w: shift(w.x, 1, 1), rotate=lambda w: rotate(w.x, 90))
row('a window larger than the image', ValueError, ['window', '3 by 3', '2 by 2'],
    conv=lambda w: Sequential(Image(2, 2), Conv(1, 1, 3, 0)).predict(np.ones((1, 4))))
row('rows where images are needed', ValueError, ['images', '(8, 5)', 'Image(h, w, c)'],
    pool=lambda w: Sequential(Linear(3, 5, 0), MaxPool(2), Flatten()).predict(w.x))
row('a code beyond the table', ValueError, ['codes', '0 to 4', '5'], embedding=lambda w: Sequential(Embedding(5, 2, 0)).predict([[1, 5]]))
row('a code that is negative', ValueError, ['codes', '0 to 4', '-1'], embedding=lambda w: Sequential(Embedding(5, 2, 0)).predict([[1, -1]]))
row('half a token', ValueError, ['tokens', '0 to 4', '1.5'], transformer=lambda w: Sequential(Transformer(5, 2, 4, 0)).predict([[1, 1.5]]))

row('division by 0', ZeroDivisionError, ['zero'], scalar=lambda w: Scalar(1.) / Scalar(0.), mirrored=lambda w: 1 / Scalar(0.))
row('0 to a negative power', ZeroDivisionError, ['negative power'], scalar=lambda w: Scalar(0.)**-1)
row('the logarithm of 0', ValueError, [], scalar=lambda w: Scalar(0.).log(), negative=lambda w: Scalar(-1.).log())
row('a gradient of many numbers', ValueError, ['(3,)', 'backward(g)'], tensor=lambda w: Tensor([1, 2, 3]).backward())
row('a message to a tensor that does not fit', ValueError, ['(3,)', '(2,)'], tensor=lambda w: Tensor([1, 2, 3]).backward([1, 2]))
row('tensors that do not fit', ValueError, ['(2, 3)', '(2, 2)'], matmul=lambda w: Tensor(np.ones((2, 3))) @ Tensor(np.ones((2, 2))))
row('a tangent of another shape', ValueError, ['tangent', '(2,)', '(3,)'], dual=lambda w: Dual([1., 2], [1., 2, 3]))

@pytest.mark.parametrize('call, error, facts', [pytest.param(call, error, facts, id=f'{what} -> {door}') for what, door, call, error, facts in walk])
def test_a_wrong_call_is_refused_with_the_facts_and_nothing_has_changed(call, error, facts):
    world = World()
    before = world.bits()
    with pytest.raises(error) as caught: call(world)
    assert type(caught.value) is error
    missing = [fact for fact in facts if fact not in str(caught.value)]
    assert not missing, f'{missing} not in: {caught.value}'
    assert world.bits() == before, 'something has changed'

def test_the_walk_has_no_step_twice():
    steps = [(what, door) for what, door, *_ in walk]
    assert len(steps) > 900 and len(set(steps)) == len(steps)

def test_a_bad_row_is_never_answered_with_a_number():
    "Behind the doors, too: layers and functions let NaN through to the rows that had it, and to no other"
    x = put(X, (2, 1), np.nan)
    for layer in (Linear(3, 4, 0), Tanh(), ReLU(), LeakyReLU(), ELU(), LayerNorm(3)):
        y = layer.predict(x)
        assert np.isnan(y[2]).any() and np.isfinite(np.delete(y, 2, axis=0)).all(), layer
    assert all(np.isnan(loss(x, X)) for loss in (mse, mae, huber, binary_cross_entropy)) and np.isnan(cross_entropy(x, LABELS % 3))

def test_one_class_only_is_learned():
    world = World()
    fit(world.model, world.x, np.full(8, 2), Adam(world.model, .1), 0, n_epochs=30)
    assert (world.model.predict(world.x).argmax(axis=1) == 2).all()

# --- the right numbers in odd clothes ----------------------------------------------------------------------------------------------

def bytewise(a): return a.astype(a.dtype.newbyteorder('>' if np.little_endian else '<'))
def strided(a): return np.repeat(np.repeat(a, 2, axis=0), 3, axis=-1)[::2, ..., ::3] if a.ndim > 1 else np.repeat(a, 2)[::2]
def backwards(a): return np.ascontiguousarray(a[::-1])[::-1]
def inside(a):
    "A view into the middle of something larger"
    large = np.full([n + 2 for n in a.shape], np.nan if a.dtype.kind == 'f' else 1).astype(a.dtype)
    middle = large[tuple(slice(1, -1) for _ in a.shape)]
    middle[...] = a
    return middle
def readonly(a):
    a = a.copy()
    a.flags.writeable = False
    return a
class Subclass(np.ndarray): pass
class Arraylike:
    "What only offers `__array__`, as arrays of other libraries do"
    def __init__(self, a): self.a = a
    def __array__(self, dtype=None, copy=None): return self.a if dtype is None else self.a.astype(dtype)

CLOTHES = {
    'lists': np.ndarray.tolist, 'tuples': lambda a: tuple(map(tuple, a.tolist())) if a.ndim > 1 else tuple(a.tolist()), 'list of arrays': list,
    'big-endian': bytewise, 'strided': strided, 'backwards': backwards,
    'part of another': inside, 'read-only': readonly, 'Fortran order': np.asfortranarray, 'a subclass': lambda a: a.view(Subclass), 'array-like': Arraylike,
    'objects': lambda a: a.astype(object), 'memory view': lambda a: memoryview(np.ascontiguousarray(a)),
}
DTYPES = np.float16, np.float32, np.float64, np.longdouble, np.int8, np.uint8, np.int32, np.uint64, np.bool_

@st.composite
def dressed(draw, shape, dtypes=DTYPES, low=0, high=1):
    "Numbers that every one of the dtypes holds exactly, in one dtype and one kind of clothes, and the same as plain floats"
    plain = np.array(draw(st.lists(st.integers(low, high), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))).reshape(shape).astype(float)
    dtype, clothes = draw(st.sampled_from(dtypes)), draw(st.sampled_from(sorted(CLOTHES)))
    if clothes == 'memory view' and dtype in (np.float16, np.longdouble): clothes = 'read-only'
    return CLOTHES[clothes](plain.astype(dtype)), plain

def content(a):
    "The bits of what was handed in, whatever it is"
    if isinstance(a, Arraylike): a = a.a
    return (np.asarray(a).dtype.str, np.asarray(a).tobytes() if np.asarray(a).dtype.kind != 'O' else repr(a))

def learned(x, target, loss, val_x, val_target):
    model = Sequential(Linear(3, 5, 0), Dropout(.2, 3), BatchNorm(5), Tanh(), Linear(5, 4, 1))
    history = fit(model, x, target, AdamW(model, .01), 5, loss=loss, n_epochs=2, batch_size=4, validation=(val_x, val_target))
    return model.params, model.buffers, model.predict(x), *map(np.array, (history.loss, history.val_loss, history.val_score))

@examples(max_examples=60)
@given(dressed((8, 3)), dressed((8,), high=1), dressed((8, 3)), dressed((8,)))
def test_odd_clothes_train_like_plain_ones_and_are_not_written_to(x, target, val_x, val_target):
    odd, plain = zip(x, target, val_x, val_target)
    before = [content(a) for a in odd]
    one, other = (learned(x, t, cross_entropy, vx, vt) for x, t, vx, vt in (odd, plain))
    for a, b in zip(one, other): assert_array_equal(a, b)
    assert [content(a) for a in odd] == before

@examples(max_examples=60)
@given(dressed((8, 3)), dressed((8, 4)), st.sampled_from([mse, mae, huber, binary_cross_entropy]))
def test_odd_values_train_like_plain_ones_and_are_not_written_to(x, values, loss):
    (odd, plain), (odd_t, plain_t) = x, values
    before = content(odd), content(odd_t)
    for a, b in zip(learned(odd, odd_t, loss, odd, odd_t), learned(plain, plain_t, loss, plain, plain_t)): assert_array_equal(a, b)
    assert (content(odd), content(odd_t)) == before

SINGLE_DOORS = {    # other doors to numbers, each a function of the numbers (8, 3) alone
    'call and walk back': lambda x: (lambda m: (m(x), m.backward(np.ones((8, 2)), need_dx=True), m.grads))(Sequential(Linear(3, 2, 0), Tanh())),
    'the message': lambda x: (lambda m: (m(X), m.backward(x, need_dx=True), m.grads))(Sequential(Linear(3, 3, 0), Tanh())),
    'outputs and values': lambda x: value_and_grad(mse, np.ones((8, 3)), x),
    'outputs and labels': lambda x: value_and_grad(cross_entropy, x, [0, 1, 2, 0, 1, 2, 0, 1]),
    'accuracy': lambda x: (accuracy(x, [0, 1, 2, 0, 1, 2, 0, 1]), confusion(x, [0, 1, 2, 0, 1, 2, 0, 1])),
    'parameters': lambda x: (lambda m: (setattr(m, 'params', np.ravel(np.asarray(x, float))), m.params))(Sequential(Linear(2, 8, 0))),
    'weights': lambda x: (lambda m: (setattr(m, 'w', x), m.w))(Linear(8, 3, 0)),
    'a state': lambda x: from_state_dict(Sequential(Linear(3, 8, 0)), {'0.weight': x, '0.bias': np.zeros(8)}).params,
    'a tensor': lambda x: (lambda t: ((t * t).sum().backward(), t.grad))(Tensor(x)),
    'images': lambda x: (shift(np.asarray(x, float)[:, None], 1, 0), rotate(np.asarray(x, float)[:, None], 10)),
    'standardize': standardize,
    'split': lambda x: [np.asarray(a, float) for a in split(x, x, rng=0)],
    'batches': lambda x: [np.asarray(a, float) for pair in batches(x, x, 3, 0) for a in pair],
    'instruments': lambda x: instruments(Sequential(Linear(3, 3, 0), Tanh()), x, [0, 1, 2, 0, 1, 2, 0, 1])['gradient'],
    'a range test': lambda x: (lambda m: lr_range_test(m, x, [0, 1, 2, 0, 1, 2, 0, 1], SGD(m), 0, n_steps=5, batch_size=4))(Sequential(Linear(3, 3, 0))),
    'half the bits': lambda x: (lambda m: half_grad(m, cross_entropy, x, [0, 1, 2, 0, 1, 2, 0, 1]))(Sequential(Linear(3, 3, 0))),
}

KEEP_FLOAT32 = 'standardize', 'outputs and labels', 'outputs and values'    # these answer in the precision of what came

def flat(v): return [np.asarray(v)] if not isinstance(v, (tuple, list)) else [a for part in v for a in flat(part)]

@pytest.mark.parametrize('door', SINGLE_DOORS)
@examples(max_examples=40)
@given(case=dressed((8, 3)))
def test_every_door_takes_odd_clothes_for_plain_ones(door, case):
    odd, plain = case
    before = content(odd)
    if door in KEEP_FLOAT32 and getattr(odd, 'dtype', None) == np.float32: plain = plain.astype(np.float32)
    for a, b in zip(flat(SINGLE_DOORS[door](odd)), flat(SINGLE_DOORS[door](plain))): assert_array_equal(a, b)
    assert content(odd) == before

def test_tables_of_pandas_are_numbers_too():
    pd = pytest.importorskip('pandas')
    table, column = pd.DataFrame(X, columns=list('abc'), index=range(100, 108)), pd.Series(LABELS, index=range(50, 58))
    for a, b in zip(learned(table, column, cross_entropy, table[['a', 'b', 'c']], column),
        learned(X, LABELS, cross_entropy, X, LABELS)): assert_array_equal(a, b)
    for a, b in zip(split(table, column), split(X, LABELS)): assert_array_equal(a, b)
    assert (table.to_numpy() == X).all() and (column.to_numpy() == LABELS).all()
    model = Sequential(Linear(3, 4, 0))
    with pytest.raises(TypeError, match='real numbers'): model.predict(pd.DataFrame({'a': ['x'], 'b': ['y'], 'c': ['z']}))
    with pytest.raises(ValueError, match='NaN at row 0, column 1'): model.predict(pd.DataFrame({'a': [1.], 'b': [None], 'c': [2]}))

def test_tensors_of_pytorch_are_numbers_too():
    torch = pytest.importorskip('torch')
    for a, b in zip(learned(torch.tensor(X), torch.tensor(LABELS), cross_entropy, torch.tensor(X), torch.tensor(LABELS)),
        learned(X, LABELS, cross_entropy, X, LABELS)): assert_array_equal(a, b)

def test_the_facts_are_read_by_people():
    "No refusal speaks of the inside: no module, no traceback words, not longer than three lines of a terminal"
    for what, door, call, error, _ in walk[::7]:
        with pytest.raises(error) as caught: call(World())
        assert len(str(caught.value)) < 300 and not re.search(r'Traceback|numpy\._core', str(caught.value)), f'{what} -> {door}: {caught.value}'
