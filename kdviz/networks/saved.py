"""Read files of saved weights, of torch, safetensors and Hugging Face, and run no code of theirs."""

import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from kdviz.errors import DataError, StoreError
from kdviz.files import find_weights, read_json

Checkpoint = str | os.PathLike[str] | Mapping[str, Any]

_MOST_KINDS = 200  # of objects beside the weights that one file may hold


def name_checkpoint(checkpoint: Checkpoint) -> str:
    """Name a checkpoint in messages: its path, or "the state dict"."""
    return "the state dict" if isinstance(checkpoint, Mapping) else os.fspath(checkpoint)


def read_record(checkpoint: Checkpoint) -> Any:
    """Return what a checkpoint holds, as it was saved; the errors are those of `read_checkpoint`."""
    if isinstance(checkpoint, Mapping):
        return checkpoint
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise TypeError(f"a checkpoint must be a path or a state dict, got {type(checkpoint).__name__}")
    path = Path(checkpoint)
    if path.is_dir():
        found = find_weights(path)
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise DataError(f"the folder {path} must hold one file of weights, got {names}; pass its path")
        (path,) = found
    if not path.is_file():
        raise DataError(f"there is no checkpoint at {path}")
    return _read_shards(path) if path.name.endswith(".index.json") else _read_file(path)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Put the files together that an index names; they lie beside it."""
    try:
        shards = sorted(set(read_json(index)["weight_map"].values()))
        if any(Path(name).name != name or name == ".." for name in shards):
            raise ValueError("it names files of other folders")
        if any(name.endswith(".index.json") for name in shards):
            raise ValueError("it names an index, which is no file of weights")
    except (StoreError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"cannot read the checkpoint {index}: {error}") from error
    weights: dict[str, Tensor] = {}
    for name in shards:
        weights |= read_record(index.with_name(name))
    return weights


def _read_file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            is_safetensors = path.suffix == ".safetensors" or file.read(9)[8:] == b"{"
        return safetensors.torch.load_file(path) if is_safetensors else _read_torch(path)
    except DataError:
        raise
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise DataError(f"cannot read the checkpoint {path}: {_explain(error)}") from error


class _Inert:
    """Takes the place of an object that only code from the file could make; holds and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _InertDict(_Inert):
    """The same for a kind of dict, such as the options of a trainer: it is read as a plain one."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class _InertList(_Inert):
    def __new__(cls, *_: Any, **__: Any) -> Any:
        return []


def _read_torch(path: Path) -> Any:
    """Read by torch's own restricted reader, which calls nothing but what rebuilds tensors.

    Whatever else a file names stands for a class of ours that does nothing, so that a NumPy number, a path or
    a `Namespace` beside the weights does not keep them from being read. That a name is meant for a kind of
    dict or list is seen when entries are put into it.
    """
    kinds: dict[str, type[_Inert]] = {}
    with suppress(Exception):  # a look ahead, in files of the present format only; it runs nothing either
        kinds = dict.fromkeys(torch.serialization.get_unsafe_globals_in_checkpoint(path), _Inert)
    for _ in range(_MOST_KINDS):
        try:
            with _standing_in(kinds):
                record = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            if not _learn_kind(kinds, str(error)):
                raise
        else:
            if isinstance(record, _Inert):
                raise DataError(f"cannot read the checkpoint {path}: {_refuse(type(record).__name__)}")
            return record
    raise DataError(f"cannot read the checkpoint {path}: it holds more than {_MOST_KINDS} kinds of objects")


@contextmanager
def _standing_in(kinds: Mapping[str, type[_Inert]]) -> Iterator[None]:
    """Let classes that do nothing stand for the named ones while a file is read."""
    classes: list[Any] = [(type(name, (kind,), {}), name) for name, kind in kinds.items()]
    with torch.serialization.safe_globals(classes), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of another pickle protocol
        yield


def _learn_kind(kinds: dict[str, type[_Inert]], message: str) -> bool:
    """Add what a reader missed: another name, or that a known one is a kind of dict or list."""
    if missed := re.search(r"Unsupported global: GLOBAL (\S+)", message):
        name = missed[1] if "." in missed[1] else f"builtins.{missed[1]}"
        is_new = name not in kinds
        kinds.setdefault(name, _Inert)
        return is_new
    filled = next((name for name, kind in kinds.items() if kind is _Inert and f"{name}'" in message), None)
    if filled is not None:
        kinds[filled] = _InertList if re.search("append|extend", message) else _InertDict
    return filled is not None


def _refuse(what: str) -> str:
    return f"it holds more than tensors and plain values ({what}); save network.state_dict() instead"


def _explain(error: Exception) -> str:
    """Shorten what a reader says, and turn torch's advice to run code from the file into one not to."""
    text = str(error).strip()
    code = re.search(r"GLOBAL (\S+)", text) or re.search("(TorchScript) archive", text)
    if code or "persistent_load" in text:
        return _refuse(code[1] if code else "a pickled network")
    reason, _, _ = text.partition("WeightsUnpickler error: ")[-1].strip().partition("\n")
    return f"{type(error).__name__}: {reason or text.partition(chr(10))[0]}"
