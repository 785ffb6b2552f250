"""What every committed notebook keeps to, so that running it under nbval compares something."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbval.plugin import get_sanitize_patterns
from page_rows import read_rows

import kdviz
from kdviz import analysis, sources
from kdviz.errors import DataError
from kdviz.reports import rerun, write_report
from kdviz.testing import random_images, small_cnn

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SANITIZE = ROOT / "tests" / "nbval_sanitize.cfg"

KNOWN_TAGS = {"parameters", "nbval-ignore-output"}
LARGEST = 500_000  # bytes
ABSOLUTE_PATH = re.compile(r"(?<![\w/.<:])~?/(?:[\w.-]+/)+[\w.-]*|\b[A-Za-z]:\\")


def output_text(cell: NotebookNode) -> str:
    """Return the text of a cell's outputs that nbval compares."""
    texts = [out.text for out in cell.outputs if out.output_type == "stream"]
    texts += [out.data["text/plain"] for out in cell.outputs if "text/plain" in out.get("data", {})]
    return "\n".join(texts)


def find_faults(notebook: NotebookNode) -> list[str]:
    """List what is wrong with a notebook, cells counted from 0."""
    faults = []
    cells = [(index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    tags = {index: set(cell.metadata.get("tags", ())) for index, cell in cells}
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        faults.append("the kernelspec is not python3")
    if "widgets" in notebook.metadata:
        faults.append("widget state is embedded")
    if (count := sum("parameters" in found for found in tags.values())) != 1:
        faults.append(f"{count} cells are tagged parameters, not 1")
    if (counts := [cell.execution_count for _, cell in cells]) != list(range(1, len(cells) + 1)):
        faults.append(f"execution counts {counts} do not run from 1")
    for index, cell in cells:
        if unknown := tags[index] - KNOWN_TAGS:
            faults.append(f"cell {index} has unknown tags {sorted(unknown)}")
        if any(out.output_type == "error" for out in cell.outputs):
            faults.append(f"cell {index} ended in an error")
        if path := ABSOLUTE_PATH.search(f"{cell.source}\n{output_text(cell)}"):
            faults.append(f"cell {index} has the absolute path {path[0]}")
    compared = [cell for index, cell in cells if "nbval-ignore-output" not in tags[index]]
    if not any(re.search(r"\d", output_text(cell)) for cell in compared):
        faults.append("no number is compared")
    return faults


# -- the notebooks


def test_notebooks__are_there_and_named_by_what_they_do() -> None:
    assert NOTEBOOKS, "notebooks/ is empty: the tests below would pass without looking at anything"
    names = [path.name for path in NOTEBOOKS]
    assert [name for name in names if not re.fullmatch(r"\d\d_[a-z]+(_[a-z0-9]+)*\.ipynb", name)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook__keeps_the_rules(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert find_faults(notebook) == []
    assert path.stat().st_size < LARGEST


# -- the report, of any run


@pytest.mark.slow
@pytest.mark.parametrize(("name", "threshold"), [("reviews", 0.2), ("furniture", 0.5)])
def test_report__of_words_and_of_points_has_their_pictures_and_numbers(
    name: str, threshold: float, tmp_path: Path
) -> None:
    path = sources.find_data(f"runs/{name}.nc")
    page = write_report(path, folder=tmp_path, progress=False).read_text()
    assert page.count("data:image/jpeg;base64") == (7 if name == "reviews" else 8)  # clouds from all sides
    pairs = analysis.pair_networks(kdviz.open_run(path), analysis.Settings(threshold=threshold))
    first = analysis.tabulate_differences(pairs).iloc[0]
    shown = next(row for row in read_rows(page) if "over" in row)
    for column in ("student", "baseline", "difference"):
        assert float(shown[column]) == pytest.approx(first[column], rel=1e-5), (
            "the threshold is that of the run"
        )
    both = [ds for one in pairs.values() for ds in [*one.students.values(), *one.baselines.values()]]
    count = len({(ds.attrs["network"], ds.attrs["layer"]) for ds in both})
    assert f"Checked: calibration and points of {count} networks, each layer of one by itself" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("notebook", "name", "layer"),
    [
        ("03", "reviews", "hidden"),
        ("06", "furniture", "fc1"),
        ("06", "reviews", "hidden"),
        ("07", "furniture", ""),
        ("07", "reviews", ""),
    ],
)
def test_notebook__of_words_and_of_points_calls_them_so(
    notebook: str, name: str, layer: str, tmp_path: Path
) -> None:
    run = sources.find_data(f"runs/{name}.nc")
    given = {"run_path": str(run)} | ({"layer": layer} if layer else {})
    page = rerun(notebook, given, folder=tmp_path, progress=False)
    cells = nbformat.read(page.with_suffix(".ipynb"), as_version=4).cells
    said = " ".join(output_text(cell) for cell in cells if cell.cell_type == "code")
    assert re.search(r"\d", said) and not re.search(r"\b(image|pixel|picture|object)s?\b", said)


@pytest.mark.parametrize(("name", "kind"), [("reviews", "texts"), ("furniture", "clouds")])
def test_notebook_of_maps__says_which_run_it_needs_and_which_notebooks_serve(
    name: str, kind: str, tmp_path: Path
) -> None:
    run = sources.find_data(f"runs/{name}.nc")
    with pytest.raises(
        DataError, match=f"needs a run of images, .* this one is of {kind}: take 01_report"
    ) as told:
        rerun("04", {"run_path": str(run)}, folder=tmp_path, progress=False)
    named = re.findall(r"\b\d\d_[a-z_]+", str(told.value).partition("take ")[2].partition(" (see")[0])
    assert named == [path.stem for path in NOTEBOOKS if path.stem[:2] not in ("04", "05")][: len(named)]
    assert len(named) == 5  # each is run with words and points above, or as report and app


@pytest.mark.slow
def test_report__scores_all_attributed_networks_and_says_whose_maps_are_drawn(tmp_path: Path) -> None:
    path = sources.find_data("runs/fashion.nc")
    text = write_report(path, folder=tmp_path, progress=False).read_text()
    scored = next(row for row in read_rows(text) if row.get("map") == "entropy")
    attributed = [name.partition("/")[2] for name in kdviz.open_run(path).results]
    assert len(attributed) == 5 and sorted(attributed) == sorted({*scored} - {"map"})
    page = BeautifulSoup(text, "html.parser")
    notes = " ".join(note.text for note in page.select(".note"))
    assert "entropy at fc1 of teacher, student-fc1-s0, baseline-s0, and at conv of student-conv-s0" in notes
    assert "Drawn are the maps of student-fc1-s0, the first student of the pictures above" in notes
    assert not page.select(".jp-OutputArea-output pre"), "sentences are no code"
    assert "foreground" not in notes and "object" in notes


@pytest.mark.slow
def test_report__without_masks_and_students_shows_entropies_only(tmp_path: Path) -> None:
    kdviz.measure_checkpoints(
        lambda: small_cnn(seed=1),
        {0: small_cnn(seed=1).state_dict(), 4: small_cnn(seed=2).state_dict()},
        random_images(2, seed=3),
        network="mine",
        role="teacher",
        layers="fc1",
        units=kdviz.units.grid(4),
        store=tmp_path / "run",
        probes=8,
        draws=2,
        progress=False,
    )
    page = write_report(tmp_path / "run", folder=tmp_path / "report", progress=False).read_text()
    assert page.count("data:image/jpeg;base64") == 1
    assert "no masks say what the object is" in page
    chapters = [one.text.strip("¶") for one in BeautifulSoup(page, "html.parser").select("h2")]
    assert chapters == ["A picture", "The networks", "The small print"]


@pytest.mark.slow
def test_report__counts_and_shows_networks_of_other_roles(tmp_path: Path) -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[:, 2:6, 2:6] = True
    for name, role in {"alone": "baseline", "cut-30": "pruned", "cut-60": "pruned"}.items():
        kdviz.measure_checkpoints(
            small_cnn,
            {4: small_cnn(seed=len(name)).state_dict()},
            random_images(2, seed=3),
            network=name,
            role=role,
            layers="fc1",
            units=kdviz.units.grid(4),
            foreground=masks,
            store=tmp_path / "run",
            probes=8,
            draws=2,
            progress=False,
        )
    page = write_report(tmp_path / "run", folder=tmp_path / "report", progress=False)
    counted = [row for row in read_rows(page.read_text()) if "uncertain" in row]
    assert [row["role"] for row in counted] == ["baseline", "cut-30", "cut-60"]
    cells = nbformat.read(page.with_suffix(".ipynb"), as_version=4).cells
    figures = [
        str(out.data)
        for cell in cells
        for out in cell.get("outputs", [])
        if "image/jpeg" in out.get("data", {})
    ]
    assert len(figures) == 2 and "with 8 Axes" in figures[0], figures
    assert "calibration and points of 1 networks" in page.read_text()


# -- the checker itself


def small_notebook() -> NotebookNode:
    """A notebook without fault: parameters, a number, a view."""
    cells = [
        new_code_cell("epochs: int = 3  # how long", execution_count=1, metadata={"tags": ["parameters"]}),
        new_code_cell(
            "print(epochs / 2)",
            execution_count=2,
            outputs=[new_output("stream", name="stdout", text="1.5\n")],
        ),
        new_code_cell("view", execution_count=3, metadata={"tags": ["nbval-ignore-output"]}),
    ]
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def test_find_faults__accepts_a_good_notebook() -> None:
    good = small_notebook()
    good.cells[1].source += "  # see https://example.org/a/b and data/runs/x.nc, N/mm, a / b"
    assert find_faults(good) == []


def _drop_parameters(notebook: NotebookNode) -> None:
    notebook.cells[0].metadata.tags = []


def _two_parameters(notebook: NotebookNode) -> None:
    notebook.cells[1].metadata.tags = ["parameters"]


def _other_kernel(notebook: NotebookNode) -> None:
    notebook.metadata.kernelspec.name = "my-env"


def _widget_state(notebook: NotebookNode) -> None:
    notebook.metadata.widgets = {}


def _rerun_one_cell(notebook: NotebookNode) -> None:
    notebook.cells[1].execution_count = 7


def _strip_counts(notebook: NotebookNode) -> None:
    notebook.cells[2].execution_count = None


def _unknown_tag(notebook: NotebookNode) -> None:
    notebook.cells[2].metadata.tags.append("nbval-skip")


def _error(notebook: NotebookNode) -> None:
    notebook.cells[2].outputs = [new_output("error", ename="E", evalue="", traceback=[])]


def _path_in_source(notebook: NotebookNode) -> None:
    notebook.cells[2].source = "open('/home/ada/run.nc')"


def _path_in_output(notebook: NotebookNode) -> None:
    notebook.cells[1].outputs[0].text = "1.5 written to C:\\runs\n"


def _ignore_every_number(notebook: NotebookNode) -> None:
    notebook.cells[1].metadata.tags = ["nbval-ignore-output"]


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_drop_parameters, "0 cells are tagged parameters, not 1"),
        (_two_parameters, "2 cells are tagged parameters, not 1"),
        (_other_kernel, "the kernelspec is not python3"),
        (_widget_state, "widget state is embedded"),
        (_rerun_one_cell, "execution counts [1, 7, 3] do not run from 1"),
        (_strip_counts, "execution counts [1, 2, None] do not run from 1"),
        (_unknown_tag, "cell 2 has unknown tags ['nbval-skip']"),
        (_error, "cell 2 ended in an error"),
        (_path_in_source, "cell 2 has the absolute path /home/ada/run.nc"),
        (_path_in_output, "cell 1 has the absolute path C:\\"),
        (_ignore_every_number, "no number is compared"),
    ],
)
def test_find_faults__names_what_is_wrong(spoil: Callable[[NotebookNode], None], fault: str) -> None:
    notebook = small_notebook()
    spoil(notebook)
    assert find_faults(notebook) == [fault]


# -- nbval: what it compares and what it leaves out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<Bench object at 0x7f3a5c0d1e90>", "<Bench object at <ADDRESS>>"),
        ("written to /tmp/pytest-0/run.nc.", "written to <TEMPORARY>"),
        ("measuring took 1.3 s", "measuring took <DURATION>"),
        ("rho 0.812, took 12 points, mask 0x1f", "rho 0.812, took 12 points, mask 0x1f"),
    ],
)
def test_sanitize__replaces_only_what_says_nothing(text: str, expected: str) -> None:
    for pattern, replacement in get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8")):
        text = re.sub(pattern, replacement, text)
    assert text == expected


def test_sanitize__every_rule_is_parsed_and_leaves_a_marker() -> None:
    text = SANITIZE.read_text(encoding="utf-8")
    rules = get_sanitize_patterns(text)
    assert len(rules) == 3 == text.count("\nregex:") == text.count("\nreplace:")
    assert all(re.search("<[A-Z]+>", replacement) for _, replacement in rules)


@pytest.mark.slow
def test_nbval__compares_numbers_and_leaves_out_html(tmp_path: Path) -> None:
    notebook = small_notebook()
    notebook.cells[2].source = "import uuid; from IPython.display import HTML; HTML(f'<p>{uuid.uuid4()}</p>')"
    notebook.cells[2].metadata.tags = []
    notebook.cells[2].outputs = [
        new_output(
            "execute_result",
            {"text/html": "<p>another</p>", "text/plain": "<IPython.core.display.HTML object>"},
            execution_count=3,
        )
    ]
    nbformat.write(notebook, tmp_path / "good.ipynb")
    notebook.cells[1].outputs[0].text = "1.6\n"
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    shutil.copy(ROOT / "notebooks" / "conftest.py", tmp_path)
    options = [
        "--nbval",
        "--nbval-current-env",
        "--nbval-sanitize-with",
        str(SANITIZE),
        "-p",
        "no:cacheprovider",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rf", "--rootdir", tmp_path, *options, tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 5 passed" in result.stdout, result.stdout
    assert re.search(r"FAILED .*wrong\.ipynb::Cell 1", result.stdout), result.stdout
