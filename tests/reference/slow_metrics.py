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


def metrics(entropy, foreground, valid, samples, *, threshold, epochs, distance, per_sample=False):
    """Compute Eqs. (5) to (9) over the given list of sample positions."""
    n_units = len(foreground[0])
    own = [
        [background_of_sample(entropy[k][x], foreground[x], valid[x]) for x in samples]
        for k in range(len(epochs))
    ]
    common = [mean([value for value in row if value is not None]) for row in own]

    fg_counts, bg_counts, ratios, distances, rhos = [], [], [], [], []
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
        fg_counts.append(n_fg)
        bg_counts.append(n_bg)
        ratios.append(n_fg / (n_fg + n_bg) if n_fg + n_bg else 0.0)

        peak = None
        for k in range(len(epochs)):
            if epochs[k] > 0 and (peak is None or len(fg_sets[k]) > len(fg_sets[peak])):
                peak = k
        distances.append(float(distance[peak]))

        union = set()
        for k in range(len(epochs)):
            union |= fg_sets[k]
        rhos.append(len(fg_sets[-1]) / len(union) if union else 0.0)

    d_mean = mean(distances)
    d_var = mean([(d - d_mean) ** 2 for d in distances])
    return {
        "n_fg": mean(fg_counts),
        "n_bg": mean(bg_counts),
        "fg_ratio": mean(ratios),
        "d_mean": d_mean,
        "d_var": d_var,
        "d_std": math.sqrt(d_var),
        "rho": mean(rhos),
    }
