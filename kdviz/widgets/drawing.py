"""A view as pictures and text: which function of `kdviz.render` draws which panel."""

from html import escape

from kdviz import render
from kdviz.widgets.scene import ENTROPY, NetworkView, View

MAP, POINTS, DETOURS = "map", "points", "detours"


def draw_network(
    view: View, one: NetworkView, overlay: str, opacity: float, size: int
) -> dict[str, render.Picture]:
    """Draw the panels of one network, by the kind of panel."""
    grid = {"rows": view.rows, "cols": view.cols, "size": size}
    return {
        MAP: render.draw_values(
            view.picture,
            one.values,
            view.foreground,
            limits=one.limits,
            colours=colours_of(overlay),
            opacity=opacity,
            **grid,
        ),
        POINTS: render.draw_points(view.picture, one.points, view.foreground, **grid),
        DETOURS: render.draw_detours(view.picture, one.points, one.dropped, view.foreground, **grid),
    }


def colours_of(overlay: str) -> str:
    """Name the colour map: sequential for entropies, diverging for signed maps."""
    return render.ENTROPY_COLOURS if overlay == ENTROPY else render.SIGNED_COLOURS


def name_panels(overlay: str) -> dict[str, str]:
    """Title each kind of panel."""
    return {
        MAP: "kept (bright) or discarded (dark)" if overlay == ENTROPY else overlay.replace("_", " "),
        POINTS: "knowledge points",
        DETOURS: "on the object: held, and tried and dropped so far",
    }


def describe_counts(one: NetworkView) -> tuple[str, ...]:
    """Say the counts of one network in lines of plain text; empty where nothing can be counted."""
    if not one.counts:
        return ()
    words = {"n_fg": "object", "n_bg": "background"}
    parts = []
    for name, where in words.items():
        count, low, high = (one.counts[f"{name}{end}"] for end in ("", "_low", "_high"))
        span = f" ({low:.0f} to {high:.0f})" if low < high else ""
        parts.append(f"{count:.0f} {where}{span}")
    return *parts, f"ratio {one.counts['fg_ratio']:.2f}"


def head_network(one: NetworkView) -> str:
    """Write the heading of a network as HTML: its role in its colour, its epoch, its name and its counts."""
    small = "opacity:0.6;font-size:0.85em"
    name = "" if one.network == one.role else f'<span style="{small}">{escape(one.network)}</span>'
    lines = [
        f'<b style="color:{render.ROLE_COLOURS[one.role]}">{escape(one.role)}</b> epoch {one.epoch} {name}',
        *map(escape, describe_counts(one)),
    ]
    return f'<div style="line-height:1.35;min-height:5.4em">{"<br>".join(lines)}</div>'


def describe_scale(one: NetworkView, overlay: str) -> str:
    """Say in a line of plain text what the colours of the map mean."""
    low, high = one.limits
    if overlay == ENTROPY:
        return f"entropy from {low:.2f} (yellow, kept) to {high:.2f} nat (dark blue, discarded)"
    return f"{overlay}: blue negative, red positive"


def explain_view(view: View, overlay: str) -> str:
    """Write what stands beside the input as HTML: sample, class, colour scale, shapes."""
    low, high = view.networks[0].limits
    stops = ", ".join(render.colour_stops(colours_of(overlay)))
    ends = (f"{low:.2f}", f"{high:.2f} nat") if overlay == ENTROPY else ("negative", "positive")
    words = ("kept", "discarded") if overlay == ENTROPY else ("", "")
    shapes = (
        (render.FOREGROUND_COLOUR, "&#9679;", "knowledge point on the object"),
        (render.BACKGROUND_COLOUR, "&#9670;", "on the background"),
        (render.DROPPED_COLOUR, "&#10005;", "tried and dropped"),
    )
    counted = any(one.counts for one in view.networks)
    legend = "".join(
        f'<div><span style="color:{colour};text-shadow:0 0 1px #000,0 0 1px #000">{shape}</span> {text}</div>'
        for colour, shape, text in shapes
        if counted
    )
    edge = '<div style="margin-top:4px">white line: edge of the object</div>' if view.foreground.any() else ""
    bar = f'<div style="margin-top:8px;height:12px;background:linear-gradient(to right, {stops})"></div>'
    return (
        f'<div style="line-height:1.4"><b>{escape(view.sample)}</b><br>{escape(view.label)}{bar}'
        f'{_ends(*ends)}{_ends(*words)}<div style="margin-top:8px">{legend}</div>'
        f"{edge}</div>"
    )


def _ends(left: str, right: str) -> str:
    """Write two words at the two ends of a line."""
    style = "display:flex;justify-content:space-between"
    return f'<div style="{style}"><span>{left}</span><span>{right}</span></div>'
