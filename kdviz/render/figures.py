"""What networks know of some samples, as one figure for any kind of unit: a row a sample, a column a network.

Every function takes ``{title of the column: dataset}``, a dataset being one network at one layer. Of several
epochs the last is drawn; ``ds.sel(epoch=3)`` draws another.

Symbols: ``S`` samples, ``U`` units of a sample.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from kdviz.arguments import as_bytes
from kdviz.render.canvas import Canvas, Panel
from kdviz.render.canvases import choose_kind, title_samples
from kdviz.render.layout import lay_out
from kdviz.render.looks import OPAQUE, Looks
from kdviz.render.style import Scale, choose_scale

_SIZE = 320  # pixels of a panel
_FIRST = 4  # samples that are drawn where none is named
_AZIMUTHS = (30, 120, 210, 300)  # degrees
_ENTROPY = "entropy in nat (high: discarded)"


class Shown(TypedDict, total=False):
    """What the figures of networks show, as `plot_points` says."""

    samples: xr.Dataset | None
    names: Sequence[str] | None
    pictures: ArrayLike | None
    title: str


def plot_points(networks: Mapping[str, xr.Dataset], **shown: Unpack[Shown]) -> Figure:
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
        Shape ``(S, H, W, 3)`` or ``(S, H, W)``, uint8, or ``(S, C, H, W)`` of 0 to 1: the images of these
        samples, instead of stored ones.
    title
        Shown above.

    Raises
    ------
    ValueError
        If a dataset lacks what is to be drawn, has several layers or units of no known kind, or a sample is
        unknown.
    """
    sheet = _Sheet(networks, **shown)
    canvas = next(iter(sheet.columns.values()))[0].canvas

    def draw(cell: _Cell) -> tuple[Panel, str]:
        points = cell.read("knowledge_point")
        inside = int((points & cell.canvas.foreground).sum())
        told = f"{inside} {canvas.vocabulary.foreground}, {points.sum() - inside} background"
        return cell.canvas.draw_points(points, size=_SIZE), told

    return sheet.draw(draw, note=f"{canvas.legend}    {canvas.edge}")


def plot_detours(networks: Mapping[str, xr.Dataset], **shown: Unpack[Shown]) -> Figure:
    """Draw which points of the foreground were kept to the last epoch, and which were tried and dropped.

    What is not dimmed was a point at some epoch of its dataset, epoch 0 included where it is there.

    Parameters
    ----------
    networks, **shown
        As in `plot_points`; the datasets with all epochs.

    Raises
    ------
    ValueError
        As in `plot_points`.
    """
    sheet = _Sheet(networks, **shown)
    inside = next(iter(sheet.columns.values()))[0].canvas.vocabulary.foreground

    def draw(cell: _Cell) -> tuple[Panel, str]:
        found = cell.read("knowledge_point", every_epoch=True) & cell.canvas.foreground
        kept, dropped = found[-1], found.any(axis=0) & ~found[-1]
        panel = cell.canvas.draw_detours(kept, dropped, size=_SIZE)
        return panel, f"{kept.sum()} kept, {dropped.sum()} dropped"

    return sheet.draw(draw, note=f"disc: point on the {inside}, kept to the end    cross: tried and dropped")


def plot_entropy(networks: Mapping[str, xr.Dataset], **shown: Unpack[Shown]) -> Figure:
    """Draw entropies as colours, one scale for all panels from the smallest entropy to the largest.

    Parameters
    ----------
    networks, **shown
        As in `plot_points`; the datasets as measured, or from :func:`kdviz.derive_entropy`.

    Raises
    ------
    ValueError
        As in `plot_points`.
    """
    sheet = _Sheet(networks, **shown)
    every = [cell.read("entropy") for cells in sheet.columns.values() for cell in cells]
    scale = choose_scale(np.concatenate(every), entropies=True, label=_ENTROPY)

    def draw(cell: _Cell) -> tuple[Panel, str]:
        return cell.canvas.draw_values(cell.read("entropy"), scale, size=_SIZE), ""

    return sheet.draw(draw, scale=scale)


def plot_maps(networks: Mapping[str, xr.Dataset], **shown: Unpack[Shown]) -> Figure:
    """Lay attribution maps, and entropies to compare with, over inputs, every column on a scale of its own.

    What is important is bright; the input shines through, as in the app. A map that is negative anywhere is
    shown from blue over white (zero) to red.

    Parameters
    ----------
    networks, **shown
        As in `plot_points`. A dataset with ``attribution``, see :func:`kdviz.attribution.attribute`, gives a
        column for each of its methods; another its entropies.

    Raises
    ------
    ValueError
        As in `plot_points`.
    """
    columns: dict[str, xr.Dataset] = {}
    several = sum("attribution" in ds for ds in networks.values()) > 1
    for name, ds in networks.items():
        if "attribution" not in ds:
            columns[name] = ds
            continue
        for method in ds["attribution_method"].values:
            head = str(method).replace("_", " ")
            columns[f"{name}\n{head}" if several else head] = ds.sel(attribution_method=method)
    sheet = _Sheet(columns, **shown)
    drawn = {name: "attribution" if "attribution" in ds else "entropy" for name, ds in columns.items()}
    scales = {}
    for name, cells in sheet.columns.items():
        values = np.concatenate([cell.read(drawn[name]) for cell in cells])
        scales[name] = choose_scale(values, entropies=drawn[name] == "entropy")

    def draw(cell: _Cell) -> tuple[Panel, str]:
        values, scale = cell.read(drawn[cell.column]), scales[cell.column]
        return cell.canvas.draw_values(values, scale, Looks(), size=_SIZE), ""

    return sheet.draw(draw, scale=[None, *scales.values()])


def turntable(ds: xr.Dataset, name: str, *, title: str = "") -> Figure:
    """Show one cloud from four sides: its shape, its entropies and its knowledge points.

    Parameters
    ----------
    ds
        One network at one layer; entropies and knowledge points are shown where it has them, of its last
        epoch.
    name
        The sample.
    title
        Shown above.

    Raises
    ------
    ValueError
        As in `plot_points`; or if the sample is no cloud.
    """
    cell = _open_cell("the dataset", ds, name)
    canvas = cell.canvas
    if not canvas.turns:
        raise ValueError(f"{name} is no cloud: its units have no x, y and z")
    sides = [Looks(opacity=1, azimuth=azimuth) for azimuth in _AZIMUTHS]
    lines = {"input": [canvas.draw_input(side, _SIZE) for side in sides]}
    scale, note = None, ""
    if "entropy" in ds:
        values = cell.read("entropy")
        scale = choose_scale(values, entropies=True, label=_ENTROPY)
        lines["entropy"] = [canvas.draw_values(values, scale, side, _SIZE) for side in sides]
    if "knowledge_point" in ds:
        points, note = cell.read("knowledge_point"), canvas.legend
        lines["points"] = [canvas.draw_points(points, side, _SIZE) for side in sides]
    columns = [f"{azimuth}\u00b0" for azimuth in _AZIMUTHS]
    return lay_out([*lines.values()], columns, [*lines], scale=scale, note=note, title=title)


# -- private


@dataclass(frozen=True)
class _Cell:
    """One sample as the dataset of a column cuts it into units."""

    column: str
    name: str
    ds: xr.Dataset
    canvas: Canvas
    valid: NDArray[np.bool_]

    def read(self, variable: str, *, every_epoch: bool = False) -> NDArray:
        """Read a variable of the sample, ``(U,)``, at the last epoch; or ``(epoch, U)``."""
        if variable not in self.ds:
            maker = "find_points" if variable == "knowledge_point" else "derive_entropy"
            raise ValueError(f"{self.column!r} has no {variable}, which kdviz.{maker} adds")
        values = self.ds[variable].sel(sample=self.name)
        if "epoch" in values.dims and not every_epoch:
            values = values.isel(epoch=-1)
        wanted = ("epoch", "unit") if every_epoch else ("unit",)
        if {*values.dims} != {*wanted}:
            dims = ", ".join(map(str, values.dims))
            raise ValueError(
                f"{variable} of {self.column!r} has dimensions {dims}; needed: {', '.join(wanted)}"
            )
        return values.values[..., self.valid]


class _Sheet:
    """A figure to be drawn: every sample as the dataset of every column cuts it into units."""

    def __init__(
        self,
        networks: Mapping[str, xr.Dataset],
        *,
        samples: xr.Dataset | None = None,
        names: Sequence[str] | None = None,
        pictures: ArrayLike | None = None,
        title: str = "",
    ) -> None:
        if not networks:
            raise ValueError("networks is empty; pass {title: dataset}")
        first = next(iter(networks.values()))
        whole = first if samples is None else samples
        known = [str(name) for name in first["sample"].values.ravel()]
        self.names = known[:_FIRST] if names is None else [str(name) for name in names]
        if unknown := [name for name in self.names if name not in known]:
            raise ValueError(f"names holds {', '.join(unknown)}, which the datasets do not have")
        if pictures is not None:
            images = as_bytes(pictures)
            dims = ("sample", "y_pixel", "x_pixel", "channel")[: images.ndim]
            stored = _pick(whole, self.names)
            samples = stored.drop_vars("thumbnail", errors="ignore").assign(thumbnail=(dims, images))
        self.columns = {
            column: [_open_cell(column, ds, name, samples) for name in self.names]
            for column, ds in networks.items()
        }
        titles = title_samples(whole, classes=True)
        self.titles = [titles.get(name, name) for name in self.names]
        self.title = title

    def draw(
        self,
        draw: Callable[[_Cell], tuple[Panel, str]],
        *,
        scale: Scale | Sequence[Scale | None] | None = None,
        note: str = "",
    ) -> Figure:
        """Draw every cell, a panel and what stands below it; inputs first."""
        lines, captions = [], []
        for cells in zip(*self.columns.values(), strict=True):
            drawn = [draw(cell) for cell in cells]
            lines.append([cells[0].canvas.draw_input(OPAQUE, _SIZE), *(panel for panel, _ in drawn)])
            captions.append(["", *(said for _, said in drawn)])
        said = captions if any(map(any, captions)) else ()
        heads = ["input", *self.columns]
        return lay_out(lines, heads, self.titles, captions=said, scale=scale, note=note, title=self.title)


def _open_cell(column: str, ds: xr.Dataset, name: str, samples: xr.Dataset | None = None) -> _Cell:
    kind = choose_kind(ds)
    one = _pick(ds, [name])
    stored = one if samples is None else _pick(samples, [name])
    units = one if "valid" in one else one.assign(valid=stored["valid"])
    valid = units["valid"].values[0]
    holder = next((held for held in (units, stored) if "foreground" in held), None)
    inside = np.zeros_like(valid) if holder is None else holder["foreground"].values[0]
    return _Cell(column, name, ds, kind.of(stored, units, 0, inside), valid)


def _pick(ds: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    return ds.sel(sample=[*names]) if "sample" in ds.dims else ds.expand_dims("sample")
