"""What a figure shows, in words: its text alternative, read from its own titles, names and captions."""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from kdviz.arguments import name_some
from kdviz.wording import say_number

_Look = tuple[str, str, str]  # colour, line and mark of a line
BAR = "<colorbar>"  # the label by which matplotlib tells axes that are a colour bar from others
_NAMED = 24  # of one list


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
        what, whose lines they hold and, where these are few, from where to where they go; the colours; the
        note.
    """
    parts = (figure, *figure.subfigs)
    axes = [axis for axis in figure.axes if axis.get_visible() and axis.get_subplotspec() is not None]
    bars = [axis for axis in figure.axes if axis.get_label() == BAR]
    pictures = [axis for axis in axes if _is_picture(axis)]
    charts = [axis for axis in axes if axis not in pictures and axis not in bars]
    legends = [*(one for part in parts for one in part.legends), *(axis.get_legend() for axis in axes)]
    lines = [text.get_text() for one in legends if one for text in one.get_texts()]
    handles = [handle for one in legends if one for handle in one.legend_handles]
    named = zip(handles, map(_flatten, lines), strict=True)
    names = {_look(one): text for one, text in named if isinstance(one, Line2D)}
    told = [
        *(part.get_suptitle() for part in parts),
        *_tell_pictures(pictures),
        *_tell_charts(charts, names),
        f"Lines: {name_some(dict.fromkeys(lines), _NAMED)}" if lines else "",
        *(_tell_colours(bar) for bar in bars if bar.get_ylabel()),
        *(part.get_supxlabel() for part in parts),
    ]
    return " ".join(f"{text.rstrip('.')}." for one in told if (text := _flatten(one)))


def _flatten(text: str) -> str:
    """Write a text in one line; what is set apart by room, by a semicolon."""
    return re.sub(r"\s+", " ", re.sub(r" {3,}", "; ", text)).strip()


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
    outcomes = {axis: [*_tell_lines(axis, names), *_tell_cells(axis)] for axis in first.values()}
    if sum(map(len, outcomes.values())) > _NAMED:  # too many to be listened to
        outcomes = {}
    shared: dict[str, list[str]] = {}
    for axis in first.values():
        sides = {
            "of": _name_side(axis, [*first.values()], "y"),
            "over": _name_side(axis, [*first.values()], "x"),
        }
        drawn = "".join(f" {word} {name}" for word, name in sides.items() if name)
        told = ", ".join(outcomes.get(axis, []))
        shared.setdefault(drawn, []).append(": ".join(filter(None, [_flatten(axis.get_title()), told])))
    for drawn, titles in shared.items():
        told = f"{len(titles)} charts{drawn}" if len(titles) > 1 else f"Chart{drawn}"
        yield ": ".join(filter(None, [told, "; ".join(filter(None, titles))]))


def _tell_lines(axis: Axes, names: Mapping[_Look, str]) -> Iterator[str]:
    """Say where named lines begin and end, and the values of named marks at each tick that has a name."""
    ends = []
    for line in axis.lines:
        name = names.get(_look(line), "")
        x, y = (np.atleast_1d(np.ma.filled(side, np.nan)) for side in line.get_data(orig=False))
        if not name or not len(y):
            continue
        for side, places, values in (("x", x, y), ("y", y, x)):
            if ticks := _list_shared_ticks(axis, side):
                nearest = np.abs(np.subtract.outer(places, getattr(axis, f"get_{side}ticks")())).argmin(1)
                yield from (f"{name} {say_number(values[at])} at {ticks[k]}" for at, k in enumerate(nearest))
                break
        else:
            if line.get_transform() == axis.transData and len(y) > 1:
                ends.append((name, say_number(y[0]), say_number(y[-1])))
            elif not str(line.get_label()).startswith("_"):  # across the whole chart: of one value
                yield f"{name} {say_number(y[0])}"
    if len({told[1:] for told in ends}) > 1 or len(ends) == 1:  # else the ends are not what differs
        yield from (f"{name} from {first} to {last}" for name, first, last in ends)


def _tell_cells(axis: Axes) -> Iterator[str]:
    """Say what is written in the cells of each row of a table, and in which where not in all."""
    rows: dict[int, dict[int, str]] = {}
    for text in axis.texts if axis.images else ():
        column, row = map(round, text.get_position())
        rows.setdefault(row, {})[column] = _flatten(text.get_text())
    columns, names = (_list_shared_ticks(axis, side) for side in "xy")
    for row, cells in rows.items():
        told = [text if len(cells) == len(columns) else f"{columns[at]} {text}" for at, text in cells.items()]
        yield f"{names[row]} {'; '.join(told)}"


def _look(line: Line2D) -> _Look:
    return to_hex(line.get_color()), str(line.get_linestyle()), str(line.get_marker())


def _list_shared_ticks(axis: Axes, side: str) -> list[str]:
    """List the names of ticks, which may stand at another of the charts that share an axis."""
    together = getattr(axis, f"get_shared_{side}_axes")().get_siblings(axis)
    listed = (_list_ticks(getattr(one, f"{side}axis")) for one in (axis, *together))
    return next((names for names in listed if any(names)), [])


def _name_side(axis: Axes, others: Sequence[Axes], side: str) -> str:
    """Name what an axis measures, or lists: if it does not say so, as those beside or below it do."""
    own, line = axis.get_subplotspec(), "rowspan" if side == "y" else "colspan"
    for one in (axis, *others):
        place = one.get_subplotspec()
        assert own is not None and place is not None
        together = place.get_gridspec() is own.get_gridspec() and getattr(place, line) == getattr(own, line)
        if together and (name := _read_side(getattr(one, f"{side}axis"))):
            return name
    return ""


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
