"""What the tests of measuring share: small networks, measured fast."""

import numpy as np
import pytest
import torch
from torch import nn

from kdviz import schema, units
from kdviz.measuring import measure, measure_checkpoints
from kdviz.measuring.blocks import measure_block
from kdviz.testing import random_images, small_cnn

GRID = units.grid(4)
TARGET_ENTROPY = -2.8  # to three digits; the calibration is 0.386 nat above the entropy at 0.01
FAST = {"probes": 8, "draws": 2, "progress": False}


def by_layer(ds):
    """Take several layers apart."""
    if "layer" not in ds.dims:
        return ds
    return {name: ds.sel(layer=name, drop=True) for name in ds["layer"].values.tolist()}


def measure_cnn(network=None, images=None, **options):
    options = {"layers": "fc1", "units": GRID, "method": "gain"} | FAST | options
    network = small_cnn(seed=1) if network is None else network
    return by_layer(measure(network, random_images(3, seed=3) if images is None else images, **options))


def assert_equal_arrays(ours, theirs, names=(*schema.MEASURED,)):
    for name in names:
        np.testing.assert_array_equal(ours[name].values, theirs[name].values, err_msg=name)


def changed_cnn(step):
    """The weights of one network after `step` invented steps of training."""
    network = small_cnn(seed=1)
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * step * torch.randn(parameter.shape, generator=generator) * parameter.std()
    return network


class CountingPasses(nn.Module):
    """Counts forward and backward passes of samples through the network behind it."""

    def __init__(self, network):
        super().__init__()
        self.inner = network
        self.forwards = self.backwards = 0

    def forward(self, x):
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._count)
        return self.inner(x)

    def _count(self, gradient):
        self.backwards += len(gradient)


class FailsAtCall(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call, self.calls = call, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.call:
            raise KeyError("this forward pass fails")
        return x


CHECKPOINTS = {0: 0, 2: 1, 5: 2}


def measure_epochs(checkpoints, images=None, **options):
    options = (
        {"network": "student", "role": "student", "layers": ["conv2", "fc1"], "units": GRID} | FAST | options
    )
    images = random_images(5, seed=3) if images is None else images
    return by_layer(measure_checkpoints(small_cnn, checkpoints, images, **options))


def begin(states, path, monkeypatch, blocks, **options):
    """Measure some blocks, then stop as if killed."""
    done = []

    def measure_or_stop(*arguments):
        if len(done) == blocks:
            raise SystemExit
        done.append(1)
        return measure_block(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("kdviz.measuring.measurement.measure_block", measure_or_stop)
        with pytest.raises(SystemExit):
            measure_epochs(states, store=path, **options)
