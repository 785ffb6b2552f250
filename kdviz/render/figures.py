"""What networks know of some samples, as one figure for any kind of unit: a row a sample, a column a network.

Every function takes ``{title of the column: dataset}``, a dataset being one network at one layer. Of several
epochs the last is drawn; ``ds.sel(epoch=3)`` draws another.

Symbols: ``S`` samples, ``U`` units of a sample.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from kdviz.errors import MissingExtraError
from kdviz.render.canvas import Canvas, Panel, colour_values
from kdviz.render.canvases import KINDS, choose_kind
from kdviz.render.cloud import CloudCanvas
from kdviz.render.layout import Scale, choose_scale, lay_out
from kdviz.render.looks import OPAQUE, Looks
from kdviz.render.style import BACKGROUND_COLOUR, ENTROPY_COLOURS, FOREGROUND_COLOUR

if TYPE_CHECKING:
    import plotly.graph_objects

_SIZE = 320  # pixels of a panel
_FIRST = 4  # samples that are drawn where none is named
_ENTROPY = "entropy in nat (high: discarded)"
_MARKED = to_rgb(FOREGROUND_COLOUR), to_rgb(BACKGROUND_COLOUR)
_Networks = Mapping[str, xr.Dataset]


def plot_points(
    networks: Mapping[str, xr.Dataset],
    *,
    samples: xr.Dataset | None = None,
    names: Sequence[str] | None = None,
    pictures: ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """Draw inputs beside their knowledge points, with their numbers on foreground and background.

    Parameters
    ----------
    networks
        ``{title of the column: dataset}`` from :func:`kdviz.find_points`.
    samples
        ``run.samples``, which holds the pictures of images; without it images are plain grey.
    names
        Samples to draw, a row each; by default the first four.
    pictures
        Shape ``(S, H, W, 3)`` or ``(S, H, W)``, uint8: the images of these samples, instead of stored ones.
    title
        Shown above.

    Raises
    ------
    ValueError
        If a dataset lacks what is to be drawn, has several layers or units of no known kind, or a sample is
        unknown.
    """
    shown = _Shown.of(networks, samples, names, pictures)

    def draw(ds: xr.Dataset, cell: _Cell) -> tuple[Panel, str]:
        points = cell.read(ds, "knowledge_point")
        inside = int((points & cell.canvas.foreground).sum())
        return cell.canvas.draw_points(points, size=_SIZE), f"{inside} fg, {points.sum() - inside} bg"

    note = f"disc: knowledge point on the {shown.kind.inside}    diamond: on the background"
    return shown.lay_out(draw, note=f"{note}    {shown.kind.edge}", title=title)


def plot_detours(
    networks: Mapping[str, xr.Dataset],
    *,
    samples: xr.Dataset | None = None,
    names: Sequence[str] | None = None,
    pictures: ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """Draw which points of the foreground were kept to the last epoch, and which were tried and dropped.

    What is not dimmed was a point at some epoch of its dataset, epoch 0 included where it is there.

    Parameters
    ----------
    networks, samples, names, pictures, title
        As in `plot_points`; the datasets with all epochs.

    Raises
    ------
    ValueError
        As in `plot_points`.
    """
    shown = _Shown.of(networks, samples, names, pictures)

    def draw(ds: xr.Dataset, cell: _Cell) -> tuple[Panel, str]:
        found = cell.read(ds, "knowledge_point", every_epoch=True) & cell.canvas.foreground
        kept, dropped = found[-1], found.any(axis=0) & ~found[-1]
        panel = cell.canvas.draw_detours(kept, dropped, size=_SIZE)
        return panel, f"{kept.sum()} kept, {dropped.sum()} dropped"

    return shown.lay_out(draw, note="disc: kept to the end    cross: tried and dropped", title=title)


def plot_entropy(
    networks: Mapping[str, xr.Dataset],
    *,
    samples: xr.Dataset | None = None,
    names: Sequence[str] | None = None,
    pictures: ArrayLike | None = None,
    limits: tuple[float, float] | None = None,
    title: str = "",
) -> Figure:
    """Draw entropies as colours, one scale for all panels.

    Parameters
    ----------
    networks, samples, names, pictures, title
        As in `plot_points`; the datasets as measured, or from :func:`kdviz.derive_entropy`.
    limits
        Ends of the scale in nat; by default the smallest and the largest entropy drawn.

    Raises
    ------
    ValueError
        As in `plot_points`.
    """
    shown = _Shown.of(networks, samples, names, pictures)
    every = [cell.read(ds, "entropy") for ds, cells in shown.columns() for cell in cells]
    ends = limits or choose_scale(np.concatenate(every), entropies=True, label="entropy").limits

    def draw(ds: xr.Dataset, cell: _Cell) -> tuple[Panel, str]:
        return cell.canvas.draw_values(cell.read(ds, "entropy"), limits=ends, size=_SIZE), ""

    return shown.lay_out(draw, scale=Scale(ends, ENTROPY_COLOURS, _ENTROPY), title=title)


def plot_maps(
    networks: Mapping[str, xr.Dataset],
    *,
    samples: xr.Dataset | None = None,
    names: Sequence[str] | None = None,
    pictures: ArrayLike | None = None,
    methods: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw attribution maps, and entropies to compare with, every column on a scale of its own.

    What is important is bright. A map that is negative anywhere is shown from blue over white (zero) to red.

    Parameters
    ----------
    networks, samples, names, pictures, title
        As in `plot_points`. A dataset with ``attribution``, see :func:`kdviz.attribution.attribute`, gives a
        column for each of its methods; another its entropies.
    methods
        Which attribution methods, in this order; by default all.

    Raises
    ------
    ValueError
        As in `plot_points`; or if a method is unknown.
    """
    columns: dict[str, xr.Dataset] = {}
    attributed = sum("attribution" in ds for ds in networks.values())
    for name, ds in networks.items():
        if "attribution" not in ds:
            columns[name] = ds
            continue
        known = [str(method) for method in ds["attribution_method"].values]
        if unknown := [method for method in methods or () if method not in known]:
            raise ValueError(f"methods holds {', '.join(unknown)}; {name} has {', '.join(known)}")
        for method in methods or known:
            head = method.replace("_", " ")
            columns[f"{name}\n{head}" if attributed > 1 else head] = ds.sel(attribution_method=method)
    shown = _Shown.of(columns, samples, names, pictures)
    scales = {}
    for (head, ds), (_, cells) in zip(columns.items(), shown.columns(), strict=True):
        values = np.concatenate([cell.read(ds, _shown_variable(ds)) for cell in cells])
        scales[id(ds)] = choose_scale(values, entropies="attribution" not in ds, label=head)

    def draw(ds: xr.Dataset, cell: _Cell) -> tuple[Panel, str]:
        scale = scales[id(ds)]
        values = cell.read(ds, _shown_variable(ds))
        panel = cell.canvas.draw_values(values, limits=scale.limits, colours=scale.colours, size=_SIZE)
        return panel, ""

    bars = [Scale(one.limits, one.colours, turned=one.turned) for one in scales.values()]
    return shown.lay_out(draw, scale=bars, title=title)


def turntable(
    ds: xr.Dataset,
    name: str,
    *,
    azimuths: Sequence[int] = (30, 120, 210, 300),
    title: str = "",
) -> Figure:
    """Show one cloud from several sides: its shape, its entropies and its knowledge points.

    Parameters
    ----------
    ds
        One network at one layer; entropies and knowledge points are shown where it has them, of its last
        epoch.
    name
        The sample.
    azimuths
        A column each, in degrees.
    title
        Shown above.

    Raises
    ------
    ValueError
        As in `plot_points`; or if the sample is no cloud.
    """
    cell, canvas = _open_cloud(ds, name)
    sides = [Looks(opacity=1, azimuth=azimuth) for azimuth in azimuths]
    lines = {"input": [canvas.draw_input(side, _SIZE) for side in sides]}
    scale, note = None, ""
    if "entropy" in ds:
        values = cell.read(ds, "entropy")
        limits = choose_scale(values, entropies=True).limits
        scale = Scale(limits, ENTROPY_COLOURS, _ENTROPY)
        lines["entropy"] = [
            canvas.draw_values(values, limits=limits, looks=side, size=_SIZE) for side in sides
        ]
    if "knowledge_point" in ds:
        points = cell.read(ds, "knowledge_point")
        lines["points"] = [canvas.draw_points(points, side, _SIZE) for side in sides]
        note = "disc: knowledge point on the object    diamond: on the background"
    columns = [f"{azimuth:g}\u00b0" for azimuth in azimuths]
    return lay_out([*lines.values()], columns, [*lines], scale=scale, note=note, title=title)


def rotating_cloud(
    ds: xr.Dataset, name: str, *, limits: tuple[float, float] | None = None, title: str = ""
) -> "plotly.graph_objects.Figure":
    """Make a cloud that turns under the mouse, with plotly (``kdviz[interactive]``).

    Parameters
    ----------
    ds, name, title
        As in `turntable`.
    limits
        Ends of the colour scale in nat; by default the smallest and the largest entropy.

    Returns
    -------
    plotly.graph_objects.Figure
        The last expression of a cell shows it. Points of the object are larger, knowledge points yellow discs
        on it and pink diamonds around it; pointing at one tells its unit and its entropy.

    Raises
    ------
    MissingExtraError
        If plotly is not installed.
    ValueError
        As in `turntable`.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise MissingExtraError("turning clouds by hand needs plotly: install kdviz[interactive]") from error
    cell, canvas = _open_cloud(ds, name)
    places, inside, shades = canvas.cloud, canvas.foreground, canvas.greys
    found, numbers = np.zeros(len(places), bool), np.full(len(places), np.nan)
    if "knowledge_point" in ds:
        found = cell.read(ds, "knowledge_point")
    if "entropy" in ds:
        numbers = cell.read(ds, "entropy").astype(float)
        ends = limits or choose_scale(numbers, entropies=True).limits
        tints = colour_values(numbers, ends, ENTROPY_COLOURS)
        shades = np.where(np.isnan(numbers)[:, None], shades, tints)
    shades = np.where(found[:, None], np.where(inside[:, None], *_MARKED), shades)
    said = [f"unit {unit}" + ("" if np.isnan(one) else f": {one:.3f}") for unit, one in enumerate(numbers)]
    marker = {
        "size": np.where(found, 7, np.where(inside, 4, 2.5)),
        "symbol": np.where(found & ~inside, "diamond", "circle"),
        "color": [to_hex(shade) for shade in shades],
        "line": {"width": 0},
    }
    figure = graph_objects.Figure()
    lies = dict(zip("xyz", places.T, strict=True))
    figure.add_scatter3d(**lies, mode="markers", marker=marker, text=said, hoverinfo="text")
    hidden = {axis: {"visible": False} for axis in ("xaxis", "yaxis", "zaxis")}
    margin = {"l": 0, "r": 0, "b": 0, "t": 40 if title else 0}
    figure.update_layout(title=title, scene={**hidden, "aspectmode": "data"}, margin=margin)
    return figure


# -- private


@dataclass(frozen=True)
class _Cell:
    """One sample as one dataset cuts it into units."""

    name: str
    canvas: Canvas
    valid: NDArray[np.bool_]

    def read(self, ds: xr.Dataset, variable: str, *, every_epoch: bool = False) -> NDArray:
        """Read a variable of the sample, ``(U,)``, at the last epoch; or ``(epoch, U)``."""
        if variable not in ds:
            maker = {"knowledge_point": "kdviz.find_points"}.get(variable, "kdviz.derive_entropy")
            raise ValueError(f"a dataset has no {variable}, which {maker} adds")
        values = ds[variable].sel(sample=self.name)
        if every_epoch and "epoch" not in values.dims:
            raise ValueError("a dataset has one epoch only; detours need all of them")
        if not every_epoch and "epoch" in values.dims:
            values = values.isel(epoch=-1)
        if extra := {*values.dims} - {"epoch", "unit"}:
            raise ValueError(
                f"a dataset has the dimension {', '.join(map(str, extra))}; choose one with ds.sel"
            )
        return values.values[..., self.valid]


@dataclass(frozen=True)
class _Shown:
    """Datasets, and the samples of which they are drawn."""

    networks: _Networks
    samples: xr.Dataset | None
    names: Sequence[str]
    kind: type[Canvas]

    @classmethod
    def of(
        cls,
        networks: _Networks,
        samples: xr.Dataset | None,
        names: Sequence[str] | None,
        pictures: ArrayLike | None,
    ) -> "_Shown":
        if not networks:
            raise ValueError("networks is empty; give {title: dataset}")
        first = next(iter(networks.values()))
        known = [str(name) for name in first["sample"].values.ravel()]
        chosen = known[:_FIRST] if names is None else [str(name) for name in names]
        if unknown := [name for name in chosen if name not in known]:
            raise ValueError(f"names holds {', '.join(unknown)}, which the datasets do not have")
        if pictures is not None:
            images = np.asarray(pictures)
            dims = ("sample", "y_pixel", "x_pixel", "channel")[: images.ndim]
            samples = _pick(first if samples is None else samples, chosen).drop_vars(
                "thumbnail", errors="ignore"
            )
            samples = samples.assign(thumbnail=(dims, images))
        return cls(networks, samples, chosen, _kind_of(first))

    def columns(self) -> list[tuple[xr.Dataset, list[_Cell]]]:
        """Prepare the cells of every dataset."""
        return [(ds, [_open(ds, name, self.samples) for name in self.names]) for ds in self.networks.values()]

    def lay_out(
        self,
        draw: Callable[[xr.Dataset, _Cell], tuple[Panel, str]],
        *,
        scale: Scale | Sequence[Scale] | None = None,
        note: str = "",
        title: str,
    ) -> Figure:
        """Draw every cell: a panel and what stands below it; inputs first."""
        inputs = [
            (
                _open(next(iter(self.networks.values())), name, self.samples).canvas.draw_input(
                    OPAQUE, _SIZE
                ),
                "",
            )
            for name in self.names
        ]
        columns = [inputs, *([draw(ds, cell) for cell in cells] for ds, cells in self.columns())]
        lines = [list(line) for line in zip(*columns, strict=True)]
        captions = [[said for _, said in line] for line in lines]
        return lay_out(
            [[panel for panel, _ in line] for line in lines],
            ["input", *self.networks],
            self.names,
            captions=captions if any(map(any, captions)) else (),
            title=title,
            note=note,
            scale=[None, *scale] if isinstance(scale, Sequence) else scale,
        )


def _kind_of(ds: xr.Dataset) -> type[Canvas]:
    kind = choose_kind(ds)
    if kind is None:
        known = "; ".join(", ".join(one.needs) for one in KINDS)
        raise ValueError(f"the units are of no kind that can be drawn: they need the coordinates {known}")
    return kind


def _pick(ds: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    return ds.sel(sample=[*names]) if "sample" in ds.dims else ds.expand_dims("sample")


def _open(ds: xr.Dataset, name: str, samples: xr.Dataset | None) -> _Cell:
    """Prepare a sample as `ds` cuts it."""
    one = _pick(ds, [name])
    stored = one if samples is None else _pick(samples, [name])
    units = one if "valid" in one else one.assign(valid=stored["valid"])
    valid = units["valid"].values[0]
    holder = next((ds for ds in (units, stored) if "foreground" in ds), None)
    inside = np.zeros_like(valid) if holder is None else holder["foreground"].values[0]
    return _Cell(name, _kind_of(ds).of(stored, units, 0, inside), valid)


def _open_cloud(ds: xr.Dataset, name: str) -> tuple[_Cell, CloudCanvas]:
    cell = _open(ds, name, None)
    if not isinstance(cell.canvas, CloudCanvas):
        raise ValueError(f"{name} is no cloud: its units have no x, y and z")
    return cell, cell.canvas


def _shown_variable(ds: xr.Dataset) -> str:
    return "attribution" if "attribution" in ds else "entropy"
