"What pytest leaves out when it is run on all tests: a real browser is asked by `make browser` alone. And what stands in for a bar of progress"
import sys
from itertools import count
from types import SimpleNamespace

import pytest

collect_ignore = ['browser']

@pytest.fixture
def bars(monkeypatch):
    "All bars that are shown, by something that stands in for tqdm; time flies, so that a short run shows one"
    made = []
    class Bar:
        def __init__(self, **settings): self.settings, self.n, self.closed = settings, settings['initial'], False; made.append(self)
        def update(self): self.n += 1
        def close(self): self.closed = True
    monkeypatch.setitem(sys.modules, 'tqdm.auto', SimpleNamespace(tqdm=Bar))
    for module, tick in (('train', .1), ('tune', .25)): monkeypatch.setattr(f'backprop_nb.{module}.perf_counter', count(0, tick).__next__)
    return made
