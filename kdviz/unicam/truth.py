"""What relevance is measured by: where the classes of samples lie."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kdviz.arguments import one_of
from kdviz.unicam.statistics import FEWEST

Truth = str | ArrayLike
"""``"one-hot"``, all classes equally far from each other, or a place for each, ``(classes, d)``."""


def place_classes(truth: Truth, labels: NDArray[np.int64], classes: int) -> Tensor:
    """Return the place of the class of every sample, ``(n, d)``, float64.

    Parameters
    ----------
    truth
        ``"one-hot"``, or an array ``(classes, d)`` such as of embedded names; for two classes all are alike.
    labels
        ``(n,)``, within ``0..classes-1``.
    classes
        Of the networks.

    Raises
    ------
    ValueError
        If `truth` is neither, or there are fewer than four samples, or fewer than two classes of them.
    """
    if len(labels) < FEWEST:
        raise ValueError(f"inputs must be {FEWEST} samples or more, of which there are {len(labels)}")
    if len(found := np.unique(labels)) < 2:
        raise ValueError(f"labels must be of two classes or more, got class {found[0]} only")
    if isinstance(truth, str):
        one_of("truth", truth, ["one-hot"])
        return torch.eye(classes, dtype=torch.float64)[labels]
    places = np.asarray(truth)
    if (
        places.ndim != 2
        or len(places) != classes
        or places.dtype.kind not in "iuf"
        or not np.isfinite(places).all()
    ):
        raise ValueError(
            f"truth must be 'one-hot' or finite numbers ({classes}, d), a row for each class, got "
            f"{places.shape} of {places.dtype}"
        )
    return torch.from_numpy(places.astype(np.float64))[labels]


def describe_truth(truth: Truth) -> str:
    """Name what relevance is measured by, for attributes."""
    return truth if isinstance(truth, str) else f"given {np.shape(truth)}"
