"""A run and the app on it, opened once."""

from collections.abc import Iterator

import numpy as np
import pytest
import xarray as xr
from explored_runs import MODULES, NAMES, SAMPLES, START, UNITS, add_network, make_run

import kdviz
from kdviz.analysis import Settings
from kdviz.store import Run
from kdviz.widgets import Explorer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Teacher, and students and baselines of two seeds at fc1, of one at fc2; maps of two methods."""
    run = make_run(tmp_path_factory.mktemp("widgets") / "run.zarr")
    for layer in MODULES:
        add_network(run, "teacher", "teacher", layer, epochs=(9,))
        add_network(run, "baseline-s0", "baseline", layer)
    add_network(run, "student-fc1-s0", "student", "fc1")
    add_network(run, "student-fc2-s0", "student", "fc2", epochs=(0, 1, 5))
    add_network(run, "student-fc1-s3", "student", "fc1", seed=3)
    add_network(run, "baseline-s3", "baseline", "fc1", seed=3)
    maps = np.random.default_rng(1).standard_normal((2, 1, SAMPLES, UNITS)).astype(np.float32)
    dims = ("attribution_method", "epoch", "sample", "unit")
    coords = {
        "attribution_method": ["grad_cam", "occlusion"],
        "epoch": [5],
        "sample": NAMES,
        "unit": np.arange(UNITS),
    }
    run.write_result("attribution/student-fc1-s0", xr.Dataset({"attribution": (dims, maps)}, coords=coords))
    return run


@pytest.fixture(scope="module")
def opened(run: Run) -> Iterator[Explorer]:
    app = kdviz.explore(run)
    yield app
    app.close()


@pytest.fixture
def app(opened: Explorer, monkeypatch: pytest.MonkeyPatch) -> Explorer:
    """Return one app for all tests, as if new, its slow charts switched off."""
    monkeypatch.setattr(opened._draw_charts_later, "_call", lambda: None)
    chosen = opened.selection
    chosen.layer, chosen.networks, chosen.epoch, chosen.sample = "fc1", START, 5, "s0"
    opened.controls["class"].value, opened.controls["order"].value = "", "as stored"
    chosen.settings = Settings()
    for name in ("overlay", "opacity", "histogram"):
        setattr(chosen, name, chosen.traits()[name].default_value)
    opened._other_layer = False
    opened._status.clear()
    opened._draw()
    return opened
