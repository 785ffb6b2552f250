"""What a figure shows, in words: its text alternative, read from its own titles, names and captions."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from kdviz.arguments import name_some
from kdviz.wording import say_interval, say_number

_Look = tuple[str, str, str]  # colour, line and mark of a line
BAR = "<colorbar>"  # the label by which matplotlib tells axes that are a colour bar from others
_NAMED = 24  # of one list
_HALF = 0.5  # of the way from a row to the next, which are 1 apart
_SIDES = ("above 0", "below 0", "not clear of 0", "without interval")
_EXACT = 1e-9  # of a number, left after the length of a bar is subtracted and added


def describe_figure(figure: Figure) -> str:
    """Say in sentences what a figure shows, for whoever cannot see it.

    Figures of kdviz carry this text wherever a notebook shows them; pages written from it give it to
    their pictures as ``alt``.

    Parameters
    ----------
    figure
        Of pictures in rows and columns, of charts, or of both.

    Returns
    -------
    str
        The title; the columns of pictures and, by row, what stands below them; what the charts draw over
        what, from where to where named lines go, and what the cells of tables say, where these are few; which
        intervals lie clear of a drawn 0, each where these are few, else their number; whose lines they are;
        the colours; the note.
    """
    parts = [*_list_parts(figure)]
    axes = [axis for axis in figure.axes if axis.get_visible() and axis.get_subplotspec() is not None]
    bars = [axis for axis in figure.axes if axis.get_label() == BAR]
    pictures = [axis for axis in axes if _is_picture(axis)]
    charts = [axis for axis in axes if axis not in pictures and axis not in bars]
    legends = [*(one for part in parts for one in part.legends), *(axis.get_legend() for axis in axes)]
    lines = [text.get_text() for one in legends if one for text in one.get_texts()]
    handles = [handle for one in legends if one for handle in one.legend_handles]
    names: dict[_Look, str] = {}
    for handle, text in zip(handles, map(_flatten, lines), strict=True):
        if isinstance(handle, Line2D):  # of two lines that look alike, neither
            names[_look(handle)] = text if names.get(_look(handle), text) == text else ""
    told = [
        *(part.get_suptitle() for part in parts),
        *_tell_pictures(pictures),
        *_tell_charts(charts, names),
        f"Lines: {name_some(dict.fromkeys(lines), _NAMED)}" if lines else "",
        *(_tell_colours(bar) for bar in bars if bar.get_ylabel()),
        *(part.get_supxlabel() for part in parts),
    ]
    return " ".join(f"{text.rstrip('.')}." for one in told if (text := _flatten(one)))


def _list_parts(figure: Figure | SubFigure) -> Iterator[Figure | SubFigure]:
    """List a figure and the figures within."""
    yield figure
    for part in figure.subfigs:
        yield from _list_parts(part)


def _flatten(text: str) -> str:
    """Write a text in one line; what is set apart by room, or ends a line with some, by a semicolon."""
    return re.sub(r"\s+", " ", re.sub(r" {3,}| (?=\n)", "; ", text)).strip()


def _is_picture(axis: Axes) -> bool:
    ticks = len(axis.get_xticks()) or len(axis.get_yticks())
    return not ticks and not any(spine.get_visible() for spine in axis.spines.values())


def _tell_pictures(axes: Sequence[Axes]) -> Iterator[str]:
    """Name the columns, then every row, with what stands below its pictures."""
    grid: dict[tuple[int, int], dict[int, Axes]] = {}
    for axis in axes:
        place = axis.get_subplotspec()
        assert place is not None
        grid.setdefault((id(place.get_gridspec()), place.rowspan.start), {})[place.colspan.start] = axis
    columns = {at: _flatten(axis.get_title()) for row in [*grid.values()][:1] for at, axis in row.items()}
    if named := [name for name in columns.values() if name]:
        yield f"Pictures in {len(named)} columns: {'; '.join(named)}"
    for row in grid.values():
        below = {at: _flatten(axis.get_xlabel()) for at, axis in row.items()}
        if name := next((_flatten(axis.get_ylabel()) for axis in row.values() if axis.get_ylabel()), ""):
            yield f"Row {name}"
        yield "; ".join(f"{columns.get(at, '')}: {text}" for at, text in below.items() if text)


def _tell_charts(axes: Sequence[Axes], names: Mapping[_Look, str]) -> Iterator[str]:
    """Say what is drawn over what, once for all charts that share it, with titles and outcomes of these.

    `names` of lines by their looks.
    """
    first: dict[tuple[object, ...], Axes] = {}
    for axis in axes:  # a second scale above a chart is no chart
        place = axis.get_subplotspec()
        assert place is not None
        first.setdefault((id(place.get_gridspec()), place.num1), axis)
    outcomes: dict[Axes, list[str]] = {
        axis: [*_tell_cells(axis)] if _lists_names(axis) else [*_tell_lines(axis, names)]
        for axis in first.values()
    }
    if sum(map(len, outcomes.values())) > _NAMED:  # too many to be listened to
        outcomes = {}
    intervals = {axis: _read_intervals(axis, [*first.values()], names) for axis in first.values()}
    for axis, told in _tell_intervals(intervals):
        outcomes.setdefault(axis, []).append(told)
    shared: dict[str, list[str]] = {}
    for axis in first.values():
        sides = {
            "of": _name_side(axis, [*first.values()], "y"),
            "over": _name_side(axis, [*first.values()], "x"),
        }
        drawn = "".join(f" {word} {name}" for word, name in sides.items() if name)
        title, told = _flatten(axis.get_title()), "; ".join(outcomes.get(axis, []))
        shared.setdefault(drawn, []).append(f"{title} ({told})" if title and told else title or told)
    for drawn, titles in shared.items():
        told = f"{len(titles)} charts{drawn}" if len(titles) > 1 else f"Chart{drawn}"
        yield ": ".join(filter(None, [told, "; ".join(filter(None, titles))]))


def _tell_lines(axis: Axes, names: Mapping[_Look, str]) -> Iterator[str]:
    """Say where named lines begin and end, unless all do so alike, and where named levels lie."""
    ends = []
    for line in axis.lines:
        own = str(line.get_label())
        name = names.get(_look(line), "") if own.startswith("_") else _flatten(own)
        x, y = _read_dots(line)
        known = np.isfinite(x) & np.isfinite(y)
        first, *_, last = [say_number(value) for value in y[known]] if known.sum() > 1 else ("", "")
        if not name or not first:
            continue
        if line.get_transform() is axis.transData:
            ends.append((name, first, last))
        elif line.get_transform() is axis.get_yaxis_transform(which="grid"):
            yield f"{name} {first}"
    if len({told[1:] for told in ends}) > 1 or len(ends) == 1:
        yield from (f"{name} from {first} to {last}" for name, first, last in ends)


class _Interval(NamedTuple):
    row: str
    line: str  # whose; empty if nobody says so
    value: float
    low: float
    high: float

    @property
    def side(self) -> str:
        """Where all of it lies, but for what drawing leaves of a 0."""
        if not np.isfinite([self.low, self.high]).all():
            return _SIDES[-1]
        least = _EXACT * max(map(abs, self[2:]))
        return _SIDES[0 if self.low > least else 1 if self.high < -least else 2]


def _read_intervals(axis: Axes, others: Sequence[Axes], names: Mapping[_Look, str]) -> list[_Interval]:
    """Read dots with bars to either side: of rows that have names, along a side on which 0 is marked.

    None at all if one of them cannot be read.
    """
    found: list[_Interval] = []
    bars = [one for one in axis.containers if isinstance(one, ErrorbarContainer)]
    for at, side, across in ((0, "x", "y"), (1, "y", "x")):
        drawn = [one for one in bars if getattr(one, f"has_{side}err")]
        rows = _place_rows(axis, others, across) if drawn and _marks_zero(axis, side) else {}
        for one in drawn if rows else ():
            own = str(one.get_label())
            name = names.get(_look(one.lines[0]), "") if own.startswith("_") else _flatten(own)
            read = _read_bars(axis, one, at)
            for dot, low, high in read or ():
                here = [row for place, row in rows.items() if abs(dot[1 - at] - place) < _HALF]
                found.append(_Interval(here[0] if len(here) == 1 else "", name, dot[at], low, high))
            if read is None or not all(told.row for told in found):
                return []
    return found


def _read_bars(axis: Axes, drawn: ErrorbarContainer, at: int) -> list[tuple[np.ndarray, float, float]] | None:
    """Read dots that lie somewhere, each with the ends of its bar along x (0) or y (1); None if in doubt."""
    line, caps, collections = drawn.lines
    arrows = any(cap.get_marker() not in ("|", "_") for cap in caps)  # who knows how far these go
    if (
        arrows
        or len(collections) != 1
        or line not in axis.lines
        or line.get_transform() is not axis.transData
    ):
        return None
    dots = np.transpose([*_read_dots(line)])
    ends = [np.asarray(path.vertices)[:, at] for path in collections[0].get_paths()]
    if len(ends) != len(dots) or any(len(pair) != 2 for pair in ends):
        return None
    return [(dot, *pair) for dot, pair in zip(dots, ends, strict=True) if np.isfinite(dot).all()]


def _read_dots(line: Line2D) -> Iterator[np.ndarray]:
    for side in line.get_data(orig=False):
        yield np.atleast_1d(np.ma.filled(side, np.nan))


def _marks_zero(axis: Axes, side: str) -> bool:
    """Tell whether a line across the axes stands at 0 of a side."""
    across = axis.get_xaxis_transform(which="grid") if side == "x" else axis.get_yaxis_transform(which="grid")
    lines = [line for line in axis.lines if line.get_transform() is across]
    return any(not np.any(getattr(line, f"get_{side}data")(orig=False)) for line in lines)


def _place_rows(axis: Axes, others: Sequence[Axes], side: str) -> dict[float, str]:
    """Name places along a side, by the ticks of a chart beside or below that stand at the same places."""
    places = [float(place) for place in getattr(axis, f"{side}axis").get_ticklocs()]
    for one in _list_neighbours(axis, others, side):
        ticks = getattr(one, f"{side}axis")
        names = _list_ticks(ticks)
        if [*ticks.get_ticklocs()] == places and len(names) == len(places) and any(names):
            return dict(zip(places, names, strict=True))
    return {}


def _tell_intervals(every: Mapping[Axes, Sequence[_Interval]]) -> Iterator[tuple[Axes, str]]:
    """Say of each chart which intervals lie on which side of 0: one by one, or by line or row."""
    few = sum(map(len, every.values())) <= _NAMED
    several = {axis: len({one.line for one in found}) > 1 for axis, found in every.items()}
    short = sum(len(_group(found, "row")) for found in every.values()) <= _NAMED
    for axis, found in every.items():
        if few:
            for side, some in _group(found, "side").items():
                told = [
                    " ".join(filter(None, [one.row, several[axis] * one.line, say_interval(*one[2:])]))
                    for one in some
                ]
                yield axis, f"{side}: {', '.join(told)}"
            continue
        key = "row" if short and not several[axis] else "line"
        for name, some in _group(found, key).items():
            counts = ", ".join(f"{len(one)} {side}" for side, one in _group(some, "side").items())
            low, high = (say_number(end(one.value for one in some)) for end in (min, max))
            whose = f"{name or 'others'}: " if key == "row" or several[axis] else ""
            yield axis, f"{whose}{counts}, from {low} to {high}"


def _group(found: Sequence[_Interval], key: str) -> dict[str, list[_Interval]]:
    groups: dict[str, list[_Interval]] = {side: [] for side in _SIDES} if key == "side" else {}
    for one in found:
        groups.setdefault(getattr(one, key), []).append(one)
    return {name: some for name, some in groups.items() if some}


def _lists_names(axis: Axes) -> bool:
    """Tell whether places along a side stand for names, not for numbers."""
    return any(isinstance(side.get_major_locator(), FixedLocator) for side in (axis.xaxis, axis.yaxis))


def _tell_cells(axis: Axes) -> Iterator[str]:
    """Say what is written in the cells of a table whose rows and columns have names."""
    columns, names = (_list_shared_ticks(axis, side) for side in "xy")
    rows: dict[str, list[tuple[int, str]]] = {}
    for text in axis.texts if axis.images and all(columns) and all(names) else ():
        column, row = text.get_position()
        inside = column in range(len(columns)) and row in range(len(names))
        if inside and text.get_transform() is axis.transData:
            rows.setdefault(names[int(row)], []).append((int(column), _flatten(text.get_text())))
    for name, cells in rows.items():
        yield f"{name}: {', '.join(f'{columns[column]} {told}' for column, told in sorted(cells))}"


def _look(line: Line2D) -> _Look:
    return to_hex(line.get_color()), str(line.get_linestyle()), str(line.get_marker())


def _list_shared_ticks(axis: Axes, side: str) -> list[str]:
    """List the names of ticks, which may stand at another of the charts that share an axis."""
    together = getattr(axis, f"get_shared_{side}_axes")().get_siblings(axis)
    listed = (_list_ticks(getattr(one, f"{side}axis")) for one in (axis, *together))
    return next((names for names in listed if any(names)), [])


def _name_side(axis: Axes, others: Sequence[Axes], side: str) -> str:
    """Name what an axis measures, or lists: if it does not say so, as those beside or below it do."""
    told = (_read_side(getattr(one, f"{side}axis")) for one in _list_neighbours(axis, others, side))
    return next(filter(None, told), "")


def _list_neighbours(axis: Axes, others: Sequence[Axes], side: str) -> Iterator[Axes]:
    """List an axis, and those of its row (``y``) or column (``x``)."""
    own, line = axis.get_subplotspec(), "rowspan" if side == "y" else "colspan"
    for one in (axis, *others):
        place = one.get_subplotspec()
        assert own is not None and place is not None
        if place.get_gridspec() is own.get_gridspec() and getattr(place, line) == getattr(own, line):
            yield one


def _read_side(axis: Axis) -> str:
    label, listed = axis.get_label_text(), name_some(filter(None, _list_ticks(axis)), _NAMED)
    return _flatten(f"{label} ({listed})" if listed and label else label or listed)


def _list_ticks(axis: Axis) -> list[str]:
    """List the names of ticks that have some, in their order; those of numbers have none."""
    if not isinstance(axis.get_major_locator(), FixedLocator):
        return []
    return [_flatten(text.get_text()) for text in axis.get_ticklabels()]


def _tell_colours(bar: Axes) -> str:
    low, high = sorted(bar.get_ylim())
    return f"Colours: {bar.get_ylabel()}, from {low:.2g} to {high:.2g}"
