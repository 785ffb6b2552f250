"""Measure how strongly noise on every input unit moves a layer's feature: the expensive part.

The *gain* of a unit is its share in the mean-squared feature change, per unit of squared noise on it:

    ``E |f' - f*|^2 / D = sum_u sigma_u^2 G_u``.

For small noise it is the mean squared slope of the feature, and Eq. (4) of Zhang et al. (TPAMI 2022) depends
on the network through it alone. :func:`estimate_gain` measures that from random probes on the feature, one
backward pass each; :func:`share_loss` completes it by what noise does to a feature beside spreading it, and
tells whether single units are right; :func:`measure_change` checks a solution with forward passes only.
:func:`descend` is the authors' own descent on sampled losses instead. Nothing here knows datasets, files or
particular networks.

Modules, each importing only from those before it: ``bench``, ``probes``, ``losses``, ``descents``.
"""

from kdviz.gain.bench import Bench, Passes
from kdviz.gain.descents import LONGEST_DESCENT, Descent, descend
from kdviz.gain.losses import SharedLoss, measure_change, measure_rounding, measure_variance, share_loss
from kdviz.gain.probes import Surrogate, count_probes, estimate_gain

__all__ = [
    "LONGEST_DESCENT",
    "Bench",
    "Descent",
    "Passes",
    "SharedLoss",
    "Surrogate",
    "count_probes",
    "descend",
    "estimate_gain",
    "measure_change",
    "measure_rounding",
    "measure_variance",
    "share_loss",
]
