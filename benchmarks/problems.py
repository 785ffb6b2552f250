"""Networks and images that the benchmarks share: the built-in teacher, after 1 and after 16 epochs."""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdviz.models import build
from kdviz.networks.checkpoints import load_weights
from kdviz.sources import fashion_composites, find_data, normalise

REFERENCES = Path(__file__).with_name("references")
RESULTS = Path(__file__).with_name("results")
CHECKPOINTS = {
    "early": REFERENCES / "teacher-epoch-1.safetensors",
    "late": find_data("runs/teacher-fashion.safetensors"),
}
LAYERS = {"conv": "features.conv4", "fc1": "classifier.fc1"}
CELLS = 16  # the papers' grid: 16 x 16 units


def load_network(checkpoint: str) -> nn.Module:
    """Return the built-in teacher after one epoch (``"early"``) or at its end (``"late"``), frozen."""
    network = build("small_vgg", classes=10, input_size=48, seed=100, dropout=0.2)
    load_weights(network, CHECKPOINTS[checkpoint])
    return network.eval().requires_grad_(False)


@functools.cache
def load_images(count: int) -> tuple[Tensor, Tensor, list[str]]:
    """Return `count` training images spread over the built-in set: inputs, masks and names."""
    data = fashion_composites("train")
    rows = np.linspace(0, len(data.images) - 1, count).astype(int)
    inputs = torch.from_numpy(normalise(data.images[rows]))
    return inputs, torch.from_numpy(data.masks[rows]), [data.sample_ids[row] for row in rows]
