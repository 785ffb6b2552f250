"""The papers' metrics: names, meaning, and which sign of a difference speaks for which hypothesis.

The hypotheses are those of Zhang et al., TPAMI 2022, sections 1 and 3: a distilled network, compared with
one trained from scratch, encodes more points and more of them on the foreground (H1), learns them at the
same time (H2) and with fewer detours (H3).
"""

from typing import NamedTuple


class Metric(NamedTuple):
    """What a student-minus-baseline difference in a metric would say.

    `claim` says in words what the hypothesis expects of the student; ``{foreground}`` and ``{samples}``
    stand for what these are called of one kind of input.
    """

    hypothesis: str
    supporting_sign: int
    claim: str = ""


METRICS: dict[str, Metric] = {
    "n_fg": Metric("H1", +1, "more knowledge points on the {foreground}"),
    "n_bg": Metric("H1", -1, "fewer knowledge points on the background"),
    "fg_ratio": Metric("H1", +1, "a larger share of its points on the {foreground}"),
    "d_mean": Metric(
        "H2", -1, "points learned sooner, after less movement of the weights (1: their initial norm)"
    ),
    "d_var": Metric("H2", -1, "points of all {samples} learned at the same time"),
    "d_std": Metric("H2", -1),
    "rho": Metric("H3", +1, "fewer points tried and given up"),
}
HYPOTHESES = {
    "H1": "more points, and more of them on the {foreground}",
    "H2": "points learned sooner, and at the same time",
    "H3": "fewer detours",
}
DISTANCE_METRICS = ("d_mean", "d_var", "d_std")  # of all checkpoints and the weight distance
PATH_METRICS = (*DISTANCE_METRICS, "rho")  # of all checkpoints
