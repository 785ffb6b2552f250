"""How long the app takes to answer: from a moved control to new panels and counts, and to its first view."""

import asyncio
import itertools
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import kdviz
from benchmarks.reports import show_table, write_result
from kdviz.sources import find_data
from kdviz.widgets import Explorer

RUN = "runs/fashion.nc"
GOALS = {"looking": 0.1, "deriving": 0.3, "first view": 3.0}  # seconds, medians
_FIRST_VIEW = """
import time
start = time.perf_counter()
import sys
import kdviz
app = kdviz.explore(sys.argv[1], layer="fc1")
assert len(app.view.networks) == 3 and not app.failed
print(time.perf_counter() - start, "torch" in sys.modules)
"""


@dataclass(frozen=True)
class LatencyPlan:
    """How often each is timed.

    Attributes
    ----------
    changes
        Of each control.
    first_views
        New processes.
    """

    changes: int = 30
    first_views: int = 5


QUICK = LatencyPlan(changes=3, first_views=1)


def run_latency(plan: LatencyPlan, folder: Path | None = None, *, name: str = "latency") -> bool:
    """Time all controls and the first view, print and write the medians, and give whether goals are met.

    Controls are moved inside an event loop, as in a notebook's kernel, so that the charts follow later;
    they are timed on a line of their own.
    """
    run = find_data(RUN)
    app = kdviz.explore(run, layer="fc1")
    controls = asyncio.run(_time_controls(app, plan.changes))
    views = [_time_first_view(run) for _ in range(plan.first_views)]
    rows = [
        _summarise("first view", "first view", [seconds for seconds, _ in views]),
        *(_summarise(kind, control, seconds) for kind, control, seconds in controls),
    ]
    show_table(f"{len(app.view.networks)} networks of {Path(RUN).name}, seconds", rows)
    torch_free = not any(loaded for _, loaded in views)
    print(f"torch was {'not ' if torch_free else ''}loaded")
    write_result(name, asdict(plan), {"controls": rows, "torch_free": torch_free}, folder)
    return torch_free and all(row["median"] <= row["asked"] for row in rows if row["asked"] is not None)


def _controls(app: Explorer) -> list[tuple[str, str, list[Any]]]:
    """Return kind, trait, and values to go through; where something is derived, each is new to the app."""
    steps = range(64)
    return [
        ("looking", "epoch", app.selection.epochs),
        ("looking", "sample", app._scene.samples),
        ("looking", "threshold", [0.1 + 0.005 * step for step in steps]),
        ("deriving", "weight", [5.0 + 0.1 * step for step in steps]),
        ("deriving", "calibration", [0.2 + 0.01 * step for step in steps]),
        ("deriving", "coarsening", [1, 2, 4, 8]),
    ]


def _move(app: Explorer, name: str, value: Any) -> None:
    """Set a trait of the selection, or a field of its settings."""
    if app.selection.has_trait(name):
        setattr(app.selection, name, value)
    else:
        app.selection.settings = replace(app.selection.settings, **{name: value})


async def _time_controls(app: Explorer, changes: int) -> list[tuple[str, str, list[float]]]:
    timings = []
    for kind, trait, values in _controls(app):
        seconds = []
        start_value = app.selection.as_parameters()[trait]
        weights = itertools.count(6.0, 0.01)
        for value in itertools.islice(itertools.cycle(values), changes + 1):
            if trait == "coarsening":  # there are few grids: or they would be remembered
                _move(app, "weight", next(weights))
            shown = app.view
            start = time.perf_counter()
            _move(app, trait, value)
            seconds.append(time.perf_counter() - start)
            assert app.view is not shown or value == start_value, f"{trait} moved nothing"
            app._draw_charts_later.cancel()
        timings.append((kind, trait, seconds[1:]))  # the first may be the value that was there
        _move(app, trait, start_value)
    charts = []
    for _ in range(changes):
        start = time.perf_counter()
        app._draw_charts()
        charts.append(time.perf_counter() - start)
    app._draw_charts_later.cancel()
    return [*timings, ("charts", "charts", charts)]


def _time_first_view(run: Path) -> tuple[float, bool]:
    output = subprocess.run(
        [sys.executable, "-c", _FIRST_VIEW, str(run)], capture_output=True, text=True, check=True
    ).stdout
    seconds, loaded = output.split()
    return float(seconds), loaded == "True"


def _summarise(kind: str, control: str, seconds: list[float]) -> dict[str, Any]:
    return {
        "control": control,
        "median": statistics.median(seconds),
        "slowest": max(seconds),
        "asked": GOALS.get(kind),
        "timings": len(seconds),
    }
