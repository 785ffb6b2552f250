"""Words as HTML, as pixels and on axes: what is there is what the values say."""

import ast
import html
import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text as Writing

import kdviz
from kdviz import render
from kdviz.render import charts, layout, style, writing
from kdviz.render.text import note_word

WORDS = ["a", "very", "<script>alert('&')</script>", "film", "."]
INSIDE = np.array([False, True, False, False, True])
VALUES = np.array([0.0, 0.25, 1.0, 7.0, np.nan])
YELLOW, PINK, BLUE = style.DISC.colour, style.DIAMOND.colour, style.CROSS.colour


def spans(text: writing.Text) -> list[tuple[str, dict[str, str], str]]:
    """Read the HTML of a text as a browser would: words, their styles, what they say on hover."""
    found = []
    for span in ElementTree.fromstring(text.to_html()).iter("span"):
        style = dict(part.split(":", 1) for part in span.get("style").split(";"))
        found.append((span.text, style, span.get("title", "")))
        assert list(span) == [], "a word holds no markup"
    return found


def text_of(words: list[str], inside: np.ndarray) -> render.WordCanvas:
    return render.WordCanvas({"token": np.array(words)}, inside)


def values(
    opacity: float = 1.0, limits: tuple[float, float] = (0.0, 1.0), colours: str = "viridis_r"
) -> writing.Text:
    looks = render.Looks(opacity=opacity)
    return text_of(WORDS, INSIDE).draw_values(VALUES, render.Scale(limits, colours), looks)


# -- HTML


def test_word_values__a_word_has_the_colour_of_its_value() -> None:
    found = spans(values())
    scale = colormaps["viridis_r"]
    assert [style.get("background") for _, style, _ in found] == [
        *(to_hex(scale(place)) for place in (0.0, 0.25, 1.0, 1.0)),
        None,
    ]
    assert [word for word, _, _ in found] == WORDS
    assert ["underline" in style.get("text-decoration", "") for _, style, _ in found] == INSIDE.tolist()


def test_word_values__opacity_mixes_with_white_and_signed_maps_have_their_colours() -> None:
    dark = np.array(to_rgb(spans(values(colours="RdBu_r"))[0][1]["background"]))
    assert to_hex(dark) == to_hex(colormaps["RdBu_r"](0.0))
    half = np.array(to_rgb(spans(values(colours="RdBu_r", opacity=0.5))[0][1]["background"]))
    np.testing.assert_allclose(half, (1 + dark) / 2, atol=1 / 255)
    assert to_hex(spans(values(opacity=0.0))[0][1]["background"]) == "#ffffff"


@pytest.mark.parametrize("colours", ["viridis_r", "RdBu_r"])
def test_word_values__letters_are_read_on_every_colour(colours: str) -> None:
    places = np.linspace(0, 1, 101)
    text = text_of(["word"] * 101, np.zeros(101, bool)).draw_values(places, render.Scale((0.0, 1.0), colours))

    def light(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    for word in text.words:
        low, high = sorted((light(word.fill), light(word.ink)))
        assert high / low >= 4.5


def test_html__escapes_words_and_notes() -> None:
    said = ['"><img src=x>', "", "a & b", "", ""]
    words = zip(text_of(WORDS, INSIDE).draw_input().words, said, strict=True)
    text = writing.Text(tuple(replace(word, note=note) for word, note in words))
    assert "<script>" not in text.to_html() and "<img" not in text.to_html()
    assert [(word, note) for word, _, note in spans(text)] == list(zip(WORDS, said, strict=True))


def test_word_points__discs_diamonds_and_pale_rest() -> None:
    found = spans(text_of(WORDS, INSIDE).draw_points(np.array([1, 1, 0, 0, 1], bool)))
    assert [word[0] if "\xa0" in word else "" for word, _, _ in found] == ["◆", "●", "", "", "●"]
    assert [style.get("background") for _, style, _ in found] == [PINK, YELLOW, None, None, YELLOW]
    assert ["outline" in style for _, style, _ in found] == [True, True, False, False, True]
    assert found[2][1]["color"] == found[3][1]["color"] == "#767676"
    assert found[0][0] == "◆\xa0a", "the mark does not part from its word at the end of a line"


def test_word_detours__discs_for_held_crosses_for_dropped_nothing_on_the_background() -> None:
    points, dropped = np.array([1, 1, 0, 0, 0], bool), np.array([0, 0, 0, 0, 1], bool)
    found = spans(text_of(WORDS, INSIDE).draw_detours(points, dropped))
    assert [word for word, _, _ in found] == ["a", "●\xa0very", *WORDS[2:4], "✕\xa0."]
    assert [style.get("background") for _, style, _ in found] == [None, YELLOW, None, None, BLUE]


def test_note_word__says_the_numbers_and_what_a_word_is() -> None:
    assert note_word(-1.23456, 0.01234, "foreground", True, False) == (
        "entropy -1.235 nat, gain 0.0123, foreground, knowledge point"
    )
    assert note_word(0.5, 20.0, "background", False, True) == (
        "entropy 0.500 nat, gain 20, background, too close to the threshold to call"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: values(limits=(1.0, 1.0)), "limits are 1.0 and 1.0; the first must be below"),
        (
            lambda: text_of(WORDS, INSIDE).draw_values(VALUES[:4], render.Scale((0, 1))),
            r"values has shape \(4,\), the sample needs \(5,\)",
        ),
        (lambda: text_of(WORDS, INSIDE).draw_points(VALUES), "points must be bool, got float64"),
        (lambda: text_of(WORDS, INSIDE).draw_detours(INSIDE, INSIDE[:1]), r"dropped has shape \(1,\)"),
    ],
)
def test_words__refuse_what_does_not_fit(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# -- figures


@pytest.mark.parametrize("inches", [2.0, 6.0])
def test_show_on__letters_fill_their_boxes_whatever_the_size(inches: float) -> None:
    figure = Figure(figsize=(inches, inches), dpi=200)
    renderer = FigureCanvasAgg(figure).get_renderer()
    axis = figure.add_axes((0, 0, 1, 1))
    words = ["unforgettable", "mess", "at", "best"]
    text_of(words, np.zeros(4, bool)).draw_values([0.0, 0.4, 0.6, 1.0], render.Scale((0, 1))).show_on(
        axis, 14.0
    )
    figure.draw(renderer)
    boxes = [one for one in axis.patches if isinstance(one, Rectangle)]
    letters = {one.get_text(): one for one in axis.artists + axis.texts if hasattr(one, "get_text")}
    assert len(boxes) == len(words)
    for word, box in zip(words, boxes, strict=True):
        inner, outer = letters[word].get_window_extent(renderer), box.get_window_extent(renderer)
        assert outer.x0 < inner.x0 and inner.x1 < outer.x1 + 1
        assert inner.width > 0.6 * outer.width
        assert box.get_facecolor()[:3] == to_rgb(
            to_hex(colormaps["viridis_r"](dict(zip(words, (0, 0.4, 0.6, 1.0), strict=True))[word]))
        )


def test_view_figure__takes_words_for_pictures() -> None:
    text = text_of(["good", "film"], np.array([True, False])).draw_points(np.array([True, False]))
    trace = charts.Trace(
        "teacher",
        style.style_networks({"teacher": "teacher"})["teacher"],
        None,
        np.array([0.0, 1.0, np.nan]),
    )
    figure = layout.view_figure(
        text_of(["good", "film"], np.array([True, False])).draw_input(),
        {"teacher": {"points": text}},
        charts.Charts([trace], 0, "nat", render.WordCanvas.vocabulary),
        title="",
        note="",
    )
    svg = layout.encode_figure(figure, "svg").decode()
    assert ">●\xa0good<" in svg and svg.count(">film<") == 2
    assert ">words of this text<" in svg


# -- what the user wrote is written as it is

ODD = ["$x$", "$\\frac$", "a$b", "$$", "\\$5 and $6", "cash$_{", "<b>&$x_1$"]


def texts_of(figure: Figure, kind: str) -> str:
    """Draw in a format; what it holds as text where it keeps text as text."""
    drawn = layout.encode_figure(figure, kind)
    return html.unescape(drawn.decode()) if kind == "svg" else ""


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_figures__no_text_is_read_as_mathematics(name: str, kind: str) -> None:
    canvas, picture = text_of([name, "b"], np.array([True, False])), np.zeros((4, 4, 3), np.uint8)
    words = canvas.draw_input()
    ends = ("", "_low", "_high")
    columns = dict.fromkeys((f"{one}{end}" for one in ("n_fg", "n_bg", "fg_ratio") for end in ends), 0.5)
    counts = pd.DataFrame({"role": "student"} | columns, index=pd.Index([0, 1], name="epoch"))
    trace = charts.Trace(name, style.ROLE_STYLES["student"], counts, np.array([0.1, 0.5]))
    shown = charts.Charts([trace], 1, "entropy", canvas.vocabulary)
    around, names = {"title": name, "note": name}, [[name, ""]]
    scale = render.Scale((0.0, 1.0), label=name)
    layers = pd.DataFrame(
        {f"{side}{end}": [1.0] for side in ("foreground", "background") for end in ("", "_error")},
        index=[name],
    )
    dots = {"metric": [name], "layer": [name], "setting": [name], "seed": [0], "supporting_sign": [1]}
    for column in ("difference", "student", "baseline"):
        dots |= {column: [0.5], f"{column}_low": [0.1], f"{column}_high": [0.9]}
    dots = pd.DataFrame(dots)
    figures = [
        layout.lay_out([[picture, words]], [name, "b"], [name], **around, captions=names, scale=scale),
        layout.view_figure(words, {name: {name: words}}, shown, **around),
        charts.view_charts(shown),
        render.count_curves({name: [counts]}, title=name),
        render.layer_curves({name: layers}, title=name),
        render.difference_dots(dots, title=name),
        render.setting_dots(dots, title=name),
        render.similarity_table(pd.DataFrame({name: [0.5]}, index=[name]), title=name),
        render.removal_curves([0, 1], {name: [0.1, 0.2]}, {name: [0.2, 0.1]}, title=name),
    ]  # fmt: skip
    for figure in figures:
        told = texts_of(figure, kind)
        assert kind != "svg" or name in told
        assert not any(text.get_parse_math() for text in figure.findobj(Writing))


def test_sheet__is_what_every_figure_is_drawn_on() -> None:
    """Found by reading all modules: nothing else makes a figure, and nothing writes around it."""
    for path in Path(kdviz.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called.split(".")[-1] not in ("Figure", "figure", "plot_surface", "use"), (
                    f"{path}: {called}"
                )
            elif isinstance(node, ast.Import | ast.ImportFrom):
                assert "pyplot" not in ast.unparse(node), f"{path} imports pyplot"
    assert issubclass(writing.Sheet, Figure)


def fonts_of(pdf: bytes) -> set[bytes]:
    return {*re.findall(rb"/Subtype /(Type3|TrueType|CIDFontType2)\b", pdf)}


def test_savefig__holds_no_font_of_type_3_and_leaves_rcparams_alone(tmp_path: Path) -> None:
    chart = pd.DataFrame({"a b": [0.5]}, index=["café ●"])
    before = dict(matplotlib.rcParams)
    figure = render.similarity_table(chart, title="similar")
    figure.savefig(tmp_path / "one.pdf")
    figure.savefig(tmp_path / "two.eps")
    figure.savefig(buffer := io.BytesIO(), format="pdf")
    assert dict(matplotlib.rcParams) == before and before["pdf.fonttype"] == 3
    for pdf in ((tmp_path / "one.pdf").read_bytes(), buffer.getvalue(), layout.encode_figure(figure, "pdf")):
        assert b"Type3" not in pdf and fonts_of(pdf) >= {b"CIDFontType2"}
    written = (tmp_path / "two.eps").read_bytes()
    assert b"/FontType 42 def" in written and b"/FontType 3 def" not in written
    plain = Figure()  # what these tests look for is there without our own
    plain.suptitle("similar")
    plain.savefig(tmp_path / "plain.pdf")
    assert fonts_of((tmp_path / "plain.pdf").read_bytes()) == {b"Type3"}


@pytest.mark.parametrize("asked", [{}, {"pdf.fonttype": 42}], ids=["as it is", "by the documented line"])
def test_savefig__pages_of_a_pdf_keep_the_fonts_of_the_whole(asked: dict, tmp_path: Path) -> None:
    figure = render.similarity_table(pd.DataFrame({"a": [0.5]}, index=["b"]), title="similar")
    with matplotlib.rc_context(asked), PdfPages(tmp_path / "pages.pdf") as pages:
        pages.savefig(figure)
        figure.savefig(pages, format="pdf")
    found = fonts_of((tmp_path / "pages.pdf").read_bytes())
    assert (b"Type3" in found) != bool(asked) and (b"CIDFontType2" in found) == bool(asked)


TURNING = ["b\u202ecd", "f\u2067g", "h\u2069\u202ei", "k\u200f", "m\u202bm", "\u202dn"]


def test_marks_of_direction__turn_no_neighbour() -> None:
    words = text_of(["a", *TURNING, "z"], np.zeros(len(TURNING) + 2, bool))
    isolated = [style.get("unicode-bidi") for _, style, _ in spans(words.draw_input())]
    assert isolated == [None, *["isolate"] * len(TURNING), None]
    assert words.caption == "a bcd fg hi k mm n z"
    figure = layout.lay_out([[words.draw_input()]], ["input"], ["cat\u202e dog"], title="one\u202e two")
    told = texts_of(figure, "svg")
    assert ">one two<" in told and ">cat dog<" in told and not writing._TURNS.search(told)


def test_marks_of_direction__in_a_browser_leave_words_in_their_order(tmp_path: Path) -> None:
    browser = pytest.importorskip("browser")
    if browser.find_browser() is None:
        pytest.skip("needs Chromium")
    words = [word for turning in TURNING for word in (turning, "n", "3", "(o)")]
    page = tmp_path / "page.html"
    drawn = text_of(words, np.zeros(len(words), bool)).draw_input()
    page.write_text(f"<meta charset=utf-8>{drawn.to_html()}", encoding="utf-8")
    with browser.open_browser() as opened:
        shown = opened.new_page(viewport={"width": 1200, "height": 100})
        shown.goto(page.as_uri())
        left = shown.evaluate(
            "[...document.querySelectorAll('span')].map(e => e.getBoundingClientRect().left)"
        )
    assert len(left) == len(words) and left == sorted(left)
