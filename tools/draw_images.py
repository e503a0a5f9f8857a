"Draw the picture of the README: python tools/draw_images.py"
from pathlib import Path

import numpy as np

from backprop_nb.data import spirals
from backprop_nb.layers import Linear, Sequential, Tanh
from backprop_nb.optim import Adam
from backprop_nb.train import fit
from backprop_nb.viz import Picture, panels, regions

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
Path(__file__).parent.with_name('images').joinpath('spirals.png').write_bytes(Picture(fig, 'three spirals are learned').png())
