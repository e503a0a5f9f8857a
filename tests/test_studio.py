"What the studio promises: a run is its program, the same start is the same, what is shown is what was computed, and training never holds up the kernel"
import asyncio
import gc
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from project import ROOT

from backprop_nb import studio
from backprop_nb.init import instruments
from backprop_nb.layers import Linear
from backprop_nb.studio import (
    AHEAD, DEFAULTS, KNOBS, PRESETS, SPEEDS, Desk, Run, Tuning, checked, compare, frame, inside, judge, keep, plane, search_against, sureness, tune, verdict,
)

rng = np.random.default_rng(0)
OWN = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
FLAT = rng.normal(size=(50, 2)), rng.integers(0, 2, 50)
LIVE = [name for name, k in KNOBS.items() if not k['restarts']]

def bits(run): return run.model.params.tobytes()

def again(run, **names):
    "The parameters that the run's program leads to, in an empty namespace"
    exec(str(run.program()), names)
    return names['model'].params.tobytes()

def values(name):
    "Values of a knob that make small runs"
    k = KNOBS[name]
    if name == 'data': return st.sampled_from(['moons', 'circles', 'spirals', 'xor', 'digits'])
    if k['kind'] == 'choice': return st.sampled_from(k['options'])
    if k['kind'] == 'whole': return st.integers(k['low'], min(k['high'], {'depth': 4, 'width': 9, 'n_epochs': 40, 'n': 90}.get(name, 50)))
    if k['kind'] == 'log': return st.sampled_from([.001, .01, .1, .3])
    return st.floats(k['low'], k['high'] if name != 'split' else .8)

some = st.fixed_dictionaries({}, optional={name: values(name) for name in KNOBS})
moves = st.lists(st.tuples(st.integers(0, 9), st.fixed_dictionaries({}, optional={name: values(name) for name in LIVE})), max_size=4)

# ------------------------------------------------------------------ knobs

def test_every_knob_is_within_its_own_range_and_says_what_it_does():
    assert checked({}) == DEFAULTS
    for name, k in KNOBS.items():
        assert k['help'] and k['label'] and k['group']
        ends = k['options'] if k['kind'] == 'choice' else [k['low'], k['high']]
        for v in ends: assert checked({name: v})[name] == v

@pytest.mark.parametrize('given, kind, words', [
    (dict(lr=0), ValueError, 'lr'), (dict(lr='fast'), TypeError, 'lr'), (dict(lr=math.nan), ValueError, 'lr'), (dict(lr=True), TypeError, 'lr'),
    (dict(depth=1.5), TypeError, 'depth'), (dict(depth=-1), ValueError, 'depth'), (dict(width=65), ValueError, '64'), (dict(n=10), ValueError, '20'),
    (dict(data='moon'), ValueError, 'moons'), (dict(l2=.5), ValueError, 'l2'), (dict(batch_size=31), ValueError, 'batch_size'), (dict(batch_size=True), ValueError, 'batch_size'),
    (dict(dropout=1), ValueError, 'dropout'), (dict(learning_rate=1), ValueError, 'learning_rate'), (dict(momentunm=1), ValueError, "'momentum'"), ({3: 1}, ValueError, '3'),
    ([('lr', 1)], TypeError, 'settings'), ('lr', TypeError, 'settings'), (dict(data='own'), ValueError, 'arrays')])
def test_bad_settings_are_refused_by_name(given, kind, words):
    with pytest.raises(kind, match=words): Run(given)

@pytest.mark.parametrize('data, words', [
    (OWN[0], 'data'), ((OWN[0], OWN[1][:9]), 'target'), ((OWN[0][:, 0], OWN[1]), '2-D'), ((np.full((9, 2), np.nan), np.zeros(9)), 'NaN'), ((OWN[0], OWN[1] + .5), 'labels'),
    ((OWN[0], -OWN[1]), 'target'), ((OWN[0], np.zeros(60)), 'classes'), ((OWN[0][:2], OWN[1][:2]), '4 rows'), ((OWN[0], 1000 * OWN[1]), 'classes'), ((OWN[0], OWN[1].astype(str)), 'target')])
def test_bad_arrays_are_refused(data, words):
    with pytest.raises((TypeError, ValueError), match=words): Run(data=data)

def test_a_refused_knob_turns_nothing():
    run = Run()
    run.step(7)
    before = dict(run.settings), bits(run)
    with pytest.raises(ValueError, match='depth'): run.set(lr=.5, depth=99)
    assert (run.settings, bits(run)) == before and run.steps == 7

# ------------------------------------------------------------------ to the bit

def turned_run(start, turned):
    "A run from `start`, with the knobs of `turned` set after so many steps each"
    run = Run(start)
    for n, knobs in turned:
        run.step(n)
        run.set(**knobs)
    return run

@given(some, moves)
@settings(max_examples=60)
def test_a_program_does_its_run_again_to_the_bit(start, turned):
    run = turned_run(start, turned)
    run.step(5)
    assert again(run) == bits(run)

@given(some, moves)
@settings(max_examples=40)
def test_a_dictionary_leads_to_the_same_place(start, turned):
    run = turned_run(start, turned)
    saved = json.loads(json.dumps(run.to_dict()))
    other = Run.from_dict(saved)
    assert bits(other) == bits(run) and other.settings == run.settings and other.steps == run.steps and other.to_dict() == run.to_dict()
    assert run.step(6) == other.step(6)
    assert bits(other) == bits(run)

@pytest.mark.parametrize('start', [{}, dict(data='digits', dropout=.3, optimizer='Adam', lr=.01), dict(data='xor', loss='mse', l1=.001, schedule='warm-up')], ids=str)
def test_reset_leads_to_the_same_start_and_the_same_run(start):
    run = Run(start)
    first = bits(run)
    run.step(33)
    there, seen = bits(run), list(run.history['val_loss'])
    run.reset()
    assert bits(run) == first and run.steps == 0 and len(run.history['step']) == 1
    run.step(33)
    assert bits(run) == there and run.history['val_loss'] == seen

def test_looking_changes_nothing():
    "Dropout draws from the generator that shuffles; a look must not draw from it"
    start = dict(dropout=.5, optimizer='Adam', lr=.01, n_epochs=10)
    watched, unseen = Run(start), Run(start, record=False)
    for _ in range(20):
        watched.step()
        watched.measure(), frame(watched), keep(watched), watched.program(), watched.to_dict()
    unseen.step(20)
    assert bits(watched) == bits(unseen) and not unseen.history['step']

def test_steps_epochs_and_the_end():
    run = Run(dict(n=100, split=.4, batch_size=16, n_epochs=3))      # 60 to learn from: 16, 16, 16, 12
    assert run.epoch() == 4 and run.epochs == 1 and run.step() == 1 and run.epoch() == 3 and run.epochs == 2 and not run.done
    assert run.step(10) == 4 and run.done and run.step(10) == 0 and run.epoch() == 0 and run.steps == 12
    run.set(n_epochs=4)
    assert not run.done and run.step(99) == 4

def test_knobs_of_data_and_net_start_anew_and_say_so():
    for name, k in KNOBS.items():
        run = Run(dict(n_epochs=30))
        run.step(3)
        v = next(v for v in ([o for o in k['options'] if o != 'own'] if k['kind'] == 'choice' else [k['low'], k['high']]) if v != run.settings[name])
        assert run.set(**{name: v}) == ([name] if k['restarts'] else []), name
        assert run.steps == (0 if k['restarts'] else 3)

def test_a_knob_that_is_dragged_in_a_pause_leaves_one_line():
    run = Run()
    run.step(5)
    for lr in np.linspace(.1, .9, 50): run.set(lr=float(lr))
    run.step(5)
    assert str(run.program()).count('opt.lr') == 1 and 'opt.lr = 0.9' in str(run.program())
    run.set(lr=.2)
    run.set(lr=.9)                                # and back: nothing has changed
    run.step(5)
    assert str(run.program()).count('opt.lr') == 1

def test_turning_a_knob_in_mid_run_does_what_it_says():
    run = Run(dict(momentum=.5))
    run.step(2)
    run.set(lr=.7, momentum=.8, l2=.01, batch_size=8)
    run.step(1)
    opt = run.space['opt']
    assert (opt.lr, opt.momentum, opt.weight_decay, opt.t) == (.7, .8, .01, 3)
    assert run.left == 2                                               # the batch size waits for the next epoch
    run.epoch()
    assert run.epoch() == math.ceil(150 / 8)
    run.set(optimizer='Adam', dropout=.4)
    before = bits(run)
    run._turn()
    assert bits(run) == before and type(run.space['opt']).__name__ == 'Adam' and [layer.p for layer in run.model.layers if hasattr(layer, 'p')] == [.4, .4]

@pytest.mark.parametrize('schedule', ['stairs', 'cosine', 'warm-up'])
def test_a_schedule_spans_the_run(schedule):
    run = Run(dict(schedule=schedule, lr=.4, n_epochs=20))
    rates = []
    while run.epoch(): rates.append(run.space['opt'].lr)
    assert len(rates) == 20 and max(rates) <= .4 and rates[-1] < .1 and (rates[0] == .4) == (schedule != 'warm-up')

def test_a_run_that_leaves_the_finite_numbers_stops_before_it_does():
    run = Run(dict(activation='ReLU', loss='mse', lr=30, depth=4, data='spirals', init='standard_normal'))
    run.finish()
    assert run.diverged and run.done and np.isfinite(run.model.params).all() and run.step() == 0 and 'learning rate 30' in run.diverged
    assert again(run) == bits(run)
    head, _ = frame(run)
    json.dumps(head, allow_nan=False)
    run.set(lr=1e-4)
    run.reset()
    assert not run.diverged and run.step(5) == 5

def test_parameters_that_are_not_finite_are_taken_back():
    run = Run()
    run.step(3)
    before = bits(run)
    def explode(n): run.model.params = run.model.params + np.inf
    run.space['train'] = explode
    assert run.step(2) == 0 and bits(run) == before and 'step 4' in run.diverged and run.done

# ------------------------------------------------------------------ what is shown is what was computed

def test_readings_are_those_of_the_instruments():
    run = Run(dict(depth=3, dropout=.2))
    run.step(20)
    v = run.space
    direct, ours = instruments(run.model, v['x'][:256], v['target'][:256], opt=v['opt']), inside(run)
    at = [i for i, name in enumerate(direct['layer']) if name == 'Linear']
    assert ours['layer'] == ['1', '2', '3', 'out']
    assert_array_equal(ours['gradient'], direct['gradient'][at])
    assert_array_equal(ours['update'], direct['update'][at])
    assert_array_equal(ours['spread'][:-1], direct['activation'][[i + 1 for i in at[:-1]]])
    assert ours['spread'][-1] == direct['activation'][at[-1]]

def test_dead_units_are_counted():
    run = Run(dict(activation='ReLU', depth=2, width=4))
    run.model.layers[0].b = [-1e3, -1e3, -1e3, 0]
    assert inside(run)['dead'][0] == .75 and inside(run)['dead'][-1] == 0

def test_the_plane_says_what_the_net_answers_there():
    run = Run(dict(data='spirals')).finish()
    seen = plane(run, 32)
    left, right, low, high = seen['box']
    for r, c in ((0, 0), (31, 5), (17, 30)):
        place = [[left + (c + .5) * (right - left) / 32, low + (r + .5) * (high - low) / 32]]
        y = run.model.predict(place)
        assert seen['answer'][r, c] == y.argmax() and near(seen['sure'][r, c], sureness(y, 'cross_entropy')[0])
    both = np.concatenate([run.space['x'], run.space['x_val']])
    assert (both.min(axis=0) > [left, low]).all() and (both.max(axis=0) < [right, high]).all()

def near(a, b): return abs(a - b) < 1e-5

@pytest.mark.parametrize('loss', studio.LOSSES)
def test_sureness_is_a_share(loss):
    y = np.random.default_rng(1).normal(0, 3, (50, 4))
    sure = sureness(y, loss)
    assert (sure >= 0).all() and (sure <= 1).all() and sureness(np.ones((1, 4)), loss)[0] == 0

def test_the_mistakes_are_the_digits_that_are_read_wrong():
    run = Run(dict(data='digits', n_epochs=2))
    run.finish()
    seen, v = run.measure(), run.space
    right = run.model.predict(v['x_val']).argmax(axis=1) == v['t_val']
    assert seen['mistakes']['count'] == (~right).sum() and near(seen['val_accuracy'], right.mean())
    assert_array_equal(seen['mistakes']['image'], v['x_val'][~right][:40])
    assert (seen['mistakes']['truth'] != seen['mistakes']['answer']).all()

def test_data_of_ones_own():
    run = Run(data=OWN).finish()
    assert run.settings['data'] == 'own' and run.k == 3 and run.measure()['confusion'].sum() == 30
    assert again(run, x=run.own[0], target=run.own[1]) == bits(run)
    assert 'plane' in Run(data=FLAT).measure() and 'noise' in Run(data=FLAT).settings
    saved = json.loads(json.dumps(run.to_dict()))
    assert bits(Run.from_dict(saved, OWN)) == bits(run)
    for other in (None, (OWN[0] + 1, OWN[1]), FLAT):
        with pytest.raises(ValueError, match='data'): Run.from_dict(saved, other)
    assert Run(dict(data='moons'), OWN).n_in == 2

@pytest.mark.parametrize('start, data, n', [({}, None, 4), (dict(data='digits', n=100), None, 3), ({}, OWN, 3)], ids=['plane', 'digits', 'table'])
def test_a_frame_holds_what_was_measured(start, data, n):
    run = Run(start, data)
    run.step(9)
    (head, arrays), seen, h = frame(run), run.measure(), run.history
    assert json.loads(json.dumps(head, allow_nan=False)) == head and len(arrays) == n
    for name in ('step', 'epoch', 'train_loss', 'val_loss', 'train_accuracy', 'val_accuracy'): assert head[name] == seen[name]
    for name, v in head['layers'].items(): assert_allclose(v, seen['layers'][name])
    lines = np.frombuffer(arrays[0], np.float32).reshape(5, -1)
    assert_array_equal(lines, np.float32([h[name] for name in ('step', 'train_loss', 'val_loss', 'train_accuracy', 'val_accuracy')]))
    assert_array_equal(np.frombuffer(arrays[1], np.float32).reshape(len(seen['layers']['layer']), -1), np.float32(h['gradient']).T)
    if 'plane' in seen: assert_array_equal(np.frombuffer(arrays[2], np.uint8).reshape(64, 64), seen['plane']['answer'])
    elif 'mistakes' in seen: assert_array_equal(np.frombuffer(arrays[2], np.uint8), np.uint8(255 * np.clip(seen['mistakes']['image'], 0, 1)).ravel())
    else: assert_array_equal(np.frombuffer(arrays[2], np.float32).reshape(3, 3), seen['confusion'])

def test_a_scene_holds_the_points():
    head, (xy, t) = studio.scene(run := Run(dict(n=60, split=.25)))
    assert (head['n_train'], head['n_val'], head['parameters']) == (45, 15, run.model.params.size)
    assert_array_equal(np.frombuffer(xy, np.float32).reshape(-1, 2)[:45], np.float32(run.space['x']))
    assert_array_equal(np.frombuffer(t, np.uint8)[45:], run.space['t_val'])

@pytest.mark.parametrize('saved', [None, {}, dict(settings={}, changes=[]), dict(settings={}, changes={}, steps=3), dict(settings=dict(lr=-1), changes=[], steps=3),
                                   dict(settings={}, changes=[3], steps=3), dict(settings={}, changes=[[1, dict(depth=3)]], steps=3), dict(settings={}, changes=[], steps=10**6)], ids=str)
def test_a_dictionary_that_is_none_is_refused(saved):
    with pytest.raises((TypeError, ValueError)): Run.from_dict(saved)

# ------------------------------------------------------------------ guess, compare, stories, search

@pytest.mark.parametrize('guess, ended, words', [(1, .5, '2 times lower'), (.5, 1, '2 times higher'), (.5, .53, 'tenth'), (1, math.inf, 'nobody'), (1, math.nan, 'nobody'), (1, 0, 'ended at 0')])
def test_a_verdict_says_how_far_off(guess, ended, words): assert words in verdict(guess, ended)

def test_a_guess_is_a_positive_number():
    for bad in (0, -1, math.inf, 'low', None):
        with pytest.raises((TypeError, ValueError), match='guess'): verdict(bad, 1)

def test_a_kept_run_stays_as_it_was():
    run = Run(dict(n_epochs=4)).finish()
    kept = keep(run)
    loss, program = judge(run)['val_loss'], str(run.program())
    run.set(depth=1, lr=.5)
    run.finish()
    differs = compare(kept, run)
    assert kept['seen']['val_loss'] == loss == dict((n, a) for n, a, _ in differs['seen'])['val_loss'] and str(kept['program']) == program
    assert differs['settings'] == [('depth', 2, 1), ('lr', .1, .5)] and kept['history']['step'][-1] == 20

def ends(name, seed): return [Run(PRESETS[name]['settings'] | cure | dict(seed=seed)).finish() for cure in ({}, PRESETS[name]['cure'])]

@pytest.mark.parametrize('seed', [0, 1, 2])
def test_the_stories_are_true(seed):
    wrong, cured = ends('rate', seed)
    assert max(wrong.history['train_loss']) > 10 * wrong.history['train_loss'][0] and judge(cured)['val_accuracy'] > .9
    wrong, cured = ends('vanishing', seed)
    g, c = (run.history['gradient'][0] for run in (wrong, cured))
    assert g[0] < 1e-5 * g[-1] and c[0] > .05 * c[-1] and judge(wrong)['train_loss'] > .65 and judge(cured)['val_accuracy'] > .85
    assert all(a < b for a, b in zip(g, g[1:]))                        # it loses from layer to layer
    wrong, cured = ends('dead', seed)
    assert inside(wrong)['dead'].max() == 1 and inside(wrong)['gradient'][0] == 0 and judge(wrong)['val_accuracy'] < .5 < .9 < judge(cured)['val_accuracy']
    wrong, cured = ends('overfitting', seed)
    assert judge(wrong)['train_loss'] < .15 and judge(wrong)['val_loss'] > 2 * min(wrong.history['val_loss']) and judge(cured)['val_loss'] < .7 * judge(wrong)['val_loss']
    wrong, cured = ends('twins', seed)
    assert not any(layer.w.any() for layer in wrong.model.layers if isinstance(layer, Linear)) and judge(cured)['val_accuracy'] > .9
    wrong, cured = ends('line', seed)
    assert judge(wrong)['val_accuracy'] < .7 and judge(cured)['val_accuracy'] > .9

def test_the_search_turns_the_same_knobs_with_the_same_epochs():
    pytest.importorskip('optuna', reason='the search is built on Optuna')
    run = Run(dict(data='xor', n_epochs=8, noise=.3, seed=3))
    run.step(4)
    before, epochs = bits(run), []
    a = search_against(run, 4, watch=lambda: epochs.append(1))
    b = search_against(run, 4)
    assert bits(run) == before and run.steps == 4 and len(epochs) <= 4 * 8
    assert a['found'] == b['found'] and a['settings'] == b['settings'] and set(a['settings']) == set(studio.SEARCHED)
    assert a['found'] == judge(Run(run.settings | a['settings']).finish())['val_loss'] and a['yours'] == judge(Run(run.settings).finish())['val_loss']
    assert a['winner'] == ('you' if a['yours'] <= a['found'] else 'the search')

def test_the_search_can_be_ended():
    pytest.importorskip('optuna', reason='the search is built on Optuna')
    def stop(): raise KeyboardInterrupt
    ended = search_against(Run(dict(n_epochs=2)), 5, watch=stop)
    assert ended['result'].stopped == 'interrupted' and ended['winner'] == 'you' and ended['found'] == math.inf

def test_a_desk_has_a_method_for_each_button():
    desk = Desk()
    desk.turn('lr', .5)
    desk.step()
    desk.keep()
    desk.tell('line')
    assert desk.run.settings == DEFAULTS | PRESETS['line']['settings'] and desk.run.steps == 0
    desk.step()
    desk.cure()
    assert desk.run.settings['depth'] == 1 and desk.kept['settings']['depth'] == 0
    for f, args in ((desk.tell, ['tale']), (desk.take, []), (desk.mark, [-1]), (desk.restore, ['{']), (desk.restore, ['[]']), (desk.turn, ['lr', 'x']), (Desk().cure, [])):
        with pytest.raises((TypeError, ValueError)): f(*args)
    desk.restore(json.dumps(dict(settings=dict(width=3), changes=[], steps=2)))
    assert desk.run.steps == 2 and desk.run.settings['width'] == 3
    json.dumps(desk.state(), allow_nan=False)

# ------------------------------------------------------------------ the widget, without a browser

class Reader:
    "Stands where the browser is: collects messages, and confirms them unless it is asleep"
    def __init__(self, awake=True, **options):
        self.widget, self.frames, self.scenes, self.others, self.awake = tune(**options), [], [], [], awake
        self.widget.send = self.take
        self.say('hello')

    def take(self, message, buffers=None):
        kinds = dict(frame=self.frames, scene=self.scenes)
        kinds.get(message['kind'], self.others).append(message)
        if message['kind'] == 'frame' and self.awake: self.widget.loop.call_soon(self.widget.hear, dict(do='shown', seq=message['seq']))

    def say(self, do, **args): self.widget.hear({'do': do, 'with': args, 'id': 1})

    async def until(self, what, seconds=20):
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, 'it did not happen'
            await asyncio.sleep(.005)

def live(test):
    "Run an asynchronous test on a loop of its own"
    def run(*args, **kwargs): return asyncio.run(test(*args, **kwargs))
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run

@live
async def test_play_pause_step_epoch_reset():
    r = Reader()
    w, run = r.widget, r.widget.desk.run
    r.say('step')
    assert run.steps == 1 and not w.playing
    r.say('epoch')
    await r.until(lambda: not w.playing)
    assert run.steps == 5
    r.say('pace', speed='as fast as it goes')
    r.say('play')
    assert w.playing
    await r.until(lambda: run.steps > 30)
    r.say('pause')
    at = run.steps
    await asyncio.sleep(.1)
    assert run.steps == at and not w.playing and not r.frames[-1]['playing'] and r.frames[-1]['step'] == at
    r.say('reset')
    assert run.steps == 0 and not w.error
    r.say('play')
    await r.until(lambda: run.done and not w.playing)
    assert r.frames[-1]['done'] and run.steps == 300
    w.close()

@live
async def test_it_never_plays_by_itself():
    r = Reader()
    for do, args in (('tell', dict(name='dead')), ('cure', {}), ('turn', dict(name='lr', value=.3)), ('mark', dict(guess=.3)), ('keep', {})): r.say(do, **args)
    await asyncio.sleep(.1)
    assert not r.widget.playing and r.widget.desk.run.steps == 0
    r.widget.close()

@live
async def test_knobs_act_while_it_plays():
    r = Reader()
    run = r.widget.desk.run
    r.say('play')
    await r.until(lambda: run.steps > 5)
    r.say('turn', name='lr', value=.7)
    at = run.steps
    await r.until(lambda: run.steps > at)
    assert run.space['opt'].lr == .7 and r.widget.playing and again(run) == bits(run)
    r.say('turn', name='width', value=8)                            # another net: from its start, and on it goes
    assert run.steps == 0 and run.model.layers[0].n_out == 8
    await r.until(lambda: run.steps > 0)
    assert len(r.scenes) == 2
    r.widget.close()

@live
async def test_training_never_holds_up_the_loop():
    r = Reader(settings=dict(data='digits', n=1000, depth=6, width=64, n_epochs=1000))
    r.say('pace', speed='as fast as it goes')
    r.say('play')
    waits, end = [], time.monotonic() + 2
    while time.monotonic() < end:
        start = time.thread_time()            # of this thread alone, so that a busy machine does not count
        await asyncio.sleep(0)
        waits.append(time.thread_time() - start)
    assert r.widget.desk.run.steps > 20 and max(waits) < .1
    r.widget.close()

@live
async def test_the_newest_frame_wins():
    r = Reader(awake=False)
    r.say('play')
    await r.until(lambda: r.widget.desk.run.steps > 20)
    assert len(r.frames) == AHEAD and r.frames[-1]['step'] < 20       # nobody confirms: no flood
    r.awake = True
    r.widget.hear(dict(do='shown', seq=r.frames[-1]['seq']))
    await r.until(lambda: r.frames[-1]['step'] > 20)
    r.widget.close()

@live
async def test_it_stops_when_nobody_looks_any_more():
    ALONE, studio.ALONE = studio.ALONE, .2
    try:
        r = Reader(awake=False, settings=dict(n_epochs=1000))
        r.say('play')
        await r.until(lambda: not r.widget.playing, 5)
        assert not r.widget.desk.run.done
        r.say('hello')
        assert r.frames[-1]['playing'] is False
        r.say('play')
        r.say('leave')
        assert not r.widget.playing
    finally: studio.ALONE = ALONE
    r.widget.close()

@live
async def test_closing_ends_what_runs():
    pytest.importorskip('optuna', reason='the search is built on Optuna')
    r = Reader(settings=dict(n_epochs=1000))
    r.say('play')
    await r.until(lambda: r.widget.desk.run.steps > 3)
    walk = r.widget.walk
    r.widget.close()
    await asyncio.sleep(.05)
    assert walk.done()
    other = Reader()
    other.say('search', n_trials=30)
    await other.until(lambda: other.widget.searching)
    other.widget.close()
    await asyncio.wait_for(other.widget.beside, 20)
    assert other.widget.desk.match is None or len(other.widget.desk.match['result'].trials) < 30

@live
async def test_an_error_is_shown_and_the_controls_stay_usable():
    r = Reader()
    for do, args, word in (('turn', dict(name='lr', value=-1), 'lr'), ('turn', dict(name='data', value='own'), 'arrays'), ('tell', dict(name='x'), 'name'), ('take', {}, 'search'),
                           ('dance', {}, 'dance'), ('turn', {}, 'name'), ('restore', dict(text='no'), 'dictionary'), ('search', dict(n_trials=0), 'n_trials'), ('mark', dict(guess=0), 'guess')):
        r.say(do, **args)
        assert word in r.widget.error, do
        await asyncio.sleep(.01)
        assert r.frames[-1]['forced'] and r.frames[-1]['settings'] == DEFAULTS
        r.say('step')
        assert r.widget.error == ''
    r.say('restore', text='{"settings": {"lr": -1}, "changes": [], "steps": 3}')
    await r.until(lambda: not r.widget.searching)
    assert 'lr' in r.widget.error and r.widget.desk.run.steps == 9
    broken, r.widget.desk.run.space['train'] = r.widget.desk.run.space['train'], lambda n: 1 / 0
    r.say('play')
    await r.until(lambda: not r.widget.playing)
    assert 'ZeroDivisionError' in r.widget.error
    r.widget.desk.run.space['train'] = broken
    r.say('step')
    assert not r.widget.error and r.widget.desk.run.steps == 10
    r.widget.close()

@live
async def test_the_search_runs_beside_the_loop_and_one_thing_at_a_time():
    pytest.importorskip('optuna', reason='the search is built on Optuna')
    r = Reader(settings=dict(n_epochs=5))
    r.say('search', n_trials=3)
    assert r.widget.searching
    for do in ('play', 'search', 'restore'):
        r.say(do, **({'text': '{}'} if do == 'restore' else {}))
        assert r.widget.error, do
    await r.until(lambda: not r.widget.searching, 60)
    match = r.frames[-1]['match']
    assert match and len(r.widget.desk.match['result'].trials) == 3
    r.say('take')
    assert {k: r.widget.desk.run.settings[k] for k in match['settings']} == match['settings']
    r.say('restore', text=json.dumps(dict(settings=dict(width=5), changes=[[3, dict(lr=.2)]], steps=6)))
    await r.until(lambda: not r.widget.searching)
    assert r.widget.desk.run.steps == 6 and r.frames[-1]['settings']['lr'] == .2
    r.say('texts')
    assert r.others[-1]['program'] == str(r.widget.desk.run.program()) and json.loads(r.others[-1]['saved'])['steps'] == 6
    r.widget.close()

def test_without_a_loop_it_says_what_to_use():
    w = tune()
    for do in ('play', 'search'):
        w.hear({'do': do, 'with': {}})
        assert 'event loop' in w.error
    w.hear({'do': 'step'})
    assert w.desk.run.steps == 1 and not w.error
    w.close()

def test_a_thousand_changes_leave_the_memory_flat():
    w = tune(settings=dict(n=40, n_epochs=1000))
    w.send = lambda message, buffers=None: w.hear(dict(do='shown', seq=message['seq'])) if message['kind'] == 'frame' else None
    turns = [('turn', dict(name='lr', value=.3)), ('step', {}), ('turn', dict(name='width', value=5)), ('step', {}), ('turn', dict(name='lr', value=.2)), ('turn', dict(name='width', value=8))]
    def change(n):
        for i in range(n): w.hear({'do': turns[i % 6][0], 'with': turns[i % 6][1], 'id': i})
        gc.collect()
        return len(gc.get_objects()), w.desk.run.steps
    (objects, steps), (more, again) = change(60), change(1002)
    assert more < objects + 300 and steps == again, f'{more - objects} objects more after 1,000 changes'
    w.close()

def test_a_picture_stands_in_where_no_kernel_runs():
    w = tune(settings=dict(n_epochs=10))
    made = w._repr_mimebundle_()
    data = made[0] if isinstance(made, tuple) else made
    assert 'image/png' in data and 'alt="' in data['text/html'] and len(data['text/plain'].split()) > 10 and 'Run the cell' in data['text/plain']
    assert w.desk.run.steps == 0
    w.close()

def test_bad_beginnings_are_refused_before_there_is_a_widget():
    with pytest.raises(ValueError, match='lr'): tune(settings=dict(lr=-1))
    with pytest.raises(TypeError, match='data'): tune(3)

def test_the_page_of_its_own_shows_the_studio_and_nothing_else():
    nb = json.loads((ROOT/'backprop_nb'/'static'/'studio.ipynb').read_text(encoding='utf-8'))
    code = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    space = {}
    exec(code[0].rpartition('\n')[0], space)
    assert len(code) == 1 and code[0].endswith('tune()') and space['tune'] is tune and issubclass(Tuning, studio.Widget) and SPEEDS

def test_the_microscope_is_at_hand():
    "`studio.backprop` takes the net of a run"
    run = Run(dict(depth=1, width=2))
    lens = studio.backprop(run.model, run.space['x'][:2], run.space['target'][:2])
    assert 'Linear(2, 2)' in lens.still().alt
    lens.close()
