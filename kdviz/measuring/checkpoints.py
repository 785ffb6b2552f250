"""Put the weights of checkpoints into networks, and name weights by what they hold."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdviz.checkpoints import Checkpoint, match_names, name_checkpoint, read_checkpoint
from kdviz.errors import DataError


def load_weights(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Put the weights of a checkpoint, saved from the network or a wrapper around it, into `network`.

    Raises
    ------
    DataError
        If a file is missing or damaged, or the weights do not fit the network.
    """
    weights = match_names(read_checkpoint(checkpoint), network.state_dict())
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{name_checkpoint(checkpoint)} does not fit the network: {error}") from error


def fingerprint_weights(weights: Mapping[str, Any]) -> str:
    """Hash the names, shapes and bytes of the tensors of a state dict; other entries do not count."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        if isinstance(tensor, Tensor):
            tensor = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
