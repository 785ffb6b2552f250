"""Named studies done: arms side by side, networks shared, stopped and continued, counted and foretold."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_study import SIDE, draw_images, run_light

from kdviz import cli
from kdviz.errors import DataError, StoreError
from kdviz.studies import Series, Study, find_study
from kdviz.studies.costs import estimate_costs, sum_costs
from kdviz.studies.forecast import Forecast
from kdviz.studies.work import Workshop
from kdviz.training import TrainingRecord

FC1 = "classifier.fc1"


def write(folder: Path, images: Path, **presets) -> str:
    """A study of two grids in one data set, whose networks are the same."""
    data = {
        "kind": "image-folder",
        "size": SIDE,
        "images": str(images / "images"),
        "masks": str(images / "masks"),
    }
    plan = {
        "data": data,
        "networks": {"layers": ["fc1"], "teacher": {"kind": "trained", "epochs": 2}},
        "training": {"count": 10, "epochs": 2},
        "measurement": {"samples": 4, "grid": 8},
    }
    arms = [
        {"network": {"small VGG": {}}, "setting": {"8": {}, "4": {"measurement": {"grid": 4}}}, **presets},
    ]
    told = {
        "title": "Grids",
        "question": "Do they matter?",
        "table": "III",
        "presets": {"tiny": {"plan": plan, "arms": arms}},
    }
    path = folder / "grids.yaml"
    path.write_text(yaml.safe_dump(told, sort_keys=False))
    return str(path)


def open_series(path: str, folder: Path, changes: tuple[str, ...] = (), progress: bool = False) -> Series:
    study = find_study(path)
    return Series("grids tiny", study, study.arms("tiny", changes), folder, progress)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The whole, done once; read only."""
    folder = tmp_path_factory.mktemp("series")
    draw_images(folder / "pictures")
    series = open_series(write(folder, folder / "pictures"), folder / "runs")
    series.run()
    return series


def inodes(study: Study, name: str) -> set[int]:
    return {path.stat().st_ino for path in (study.folder / "networks" / name).rglob("*") if path.is_file()}


def test_run__arms_that_train_alike_share_every_file_of_their_networks(finished):
    (_, one), (_, other) = finished.parts
    assert one.folder != other.folder
    for name in ("teacher", "baseline-s0", "student-fc1-s0"):
        shared = inodes(one, name) & inodes(other, name)
        assert len(shared) > 3 and any(
            "history" in path.name for path in (other.folder / "networks" / name).rglob("*")
        )
    runs = [Study(one.folder, one.plan).measure() for one in (one, other)]  # nothing is left: they are opened
    assert [run.dataset("teacher", FC1).sizes["unit"] for run in runs] == [64, 16]


def test_run__a_network_that_is_taken_over_is_what_would_have_been_trained(finished, tmp_path):
    _, other = finished.parts[1]
    alone = Study(tmp_path / "alone", other.plan, progress=False)
    alone.train()
    run, twin = alone.measure(), Study(other.folder, other.plan, progress=False).measure()
    for name in ("teacher", "baseline-s0", "student-fc1-s0"):
        for variable in ("gain", "accuracy"):
            np.testing.assert_array_equal(run.dataset(name, FC1)[variable], twin.dataset(name, FC1)[variable])


def test_run__other_trainings_are_not_taken_over(finished):
    series = open_series(
        write(finished.folder.parent, finished.folder.parent / "pictures"),
        finished.folder,
        ("training.epochs=3",),
    )
    (_, one), *_ = series.parts
    assert one.folder not in {study.folder for _, study in finished.parts}
    workshop = Workshop(one)
    workshop.begin()
    for subject in one.subjects():
        workshop.take_over(subject)
        assert one.network_folder(subject).is_dir() == (subject.role == "teacher")


def test_run__equal_arms_of_two_studies_are_one_folder(finished, tmp_path):
    path = write(tmp_path, finished.folder.parent / "pictures", dataset={"bars": {}})
    again = open_series(path, finished.folder)
    assert [study.folder for _, study in again.parts] == [study.folder for _, study in finished.parts]
    assert again.status()["trained"].tolist() == ["3 of 3"] * 2 and not any(again.left().values())


def test_place__data_elsewhere_are_another_arm(finished, tmp_path):
    one, other = (open_series(write(tmp_path, tmp_path / name), tmp_path / "runs") for name in ("a", "b"))
    assert not {study.folder for _, study in one.parts} & {study.folder for _, study in other.parts}


def test_left__of_an_arm_says_nothing_of_another_with_other_data(finished, tmp_path):
    study = find_study(str(finished.folder.parent / "grids.yaml"))
    ours = study.arms("tiny")[0]
    images = tmp_path / "gone"
    data = ours.plan.data.model_copy(update={"images": images})
    theirs = replace(ours, labels={"network": "other"}, plan=ours.plan.model_copy(update={"data": data}))
    both = Series("both", study, [ours, theirs], finished.folder, progress=False)
    assert [len(tasks) for tasks in both.left().values()] == [0, 11]


def test_run__further_seeds_grow_the_arm_and_fewer_leave_it(finished, tmp_path):
    folder = tmp_path / "runs"
    path = write(tmp_path, finished.folder.parent / "pictures")
    both = open_series(path, folder, ("training.seeds=[0, 1]", "networks.teacher.epochs=1"))
    assert [len(tasks) for tasks in both.left().values()] == [19, 19]
    first = open_series(path, folder, ("training.seeds=[1]", "networks.teacher.epochs=1"))
    first.run()
    assert both.status()["trained"].tolist() == ["3 of 5"] * 2
    grown = open_series(path, folder, ("training.seeds=[0, 1]", "networks.teacher.epochs=1"))
    assert [study.plan.training.seeds for _, study in grown.parts] == [(1, 0)] * 2


def test_status_and_readings__tell_what_is_there(finished, tmp_path):
    table = finished.status()
    assert table["trained"].tolist() == ["3 of 3"] * 2 and table["measured"].tolist() == ["5 of 5"] * 2
    assert [arm.labels for arm in finished.readings()] == [
        {"network": "small VGG", "setting": "8"},
        {"network": "small VGG", "setting": "4"},
    ]
    path = write(tmp_path, finished.folder.parent / "pictures")
    nothing = open_series(path, tmp_path / "none")
    assert nothing.status()["trained"].tolist() == ["0 of 3"] * 2
    with pytest.raises(StoreError, match=r"nothing of grids tiny is measured in .*none yet"):
        nothing.readings()


def test_readings__are_told_beside_the_setting(finished, tmp_path):
    path = write(tmp_path, finished.folder.parent / "pictures", readings={"b 0.1": {"threshold": 0.1}})
    one, _ = open_series(path, finished.folder).readings()
    assert one.labels == {"network": "small VGG", "setting": "8, b 0.1"} and one.settings.threshold == 0.1


def test_run__missing_data_are_told_before_anything_is_trained(tmp_path):
    series = open_series(write(tmp_path, tmp_path / "nowhere"), tmp_path / "runs")
    with pytest.raises(DataError, match=r"small VGG, 8: images \(--images\) is not a folder"):
        series.run()
    assert not (tmp_path / "runs").exists()
    assert [arm.name for arm, _ in series.missing()] == ["small VGG, 8", "small VGG, 4"]


def test_run__killed_and_called_again_it_ends_with_the_same(finished, tmp_path):
    path, folder = write(tmp_path, finished.folder.parent / "pictures"), tmp_path / "runs"
    call = [sys.executable, "-m", "kdviz", "study", "run", path, "--preset", "tiny", "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for marker in ("networks/baseline-s0/history.json", "run.zarr"):
        process = subprocess.Popen(
            call, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while process.poll() is None and not [*folder.glob(f"*/{marker}")]:
            pass
        process.kill()
        process.wait()
    subprocess.run(call, env=environment, check=True, capture_output=True)
    again = open_series(path, folder)
    for (_, one), (_, other) in zip(again.parts, finished.parts, strict=True):
        for name in ("baseline-s0", "student-fc1-s0/features"):
            files = [TrainingRecord.open(study.folder / "networks" / name).files for study in (one, other)]
            assert files[0] == files[1]
        runs = [Study(study.folder, study.plan).measure() for study in (one, other)]
        gains = [run.dataset("student-fc1-s0", FC1)["gain"] for run in runs]
        np.testing.assert_array_equal(*gains)


def test_command__finished_it_loads_nothing_heavy_and_says_what_is_next(finished):
    path = str(finished.folder.parent / "grids.yaml")
    before = {one: one.stat().st_mtime_ns for one in finished.folder.rglob("*") if one.is_file()}
    for command in ("run", "status"):
        told = run_light("study", command, path, "--preset", "tiny", "--folder", str(finished.folder))
        assert told.count("3 of 3   5 of 5") == 2
        assert f"next  kdviz study report {path} --preset tiny --folder {finished.folder}\nloaded []" in told
    assert {one: one.stat().st_mtime_ns for one in finished.folder.rglob("*") if one.is_file()} == before


@pytest.mark.slow
def test_command__report_writes_a_page_of_the_arms_that_are_measured(finished, tmp_path, capsys):
    pytest.importorskip("papermill")
    path = write(tmp_path, finished.folder.parent / "pictures", readings={"b 0.1": {"threshold": 0.1}})
    folder = tmp_path / "runs"
    folder.mkdir()
    for _, study in finished.parts[:1]:  # the other arm is not begun
        (folder / study.folder.name).symlink_to(study.folder)
    command = ["study", "report", path, "--preset", "tiny", "--folder", str(folder), "--no-progress"]
    cli.app(command, standalone_mode=False)
    told = capsys.readouterr().out
    assert "left out: small VGG, 4, 0 of 3 networks are measured" in told
    assert "H1, more points, and more of them on the foreground:" in told and "(1 seed)" in told
    page = folder / "reports" / "grids-tiny.html"
    assert f"page      {page}" in told
    text = page.read_text()
    assert "Grids\nDo they matter?\nleft out: small VGG, 4" in text and "b 0.1" in text and "chance" in text


def test_plan__counts_the_passes_that_measuring_then_takes(finished, tmp_path):
    """The same estimate as of the trained networks, which their own tests hold against counted passes."""
    _, study = finished.parts[0]
    student = [task for task in study.tasks("measure", "repeat") if task.subject.name == "student-fc1-s0"]
    (told,) = estimate_costs([(study, [*study.tasks("train"), *student])])
    costs = {what: sum_costs(told.items, what) for what in ("train", "measure")}
    known = [
        Workshop(study).plan_measurement(one.subject, one.action == "repeat").estimate() for one in student
    ]
    assert costs["measure"].passes == tuple(np.sum([one.passes for one in known], axis=0))
    assert costs["measure"].disk == sum(one.disk for one in known)
    assert costs["measure"].memory == max(one.memory for one in known)
    assert costs["measure"].flops == tuple(np.sum([one.flops for one in known], axis=0))
    # 13 of 16 images to train on, 10 of them for students; 3 unseen; a head looks at all of these at 3 epochs
    teacher, baseline, student_passes = 2 * 2 * 12 + 2 * 4, 2 * 2 * 10 + 2 * 4, 2 * 2 * 10 + 3 * (10 + 4)
    assert costs["train"].passes == (teacher + baseline + student_passes,) * 2


def test_plan__networks_that_arms_train_alike_count_once(finished, tmp_path):
    path = write(tmp_path, finished.folder.parent / "pictures")
    fresh = open_series(path, tmp_path / "runs")
    one, other = (costs.items for costs in fresh.list_costs())
    assert [item.shared for item in one] == [False] * len(one)
    assert [item.shared for item in other] == [item.kind == "train" for item in other]
    assert sum_costs(other, "train").networks == 0 and sum_costs(one, "train").networks == 3
    assert sum_costs(one, "measure").networks == sum_costs(other, "measure").networks == 5
    (_, first), (_, second) = finished.parts  # what is there already is taken over as well
    _, told = estimate_costs([(first, []), (second, second.tasks("train"))])
    assert [item.shared for item in told.items] == [True] * 3
    tasks = first.tasks("measure")
    _, again = estimate_costs([(first, tasks), (first, tasks)])  # equal arms are one folder
    assert [item.shared for item in again.items] == [True] * len(tasks)


def test_plan__says_of_which_arms_the_encoder_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arms = find_study("vi").arms("paper")
    table = Series("vi paper", find_study("vi"), arms, tmp_path / "runs", progress=False).estimate()
    assert list(table) == ["arm", "what"] and len(table) == len(arms)
    assert table["what"].str.startswith("not estimated: tokenizer is not a folder").all()


def test_plan__a_network_is_tried_once(finished, tmp_path, monkeypatch):
    path = write(tmp_path, finished.folder.parent / "pictures")
    made = []
    build = Workshop.build
    monkeypatch.setattr(
        Workshop, "build", lambda self, *given, **asked: made.append(1) or build(self, *given, **asked)
    )
    assert len(open_series(path, tmp_path / "runs").estimate()) == 4  # the second arm trains nothing more
    assert made == [1], "teacher, baselines and students of both arms are alike"


def test_plan__stands_in_for_data_that_are_not_there(tmp_path, capsys):
    path = write(tmp_path, tmp_path / "nowhere")
    cli.app(
        ["study", "plan", path, "--preset", "tiny", "--folder", str(tmp_path / "runs"), "--no-progress"],
        standalone_mode=False,
    )
    told = capsys.readouterr().out
    assert "missing  small VGG, 8: images (--images) is not a folder" in told and "measure" in told
    assert not (tmp_path / "runs").exists()


def test_plan__stands_in_for_the_teachers_data_and_times_networks_alike_once(tmp_path, monkeypatch):
    path = write(tmp_path, tmp_path / "nowhere")
    elsewhere = f"{{kind: image-folder, size: {SIDE}, images: {tmp_path / 'gone'}}}"
    series = open_series(path, tmp_path / "runs", (f"networks.teacher.data={elsewhere}",))
    assert len([*series.missing()]) == 2
    tried: list[str] = []
    plan_measurement = Workshop.plan_measurement
    monkeypatch.setattr(
        Workshop,
        "plan_measurement",
        lambda self, subject, repeat=False: tried.append(subject.name) or plan_measurement(self, subject),
    )
    table = series.estimate()
    assert table["what"].tolist() == ["train", "measure", "measure", ""]  # trained once for both arms
    assert tried == ["teacher"]  # of one architecture and input; on how many cells is counted


def test_forecast__adds_up_what_is_known_and_says_when_more_is_to_come(finished, capsys, monkeypatch):
    (arm, study), _ = finished.parts
    tasks = study.tasks("train", "measure")
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Forecast("whole", {arm.name: tasks}) as forecast:
        count = forecast.begin(arm.name)
        now[0] += 20
        count(tasks[0])  # the teacher's training: two others, of other roles, take as long
        assert forecast.remaining == f"more than {timedelta(seconds=40)}"
        measuring = next(
            task for task in tasks if task.action == "measure" and task.subject.role == "baseline"
        )
        now[0] += 2
        count(measuring)  # one of three epochs, one block each; as many of the student, one of the teacher
        assert forecast.remaining == f"about {timedelta(seconds=40 + 2 * 2 + 3 * 2 + 2)}"
    told = capsys.readouterr().err
    assert told == "whole: 1 of 10, more than 0:00:40 left: small VGG, 8, train teacher\n"
