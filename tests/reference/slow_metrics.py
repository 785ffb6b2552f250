"""Slow, plain-loop replica of the knowledge-point metrics, written from the formulas; Python floats out.

`entropy[k][x][i]` is the entropy of unit i of sample x after checkpoint k. Samples may occur several times,
as in a bootstrap resample.
"""

import math

import numpy as np


def mean(values):
    return math.fsum(values) / len(values)


def is_point(entropy, background, threshold):
    """Strictly below the threshold, ties judged in float32."""
    return np.float32(entropy) < np.float32(float(np.float32(background)) - threshold)


def background_of_sample(entropy, foreground, valid):
    values = [float(entropy[i]) for i in range(len(entropy)) if valid[i] and not foreground[i]]
    return mean(values) if values else None


def metrics(*arguments, **options):
    """Compute Eqs. (5) to (9) over the given list of sample positions, as `of_samples`."""
    return summarise(of_samples(*arguments, **options))


def of_samples(
    entropy, foreground, valid, samples, *, threshold, epochs, distance, per_sample=False, published=False
):
    """What every sample of the list adds; None where it has no points to tell from, unless as published."""
    n_units = len(foreground[0])
    own = [
        [background_of_sample(entropy[k][x], foreground[x], valid[x]) for x in samples]
        for k in range(len(epochs))
    ]
    common = [mean([value for value in row if value is not None]) for row in own]

    rows = []
    for position, x in enumerate(samples):
        fg_sets, bg_sets = [], []
        for k in range(len(epochs)):
            level = own[k][position] if per_sample else common[k]
            found = {
                i for i in range(n_units) if valid[x][i] and is_point(entropy[k][x][i], level, threshold)
            }
            fg_sets.append({i for i in found if foreground[x][i]})
            bg_sets.append({i for i in found if not foreground[x][i]})
        n_fg, n_bg = len(fg_sets[-1]), len(bg_sets[-1])

        peak = None
        for k in range(len(epochs)):
            if epochs[k] > 0 and (peak is None or len(fg_sets[k]) > len(fg_sets[peak])):
                peak = k

        union = set()
        for k in range(len(epochs)):
            union |= fg_sets[k]
        empty = 0.0 if published else None
        rows.append(
            {
                "n_fg": n_fg,
                "n_bg": n_bg,
                "fg_ratio": n_fg / (n_fg + n_bg) if n_fg + n_bg else empty,
                "rho": n_fg / len(union) if union else empty,
                "distance": float(distance[peak]) if fg_sets[peak] or published else None,
            }
        )
    return rows


def pair(ours, theirs):
    """Leave out of both what is undefined in one of two networks, sample by sample."""
    for one, other in zip(ours, theirs, strict=True):
        for name in one:
            if one[name] is None or other[name] is None:
                one[name] = other[name] = None
    return ours, theirs


def summarise(rows):
    found = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}
    distances = found.pop("distance")
    means = {name: mean(values) if values else math.nan for name, values in found.items()}
    d_mean = mean(distances) if distances else math.nan
    d_var = mean([(d - d_mean) ** 2 for d in distances]) if distances else math.nan
    return means | {"d_mean": d_mean, "d_var": d_var, "d_std": math.sqrt(d_var)}
