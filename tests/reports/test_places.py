"""Which notebook a rerun may write over, wherever it lies and however deep its parameters are."""

from pathlib import Path

import pytest
from test_reports import write_notebook

from kdviz.errors import DataError
from kdviz.reports import parse_parameters, prepare_notebook, read_parameter_file, rerun


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "small.ipynb", "print(threshold)")


def test_rerun__a_prepared_notebook_is_the_users(small: Path, tmp_path: Path) -> None:
    prepared = prepare_notebook(small, {"threshold": 0.5}, folder=tmp_path / "mine")
    before = prepared.read_bytes()
    for notebook in (prepared, small):  # itself, and another of that name
        with pytest.raises(ValueError, match=r"small\.ipynb is no result .*; pass another folder"):
            rerun(notebook, {}, folder=prepared.parent, progress=False)
    assert prepared.read_bytes() == before


def test_rerun__a_result_that_is_rerun_is_left_alone(small: Path, tmp_path: Path) -> None:
    result = rerun(small, {}, folder=tmp_path / "out", progress=False).with_suffix(".ipynb")
    before = result.read_bytes()
    with pytest.raises(ValueError, match="pass another folder"):
        rerun(result, {}, folder=result.parent, progress=False)
    assert result.read_bytes() == before
    rerun(result, {}, folder=tmp_path / "another", progress=False)  # as the message says


def test_prepare_notebook__braces_in_a_path_are_no_format(tmp_path: Path) -> None:
    odd = tmp_path / "{threshold.__class__}"
    odd.mkdir()
    own = write_notebook(odd / "{own}.ipynb")
    assert prepare_notebook(own, {"threshold": 0.5}, folder=odd / "{}") == odd / "{}" / "{own}.ipynb"


def test_parameters__nested_too_deep_are_a_sentence(small: Path, tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("sizes: " + "[" * 5000 + "]" * 5000)
    with pytest.raises(DataError, match=r"cannot read parameters from .*deep\.yaml: .*deeper than 50 levels"):
        read_parameter_file(tmp_path / "deep.yaml")
    with pytest.raises(TypeError, match="a str; allowed: list"):
        rerun(small, parse_parameters(small, ["sizes=" + "[" * 5000]), folder=tmp_path / "out")
