"""Turn the stored results into the tables and figures of ``docs/validation.md`` and ``docs/scaling.md``."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.problems import RESULTS
from benchmarks.zoo.tables import ZOO_TABLES

DOCS = Path(__file__).parents[1] / "docs"
PAGES = (DOCS / "validation.md", DOCS / "scaling.md")
IMAGES = DOCS / "images"
KINDS = {
    "near": "near-linear images",
    "far": "the others",
}
SERIES = {  # prefix of the setting: label, colour, marker
    "kdviz gain": ("kdviz, 8 to 256 probes", "#0072B2", "o"),
    "kdviz path": ("kdviz by path, 2 to 8 draws", "#56B4E9", "^"),
    "probe gains alone": ("probe gains without drift", "#CC79A7", "X"),
    "authors' loop": ("authors' loop to the target, 4 to 32 draws", "#D55E00", "s"),
    "authors' procedure": ("authors' procedure, 96 draws", "#000000", "D"),
}

Row = Mapping[str, Any]


def write_pages(pages: Sequence[Path] = PAGES, results: Path = RESULTS, images: Path = IMAGES) -> None:
    """Fill the tables of the pages between their markers, and draw their figures."""
    for page in pages:
        page.write_text(fill_tables(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    images.mkdir(exist_ok=True)
    draw_accuracy(_load("accuracy", results)).savefig(images / "validation_accuracy.png", dpi=130)
    draw_noise(_load("noise", results)).savefig(images / "validation_noise.png", dpi=130)
    print(f"written to {', '.join(map(str, pages))} and {images}")


def fill_tables(text: str, results: Path = RESULTS) -> str:
    """Replace what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` by the table of that name."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]](results)}\n<!-- end -->"

    return re.sub(r"<!-- table (\S+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def to_markdown(rows: Sequence[Row], columns: Mapping[str, tuple[str, str]]) -> str:
    """Write rows as a Markdown table; `columns` maps keys to a heading and a format."""
    lines = ["| " + " | ".join(heading for heading, _ in columns.values()) + " |"]
    lines.append("|" + "---|" * len(columns))
    for row in rows:
        cells = [_format(row.get(key), form) for key, (_, form) in columns.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _format(value: Any, form: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):  # a range
        return " to ".join(dict.fromkeys(format(end, form) for end in value))
    return "" if value is None or value != value else format(value, form)  # NaN differs from itself


def _load(name: str, results: Path) -> dict[str, Any]:
    if not (results / f"{name}.json").exists():
        raise SystemExit(f"no stored results of {name}; run python -m benchmarks {name} first")
    return json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["results"]


def _table(
    name: str,
    part: str,
    columns: Mapping[str, tuple[str, str]],
    keep: Callable[[Row], bool] = lambda row: True,
) -> Callable[[Path], str]:
    def make(results: Path) -> str:
        rows = [_in_mebibytes(row) for row in _load(name, results)[part]]
        return to_markdown([row for row in rows if keep(row)], columns)

    return make


_BYTES = ("peak", "inputs", "result", "predicted_memory", "peak_memory")


def _in_mebibytes(row: Row) -> dict[str, Any]:
    return {**row, **{f"{key}_mib": row[key] / 2**20 for key in _BYTES if key in row}}


def _show_growth(results: Path) -> str:
    """Put the sizes of an axis beside each other, times what the smallest takes."""
    rows = [dict(row) for row in _load("growth", results)["jobs"]]
    for row in rows:
        (first,) = (one for one in rows if (one["axis"], one["times"]) == (row["axis"], 1))
        row |= {f"{what}_times": row[what] / first[what] for what in ("seconds", "disk")}
        row |= {f"{what}_mib": row[what] / 2**20 for what in ("disk", "peak", "beyond")}
    columns = {
        "axis": ("more", ""),
        "times": ("times as many", "d"),
        "seconds": ("seconds", ".1f"),
        "seconds_times": ("times the first", ".1f"),
        "disk_mib": ("disk, MiB", ".2f"),
        "disk_times": ("times the first", ".1f"),
        "peak_mib": ("memory at the peak, MiB", ".0f"),
        "beyond_mib": ("of which the job took", ".0f"),
    }
    return to_markdown(rows, columns)


def _show_presets(results: Path) -> str:
    """List the studies; of hours of a core two digits are shown."""
    rows = [dict(row) for row in _load("presets", results)["presets"]]
    for row in rows:
        row["hours"] = [float(f"{hours:.2g}") for hours in row["hours"]]
    columns = {
        "study": ("study", ""),
        "preset": ("preset", ""),
        "networks": ("networks", "d"),
        "passes": ("passes, millions", ",.0f"),
        "hours": ("hours of one core", ",g"),
        "memory": ("memory, GB", ".2f"),
        "disk": ("disk, GB", ".2f"),
        "gpu": ("hours of one GPU, projected", ",.1f"),
        "gpus": ("of eight, projected", ",.1f"),
    }
    return to_markdown(rows, columns)


_ERRORS = {
    "setting": ("setting", ""),
    "passes": ("passes", ",.0f"),
    "times_fewer": ("times fewer", ".0f"),
    "near_error": ("near: error, nat", ".4f"),
    "near_jaccard": ("Jaccard", ".2f"),
    "far_error": ("others: error, nat", ".4f"),
    "far_jaccard": ("Jaccard", ".2f"),
}
_SHOWN = ("kdviz default", "probe gains alone", "kdviz path, 8 draws", "authors' procedure, run a")

WORKER_TABLES = {
    "rates": {"kind": ("who measures", ""), "blocks a second": ("blocks a second", ".3f")},
    "goals": {"goal": ("goal", ""), "asked": ("asked", ".2f"), "reached": ("reached", ".2f")},
}
TABLES: dict[str, Callable[[Path], str]] = {
    "goals": _table(
        "accuracy",
        "goals",
        {
            "images": ("images", ""),
            "times_fewer_asked": ("times fewer, asked", ""),
            "times_fewer": ("reached", ".0f"),
            "error_asked": ("error asked, nat", ".2f"),
            "error": ("reached", ".4f"),
        },
    ),
    "overall": _table("accuracy", "overall", _ERRORS),
    "cases": _table(
        "accuracy",
        "cases",
        {
            "case": ("case", ""),
            **_ERRORS,
            "near_images": ("near", ""),
            "far_images": ("others", ""),
        },
        lambda row: row["setting"] in _SHOWN,
    ),
    "references": _table(
        "accuracy",
        "references",
        {
            "case": ("case", ""),
            "near_linear_images": ("near-linear", ""),
            "chance_of_authors": ("chance in 96 draws, nat", ".4f"),
            "chance_of_reference": ("in the reference, nat", ".4f"),
            "spread_over_units": ("spread over units, nat", ".2f"),
            "jaccard_of_two_authors_runs": ("Jaccard of two 96-draw runs", ".2f"),
        },
    ),
    "speed": _table(
        "accuracy",
        "speed",
        {
            "case": ("case", ""),
            "authors": ("authors, s", ".2f"),
            "kdviz": ("kdviz, s", ".3f"),
            "ratio": ("ratio", ".0f"),
        },
    ),
    **{name: _table("zoo", *table) for name, table in ZOO_TABLES.items()},
    "latency": _table(
        "latency",
        "controls",
        {
            "control": ("control", ""),
            "median": ("median, s", ".3f"),
            "slowest": ("slowest, s", ".3f"),
            "asked": ("asked, s", ".1f"),
            "timings": ("timings", ""),
        },
    ),
    "gpu": _table(
        "gpu",
        "kdviz",
        {
            "batch": ("samples in a pass", ""),
            "forward": ("forward", ",.0f"),
            "backward": ("backward", ",.0f"),
            "seconds": ("seconds an image", ".2f"),
            "share": ("of the bare pass rate", ".2f"),
            "predicted_memory_mib": ("memory, predicted, MiB", ",.0f"),
            "peak_memory_mib": ("held, MiB", ",.0f"),
        },
    ),
    "gpu_goals": _table(
        "gpu",
        "goals",
        {
            "goal": ("goal", ""),
            "asked": ("asked", ".1f"),
            "reached": ("reached", ".2f"),
            "projected": ("projected", ""),
        },
    ),
    **{
        f"{network}_{part}": _table(f"workers-{network}", part, columns)
        for network in ("small_vgg", "vgg11")
        for part, columns in WORKER_TABLES.items()
    },
    "presets": _show_presets,
    "preset_rate": _table(
        "presets",
        "rate",
        {
            "teraflops": ("TFLOP/s of a GPU, sustained in float32", ".0f"),
            "known": ("which is", ""),
            "gpus": ("GPUs", "d"),
        },
    ),
    "scale": _show_growth,
    "scale_goals": _table(
        "growth",
        "goals",
        {"axis": ("more", ""), "what": ("goal", ""), "asked": ("asked", ""), "reached": ("reached", ".2f")},
    ),
    "overhead": _table(
        "costs",
        "overhead",
        {
            "network": ("network", ""),
            "layer": ("layer", ""),
            "method": ("method", ""),
            "ratio": ("median", ".2f"),
            "ratio_of_least": ("of the fastest", ".2f"),
        },
    ),
    "memory": _table(
        "costs",
        "memory",
        {
            "verb": ("verb", ""),
            "samples": ("samples", ",d"),
            "units_x_samples": ("units x samples", ",d"),
            "inputs_mib": ("inputs, MiB", ".0f"),
            "result_mib": ("result, MiB", ".0f"),
            "peak_mib": ("peak, MiB", ".0f"),
        },
    ),
    "slopes": _table(
        "costs",
        "memory_slopes",
        {
            "verb": ("verb", ""),
            "bytes_a_sample": ("beyond inputs and result, bytes a sample", ",.0f"),
            "while_measuring": ("while measuring", ",.0f"),
            "result_bytes_a_sample": ("the result itself", ",.0f"),
        },
    ),
    "growth": _table(
        "costs",
        "growth",
        {
            "method": ("method", ""),
            "axis": ("setting", ""),
            "value": ("value", ""),
            "forward": ("forward", ",d"),
            "backward": ("backward", ",d"),
            "times_first": ("time, times the first", ".2f"),
        },
    ),
    "toy": _table(
        "peers",
        "toy",
        {
            "weight": ("weight of the word", ".0f"),
            "published": ("published", ".5f"),
            "replica": ("replica, mean of 16 seeds", ".5f"),
            "replica_lowest": ("lowest", ".5f"),
            "replica_highest": ("highest", ".5f"),
            "kdviz": ("kdviz", ".5f"),
            "published_over_kdviz": ("published / kdviz", ".3f"),
        },
    ),
    "peers": _table(
        "peers",
        "procedures",
        {
            "subject": ("samples", ""),
            "procedure": ("procedure", ""),
            "passes": ("passes a sample", ",.0f"),
            "relative": ("seeds over units", ".2f"),
            "spearman": ("rank correlation of seeds", ".2f"),
            "quarter": ("Jaccard, quarter", ".2f"),
            "tenth": ("tenth", ".2f"),
            "with_settled": ("with the peers' minimum", ".2f"),
            "with_kdviz": ("with the first row", ".2f"),
        },
        lambda row: not row["procedure"].endswith("optimum"),
    ),
    "peer_goals": _table(
        "peers",
        "goals",
        {
            "setting": ("setting", ""),
            "rival": ("beside", ""),
            "times_fewer_asked": ("times fewer passes, asked", ""),
            "times_fewer": ("reached", ".1f"),
            "relative": ("seeds over units", ".2f"),
            "relative_of_rival": ("theirs", ".2f"),
        },
    ),
    "faults": _table(
        "faults",
        "attacks",
        {
            "attack": ("attack", ""),
            "target": ("on", ""),
            "tried": ("tried", ",d"),
            "survived": ("survived", ",d"),
        },
    ),
    "metrics": _table(
        "noise",
        "metrics",
        {
            "layer": ("layer", ""),
            "metric": ("metric", ""),
            "student": ("student", ".2f"),
            "student_noise": ("noise", ".3f"),
            "baseline": ("baseline", ".2f"),
            "baseline_noise": ("noise", ".3f"),
            "difference": ("student - baseline", ".2f"),
            "difference_noise": ("noise", ".3f"),
            "difference_interval": ("95 % over images, half width", ".2f"),
        },
    ),
    "entropies": _table(
        "noise",
        "entropies",
        {
            "layer": ("layer", ""),
            "role": ("network", ""),
            "epochs": ("epochs", ""),
            "probes": ("probes", ""),
            "moved": ("moved, nat", ".4f"),
            "reported": ("reported, nat", ".4f"),
            "ratio": ("ratio", ".2f"),
            "path": ("by path", ".1%"),
            "jaccard": ("Jaccard of points", ".2f"),
            "flipped": ("units that flip", ".1%"),
            "flagged": ("of these called uncertain", ".0%"),
        },
    ),
}


def draw_accuracy(results: Mapping[str, Any]) -> Figure:
    """Error against passes, all cases together."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, (kind, title) in zip(figure.subplots(1, 2, sharey=True), KINDS.items(), strict=True):
        for prefix, (label, colour, marker) in SERIES.items():
            rows = [row for row in results["overall"] if row["setting"].startswith(prefix)]
            points = sorted((row["passes"], row[f"{kind}_error"]) for row in rows)
            line = "-" if prefix in ("kdviz gain", "kdviz path", "authors' loop") else ""
            axes.plot(*zip(*points, strict=True), line, color=colour, marker=marker, label=label, ms=5)
        (default,) = (row for row in results["overall"] if row["setting"] == "kdviz default")
        axes.plot(default["passes"], default[f"{kind}_error"], "o", ms=12, mfc="none", mec="#0072B2")
        axes.annotate(
            "default",
            (default["passes"], default[f"{kind}_error"]),
            xytext=(8, 6),
            textcoords="offset points",
            fontsize=9,
        )
        _style(axes, title)
    figure.axes[0].set_ylabel("mean absolute error (nat)")
    figure.axes[1].legend(fontsize=8, loc="lower left", frameon=False)
    return figure


def _style(axes: Axes, title: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_yticks([0.01, 0.02, 0.05, 0.1], ["0.01", "0.02", "0.05", "0.1"])
    axes.set_yticks([], minor=True)
    axes.set_xlabel("network passes an image")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_noise(results: Mapping[str, Any]) -> Figure:
    """Noise of every student-minus-baseline difference beside what resampling the images changes."""
    rows = [row for row in results["metrics"] if row["difference"] is not None]
    figure = Figure(figsize=(7, 0.33 * len(rows) + 1.1), layout="constrained")
    axes = figure.subplots()
    for at, row in enumerate(rows):
        half = row["difference_interval"]
        axes.plot([-1, 1], [at, at], color="#BBBBBB", lw=7, solid_capstyle="butt")
        axes.errorbar(
            row["difference"] / half,
            at,
            xerr=2 * row["difference_noise"] / half,
            fmt="o",
            color="#0072B2",
            ms=5,
        )
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(rows)), [f"{row['layer']}  {row['metric']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(
        "student - baseline, over the half width of its 95 % interval over images\n"
        "(grey: that half width; bars: two standard deviations over measurement seeds)"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    return figure
