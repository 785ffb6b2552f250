"""Crops of real photographs that come installed with scikit-image and scikit-learn; class: which photograph.

Crops for training come from the left two thirds of a photograph, held-out ones from the rest.
"""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdviz.sources import normalise

SIDE = 64  # pixels of a crop
HEIGHT = 3  # crops that a photograph is high, so that a crop holds objects rather than surfaces
COLOURED = ("astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field", "immunohistochemistry")
GREY = ("camera", "coins", "moon", "brick", "grass", "gravel")
OTHERS = ("china.jpg", "flower.jpg")  # of scikit-learn
NAMES = COLOURED + GREY + OTHERS


@functools.cache
def load_photographs(side: int) -> tuple[NDArray[np.uint8], ...]:
    """Return the photographs ``(HEIGHT * side, W, 3)`` in the order of `NAMES`."""
    from skimage import data, transform
    from sklearn.datasets import load_sample_image

    taken = [getattr(data, name)() for name in COLOURED + GREY] + [load_sample_image(name) for name in OTHERS]
    scaled, height = [], HEIGHT * side
    for image in taken:
        coloured = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        width = max(round(coloured.shape[1] * height / coloured.shape[0]), 3 * side)
        same = transform.resize(coloured, (height, width, 3), anti_aliasing=True)
        scaled.append((255 * same).round().astype(np.uint8))
    return tuple(scaled)


def load_crops(split: str, count: int, side: int = SIDE) -> tuple[Tensor, Tensor, list[str]]:
    """Return `count` crops ``(count, 3, side, side)``, their classes and names; photographs take turns.

    Crop k depends on the split (``"train"`` or ``"held-out"``), the side and k alone.
    """
    rng = np.random.default_rng(0 if split == "train" else 1)
    photographs = load_photographs(side)
    crops, labels, names = [], [], []
    for at in range(count):
        label = at % len(photographs)
        image = photographs[label]
        border = image.shape[1] * 2 // 3
        left, right = (0, border) if split == "train" else (border, image.shape[1])
        row = rng.integers(0, image.shape[0] - side + 1)
        column = rng.integers(left, right - side + 1)
        crop = image[row : row + side, column : column + side]
        crops.append(crop[:, ::-1] if split == "train" and rng.random() < 0.5 else crop)
        labels.append(label)
        names.append(f"{NAMES[label].removesuffix('.jpg')}-{row}-{column}")
    return torch.from_numpy(normalise(np.stack(crops))), torch.tensor(labels), names
