"""A feature is told by what it does, and no other is taken for it."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from small_measurements import (
    CHECKPOINTS,
    FAST,
    GRID,
    assert_equal_arrays,
    changed_cnn,
    measure_epochs,
)
from torch import nn

from kdviz.errors import (
    StoreError,
)
from kdviz.measuring import Measurement, Settings, measure
from kdviz.networks.inputs import prepare_inputs
from kdviz.testing import random_images, small_cnn


@pytest.fixture
def states():
    return {epoch: changed_cnn(step).state_dict() for epoch, step in CHECKPOINTS.items()}


# -- a feature is what it does


def make_feature(factor):
    return lambda output: (output - factor).relu()


def clipped(output, most):
    return output.clamp(0, most)


class Clipped:
    def __init__(self, most):
        self.most = most

    def __call__(self, output):
        return output.clamp(0, self.most)

    def clip(self, output):
        return self(output)


class Projected(nn.Module):
    """Has weights of its own, in float32."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(12, 3)

    def forward(self, output):
        return self.linear(output)


FEATURES = {
    "closure": (make_feature, 0.0, 0.125, r"make_feature\.<locals>\.<lambda>"),
    "partial": (lambda most: partial(clipped, most=most), 0.25, 0.5, "partial of clipped"),
    "large": (lambda most: partial(clipped, most=most), 20, 60, "partial of clipped"),  # beyond what comes
    "object": (Clipped, 0.25, 0.5, "Clipped"),
    "method": (lambda most: Clipped(most).clip, 0.25, 0.5, r"Clipped\.clip"),
    "module": (Projected, 0, 1, "Projected"),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_measure_checkpoints__another_callable_is_another_feature(states, tmp_path, kind):
    make, first, second, name = FEATURES[kind]
    options = {"layers": "fc1", "method": "gain", "store": tmp_path / "run"}
    done = measure_epochs({0: states[0]}, feature=make(first), **options)
    assert re.fullmatch(f"{name} [0-9a-f]{{8}}", done.attrs["feature"])
    assert_equal_arrays(measure_epochs({0: states[0]}, feature=make(first), **options), done)
    with pytest.raises(
        StoreError, match=f"already measured with feature .{name} [0-9a-f]{{8}}., now .{name}"
    ):
        measure_epochs({0: states[0]}, feature=make(second), **options)


IDENTIFY = """
import torch
from test_measuring_features import FEATURES, describe
torch.set_num_threads(2)
for make, first, second, _ in FEATURES.values():
    print(describe(make(first)), describe(make(second)))
"""


def describe(feature):
    inputs, settings = prepare_inputs(random_images(1), GRID), Settings.for_units(GRID, feature=feature)
    return Measurement(small_cnn, {0: None}, inputs, "fc1", settings).attrs("fc1")["feature"]


def test_measurement__another_process_knows_a_callable_again(tmp_path):
    here = "".join(
        f"{describe(make(one))} {describe(make(other))}\n" for make, one, other, _ in FEATURES.values()
    )
    found = subprocess.run(
        [sys.executable, "-c", IDENTIFY], capture_output=True, text=True, cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
    )  # fmt: skip
    assert found.stdout == here, found.stderr
    assert len(set(here.replace("\n", " ").split())) > 2 * len(FEATURES), "each has a hash of its own"


@dataclass
class Output:
    hidden: torch.Tensor
    pooled: torch.Tensor


class GivesMore(nn.Module):
    """Its layer gives an object of tensors, as those of transformers do."""

    def __init__(self):
        super().__init__()
        self.inner, self.layer = small_cnn(seed=1), Packed()

    def forward(self, x):
        return self.layer(self.inner.conv1(x)).pooled


class Packed(nn.Module):
    def forward(self, x):
        return Output(x, x.mean((2, 3)))


def test_measurement__features_are_told_by_every_part_of_an_output():
    inputs = prepare_inputs(random_images(2, seed=3), GRID)

    def tell(feature, network=GivesMore, layer="layer"):
        settings = Settings.for_units(GRID, feature=feature)
        return Measurement(network, {0: None}, inputs, layer, settings).attrs(layer)["feature"].split()[-1]

    told = [
        tell(feature)
        for feature in (
            lambda output: output.pooled,
            lambda output: output.hidden,
            lambda output: output.hidden.mean((2, 3)),
            lambda output: output.pooled * 2,
        )
    ]
    assert len(set(told)) == 4
    assert tell(lambda output: output.pooled.clone()) == told[0], "it does the same"
    bare = [tell(make, small_cnn, "fc1") for make in (torch.relu, nn.ReLU(), lambda out: out.clamp(min=0))]
    assert len(set(bare)) == 1
    others = (torch.sqrt, torch.log, torch.abs, torch.nn.functional.gelu, lambda out: out * (out > 1e-3))
    assert len({*bare, *(tell(one, small_cnn, "fc1") for one in others)}) == 6


def test_measure__several_layers_keep_the_name_of_a_callable():
    ds = measure(
        small_cnn(seed=1),
        random_images(2),
        layers=["conv2", "fc1"],
        units=GRID,
        feature=torch.sigmoid,
        **FAST,
    )
    assert ds.attrs["feature"] == "sigmoid"
