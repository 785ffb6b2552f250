"""The current view as a file: a figure, its numbers, or its settings."""

import json
import textwrap
from pathlib import Path

import numpy as np
import xarray as xr

from kdviz import __version__, render
from kdviz.files import file_errors
from kdviz.render.looks import MAP
from kdviz.widgets.drawing import describe_counts, describe_scale, name_panels
from kdviz.widgets.scene import Scene, View
from kdviz.widgets.selection import Selection

KINDS = {
    ".png": "picture (PNG)",
    ".svg": "picture (SVG)",
    ".pdf": "picture (PDF)",
    ".csv": "units (CSV)",
    ".nc": "units (netCDF)",
    ".yaml": "settings (YAML)",
}
_OF_POINTS = ("points", "uncertain", "dropped")
_PANEL = 480  # pixels; fit for print


def write_view(path: Path, scene: Scene, selection: Selection, view: View) -> Path:
    """Write a view to a file whose ending is one of `KINDS`; see `Explorer.save`."""
    path, kind = path.expanduser(), path.suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"cannot save as {path.name!r}; allowed endings: {', '.join(KINDS)}")
    with file_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == ".csv":
            table = to_dataset(scene, selection, view).to_dataframe().reset_index()
            table.to_csv(path, index=False)
        elif kind == ".nc":
            to_dataset(scene, selection, view).to_netcdf(path)
        elif kind == ".yaml":
            path.write_text(as_yaml(scene, selection), encoding="utf-8")
        else:
            figure = draw_figure(scene, selection, view)
            path.write_bytes(render.encode_figure(figure, kind[1:], dpi=200))
    return path


def to_dataset(scene: Scene, selection: Selection, view: View) -> xr.Dataset:
    """Give the shown units with dims (network, unit), and the settings as attributes."""
    by_network = {
        name: [getattr(one, name) for one in view.networks] for name in ("network", "role", "epoch")
    }
    by_unit = dict(view.coordinates)
    if scene.has_points:
        by_unit["foreground"] = view.foreground
    ds = xr.Dataset(
        {
            name: (("network", "unit"), np.stack([getattr(one, name) for one in view.networks]))
            for name in ("gain", "entropy", "values", *(_OF_POINTS if scene.has_points else ()))
        },
        coords={name: ("network", values) for name, values in by_network.items()}
        | {name: ("unit", values) for name, values in by_unit.items()},
        attrs={
            "kdviz_version": __version__,
            "run": str(scene.run.path),
            "sample": view.sample,
            "settings": json.dumps(selection.as_parameters(), sort_keys=True),
        },
    ).rename(values="overlay")
    if scene.has_points:
        ds = ds.rename(points="knowledge_point")
    ds["entropy"].attrs["units"] = "nat"
    return ds


def as_yaml(scene: Scene, selection: Selection) -> str:
    """Write the settings as parameters of ``02_explore``; JSON values are YAML values, None is 0."""
    parameters = {"run_path": str(scene.run.path.resolve()), **selection.as_parameters()}
    lines = [f"{name}: {_to_yaml(0.0 if value is None else value)}" for name, value in parameters.items()]
    return "# kdviz rerun 02_explore -f THIS_FILE\n" + "\n".join(lines) + "\n"


def _to_yaml(value: str | int | float | list[str]) -> str:
    text = json.dumps(value)
    small = isinstance(value, float) and "e" in text and "." not in text
    return text.replace("e", ".0e") if small else text  # YAML 1.1 takes 1e-05 for a word


def draw_figure(scene: Scene, selection: Selection, view: View) -> render.Figure:
    """Draw the view as one figure, settings below."""
    canvas, looks = view.canvas, selection.looks
    titles = name_panels(selection.overlay, canvas.inside)
    kinds = titles if scene.has_points else (MAP,)
    networks, captions = {}, []
    width = 120 // (len(view.networks) + 1)  # letters that a column has room for
    for one in view.networks:
        drawn = canvas.draw_panels(one, looks, _PANEL)
        heading = textwrap.fill(f"{one.network}, epoch {one.epoch}", width)
        networks[heading] = {titles[kind]: drawn[kind] for kind in kinds}
        captions.append("\n".join(describe_counts(one, canvas.inside)))
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
    note = "\n".join([scale, ", ".join(values), *(textwrap.fill(text, 180) for text in view.notes)])
    return render.view_figure(
        canvas.draw_input(looks, _PANEL),
        networks,
        [scene.trace(one, view.sample, selection.histogram, selection.place) for one in view.networks],
        captions=captions,
        epoch=selection.epoch,
        quantity="entropy (nat)" if selection.histogram == "entropy" else "log10 gain",
        title=f"{view.sample} {view.label}".strip(),
        note=note,
        legend=canvas.legend if scene.has_points else "",
    )
