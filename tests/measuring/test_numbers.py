"""Numbers that make no sense are refused, each with one sentence; so is noise that rounding swallows."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import kdviz
from kdviz.testing import random_images, small_cnn
from kdviz.training import TrainingPlan

IMAGES = random_images(4, seed=3)
FAST = {"units": kdviz.units.grid(4), "method": "gain", "probes": 16, "draws": 4, "progress": False}
NAMED = {"network": "n", "role": "student", "layers": "fc1"}
HUGE = 10**400  # no float


def measure(**options: object) -> xr.Dataset:
    given = {"layers": "fc1", "inputs": IMAGES, "sample_ids": list("abcd")} | FAST | options
    network = given.pop("network", None) or small_cnn()
    return kdviz.measure(network, **given)


def measure_checkpoints(epoch: object = 0, **options: object) -> xr.Dataset:
    states = {epoch: small_cnn().state_dict()}
    return kdviz.measure_checkpoints(small_cnn, states, IMAGES, **(NAMED | FAST | options))


@cache
def measured() -> xr.Dataset:
    masks = np.zeros((4, 8, 8), bool)
    masks[:, :4] = True
    return measure(foreground=masks)


# -- noise beside rounding


class Smooth(nn.Module):
    """Layers with normalisation, whose rounding adds up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        parts: list[nn.Module] = [nn.Flatten()]
        for size in (192, 64, 64, 64, 64):
            parts += [nn.Linear(size, 64), nn.LayerNorm(64), nn.GELU()]
        self.body, self.fc1 = nn.Sequential(*parts), nn.Linear(64, 20)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc1(self.body(images))


@pytest.mark.parametrize("make", [small_cnn, Smooth])
@pytest.mark.parametrize("base_noise", [1e-2, 1e-4, 1e-5, 3e-6, 1e-6, 1e-7, 1e-8])
def test_measure__is_right_or_refuses_as_float64_tells(make: Callable, base_noise: float) -> None:
    options = {"base_noise": base_noise, "feature": "identity"}
    exact = measure(network=make().double(), inputs=IMAGES.double(), **options)
    if base_noise <= 1e-6:
        with pytest.raises(ValueError, match=f"base_noise={base_noise:g} moves layer 'fc1' hardly more than"):
            measure(network=make(), **options)
        return
    try:
        found = measure(network=make(), **options)
    except ValueError:
        assert base_noise == 3e-6, "at the edge some samples may be refused"
        return
    gains = (found["gain"].sum("unit") / exact["gain"].sum("unit")).values
    assert np.abs(gains - 1).max() < 0.05  # 0.01 of the change may be rounding
    assert np.abs(found["entropy"] - exact["entropy"]).max() < 0.02


def test_measure__noise_that_no_input_holds_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"hardly more than the rounding of torch\.float32 does, for a, b, c, d;"
    ):
        measure(base_noise=1e-20)  # the inputs stay what they are


def test_measure__rounding_is_told_beside_inputs_of_zero() -> None:
    """Where nothing of the input rounds, the network does."""
    with pytest.raises(ValueError, match="hardly more than the rounding"):
        measure(inputs=torch.zeros_like(IMAGES), base_noise=1e-8)
    measure(inputs=torch.zeros_like(IMAGES))


def test_measure__dead_features_are_no_matter_of_rounding() -> None:
    network = small_cnn()
    nn.init.constant_(network.fc1.bias, -1e6)
    with pytest.warns(kdviz.errors.DegenerateWarning):
        assert not measure(network=network)["converged"].any()


def test_measure__follows_the_advice_on_rounding() -> None:
    with pytest.raises(ValueError, match=r"pass a larger base_noise, .* network\.double\(\)"):
        measure(base_noise=1e-7)
    measure(base_noise=1e-3)
    measure(network=small_cnn().double(), inputs=IMAGES.double(), base_noise=1e-7)


# -- numbers


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, HUGE, 1e300, True, "7", 1j, (1.0,)])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        *(
            (name, lambda given: kdviz.derive_entropy(measured(), **given))
            for name in ("weight", "calibration", "feature_loss")
        ),
        *((name, lambda given: measure(**given)) for name in ("base_noise", "weight", "calibration")),
        *(
            (name, lambda given: measure(**given))
            for name in ("probes", "draws", "seed", "max_batch", "epoch")
        ),
        ("epoch", lambda given: measure_checkpoints(**given)),
        ("threshold", lambda given: kdviz.find_points(measured(), **given)),
        *(
            (name, lambda given: kdviz.analysis.Settings(**given))
            for name in ("weight", "feature_loss", "threshold", "coarsening")
        ),
        ("factor", lambda given: kdviz.analysis.coarsen_grid(measured(), **given)),
        ("units.grid: rows", lambda given: kdviz.units.grid(*given.values())),
        ("units.cloud: points", lambda given: kdviz.units.cloud(*given.values())),
    ],
)
def test_numbers__that_are_none_are_refused_in_one_sentence(name: str, call: Callable, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be (a|an) .*(number|integer).*, got ") as raised:
        call({name: value})
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 200


@pytest.mark.parametrize("value", [math.inf, math.nan, 2**200, 1e300, -1.0])
@pytest.mark.parametrize(
    "name", ["epochs", "batch_size", "learning_rate", "weight_decay", "momentum", "seed"]
)
def test_training_plan__refuses_numbers_that_are_none(name: str, value: float) -> None:
    given = {"epochs": 2, "learning_rate": 0.1} | {name: value}
    with pytest.raises(ValueError, match=name):
        TrainingPlan(**given)


@pytest.mark.parametrize("value", [None, "", 3, b"student"])
@pytest.mark.parametrize("name", ["role", "network"])
def test_measure_checkpoints__names_are_texts(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be a text that is not empty, got "):
        measure_checkpoints(**{name: value})


def test_labels__beyond_64_bits_are_refused() -> None:
    labels = np.array([3, 1, 2, 2**63 + 1], np.uint64)
    with pytest.raises(
        ValueError, match=r"^labels must be integers of 63 bits at most, got 9223372036854775809$"
    ):
        measure(labels=labels)
    np.testing.assert_array_equal(measure(labels=labels.clip(max=9))["label"], [3, 1, 2, 9])
