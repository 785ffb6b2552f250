"""Where a student sees what a base does not, and the reverse: the heat maps of UniCAM, on units.

Symbols: ``B`` samples of a batch, ``K`` channels and ``P`` positions of a layer, ``U`` units, ``L`` layers.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from kdviz import schema
from kdviz.arguments import one_of, whole_number
from kdviz.attribution.maps import check_layer
from kdviz.attribution.unit_maps import reduce_map
from kdviz.errors import LayerError
from kdviz.networks.features import NO_TENSOR, Batch, check_layers, frozen, resolve_layers, rows_at
from kdviz.networks.hashing import fingerprint_tensors
from kdviz.networks.inputs import prepare_inputs
from kdviz.networks.preparing import memory_advice
from kdviz.networks.reading import InputsLike
from kdviz.transfer.question import Question, ask, beside
from kdviz.unicam.statistics import EPSILON, FEWEST, correlation, distances, inner, u_centred, without
from kdviz.unicam.truth import Truth, describe_truth, place_classes
from kdviz.units import Cloud, Grid, Tokens, Units

Variant = Literal["A", "B"]
Layers = Sequence[str | Sequence[str]]
"""Names of layers, or, where they differ, tuples of the names in each network."""

_Unroll = Callable[..., Tensor]
"""From what a layer gives, and the rows of its samples, to ``(B, K, *positions)``."""


def explain(
    student: nn.Module,
    base: nn.Module,
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    layers: Layers,
    units: Units,
    variant: Variant = "B",
    truth: Truth = "one-hot",
    batches: int = 4,
    batch_size: int = 32,
    seed: int = 0,
    foreground: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    epoch: int = 0,
    max_batch: int = 64,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Map what the student sees and the base does not, *distilled*, and the reverse, *residual* [1]_.

    The base is the student's architecture trained without a teacher [1]_; any network of the same classes
    will do. Of a random batch the distances between samples in a layer of each network are U-centred, and the
    part of one that is orthogonal to the other is turned to a number S. With A the layer's output, the map is
    ``relu(sum_k a_k A_k)``, ``a_k`` the mean over positions of ``dS / dA_k``: Grad-CAM of S. It depends on
    the batch, so that every sample is drawn in several, over which the maps are averaged.

    Parameters
    ----------
    student, base
        Classifiers, whose logits ``(B, classes)`` are of the same classes. Left as found.
    inputs, units, foreground, sample_ids
        As for :func:`kdviz.measure`: four samples or more; `units` of :func:`kdviz.units.grid`,
        :func:`~kdviz.units.tokens` or :func:`~kdviz.units.cloud`.
    labels
        ``(B,)``, integers, of two classes or more.
    layers
        Layers of images that have a map, as for :func:`kdviz.attribution.draw_map`; of texts such as give
        ``(B, tokens, K)``, of clouds ``(B, K, points)`` or ``(B, points, K)``, where the two differ. A tuple
        names first the student's, then the base's. Of vision transformers the class token is left out, of
        the distances too, other than by :func:`score`.
    variant
        ``"B"``: S is the squared distance correlation with `truth`, so that the map shows what makes the
        network's own part relevant to the classes. ``"A"``: for each sample the largest entry of that part,
        summed; it looks at no class, and depends on the scale of features. Entries that tie for the largest
        share its slope; between equal samples rounding may settle the tie. A is that of the paper's first
        published code, B that of its later one [1]_ (the code, not read in the paper).
    truth
        ``"one-hot"``, or a place for each class, ``(classes, d)``, such as embedded names.
    batches
        Rounds: each divides all samples into batches at random, so that a sample is in one of each round. One
        if all samples fit into one batch.
    batch_size
        Samples of a batch, at most where their number allows, 4 or more; better 32 or more. Belongs to the
        result.
    seed
        Of what samples come together.
    epoch
        Completed training epochs of the networks; results of several join along this dimension.
    max_batch
        Samples in one forward pass. Never changes a result but for rounding.
    device, progress
        As for :func:`kdviz.measure`.

    Returns
    -------
    Dataset
        ``distilled`` and ``residual`` ``(layer, epoch, sample, unit)``, float32, 0 or more, not scaled: means
        over batches of maps, resized as by :func:`kdviz.attribute` and averaged over units. For each also
        ``_deviation``, the standard deviation over batches, NaN of one; ``_magnitude`` ``(layer, epoch,
        sample)``, the largest value of the map before it is reduced, mean over batches; and ``_share``
        ``(layer, epoch, sample)``, how much of the squared U-centred distances is the network's own, mean
        over the sample's batches. Where that is less than 1e-8, rounding, the map is zero: scaled, it would
        show noise. Coordinates ``layer`` and ``base_layer``. Batches of which `truth` says nothing, with
        fewer than two samples of a second class, count nowhere, and the attribute ``note`` tells how many
        maps that are; samples without another batch are NaN.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as said, before any work.
    LayerError
        If a network has no such layer, or it has no map.
    FloatingPointError
        If a network gives NaN or infinite logits or features.
    MemoryError
        If a pass or the features of a batch do not fit; the message says what to lower.

    Notes
    -----
    No network is run backwards: since distances are those of the very layer, ``dS / dA`` follows from the
    ``B`` times ``B`` slopes of S. Cost: one forward pass a sample, round and network; memory: the features of
    one batch at all `layers`, of both networks, and what turns columns of them to float64; the peak was 1.4
    to 1.5 times those features of 0.4 GB.

    How far to trust it: with a cue planted that the student alone detects and that tells the class, B puts
    0.94 of the map on it in batches of 32 where student and base share one other cue, but 0.78 where they
    share two, and that 0.94 in batches of 384; A 0.74 and 0.63 whatever the batch. Where the cue that the
    student alone detects does not tell the class, B puts most of its distilled map, 0.79, on the shared one.
    Distances are roots of sums, so that one part is never free of the other: take large batches. S of B does
    not grow with the features, so that the slopes of a batch balance, and samples in which a feature is
    strongest may have a map of zero.

    References
    ----------
    .. [1] Adhane et al., "On Explaining Knowledge Distillation: Measuring and Visualising the Knowledge
       Transfer Process", WACV 2025, algorithm steps 6 and 8.

    Examples
    --------
    >>> import kdviz
    >>> student, base = (kdviz.testing.small_cnn(seed=seed) for seed in (0, 1))
    >>> images = kdviz.testing.random_images(16)
    >>> ds = kdviz.unicam.explain(student, base, images, [0, 1, 2, 3] * 4, layers=["relu2"],
    ...                           units=kdviz.units.grid(4), progress=False)
    >>> dict(ds.distilled.sizes)
    {'layer': 1, 'epoch': 1, 'sample': 16, 'unit': 16}
    """
    one_of("variant", variant, ("A", "B"))
    rounds, size = whole_number("batches", batches, 1), whole_number("batch_size", batch_size, FEWEST)
    epoch, seed = whole_number("epoch", epoch), whole_number("seed", seed)
    if not isinstance(units, (Grid, Tokens, Cloud)):
        raise TypeError(
            f"units must be made by kdviz.units.grid, tokens or cloud, got {type(units).__name__}"
        )
    pairs = name_layers(layers, [student, base])
    entry = "inputs" if units.needs_entry else None
    given = prepare_inputs(inputs, units, foreground, labels, sample_ids, base_noise=0.0, entry=entry)
    question = ask(
        {"student": student, "base": base},
        given.source,
        labels,
        teacher="base",
        sample_ids=given.ids,
        max_batch=max_batch,
        device=device,
        progress=progress,
    )
    places = place_classes(truth, question.labels, question.classes)
    first, _ = given.source.read([0])
    turns = {
        name: {layer: _find_turn(network, beside(first, network), layer, units) for layer in named}
        for (name, network), named in zip(question.networks.items(), zip(*pairs, strict=True), strict=True)
    }

    def look(batch: Batch, classes: Tensor, rows: Sequence[int]) -> dict[str, NDArray]:
        known = distances(places[list(rows)])
        read = [_read(question, name, batch, own, rows) for name, own in turns.items()]
        drawn = []
        for pair in pairs:
            seen = [side[layer] for side, layer in zip(read, pair, strict=True)]
            apart = [distances(one.flatten(1)).cpu() for one in seen]
            drawn += [_draw(seen[own], apart[own], apart[1 - own], known, variant) for own in (0, 1)]
        return {
            "": np.stack([_reduce(cam, units, given.shape[-2:], rows).T for cam, _ in drawn]),
            "_magnitude": np.stack([cam.flatten(1).amax(1).numpy() for cam, _ in drawn]),
            "_share": np.stack([np.full(len(rows), share) for _, share in drawn]),
        }

    parts = _divide(len(given.ids), size, rounds, seed)
    lower = f"a batch_size below {size}, a max_batch below {question.max_batch}, or fewer layers"
    with memory_advice(None, f"pass {lower}"):
        found = question.walk(look, "unicam", parts)
    values = _average(found, np.concatenate(parts).argsort(kind="stable").reshape(len(given.ids), -1))
    empty = int(np.isnan(found["_magnitude"][0]).sum())
    attrs = schema.make_attrs(
        modality=units.modality,
        unit_kind=units.describe(),
        seed=seed,
        config={
            "variant": variant,
            "batches": rounds,
            "batch_size": size,
            "truth": describe_truth(truth),
        },
        torch_version=torch.__version__,
        input_fingerprint=given.fingerprint,
    )
    for role, network in question.networks.items():
        attrs[f"{role}_fingerprint"] = fingerprint_tensors(network.state_dict())
    if empty:
        count = found["_magnitude"].shape[1]
        attrs["note"] = f"{empty} of {count} maps are of batches with too few samples of a second class"
    about = {
        "epoch": [epoch],
        "layer": ("layer", [own for own, _ in pairs]),
        "base_layer": [other for _, other in pairs],
        "input_hash": given.hashes,
    }
    ds = schema.build(
        {**given.samples.data_vars, **values}, coords={**given.samples.coords, **about}, attrs=attrs
    )
    schema.validate(ds)
    return ds


def name_layers(layers: Layers, networks: Sequence[nn.Module]) -> list[tuple[str, ...]]:
    """Return for each of `layers` its checked name in each network.

    Raises
    ------
    ValueError
        If there is none, or one is not named of each network.
    LayerError
        If a network has no such layer.
    """
    if isinstance(layers, str):
        raise ValueError(
            f"layers must be several names, or tuples of them, got {layers!r}; pass [{layers!r}]"
        )
    named = [(layer,) * len(networks) if isinstance(layer, str) else tuple(layer) for layer in layers]
    if not named or any(len(one) != len(networks) for one in named):
        raise ValueError(
            f"layers must be names, or tuples of {len(networks)}, one of each network, got {layers}"
        )
    try:
        return [
            tuple(resolve_layers(net, [layer])[0] for net, layer in zip(networks, one, strict=True))
            for one in named
        ]
    except LayerError as error:
        raise LayerError(
            f"{error}; where networks name a layer differently, pass a tuple of {len(networks)}, one of each "
            "network in the order in which they are given"
        ) from error


def _divide(count: int, size: int, rounds: int, seed: int) -> list[list[int]]:
    """Divide samples into batches at random, in several rounds, positions increasing in each."""
    pieces = min(math.ceil(count / size), count // FEWEST)
    rng = np.random.default_rng(seed)
    if pieces == 1:
        return [list(range(count))]
    return [
        sorted(rows.tolist())
        for _ in range(rounds)
        for rows in np.array_split(rng.permutation(count), pieces)
    ]


def _find_turn(network: nn.Module, one: Batch, layer: str, units: Units) -> _Unroll:
    """Find how what a layer gives becomes one vector a position."""
    with frozen(network):
        if isinstance(units, Grid):
            layout = check_layer(network, one, layer, methods=["activation"], argument="").layout
            return lambda output, rows: layout.turn(output)
        (shape,) = check_layers(network, one, [layer]).values()
    sizes = shape[1:] if len(shape) == 3 else ()
    if isinstance(units, Tokens):
        if sizes and units.length(0) <= sizes[0] <= units.width:
            return partial(_turn_tokens, units)
        raise LayerError(
            f"layer {layer!r} gives {shape or NO_TENSOR}; a map needs one vector a token, (B, tokens, K)"
        )
    if sizes.count(units.count) == 2:
        raise LayerError(f"layer {layer!r} gives {shape}: which axis is that of points is ambiguous")
    if sizes.count(units.count) != 1:
        allowed = f"(B, K, {units.count}) or (B, {units.count}, K)"
        raise LayerError(
            f"layer {layer!r} gives {shape or NO_TENSOR}; a map needs one vector a point, {allowed}"
        )
    axis = 1 + sizes.index(units.count)
    return lambda output, rows: output.movedim(axis, 2)


def _turn_tokens(units: Tokens, output: Tensor, rows: Sequence[int]) -> Tensor:
    """Return vectors of tokens, ``(B, K, T)``, those of padding zero."""
    lengths = torch.from_numpy(units.lengths[list(rows)]).to(output.device)
    padding = torch.arange(output.shape[1], device=output.device) >= lengths[:, None]
    texts = output.masked_fill(padding[..., None], 0)
    return pad(texts, (0, 0, 0, units.width - output.shape[1])).movedim(1, 2)


def _read(
    question: Question, name: str, batch: Batch, turns: Mapping[str, _Unroll], rows: Sequence[int]
) -> dict[str, Tensor]:
    """Read layers of a batch, some samples at once; the network must be frozen."""
    read: dict[str, Tensor] = {}
    for start in range(0, len(rows), question.max_batch):
        some = slice(start, start + question.max_batch)
        of_rows = {layer: partial(turn, rows=rows[some]) for layer, turn in turns.items()}
        for layer, values in question.see(name, rows_at(batch, some), of_rows).items():
            if layer not in read:
                read[layer] = values.new_empty((len(rows), *values.shape[1:]))
            read[layer][some] = values
    return read


def _draw(seen: Tensor, own: Tensor, other: Tensor, known: Tensor, variant: Variant) -> tuple[Tensor, float]:
    """Draw maps ``(B, *positions)`` of what `seen` holds apart from another network.

    Parameters
    ----------
    seen
        What the layer gives, ``(B, K, *positions)``.
    own, other, known
        Distances ``(B, B)`` of it, in the other network, and of the classes.
    variant
        How a number is made of what is left.

    Returns
    -------
    tuple
        The maps, float64, on the CPU, and the share of the squared distances that is left.
    """
    own = own.clone().requires_grad_()
    whole, truth = u_centred(own), u_centred(known)
    left = without(whole, u_centred(other))
    share = float((inner(left, left) / inner(whole, whole)).detach())
    if variant == "B" and not truth.any():
        return torch.full((len(seen), *seen.shape[2:]), math.nan, dtype=torch.float64), math.nan
    score = left.amax(1).sum() if variant == "A" else correlation(left, truth)
    slope = torch.zeros_like(own)
    if left.any():
        (slope,) = torch.autograd.grad(score, own)
    # the slope of a distance by the samples it is between is their difference over it, unless they are equal
    apart = own.detach()
    pull = ((slope + slope.T) / apart).masked_fill_(apart <= 2 * EPSILON**0.5, 0)
    means = torch.stack([one.flatten(1).double().mean(1).cpu() for one in seen])
    weights = pull.sum(1, keepdim=True) * means - pull @ means
    # one by one, so that no second copy of all features is held
    drawn = [
        torch.tensordot(weight, one.double().cpu(), 1) for weight, one in zip(weights, seen, strict=True)
    ]
    return torch.stack(drawn).relu(), share


def _reduce(cam: Tensor, units: Units, size: tuple[int, ...], rows: Sequence[int]) -> NDArray[np.float32]:
    """Average maps over units, ``(B, U)``; NaN where a text has no such word."""
    if isinstance(units, Grid):
        return reduce_map(cam, units, size)
    if not isinstance(units, Tokens):
        return cam.numpy().astype(np.float32)
    words = units.word_of[list(rows)]
    one_hot = words[..., None] == np.arange(units.count)  # (B, T, U)
    with np.errstate(invalid="ignore"):
        return (np.einsum("bt,btu->bu", cam.numpy(), one_hot) / one_hot.sum(1)).astype(np.float32)


def _average(found: Mapping[str, NDArray], order: NDArray[np.int64]) -> dict[str, NDArray]:
    """Average over the batches of each sample, at positions `order` ``(N, rounds)`` of the last axis."""
    values: dict[str, NDArray] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what has no batch is NaN
        for end, drawn in found.items():
            cases = drawn[..., order]
            made = {end: np.nanmean(cases, -1)}
            if not end:
                made["_deviation"] = np.nanstd(cases, -1, ddof=1)
            for name, array in made.items():
                by_layer = np.swapaxes(array, 1, -1)[:, None].astype(np.float32)
                values |= {f"distilled{name}": by_layer[::2], f"residual{name}": by_layer[1::2]}
    return values
