"Write the example of a trace that the README links to: python tools/draw_microscope.py"
from pathlib import Path

import numpy as np

from backprop_nb.layers import Linear, ReLU, Sequential
from backprop_nb.microscope import trace

bits, differ = np.array([[0., 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
model = Sequential(Linear(2, 3, rng=5), ReLU(), Linear(3, 2, rng=0), dtype=np.float64)
model.layers[0].b = [.3, -.2, .4]
t = trace(model, bits, differ)
assert t.check().ok
Path(__file__).parent.with_name('images').joinpath('microscope.html').write_text(t.to_html(lr=1, n_steps=60), encoding='utf-8')
