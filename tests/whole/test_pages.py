"""The code of README and documentation runs as it stands, and what it prints is what the pages show.

Notebooks are run by nbval, the tutorials that start from folders of checkpoints in `test_tutorials.py`.
"""

import os
import re
import runpy
import shlex
import shutil
import sys
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Unpack

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from tiny_study import draw_images
from torch import nn
from torch.nn import functional

import kdviz
from kdviz import cli, transfer
from kdviz.distillation import LOGITS, MixedLoss, Outputs
from kdviz.studies import engines
from kdviz.testing import random_images, small_cnn
from kdviz.transfer import question

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TUTORIALS = DOCS / "tutorials"


def list_blocks(page: Path, language: str) -> list[str]:
    """List the fenced blocks of a page that name a language; those of "" are of the shell."""
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [text for named, text in blocks if named == language]


def list_commands(page: Path) -> list[tuple[str, ...]]:
    """List what stands behind ``kdviz`` in the shell's blocks of a page."""
    lines = "\n".join(list_blocks(page, "")).replace("\\\n", " ").splitlines()
    return [tuple(shlex.split(line, comments=True)[1:]) for line in lines if line.startswith("kdviz ")]


RUNNERS = {  # pages with Python: who runs it, and in which file
    "README.md": "whole/test_pages.py::test_readme__python_runs",
    "architecture.md": "whole/test_pages.py::test_architecture__its_examples_are_a_loss_and_a_property",
    "tour.md": "whole/test_pages.py::test_tour__opens_a_run",
    "transfer.md": "whole/test_pages.py::test_transfer__python_of_its_page_runs",
    "unicam.md": "whole/test_pages.py::test_unicam__python_of_its_page_runs",
    "units.md": "whole/test_pages.py::test_units__python_of_its_page_runs",
    "your_own_loss.md": "whole/test_pages.py::test_your_own_loss__is_trained_measured_and_compared",
    "your_own_property.md": "whole/test_pages.py::test_your_own_property__stands_beside_those_that_are_there",
    "distillation.md": "distillation/test_losses.py::test_page__shows_losses_of_ones_own_that_train",
    "words_and_points.md": "whole/test_tutorials.py::test_words_and_points__from_ones_own",
    "your_own_checkpoints.md": "whole/test_tutorials.py::test_your_own_checkpoints__records_a_training",
}


def test_pages__every_page_with_python_has_a_test_that_runs_it() -> None:
    pages = [ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("[at]*/*.md")]
    written = [page.name for page in pages if list_blocks(page, "python")]
    assert sorted(written) == sorted(RUNNERS), "a new page with Python gets a test, and a line here"
    for page, runner in RUNNERS.items():
        file, _, name = runner.partition("::")
        _, _, test = (ROOT / "tests" / file).read_text("utf-8").partition(f"def {name}")
        assert Path(page).stem in test.partition("\ndef ")[0], f"{runner} reads {page}"


# -- README


class Network(nn.Sequential):
    """A layer named ``classifier.3``, as in the text."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 6))


def test_readme__python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    mask = np.zeros((2, 16, 16), bool)
    mask[:, 4:12, 4:12] = True
    names = {
        "network": Network(),
        "images": random_images(2, channels=3, size=16, seed=0),
        "masks": mask,
        "photographs": np.zeros((2, 16, 16, 3), np.uint8),
    }
    (block,) = list_blocks(ROOT / "README.md", "python")
    exec(block, names)
    assert "knowledge points on the object per image" in capsys.readouterr().out
    assert [axis.get_title() for axis in names["figure"].axes[:2]] == ["input", "mine"]
    assert float(names["other"]["entropy"].mean()) == pytest.approx(  # the target asked for, in nat
        0.5 + np.log(0.01) + 0.5 * np.log(2 * np.pi * np.e), abs=1e-3
    )


def test_readme__is_short_and_its_commands_are_those_of_the_tutorial() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 110
    commands = list_commands(ROOT / "README.md")
    assert [command[0] for command in commands] == ["train", "measure", "report", "explore"]
    assert {*commands} <= {*list_commands(TUTORIALS / "from_the_shell.md")}


# -- the tour, and pages of the API


def test_tour__opens_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(kdviz, "explore", opened.append)
    for block in list_blocks(DOCS / "tour.md", "python"):
        exec(block, {})
    assert opened == ["path/to/run"]


def test_transfer__python_of_its_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = transfer.Pixels().write(torch.rand(24, 3, 8, 8))
    given = {"alone0": "alone-0", "alone1": "alone-1", "student0": "kl-0", "student1": "kl-1"}
    networks = {name: small_cnn(seed=seed) for seed, name in enumerate(("teacher", *given))}
    with torch.no_grad():
        for network in networks.values():  # no class is given to all
            network.fc2.bias -= network.eval()(images).mean(0)
        labels = networks["teacher"](images).argmax(1).numpy()
    settings = dict(layers="fc1", units=kdviz.units.grid(4), probes=8, draws=2, progress=False)
    state = {0: networks["teacher"].state_dict()}
    about = dict(network="teacher", role="teacher", store="run.zarr")
    kdviz.measure_checkpoints(small_cnn, state, images[:2], **about, **settings)
    names = {"images": images, "labels": labels, "run": kdviz.open_run("run.zarr")} | networks
    (block,) = list_blocks(DOCS / "api" / "transfer.md", "python")
    exec(block, names)
    assert names["results"].keys() == {*transfer.PROPERTIES} - {"shape_bias", "bias"}
    assert {f"transfer/{name}" for name in names["results"]} == {*kdviz.open_run("run.zarr").results}
    assert [*names["table"]["network"].unique()] == ["teacher", *given.values()]
    assert Path("shared.png").stat().st_size > 10_000


def test_unicam__python_of_its_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        layers = {"conv2": nn.Conv2d(3, 4, 3, padding=1), "conv4": nn.Conv2d(4, 4, 3, padding=1)}
        return nn.Sequential(OrderedDict(layers | {"flat": nn.Flatten(), "head": nn.Linear(1024, 3)}))

    pictures = (255 * torch.rand(24, 16, 16, 3)).byte().numpy()
    names = {name: build(seed) for seed, name in enumerate(("student", "base", "teacher"))}
    names |= {"pictures": pictures, "images": torch.from_numpy(pictures).movedim(3, 1) / 255, "xr": xr}
    names |= {"labels": np.arange(24) % 3}
    asking, joining = list_blocks(DOCS / "api" / "unicam.md", "python")
    exec(asking, names)
    assert names["maps"]["distilled"].shape == (2, 1, 24, 256)
    assert {*names["table"]["layer"]} == {"conv2", "conv4"}
    assert all(Path(f"{name}.png").stat().st_size > 10_000 for name in ("maps", "relevance"))
    names["results"] = [names["scores"], names["scores"].assign_coords(epoch=[7])]
    assert eval(joining, names).sizes["epoch"] == 2


def test_units__python_of_its_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    squares = np.arange(8) // 4 * 2 + np.arange(8)[:, None] // 4  # in place of superpixels
    segmentation = SimpleNamespace(slic=lambda picture, n_segments, start_label: squares)
    monkeypatch.setitem(sys.modules, "skimage", SimpleNamespace(segmentation=segmentation))
    monkeypatch.setitem(sys.modules, "skimage.segmentation", segmentation)
    images, masks = random_images(2, seed=0), np.arange(8) < np.full((2, 8, 1), 4)
    names = {"np": np, "kdviz": kdviz, "network": small_cnn(seed=0), "pictures": images}
    names |= {"inputs": images, "masks": masks}
    (block,) = list_blocks(DOCS / "api" / "units.md", "python")
    exec(block, names)
    assert names["ds"]["foreground"].values.tolist() == 2 * [[True, True, False, False]]


def test_architecture__its_examples_are_a_loss_and_a_property() -> None:
    loss, answers = list_blocks(DOCS / "architecture.md", "python")
    names = {"MixedLoss": MixedLoss, "LOGITS": LOGITS, "nn": nn, "functional": functional}
    exec(loss, names)
    torch.manual_seed(0)
    similarity, features = names["Similarity"]("fc1"), torch.rand(6, 12)
    outputs = Outputs({"fc1": features, LOGITS: torch.zeros(6, 3)})
    similarity.prepare(Outputs({"fc1": features[:1]}), outputs, 6, None)
    with torch.no_grad():
        ours, theirs = (functional.normalize(one) for one in (similarity.parts(features), features))
    expected = np.log(3) + 10 * float((ours @ ours.T - theirs @ theirs.T).square().mean())
    found = similarity(outputs, outputs, torch.arange(6) % 3, torch.arange(6)).item()
    assert found == pytest.approx(expected)

    names = vars(question) | {"Options": transfer.Options, "Unpack": Unpack}
    exec(answers, names)
    networks = {name: small_cnn(seed=seed) for seed, name in enumerate(("teacher", "other"))}
    images, labels = random_images(5, seed=1), np.arange(5) % 3
    asked = [
        ask(networks, images, labels, teacher="teacher", independent="other", progress=False)
        for ask in (names["consensus"], transfer.consensus)
    ]
    xr.testing.assert_identical(*asked)


# -- results


def test_results__numbers_in_short_are_those_in_full() -> None:
    page = (DOCS / "results.md").read_text("utf-8")
    titled = dict(part.partition("\n")[::2] for part in re.split(r"^## ", page, flags=re.M)[1:])
    sections = {
        re.sub(r"[^a-z ]", "", title.lower()).replace(" ", "-"): text for title, text in titled.items()
    }
    rows = [line.split("|")[2:4] for line in titled["In short"].splitlines() if line.startswith("|")][2:]
    assert len(rows) == 15
    for answer, links in rows:
        named = re.findall(r"\(#([a-z-]+)\)", links)
        full = " ".join(" ".join(sections[name].split()) for name in named)
        numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])", answer)
        assert named and [number for number in numbers if number not in full] == [], answer


# -- a loss and a property of one's own


def run_page(name: str, smaller: dict[str, str]) -> tuple[list[list[str]], list[list[str]]]:
    """Run a page with smaller numbers, here; the words of the table that it prints, and that it shows."""
    made = runpy.run_path(str(DOCS / "make_own.py"))
    text = made["find_page"](name).read_text("utf-8")
    for old, new in smaller.items():
        assert old in text
        text = text.replace(old, new)
    told = [(printed, block[2]) for block, printed in made["run_blocks"](text) if printed or block[2]]
    ((printed, shown),) = told
    with Image.open(made["PICTURES"][name]) as file:
        assert np.asarray(file.convert("L"), float).std() > 20
    return [line.split() for line in printed.splitlines()], [line.split() for line in shown.splitlines()]


@pytest.mark.slow
def test_your_own_loss__is_trained_measured_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed, shown = run_page("your_own_loss", {"count=2000": "count=60", "epochs=8": "epochs=2"})
    assert [row[:1] for row in printed] == [row[:1] for row in shown]
    run = kdviz.open_run("run.zarr")
    student, baseline = (run.dataset(name, "classifier.fc1") for name in ("student", "baseline"))
    assert student.attrs["distillation_method"] == "similarity"
    assert student["epoch"].values.tolist() == baseline["epoch"].values.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(student["gain"][0], baseline["gain"][0])  # they begin alike
    last = kdviz.find_points(student).isel(epoch=-1)
    n_fg = float((last["knowledge_point"] & last["foreground"]).sum("unit").mean())
    (row,) = [row for row in printed if row[0] == "n_fg"]
    assert float(row[2]) == pytest.approx(n_fg, abs=0.0051)


@pytest.mark.slow
def test_your_own_property__stands_beside_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known = set(transfer.PROPERTIES)
    try:
        printed, shown = run_page(
            "your_own_property", {'"train", 2000': '"train", 60', "epochs=8": "epochs=1"}
        )
        assert {*transfer.PROPERTIES} - known == {"object_alone"}
    finally:
        transfer.PROPERTIES.pop("object_alone", None)
    # nothing of the teacher, which is the built-in one, depends on the training of the others
    assert [row[:2] for row in printed[2:]] == [row[:2] for row in shown[2:]]
    assert shown[-1][0] == "object_alone"


# -- the shell


MY_NETS = """
from kdviz.models import build
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification


def make():
    return build("small_vgg", classes=2, input_size=64)


def make_encoder():
    config = DistilBertConfig(vocab_size=4000, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    return DistilBertForSequenceClassification(config)


class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv1d(3, 16, 1), nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, xyz):
        return self.fc2(self.fc1(self.conv(xyz).amax(2).relu()).relu())


make_pointnet = PointNet
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the commands of the pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("kdviz.cli.runs.run_program", lambda command: None)  # no server is started
    for kind, folder in draw_images(tmp_path / "drawn", per_class=40).items():
        folder.rename(kind.upper())
    lines = [f"{at % 2}\t{('a wonderful', 'an awful')[at % 2]} film, number {at}" for at in range(40)]
    Path("FILE.tsv").write_text("\n".join(["label\ttext", *lines]))
    made = runpy.run_path(str(DOCS / "make_words_and_points.py"))
    made["make_meshes"](Path("FOLDER"))
    for mesh in [*Path("FOLDER").glob("*/test/*.off")]:
        (mesh.parents[1] / "train").mkdir(exist_ok=True)
        for number in range(3):
            shutil.copy(mesh, mesh.parents[1] / "train" / f"{mesh.stem}-{number}.off")
    Path("mynets.py").write_text(MY_NETS)
    import mynets

    for folder, build in (("encoder-0", mynets.make_encoder), ("points-0", mynets.make_pointnet)):
        Path(folder).mkdir()
        torch.save(build().state_dict(), f"{folder}/epoch_0.pt")
    kdviz.sources.review_tokenizer().save_pretrained("my-encoder")
    for seed, folder in enumerate(("kd-0", "alone-0")):
        Path(folder).mkdir()
        for epoch in (0, 1):
            torch.manual_seed(seed * epoch)
            torch.save(
                kdviz.models.build("small_vgg", classes=2, input_size=64).state_dict(), f"{folder}/{epoch}.pt"
            )
    return tmp_path


def run_command(command: Sequence[str], *more: str) -> None:
    with suppress(SystemExit):  # where the app would have been opened
        cli.app(
            [*command, *more, *(() if command[0] == "explore" else ["--no-progress"])], standalone_mode=False
        )


@pytest.mark.slow
def test_from_the_shell__from_folders_to_reports(place: Path) -> None:
    short = ("-s", "training.epochs=2", "-s", "measurement.samples=4", "-s", "measurement.probes=8")
    extra = {
        "train runs/mine": (*short, *"-s training.count=60 --layers fc1 --teacher-epochs 40".split()),
        "train runs/reviews": (*short, *"-s training.count=20 --layers cls --teacher-epochs 2".split()),
        "train runs/meshes": (*short, *"-s training.count=10 --layers fc1 --teacher-epochs 2".split()),
        "measure runs/own.zarr": ("--samples", "4", "--grid", "8"),
        "measure runs/words.zarr": ("--samples", "4"),
        "measure runs/points.zarr": "--samples 4 -s data.points=24 -s data.background=12".split(),
    }
    commands = list_commands(TUTORIALS / "from_the_shell.md")
    for at, command in enumerate(commands):
        if command not in commands[at + 1 :]:  # the report of all that was asked is enough
            words = ["features.conv3" if word == "layer3" else word for word in command]
            run_command(words, *extra.get(" ".join(command[:2]), ()))
    run = kdviz.open_run("runs/mine")
    assert {"teacher", "baseline-s0", "student-fc1-s0"} <= {*run.networks}
    assert {name.split("/")[0] for name in run.results} >= {"attribution", "transfer", "unicam"}
    chapters = Path("runs/mine/report/report.html").read_text("utf-8")
    assert "What else got distilled" in chapters and "What only the student sees" in chapters
    own = kdviz.open_run("runs/own.zarr")
    assert {name: own.dataset(name, "features.conv3").attrs["network_role"] for name in own.networks} == {
        "kl-s0": "student",
        "baseline-s0": "baseline",
    }
    assert all(Path(f"runs/{name}/networks/teacher").exists() for name in ("reviews", "meshes"))
    words, points = (kdviz.open_run(f"runs/{name}.zarr").samples for name in ("words", "points"))
    assert words["foreground"].any("unit").all() and "wonderful" in words["token"]
    assert points["x"].shape == (4, 36) and points["foreground"].sum("unit").values.tolist() == [24] * 4


@pytest.mark.slow
def test_cluster__workers_here_at_a_scheduler_and_in_jobs(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("-s", "training.count=20", "-s", "training.epochs=2", "--teacher-epochs", "2", "--layers", "fc1")
    quick = ("-s", "measurement.samples=4", "-s", "measurement.probes=8", "-s", "measurement.grid=8")
    commands = [command for command in list_commands(TUTORIALS / "cluster.md") if command[-1] != "jobs.yaml"]
    assert [command[0] for command in commands] == ["train", "measure", "measure"]
    done = Path("runs/mine/run.zarr")
    with engines.open_local(1) as cluster:  # in place of the two commands of dask
        for command in commands:
            shutil.rmtree(done, ignore_errors=True)  # so that there is something to measure
            words = [
                {"4": "2", "tcp://HOST:8786": cluster.scheduler_address}.get(word, word) for word in command
            ]
            run_command(words, *((*small, *quick) if command[0] == "train" else ()))
            assert command[0] == "train" or kdviz.open_run(done).summary()["done"].eq(1).all()

    (jobs,) = list_blocks(TUTORIALS / "cluster.md", "yaml")
    Path("jobs.yaml").write_text(jobs)
    Path("sbatch").write_text("#!/bin/sh\nexit 1\n")
    Path("sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    with engines.open_slurm(engines.read_workers("jobs.yaml")) as cluster:
        script = cluster.job_script().splitlines()
    for option in ("-p gpu", "-A vision", "--cpus-per-task=4", "-t 08:00:00", "--gres=gpu:1"):
        assert f"#SBATCH {option}" in script
