"""Put saved weights into networks: the names in a file are matched to those that a network knows.

A file may hold anything beside the weights: an optimiser, numbers, options, a second network. Every tensor in
it has one dotted name, through records and wrappers alike: ``state_dict.student.fc.weight``. What stands
before the names that the network knows is found by the names and shapes themselves.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdviz.arguments import name_some, suggest
from kdviz.errors import DataError, MisfitError
from kdviz.networks.saved import Checkpoint, name_checkpoint, read_record

# What wrappers of a network or of a part of it put into names.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Parts that read what a base model gives and change nothing in it, by the names they commonly have.
_HEADS = frozenset(
    "head heads head_dist fc classifier last_linear lm_head cls score qa_outputs decoder pooler "
    "projector predictor projection_head".split()
)

_MOST_RECORDS, _MOST_LEVELS = 100_000, 50  # of records in one file; one that holds itself has more


def read_checkpoint(checkpoint: Checkpoint, part: str | None = None) -> dict[str, Any]:
    """Return all tensors of a checkpoint by dotted names, whichever way it is kept.

    Parameters
    ----------
    checkpoint
        A state dict, a record that holds one, or a path: of a ``.safetensors`` file, of one written by
        ``torch.save``, of the index of several (``*.index.json``), or of a folder with one of these, as
        ``save_pretrained`` and Hugging Face's `Trainer` leave it. No code from a file is run.
    part
        Read only what lies below this name, such as ``"model_ema"`` or ``"student"``.

    Returns
    -------
    dict
        ``{"fc.weight": tensor}`` for a state dict, ``{"model.fc.weight": tensor}`` for one in a record; names
        as in the file, less `part` and what wrappers put into them. What modules keep beside tensors
        (``get_extra_state``) is among them; numbers, options and what an optimiser keeps by number are not.

    Raises
    ------
    TypeError
        If `checkpoint` is neither a path nor a mapping.
    DataError
        If a file is missing or damaged, is a whole pickled network, or holds no tensors by name.
    """
    record, origin = read_record(checkpoint), name_checkpoint(checkpoint)
    try:
        weights = _without_wrappers(dict(_flatten(record, count())))
    except RecursionError:
        text = f"{origin} holds records in records without end; save network.state_dict() instead"
        raise DataError(text) from None
    if part is not None:
        weights = _below(weights, part, origin)
    if not any(isinstance(value, Tensor) and value.ndim for value in weights.values()):
        raise DataError(f"{origin} holds no weights (names to tensors); save network.state_dict()")
    return weights


def load_weights(network: nn.Module, checkpoint: Checkpoint, part: str | None = None) -> dict[str, Any]:
    """Put the weights of a checkpoint into `network`, whatever the trainer put before their names.

    The names in the file are the network's own after a prefix, which is found: of a wrapper (``module.``), a
    trainer (``state_dict.model.``) or a larger network (``vit.`` beside its head). All parameters must be
    there, but for those tied to another that is. Counters and indices, which nothing trains, may be missing
    or too many, and so may a head that the network does not have.

    Parameters
    ----------
    network
        As built for these weights.
    checkpoint
        As for :func:`read_checkpoint`.
    part
        Which of several networks in one file, such as ``"student"`` beside ``"teacher"``, or ``"model_ema"``
        beside ``"model"``; needed only where more than one fits.

    Returns
    -------
    dict
        All tensors of the checkpoint, as `read_checkpoint` gave them.

    Raises
    ------
    DataError
        If a file is missing or damaged, or the weights of several networks in it fit.
    MisfitError
        If those of none do.
    """
    weights, known = read_checkpoint(checkpoint, part), network.state_dict()
    origin = name_checkpoint(checkpoint)
    tried = []
    for naming in _list_namings(network, known):
        wanted = {name: known[own] for name, own in naming.items()}
        tried.append((*_find_places(weights, wanted), naming, wanted))
    _, places, naming, wanted = max(tried, key=itemgetter(0))
    taken = {place: _take(weights, wanted, place) for place in places}
    misfits = {place: _describe_misfit(weights, wanted, taken[place], place, network) for place in places}
    fitting = [place for place in places if not misfits[place]]
    if not fitting:
        raise MisfitError(f"{origin} does not fit the network{misfits[places[0]]}")
    found, *others = (taken[place] for place in fitting)
    tensors = [name for name, value in found.items() if isinstance(value, Tensor)]
    if not all(torch.equal(found[name], other[name]) for other in others for name in tensors):
        several = ", ".join(repr(place.before[:-1]) for place in fitting)
        raise DataError(f"{origin} holds {len(fitting)} networks that fit; name one with part: {several}")
    try:
        network.load_state_dict(known | {naming[name]: value for name, value in found.items()})
    except RuntimeError as error:  # such as what a module keeps beside tensors
        raise MisfitError(f"{origin} does not fit the network: {' '.join(str(error).split())}") from error
    return weights


def find_tensor(checkpoint: Checkpoint, name: str) -> Tensor | None:
    """Return the tensor of a checkpoint that has a name, alone or after a prefix; None if there is none.

    Raises
    ------
    DataError
        As `read_checkpoint`; or if there are several.
    """
    weights = read_checkpoint(checkpoint)
    found = _outermost({before for one in weights for before in _prefixes(one) if one == before + name})
    if not all(torch.equal(weights[before + name], weights[found[0] + name]) for before in found):
        several = ", ".join(before + name for before in found)
        raise DataError(f"{name_checkpoint(checkpoint)} holds {len(found)} of {name}; say which: {several}")
    return weights[found[0] + name] if found else None


# -- names in a file


def _flatten(
    record: Any, visits: Iterator[int], before: str = "", levels: int = _MOST_LEVELS
) -> Iterator[tuple[str, Any]]:
    """Yield every tensor, and every extra state of a module, below entries that have names.

    Raises
    ------
    RecursionError
        If records are in records too deep, or met too often.
    """
    if not isinstance(record, Mapping):
        return
    if not levels or next(visits) >= _MOST_RECORDS:
        raise RecursionError
    for name, value in record.items():
        if not isinstance(name, str):
            continue  # as an optimiser numbers its state
        if isinstance(value, Tensor) or name.endswith("_extra_state"):
            yield before + name, value
        else:
            yield from _flatten(value, visits, f"{before}{name}.", levels - 1)


def _without_wrappers(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Take out of names what wrappers put into them, unless two would be the same then."""
    plain = [".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in weights]
    return dict(zip(plain if len(set(plain)) == len(plain) else weights, weights.values(), strict=True))


def _below(weights: Mapping[str, Any], part: str, origin: str) -> dict[str, Any]:
    """Take what lies below a part, which may itself lie deeper in the file if none is named so at its top."""
    every = {before for name in weights for before in _prefixes(name)}
    found = _outermost(before for before in every if f".{before}".endswith(f".{part}."))
    found = [f"{part}."] if f"{part}." in found else found
    if len(found) != 1:
        near = found or sorted(before for before in every if before.count(".") in (1, 2))
        hint = suggest(part, [before[:-1] for before in near])
        raise DataError(f"{origin} has {len(found) or 'no'} parts named {part!r}; {hint}")
    (before,) = found
    return {name.removeprefix(before): weights[name] for name in weights if name.startswith(before)}


def _prefixes(name: str) -> list[str]:
    """List what may stand before a shorter name: nothing, the first part, the first two, and so on."""
    return [name[:at] for at in range(len(name)) if at == 0 or name[at - 1] == "."]


def _outermost(prefixes: Iterable[str]) -> list[str]:
    """Leave out what lies below another one."""
    kept: list[str] = []
    for prefix in sorted(prefixes):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return kept


# -- names in a file and in a network


class _Place(NamedTuple):
    """Where in a file a network's tensors are: after `before` there, and after `below` in the network."""

    before: str = ""
    below: str = ""


def _list_namings(network: nn.Module, known: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield ``{name: its own name}`` of all tensors: the network's, then those that transformers saves."""
    naming = _without_wrappers({name: name for name in known})
    yield naming
    rename = getattr(sys.modules.get("transformers.core_model_loading"), "revert_weight_conversion", None)
    if rename is None:
        return
    modules = {f"{name}." if name else "": module for name, module in network.named_modules()}
    models = {name: module for name, module in modules.items() if hasattr(module, "save_pretrained")}
    for top in _outermost(models):
        inside = [name for name in naming if name.startswith(top)]
        with suppress(Exception):  # of tensors that it also puts together, or takes apart, there are no names
            marks = {name.removeprefix(top): torch.tensor(at) for at, name in enumerate(inside)}
            renamed = {
                top + name: naming[inside[int(mark)]] for name, mark in rename(models[top], marks).items()
            }
            naming = {name: naming[name] for name in naming if not name.startswith(top)} | renamed
    yield naming


def _find_places(weights: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[int, list[_Place]]:
    """Find the places where most tensors of the network are, by shape first; several where all fit alike.

    Returns
    -------
    fitting, places
        How many tensors fit there, and the places.
    """
    scores: dict[_Place, tuple[int, int]] = {}
    shared = Counter(below for name in wanted for below in _prefixes(name))
    for below in (one for one, times in shared.items() if 2 * times >= len(wanted)):
        for name, value in weights.items():
            for before in _prefixes(name):
                if (full := below + name[len(before) :]) in wanted:
                    place, fits = _Place(before, below), np.shape(value) == np.shape(wanted[full])
                    fitting, named = scores.get(place, (0, 0))
                    scores[place] = fitting + fits, named + 1
    best = max(scores.values(), default=(0, 0))
    if 2 * best[1] < len(wanted):
        return 0, [_Place()]
    places = [place for place, score in scores.items() if score == best]
    below = min((place.below for place in places), key=len)
    befores = _outermost(place.before for place in places if place.below == below)
    return best[0], [_Place(before, below) for before in befores]


def _take(weights: Mapping[str, Any], wanted: Mapping[str, Any], place: _Place) -> dict[str, Any]:
    """Take a network's tensors from a place; one that is left out as tied to another is that one."""
    found = {
        name: weights[at]
        for name in wanted
        if name.startswith(place.below) and (at := place.before + name[len(place.below) :]) in weights
    }
    twins = {_memory(wanted[name]): found[name] for name in found}
    return found | {
        name: twins[_memory(value)]
        for name, value in wanted.items()
        if name not in found and _memory(value) in twins
    }


def _memory(value: Any) -> Any:
    """Say where a tensor lies; other things are never the same."""
    if not isinstance(value, Tensor) or not value.numel():
        return object()
    return value.data_ptr(), value.shape, value.stride()


def _is_trained(value: Any) -> bool:
    """Whether a value may be trained: no counter or index, which a network makes by itself."""
    return not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex()


def _describe_misfit(
    weights: Mapping[str, Any],
    wanted: Mapping[str, Any],
    found: Mapping[str, Any],
    place: _Place,
    network: nn.Module,
) -> str:
    """Say what is missing, too much or of another shape, by a few names each; nothing if the rest fits."""
    made = _without_wrappers(dict(network.named_buffers()))  # those that are not saved, too
    beside = {
        rest: value
        for name, value in weights.items()
        if name.startswith(place.before) and place.below + (rest := name[len(place.before) :]) not in wanted
    }
    faults = {
        "missing": [name for name, value in wanted.items() if name not in found and _is_trained(value)],
        "unknown": [
            rest
            for rest, value in beside.items()
            if _is_trained(value) and place.below + rest not in made and rest.split(".")[0] not in _HEADS
        ],
        "of another shape": [
            f"{name} {ours} for {theirs}"
            for name, value in found.items()
            if (ours := tuple(np.shape(value))) != (theirs := tuple(np.shape(wanted[name])))
        ],
    }
    told = "; ".join(f"{len(names)} {what} ({name_some(names)})" for what, names in faults.items() if names)
    if not told:
        return ""
    where = f" after {place.before!r}" * bool(place.before) + f" at its {place.below!r}" * bool(place.below)
    headless = place.below and not any(name.startswith(place.below) for name in faults["missing"])
    advice = "; it was saved without a head: build the network without it" if headless else ""
    return f"{where}: {told}{advice}"
