"""Load weights without running pickled code, and name them by what they hold."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kdviz.errors import DataError

Checkpoint = str | os.PathLike[str] | Mapping[str, Tensor]


def load_weights(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Put the weights of a checkpoint into `network`.

    Raises
    ------
    DataError
        If a file is missing or damaged, or the weights do not fit the network.
    """
    weights = _weights_of(checkpoint)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        origin = "the state dict" if isinstance(checkpoint, Mapping) else os.fspath(checkpoint)
        raise DataError(f"{origin} does not fit the network: {error}") from error


def fingerprint_weights(checkpoint: Checkpoint) -> str:
    """Hash the names, shapes and bytes of the weights; the same whatever the file format."""
    weights = _weights_of(checkpoint)
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _weights_of(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    weights = checkpoint if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        origin = "the checkpoint" if isinstance(checkpoint, Mapping) else os.fspath(checkpoint)
        raise DataError(f"{origin} holds no state dict (names to tensors); save network.state_dict()")
    return weights


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise DataError(f"there is no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise DataError(f"cannot read the checkpoint {path}: {error}") from error
