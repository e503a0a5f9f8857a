"The estimators pass scikit-learn's examination without exceptions; weight 2 is the row twice to the last bit; a refusal leaves no trace"
import inspect
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip('sklearn', reason='the estimators are made for scikit-learn')
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine, make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from backprop_nb.backward import check_vjp
from backprop_nb.estimators import *
from backprop_nb.train import Diverged

SETTINGS = [dict(), dict(early_stopping=True), dict(solver='sgd', batch_size=10, max_iter=40),
            dict(activation='tanh', solver='adamw', dropout=.2, learning_rate='constant', max_iter=40)]
BOTH = [BackpropClassifier, BackpropRegressor]
both = pytest.mark.parametrize('kind', BOTH)

@parametrize_with_checks([kind(**settings) for kind in BOTH for settings in SETTINGS])
def test_every_check_of_scikit_learn_passes(estimator, check): check(estimator)

def test_the_check_that_is_skipped_unless_asked_for_passes_too():
    code = ('from backprop_nb.estimators import *\nfrom sklearn.utils.estimator_checks import check_array_api_input\n'
            'for e in (BackpropClassifier(), BackpropRegressor()): check_array_api_input(type(e).__name__, e, array_namespace="numpy", expect_only_array_outputs=False)')
    run(code, SCIPY_ARRAY_API='1')

def run(code, **env):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | env)
    assert done.returncode == 0, done.stderr
    return done.stdout

def test_without_scikit_learn_the_message_says_what_to_install():
    run('import sys\nsys.modules["sklearn"] = None\ntry: import backprop_nb.estimators\n'
        'except ImportError as e: assert "pip install \\"backprop_nb[sklearn]\\"" in str(e), e\nelse: raise SystemExit("imported")')

# --- losses ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('loss', [weighted_mse, weighted_cross_entropy, weighted_binary_cross_entropy])
def test_rules_of_the_weighted_losses(loss):
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(4), 6)
    check_vjp(loss, rng.normal(size=(6, 4)), np.c_[shares, rng.integers(0, 4, 6)])

@pytest.mark.parametrize('loss', [weighted_mse, weighted_cross_entropy, weighted_binary_cross_entropy])
def test_a_weighted_loss_is_the_sum_over_repeated_rows(loss):
    rng = np.random.default_rng(0)
    x, t, w = rng.normal(size=(6, 3)), rng.dirichlet(np.ones(3), 6), rng.integers(0, 4, 6)
    again = np.repeat(np.arange(6), w)
    assert_allclose(loss(x, np.c_[t, w]) * 6, loss(x[again], np.c_[t[again], np.ones(len(again))]) * len(again))

def test_extreme_logits_give_finite_losses():
    x, t = np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([[0., 1, 1], [1., 0, 1]])
    assert_allclose([weighted_cross_entropy(x, t), weighted_binary_cross_entropy(x, t)], [2e4, 1e4])

# --- weights ---------------------------------------------------------------------------------------------------------------------

def tables(kind, n=40):
    X, y = load_iris(return_X_y=True) if kind is BackpropClassifier else load_diabetes(return_X_y=True)
    keep = np.random.default_rng(0).permutation(len(X))[:n]
    return X[keep], y[keep]

def params(e): return e.model_.params

@both
@pytest.mark.parametrize('settings', [*SETTINGS, dict(batch_size=3)])
def test_weight_2_is_the_row_twice_and_0_left_out_to_the_last_bit(kind, settings):
    X, y = tables(kind)
    w = np.random.default_rng(1).integers(0, 4, len(X))
    def learned(*table): return params(kind(**settings | dict(random_state=0, max_iter=5)).fit(*table))
    weighted, repeated = learned(X, y, w), learned(X.repeat(w, axis=0), y.repeat(w))
    assert_array_equal(weighted, repeated)
    assert not np.array_equal(weighted, learned(X, y, np.minimum(w, 1)))     # and weights have an influence
    order = np.random.default_rng(2).permutation(len(X))
    assert_array_equal(weighted, learned(X[order], y[order], w[order]))

@both
def test_weights_in_partial_fit_are_repetitions_too(kind):
    X, y = tables(kind)
    w = np.random.default_rng(1).integers(0, 4, len(X))
    classes = dict(classes=[0, 1, 2]) if kind is BackpropClassifier else {}
    a, b = kind(random_state=0), kind(random_state=0)
    for part in np.split(np.arange(40), 4):
        a.partial_fit(X[part], y[part], sample_weight=w[part], **classes)
        b.partial_fit(X[part].repeat(w[part], axis=0), y[part].repeat(w[part]), **classes)
    assert_array_equal(params(a), params(b))

@both
def test_the_size_of_all_weights_together_does_not_matter(kind):
    X, y = tables(kind)
    a, b = [kind(random_state=0, max_iter=3).fit(X, y, np.full(40, v)) for v in (1., 2.**-40)]
    assert_array_equal(params(a), params(b))

@given(st.lists(st.tuples(st.sampled_from([-1.5, -0., 0., 2.]), st.sampled_from([0., 1.]), st.integers(0, 3)), min_size=1, max_size=20).filter(lambda r: any(w for *_, w in r)))
def test_distinct_keeps_the_total_and_has_no_row_twice(rows):
    x, t, w = (np.array(c, float) for c in zip(*rows))
    a, b, c = distinct(x[:, None], t[:, None], w)
    assert c.sum() == w.sum() and (c > 0).all() and len({*zip(a[:, 0], b[:, 0])}) == len(a)
    for v, u, total in zip(a[:, 0], b[:, 0], c): assert w[(x == v) & (t == u)].sum() == total
    order = np.argsort(np.random.default_rng(0).random(len(x)))
    for one, two in zip((a, b, c), distinct(x[order, None], t[order, None], w[order])): assert_array_equal(one, two)

def test_class_weights_are_weights_of_rows():
    X, y = tables(BackpropClassifier)
    def learned(w=None, **settings): return params(BackpropClassifier(random_state=0, max_iter=5, **settings).fit(X, y, w))
    assert_array_equal(learned(class_weight={0: 3, 2: 0}), learned(np.array([3, 1, 0])[y]))
    balanced = 40 / 3 / np.bincount(y)
    assert_allclose(learned(class_weight='balanced'), learned(balanced[y]), rtol=1e-6, atol=1e-9)
    w = np.random.default_rng(0).integers(0, 4, 40)
    def both(X, y, w=None): return params(BackpropClassifier(random_state=0, max_iter=5, class_weight='balanced').fit(X, y, w))
    assert_allclose(both(X, y, w), both(X.repeat(w, axis=0), y.repeat(w)), rtol=1e-6, atol=1e-9)

def test_balanced_classes_find_the_rare_one():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(600, 2)), np.r_[np.ones(30, int), np.zeros(570, int)]
    X[:30] += 1.2
    plain, fair = [BackpropClassifier((), class_weight=w, random_state=0).fit(X, y).predict(X)[:30].mean() for w in (None, 'balanced')]
    assert fair > plain + .4

# --- scales ----------------------------------------------------------------------------------------------------------------------

@given(st.integers(1, 60), st.integers(0, 2**31), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
@examples(max_examples=50)
def test_a_scale_does_not_depend_on_how_the_rows_arrive(cut, seed, middle, size):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(middle, size, (61, 2)), rng.uniform(.1, 3, 61)
    one, two = Scale().seen(x, w), Scale().seen(x[:cut], w[:cut]).seen(x[cut:], w[cut:])
    for a in (one, two):
        assert_allclose(a.mean, np.average(x, 0, w), rtol=1e-9, atol=1e-9 * size)
        assert_allclose(a.spread, np.sqrt(np.average((x - np.average(x, 0, w))**2, 0, w)), rtol=1e-6)

@both
@pytest.mark.parametrize('shift, factor', [(0, 1e-8), (1e6, 1), (-3, 1e12)])
def test_units_do_not_matter(kind, shift, factor):
    X, y = tables(kind)
    def answers(e, X): return e.predict_proba(X) if kind is BackpropClassifier else e.predict(X)
    there = X * factor + shift
    a, b = kind(random_state=0, max_iter=10).fit(X, y), kind(random_state=0, max_iter=10).fit(there, y)
    assert_allclose(answers(a, X), answers(b, there), rtol=1e-4, atol=1e-4)   # a shift by 1e6 costs digits

def test_the_units_of_values_do_not_matter():
    X, y = tables(BackpropRegressor)
    a, b = BackpropRegressor(random_state=0, max_iter=10).fit(X, y), BackpropRegressor(random_state=0, max_iter=10).fit(X, 1e6 * y - 5)
    assert_allclose(b.predict(X), 1e6 * a.predict(X) - 5, rtol=1e-6)

@both
def test_a_row_is_answered_alone_as_among_others(kind):
    X, y = tables(kind)
    e = kind(random_state=0, max_iter=10).fit(X, y)
    ask = e.predict_proba if kind is BackpropClassifier else e.predict
    assert_allclose(np.concatenate([ask(row[None]) for row in X]), ask(X), rtol=1e-12)

# --- going on --------------------------------------------------------------------------------------------------------------------

@both
@pytest.mark.parametrize('settings', [dict(), dict(dropout=.3, solver='sgd', activation='gelu', batch_size=9)])
def test_the_same_rows_again_and_again_are_fit(kind, settings):
    X, y = tables(kind)
    classes = dict(classes=[0, 1, 2]) if kind is BackpropClassifier else {}
    fitted = kind(random_state=0, max_iter=4, learning_rate='constant', **settings).fit(X, y)
    stream = kind(random_state=0, **settings)
    for _ in range(4): assert stream.partial_fit(X, y, **classes) is stream
    assert_array_equal(params(stream), params(fitted))
    assert stream.n_iter_ == 4 and stream.loss_curve_ == fitted.loss_curve_

@both
def test_a_pickled_stream_goes_on_where_it_was(kind):
    X, y = tables(kind)
    stream = kind(random_state=0, dropout=.2)
    stream.partial_fit(X, y, **(dict(classes=[0, 1, 2]) if kind is BackpropClassifier else {}))
    copy = pickle.loads(pickle.dumps(stream))
    assert_array_equal(params(stream.partial_fit(X, y)), params(copy.partial_fit(X, y)))

@both
def test_partial_fit_goes_on_after_fit_even_one_that_stopped_early(kind):
    X, y = tables(kind)
    e = kind(random_state=0, max_iter=30, early_stopping=True, n_iter_no_change=2).fit(X, y)
    n, before = e.n_iter_, params(e).copy()
    e.partial_fit(X, y)
    assert e.n_iter_ == n + 1 and not np.array_equal(params(e), before)
    assert e.learned_.opt.lr == e.learning_rate_init     # not where the cosine has ended

def test_warm_start_goes_on_and_a_cold_one_does_not():
    X, y = tables(BackpropClassifier)
    e = BackpropClassifier(random_state=0, max_iter=5, warm_start=True).fit(X, y)
    first = e.loss_curve_
    assert e.fit(X, y).loss_curve_[0] < first[0] / 2
    assert_array_equal(e.set_params(warm_start=False).fit(X, y).loss_curve_, first)

def test_warm_start_refuses_another_network_and_other_classes():
    X, y = tables(BackpropClassifier)
    e = BackpropClassifier(random_state=0, max_iter=1, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match='none of them'): e.fit(X, y + 1)
    with pytest.raises(ValueError, match='warm_start'): e.fit(X[:, :3], y)
    with pytest.raises(ValueError, match='warm_start'): e.set_params(hidden_layer_sizes=(5,)).fit(X, y)
    assert e.n_features_in_ == 4 and list(e.classes_) == [0, 1, 2]

@both
def test_a_seed_repeats_and_a_random_state_moves_on(kind):
    X, y = tables(kind)
    e = kind(random_state=3, max_iter=2)
    one, two = [params(e.fit(X, y)).copy() for _ in range(2)]
    assert_array_equal(one, two)
    e = kind(random_state=np.random.RandomState(3), max_iter=2)
    one, two = [params(e.fit(X, y)).copy() for _ in range(2)]
    assert not np.array_equal(one, two)

def test_early_stopping_goes_back_to_the_best_epoch_and_watches_rows_it_does_not_learn():
    X, y = load_breast_cancer(return_X_y=True)
    y = np.where(np.random.default_rng(0).random(len(y)) < .3, 1 - y, y)
    e = BackpropClassifier(early_stopping=True, n_iter_no_change=3, validation_fraction=.25, random_state=0).fit(X, y)
    h = e.history_
    assert h.stopped == 'patience' and h.best_epoch == int(np.argmin(h.val_loss)) == e.n_iter_ - 4
    assert e.learned_.x_scale.rows == 569 - 143

@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.floats(.01, .9), st.integers(0, 9))
def test_rows_to_watch_leave_every_class_a_row(counts, fraction, seed):
    strata = np.repeat(np.arange(len(counts)), counts)
    if max(counts) == 1:
        with pytest.raises(ValueError, match='n_samples'): put_aside(strata, fraction, np.random.default_rng(seed))
        return
    aside = put_aside(strata, fraction, np.random.default_rng(seed))
    assert aside.sum() == min(int(np.ceil(fraction * len(strata))), len(strata) - len(counts))
    assert (np.bincount(strata[~aside], minlength=len(counts)) > 0).all()
    share = (np.array(counts) - 1) * aside.sum() / (len(strata) - len(counts))
    assert (np.abs(np.bincount(strata[aside], minlength=len(counts)) - share) <= 1).all()

# --- classes and values ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('names', [['a', 'b'], ['x', 'yy', 'z'], [7, -2], [False, True], [1.0, 2.0, 5.0]])
def test_classes_may_be_anything_that_can_be_sorted(names):
    X, y = tables(BackpropClassifier)
    y = np.array(names)[y % len(names)]
    e = BackpropClassifier(random_state=0).fit(X, y)
    assert_array_equal(e.classes_, np.unique(y))
    assert e.predict(X).dtype == e.classes_.dtype and e.score(X, y) > .5
    p = e.predict_proba(X)
    assert p.shape == (40, len(names)) and np.allclose(p.sum(axis=1), 1)
    assert_array_equal(e.classes_[p.argmax(axis=1)], e.predict(X))
    assert e.decision_function(X).shape == ((40,) if len(names) == 2 else (40, len(names)))

def test_labels_are_learned_each_on_its_own():
    X, y = make_multilabel_classification(300, random_state=0)
    e = BackpropClassifier(random_state=0, max_iter=30).fit(X[:200], y[:200])
    assert (e.predict(X[200:]) == y[200:]).mean() > .75
    assert_allclose(e.predict_proba(X), 1 / (1 + np.exp(-e.decision_function(X))))     # each alone: they need not add up to 1
    assert e.predict_proba(X).shape == y.shape and e.predict(X).dtype.kind == 'i'
    stream = BackpropClassifier(random_state=0)
    for _ in range(30): stream.partial_fit(X[:200], y[:200])
    assert (stream.predict(X[200:]) == y[200:]).mean() > .75
    with pytest.raises(ValueError, match='labels'): stream.partial_fit(X, y[:, 0])
    with pytest.raises(ValueError, match='5 labels'): stream.partial_fit(X, y[:, :3])
    with pytest.raises(ValueError, match='class_weight'): BackpropClassifier(class_weight='balanced').fit(X, y)

def test_many_values_are_predicted_at_once():
    X, y = load_diabetes(return_X_y=True)
    two = np.c_[y, -1000 * y]
    e = BackpropRegressor(random_state=0, early_stopping=True).fit(X, two)
    assert e.predict(X).shape == two.shape and e.score(X, two) > .4
    with pytest.raises(ValueError, match='2 values'): e.partial_fit(X, y)

def test_logits_and_chances_stay_finite_and_agree():
    X = np.r_[np.full((5, 1), -1.), np.full((5, 1), 1.)] + np.random.default_rng(0).normal(0, .01, (10, 1))
    e = BackpropClassifier(random_state=0).fit(X, np.r_[np.zeros(5), np.ones(5)])
    far = np.array([[-1e9], [1e9]])
    assert np.isfinite(e.decision_function(far)).all() and np.allclose(e.predict_proba(far), [[1, 0], [0, 1]])

def test_both_constructors_have_the_same_settings_and_defaults():
    a, b = [inspect.signature(kind).parameters for kind in BOTH]
    assert {k: v.default for k, v in a.items() if k != 'class_weight'} == {k: v.default for k, v in b.items()}

# --- with scikit-learn's tools ---------------------------------------------------------------------------------------------------

def test_data_frames_keep_the_names_of_their_columns():
    pd = pytest.importorskip('pandas', reason='data frames')
    X, y = load_iris(return_X_y=True, as_frame=True)
    e = BackpropClassifier(random_state=0, max_iter=5).fit(X, y.map({0: 'setosa', 1: 'versicolor', 2: 'virginica'}))
    assert_array_equal(e.feature_names_in_, X.columns)
    assert e.predict(X).dtype == object or isinstance(e.predict(X)[0], str)
    with pytest.raises(ValueError, match='feature names'): e.predict(X[X.columns[::-1]])
    same = BackpropClassifier(random_state=0, max_iter=5).fit(X.to_numpy(), y)
    assert_array_equal(params(same), params(e))
    assert isinstance(pd.Series(e.predict(X)), pd.Series)
    make_pipeline(StandardScaler().set_output(transform='pandas'), clone(e)).fit(X, y)

def test_weights_are_routed_through_a_pipeline():
    X, y = tables(BackpropClassifier)
    w = np.random.default_rng(0).integers(0, 3, 40)
    with config_context(enable_metadata_routing=True):
        e = BackpropClassifier(random_state=0, max_iter=3).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        piped = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), e).fit(X, y, sample_weight=w)
        scores = cross_val_score(piped, X, y, cv=2, params=dict(sample_weight=w))
    alone = BackpropClassifier(random_state=0, max_iter=3).fit(StandardScaler().fit_transform(X), y, w)
    assert_array_equal(params(piped[-1]), params(alone))
    assert len(scores) == 2 and np.isfinite(scores).all()
    old = make_pipeline(StandardScaler(), BackpropClassifier(random_state=0, max_iter=3)).fit(X, y, backpropclassifier__sample_weight=w)
    assert_array_equal(params(old[-1]), params(alone))

def search(**settings): return GridSearchCV(BackpropClassifier(max_iter=3, random_state=0), dict(hidden_layer_sizes=[(), (8,)], weight_decay=[0, .01]), cv=2, **settings)

@pytest.fixture(scope='module')
def one_process():
    X, y = load_iris(return_X_y=True)
    return search().fit(X, y).cv_results_['mean_test_score']

def test_a_search_in_many_processes_finds_the_same(one_process):
    X, y = load_iris(return_X_y=True)
    assert_allclose(search(n_jobs=2).fit(X, y).cv_results_['mean_test_score'], one_process)

def test_a_search_on_a_dask_cluster_finds_the_same(one_process, tmp_path):
    distributed = pytest.importorskip('distributed', reason='joblib on a Dask cluster')
    from joblib import parallel_config
    X, y = load_iris(return_X_y=True)
    with (distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50, local_directory=str(tmp_path)) as cluster,
          distributed.Client(cluster), parallel_config('dask')):
        assert_allclose(search().fit(X, y).cv_results_['mean_test_score'], one_process)

@both
def test_a_notebook_shows_the_diagram_that_users_expect(kind):
    e = kind(hidden_layer_sizes=(8,), max_iter=1)
    html = e._repr_html_()
    assert kind.__name__ in html and 'hidden_layer_sizes' in html and 'Not fitted' in html
    assert 'fitted' in e.fit(*tables(kind))._repr_html_().lower()
    assert repr(kind(hidden_layer_sizes=(8,))) == f'{kind.__name__}(hidden_layer_sizes=(8,))'

@both
def test_layers_can_be_looked_at_and_the_unfitted_say_so(kind):
    X, y = tables(kind)
    e = kind((6, 5), random_state=0, max_iter=1)
    for name in ('coefs_', 'intercepts_', 'n_iter_', 'loss_curve_', 'model_', 'history_'): assert not hasattr(e, name)
    with pytest.raises(NotFittedError): e.predict(X)
    e.fit(X, y)
    assert [w.shape for w in e.coefs_][:2] == [(X.shape[1], 6), (6, 5)] and [b.shape for b in e.intercepts_][:2] == [(6,), (5,)]
    assert np.shares_memory(e.coefs_[0], params(e))

def test_the_defaults_are_good_on_the_usual_data():
    for load, least in (load_iris, .94), (load_wine, .96), (load_breast_cancer, .96):
        assert cross_val_score(BackpropClassifier(random_state=0), *load(return_X_y=True)).mean() >= least
    X, y = load_digits(return_X_y=True)
    assert (cross_val_predict(BackpropClassifier(random_state=0, max_iter=30), X[::2], y[::2], cv=3) == y[::2]).mean() > .9
    assert cross_val_score(BackpropRegressor(random_state=0), *load_diabetes(return_X_y=True)).mean() > .38
    xor = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    for seed in range(5): assert BackpropClassifier(random_state=seed).fit(xor, [0, 1, 1, 0]).score(xor, [0, 1, 1, 0]) == 1

# --- refusals --------------------------------------------------------------------------------------------------------------------

BAD = [dict(hidden_layer_sizes=(3, 0)), dict(hidden_layer_sizes='many'), dict(hidden_layer_sizes=(2.5,)), dict(activation='sine'), dict(solver='newton'),
       dict(learning_rate_init=0), dict(learning_rate_init='fast'), dict(learning_rate='adaptive'), dict(weight_decay=-1), dict(dropout=1), dict(batch_size=0),
       dict(max_iter=0), dict(max_iter=2.5), dict(early_stopping=True, validation_fraction=1.), dict(early_stopping=True, n_iter_no_change=0), dict(random_state='x')]

@both
@pytest.mark.parametrize('bad', BAD, ids=str)
def test_bad_settings_are_named_and_leave_no_trace(kind, bad):
    X, y = tables(kind)
    e = kind(random_state=0, max_iter=2).fit(X, y)
    before, learned = dict(vars(e)), params(e).copy()
    name = list(bad)[-1]
    word = {'learning_rate_init': 'learning_rate_init|lr', 'random_state': 'seed', 'n_iter_no_change': 'n_iter_no_change|patience'}.get(name, name)
    with pytest.raises((ValueError, TypeError), match=word): e.set_params(**bad).fit(X[:, :2], y)
    assert {k: v for k, v in vars(e).items() if k not in bad} == {k: v for k, v in before.items() if k not in bad}
    assert_array_equal(params(e), learned)

@both
@pytest.mark.parametrize('weights, word', [(np.ones(3), r'40 weights'), (np.ones((40, 1)), 'shape'), (-np.ones(40), '>= 0'), (np.zeros(40), 'zero'), (np.full(40, np.nan), 'NaN'),
                                           (['much'] * 40, 'string')])
def test_bad_weights_are_refused(kind, weights, word):
    X, y = tables(kind)
    with pytest.raises((ValueError, TypeError), match=word): kind().fit(X, y, weights)

@both
def test_training_that_diverges_says_so_and_leaves_no_trace(kind):
    X, y = tables(kind)
    e = kind(random_state=0, max_iter=3).fit(X, y)
    before, answers, lr = params(e).copy(), e.predict(X), e.learned_.opt.lr
    e.set_params(learning_rate_init=1e300)
    for again in (e.fit, e.partial_fit):
        with pytest.raises(Diverged, match='diverged in epoch'): again(X, y)
        assert_array_equal(params(e), before)
        assert_array_equal(e.predict(X), answers)
        assert e.n_iter_ == 3 and e.learned_.opt.lr == lr and e.learned_.x_scale.rows == len(distinct(X, y[:, None] + 0., np.ones(40))[0])

def test_numbers_too_large_to_square_are_refused():
    X, y = tables(BackpropRegressor)
    with pytest.raises(ValueError, match='too large'): BackpropRegressor().fit(X * 1e300, y)
    with pytest.raises(ValueError, match='too large'): BackpropRegressor().fit(X, y * 1e300)

def test_classes_must_be_named_first_and_stay():
    X, y = tables(BackpropClassifier)
    e = BackpropClassifier(random_state=0)
    with pytest.raises(ValueError, match='first call'): e.partial_fit(X, y)
    e.partial_fit(X, y, classes=[2, 1, 0])
    with pytest.raises(ValueError, match='as before'): e.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match='none of them'): e.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match='balanced'): BackpropClassifier(class_weight='balanced').partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match='none of the classes'): BackpropClassifier(class_weight={9: 1}).fit(X, y)
    with pytest.raises(ValueError, match='balanced'): BackpropClassifier(class_weight='fair').fit(X, y)
    with pytest.raises(ValueError, match='one class a row'): BackpropClassifier().fit(X, np.c_[y, y])

def test_a_stop_button_leaves_a_fitted_estimator_and_a_warning(monkeypatch):
    X, y = tables(BackpropClassifier)
    import backprop_nb.train as train
    real, calls = train.train_step, []
    def step(*args):
        calls.append(1)
        if len(calls) == 5: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(train, 'train_step', step)
    with pytest.warns(UserWarning, match='interrupted'): e = BackpropClassifier(random_state=0).fit(X, y)
    assert e.n_iter_ == 2 and len(e.predict(X)) == 40

@both
def test_nothing_is_said_in_passing(kind):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        X, y = tables(kind)
        kind(random_state=0, early_stopping=True, max_iter=3).fit(X, y).score(X, y)
