"""Notebooks rerun with other parameters, and reports written from runs."""

import ast
import base64
import os
import re
import warnings
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
import xarray as xr
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from invented_runs import draw_points, invent_seeds_run
from nbformat.v4 import new_code_cell, new_notebook
from page_rows import read_rows
from papermill.translators import PythonTranslator

import kdviz
from kdviz import analysis
from kdviz.errors import DataError, KdvizWarning, StoreError
from kdviz.reports import parse_parameters, prepare_notebook, read_parameter_file, rerun, write_report
from kdviz.reports.notebooks import _name_results, find_notebook
from kdviz.sources import find_data
from kdviz.studies import Study
from kdviz.testing import random_images, small_cnn


def write_notebook(path: Path, *cells: str, parameters: str | None = None) -> Path:
    text = (
        parameters
        or 'threshold: float = 0.2  # nat\nimages: int = 3  # at least 1\nname: str = ""\nbold: bool = False'
    )
    text += "\nsizes: list = [4]  # cells a side, at least 2\nrate: float = 0.5  # at least 0.25, at most 1"
    code = [new_code_cell(text, metadata={"tags": ["parameters"]}), *map(new_code_cell, cells)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=code, metadata=kernel), path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "small.ipynb", "print(f'twice {2 * threshold:.2f} {name}')")


@pytest.mark.parametrize("name", ["01_report", "01_report.ipynb", "01"])
def test_find_notebook__by_name_or_number(name: str) -> None:
    assert find_notebook(name) == Path(kdviz.__file__).resolve().parents[1] / "notebooks" / "01_report.ipynb"


def test_find_notebook__path_comes_first(small: Path) -> None:
    assert find_notebook(small) == small and find_notebook(str(small)) == small


def test_find_notebook__unknown_lists_what_there_is() -> None:
    with pytest.raises(DataError, match=r"no notebook '99_none'; with kdviz come 01_report"):
        find_notebook("99_none")


def test_parse_parameters__reads_every_kind(small: Path) -> None:
    texts = ["threshold=0.3", "images=4", "name=a=b, c", "bold=True", "sizes=[1, 2]"]
    assert parse_parameters(small, texts) == {
        "threshold": 0.3,
        "images": 4,
        "name": "a=b, c",
        "bold": True,
        "sizes": [1, 2],
    }
    assert parse_parameters(small, ["name=3"]) == {"name": "3"}
    assert parse_parameters(small, []) == {}


def test_parse_parameters__refuses_what_is_no_assignment(small: Path) -> None:
    with pytest.raises(ValueError, match="parameter 'threshold' is not of the form name=value"):
        parse_parameters(small, ["threshold"])


@pytest.mark.parametrize("text", ["threshold=high", "images="])
def test_parse_parameters__leaves_it_to_the_rerun_to_refuse_a_type(small: Path, text: str) -> None:
    parameters = parse_parameters(small, [text])
    with pytest.raises(TypeError, match=r"is '(high)?', a str; allowed: (float|int)"):
        rerun(small, parameters, folder=small.parent, progress=False)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"treshold": 0.3}, ValueError, "small.ipynb has no parameter 'treshold'; did you mean 'threshold'?"),
        (
            {"zebra": 1},
            ValueError,
            "no parameter 'zebra'; allowed: threshold, images, name, bold, sizes, rate",
        ),
        (
            {"threshold": "0.3"},
            TypeError,
            "parameter threshold of small.ipynb is '0.3', a str; allowed: float",
        ),
        ({"threshold": True}, TypeError, "is True, a bool; allowed: float"),
        ({"images": 2.5}, TypeError, "is 2.5, a float; allowed: int"),
        ({"images": True}, TypeError, "is True, a bool; allowed: int"),
        ({"images": -1}, ValueError, r"images of small\.ipynb is -1; allowed: at least 1"),
        ({"images": 0}, ValueError, r"images of small\.ipynb is 0; allowed: at least 1"),
        ({"sizes": [3, 1]}, ValueError, r"sizes of small\.ipynb is \[3, 1\]; allowed: at least 2"),
        ({"rate": 0.24}, ValueError, r"rate of small\.ipynb is 0\.24; allowed: at least 0\.25"),
        ({"rate": float("nan")}, ValueError, r"rate of small\.ipynb is nan; allowed: at least 0\.25"),
        ({"bold": 1}, TypeError, "is 1, a int; allowed: bool"),
        ({"name": 3}, TypeError, "is 3, a int; allowed: str"),
        ({"sizes": "1"}, TypeError, "is '1', a str; allowed: list"),
    ],
)
def test_rerun__checks_names_and_types_before_anything_runs(
    small: Path, tmp_path: Path, parameters: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        rerun(small, parameters, folder=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "value",
    [
        [b'"]; open("trap", "w").close() #'],
        [3, [2]],
        [{"a": [1]}],
        [{"a": {"b": 1}}],
        [{b"a": 1}],
        [{"a": None}],
        [None],
        [1 + 2j],
        [np.float64(0.5)],
    ],
)
def test_rerun__lists_hold_texts_numbers_and_truth_values(small: Path, tmp_path: Path, value: list) -> None:
    with pytest.raises(TypeError, match=r"allowed: texts, numbers, True and False, and lists of these"):
        rerun(small, {"sizes": value}, folder=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_rerun__a_settings_file_runs_no_code(small: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = base64.b64encode(b'"]; open("trap", "w").close() #').decode()
    (tmp_path / "mine.yaml").write_text(f"sizes:\n- !!binary {code}\n")
    for parameters in (
        read_parameter_file(tmp_path / "mine.yaml"),
        parse_parameters(small, ['sizes=[b\'"]; open("trap", "w").close() #\']']),
    ):
        with pytest.raises(TypeError, match="a bytes; allowed: texts"):
            rerun(small, parameters, folder=tmp_path / "out", progress=False)
    knot = "sizes: &again [1, *again]"  # holds itself
    (tmp_path / "mine.yaml").write_text(knot)
    with pytest.raises(DataError, match=r"cannot read parameters from .*mine\.yaml: .*alias"):
        read_parameter_file(tmp_path / "mine.yaml")
    assert not (tmp_path / "trap").exists() and not (tmp_path / "out").exists()


scalars = st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("value", [{"a": 1}, [{3: "a"}]])
def test_rerun__tables_stand_in_lists_and_have_names(small: Path, tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"allowed: (list|names that are texts)"):
        rerun(small, {"sizes": value}, folder=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_rerun__takes_lists_of_tables_from_the_command_line_and_from_a_file(tmp_path: Path) -> None:
    parameters = 'arms: list = [{"network": "small", "run_path": ""}]  # one a run'
    notebook = write_notebook(
        tmp_path / "arms.ipynb", "print(arms[-1]['b'] + 1, arms)", parameters=parameters
    )
    told = '[{"network": "VGG-16, \'a\' # b"}, {"b": 0.15}]'
    (tmp_path / "mine.yaml").write_text(f"arms: {told}".replace("'a'", "'a'"))
    read = read_parameter_file(tmp_path / "mine.yaml")
    assert read == parse_parameters(notebook, [f"arms={told}"])
    page = rerun(notebook, read, folder=tmp_path / "out", progress=False)
    text = nbformat.read(page.with_suffix(".ipynb"), as_version=4).cells[-1].outputs[0].text
    assert text == f"1.15 {read['arms']}\n"


@given(scalars | st.lists(scalars | st.dictionaries(st.text(), scalars)))
def test_parameters__are_written_into_notebooks_as_they_are(value: Any) -> None:
    written = PythonTranslator.translate(value)
    assert ast.literal_eval(written) == value and "\n" not in written


def test_rerun__replaces_results_only(small: Path, tmp_path: Path) -> None:
    mine = small.read_bytes()
    with pytest.raises(ValueError, match=r"small.ipynb is no result of a rerun, .*; pass another folder"):
        rerun(small, {}, folder=tmp_path, progress=False)
    assert small.read_bytes() == mine
    other = tmp_path / "another folder"
    for _ in range(2):
        rerun(small, {}, folder=other, progress=False)
    assert sorted(path.name for path in other.iterdir()) == ["small.html", "small.ipynb"]


def test_rerun__refuses_to_show_fewer_samples_than_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shown_samples of 07_layers\.ipynb is -1; allowed: at least 1"):
        rerun("07_layers", {"shown_samples": -1}, folder=tmp_path, progress=False)


def test_prepare_notebook__is_never_that_of_other_parameters_nor_a_damaged_one(
    small: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    first, second = (prepare_notebook(small, {"name": name}, folder=folder) for name in "ab")
    assert (first.name, second.name) == ("small.ipynb", "small-2.ipynb")
    assert 'name = "b"' in second.read_text().replace('\\"', '"')
    worked = nbformat.read(first, as_version=4)
    worked.cells.append(new_code_cell("mine"))
    nbformat.write(worked, first)
    assert prepare_notebook(small, {"name": "a"}, folder=folder) == first and "mine" in first.read_text()
    first.write_bytes(first.read_bytes()[:200])  # cut short
    again = prepare_notebook(small, {"name": "a"}, folder=folder)
    assert again.name == "small-3.ipynb" and nbformat.read(again, as_version=4).cells
    assert prepare_notebook(small, {"name": "b"}, folder=folder) == second


def test_rerun__writes_notebook_and_page_named_by_the_parameters(small: Path, tmp_path: Path) -> None:
    before = small.read_bytes()
    page = rerun(small, {"threshold": 1, "name": "a/b é"}, folder=tmp_path / "deep" / "out", progress=False)
    assert re.fullmatch(r"small-name=b_é-threshold=1\.0-[0-9a-f]{8}\.html", page.name)
    assert page.parent == tmp_path / "deep" / "out"
    assert "twice 2.00 a/b é" in page.read_text()
    scripts = BeautifulSoup(page.read_text(), "html.parser").select("script[src^=http]")
    assert "mathjax" in str(scripts) and "require" in str(scripts), "anybody's notebook may need them"
    executed = nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    assert "twice 2.00 a/b é\n" in [out.text for cell in executed.cells for out in cell.outputs]
    assert small.read_bytes() == before


def test_rerun__joins_what_a_kernel_sends_in_pieces(tmp_path: Path) -> None:
    """So that a notebook is the same however busy the machine was."""
    lines = ["print('a', flush=True)", "print('b', flush=True)", "display(3)", "print('c', flush=True)"]
    pieces = write_notebook(tmp_path / "pieces.ipynb", "\n".join(lines))
    page = rerun(pieces, {}, folder=tmp_path / "out", progress=False)
    outputs = nbformat.read(page.with_suffix(".ipynb"), as_version=4).cells[-1].outputs
    assert [one.get("text", "3") for one in outputs] == ["a\nb\n", "3", "c\n"]


def test_rerun__failing_cell_is_named_with_its_error(tmp_path: Path) -> None:
    bad = write_notebook(tmp_path / "bad.ipynb", "print('so far')", "raise KeyError(f'no {images}')")
    with pytest.raises(
        DataError, match=r"cell 4 of bad\.ipynb failed with KeyError: 'no 7' \(see (.*)\)"
    ) as caught:
        rerun(bad, {"images": 7}, folder=tmp_path / "out", progress=False)
    kept = re.search(r"\(see (.*)\)", str(caught.value))
    assert kept and "so far" in Path(kept[1]).read_text(), "what ran before the failure can be looked at"


def test_write_report__has_pictures_and_the_numbers(study: Study, tmp_path: Path) -> None:
    page = write_report(study.run_path, folder=tmp_path / "report", progress=False)
    assert page == tmp_path / "report" / "report.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.ipynb"]
    text = page.read_text()
    assert f"<title>{study.folder.name}: report</title>" in text
    assert text.count("data:image/jpeg;base64") >= 3
    with warnings.catch_warnings(action="ignore", category=KdvizWarning):
        table = analysis.compare_layers(analysis.pair_networks(kdviz.open_run(study.run_path)))
    row = table[table["metric"] == "n_fg"].iloc[0]
    rows = [one for one in read_rows(text) if one.get("metric") == "n_fg" and "over" in one]
    for column in ("student", "difference"):
        shown = [float(one[column]) for one in rows]
        assert shown == pytest.approx([row[column]], rel=1e-5), "the table of metrics is on the page"
    assert "def " not in text.split("<body")[1] and "run_path" not in text.split("<body")[1], (
        "no code is shown"
    )
    assert not BeautifulSoup(text, "html.parser").select("[src^=http]"), "it asks no other server"
    told = [image["alt"] for image in BeautifulSoup(text, "html.parser").select("img")]
    assert len(told) == text.count("data:image/jpeg;base64")
    assert told[0].startswith("after the last epoch, at ") and " columns: input; teacher; " in told[0]
    assert all(len(one.split()) > 10 and re.search(r"Picture|Chart|charts", one) for one in told), told
    outcome = r"\b(n_fg|fg_ratio|d_mean) \((above|below|not clear of) 0: [^()]+ \("
    assert sum(len(re.findall(outcome, one)) for one in told) == 3


@pytest.mark.slow
def test_write_report__takes_networks_measured_without_a_study(tmp_path: Path) -> None:
    masks = np.zeros((4, 8, 8), bool)
    masks[:, 2:6, 2:6] = True
    for name, step in (("student", 0.01), ("baseline", 0.05)):
        states = {epoch: small_cnn(seed=1).state_dict() for epoch in (0, 1, 2)}
        for epoch, state in states.items():
            state["fc1.weight"] += epoch * step * torch.eye(*state["fc1.weight"].shape)
        kdviz.measure_checkpoints(
            lambda: small_cnn(seed=1),
            states,
            random_images(4, seed=3),
            network=f"my-{name}",
            role=name,
            layers="fc1",
            units=kdviz.units.grid(4),
            foreground=masks,
            store=tmp_path / "run",
            probes=8,
            draws=2,
            progress=False,
        )
    text = write_report(tmp_path / "run", folder=tmp_path / "report", progress=False).read_text()
    assert text.count("data:image/jpeg;base64") >= 2 and "my-baseline" in text


@pytest.mark.slow
def test_write_report__shows_detours_of_students_of_all_losses_beside_the_baseline(tmp_path: Path) -> None:
    foreground = np.broadcast_to(np.arange(40) < 12, (4, 40)).copy()
    losses = {"crd": 5, "dkd": 4, "features": 8, "hint": 3, "kl": 6, "tenth": 7}
    ends = {f"student/{loss}": count for loss, count in losses.items()} | {"baseline": 2}
    points = {(role, "fc1", 0): draw_points(foreground, count, 1, 3) for role, count in ends.items()}
    for (role, _, _), found in points.items():
        found[0, :, 11] = role.startswith("student")  # tried at first and dropped
    epochs = dict.fromkeys(("student", "baseline"), (0, 2, 5))
    run = invent_seeds_run(tmp_path / "run", points, foreground, epochs=epochs)
    kdviz.store.describe(run, accuracy={name: {0: 0.1, 2: 0.6, 5: 0.9} for name in run.networks})
    page = write_report(tmp_path / "run", folder=tmp_path / "report", progress=False)
    images = BeautifulSoup(page.read_text(), "html.parser").select("img")
    (told,) = [image["alt"] for image in images if "tried and dropped" in image["alt"]]
    shown = [f"student, {loss}" for loss in [*losses][:5]]
    assert told.startswith(f"at fc1. Pictures in 7 columns: input; {'; '.join(shown)}; baseline. Row s0. ")
    (row,) = re.findall(r"Row s0\. (.*?)\. ", told)
    assert row.split("; ") == [
        *(f"student, {loss}: {losses[loss]} kept, 1 dropped" for loss in [*losses][:5]),
        "baseline: 2 kept, 0 dropped",
    ]
    (path,) = [image["alt"] for image in images if "over accuracy" in image["alt"]]
    assert path.endswith(f"Lines: {', '.join(shown)}, baseline.")


def test_write_report__of_an_empty_run_says_so_and_no_more(tmp_path: Path) -> None:
    samples = xr.Dataset(coords={"sample": ["bird"], "unit": [0]})
    kdviz.store.create_run(tmp_path / "run", samples=samples)
    page = BeautifulSoup(
        write_report(tmp_path / "run", folder=tmp_path, progress=False).read_text(), "html.parser"
    )
    assert page.select_one(".doubt").text.startswith("In doubt: nothing is measured yet; kdviz measure")
    assert [one.text.strip(" ¶") for one in page.select("h2")] == []  # chapters without results are left out
    assert not read_rows(str(page))


def test_write_report__missing_run_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no run at"):
        write_report(tmp_path / "none", folder=tmp_path / "report", progress=False)
    assert not (tmp_path / "report").exists()


def test_write_report__larger_threshold_counts_fewer_points(tmp_path: Path) -> None:
    cells = nbformat.read(find_notebook("01_report"), as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    shown = "".join(one.data.get("text/html", "") for one in outputs if "data" in one)
    run = find_data("runs/fashion.nc")
    page = write_report(run, folder=tmp_path, threshold=0.4, progress=False).read_text()
    with pytest.raises(ValueError, match="threshold must be a positive number"):
        write_report(run, folder=tmp_path, threshold=0.0, progress=False)
    loose, strict = (
        np.array([(one["n_fg"], one["n_bg"]) for one in read_rows(text) if "uncertain" in one], float)
        for text in (shown, page)  # as stored, with the default of 0.2, and executed
    )
    assert len(loose) >= 2 and loose.shape == strict.shape
    assert (strict <= loose).all() and strict.sum() < loose.sum()


def test_rerun__higher_threshold_of_the_app_shows_fewer_points(tmp_path: Path) -> None:
    def shown(notebook: Path) -> pd.DataFrame:
        cells = nbformat.read(notebook, as_version=4).cells
        (text,) = (
            output.text
            for cell in cells
            for output in cell.get("outputs", [])
            if "fg_ratio" in output.get("text", "")
        )
        rows = re.findall(r"(\d+) +([\d.]+) +([\d.]+) +(?:[\d.]+|NaN)$", text, re.M)
        return pd.DataFrame(rows, columns=["epoch", "n_fg", "n_bg"]).astype(float)

    page = rerun("02_explore", {"threshold": 0.4}, folder=tmp_path, progress=False)
    loose, strict = shown(find_notebook("02_explore")), shown(page.with_suffix(".ipynb"))
    assert len(loose) >= 5 and loose["epoch"].equals(strict["epoch"])
    assert (strict <= loose).all(axis=None) and strict["n_fg"].sum() < loose["n_fg"].sum()
    assert "data:image/jpeg;base64" in page.read_text(), (
        "the page shows the view although the app is not live"
    )


def test_rerun__takes_the_settings_the_app_saves(tmp_path: Path) -> None:
    app = kdviz.explore(
        find_data("runs/fashion.nc"), layer="fc2", epoch=4, settings=kdviz.analysis.Settings(threshold=0.15)
    )
    parameters = read_parameter_file(app.save(tmp_path / "view.yaml"))
    assert set(parameters) == set(papermill.inspect_notebook(str(find_notebook("02_explore"))))
    page = rerun("02_explore", parameters, folder=tmp_path / "out", progress=False)
    assert len(page.name) < 130
    assert repr(app) in page.with_suffix(".ipynb").read_text().replace('\\"', '"')


@pytest.mark.parametrize("masks", [True, False])
def test_rerun__app_on_own_checkpoints(tmp_path: Path, masks: bool) -> None:
    """A run that no study made: other layers, weight, seed and units, and no masks."""
    foreground = np.zeros((2, 8, 8), bool)
    foreground[:, 2:6, 2:6] = True
    kdviz.measure_checkpoints(
        small_cnn,
        {epoch: small_cnn(seed=epoch).state_dict() for epoch in (0, 3)},
        random_images(2),
        network="mine",
        role="student",
        layers="fc1",
        units=kdviz.units.grid(4),
        foreground=foreground if masks else None,
        weight=6.0,
        details={"training_seed": 3},
        store=tmp_path / "mine.zarr",
        progress=False,
    )
    page = rerun("02_explore", {"run_path": str(tmp_path / "mine.zarr")}, folder=tmp_path, progress=False)
    text = page.with_suffix(".ipynb").read_text()
    assert "checked 1 networks" in text and "<kdviz.Explorer mine.zarr: fc1, epoch 3" in text
    assert "Extrapolated" not in text


def test_rerun__broken_callback_fails_the_run(tmp_path: Path) -> None:
    notebook = nbformat.read(find_notebook("02_explore"), as_version=4)
    at = next(index for index, cell in enumerate(notebook.cells) if cell.source == "app")
    broken = (
        "def fail(*args, **options):\n    raise RuntimeError('no ink')\n\n"
        "kdviz.render.GridCanvas.draw_points = fail"
    )
    notebook.cells.insert(at, nbformat.v4.new_code_cell(broken))
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    with pytest.raises(DataError, match="failed with RuntimeError: no ink"):
        rerun(tmp_path / "broken.ipynb", {}, folder=tmp_path / "out", progress=False)
    assert os.environ.get("KDVIZ_STRICT") != "1", "strict only while it runs"


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b\n", "holds no parameters"), ("a: [1", "cannot read parameters"), ("1: 2\n", "holds no")],
)
def test_read_parameter_file__refuses_what_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "view.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_parameter_file(tmp_path / "view.yaml")
    with pytest.raises(DataError, match=r"cannot read parameters from .*none\.yaml"):
        read_parameter_file(tmp_path / "none.yaml")


def test_rerun__long_lists_of_parameters_get_names_of_their_own() -> None:
    long = {f"parameter_{index}": 0.5 for index in range(16)}
    names = {_name_results("02_explore", long | {"parameter_15": value}) for value in (0.5, 0.6)}
    assert len(names) == 2 and all(len(name) < 130 for name in names)
    assert _name_results("02_explore", {"b": 1, "a": "x"}) == "02_explore-a=x-b=1"
    runs = [_name_results("02_explore", {"run_path": f"runs/{name}/run.zarr"}) for name in "ab"]
    assert runs[0] != runs[1], "every study calls its run run.zarr"
