"""What docs/validation.md shows of the zoo: part of the results, columns with heading and format, rows."""

from collections.abc import Callable, Mapping
from typing import Any

Columns = Mapping[str, tuple[str, str]]
Rows = Callable[[Mapping[str, Any]], bool]

CASE = {
    "case": ("case", ""),
    "times_fewer": ("times fewer", ".0f"),
    "error": ("error, nat", ".4f"),
    "largest": ("largest", ".2f"),
    "stated": ("stated", ".4f"),
    "beyond": ("beyond two stated", ".0%"),
    "apart": ("two seeds", ".0%"),
    "jaccard": ("Jaccard", ".2f"),
    "rank": ("rank correlation", ".2f"),
    "by_path": ("by path", ".0%"),
    "linearity_low": ("linearity, from", ".2f"),
    "linearity_high": ("to", ".2f"),
    "near": ("near-linear", ",d"),
    "spread": ("spread over units, nat", ".2f"),
}
SHORT = ("times_fewer", "error", "largest", "stated", "beyond", "apart", "jaccard", "rank")


def _every(row: Mapping[str, Any]) -> bool:
    return True


def _default(row: Mapping[str, Any]) -> bool:
    return row["setting"] == "default"


def _by_method(row: Mapping[str, Any]) -> bool:
    return row["setting"] != "default" and not row.get("as_default")


ZOO_TABLES: dict[str, tuple[str, Columns, Rows]] = {
    "zoo_networks": (
        "networks",
        {
            "network": ("network", ""),
            "kind": ("of", ""),
            "weights": ("weights", ",d"),
            "accuracy": ("accuracy, held out", ".2f"),
            "middle": ("middle layer", ""),
            "last": ("last layer", ""),
            "feature": ("feature", ""),
        },
        _every,
    ),
    "zoo_references": (
        "references",
        {
            "case": ("case", ""),
            "samples": ("samples", ""),
            "units": ("units", ",d"),
            "chance_of_authors": ("chance in 96 draws, nat", ".4f"),
            "chance_of_reference": ("in the reference, nat", ".4f"),
            "spread_over_units": ("spread over units, nat", ".2f"),
            "jaccard": ("Jaccard of two runs", ".2f"),
            "rank": ("rank correlation", ".2f"),
        },
        _every,
    ),
    "zoo_goals": (
        "goals",
        {
            "goal": ("goal", ""),
            "asked": ("asked", ".2f"),
            "cases": ("cases", ",d"),
            "reached": ("reached in", ",d"),
            "worst": ("worst", ".3f"),
            "worst_case": ("where", ""),
        },
        _every,
    ),
    "zoo_overall": (
        "overall",
        {
            "setting": ("setting", ""),
            "passes": ("passes", ",.0f"),
            "error": ("error, nat", ".4f"),
            "near_error": ("near-linear", ".4f"),
            "far_error": ("others", ".4f"),
            "largest": ("largest of a unit", ".2f"),
            "stated": ("stated", ".4f"),
            "beyond": ("beyond two stated", ".0%"),
            "apart": ("two seeds", ".0%"),
            "jaccard": ("Jaccard", ".2f"),
            "rank": ("rank correlation", ".2f"),
            "by_path": ("by path", ".0%"),
        },
        _every,
    ),
    "zoo_silent": ("silent", CASE, _every),
    "zoo_default": ("cases", CASE, _default),
    "zoo_methods": (
        "cases",
        {"case": CASE["case"], "setting": ("method", ""), **{key: CASE[key] for key in SHORT}},
        _by_method,
    ),
}
