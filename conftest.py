"What a run of pytest needs beside the tests: cells that count as run, numbers that repeat, a look at what changed"
import hashlib
import os
import sys

import pytest
from hypothesis import settings
from project import ROOT, files

# One thread and fixed examples: a run is repeatable, and two runs do not fight for the cores.
for threads in 'OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'VECLIB_MAXIMUM_THREADS':
    os.environ.setdefault(threads, '1')
os.environ.setdefault('SCIPY_ARRAY_API', '1')   # scikit-learn's checks of other arrays run only with it
os.environ.setdefault('TQDM_DISABLE', '1')     # a bar that a slow computer shows is no output of a cell
settings.register_profile('repeatable', derandomize=True, deadline=None)
settings.load_profile('repeatable')


def pytest_configure(config):
    "nbval colours its messages even where no terminal shows colours"
    if config.option.color == 'auto' and not sys.stdout.isatty(): config.option.color = 'no'


def pytest_collection_modifyitems(items):
    "nbdev_clean empties execution counts, and nbval takes a cell without one for a cell that never ran"
    for item in items:
        cell = getattr(item, 'cell', None)
        if cell is not None and cell.execution_count is None: cell.execution_count = 1


def fingerprints(): return {str(f): hashlib.sha256((ROOT/f).read_bytes()).hexdigest() for f in files()}

before = pytest.StashKey()

def pytest_sessionstart(session):
    whole = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if whole and not hasattr(session.config, 'workerinput'): session.config.stash[before] = fingerprints()


def pytest_sessionfinish(session):
    "A whole run must leave the files as they were, edited or not: what differs now counts as an error"
    old = session.config.stash.get(before, None)
    if old is None: return
    new = fingerprints()
    changed = sorted(f for f in old.keys() | new.keys() if old.get(f) != new.get(f))
    if not changed: return
    message = 'Files changed while the checks ran, by a check or by someone at work:\n' + '\n'.join(changed)
    session.config.hook.pytest_runtest_logreport(report=pytest.TestReport(
        nodeid='files are left as they were', location=('conftest.py', None, ''), keywords={},
        outcome='failed', longrepr=message, when='teardown'))
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
