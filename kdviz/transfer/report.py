"""All properties of several networks, each kept as soon as it is known."""

import inspect
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn

from kdviz.analysis import doubt_teacher
from kdviz.arguments import one_of
from kdviz.errors import KdvizWarning
from kdviz.networks import fingerprint_tensors
from kdviz.networks.hashing import fingerprint
from kdviz.networks.reading import InputsLike, find_source
from kdviz.schema import PLAIN
from kdviz.store.run import Store, as_run
from kdviz.transfer.adversarial import adversarial
from kdviz.transfer.agreement import bias, consensus
from kdviz.transfer.boundary import boundary
from kdviz.transfer.confidence import confidence
from kdviz.transfer.invariance import invariance
from kdviz.transfer.localization import localization
from kdviz.transfer.pixels import Pixels, check_pixels, find_images
from kdviz.transfer.question import Options, Question, ask, per_sample
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
        Whether it is one that each network has, the teacher too, as accuracy is.
    version
        Raised when the same question gets another answer: what is kept is then asked again.
    """

    ask: Callable[..., xr.Dataset]
    title: str
    own: bool = False
    version: int = 1


PROPERTIES: dict[str, Property] = {
    "confidence": Property(confidence, "is as sure as the teacher"),  # first: it tells who is trained
    "consensus": Property(consensus, "answers as the teacher:"),
    "shape_bias": Property(shape_bias, "decides by shape", own=True),
    "localization": Property(localization, "looks at the same places"),
    "adversarial": Property(adversarial, "falls for the teacher's attacks"),
    "invariance": Property(invariance, "same answer after", own=True),
    "boundary": Property(boundary, "draws the same boundaries"),
    "representation": Property(representation, "has similar features (CKA)"),
    "bias": Property(bias, "is right on", own=True),
}
"""Properties by the name under which a run keeps them, in the order of the chart; add one of your own."""

_NEEDS = {
    "localization": "it needs images (samples, channels, height, width)",
    "adversarial": "it needs images (samples, channels, height, width)",
    "invariance": "it needs special_ids of words, or changes of your own, in settings",
    "boundary": "it needs numbers between which there is a plane, not tokens",
    "shape_bias": "it needs cue_conflict=(inputs, shapes, textures)",
    "bias": "it needs the group of each sample, settings={'bias': {'group': names}}",
}
_AT_ONCE = 64  # samples hashed together


def report(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    domains: Mapping[str, InputsLike] | None = None,
    cue_conflict: tuple[InputsLike, ArrayLike, ArrayLike] | None = None,
    pixels: Pixels | None = None,
    properties: Sequence[str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    store: Store | None = None,
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
    pixels
        How images are normalised, for the properties that change them, ``adversarial`` and ``invariance``:
        must be said if one of them is asked of images.
    properties
        Names from `PROPERTIES`; by default all that these inputs allow: attacks, Grad-CAM and shape bias are
        for images, planes not for tokens, of words the tokens that no change may touch must be told,
        ``settings={"invariance": {"special_ids": tokenizer.all_special_ids, "mask_id":
        tokenizer.mask_token_id}}``, and ``bias`` needs groups,
        ``settings={"bias": {"group": names}}``. ``confidence`` is always among them, because it tells who is
        trained.
    settings
        Further arguments of single properties: ``{"adversarial": {"epsilon": 0.01}}``.
    store
        Run, or the path of one, where every result is kept, as ``transfer/<property>``. What was asked before
        of the same networks (weights, and answers to the first sample), inputs and settings is read there
        instead; of others it is replaced. Settings that hold functions or modules are always asked anew.

    Returns
    -------
    dict
        ``{property: Dataset}``. :func:`kdviz.analysis.score_transfer` compares the networks by them.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As the properties; if `pixels` are needed and not said.
    StoreError
        If `store` is no run, or cannot be written.
    MissingExtraError
        If invariance of images is asked, and torchvision is not installed.

    Warns
    -----
    KdvizWarning
        If the teacher may be guessing on these samples (:func:`kdviz.analysis.doubt_teacher`).
    """
    run = None if store is None else as_run(store)
    question = ask(networks, inputs, labels, **options)  # what is wrong is said before any work
    own = {one_of("settings", name, PROPERTIES): dict(some) for name, some in (settings or {}).items()}
    if "group" in own.get("bias", {}):
        own["bias"]["group"] = per_sample(own["bias"]["group"], "group", question)
    parts = _divide(question, inputs, labels, domains or {}, cue_conflict, own)
    wanted = [one_of("properties", name, PROPERTIES) for name in (properties or parts)]
    if missing := [name for name in wanted if name not in parts]:
        raise ValueError(f"{missing[0]} cannot be asked of these inputs: {_NEEDS[missing[0]]}")
    names = [name for name in parts if name in ("confidence", *wanted)]
    for name in names:
        arguments = _list_arguments(PROPERTIES[name])
        for setting in own.get(name, {}):
            one_of(f"setting of {name}", setting, list(arguments))
        if pixels is not None and "pixels" in arguments:
            own.setdefault(name, {}).setdefault("pixels", pixels)
        are_images = "adversarial" in parts and own.get(name, {}).get("kind", "image") == "image"
        if "pixels" in arguments and are_images:
            check_pixels(own.get(name, {}).get("pixels"), name)
    asker = _identify(question)
    found = {}
    for name in names:
        known, of_all = PROPERTIES[name], [part.fingerprint for part in parts[name]]
        settled = _list_arguments(known) | own.get(name, {})
        identity = fingerprint(asker, f"{name} {known.version}", describe(settled), *of_all)
        ds = kept = None if run is None else run.find_result(f"transfer/{name}", identity)
        if ds is None:
            told = [
                known.ask(networks, part.inputs, part.labels, **{**options, **own.get(name, {}), **part.more})
                for part in parts[name]
            ]
            about = {"title": known.title, "own": int(known.own), "position": list(PROPERTIES).index(name)}
            ds = _join(told).assign_attrs(identity=identity, **about)
        if name == "confidence":
            _check_teacher(ds, inputs)
            if run is not None:
                run.expect({f"transfer/{one}": {} for one in names})
        if run is not None and kept is None:
            run.write_result(f"transfer/{name}", ds, overwrite=True)
            ds = run.result(f"transfer/{name}")  # in the widths in which numbers are kept
        found[name] = ds
    return found


def _list_arguments(known: Property) -> dict[str, Any]:
    """List the arguments of a property that are its own, with their defaults; None for what has none."""
    parameters = list(inspect.signature(known.ask).parameters.values())[3:]
    own = [one for one in parameters if one.kind is one.KEYWORD_ONLY]
    return {one.name: None if one.default is one.empty else one.default for one in own}


def _identify(question: Question) -> str:
    """Hash who is asked about which samples: names, roles, weights, and answers to the first sample.

    Weights do not tell all that a network does, such as a temperature that is a plain attribute.
    """
    weights = [fingerprint_tensors(network.state_dict()) for network in question.networks.values()]
    first = [[f"{value:.3e}" for value in one] for one in question.first.tolist()]
    about = [list(question.networks), question.roles, question.sample_ids, first]
    return fingerprint(*weights, repr(about))


def describe(settings: Any) -> str:
    """Describe settings by their values; what has none that can be told is never described alike."""
    if isinstance(settings, Mapping):
        return repr(sorted((str(name), describe(value)) for name, value in settings.items()))
    if isinstance(settings, (list, tuple)):
        return repr([describe(value) for value in settings])
    if isinstance(settings, (np.ndarray, Tensor, np.generic)):
        return fingerprint_tensors({"": torch.as_tensor(settings)})
    if isinstance(settings, (set, frozenset)):
        return describe(sorted(settings))
    if settings is None or isinstance(settings, (bool, int, float, str, Pixels)):
        # before pixels had to be said, none meant these: answers that are kept are those to the same question
        return repr(None if settings == Pixels() else settings)
    return uuid.uuid4().hex


@dataclass(frozen=True)
class _Part:
    """Some inputs that a property is asked about."""

    inputs: InputsLike
    labels: ArrayLike
    more: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of all that is asked."""
        source, parts = find_source(self.inputs), [describe(np.asarray(self.labels)), describe(self.more)]
        for start in range(0, len(source), _AT_ONCE):
            batch, _ = source.read(range(start, min(start + _AT_ONCE, len(source))))
            parts.append(fingerprint_tensors({"": batch} if isinstance(batch, Tensor) else batch))
        return fingerprint(*parts)


def _divide(
    question: Question,
    inputs: InputsLike,
    labels: ArrayLike,
    domains: Mapping[str, InputsLike],
    cue_conflict: tuple[InputsLike, ArrayLike, ArrayLike] | None,
    own: Mapping[str, Mapping[str, Any]],
) -> dict[str, list[_Part]]:
    """List what each property that these inputs allow is asked about, once all fit each other."""
    batch, _ = question.source.read([0])
    tokens = not any(
        t.is_floating_point() for t in ([batch] if isinstance(batch, Tensor) else batch.values())
    )
    left_out = set()
    try:
        find_images(batch, "localization")
    except ValueError:
        left_out |= {"localization", "adversarial"}
        points = isinstance(batch, Tensor) and batch.ndim == 3 and not tokens
        told = own.get("invariance", {}).keys() & {"special_ids", "changes"}
        left_out |= set() if points or told else {"invariance"}
    of_words = own.get("invariance", {}).keys()
    if "special_ids" in of_words and not {"mask_id", "changes"} & of_words:
        raise ValueError(
            "settings of 'invariance' lack mask_id, what stands for a word left out, such as "
            "tokenizer.mask_token_id"
        )
    left_out |= {"boundary"} if tokens else set()
    left_out |= {"shape_bias"} if cue_conflict is None else set()
    left_out |= set() if "group" in own.get("bias", {}) else {"bias"}
    plain = _Part(inputs, labels)
    parts = {name: [plain] for name in PROPERTIES if name not in left_out}
    if domains:
        for name, some in domains.items():
            if (count := len(find_source(some))) != len(question.labels):
                raise ValueError(
                    f"domain {name!r} must hold the same {len(question.labels)} samples, got {count}"
                )
        named = {PLAIN: inputs, **domains}
        parts["consensus"] = [
            _Part(some, labels, {"domain": [name] * len(question.labels)}) for name, some in named.items()
        ]
    if cue_conflict is not None:
        some, shapes, textures = cue_conflict
        counts = [len(find_source(some)), len(np.asarray(shapes)), len(np.asarray(textures))]
        if len({*counts}) > 1:
            raise ValueError(f"cue_conflict must be as many inputs, shapes and textures, got {counts}")
        ids = None if counts[0] != len(question.labels) else question.sample_ids
        parts["shape_bias"] = [_Part(some, shapes, {"textures": np.asarray(textures), "sample_ids": ids})]
    return parts


def _join(told: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put the samples of several domains one after another, under names that tell them apart."""
    if len(told) == 1:
        return told[0]
    named = [ds.assign_coords(sample=ds["domain"].str.cat("/", ds["sample"]).values) for ds in told]
    return xr.concat(named, "sample", combine_attrs="override")


def _check_teacher(ds: xr.Dataset, inputs: InputsLike) -> None:
    """Warn of a teacher that does not know the classes of these samples, and of what else it may be."""
    if doubt := doubt_teacher(ds):
        batch, _ = find_source(inputs).read([0])
        bare = isinstance(batch, Tensor) and not batch.is_floating_point()
        masks = ", and that padded rows come with their mask, {'input_ids': ids, 'attention_mask': mask}"
        warnings.warn(
            f"{doubt}; see that labels are in the order of its classes{masks if bare else ''}",
            KdvizWarning,
            stacklevel=3,
        )
