"""What stands above, beside and below the panels of a view, as text."""

from html import escape
from math import isnan

import ipywidgets as widgets
from traitlets import Unicode

from kdviz.render.canvas import Panel
from kdviz.render.layout import colour_stops, encode_png
from kdviz.render.looks import DETOURS, ENTROPY, MAP, POINTS, Looks, NetworkView
from kdviz.render.style import CROSS, DIAMOND, DISC
from kdviz.render.writing import Text
from kdviz.widgets.scene import View


class Described(widgets.Image):
    """A picture whose tooltip is its text alternative: ipywidgets gives an image no ``alt``, but a ``title``.

    It does so only where the description is an empty text, and an image of ipywidgets has none.
    """

    description = Unicode("").tag(sync=True)


def name_panels(overlay: str, inside: str) -> dict[str, str]:
    """Title each kind of panel; `inside` is what the foreground is called."""
    return {
        MAP: "kept (bright) or discarded (dark)" if overlay == ENTROPY else overlay.replace("_", " "),
        POINTS: "knowledge points",
        DETOURS: f"on the {inside}: held, and tried and dropped so far",
    }


def describe_counts(one: NetworkView, inside: str) -> tuple[str, ...]:
    """Say the counts of one network in lines of plain text; empty where nothing can be counted."""
    if not one.counts:
        return ()
    words = {"n_fg": inside, "n_bg": "background"}
    parts = []
    for name, where in words.items():
        count, low, high = (one.counts[f"{name}{end}"] for end in ("", "_low", "_high"))
        span = f" ({low:.0f} to {high:.0f})" if low < high else ""
        parts.append(f"{count:.0f} {where}{span}")
    ratio = one.counts["fg_ratio"]
    return *parts, "ratio undefined" if isnan(ratio) else f"ratio {ratio:.2f}"


def describe_panels(one: NetworkView, overlay: str, inside: str) -> dict[str, str]:
    """Say in a line what each kind of panel shows of one network, for whoever cannot see it."""
    numbers = {POINTS: describe_counts(one, inside), DETOURS: (f"{one.dropped.sum()} dropped",)}
    return {
        kind: ", ".join([one.network, f"epoch {one.epoch}", title, *numbers.get(kind, ())])
        for kind, title in name_panels(overlay, inside).items()
    }


def head_network(one: NetworkView, inside: str, colour: str) -> str:
    """Write the heading of a network as HTML: its name in its colour, its role and epoch, and its counts."""
    role = "" if one.role in ("", one.network) else f"{escape(one.role)}, "
    lines = [
        f'<b style="color:{colour};overflow-wrap:anywhere">{escape(one.network)}</b>',
        f"{role}epoch {one.epoch}",
        *map(escape, describe_counts(one, inside)),
    ]
    return f'<div style="line-height:1.35">{"<br>".join(lines)}</div>'


def describe_scale(one: NetworkView, overlay: str) -> str:
    """Say in a line of plain text what the colours of the map mean."""
    low, high = one.limits
    if overlay == ENTROPY:
        return f"entropy from {low:.2f} (yellow, kept) to {high:.2f} nat (dark blue, discarded)"
    return f"{overlay}: {'blue negative, red positive' if low < 0 else 'from dark blue (nothing) to yellow'}"


def send_panel(widget: Described | widgets.HTML, panel: Panel, alternative: str) -> None:
    """Show a picture, with its text alternative, or words in a widget made for them."""
    if isinstance(panel, Text):
        widget.value = panel.to_html()
    else:
        widget.value, widget.tooltip = encode_png(panel), alternative


def explain_view(view: View, looks: Looks) -> str:
    """Write what stands beside the input as HTML: sample, class, colour scale, shapes."""
    low, high = view.networks[0].limits
    stops = ", ".join(colour_stops(looks.scale((low, high)).colours))
    ends = ("negative", "positive") if low < 0 else ("nothing", "most")
    ends = (f"{low:.2f}", f"{high:.2f} nat") if looks.overlay == ENTROPY else ends
    words = ("kept", "discarded") if looks.overlay == ENTROPY else ("", "")
    inside = view.canvas.vocabulary.foreground
    shapes = {DISC: f"knowledge point on the {inside}", DIAMOND: "on the background"}
    shapes |= {CROSS: "tried and dropped"}
    counted = any(one.counts for one in view.networks)
    legend = "".join(
        f'<div><span style="color:{colour};text-shadow:0 0 1px #000,0 0 1px #000">{shape}</span> {text}</div>'
        for (colour, shape), text in shapes.items()
        if counted
    )
    edge = f'<div style="margin-top:4px">{view.canvas.edge}</div>' if view.canvas.foreground.any() else ""
    bar = f'<div style="margin-top:8px;height:12px;background:linear-gradient(to right, {stops})"></div>'
    return (
        f'<div style="line-height:1.4"><b>{escape(view.title)}</b><br>{escape(view.label)}{bar}'
        f'{_ends(*ends)}{_ends(*words)}<div style="margin-top:8px">{legend}</div>'
        f"{edge}</div>"
    )


def _ends(left: str, right: str) -> str:
    """Write two words at the two ends of a line."""
    style = "display:flex;justify-content:space-between"
    return f'<div style="{style}"><span>{left}</span><span>{right}</span></div>'


def close_whole(widget: widgets.Widget) -> None:
    """Take a widget, all inside it, and their layouts and styles out of memory."""
    for child in getattr(widget, "children", ()):
        close_whole(child)
    widget.layout.close()
    if hasattr(widget, "style"):
        widget.style.close()
    widget.close()
