"""The one hash of tensors: of samples, inputs and weights; and that of checkpoints as they lie there."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdviz.files import hash_file


def fingerprint(*parts: Tensor | bytes | str, digits: int = 16) -> str:
    """Hash the bytes of some tensors and texts, one after the other, to so many hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            values = part.detach().cpu().contiguous().reshape(-1)
            digest.update(values.view(torch.uint8).numpy().data)
        else:
            digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:digits]


def fingerprint_tensors(tensors: Mapping[str, Any]) -> str:
    """Hash the names, dtypes, shapes and values of tensors, such as those of a state dict.

    Their order does not count, nor do entries that are no tensors.
    """
    parts: list[Tensor | str] = []
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor]
    return fingerprint(*parts)


def fingerprint_checkpoint(path: Path) -> str:
    """Hash the file of a checkpoint, or those in its folder."""
    if path.is_dir():
        return fingerprint(*(hash_file(one) for one in sorted(path.iterdir()) if one.is_file()))
    return hash_file(path)
