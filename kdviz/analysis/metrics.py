"""The papers' metrics: names, meaning, and which sign of a difference speaks for which hypothesis.

The hypotheses are those of Zhang et al., TPAMI 2022, sections 1 and 3: a distilled network, compared with
one trained from scratch, encodes more points and more of them on the foreground (H1), learns them at the
same time (H2) and with fewer detours (H3).
"""

from typing import NamedTuple


class Metric(NamedTuple):
    """What a student-minus-baseline difference in a metric would say."""

    hypothesis: str
    supporting_sign: int


METRICS: dict[str, Metric] = {
    "n_fg": Metric("H1", +1),
    "n_bg": Metric("H1", -1),
    "fg_ratio": Metric("H1", +1),
    "d_mean": Metric("H2", -1),
    "d_var": Metric("H2", -1),
    "d_std": Metric("H2", -1),
    "rho": Metric("H3", +1),
}
DISTANCE_METRICS = ("d_mean", "d_var", "d_std")  # of all checkpoints and the weight distance
PATH_METRICS = (*DISTANCE_METRICS, "rho")  # of all checkpoints
