"""All properties of several networks, each kept as soon as it is known."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Unpack

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.stats import binomtest
from torch import Tensor, nn

from kdviz.arguments import one_of
from kdviz.errors import StoreError
from kdviz.networks import fingerprint_tensors
from kdviz.networks.hashing import fingerprint
from kdviz.networks.reading import InputsLike, find_source
from kdviz.store import Run
from kdviz.transfer.adversarial import adversarial
from kdviz.transfer.agreement import consensus
from kdviz.transfer.boundary import boundary
from kdviz.transfer.confidence import confidence
from kdviz.transfer.invariance import invariance
from kdviz.transfer.localization import localization
from kdviz.transfer.question import Options, ask
from kdviz.transfer.representation import representation
from kdviz.transfer.shape_bias import shape_bias


@dataclass(frozen=True)
class Property:
    """A property as a report asks and a chart shows it.

    Attributes
    ----------
    ask
        The function of networks, inputs and labels.
    title
        What a network that has more of it does.
    own
        Whether the teacher, too, has a value that says something, as of accuracy.
    """

    ask: Callable[..., xr.Dataset]
    title: str
    own: bool = False


PROPERTIES: dict[str, Property] = {
    "confidence": Property(confidence, "is as sure as the teacher"),  # first: it tells who is trained
    "consensus": Property(consensus, "answers as the teacher:"),
    "shape_bias": Property(shape_bias, "decides by shape", own=True),
    "localization": Property(localization, "looks at the same places"),
    "adversarial": Property(adversarial, "falls for the teacher's attacks"),
    "invariance": Property(invariance, "same answer after", own=True),
    "boundary": Property(boundary, "draws the same boundaries"),
    "representation": Property(representation, "has similar features (CKA)"),
}
"""Properties by the name under which a run keeps them, in the order of the chart."""

_NEEDS = {
    "localization": "it needs images (samples, channels, height, width)",
    "adversarial": "it needs images (samples, channels, height, width)",
    "boundary": "it needs numbers between which there is a plane, not tokens",
    "shape_bias": "it needs cue_conflict=(inputs, shapes, textures)",
}
_CLEAN = "as they are"  # the domain of the inputs themselves
_AT_ONCE = 64  # samples hashed together
_LEVEL = 0.01  # of the test that the teacher does not guess


def report(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    domains: Mapping[str, InputsLike] | None = None,
    cue_conflict: tuple[InputsLike, ArrayLike, ArrayLike] | None = None,
    properties: Sequence[str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    store: Run | None = None,
    **options: Unpack[Options],
) -> dict[str, xr.Dataset]:
    """Ask for all properties, and keep each in a run as soon as it is known.

    Parameters
    ----------
    networks, inputs, labels, **options
        As for :func:`kdviz.transfer.ask`.
    domains
        The same samples as other domains show them, such as ``{"edges": inputs}``, for ``consensus``.
    cue_conflict
        Inputs, the classes of their shapes and those of their textures, for ``shape_bias``, which is left out
        without.
    properties
        Names from `PROPERTIES`; by default all that these inputs allow. ``confidence`` is always among them,
        because it tells who is trained.
    settings
        Further arguments of single properties: ``{"adversarial": {"epsilon": 0.01}}``.
    store
        Where every result is kept, as ``transfer/<property>``. What was asked before of the same networks,
        inputs and settings is read there instead, without a network pass; of others it is replaced.

    Returns
    -------
    dict
        ``{property: Dataset}``. :func:`kdviz.analysis.score_transfer` compares the networks by them.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As the properties; if the teacher is right no more often than guessing would be.
    StoreError
        If `store` cannot be written.
    """
    ask(networks, inputs, labels, **options)  # what is wrong is said before any work
    own = {one_of("settings", name, PROPERTIES): dict(some) for name, some in (settings or {}).items()}
    parts = _divide(inputs, labels, domains or {}, cue_conflict)
    wanted = [one_of("properties", name, PROPERTIES) for name in (properties or parts)]
    if missing := [name for name in wanted if name not in parts]:
        raise ValueError(f"{missing[0]} cannot be asked of these inputs: {_NEEDS[missing[0]]}")
    of_networks = [fingerprint_tensors(network.state_dict()) for network in networks.values()]
    names = [name for name in parts if name in ("confidence", *wanted)]
    if store is not None:
        store.expect({f"transfer/{name}": {} for name in names})
    found = {}
    for name in names:
        about = [list(networks), options["teacher"], options.get("independent", ()), own.get(name, {})]
        identity = fingerprint(repr(about), *of_networks, *(part.fingerprint for part in parts[name]))
        ds = None if store is None else _find(store, name, identity)
        if ds is None:
            more = {**options, **own.get(name, {})}
            told = [
                PROPERTIES[name].ask(networks, part.inputs, part.labels, **more, **part.more)
                for part in parts[name]
            ]
            known = PROPERTIES[name]
            ds = _join(told).assign_attrs(
                identity=identity,
                title=known.title,
                own=int(known.own),
                position=list(PROPERTIES).index(name),
            )
            if store is not None:
                store.write_result(f"transfer/{name}", ds, overwrite=True)
                ds = store.result(f"transfer/{name}")  # in the widths in which numbers are kept
        if name == "confidence":
            _check_teacher(ds)
        found[name] = ds
    return found


@dataclass(frozen=True)
class _Part:
    """Some inputs that a property is asked about."""

    inputs: InputsLike
    labels: ArrayLike
    more: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of all that is asked."""
        source, parts = find_source(self.inputs), [repr(np.asarray(self.labels).tolist()), repr(self.more)]
        for start in range(0, len(source), _AT_ONCE):
            batch, _ = source.read(range(start, min(start + _AT_ONCE, len(source))))
            parts.append(fingerprint_tensors({"": batch} if isinstance(batch, Tensor) else batch))
        return fingerprint(*parts)


def _divide(
    inputs: InputsLike,
    labels: ArrayLike,
    domains: Mapping[str, InputsLike],
    cue_conflict: tuple[InputsLike, ArrayLike, ArrayLike] | None,
) -> dict[str, list[_Part]]:
    """List what each property that these inputs allow is asked about."""
    batch, _ = find_source(inputs).read([0])
    image = not isinstance(batch, Mapping) and batch.ndim == 4
    tokens = isinstance(batch, Mapping) or not batch.is_floating_point()
    left_out = set() if image else {"localization", "adversarial"}
    left_out |= {"boundary"} if tokens else set()
    left_out |= {"shape_bias"} if cue_conflict is None else set()
    parts = {name: [_Part(inputs, labels)] for name in PROPERTIES if name not in left_out}
    if domains:
        parts["consensus"] = [
            _Part(some, labels, {"domain": [name] * len(find_source(some))})
            for name, some in {_CLEAN: inputs, **domains}.items()
        ]
    if cue_conflict is not None:
        some, shapes, textures = cue_conflict
        parts["shape_bias"] = [_Part(some, shapes, {"textures": np.asarray(textures).tolist()})]
    return parts


def _join(told: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put the samples of several domains one after another, under names that tell them apart."""
    if len(told) == 1:
        return told[0]
    named = [ds.assign_coords(sample=ds["domain"].str.cat("/", ds["sample"]).values) for ds in told]
    return xr.concat(named, "sample", combine_attrs="override")


def _find(store: Run, name: str, identity: str) -> xr.Dataset | None:
    """Read a stored result, if it is the answer to the same question."""
    with suppress(StoreError):  # there is none, or it is damaged
        ds = store.result(f"transfer/{name}")
        return ds if ds.attrs.get("identity") == identity else None
    return None


def _check_teacher(ds: xr.Dataset) -> None:
    """Refuse a teacher that is right no more often than who always gives the most frequent class."""
    right = ds["right"].sel(network=ds.attrs["teacher"]).values
    guessed = np.bincount(ds["label"].values).max() / len(right)
    if binomtest(int(right.sum()), len(right), guessed, "greater").pvalue > _LEVEL:
        raise ValueError(
            f"the teacher {ds.attrs['teacher']!r} is not trained: it is right on {right.sum()} of "
            f"{len(right)} samples, and the most frequent class alone makes {guessed:.0%}"
        )
