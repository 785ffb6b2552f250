"""Whole studies on sixteen small images: plans, killed and continued runs, reruns of notebooks, reports."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from nbformat.v4 import new_code_cell, new_notebook
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny_study import OPTIONS, draw_images, finished_study, make_plan

import kdviz
from kdviz import analysis
from kdviz.errors import DataError, StoreError
from kdviz.reports import parse_parameters, read_parameter_file, read_parameters, rerun, write_report
from kdviz.reports.notebooks import _name_results, find_notebook
from kdviz.sources import find_data
from kdviz.studies import Study, StudyPlan
from kdviz.testing import random_images, small_cnn
from kdviz.training import TrainingRecord, evaluate, probe_accuracy

FC1, FC2 = "classifier.fc1", "classifier.fc2"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Finished; read only."""
    return finished_study(tmp_path_factory)


@pytest.fixture(scope="module")
def images(study: Study) -> dict[str, Path]:
    return {"images": study.plan.images, "masks": study.plan.masks}


# -- StudyPlan


def test_plan__defaults_are_the_demo() -> None:
    plan = StudyPlan()
    assert (plan.images, plan.size, plan.architecture) == (None, 48, "small_vgg")
    assert (plan.layers, plan.seeds, plan.epochs, plan.evaluated) == (
        ("conv", "fc1", "fc2"),
        (0,),
        12,
        "train",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": Path("birds")}, "images and masks belong together: give both, or none"),
        ({"masks": Path("birds")}, "images and masks belong together: give both, or none"),
        ({"architecture": "vgg"}, r"unknown architecture 'vgg'; known: alexnet, .*small_vgg, vgg11"),
        ({"size": 64}, "the built-in teacher is a small_vgg for 48 pixels; give images for another network"),
        ({"architecture": "vgg11"}, "the built-in teacher is a small_vgg for 48 pixels"),
        ({"layers": ("fc1", "fc9")}, "unknown layers fc9; small_vgg has conv, fc1, fc2, fc3"),
        ({"layers": ()}, "layers must hold at least one value, each once"),
        ({"layers": ("fc1", "fc1")}, "layers must hold at least one value, each once"),
        ({"seeds": ()}, "seeds must hold at least one value, each once"),
        ({"seeds": (0, 0)}, r"seeds must hold at least one value, each once; got \(0, 0\)"),
        ({"seeds": (-1,)}, r"seeds\.0\n.*greater than or equal to 0"),
        ({"grid": 49}, "a grid of 49 units a side does not fit pictures of 48 pixels"),
        ({"size": 8}, "size\n.*greater than or equal to 16"),
        ({"epochs": 1}, "epochs\n.*greater than or equal to 2"),
        ({"evaluated": "test"}, "evaluated\n.*'train' or 'held-out'"),
        ({"method": "guess"}, "method\n.*'auto', 'gain' or 'path'"),
        ({"grids": 4}, "grids\n.*Extra inputs are not permitted"),
    ],
)
def test_plan__bad_value_is_refused_with_a_sentence(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudyPlan(**changes)


@pytest.mark.parametrize(
    ("epochs", "measured"), [(2, (0, 1, 2)), (5, (0, 1, 2, 4, 5)), (12, (0, 1, 2, 3, 4, 5, 6, 8, 10, 12))]
)
def test_plan__every_epoch_is_measured_at_first_every_second_later(epochs: int, measured: tuple) -> None:
    assert StudyPlan(epochs=epochs).measured_epochs == measured


def test_plan__is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    plan = make_plan({"images": tmp_path / "a", "masks": tmp_path / "b"}, seeds=(3, 1))
    plan.save(tmp_path / "study")
    assert StudyPlan.load(tmp_path / "study") == plan


def test_plan__may_grow_in_seeds_and_layers_only(tmp_path: Path) -> None:
    StudyPlan(layers=("fc1",), seeds=(0, 1)).save(tmp_path)
    grown = StudyPlan(layers=("conv", "fc1"), seeds=(0, 1, 2))
    grown.save(tmp_path)
    assert StudyPlan.load(tmp_path) == grown
    for changes, message in (
        ({"seeds": (0, 1)}, r"holds a study with seeds \(0, 1, 2\), now \(0, 1\); choose another folder"),
        ({"layers": ("fc1", "fc2")}, r"a study with layers \('conv', 'fc1'\), now \('fc1', 'fc2'\)"),
        ({"epochs": 13}, "a study with epochs 12, now 13"),
        ({"evaluated": "held-out"}, "a study with evaluated train, now held-out"),
        ({"measurement_seed": 5}, "a study with measurement_seed 0, now 5"),
    ):
        with pytest.raises(StoreError, match=message):
            grown.model_copy(update=changes).save(tmp_path)
    assert StudyPlan.load(tmp_path) == grown


@pytest.mark.parametrize("contents", ["", "{", '{"epochs": 0}', '{"unknown": 1}', "[]"])
def test_plan__damaged_file_is_named(tmp_path: Path, contents: str) -> None:
    (tmp_path / "plan.json").write_text(contents)
    with pytest.raises(StoreError, match=r"plan\.json is damaged"):
        StudyPlan.load(tmp_path)


def test_plan__missing_file_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no study: there is no plan\.json; begin with kdviz train"):
        StudyPlan.load(tmp_path)


# -- Study


def test_study__measures_every_network_where_it_should(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    rows = run.summary().set_index(["network", "layer"])
    assert rows["role"].to_dict() == {
        ("baseline-s0", FC1): "baseline",
        ("baseline-s0-repeat", FC1): "baseline",
        ("student-fc1-s0", FC1): "student",
        ("student-fc1-s0-repeat", FC1): "student",
        ("teacher", FC1): "teacher",
    }
    assert rows["epochs"].tolist() == [3, 1, 3, 1, 1] and set(rows["done"]) == {1.0}
    about = run.dataset("student-fc1-s0", FC1).attrs
    assert about["distilled_layer"] == FC1 and about["teacher"] == "teacher" and about["training_seed"] == 0
    assert run.dataset("student-fc1-s0-repeat", FC1).attrs["seed"] == about["seed"] + 1 == 1
    head = TrainingRecord.open(study.folder / "networks" / "student-fc1-s0" / "head")
    assert about["accuracy"] == head.history["validation_accuracy"].iloc[-1]


def test_study__samples_are_training_images_with_their_masks(study: Study, images: dict) -> None:
    samples = kdviz.open_run(study.run_path).samples
    everything = kdviz.sources.image_folder(images["images"], masks=images["masks"], size=16)
    chosen = everything.select(samples["sample"].values.tolist())
    assert samples.sizes["sample"] == 4
    np.testing.assert_array_equal(samples["thumbnail"], chosen.images)
    np.testing.assert_array_equal(samples["label"], chosen.labels)
    cells = chosen.masks.reshape(4, 8, 2, 8, 2).mean(axis=(2, 4)).reshape(4, 64)
    assert (
        samples["foreground"].values[cells == 1].all() and not samples["foreground"].values[cells == 0].any()
    )
    assert json.loads(samples.attrs["config"])["classes"] == ["lying", "upright"]


def test_study__student_and_baseline_begin_as_one_network(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    student, baseline = (run.dataset(name, FC1) for name in ("student-fc1-s0", "baseline-s0"))
    for name in ("gain", "entropy", "feature_variance"):
        np.testing.assert_array_equal(student[name][0], baseline[name][0])
        assert not np.array_equal(student[name][-1], baseline[name][-1])
    assert float(student["weight_distance"][0]) == 0 and float(student["weight_distance"][-1]) > 0


def test_study__weight_distance_is_that_of_training(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    for name, folder in (("baseline-s0", "baseline-s0"), ("student-fc1-s0", "student-fc1-s0/features")):
        record = TrainingRecord.open(study.folder / "networks" / folder)
        stored = run.dataset(name, FC1)["weight_distance"]
        np.testing.assert_array_equal(stored.values, record.weight_distance(FC1).values)
        assert stored.attrs["definition"].startswith("step")


def test_study__accuracy_over_training_is_that_of_network_or_head(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    networks = study.folder / "networks"
    baseline = run.dataset("baseline-s0", FC1)["accuracy"]
    record = TrainingRecord.open(networks / "baseline-s0")
    untrained = evaluate(study._build(0), *study._held_out_data)
    np.testing.assert_array_equal(baseline, np.float32([untrained, *record.history["validation_accuracy"]]))
    assert baseline.attrs["definition"] == "the network itself"
    student = run.dataset("student-fc1-s0", FC1)["accuracy"]
    probes = json.loads((networks / "student-fc1-s0" / "probes" / "probes.json").read_text())["epochs"]
    assert sorted(probes) == ["0", "1"], "the head of the last epoch is the student's own"
    head = TrainingRecord.open(networks / "student-fc1-s0" / "head").history["validation_accuracy"].iloc[-1]
    np.testing.assert_array_equal(
        student, np.float32([probes["0"]["accuracy"], probes["1"]["accuracy"], head])
    )
    assert student.attrs["definition"].startswith("a head trained anew above the frozen layer")
    teacher = run.dataset("teacher", FC1)
    assert teacher["accuracy"].values.tolist() == [np.float32(teacher.attrs["accuracy"])]


def test_study__a_probe_of_the_last_epoch_would_be_the_head(study: Study, tmp_path: Path) -> None:
    folder = study.folder / "networks" / "student-fc1-s0"
    last = study.plan.epochs
    found = probe_accuracy(
        study._build(0),
        {last: TrainingRecord.open(folder / "features").checkpoints[last]},
        *study._student_data,
        layer=FC1,
        folder=tmp_path,
        plan=study._training_plan("head", 0),
        validation=study._held_out_data,
        progress=False,
    )
    head = TrainingRecord.open(folder / "head").history["validation_accuracy"].iloc[-1]
    assert float(found[0]) == np.float32(head)


def test_study__pairs_and_tables_follow(study: Study) -> None:
    pairs = analysis.pair_networks(kdviz.open_run(study.run_path), analysis.Settings(threshold=0.05))
    assert list(pairs) == ["fc1"] and pairs["fc1"].teacher is not None
    table = analysis.compare_layers(pairs).set_index("metric")
    assert table.index.tolist() == list(analysis.METRICS)
    assert (table["student"] - table["baseline"]).equals(table["difference"])
    assert analysis.measure_noise_floor(pairs)["role"].tolist() == ["student", "baseline"]


def test_study__called_again_changes_nothing(study: Study, tmp_path: Path) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study")
    again = Study(copy, study.plan, progress=False)
    before = files_of(copy)
    again.train()
    again.measure()
    assert files_of(copy) == before


def test_study__held_out_images_are_others_than_the_trained_ones(study: Study, images: dict) -> None:
    held_out = Study(study.folder, make_plan(images, evaluated="held-out", samples=10), progress=False)
    measured = set(held_out._measured_set.sample_ids)
    trained = set(held_out._training_set.sample_ids)
    assert len(measured) == 4 and len(trained) == 12 and not measured & trained
    assert set(held_out._measured_set.labels.tolist()) == {0, 1}
    assert set(study._measured_set.sample_ids) <= set(study._student_set.sample_ids) <= trained
    assert len(study._student_set) == 10


def test_study__grown_by_a_seed_and_a_layer_keeps_what_is_there(
    study: Study, images: dict, tmp_path: Path
) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study")
    old = kdviz.open_run(study.run_path)
    grown = Study(copy, make_plan(images, layers=("fc1", "fc2"), seeds=(0, 1)), progress=False)
    grown.train()
    run = grown.measure()
    pairs = analysis.pair_networks(run)
    assert {label: (list(pair.students), list(pair.baselines)) for label, pair in pairs.items()} == {
        "fc1": ([0, 1], [0, 1]),
        "fc2": ([0, 1], [0, 1]),
    }
    for name in old.networks:
        xr.testing.assert_identical(run.dataset(name, FC1), old.dataset(name, FC1))


def test_study__other_images_under_the_same_plan_are_refused(study: Study, tmp_path: Path) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study")
    mine = draw_images(tmp_path / "own")
    (copy / "plan.json").unlink()
    lying = mine["images"] / "lying"
    (lying / "0.png").write_bytes((lying / "1.png").read_bytes())
    with pytest.raises(StoreError, match=r"baseline-s0 holds a run that differs in"):
        Study(copy, make_plan(mine), progress=False).train()


def test_train__plan_is_not_kept_when_the_images_cannot_be_read(tmp_path: Path, images: dict) -> None:
    folder = tmp_path / "study"
    with pytest.raises(DataError, match="lacks the masks of 16 images: lying/0"):
        (tmp_path / "empty").mkdir()
        Study(folder, make_plan(images, masks=tmp_path / "empty"), progress=False).train()
    assert not (folder / "plan.json").exists()


def test_measure__before_training_is_finished_says_so(tmp_path: Path, images: dict) -> None:
    plan = make_plan(images)
    plan.save(tmp_path)
    with pytest.raises(StoreError, match=r"no finished training run in .*networks"):
        Study(tmp_path, plan, progress=False).measure()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json"], (
        "no teacher trained, no run made"
    )


def test_measure__needs_every_stage_of_every_student(study: Study, tmp_path: Path) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study", ignore=shutil.ignore_patterns("run.zarr*"))
    (copy / "networks" / "student-fc1-s0" / "head" / "history.json").unlink()
    with pytest.raises(StoreError, match=r"no finished training run in .*student-fc1-s0/head"):
        Study(copy, study.plan, progress=False).measure()
    assert not (copy / "run.zarr").exists()


# -- kill -9


KILL_OFTEN = """
import os, random, signal, sys, time
import torch, torch._dynamo  # optimisers load the latter at their first step
torch.set_num_threads(1)
import kdviz.studies  # everything is imported once; every attempt below is a process of its own
from kdviz import cli

patience, chance, kills = float(sys.argv[1]), random.Random(0), 0
sys.argv = ["kdviz", *sys.argv[2:]]
while True:
    sys.stdout.flush()
    child = os.fork()
    if not child:
        cli.main()
    deadline = time.monotonic() + chance.uniform(0, patience * 1.5**kills)  # ever longer, so that it ends
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            print("kills", kills)
            sys.exit(os.waitstatus_to_exitcode(status))
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
"""


def kill_often(patience: float, *arguments: str | Path) -> int:
    """Call the command line until it ends by itself, killing it before; how often it was killed."""
    command = [sys.executable, "-c", KILL_OFTEN, str(patience), *map(str, arguments), "--no-progress"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = re.search(r"kills (\d+)", done.stdout)
    assert found, done.stdout
    return int(found[1])


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but locks, a run's moment of making left out."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith("lock"):
            content = path.read_bytes()
            if path.name == "zarr.json":
                node = json.loads(content)
                node["attributes"].pop("created_at", None)
                content = json.dumps(node, sort_keys=True).encode()
            files[str(path.relative_to(folder))] = content
    return files


def assert_same_files(ours: Path, theirs: Path) -> None:
    one, two = files_of(ours), files_of(theirs)
    assert sorted(one) == sorted(two)
    assert [name for name in one if one[name] != two[name]] == []


def test_train__killed_at_random_moments_ends_bit_equal(study: Study, images: dict, tmp_path: Path) -> None:
    options = [f"--{name}={value}".replace("_", "-") for name, value in OPTIONS.items() if name != "layers"]
    options += ["--layers=fc1", "--images", images["images"], "--masks", images["masks"]]
    kills = kill_often(0.05, "train", tmp_path / "study", *options)
    assert kills >= 3
    assert_same_files(tmp_path / "study" / "networks", study.folder / "networks")
    assert (tmp_path / "study" / "plan.json").read_bytes() == (study.folder / "plan.json").read_bytes()
    suffixes = {path.suffix for path in (tmp_path / "study" / "networks").rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ""}, "checkpoints and histories were compared"


def test_measure__killed_at_random_moments_ends_bit_equal(study: Study, tmp_path: Path) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study", ignore=shutil.ignore_patterns("run.zarr*"))
    kills = kill_often(0.2, "measure", copy)
    assert kills >= 3
    assert_same_files(copy / "run.zarr", study.run_path)
    ours, theirs = kdviz.open_run(copy / "run.zarr"), kdviz.open_run(study.run_path)
    for network in theirs.networks:
        one, two = ours.dataset(network, FC1), theirs.dataset(network, FC1)
        assert set(one.variables) == set(two.variables)
        for name in two.variables:
            np.testing.assert_array_equal(one[name].values, two[name].values)


# -- notebooks


def write_notebook(path: Path, *cells: str, parameters: str | None = None) -> Path:
    text = (
        parameters
        or 'threshold: float = 0.2  # b in nat\nimages: int = 3\nname: str = ""\nbold: bool = False'
    )
    text += "\nsizes: list = [1]"
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


def test_read_parameters__gives_default_type_and_meaning(small: Path) -> None:
    found = read_parameters(small)
    assert list(found) == ["threshold", "images", "name", "bold", "sizes"]
    assert found["threshold"] == {
        "name": "threshold",
        "inferred_type_name": "float",
        "default": "0.2",
        "help": "b in nat",
    }


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threshold", "parameter 'threshold' is not of the form name=value"),
        ("threshold=high", "parameter threshold needs a float, got 'high'"),
        ("images=", "parameter images needs a int, got ''"),
    ],
)
def test_parse_parameters__refuses_what_it_cannot_read(small: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_parameters(small, [text])


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"treshold": 0.3}, ValueError, "small.ipynb has no parameter 'treshold'; did you mean 'threshold'?"),
        ({"zebra": 1}, ValueError, r"no parameter 'zebra' \(it has threshold, images, name, bold, sizes\)"),
        (
            {"threshold": "0.3"},
            TypeError,
            "parameter threshold of small.ipynb is '0.3', a str; allowed: float",
        ),
        ({"threshold": True}, TypeError, "is True, a bool; allowed: float"),
        ({"images": 2.5}, TypeError, "is 2.5, a float; allowed: int"),
        ({"images": True}, TypeError, "is True, a bool; allowed: int"),
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


def test_rerun__writes_notebook_and_page_named_by_the_parameters(small: Path, tmp_path: Path) -> None:
    before = small.read_bytes()
    page = rerun(small, {"threshold": 1, "name": "a/b é"}, folder=tmp_path / "deep" / "out", progress=False)
    assert re.fullmatch(r"small-name=b_é-threshold=1\.0-[0-9a-f]{8}\.html", page.name)
    assert page.parent == tmp_path / "deep" / "out"
    assert "twice 2.00 a/b é" in page.read_text()
    executed = nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    assert "twice 2.00 a/b é\n" in [out.text for cell in executed.cells for out in cell.outputs]
    assert small.read_bytes() == before


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
    assert text.count("data:image/jpeg;base64") >= 3
    table = analysis.compare_layers(analysis.pair_networks(kdviz.open_run(study.run_path)))
    row = table[table["metric"] == "n_fg"].iloc[0]
    numbers = r"\s+".join(re.escape(f"{row[name]:.2f}") for name in ("student", "baseline", "difference"))
    assert re.search(rf"n_fg\s+0\s+{numbers}", text), "the table of metrics is on the page"
    assert "def " not in text.split("<body")[1] and "run_path" not in text.split("<body")[1], (
        "no code is shown"
    )


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


def test_write_report__run_without_networks_is_refused_at_once(tmp_path: Path) -> None:
    samples = xr.Dataset(coords={"sample": ["bird"], "unit": [0]})
    kdviz.store.create_run(tmp_path / "run", samples=samples)
    with pytest.raises(StoreError, match="holds no measured network"):
        write_report(tmp_path / "run", folder=tmp_path / "report", progress=False)
    assert not (tmp_path / "report").exists()


def test_write_report__missing_run_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no run at"):
        write_report(tmp_path / "none", folder=tmp_path / "report", progress=False)
    assert not (tmp_path / "report").exists()


def test_rerun__larger_threshold_of_the_report_counts_fewer_points(tmp_path: Path) -> None:
    cells = nbformat.read(find_notebook("01_report"), as_version=4).cells
    shown = "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
    page = rerun("01_report", {"threshold": 0.4}, folder=tmp_path, progress=False).read_text()
    loose, strict = (
        np.array(re.findall(r"^\s*\S+ +(?:student|baseline) +\d+ +([\d.]+) +([\d.]+)", text, re.M), float)
        for text in (shown, page)  # as stored, with the default of 0.2, and executed
    )
    assert len(loose) >= 2 and loose.shape == strict.shape
    assert (strict <= loose).all() and strict.sum() < loose.sum()


def test_study__teacher_of_own_images_starts_elsewhere(study: Study) -> None:
    folder = study.folder / "networks"
    teacher, baseline = (
        load_file(folder / name / "epoch-000.safetensors") for name in ("teacher", "baseline-s0")
    )
    assert teacher.keys() == baseline.keys()
    assert not any(torch.equal(teacher[name], baseline[name]) for name in teacher if "weight" in name)


def test_study__measured_images_know_their_split_and_no_path(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    assert set(run.samples["split"].values) == {study.plan.evaluated}
    assert str(study.plan.images) not in str(run.attrs)
    assert 0 <= float(run.group_attrs("teacher", run.layers("teacher")[0])["accuracy"]) <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": (0, 100)}, "seed 100 is the teacher's"),
        ({"layers": ("fc1", "fc3")}, "fc3 gives the logits"),
    ],
)
def test_plan__refuses_what_training_could_not_do(change: dict[str, tuple], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudyPlan(**change)


def test_study__rate_factor_scales_every_learning_rate(tmp_path: Path) -> None:
    plain, slow = (Study(tmp_path, StudyPlan(rate_factor=factor)) for factor in (1.0, 0.5))
    for kind in ("teacher", "baseline", "conv", "fc1", "head"):
        whole, half = (study._training_plan(kind, 0).learning_rate for study in (plain, slow))
        assert half == (0.5 * whole[0], 0.5 * whole[1])


def test_rerun__higher_threshold_of_the_app_shows_fewer_points(tmp_path: Path) -> None:
    def shown(notebook: Path) -> pd.DataFrame:
        cells = nbformat.read(notebook, as_version=4).cells
        (text,) = (
            output.text
            for cell in cells
            for output in cell.get("outputs", [])
            if "fg_ratio" in output.get("text", "")
        )
        rows = re.findall(r"(\d+) +([\d.]+) +([\d.]+) +[\d.]+$", text, re.M)
        return pd.DataFrame(rows, columns=["epoch", "n_fg", "n_bg"]).astype(float)

    page = rerun("02_explore", {"threshold": 0.4}, folder=tmp_path, progress=False)
    loose, strict = shown(find_notebook("02_explore")), shown(page.with_suffix(".ipynb"))
    assert len(loose) >= 5 and loose["epoch"].equals(strict["epoch"])
    assert (strict <= loose).all(axis=None) and strict["n_fg"].sum() < loose["n_fg"].sum()
    assert "data:image/jpeg;base64" in page.read_text(), (
        "the page shows the view although the app is not live"
    )


def test_rerun__takes_the_settings_the_app_saves(tmp_path: Path) -> None:
    app = kdviz.explore(find_data("runs/fashion.nc"), layer="fc2", epoch=4, threshold=0.15)
    parameters = read_parameter_file(app.save(tmp_path / "view.yaml"))
    assert set(parameters) == set(read_parameters(find_notebook("02_explore")))
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
