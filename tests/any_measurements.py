"""Fast measurements of any network, which the tests of networks share."""

import torch
from torch import nn

import kdviz
from kdviz import units
from kdviz.testing import random_images, small_cnn

GRID = units.grid(4)
FAST = {"units": GRID, "method": "gain", "probes": 4, "draws": 2, "progress": False}
IMAGES = random_images(3, seed=3)


def measure(network, images=IMAGES, **options):
    return kdviz.measure(network, images, **(FAST | {"layers": "fc1"} | options))


def pool(output):
    """Eight numbers a sample: the mean and a fixed weighting of slices of the output."""
    flat = output.flatten(1)
    return torch.stack([part.mean(1) for part in flat.tensor_split(8, 1)], 1)


class Wrapped(nn.Module):
    """The small network with something done around one of its parts."""

    def __init__(self, before=lambda x: x, after=lambda x: x, parameters=True):
        super().__init__()
        self.inner = small_cnn(seed=1)
        self.before, self.after = before, after

    def forward(self, x):
        conv = self.inner.relu2(self.inner.conv2(self.inner.relu1(self.inner.conv1(self.before(x)))))
        return self.inner.fc1(self.after(self.inner.flatten(self.inner.pool(conv))))
