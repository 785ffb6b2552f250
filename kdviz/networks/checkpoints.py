"""Read saved weights without running pickled code, and put them into networks."""

import os
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from kdviz.arguments import name_some
from kdviz.errors import DataError

Checkpoint = str | os.PathLike[str] | Mapping[str, Tensor]

_USUAL_NAMES = ("model", "state_dict", "model_state_dict")  # of the state dict in a training record


def read_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the state dict of a checkpoint, whichever way it is kept.

    Parameters
    ----------
    checkpoint
        A state dict; or the path of one: ``.safetensors``, else a file for `torch.load`, which is read with
        ``weights_only=True``. Of a larger record, such as ``{"model": ..., "optimizer": ..., "epoch": ...}``,
        the one state dict in it is taken; what holds single numbers only, such as metrics, is none. A record
        with tensors of its own is the state dict, unless there is one below it that is named ``model``,
        ``state_dict`` or ``model_state_dict``.

    Returns
    -------
    dict
        Names to tensors, and to whatever else the modules keep (``get_extra_state``).

    Raises
    ------
    TypeError
        If `checkpoint` is neither a path nor a mapping.
    DataError
        If the file is missing or damaged, holds objects that only pickled code could make, such as a whole
        network, or there is no state dict in it, or more than one.
    """
    if not isinstance(checkpoint, (str, os.PathLike, Mapping)):
        raise TypeError(f"a checkpoint must be a path or a state dict, got {type(checkpoint).__name__}")
    origin = name_checkpoint(checkpoint)
    record = checkpoint if isinstance(checkpoint, Mapping) else _read_file(Path(checkpoint))
    weights = _find_weights(record, origin)
    if not all(isinstance(name, str) for name in weights):
        raise DataError(f"{origin} holds tensors without names; save network.state_dict()")
    return dict(weights)


def load_weights(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Put the weights of a checkpoint, saved from the network or a wrapper around it, into `network`.

    Raises
    ------
    DataError
        If a file is missing or damaged, or the weights do not fit the network.
    """
    wanted = network.state_dict()
    weights = match_names(read_checkpoint(checkpoint), wanted)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        misfit = _describe_misfit(weights, wanted) or str(error)
        raise DataError(f"{name_checkpoint(checkpoint)} does not fit the network: {misfit}") from error


def match_names(weights: Mapping[str, Any], wanted: Container[str]) -> dict[str, Any]:
    """Take off what all names begin with, as wrappers and trainers put it, until one of them is `wanted`.

    Single numbers beside the prefix, such as a wrapper's counter, go with it. Names stay as they are where
    that leads to none.

    Parameters
    ----------
    weights
        A state dict.
    wanted
        Names that the reader knows, such as those of a network.
    """
    matched = dict(weights)
    while not any(name in wanted for name in matched):
        heads = {name.partition(".")[0] for name, value in matched.items() if np.ndim(value) or "." in name}
        inside = {name.partition(".")[2]: value for name, value in matched.items() if "." in name}
        if len(heads) != 1 or not inside:
            return dict(weights)
        matched = inside
    return matched


def _describe_misfit(weights: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say what is missing, too much or of another shape, by a few names each."""
    shapes = [
        (name, tuple(np.shape(weights[name])), tuple(np.shape(wanted[name])))
        for name in wanted
        if name in weights
    ]
    faults = {
        "missing": [name for name in wanted if name not in weights],
        "unknown": [name for name in weights if name not in wanted],
        "of another shape": [
            f"{name} {ours} for {theirs}" for name, ours, theirs in shapes if ours != theirs
        ],
    }
    return "; ".join(f"{len(names)} {what} ({name_some(names)})" for what, names in faults.items() if names)


def name_checkpoint(checkpoint: Checkpoint) -> str:
    """Name a checkpoint in messages: its path, or "the state dict"."""
    return "the state dict" if isinstance(checkpoint, Mapping) else os.fspath(checkpoint)


def _find_weights(record: Any, origin: str) -> Mapping[str, Any]:
    """Return the record itself if it is a state dict, else the one directly below it."""
    entries = record if isinstance(record, Mapping) else {}
    below = [
        key
        for key, value in entries.items()
        if isinstance(value, Mapping) and _has_weights(value) and not str(key).endswith("_extra_state")
    ]
    if _has_weights(entries) and not any(key in _USUAL_NAMES for key in below):
        return entries
    if len(below) > 1:
        raise DataError(
            f"{origin} holds {len(below)} sets of weights; pass one: {', '.join(map(repr, below))}"
        )
    if not below:
        raise DataError(f"{origin} holds no weights (names to tensors); save network.state_dict()")
    return entries[below[0]]


def _has_weights(record: Mapping[Any, Any]) -> bool:
    """Whether a record holds tensors, not only single numbers kept as such."""
    return any(isinstance(value, Tensor) and value.ndim > 0 for value in record.values())


def _read_file(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"there is no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise DataError(f"cannot read the checkpoint {path}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """Shorten what a reader says, and turn torch's advice to run code from the file into one not to."""
    text = str(error).strip()
    code = re.search(r"GLOBAL (\S+)", text) or re.search("(TorchScript) archive", text)
    if code:
        return f"it holds more than tensors and plain values ({code[1]}); save network.state_dict() instead"
    reason, _, _ = text.partition("WeightsUnpickler error: ")[-1].strip().partition("\n")
    return f"{type(error).__name__}: {reason or text.partition(chr(10))[0]}"
