"""Knowledge points and the metrics built on them: plain arrays in, plain arrays out.

A unit is a knowledge point when the layer discards less of it than of an average background unit.
Everything the papers report (N_fg, N_bg, foreground ratio, D, rho) is counting over such points. Knows no
labels, no files and no network; `kdviz.analysis` adds the names.

Shapes: ``E`` checkpoints, in order of training; ``S`` samples; ``U`` units; ``R`` resamples.

References
----------
.. [1] Zhang, Cheng, Chen, Rao, "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
   Classification", TPAMI 2022 (arXiv 2208.08741), Eqs. (5)-(9).
.. [2] Cheng, Rao, Chen, Zhang, "Explaining Knowledge Distillation by Quantifying the Knowledge",
   CVPR 2020, and its published code.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike, NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.floating]


def average_units(values: Floats, mask: Bools) -> Floats:
    """Average over the units of a mask; NaN for a sample whose mask is empty.

    Parameters
    ----------
    values
        Shape ``(E, S, U)``.
    mask
        Shape ``(S, U)``.

    Returns
    -------
    ndarray
        Shape ``(E, S)``, float64.
    """
    size = mask.sum(axis=-1)
    total = np.where(mask, values, 0.0).sum(axis=-1, dtype=np.float64)
    return divide_counts(total, size)


def average_background(sample_background: Floats, weights: NDArray | None = None) -> Floats:
    """Mean background entropy of each checkpoint, the first expectation in [1]_, section 3.2.

    The mean over samples of the per-sample means, so that every sample counts alike however large its
    background is.

    Parameters
    ----------
    sample_background
        Shape ``(E, S)`` in nat, or without `weights` ``(..., E, S)``; NaN marks a sample without background,
        which is left out.
    weights
        Shape ``(R, S)``, how often each resample holds each sample; by default one resample holding each
        once.

    Returns
    -------
    ndarray
        Shape ``(R, E)`` in nat, float64; without `weights` ``(..., E)``. NaN where no sample has a
        background.
    """
    if weights is None:
        rows = sample_background.reshape(-1, sample_background.shape[-1])
        means = average_background(rows, np.ones((1, rows.shape[1])))
        return means.reshape(sample_background.shape[:-1])
    has_background = ~np.isnan(sample_background)
    total = weights @ np.where(has_background, sample_background, 0.0).T
    count = weights @ has_background.T.astype(float)
    return divide_counts(total, count)


def entropy_cutoff(background: Floats, threshold: float, dtype: DTypeLike) -> Floats:
    """Entropy below which a unit is a knowledge point: ``background - threshold``, rounded to `dtype`.

    A threshold such as 0.2 has no exact binary form. Subtracting in float64 and comparing with stored
    float32 values would decide ties (``background - entropy`` equal to the threshold as written) by
    rounding noise; rounding the cutoff to `dtype` once makes a tie an equality again, and equality is no
    point.
    """
    stored = background.astype(dtype)
    return (stored.astype(np.float64) - threshold).astype(dtype)


def find_points(entropy: Floats, valid: Bools, cutoff: Floats) -> Bools:
    """Mark knowledge points: valid units whose entropy is strictly below the cutoff.

    Parameters
    ----------
    entropy
        Shape ``(..., E, S, U)`` in nat.
    valid
        Shape ``(S, U)``; False where a shorter sample is padded.
    cutoff
        Shape ``(..., E)`` or ``(..., E, S)``, from `entropy_cutoff`.

    Returns
    -------
    ndarray
        Shape ``(..., E, S, U)``.
    """
    return valid & (entropy < _per_unit(cutoff, entropy.ndim))


def find_uncertain(entropy: Floats, entropy_error: Floats, valid: Bools, cutoff: Floats) -> Bools:
    """Mark valid units within two standard errors of the cutoff; shapes as in `find_points`."""
    distance = np.abs(entropy.astype(np.float64) - _per_unit(cutoff, entropy.ndim))
    return valid & (distance <= 2.0 * entropy_error.astype(np.float64))


def divide_counts(part: NDArray, whole: NDArray, empty: float = np.nan) -> Floats:
    """Divide counts; `empty` where the whole is 0."""
    shape = np.broadcast_shapes(part.shape, whole.shape)
    return np.divide(part, whole, out=np.full(shape, empty), where=whole > 0)


def average_defined(values: NDArray, weights: NDArray | None = None) -> Floats:
    """Average over samples, the last axis, leaving out the undefined ones (NaN); NaN where all are.

    With `weights`, shape ``(R, S)``, each value counts as often as the resample holds its sample.
    """
    defined = ~np.isnan(values)
    counted = defined if weights is None else defined * weights
    return divide_counts((np.where(defined, values, 0.0) * counted).sum(axis=-1), counted.sum(axis=-1))


def measure_detours(points: Bools) -> Floats:
    """Share of the points ever met that the last checkpoint still holds, Eq. (9), per sample.

    Parameters
    ----------
    points
        Shape ``(E, S, U)``: foreground knowledge points.

    Returns
    -------
    ndarray
        Shape ``(S,)``, between 0 and 1; 1 means no detour. NaN for a sample that never had a point; the
        published code counts it as 0.
    """
    return divide_counts(points[-1].sum(axis=-1), points.any(axis=0).sum(axis=-1))


def bound_detours(points: Bools, uncertain: Bools) -> tuple[Floats, Floats]:
    """Smallest and largest `measure_detours` over every way of deciding the uncertain units.

    Each unit is free to take the side that lowers (or raises) the ratio, at every checkpoint: a worst case,
    not an interval of some confidence. A way that leaves the sample without any point has no ratio.

    Parameters
    ----------
    points, uncertain
        Shape ``(E, S, U)``, both restricted to the foreground.

    Returns
    -------
    low, high
        Shape ``(S,)`` each; NaN for a sample that has no point in any way.
    """
    certain, possible = points & ~uncertain, points | uncertain
    # A unit adds (1, 1), (0, 1) or nothing to (final, union). Lowest: only certain points stay, and every
    # unit that may have been met before the last checkpoint was met and dropped. Highest: the other way
    # round.
    dropped = (possible[:-1].any(axis=0) & ~certain[-1]).sum(axis=-1)
    kept = certain[-1].sum(axis=-1)
    low = divide_counts(kept, kept + dropped, 1.0)  # every point there may be would be kept
    dropped = (certain[:-1].any(axis=0) & ~possible[-1]).sum(axis=-1)
    kept = possible[-1].sum(axis=-1)
    high = divide_counts(kept, kept + dropped, 0.0)  # every point there may be would be dropped
    never = ~possible.any(axis=(0, -1))
    return np.where(never, np.nan, low), np.where(never, np.nan, high)


def overlap_points(first: Bools, second: Bools) -> Floats:
    """Intersection over union of two point sets ``(S, U)``, per sample; NaN where both are empty."""
    return divide_counts((first & second).sum(axis=-1), (first | second).sum(axis=-1))


def resample_samples(
    entropy: Floats,
    foreground: Bools,
    valid: Bools,
    weights: NDArray,
    *,
    threshold: float,
    per_sample: bool = False,
    after_start: Bools | None = None,
    distance: Floats | None = None,
    published: bool = False,
) -> dict[str, Floats]:
    """Recompute what every sample adds to the metrics in many resamples, background mean and points included.

    One resample is a row of `weights`. Nothing of shape ``(R, S, U)`` is ever held: samples are visited one
    by one, their counts read off sorted entropies.

    Parameters
    ----------
    entropy
        Shape ``(E, S, U)`` in nat.
    foreground, valid
        Shape ``(S, U)``.
    weights
        Shape ``(R, S)``: how often each resample holds each sample.
    threshold
        Margin ``b`` in nat.
    per_sample
        Compare each unit with its own sample's background instead of the checkpoint's.
    after_start
        Shape ``(E,)``: checkpoints among which the peak is sought; by default all.
    distance
        Shape ``(E,)``: cumulated weight movement.
    published
        Give samples without points the values of the published code: ratios of 0, and the distance at the
        first of the checkpoints.

    Returns
    -------
    dict
        ``n_fg``, ``n_bg`` and ``fg_ratio`` of the last checkpoint, ``rho`` and ``distance``, that of the
        weights at the peak, each of shape ``(R, S)``. NaN where undefined: all of a resample in which no
        sample has a background; the ratio of a sample without points, ``rho`` of one that never had a point
        on the foreground, its ``distance`` where it had none among the checkpoints of the peak.
    """
    n_resamples, n_samples = weights.shape
    background = valid & ~foreground
    foreground = valid & foreground
    levels = average_units(entropy, background)
    mean_levels = average_background(levels, weights)
    compared = levels[..., None] if per_sample else mean_levels.T[:, None]
    cutoffs = entropy_cutoff(compared, threshold, entropy.dtype)
    candidates = np.arange(len(entropy)) if after_start is None else np.flatnonzero(after_start)

    n_fg, n_bg, n_union, n_peak, peak = np.zeros((5, n_resamples, n_samples), dtype=np.int64)
    for sample in range(n_samples):
        # (E, R), or (E, 1) where the cutoff is the sample's own and the same in every resample
        cutoff = cutoffs[:, sample if per_sample else 0]
        units = entropy[:, sample, foreground[sample]]
        counts = np.stack([_count_below(units[k], cutoff[k]) for k in range(len(entropy))])
        union = np.zeros((cutoff.shape[1], units.shape[1]), dtype=bool)
        for k in range(len(entropy)):
            union |= units[k] < cutoff[k, :, None]
        n_fg[:, sample] = counts[-1]
        n_bg[:, sample] = _count_below(entropy[-1, sample, background[sample]], cutoff[-1])
        n_union[:, sample] = union.sum(axis=-1)
        if len(candidates):
            n_peak[:, sample] = counts[candidates].max(axis=0)
            peak[:, sample] = candidates[np.argmax(counts[candidates], axis=0)]

    empty = 0.0 if published else np.nan
    travelled = np.full(len(entropy), np.nan) if distance is None else np.asarray(distance, np.float64)
    found = {
        "n_fg": n_fg,
        "n_bg": n_bg,
        "fg_ratio": divide_counts(n_fg, n_fg + n_bg, empty),
        "rho": divide_counts(n_fg, n_union, empty),
        "distance": np.where((n_peak > 0) | (published and len(candidates) > 0), travelled[peak], np.nan),
    }
    undefined = np.isnan(mean_levels).any(axis=1, keepdims=True)
    return {name: np.where(undefined, np.nan, values) for name, values in found.items()}


def average_metrics(samples: Mapping[str, Floats], weights: NDArray) -> dict[str, Floats]:
    """Average what `resample_samples` returned over the samples of each resample, leaving out undefined ones.

    Returns
    -------
    dict
        ``n_fg``, ``n_bg``, ``fg_ratio``, ``rho``; ``d_mean``, ``d_var`` and ``d_std``, the moments of
        ``distance``, the variance that of a population. Each of shape ``(R,)``; NaN where no sample counts.
    """
    means = {name: average_defined(values, weights) for name, values in samples.items()}
    d_mean = means.pop("distance")
    d_var = average_defined((samples["distance"] - d_mean[:, None]) ** 2, weights)
    return means | {"d_mean": d_mean, "d_var": d_var, "d_std": np.sqrt(d_var)}


def _per_unit(cutoff: Floats, ndim: int) -> Floats:
    """Append axes so that a cutoff per checkpoint (and sample) lines up with ``(E, S, U)``."""
    return cutoff.reshape(cutoff.shape + (1,) * (ndim - cutoff.ndim))


def _count_below(values: Floats, cutoffs: Floats) -> Ints:
    return np.searchsorted(np.sort(values), cutoffs, side="left")
