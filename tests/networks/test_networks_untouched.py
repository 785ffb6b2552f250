"""Every network is left as it was found."""

import random

import numpy as np
import pytest
import torch
from any_measurements import GRID, IMAGES, measure
from torch import nn
from torch.nn.utils import parametrizations

import kdviz
from kdviz.testing import random_images

# -- the network is left as it was found


def hooks_of(module):
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_state_dict_hooks",
    )
    return [list(getattr(module, kind).items()) for kind in kinds]


def state_of(network):
    """Everything a measurement could change, as values that compare, tensors by their bytes."""

    def bits(tensor):
        return None if tensor is None else tensor.detach().numpy().tobytes()

    legacy = np.random.get_state()  # noqa: NPY002
    return {
        "modes": [module.training for module in network.modules()],
        "hooks": [hooks_of(module) for module in network.modules()],
        "parameters": [(name, id(p), bits(p)) for name, p in network.named_parameters()],
        "flags": [parameter.requires_grad for parameter in network.parameters()],
        "gradients": [(id(p.grad), bits(p.grad)) for p in network.parameters()],
        "buffers": [(name, id(b), bits(b)) for name, b in network.named_buffers()],
        "torch": bits(torch.random.get_rng_state()),
        "numpy": (legacy[1].tobytes(), *legacy[2:]),
        "python": random.getstate(),
        "gradients-on": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


class Interrupted(nn.Module):
    """Draws from every global source, and raises at one call."""

    def __init__(self):
        super().__init__()
        self.calls, self.at, self.error = 0, 0, None

    def forward(self, x):
        self.calls += 1
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        if self.calls == self.at:
            raise self.error
        return x


def eventful_network():
    """Batch norm, dropout, spectral norm, tied and frozen weights, hooks, gradients of an earlier step."""
    torch.manual_seed(5)
    network = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Conv2d(3, 3, 3, padding=1), nn.Flatten(),
        parametrizations.spectral_norm(nn.Linear(192, 16)), nn.BatchNorm1d(16), Interrupted(),
    )  # fmt: skip
    network[4].weight = network[0].weight
    network(random_images(4, seed=2)).square().sum().backward()
    network[0].bias.grad = None
    network[1].bias.requires_grad_(False)
    network[3].eval()
    network[6].register_forward_hook(lambda *_: None)
    network[4].register_full_backward_hook(lambda *_: None)
    network[8].calls = 0
    return network


STAGES = {  # at which call of the last layer, and what happens there
    "done": (0, None),
    "trial": (1, KeyError("stage")),
    "trial-gradient": (3, RuntimeError("stage")),
    "clean": (7, KeyboardInterrupt("stage")),
    "probes": (8, KeyboardInterrupt("stage")),
    "variance": (15, SystemExit("stage")),
    "check": (60, RuntimeError("stage")),
    "path": (110, KeyboardInterrupt("stage")),
}


@pytest.mark.parametrize("stage", STAGES)
def test_measure__leaves_everything_as_found_at_every_stage(stage):
    network = eventful_network()
    network[8].at, network[8].error = STAGES[stage]
    before = state_of(network)
    options = {"feature": "identity", "method": "path", "probes": 4, "draws": 2, "progress": False}

    def work():
        kdviz.measure(network, IMAGES, layers="8", units=GRID, **options)

    if network[8].error is None:
        work()
        assert network[8].calls > 110  # or a stage would not be reached
    else:
        with pytest.raises(type(network[8].error), match="stage"):
            work()
    assert state_of(network) == before


@pytest.mark.parametrize(
    "options",
    [
        {"layers": "9"},
        {"layers": "3", "feature": "gelu"},
        {"layers": "8", "images": IMAGES.double()},
        {"layers": "8", "images": random_images(2, channels=4)},
        {"layers": "8", "feature": lambda output: output.argmax(1)},
        {"layers": "8", "feature": lambda output: None},
    ],
    ids=["layer", "name", "dtype", "channels", "gradient", "callable"],
)
def test_measure__leaves_everything_as_found_when_it_refuses(options):
    network = eventful_network()
    before = state_of(network)
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        measure(network, **options)
    assert state_of(network) == before


def test_measure__never_merges_what_eval_would_merge():
    class Merging(nn.Linear):
        """Changes its weights when the mode changes, as low-rank adapters do."""

        def train(self, mode=True):
            if mode != self.training:
                with torch.no_grad():
                    self.weight *= 2 if mode else 0.5
            return super().train(mode)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), Merging(192, 5))
    before = network[1].weight.clone()
    measure(network, layers="1", feature="identity")
    assert torch.equal(network[1].weight, before)
    assert network[1].training
