"""The papers' metrics: names, meaning, and which sign of a difference speaks for which hypothesis.

The hypotheses are those of Zhang et al., TPAMI 2022, sections 1 and 3: a distilled network, compared with
one trained from scratch, encodes more points and more of them on the foreground (H1), learns them at the
same time (H2) and with fewer detours (H3).
"""

from typing import NamedTuple

from kdviz.schema import VARIABLES


class Metric(NamedTuple):
    """One metric and what a student-minus-baseline difference in it would say."""

    long_name: str
    hypothesis: str
    supporting_sign: int


METRICS: dict[str, Metric] = {
    "n_fg": Metric(VARIABLES["n_fg"].long_name, "H1", +1),
    "n_bg": Metric(VARIABLES["n_bg"].long_name, "H1", -1),
    "fg_ratio": Metric(VARIABLES["fg_ratio"].long_name, "H1", +1),
    "d_mean": Metric(VARIABLES["d_mean"].long_name, "H2", -1),
    "d_var": Metric(VARIABLES["d_var"].long_name, "H2", -1),
    "d_std": Metric(VARIABLES["d_std"].long_name, "H2", -1),
    "rho": Metric(VARIABLES["rho"].long_name, "H3", +1),
}
COUNT_METRICS = ("n_fg", "n_bg", "fg_ratio")  # of one checkpoint
DISTANCE_METRICS = ("d_mean", "d_var", "d_std")  # of all checkpoints and the weight distance
PATH_METRICS = (*DISTANCE_METRICS, "rho")  # of all checkpoints
