"""Read saved weights without running pickled code."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from kdviz.errors import DataError

Checkpoint = str | os.PathLike[str] | Mapping[str, Tensor]


def read_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Give the state dict of a checkpoint, whichever way it is kept.

    Parameters
    ----------
    checkpoint
        A state dict; or the path of one: ``.safetensors``, else a file for `torch.load`, which is read with
        ``weights_only=True``.

    Returns
    -------
    dict
        Names to tensors, and to whatever else the modules keep (``get_extra_state``).

    Raises
    ------
    TypeError
        If `checkpoint` is neither a path nor a mapping.
    DataError
        If the file is missing or damaged, or no tensor is in it.
    """
    if not isinstance(checkpoint, (str, os.PathLike, Mapping)):
        raise TypeError(f"a checkpoint must be a path or a state dict, got {type(checkpoint).__name__}")
    weights = checkpoint if isinstance(checkpoint, Mapping) else _read_file(Path(checkpoint))
    if not isinstance(weights, Mapping) or not any(isinstance(value, Tensor) for value in weights.values()):
        origin = name_checkpoint(checkpoint)
        if isinstance(weights, Mapping):
            for key in (key for key, value in weights.items() if isinstance(value, Mapping)):
                raise DataError(f"{origin} holds more than weights; pass what lies under its key {key!r}")
        raise DataError(f"{origin} holds no weights (names to tensors); save network.state_dict()")
    return dict(weights)


def name_checkpoint(checkpoint: Checkpoint) -> str:
    """Name a checkpoint in messages: its path, or "the state dict"."""
    return "the state dict" if isinstance(checkpoint, Mapping) else os.fspath(checkpoint)


def _read_file(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"there is no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise DataError(f"cannot read the checkpoint {path}: {error}") from error
