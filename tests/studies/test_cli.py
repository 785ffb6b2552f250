"""What the command line prints and refuses; one study of sixteen small images serves all commands."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import nbformat
import pandas as pd
import pytest
import typer
import xarray as xr
from nbformat.v4 import new_code_cell, new_notebook

import kdviz
from kdviz import cli, reports, studies
from kdviz.errors import DegenerateWarning
from kdviz.reports import notebooks
from kdviz.studies import Study, StudyPlan

BEGIN = (
    "out holds no study to continue; begin one with --modality image (the built-in images), --images with "
    "--masks, --texts, --clouds, or --plan FILE"
)
COMMANDS = (
    *("demo", "train", "measure", "attribute", "coherency", "transfer", "unicam"),
    *("report", "rerun", "info", "export", "explore"),
)


class Outcome(NamedTuple):
    """How a call ended and what it printed."""

    status: int
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run ``kdviz ARGUMENTS`` in this process and an empty folder, with what a real exit would print."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer sets its own

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["kdviz", *map(str, arguments)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as exit:
            cli.main()
        code, (out, err) = exit.value.code, capsys.readouterr()
        if isinstance(code, str):
            return Outcome(1, out, f"{err}{code}\n")
        return Outcome(code or 0, out, err)

    return run


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    cells = [
        new_code_cell("threshold: float = 0.2\nimages: int = 3", metadata={"tags": ["parameters"]}),
        new_code_cell("assert images < 9, 'too many'\nprint(f'b is {threshold:.2f}')"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "small.ipynb")
    return tmp_path / "small.ipynb"


# -- help


def test_help__lists_every_command(call: Call) -> None:
    listed = re.findall(r"^  (\w+)  ", call("--help").out.split("Commands:")[1], re.M)
    assert tuple(listed) == (*COMMANDS, "study")
    assert call() == call("--help")


@pytest.mark.parametrize("command", COMMANDS)
def test_help__of_every_command_has_an_example_that_parses(call: Call, command: str) -> None:
    done = call(command, "--help")
    assert done.status == 0
    (example,) = re.findall(rf"Example: kdviz {command}(.*(?:\n    .*)*)", done.out)
    context = typer.main.get_command(cli.app).commands[command].make_context(command, example.split())
    assert context.params


@pytest.mark.parametrize("command", ["list", "show", "plan", "run", "status", "report"])
def test_help__of_every_command_of_study_has_an_example_that_parses(call: Call, command: str) -> None:
    done = call("study", command, "--help")
    (example,) = re.findall(rf"Example: kdviz study {command}(.*)", done.out)
    group = typer.main.get_command(cli.app).commands["study"]
    assert group.commands[command].make_context(command, example.split()).command.name == command


# -- refusals: one line, status 1, no traceback


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("info none", "there is no run at none"),
        ("info .", "is a folder but not a run: it has no group 'points'"),
        ("export none file.nc", "there is no run at none"),
        ("report none", "there is no run at none"),
        (
            "report none --threshold 0",
            "threshold (--threshold) must be a positive number, 1e-30 to 1e+30, got",
        ),
        ("measure none", "none holds no study: there is no study.yaml; begin with kdviz train"),
        (
            "train out --layers fc1,fc9",
            "networks.layers (--layers) names 'fc9'; allowed of small_vgg: conv, fc1, fc2, fc3",
        ),
        ("train out --architecture vgg", "networks.architecture (--architecture) is 'vgg'; did you mean"),
        (
            "train out -s measurement.samples=1 -s measurement.grid=0",
            "measurement.samples: Input .*; measurement.grid: Input should be ",
        ),
        ("train out -s measurement.part=test", "measurement.part: Input should be 'train' or 'held-out'"),
        ("train out -s training.epoch=4", "training.epoch: unknown; did you mean 'epochs' or 'head_epochs'?"),
        ("train out -s trainin.x=4", "trainin: unknown; did you mean 'training'?"),
        ("train out -s data.siz=4", "data.fashion-composites.siz: unknown; did you mean 'size'?"),
        (
            "train out -s networks.teacher.kind=trained -s networks.teacher.x=1",
            "networks.teacher.trained.x: unknown; allowed: architecture, layers, kind, encoder, start, data",
        ),
        ("train out -s epochs", "'epochs' is not of the form name=value"),
        ("train out --plan none.yaml", "cannot read none.yaml: No such file or directory"),
        *[(command, BEGIN) for command in ("train out", "train out --device cpu --no-progress")],
        (
            "train out --texts a.tsv --clouds b",
            "pass one kind of data: --images, --texts or --clouds, got --t",
        ),
        ("train out --masks photos", "--masks goes with --images: give that, too"),
        ("train out --texts a.tsv --masks photos", "--masks goes with --images, not with --texts: leave it"),
        ("train out --rate-factor 0", "training.rate_factor (--rate-factor): Input should be greater than 0"),
        ("train out -s training.rate_factor=0", "training.rate_factor (--rate-factor): Input should be "),
        (
            "train out --images . --size 4",
            "data.image-folder.size (--size): Input should be greater than or ",
        ),
        ("train out --images photos --masks photos", r"images \(--images\) is not a folder: .*/photos"),
        ("train out --images . --masks photos", r"masks \(--masks\) is not a folder: .*/photos"),
        ("train out --clouds meshes", r"root \(data.folder, --clouds\) is not a folder: .*/meshes"),
        ("rerun 99_none", "there is no notebook '99_none'; with kdviz come 01_report"),
        (
            "rerun 05 -p run_path=a",
            "no parameter 'run_path'; 01_report, 02_explore, .*, 10_transfer, 11_unicam take it; al",
        ),
        ("rerun 01 -p treshold=0.3", "has no parameter 'treshold'; did you mean 'threshold'?"),
        ("rerun 01 -p threshold=high", "threshold of 01_report.ipynb is 'high', a str; allowed: float"),
        ("rerun 01 -p shown_samples=2.5", "shown_samples of 01_report.ipynb is 2.5, a float; allowed: int"),
        ("rerun 01 -p threshold", "parameter 'threshold' is not of the form name=value"),
    ],
)
def test_main__mistake_gives_one_line_and_leaves_nothing(
    call: Call, tmp_path: Path, arguments: str, message: str
) -> None:
    done = call(*arguments.split())
    assert done.status == 1 and done.out == ""
    assert re.fullmatch(rf"kdviz: .*{message if '.*' in message else re.escape(message)}.*\n", done.err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train out --seeds 0", "Invalid value for '--seeds'"),
        ("train out --seeds two", "Invalid value for '--seeds'"),
        ("train out --size large", "Invalid value for '--size'"),
        ("train", "Missing argument"),
        ("explode", "No such command 'explode'"),
        ("info a b", "unexpected extra argument"),
    ],
)
def test_main__wrong_usage_is_answered_with_the_usage(call: Call, arguments: str, message: str) -> None:
    done = call(*arguments.split())
    assert done.status == 2 and re.match(r"Usage: .*kdviz ", done.err) and message in done.err


def test_train__images_without_masks_are_named(call: Call, study: Study, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    done = call("train", "out", "--images", study.plan.data.images, "--masks", "masks", "--size", 16)
    assert done.status == 1
    assert re.fullmatch(r"kdviz: .*/masks lacks the masks of 16 images: lying/0\.png, .*\n", done.err)
    assert not (tmp_path / "out").exists(), "the corrected command must find the folder free"


def test_train__folder_alone_goes_on_with_its_plan(call: Call, study: Study) -> None:
    done = call("train", study.folder)
    assert done.status == 0 and f"next      kdviz measure {study.folder}" in done.out


def test_train__built_in_images_are_asked_for(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[StudyPlan] = []
    monkeypatch.setattr(Study, "train", lambda self, workers: asked.append(self.plan))
    monkeypatch.setattr(Study, "tell_accuracies", lambda self: "")
    assert call("train", "out", "--modality", "image").status == 0
    assert asked == [StudyPlan()]


@pytest.mark.parametrize("options", [[], ["--modality", "image"]])
def test_train__without_torch_names_the_extra(tmp_path: Path, options: list[str]) -> None:
    if not options:
        StudyPlan().save(tmp_path / "out")
    script = "import sys; sys.modules['torch'] = None; from kdviz.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "train", "out", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "kdviz: this needs torch: install kdviz[vision], or kdviz[text] for a study of texts\n",
    )


def test_train__changed_plan_is_refused(call: Call, tmp_path: Path) -> None:
    StudyPlan().save(tmp_path / "out")
    done = call("train", "out", "-s", "training.epochs=13")
    assert done.err == "kdviz: out holds a study with training.epochs 12, now 13; choose another folder\n"


def test_train__takes_a_file_and_single_values(call: Call, study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.folder, tmp_path / "copy")
    done = call("train", "copy", "--plan", study.folder / "study.yaml", "-s", "training.seeds=[0, 1]")
    assert done.status == 0, done.err
    plan = StudyPlan.load(tmp_path / "copy")
    assert plan.training.seeds == (0, 1) and plan.measurement == study.plan.measurement
    assert (tmp_path / "copy" / "networks" / "student-fc1-s1" / "accuracy.json").exists()
    done = call("train", "copy", "--seeds", 2)
    assert done.status == 0, "what is not asked for stays as it is in the folder"
    assert StudyPlan.load(tmp_path / "copy") == plan


def test_train_and_measure__work_without_what_reports_need(
    call: Call, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("papermill", "nbconvert", "nbformat"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("kdviz.reports")]:
        monkeypatch.delitem(sys.modules, name)
    assert call("train", study.folder).status == 0
    assert call("measure", study.folder, "--no-progress").status == 0
    done = call("report", study.folder)
    assert (done.status, done.err) == (
        1,
        "kdviz: notebooks need papermill and nbconvert: install kdviz[lab]\n",
    )


def test_train_and_measure__take_device_and_workers(
    call: Call, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, str | None]] = []
    monkeypatch.setattr(Study, "train", lambda self, workers: asked.append((self.device, workers)))
    monkeypatch.setattr(
        Study,
        "measure",
        lambda self, workers: asked.append((self.device, workers)) or kdviz.open_run(self.folder),
    )
    call("train", study.folder, "--device", "cuda")
    call("measure", study.folder, "--device", "cuda:1", "--workers", "2")
    assert asked == [("cuda", None), ("cuda:1", "2")]


def test_measure__before_training_says_so(call: Call, tmp_path: Path) -> None:
    StudyPlan().save(tmp_path / "out")
    done = call("measure", "out", "--no-progress")
    assert done.status == 1
    assert re.fullmatch(r"kdviz: no finished training run in out/networks/baseline-s0.*\n", done.err)


def test_measure__plan_says_what_is_left_and_does_nothing(call: Call, study: Study, tmp_path: Path) -> None:
    done = call("measure", study.folder, "--plan", "--no-progress")
    assert done == Outcome(0, f"no entropy is left to measure\nnext  kdviz report {study.folder}\n", "")
    shutil.copytree(study.folder, tmp_path / "copy")
    shutil.rmtree("copy/run.zarr/points/student-fc1-s0")
    before = sorted(Path("copy").rglob("*"))
    done = call("measure", "copy", "--plan", "--no-progress")
    assert sorted(Path("copy").rglob("*")) == before
    *lines, every, _, following = done.out.splitlines()
    samples, epochs = study.plan.measurement.samples, len(study.plan.training.measured_epochs)
    assert [line.partition(" samples")[0].split() for line in lines] == [
        ["student-fc1-s0", f"{samples * epochs}"]
    ]
    assert every.split() == ["all", *lines[0].split()[1:]]
    assert re.search(r"epochs: [\d,]+ to [\d,]+ passes, .* (s|h) here, [\d,]+ MB at a time", every)
    assert following == "next  kdviz measure copy"


def test_measure__out_of_memory_is_one_sentence(
    call: Call, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(self: Study, workers: None) -> None:
        raise MemoryError("out of memory with 16 samples in one pass")

    monkeypatch.setattr(Study, "measure", run_out)
    done = call("measure", study.folder, "--no-progress")
    assert (done.status, done.err) == (1, "kdviz: out of memory with 16 samples in one pass\n")


def test_attribute__stores_maps_and_says_what_is_next(call: Call, study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.folder, tmp_path / "copy")
    done = call("attribute", "copy", "--no-progress")
    assert done == Outcome(
        0,
        "maps  attribution/baseline-s0, attribution/student-fc1-s0, attribution/teacher\n"
        "run   copy/run.zarr\n"
        "next  kdviz report copy, or kdviz rerun 04_baselines -p run_path=copy/run.zarr\n",
        "",
    )
    assert kdviz.open_run("copy/run.zarr").result("attribution/teacher")["attribution"].notnull().all()
    shutil.rmtree("copy/run.zarr/attribution/teacher")
    assert {*re.findall(r"attributing \S+", call("attribute", "copy").err)} == {"attributing teacher:"}
    shutil.rmtree("copy/run.zarr")
    done = call("attribute", "copy", "--no-progress")
    assert (done.status, done.err) == (1, "kdviz: copy is not measured yet; first kdviz measure copy\n")


@pytest.mark.parametrize("command", ["attribute", "coherency", "transfer", "unicam"])
def test_attribute__of_a_study_takes_no_network_of_the_users(call: Call, study: Study, command: str) -> None:
    done = call(command, study.folder, "--network", "os:getcwd")
    assert (
        done.err == f"kdviz: {study.folder} is a study, which builds its own networks: leave --network out\n"
    )


def test_export__existing_file_is_kept_unless_told(call: Call, study: Study, tmp_path: Path) -> None:
    target = tmp_path / "run.nc"
    target.write_text("precious")
    done = call("export", study.folder, target)
    assert done.status == 1 and re.fullmatch(r"kdviz: .*run\.nc exists.*overwrite.*\n", done.err)
    assert target.read_text() == "precious"
    assert call("export", study.folder, target, "--overwrite").status == 0
    assert kdviz.open_run(target).networks == kdviz.open_run(study.run_path).networks


def test_main__strict_shows_the_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kdviz", "info", "none"])
    monkeypatch.setenv("KDVIZ_STRICT", "1")
    with pytest.raises(OSError, match="there is no run at none"):
        cli.main()


@pytest.mark.parametrize("strict", ["0", "1"])
def test_main__as_a_process(tmp_path: Path, strict: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from kdviz.cli import main; main()", "info", "none"],
        cwd=tmp_path,
        env={**os.environ, "KDVIZ_STRICT": strict},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    if strict == "0":
        assert done.stderr == "kdviz: there is no run at none\n"
    else:
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1] == "kdviz.errors.StoreError: there is no run at none"


def test_main__diverged_training_is_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(path: object) -> None:
        raise FloatingPointError("the loss is NaN in epoch 3; lower the learning rate")

    monkeypatch.setattr(kdviz, "open_run", diverge)
    assert call("info", "any").err == "kdviz: the loss is NaN in epoch 3; lower the learning rate\n"


def test_main__warnings_are_notes_on_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, study: Study
) -> None:
    def warn(path: Path) -> kdviz.store.Run:
        warnings.warn("masks are empty", DegenerateWarning, stacklevel=1)
        return kdviz.store.open_run(path)

    monkeypatch.setattr(kdviz, "open_run", warn)
    done = call("info", study.folder)
    assert done.status == 0 and done.err == "kdviz: note: masks are empty\n"


# -- what works, and the next step


def test_info__says_what_a_run_holds(call: Call, study: Study) -> None:
    done = call("info", study.folder)
    assert done.status == 0 and done.err == ""
    assert "4 samples, 64 units" in done.out
    assert re.search(r"student-fc1-s0 +student +classifier\.fc1 +3 +4 +1\.0", done.out)
    assert re.search(r"dataset_id +image folder images, 16 x 16\n", done.out)
    assert re.search(rf"kdviz_version +{re.escape(kdviz.__version__)}\n", done.out)
    assert call("info", study.run_path).out == done.out


def test_export__writes_one_file_that_info_reads(call: Call, study: Study) -> None:
    done = call("export", study.folder, "run.nc")
    assert re.fullmatch(r"file  run\.nc \(\d+\.\d MiB\)\nnext  kdviz info run\.nc\n", done.out)
    again = call("info", "run.nc")
    assert again.out.split("\n", 1)[1] == call("info", study.folder).out.split("\n", 1)[1]


def test_train_and_measure__continue_a_finished_study_and_name_the_next_step(
    call: Call, study: Study
) -> None:
    words = ["--images", study.plan.data.images, "--masks", study.plan.data.masks, "--layers", "fc1"]
    words += ["--size", 16, "--teacher-epochs", 2, "-s", "training.epochs=2", "-s", "training.count=10"]
    words += ["-s", "measurement.grid=8", "--no-progress"]
    done = call("train", study.folder, *words)
    accuracy, *rest = done.out.splitlines()
    assert rest == [f"networks  {study.folder / 'networks'}", f"next      kdviz measure {study.folder}"]
    told = re.fullmatch(r"accuracy  held out, chance (\d\.\d\d): (.*)", accuracy)
    assert told is not None
    finals = {one.name: [*study.accuracies(one)[0].values()][-1] for one in study.subjects()}
    assert told[2] == ", ".join(f"{name} {value:.2f}" for name, value in finals.items())
    done = call("measure", study.folder, "--no-progress")
    assert done.status == 0 and "student-fc1-s0-repeat" in done.out
    assert done.out.endswith(f"run   {study.run_path}\nnext  kdviz report {study.folder}\n")


def test_rerun__executes_with_the_parameters(call: Call, notebook: Path, tmp_path: Path) -> None:
    done = call(
        "rerun", notebook, "-p", "threshold=0.3", "-p", "images=4", "--folder", "out", "--no-progress"
    )
    stem = "out/small-images=4-threshold=0.3"
    assert done.out == f"page      {stem}.html\nnotebook  {stem}.ipynb\n"
    assert "b is 0.30" in (tmp_path / f"{stem}.html").read_text()


def test_rerun__failing_cell_is_one_line(call: Call, notebook: Path) -> None:
    done = call("rerun", notebook, "-p", "images=9", "--no-progress")
    assert done.status == 1
    last = done.err.splitlines()[-1]
    assert re.match(r"kdviz: cell 3 of small\.ipynb failed with AssertionError: too many \(see runs/", last)


def test_report__names_page_notebook_and_next_step(
    call: Call, study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = {}

    def write(run: Path, *, folder: Path, threshold: float | None, progress: bool) -> Path:
        asked.update(run=run, folder=folder, threshold=threshold, progress=progress)
        return folder / "report.html"

    monkeypatch.setattr(reports, "write_report", write)
    done = call("report", study.folder, "--no-progress")
    beside = study.folder / "report"
    assert asked == {"run": study.run_path, "folder": beside, "threshold": None, "progress": False}
    verdict, _, end = done.out.partition("\n\nreport    ")
    answers = kdviz.analysis.give_verdict(kdviz.open_run(study.run_path))
    assert verdict.split() == [study.folder.name, *str(answers).split()], "answers first"
    assert "report    " + end == (
        f"report    {beside / 'report.html'}\nnotebook  {beside / 'report.ipynb'}\n"
        f"run       {study.run_path}\nnext      kdviz explore {study.folder}\n"
    )
    done = call("report", study.run_path, "--folder", tmp_path / "mine", "--threshold", "0.4")
    mine = {"folder": tmp_path / "mine", "threshold": 0.4}
    assert asked == {"run": study.run_path, **mine, "progress": True}
    run, settings = kdviz.open_run(study.run_path), kdviz.analysis.Settings(threshold=0.4)
    stricter = kdviz.analysis.give_verdict(run, settings=settings)
    assert (
        done.out.partition("\n\nreport    ")[0].split()[1:] == str(stricter).split() != str(answers).split()
    )


def test_report__of_runs_in_one_folder_lies_apart(
    call: Call, study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(
        reports,
        "write_report",
        lambda run, *, folder, **_: asked.append(folder) or folder / "report.html",
    )
    for name in ("a.zarr", "run.zarr"):
        shutil.copytree(study.run_path, tmp_path / name)
    kdviz.open_run("a.zarr").export("b.nc")
    for name in ("a.zarr", "b.nc", "run.zarr"):
        call("report", tmp_path / name)
    call("report", study.run_path)
    beside = [tmp_path / name for name in ("a-report", "b-report", "run-report")]
    assert asked == [*beside, study.folder / "report"]


def test_report__of_several_runs_shows_them_side_by_side(
    call: Call, study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def write(arms: list[kdviz.analysis.Arm], *, folder: Path, name: str, **about: object) -> Path:
        thresholds = {arm.settings.threshold for arm in arms if arm.settings}
        asked.update(labels=[arm.labels for arm in arms], folder=folder, thresholds=thresholds)
        return folder / f"{name}.html"

    monkeypatch.setattr(reports, "write_report", lambda run, *, folder, **_: folder / "report.html")
    monkeypatch.setattr(notebooks, "write_tables", write)
    shutil.copytree(study.run_path, tmp_path / "other.zarr")
    bare = {"sample": ["s0"], "unit": [0]}
    kdviz.store.create_run(tmp_path / "empty.zarr", samples=xr.Dataset(coords=bare))
    (tmp_path / "aside").mkdir()
    shutil.copytree(study.run_path, tmp_path / "aside" / "other.zarr")
    runs = [
        study.run_path,
        tmp_path / "other.zarr",
        tmp_path / "aside" / "other.zarr",
        tmp_path / "empty.zarr",
    ]
    done = call("report", *runs, "--folder", "all", "--threshold", "0.3")
    names = [study.folder.name, "other", "other-2", "empty"]
    assert re.findall(r"^report +(\S+)$", done.out, re.M) == [f"all/{name}/report.html" for name in names]
    labels = [{"setting": name} for name in names[:3]]
    assert asked == {"labels": labels, "folder": Path("all"), "thresholds": {0.3}}
    assert "together  all/side-by-side.html\n" in done.out
    assert "in doubt: nothing is measured yet" in done.out


def test_demo__trains_measures_and_reports_in_that_order(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    class FakeStudy(Study):
        def train(self) -> None:
            done.append(("train", self.folder, self.plan))

        def measure(self) -> "FakeStudy":
            done.append("measure")
            return self

        def summary(self) -> pd.DataFrame:
            return pd.DataFrame({"network": ["teacher"]})

    def write(run: Path, *, folder: Path, **_: object) -> Path:
        done.append(("report", run))
        return folder / "report.html"

    monkeypatch.setattr(studies, "Study", FakeStudy)
    made = {"name": "demo", "gaps": str}
    monkeypatch.setattr(kdviz, "open_run", lambda folder: SimpleNamespace(path=folder / "run.zarr", **made))
    monkeypatch.setattr(kdviz.analysis, "give_verdict", lambda run, **_: f"of {run.name}: yes")
    monkeypatch.setattr(reports, "write_report", write)
    out = call("demo", "--seeds", 2, "--no-progress").out
    folder = Path("runs/demo")
    assert done == [
        ("train", folder, StudyPlan(training={"seeds": (0, 1)})),
        "measure",
        ("report", folder / "run.zarr"),
    ]
    assert "teacher" in out.partition("2/3")[2].partition("3/3")[0], "the table belongs to the measuring"
    assert out.splitlines()[-1].startswith("next      kdviz explore runs/demo")


@pytest.mark.parametrize(("option", "server"), [([], "jupyterlab"), (["--voila"], "voila")])
def test_explore__opens_the_app_on_the_run(
    call: Call, study: Study, monkeypatch: pytest.MonkeyPatch, option: list[str], server: str
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(cli.runs, "run_program", lambda command: started.append(command) or 0)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    done = call("explore", study.folder, *option)
    notebook = study.folder / "run-explore" / "02_explore.ipynb"
    options = {"jupyterlab": ["--allow-root"], "voila": list(cli.runs._VOILA)}[server]
    assert done.status == 0 and f"notebook  {notebook}" in done.out
    assert started == [[sys.executable, "-m", server, *options, str(notebook)]]
    sources = [cell.source for cell in nbformat.read(notebook, as_version=4).cells]
    (injected,) = (source for source in sources if f'run_path = "{study.run_path.resolve()}"' in source)
    assert "layer" not in injected
    worked = notebook.read_text().replace('"# ', '"# mine: ', 1)
    notebook.write_text(worked)
    call("explore", study.folder, *option)
    assert started[-1][-1] == str(notebook) and notebook.read_text() == worked, "opened, not replaced"
    notebook.unlink()


def test_explore__refuses_a_wrong_path_before_a_server_starts(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli.runs, "run_program", lambda command: pytest.fail("a server was started"))
    done = call("explore", tmp_path / "none")
    assert done.status == 1 and "there is no run at" in done.err
