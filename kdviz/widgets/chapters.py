"""What is known of a run beyond one sample: chapters as in the report, under the settings of the app."""

from collections.abc import Callable
from dataclasses import asdict
from html import escape

import ipywidgets as widgets
from matplotlib.figure import Figure

from kdviz import analysis
from kdviz.render.charts import points_over_distance
from kdviz.render.coherency import coherency_chart
from kdviz.render.describing import describe_figure
from kdviz.render.layout import encode_figure
from kdviz.render.pages import Page, show_table, show_verdict
from kdviz.render.relevance import relevance_chart
from kdviz.render.tables import difference_dots
from kdviz.render.transfer import transfer_chart
from kdviz.widgets.derivation import noting
from kdviz.widgets.drawing import Described, close_whole
from kdviz.widgets.scene import Scene
from kdviz.widgets.selection import Selection
from kdviz.widgets.status import Status

NONE = "none"
_DPI = 110


class Chapters(widgets.VBox):
    """Buttons, one a chapter, and what the chosen one shows.

    A chapter is worked out when it is chosen, which takes seconds where many networks are compared, and again
    by its button, which is marked once networks or settings changed.

    Attributes
    ----------
    by_name
        Controls: ``"chapter"`` and ``"again"``.
    shown
        The page, figure or sentence of the chosen chapter; None before.
    """

    def __init__(self, scene: Scene, selection: Selection, status: Status) -> None:
        self._scene, self._selection, self._status = scene, selection, status
        self.shown: Page | Figure | str | None = None
        self._chapter = widgets.ToggleButtons(
            options=[NONE, *CHAPTERS], style={"button_width": "auto"}, layout={"width": "auto"}
        )
        self._again = widgets.Button(
            description="again",
            icon="refresh",
            disabled=True,
            tooltip="with the settings as they are now",
            layout={"width": "90px"},
        )
        self.by_name = {"chapter": self._chapter, "again": self._again}
        self._body = widgets.VBox()
        self._made_for = selection.place
        self._chapter.observe(self._show, "value")
        selection.observe(self._mark)
        self._again.on_click(self._show)
        title = widgets.HTML("<b>The whole run</b>")
        super().__init__([title, widgets.HBox([self._chapter, self._again]), self._body])

    def _mark(self, change: object) -> None:
        """Mark the button where what is shown was worked out for other networks or settings."""
        old = self.shown is not None and self._made_for != self._selection.place
        self._again.button_style = "warning" if old else ""

    def _show(self, change: object) -> None:
        chapter = self._chapter.value
        self._again.disabled = chapter == NONE
        for old in self._body.children:
            close_whole(old)
        self._body.children, self.shown = (), None
        self._made_for = self._selection.place
        self._mark(change)
        if chapter == NONE:
            return
        with self._status.showing_errors():
            self._status.say(f"{chapter}: working it out ...")
            with noting() as notes:
                self.shown = CHAPTERS[chapter](self._scene, self._selection)
            self._status.clear()
            lines = [self.shown, *notes] if isinstance(self.shown, str) else notes
            said = widgets.HTML("".join(f"<div>{escape(line)}</div>" for line in lines))
            if isinstance(self.shown, Figure):
                picture = encode_figure(self.shown, dpi=_DPI)
                image = Described(
                    value=picture,
                    tooltip=describe_figure(self.shown),
                    layout={"max_width": "100%", "align_self": "flex-start"},
                )
                self._body.children = image, said
            elif isinstance(self.shown, Page):
                page = widgets.Output()  # where its tables can be sorted
                page.append_display_data(self.shown)
                self._body.children = page, said
            else:
                self._body.children = (said,)


def _answer(scene: Scene, selection: Selection) -> Page | str:
    if not scene.has_points:
        inside = scene.kind.vocabulary.foreground
        return f"Nothing can be answered where no masks tell {inside} from background."
    return show_verdict(**asdict(analysis.give_verdict(scene.run, _pair(scene, selection))))


def _compare(scene: Scene, selection: Selection) -> Figure | str:
    pairs = _pair(scene, selection) if scene.has_points else {}
    both = {label: one for label, one in pairs.items() if one.students.keys() & one.baselines.keys()}
    if not both:
        return "No student and baseline of one training seed are measured at one layer."
    table = analysis.compare_layers(both)
    return difference_dots(table[table["metric"] != "d_var"], title="student minus baseline, seed by seed")


def _learn(scene: Scene, selection: Selection) -> Figure | str:
    tables, peaks = {}, {}
    for name in selection.networks:
        derived = scene.derived(name, selection.place)
        ds = derived.ds
        if derived.counts is None or "weight_distance" not in ds or ds.sizes["epoch"] < 2:
            continue
        tables[name] = analysis.tabulate_counts(ds, derived.counts)
        peaks[name] = analysis.tabulate_peaks(ds)
    if not tables:
        return "No chosen network has points at several epochs and the distance its weights moved."
    words = scene.kind.vocabulary
    title = f"{selection.layer}: points on the {words.foreground}, and the {words.sample}s' peaks"
    return points_over_distance(tables, peaks, title=title, foreground=words.foreground)


def _attribute(scene: Scene, selection: Selection) -> Page | str:
    names = [name for name in selection.networks if f"attribution/{name}" in scene.run.results]
    if not names or not scene.has_points:
        return "No maps of a chosen network are stored; `kdviz attribute` draws some."
    scores = {}
    for name in names:
        entropy = scene.derived(name, selection.place).ds
        maps = scene.run.result(f"attribution/{name}")
        scores[name] = analysis.tabulate_scores(analysis.score_attributions(maps, entropy=entropy))
    table, ends = analysis.join_scores(scores)
    inside = scene.kind.vocabulary.foreground
    about = {
        "map": f"how surely it puts the {inside} before the rest (AUC; 0.5: by chance), with 95 % intervals"
    }
    return show_table(table.reset_index(), intervals=ends, about=about)


def _cohere(scene: Scene, selection: Selection) -> Figure | str:
    audited = analysis.read_audits(scene.run)
    audited = audited[audited["network"].isin(selection.networks)]
    if not len(audited):
        refused = analysis.list_refused(scene.run)
        told = [f"{name}: {refused[name]}" for name in selection.networks if name in refused]
        return "; ".join(told) or "No weights of a chosen network were rescaled; `kdviz coherency` does."
    title = "maps that moved while weights were rescaled and no output changed"
    return coherency_chart(analysis.summarise_audits(audited), title=title)


def _transfer(scene: Scene, selection: Selection) -> Figure | str:
    shared = analysis.read_transfer(scene.run)
    shared = {one: ds for one, ds in shared.items() if "independent" in ds["role"].values}
    if not shared:
        return "No properties of the teacher were asked for; `kdviz transfer` asks."
    answers, points = shared.get("confidence"), None
    if answers is not None and scene.has_points:
        found = analysis.collect_points(scene.run, answers, selection.settings)
        points = analysis.score_transfer(found.values()) if found else None
    undertrained = None if answers is None else analysis.find_undertrained(answers)
    table = analysis.score_transfer(shared.values())
    title = "more like the teacher than networks without one"
    inside = scene.kind.vocabulary.foreground
    return transfer_chart(table, title=title, points=points, undertrained=undertrained, foreground=inside)


def _unicam(scene: Scene, selection: Selection) -> Figure | str:
    table = analysis.tabulate_relevance(analysis.read_room(scene.run, "unicam-scores").values())
    if not len(table):
        return "No distilled and residual features were taken apart; `kdviz unicam` does."
    plain = table[table["input"] == table["input"].iloc[0]]
    return relevance_chart(plain, title="relevance, and likeness to the teacher")


CHAPTERS: dict[str, Callable[[Scene, Selection], Page | Figure | str]] = {
    "answers": _answer,
    "student against baseline": _compare,
    "learning": _learn,
    "attribution": _attribute,
    "coherency": _cohere,
    "transfer": _transfer,
    "UniCAM": _unicam,
}


def _pair(scene: Scene, selection: Selection) -> dict[str, analysis.NetworkPair]:
    return analysis.pair_networks(scene.run, selection.settings, finished=True)
