"""Invented runs for the app: entropies and maps of a few samples, networks at two layers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

import kdviz
from kdviz import analysis, schema
from kdviz.store import Run, create_run
from kdviz.widgets import Explorer

SAMPLES, GRID, EPOCHS = 5, 4, (0, 2, 5)
UNITS = GRID * GRID
MODULES = {"fc1": "classifier.fc1", "fc2": "classifier.fc2"}
NAMES = [f"s{index}" for index in range(SAMPLES)]
START = ["teacher", "student-fc1-s0", "baseline-s0"]


def make_run(
    path: Path, *, masks: bool | str = True, pictures: bool = True, side: int = GRID, rows: int | None = None
) -> Run:
    rng = np.random.default_rng(0)
    rows = side if rows is None else rows
    foreground = np.zeros((SAMPLES, rows, side), bool)
    foreground[:, 1:3, 1:3] = True
    foreground |= masks == "everything"
    variables: dict[str, tuple] = {}
    if masks:
        variables["foreground"] = (("sample", "unit"), foreground.reshape(SAMPLES, -1))
    if pictures:
        pixels = rng.integers(0, 256, (SAMPLES, 8, 8, 3), np.uint8)
        variables["thumbnail"] = (("sample", "y_pixel", "x_pixel", "channel"), pixels)
    row, col = np.divmod(np.arange(rows * side), side)
    samples = xr.Dataset(
        variables,
        coords={
            "sample": NAMES,
            "label": ("sample", [0, 1, 0, 1, 1]),
            "unit": np.arange(rows * side),
            "row": ("unit", row),
            "col": ("unit", col),
        },
    )
    config = {"layer_names": MODULES, "classes": ["bird", "cat"], "threshold": 0.25}
    return create_run(path, samples=samples, attrs=schema.make_attrs(dataset_id="toy", config=config))


def add_network(
    run: Run,
    name: str,
    role: str,
    layer: str,
    *,
    epochs: tuple[int, ...] = EPOCHS,
    seed: int = 0,
    finished: int | None = None,
) -> None:
    """Write gains that change from epoch to epoch and, for each network, in their own way."""
    count = run.samples.sizes["unit"]
    about = {"distilled_layer": MODULES[layer]} if role == "student" else {}
    attrs = schema.make_attrs(
        network_role=role, training_seed=seed, seed=0, base_noise=0.01, weight=6.0, calibration=0.386,
        solver="descent", **about,
    )  # fmt: skip
    module = MODULES[layer]
    names = ("gain", "gain_error", "feature_variance", "method")
    run.create_group(name, module, epochs=epochs, attrs=attrs, block=SAMPLES, variables=names)
    rng = np.random.default_rng([len(role), seed, len(epochs), ord(layer[-1])])
    inside = run.samples.get("foreground", xr.zeros_like(run.samples["valid"])).values
    for index, epoch in enumerate(epochs[:finished]):
        gain = np.exp(0.5 * rng.standard_normal((1, SAMPLES, count)) + 0.2 * epoch * inside)
        block = xr.Dataset(
            {
                "gain": (("epoch", "sample", "unit"), gain.astype(np.float32)),
                "gain_error": (("epoch", "sample", "unit"), (0.03 * gain).astype(np.float32)),
                "feature_variance": (("epoch", "sample"), (1e-4 * gain.sum(-1)).astype(np.float32)),
                "method": (("epoch", "sample"), np.zeros((1, SAMPLES), np.int8)),
                "valid": (("sample", "unit"), np.ones((SAMPLES, count), bool)),
            },
            coords={"epoch": [epoch], "sample": NAMES, "unit": np.arange(count)},
        )
        run.write_block(name, module, index, 0, block)
    if role != "teacher":
        moved = xr.DataArray(np.sqrt(epochs).astype(np.float32), dims="epoch", coords={"epoch": [*epochs]})
        run.write_variable(name, module, moved.rename("weight_distance"))


def find(run: Run, network: str, layer: str, **settings: object) -> xr.Dataset:
    """Derive what the app must show, straight from the public functions."""
    threshold = settings.pop("threshold", 0.25)
    background = settings.pop("background", "checkpoint")
    factor = settings.pop("factor", 1)
    ds = analysis.coarsen_grid(run.dataset(network, MODULES[layer]), factor)
    derived = kdviz.derive_entropy(ds, **({"weight": 6.0} | settings))
    return kdviz.find_points(derived, threshold=threshold, background=background)


def panels(app: Explorer) -> list[bytes]:
    return [bytes(image.value) for kind in ("map", "points", "detours") for image in app.outputs[kind]]


def move(app: Explorer, **values: object) -> None:
    """Set traits of the selection, or fields of its settings."""
    for name, value in values.items():
        if app.selection.has_trait(name):
            setattr(app.selection, name, value)
        else:
            app.selection.settings = replace(app.selection.settings, **{name: value})
