"""The current view as a file: a figure, its numbers, or its settings."""

import json
import re
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kdviz import __version__
from kdviz.files import make_folder, write_bytes
from kdviz.render.layout import encode_figure, view_figure
from kdviz.render.looks import MAP
from kdviz.widgets.drawing import describe_counts, describe_scale, name_panels
from kdviz.widgets.scene import Scene, View
from kdviz.widgets.selection import Selection

KINDS = {
    ".png": "figure (PNG)",
    ".svg": "figure (SVG)",
    ".pdf": "figure (PDF)",
    ".csv": "units (CSV)",
    ".nc": "units (netCDF)",
    ".yaml": "settings (YAML)",
}
_PANEL = 480  # pixels; fit for print


def write_view(path: Path, scene: Scene, selection: Selection, view: View) -> Path:
    """Write a view to a file whose ending is one of `KINDS`; see `Explorer.save`."""
    path, kind = path.expanduser(), path.suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"cannot save as {path.name!r}; allowed endings: {', '.join(KINDS)}")
    contents: bytes | memoryview
    if kind == ".csv":
        contents = as_csv(scene, selection, view).encode()
    elif kind == ".nc":
        contents = to_dataset(scene, selection, view).to_netcdf()
    elif kind == ".yaml":
        contents = as_yaml(scene, selection).encode()
    else:
        contents = encode_figure(draw_figure(scene, selection, view), kind[1:], dpi=200)
    make_folder(path.parent)
    write_bytes(path, contents)
    return path


def as_csv(scene: Scene, selection: Selection, view: View) -> str:
    """Write the shown units as a table; texts that a spreadsheet would run as a formula are quoted."""
    table = to_dataset(scene, selection, view).to_dataframe().reset_index()
    table = table.assign(threshold=selection.settings.threshold, sample=view.sample, layer=selection.layer)
    quote = partial(re.sub, r"^(?=[=+\-@\t\r])", "'")
    return table.map(lambda value: quote(value) if isinstance(value, str) else value).to_csv(index=False)


def to_dataset(scene: Scene, selection: Selection, view: View) -> xr.Dataset:
    """Collect the shown units with dims (network, unit), and the settings as attributes."""
    canvas, fields = view.canvas, {"gain": "gain", "entropy": "entropy", "overlay": "values"}
    by_unit = dict(canvas.coordinates)
    if scene.has_points:
        fields |= {"knowledge_point": "points", "uncertain": "uncertain", "dropped": "dropped"}
        by_unit["foreground"] = canvas.foreground

    def stack(field: str) -> NDArray:
        return np.stack([getattr(one, field) for one in view.networks])

    attrs = {
        "kdviz_version": __version__,
        "run": str(scene.run.path),
        "sample": view.sample,
        "settings": json.dumps(selection.as_parameters(), sort_keys=True),
    }
    variables = {name: (("network", "unit"), stack(field)) for name, field in fields.items()}
    coordinates = {name: (("network",), stack(name)) for name in ("network", "role", "epoch")}
    coordinates |= {name: (("unit",), values) for name, values in by_unit.items()}
    ds = xr.Dataset(variables, coordinates, attrs)
    ds["entropy"].attrs["units"] = "nat"
    return ds


def as_yaml(scene: Scene, selection: Selection) -> str:
    """Write the settings as parameters of ``02_explore``, whose word for None is 0."""
    chosen = {name: 0.0 if value is None else value for name, value in selection.as_parameters().items()}
    parameters = {"run_path": str(scene.run.path.resolve()), **chosen}
    return "# kdviz rerun 02_explore -f THIS_FILE\n" + yaml.safe_dump(parameters, sort_keys=False)


def draw_figure(scene: Scene, selection: Selection, view: View) -> Figure:
    """Draw the view as one figure, settings below."""
    canvas, looks = view.canvas, selection.looks
    inside = canvas.vocabulary.foreground
    titles = name_panels(selection.overlay, inside)
    kinds = titles if scene.has_points else (MAP,)
    networks = {}
    width = 120 // (len(view.networks) + 1)  # letters that a column has room for
    for one in view.networks:
        drawn = canvas.draw_panels(one, looks, _PANEL)
        heading = textwrap.fill(f"{one.network}, epoch {one.epoch}", width)
        heading = "\n".join([heading, *describe_counts(one, inside)])
        networks[heading] = {titles[kind]: drawn[kind] for kind in kinds}
    hidden = {"networks", "sample", "epoch", "histogram"}  # seen in the figure
    hidden |= set() if canvas.coarsens else {"coarsening"}
    hidden |= set() if canvas.turns else {"azimuth"}
    hidden |= {"calibration"} if selection.settings.feature_loss else set()
    values = [
        f"{name} {value}"
        for name, value in selection.as_parameters().items()
        if name not in hidden and value is not None
    ]
    scale = describe_scale(view.networks[0], selection.overlay)
    shapes = [f"{canvas.legend}    cross: tried and dropped    {canvas.edge}"] if scene.has_points else []
    note = "\n".join([*shapes, scale, ", ".join(values), *(textwrap.fill(text, 180) for text in view.notes)])
    return view_figure(
        canvas.draw_input(looks, _PANEL),
        networks,
        scene.charts(view, selection.epoch, selection.histogram, selection.place),
        title=f"{view.title} {view.label}".strip(),
        note=note,
    )
