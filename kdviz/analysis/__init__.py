"""Dataset in, Dataset out: knowledge points and the papers' metrics, with names.

Each function validates its input, calls the plain-array functions of `kdviz.points` and returns a new
Dataset; the input is never changed. No network is needed and no torch is imported: everything here follows
from stored gains, so sliders may call it. The order is `derive_entropy`, `find_points`, then
`count_points`, `measure_learning` and `compare`; `apply_settings` does the first two by one `Settings`, and
`pair_networks` for a whole stored run.

The hypotheses of the papers are outcomes: `METRICS` says which sign of a student-minus-baseline difference
speaks for which hypothesis, and nothing here asserts it.

`to_dataframe` puts a whole run into one tidy table, `tabulate_arms` whole runs beside a table of the papers.

`score_attributions` and `tabulate_scores` judge the maps of :func:`kdviz.attribute` beside the entropy.
"""

from kdviz.analysis.accuracies import describe_accuracy, tabulate_accuracy
from kdviz.analysis.arms import (
    Arm,
    arrange_arms,
    describe_arms,
    doubt_arms,
    list_arms,
    tabulate_arms,
    tally_wins,
)
from kdviz.analysis.attributions import (
    SCORES,
    collect_importance,
    join_scores,
    rank_correlation,
    score_attributions,
    tabulate_scores,
)
from kdviz.analysis.coarsening import coarsen_grid
from kdviz.analysis.coherency import list_refused, read_audits, summarise_audits
from kdviz.analysis.comparison import compare
from kdviz.analysis.entropies import derive_entropy
from kdviz.analysis.frames import to_dataframe
from kdviz.analysis.judging import tabulate_differences
from kdviz.analysis.knowledge import count_points, find_points
from kdviz.analysis.layers import order_layers, tabulate_layers
from kdviz.analysis.learning import measure_learning
from kdviz.analysis.metrics import DISTANCE_METRICS, HYPOTHESES, METRICS, PATH_METRICS, Metric
from kdviz.analysis.networks import Network, list_networks, name_kind, name_layers, read_room
from kdviz.analysis.pairs import (
    NetworkPair,
    compare_layers,
    compare_settings,
    describe_comparison,
    describe_measurement,
    measure_noise_floor,
    pair_networks,
)
from kdviz.analysis.progress import tabulate_counts, tabulate_peaks
from kdviz.analysis.settings import Settings, apply_settings
from kdviz.analysis.transfer import (
    collect_points,
    doubt_teacher,
    find_undertrained,
    read_transfer,
    score_transfer,
)
from kdviz.analysis.unicam import as_attributions, tabulate_relevance
from kdviz.analysis.verdict import Answer, Finding, Verdict, give_verdict

__all__ = [
    "DISTANCE_METRICS",
    "HYPOTHESES",
    "METRICS",
    "PATH_METRICS",
    "SCORES",
    "Answer",
    "Arm",
    "Finding",
    "Metric",
    "Network",
    "NetworkPair",
    "Settings",
    "Verdict",
    "apply_settings",
    "arrange_arms",
    "as_attributions",
    "coarsen_grid",
    "collect_importance",
    "collect_points",
    "compare",
    "compare_layers",
    "compare_settings",
    "count_points",
    "derive_entropy",
    "describe_accuracy",
    "describe_arms",
    "describe_comparison",
    "describe_measurement",
    "doubt_arms",
    "doubt_teacher",
    "find_points",
    "find_undertrained",
    "give_verdict",
    "join_scores",
    "list_arms",
    "list_networks",
    "list_refused",
    "measure_learning",
    "measure_noise_floor",
    "name_kind",
    "name_layers",
    "order_layers",
    "pair_networks",
    "rank_correlation",
    "read_audits",
    "read_room",
    "read_transfer",
    "score_attributions",
    "score_transfer",
    "summarise_audits",
    "tabulate_accuracy",
    "tabulate_arms",
    "tabulate_counts",
    "tabulate_differences",
    "tabulate_layers",
    "tabulate_peaks",
    "tabulate_relevance",
    "tabulate_scores",
    "tally_wins",
    "to_dataframe",
]
