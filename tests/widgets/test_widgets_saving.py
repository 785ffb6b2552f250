"""Files of what the app shows."""

import errno
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from explored_runs import UNITS, move, panels
from PIL import Image

import kdviz
from kdviz import render
from kdviz.analysis import Settings
from kdviz.errors import StoreError
from kdviz.store import Run
from kdviz.widgets import Explorer
from kdviz.widgets.exports import KINDS, as_csv

# -- files


def test_save__units_as_table_and_dataset(app: Explorer, tmp_path: Path) -> None:
    app.selection.epoch = 2
    table = pd.read_csv(app.save(tmp_path / "new" / "view.csv"))
    assert len(table) == 3 * UNITS
    rows = table[table["network"] == "student-fc1-s0"]
    student = app.view.networks[1]
    assert np.allclose(rows["entropy"], student.entropy)
    assert rows["knowledge_point"].tolist() == student.points.tolist()
    assert rows["foreground"].tolist() == app.view.canvas.foreground.tolist()
    assert rows["epoch"].unique().tolist() == [2]
    said = {name: rows[name].unique().tolist() for name in ("sample", "layer", "threshold")}
    assert said == {"sample": [app.view.sample], "layer": ["fc1"], "threshold": [0.25]}
    with xr.open_dataset(app.save(tmp_path / "view.nc")) as ds:
        assert ds["network"].values.tolist() == ["teacher", "student-fc1-s0", "baseline-s0"]
        assert np.array_equal(ds["gain"].sel(network="baseline-s0"), app.view.networks[2].gain)
        assert json.loads(ds.attrs["settings"]) == app.selection.as_parameters()
        assert ds["entropy"].attrs["units"] == "nat"


def test_save__settings_lead_back_to_the_view(run: Run, app: Explorer, tmp_path: Path) -> None:
    chosen = ["student-fc2-s0", "teacher"]
    move(app, layer="fc2", networks=chosen, epoch=1, threshold=0.31, feature_loss=1.5)
    text = app.save(tmp_path / "view.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    fields = {name: settings.pop(name) for name in Settings.__dataclass_fields__}
    again = kdviz.explore(settings.pop("run_path"), settings=Settings(**fields), **settings)
    assert again.selection.as_parameters() == app.selection.as_parameters()
    assert panels(again) == panels(app)


def test_save__pictures(app: Explorer, tmp_path: Path) -> None:
    png = app.save(tmp_path / "view.png")
    assert Image.open(png).width == 2640  # 13.2 inches at 200 dots
    svg = app.save(tmp_path / "view.svg").read_text(encoding="utf-8")
    assert "<svg" in svg and "image/png;base64" in svg
    pdf = app.save(tmp_path / "view.pdf").read_bytes()
    assert pdf[:4] == b"%PDF" and b"/Subtype /CIDFontType2" in pdf and b"Type3" not in pdf


def test_save__refuses_other_endings_and_folders_that_are_files(app: Explorer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot save as 'view.jpg'; allowed endings: .png, .svg"):
        app.save(tmp_path / "view.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        app.save(tmp_path / "file" / "view.csv")


@pytest.mark.parametrize("ending", KINDS)
def test_save__a_full_disk_leaves_the_older_file(
    app: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path = tmp_path / f"view{ending}"
    path.write_bytes(b"older")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        app.save(path)
    assert path.read_bytes() == b"older" and [*tmp_path.iterdir()] == [path]


def test_save__replaces_files_only(app: Explorer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "view.csv")
    with pytest.raises(StoreError, match="no regular file; name another"):
        app.save(tmp_path / "view.csv")
    assert (tmp_path / "view.csv").is_fifo() and app.save(tmp_path / "another.csv").is_file()


def test_save__a_table_holds_no_formula(run: Run, tmp_path: Path) -> None:
    app = kdviz.explore(run, layer="fc1")
    view = replace(app.view, sample="=1+1")
    table = pd.read_csv(io.StringIO(as_csv(app._scene, app.selection, view)))
    assert set(table["sample"]) == {"'=1+1"} and (table["entropy"] < 0).any()


def test_save__on_a_served_page_goes_to_one_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOILA_REQUEST_URL", "http://localhost:8866/")
    app = kdviz.explore(run, layer="fc1")
    assert app.controls["folder"].disabled
    app.controls["folder"].value = str(tmp_path / "elsewhere")  # a page may send what it likes
    app.controls["file_kind"].value = ".csv"
    app.controls["save"].click()
    assert [path.name for path in tmp_path.iterdir()] == ["kdviz-views"]


def test_save_button__writes_and_says_where(
    app: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app.controls["file_kind"].value = ".csv"
    app.controls["save"].click()
    assert (tmp_path / "kdviz-views" / "s0-fc1-epoch5.csv").is_file()
    assert app.outputs["status"].value == "saved kdviz-views/s0-fc1-epoch5.csv"


def test_save__refuses_while_nothing_is_shown(
    app: Explorer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    monkeypatch.setattr(render.GridCanvas, "draw_points", lambda *args, **options: 1 / 0)
    app.selection.epoch = 0
    assert app.failed
    with pytest.raises(ValueError, match="nothing is shown: the last drawing failed"):
        app.save(tmp_path / "view.nc")
    monkeypatch.undo()
    app.selection.epoch = 2
    assert not app.failed and app.save(tmp_path / "view.nc").exists()
