"Draw the pictures of the README and the pages: python tools/draw_images.py [spirals.png microscope.html graph.svg]; the last needs Graphviz"
import sys
from pathlib import Path

import numpy as np

from backprop_nb.autograd import Scalar, draw
from backprop_nb.data import spirals
from backprop_nb.layers import Linear, ReLU, Sequential, Tanh
from backprop_nb.microscope import trace
from backprop_nb.optim import Adam
from backprop_nb.train import fit
from backprop_nb.viz import Picture, panels, regions

def three_spirals():
    "A network learns which of three spirals a point belongs to"
    rng = np.random.default_rng(0)
    x, target = spirals(300, 0.15, rng)
    model = Sequential(Linear(2, 32, rng), Tanh(), Linear(32, 32, rng), Tanh(), Linear(32, 3, rng))
    opt = Adam(model, lr=5e-3)
    fig, axes = panels(3, 2.6, 2.6)
    for ax, n_epochs, title in zip(axes, (0, 6, 294), ('before learning', 'after 6 epochs', 'after 300 epochs')):
        fit(model, x, target, opt, rng, n_epochs=n_epochs)
        regions(lambda p: model.predict(p).argmax(axis=1), x, target, ax=ax)
        ax.set_title(title, fontsize=9)
    right = (model.predict(x).argmax(axis=1) == target).mean()
    assert right > .97, right
    return Picture(fig, 'three spirals are learned')

def microscope():
    "One pass of a small net, number by number"
    bits, differ = np.array([[0., 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    model = Sequential(Linear(2, 3, rng=5), ReLU(), Linear(3, 2, rng=0), dtype=np.float64)
    model.layers[0].b = [.3, -.2, .4]
    t = trace(model, bits, differ)
    assert t.check().ok
    return t.to_html(lr=1, n_steps=60)

def graph():
    "A `Drawing` of micrograd's example (Karpathy, 2020)"
    a, b = Scalar(-4), Scalar(2)
    c = a + b
    d = a * b + b**3
    c += c + 1
    c += 1 + c + (-a)
    d += d * 2 + (b + a).relu()
    d += 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2
    g += 10 / f
    g.backward()
    return draw(g, a=a, b=b, c=c, d=d, e=e, f=f, g=g)

DRAWN = {
    'spirals.png': lambda: three_spirals().png(),
    'microscope.html': lambda: microscope().encode(),
    'graph.svg': lambda: graph().svg().encode(),
}

if __name__ == '__main__':
    for name in sys.argv[1:] or DRAWN: (Path(__file__).parent.with_name('images')/name).write_bytes(DRAWN[name]())
