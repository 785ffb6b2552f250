"""A run that is not whole says so first, everywhere, and what it says to do completes it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from run_files import edit_node, plain_files
from test_cli import Call, call  # noqa: F401 - a fixture

import kdviz
from kdviz import reports
from kdviz.analysis import list_networks
from kdviz.errors import StoreError
from kdviz.store import open_run
from kdviz.studies import Study
from kdviz.studies.running import do
from kdviz.studies.work import Workshop

LAYER = "classifier.fc1"


@pytest.fixture
def copy(study: Study, tmp_path: Path) -> Study:
    return Study(shutil.copytree(study.folder, tmp_path / "copy"), study.plan, progress=False)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_incomplete__is_said_first_by_info_report_and_export(
    call: Call,  # noqa: F811
    copy: Study,
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.rmtree(copy.run_path)
    for task in copy.tasks("measure")[:2]:
        do(task)
    page = tmp_path / "report.html"
    monkeypatch.setattr(reports, "write_report", lambda *_, **__: page)
    names = "student-fc1-s0, baseline-s0-repeat, student-fc1-s0-repeat"
    first = f"incomplete: 3 of 5 networks missing: {names}; continue with kdviz measure copy\n"
    for words, status in ((["info", "copy"], 0), (["export", "copy", "run.nc"], 3)):
        done = call(*words)
        assert done.status == status and sorted(done.out.split("\n")[0]) == sorted(first.strip()), done
    done = call("report", "copy")
    told = re.split(" in doubt: | H1, ", " ".join(done.out.split()))[1]
    assert done.status == 3 and sorted(told) == sorted(first.strip()), done
    assert call("info", "run.nc").out.startswith("incomplete: 3 of 5 networks missing: ")
    assert (open_run(copy.run_path).summary()["done"] == 1).all()
    call("measure", "copy", "--no-progress")
    assert plain_files(copy.run_path) == plain_files(study.run_path)
    assert not call("info", "copy").out.startswith("incomplete")
    assert call("report", "copy").status == call("export", "copy", "run.nc", "--overwrite").status == 0
    assert not call("info", "run.nc").out.startswith("incomplete")


def test_incomplete__unfinished_layers_and_missing_maps_are_said(call: Call, copy: Study) -> None:  # noqa: F811
    run = open_run(copy.run_path)
    shutil.rmtree(run.path / "points" / "teacher" / LAYER / "accuracy")
    shutil.rmtree(run.path / "points" / "baseline-s0" / LAYER / "done" / "c" / "1")
    run.expect(copy.contents("attribute"))
    said = run.gaps()
    assert "2 of 5 networks unfinished: " in said and f"teacher ({LAYER}: accuracy)" in said
    assert (
        f"baseline-s0 ({LAYER}: 1 of 3 blocks to do)" in said
        and "3 of 3 results missing: attribution/" in said
    )
    ways = said.split("continue with ")[1].split(", then ")
    assert ways == [f"kdviz measure {copy.folder}", f"kdviz attribute {copy.folder}"]
    for way in ways:
        assert call(*way.split()[1:], "--no-progress").status == 0
    assert open_run(copy.run_path).gaps() == ""


def test_incomplete__a_lost_node_hides_no_network_and_a_repeat_takes_no_place(
    copy: Study, study: Study
) -> None:
    (copy.run_path / "points" / "baseline-s0" / LAYER / "zarr.json").unlink()
    run = open_run(copy.run_path)
    assert run.gaps().startswith("incomplete: 1 of 5 networks missing: baseline-s0; ")
    assert list_networks(run)["baseline-s0-repeat"].repeat_of == "baseline-s0"
    copy.measure()
    assert plain_files(copy.run_path) == plain_files(study.run_path)


def test_incomplete__a_plan_that_has_grown_is_more_than_was_measured(copy: Study) -> None:
    plan = copy.plan.model_copy(update={"training": copy.plan.training.model_copy(update={"seeds": (0, 1)})})
    plan.save(copy.folder)
    grown = Study(copy.folder, plan, progress=False)
    open_run(copy.run_path).expect(grown.contents("measure", "repeat"))
    assert open_run(copy.run_path).gaps().startswith("incomplete: 4 of 9 networks missing: ")


@pytest.mark.parametrize("file", ["gain/c/0/0/0", "accuracy/c/0", "weight_distance/c/0", "epoch/c/0"])
def test_measure__mends_what_is_damaged_and_says_so(call: Call, copy: Study, study: Study, file: str) -> None:  # noqa: F811
    flip_a_bit(copy.run_path / "points" / "baseline-s0" / LAYER / file)
    with pytest.raises(StoreError, match=f"chunk {file} is damaged: .*; kdviz measure .*copy mends it"):
        open_run(copy.run_path).dataset("baseline-s0", LAYER)
    done = call("measure", "copy", "--no-progress")
    assert done.status == 0 and f"is damaged: chunk {file}" in done.err
    assert plain_files(copy.run_path) == plain_files(study.run_path)


def test_attribute__refuses_another_network_than_was_measured(
    copy: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = copy.run_path / "points" / "baseline-s0" / LAYER / "zarr.json"
    measured = node.read_text()
    weights = json.loads(measured)["attributes"]["weights_fingerprint"].split()
    forged = " ".join([*weights[:-1], weights[0]])
    edit_node(node, lambda about: about["attributes"].update(weights_fingerprint=forged))
    with pytest.raises(StoreError, match="baseline-s0 is not the network that was measured: the weights in"):
        copy.attribute()
    node.write_text(measured)
    build = Workshop.build

    def build_otherwise(self: Workshop, *arguments: int, **options: bool) -> torch.nn.Module:
        network = build(self, *arguments, **options)
        for parent in [*network.modules()]:
            for name, module in parent.named_children():
                if isinstance(module, torch.nn.ReLU):
                    setattr(parent, name, torch.nn.Tanh())
        return network

    with monkeypatch.context() as patch:
        patch.setattr(Workshop, "build", build_otherwise)
        with pytest.raises(StoreError, match="is not the network that was measured"):
            copy.attribute()
    run = copy.attribute()
    assert run.results == [f"attribution/{name}" for name in ("baseline-s0", "student-fc1-s0", "teacher")]
    chunk = next((run.path / "attribution" / "teacher" / "attribution" / "c").rglob("0/0/0/0"))
    held = run.result("attribution/teacher")
    flip_a_bit(chunk)
    with pytest.raises(StoreError, match=r"kdviz attribute .*copy mends it"):
        run.result("attribution/teacher")
    np.testing.assert_array_equal(
        copy.attribute().result("attribution/teacher")["attribution"], held["attribution"]
    )
    assert kdviz.open_run(copy.run_path).gaps() == ""


def test_report__says_on_the_page_what_is_missing(copy: Study, tmp_path: Path) -> None:
    for name in ("baseline-s0-repeat", "student-fc1-s0-repeat"):
        shutil.rmtree(copy.run_path / "points" / name)
    page = reports.write_report(copy.run_path, folder=tmp_path / "report", progress=False).read_text()
    said = page.index("incomplete: 2 of 5 networks missing: baseline-s0-repeat, student-fc1-s0-repeat; ")
    assert said < page.index("H1, more points"), "before what it would spoil"
