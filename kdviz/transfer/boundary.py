"""Where the boundaries between classes lie: label maps of planes through three samples.

Symbols: ``M`` networks, ``C`` classes, ``D`` values of a sample, ``R`` points along a side of a plane.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kdviz.arguments import finite_number, whole_number
from kdviz.networks.features import Batch, main_of, noisy_part, put_main
from kdviz.networks.reading import Held, InputsLike
from kdviz.transfer.question import Options, Question, ask

_TRIPLETS = 50  # as in the paper
_DRAWS = 100  # for each plane, before the samples are said to span no more
_FLAT = 1e-5  # height over length of a triangle that is a line but for the rounding of float32


def boundary(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    triplets: int | None = None,
    resolution: int = 12,
    margin: float = 0.1,
    seed: int = 0,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Compare the regions that networks give to classes with the teacher's, on planes through samples [1]_.

    Three samples are drawn at random and span a plane; on a grid of its points, each an input, every network
    says a class. Points that lie on one line span no plane, and others are drawn in their place. No triplet
    is drawn twice, but planes share samples: of few samples, planes are less than so many independent cases.

    Parameters
    ----------
    networks, inputs, labels, **options
        As for :func:`kdviz.transfer.ask`; inputs are floating point, such as images and clouds.
    triplets
        Number of planes, whose samples are held at once; by default 50 as in [1]_, or as many as few samples
        make.
    resolution
        Points along each side of a plane, 2 or more; a plane costs its square in passes of one sample. On the
        built-in images the overlap on a plane of 12 is within 0.05 of that of 40, half of what planes differ.
    margin
        How far a plane goes beyond the smallest rectangle around its three samples, along the first of their
        distances, as a share of its sides [2]_.
    seed
        Of triplets, drawn one by one.

    Returns
    -------
    Dataset
        ``boundary_overlap`` ``(network, triplet)``, the headline: the mean intersection over union of the
        network's and the teacher's regions of a plane, over the classes that either gives there.
        ``boundary_agreement``, the share of points with one class, is what [2]_ calls intersection over
        union. ``label_map`` ``(network, triplet, plane_row, plane_col)``, and as coordinates where the three
        samples lie in it: ``corner_row``, ``corner_col`` and ``corner_sample`` ``(triplet, corner)``.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As :func:`kdviz.transfer.ask`; if inputs are no one tensor of floating point a sample, such as token
        ids, or their samples span fewer planes than `triplets`.

    References
    ----------
    .. [1] Ojha et al., "What Knowledge Gets Distilled in Knowledge Distillation?", NeurIPS 2023, section 6.
    .. [2] Somepalli et al., "Can Neural Nets Learn the Same Model Twice?", CVPR 2022, section 3.
    """
    side, margin = whole_number("resolution", resolution, 2), finite_number("margin", margin, 0.0)
    seed = whole_number("seed", seed)
    question = ask(networks, inputs, labels, **options)
    possible = max(1, math.comb(len(question.labels), 3))
    triplets = min(_TRIPLETS, possible) if triplets is None else whole_number("triplets", triplets, 1)
    main = _name_points(question)
    rows, known = _draw_triplets(question, main, triplets, seed)
    used = np.unique(rows)
    samples, given = zip(*(known[row] for row in used.tolist()), strict=True)
    values = torch.stack(samples)
    source = Held(values if main is None else {main: values}, None if None in given else np.array(given))
    held = replace(question, source=source, labels=question.labels[used])
    at = list(question.networks).index(question.teacher)

    def look(batch: Batch, classes: Tensor, rows: Sequence[int]) -> dict[str, NDArray]:
        samples = main_of(batch, main)
        places, axes = _span(samples)
        low, high = places.amin(0), places.amax(0)
        start, length = low - margin * (high - low), (1 + 2 * margin) * (high - low)
        steps = torch.linspace(0, 1, side, dtype=places.dtype)
        grid = torch.cartesian_prod(steps, steps).flip(1) * length + start
        told = []
        for some in grid.split(question.max_batch):
            points = samples[0].flatten().double() + some @ axes
            told.append(question.predict(put_main(batch, main, _like(points, samples))))
        maps = np.concatenate(told, axis=1)
        corners = ((places - start) / length * (side - 1)).numpy()
        return {
            "label_map": maps.reshape(-1, side, side, 1),
            "boundary_overlap": _overlap(maps, maps[at], question.classes)[:, None],
            "boundary_agreement": (maps == maps[at]).mean(1)[:, None],
            "corner_col": corners[:, :1],
            "corner_row": corners[:, 1:],
        }

    found = held.walk(look, "boundary", np.searchsorted(used, rows).tolist())
    coords = {name: found.pop(name).T for name in ("corner_row", "corner_col")}
    names = np.array(question.sample_ids)[rows]
    found["label_map"] = np.moveaxis(found["label_map"], -1, 1)
    return question.build(
        "boundary", "boundary_overlap", found, {**coords, "corner_sample": names}, margin=margin, seed=seed
    )


def _name_points(question: Question) -> str | None:
    """Name the tensor of inputs that is moved in a plane; nothing else may be in the inputs."""
    batch, _ = question.source.read([0])
    tensors = [batch] if isinstance(batch, Tensor) else list(batch.values())
    if len(tensors) > 1 or not tensors[0].is_floating_point() or tensors[0][0].numel() < 2:
        told = ", ".join(f"{tuple(one.shape)} of {one.dtype}" for one in tensors)
        raise ValueError(
            "boundary moves inputs in a plane, so it needs one floating-point tensor a sample, of two values "
            f"or more, such as an image or a cloud; got {told}"
        )
    return noisy_part(batch)


def _draw_triplets(
    question: Question, main: str | None, triplets: int, seed: int
) -> tuple[NDArray[np.int64], dict[int, tuple[Tensor, int | None]]]:
    """Draw positions of distinct triplets that span a plane, ``(T, 3)``; return also the samples read for it.

    With samples come their classes, where inputs have some. They are read for many triplets at once, in the
    order of the inputs.
    """
    count, rng = len(question.labels), np.random.default_rng(seed)
    most = math.comb(count, 3)
    if triplets > most:
        raise ValueError(f"triplets must be at most {most}, those that {count} samples make, got {triplets}")
    seen, kept = set[tuple[int, ...]](), list[tuple[int, ...]]()
    known = dict[int, tuple[Tensor, int | None]]()
    while len(kept) < triplets and len(seen) < (limit := min(most, _DRAWS * (len(kept) + 1))):
        drawn = dict[tuple[int, ...], None]()
        while len(drawn) < min(triplets, limit - len(seen)):
            triplet = tuple(sorted(rng.choice(count, 3, replace=False).tolist()))
            drawn |= {} if triplet in seen else {triplet: None}
        seen |= set(drawn)
        if unread := sorted({row for triplet in drawn for row in triplet} - set(known)):
            batch, classes = question.source.read(unread)
            given = [None] * len(unread) if classes is None else classes.tolist()
            known |= dict(zip(unread, zip(main_of(batch, main), given, strict=True), strict=True))
        kept += [rows for rows in drawn if _is_plane(torch.stack([known[row][0] for row in rows]))]
    if len(kept) < triplets:
        raise ValueError(
            f"inputs span {'too few planes' if kept else 'no plane'}: of {count} samples {len(kept)} "
            f"triplets were found that differ and are not on one line, and triplets is {triplets}"
        )
    return np.array(kept[:triplets]), known


def _is_plane(samples: Tensor) -> bool:
    places, _ = _span(samples)
    return bool(places.diagonal(-1).abs().min() > _FLAT * places.abs().max())


def _span(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Return where three samples lie in their plane, ``(3, 2)``, and its orthonormal axes, ``(2, D)``."""
    points = samples.flatten(1).double()
    axes, places = torch.linalg.qr((points[1:] - points[0]).T)
    return torch.cat([places.new_zeros(1, 2), places.T]), axes.T


def _like(points: Tensor, samples: Tensor) -> Tensor:
    """Return points ``(B, D)`` in the shape and precision of samples."""
    return points.reshape(-1, *samples.shape[1:]).to(samples.dtype)


def _overlap(maps: NDArray[np.int64], teachers: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Return the mean over classes of the intersection over union of regions, for maps ``(M, R * R)``."""
    known = np.arange(classes)[:, None]
    own, other = maps[:, None] == known, teachers == known
    both, either = (own & other).sum(2), (own | other).sum(2)
    return (both / np.maximum(either, 1)).sum(1) / (either > 0).sum(1)
