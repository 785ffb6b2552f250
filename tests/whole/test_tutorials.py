"""The code of the tutorials runs as it stands, on networks that kdviz did not train."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import kdviz
from kdviz import sources
from kdviz.errors import DataError
from kdviz.sources import find_checkpoints

DOCS = Path(__file__).resolve().parents[2] / "docs"


class SmallNetwork(nn.Module):
    """Has the layer that the page records, and little else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 4, stride=4)
        self.layer3 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Sequential())
        self.layer3[1].add_module("conv2", nn.Conv2d(4, 4, 3))
        self.fc = nn.Linear(4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer3(self.conv1(images).relu()).mean((2, 3)))


def test_your_own_checkpoints__records_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that record a training run as they stand, in a loop of two short epochs."""
    page = (DOCS / "tutorials/your_own_checkpoints.md").read_text(encoding="utf-8")
    loop, measuring, trainers = re.findall(
        r"^```{code-block} python\n(.*?)^```", page, re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network, inputs = SmallNetwork(), torch.randn(2, 3, 32, 32)
    names: dict = {
        "kdviz": kdviz,
        "torch": torch,
        "make_network": SmallNetwork,
        "network": network,
        "optimizer": torch.optim.SGD(network.parameters(), 0.01),
        "loader": [(torch.randn(4, 3, 32, 32), torch.arange(4)) for _ in range(3)],
        "inputs": inputs,
        "settings": {
            "layers": "layer3",
            "units": kdviz.units.grid(4),
            "foreground": np.arange(32) < np.full((2, 32, 1), 16),
            "store": "run.zarr",
        },
    }
    exec(loop.replace("30", "2"), names)
    exec(measuring, names)
    exec(trainers, names)
    distance, run = names["distance"], kdviz.open_run("run.zarr")
    assert list(names["record"].checkpoints) == [0, 1, 2] and (np.diff(distance) > 0).all()
    stored = run.dataset("student", "layer3")
    np.testing.assert_array_equal(stored["weight_distance"], distance)
    assert stored.attrs["training_seed"] == 0
    state = kdviz.networks.read_checkpoint("student-run/epoch-002.safetensors")
    assert torch.equal(state["layer3.1.conv2.weight"], network.layer3[1].conv2.weight)
    assert names["student"]["weight_distance"].equals(distance)


@pytest.mark.slow
def test_your_own_checkpoints__from_folders_to_a_table_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tutorial = runpy.run_path(str(DOCS / "make_tutorial.py"))
    tutorial["make_folder"](tmp_path, shown=4, images=64, teacher_images=64, epochs=2)
    monkeypatch.chdir(tmp_path)
    printed = []
    names: dict = {}
    for block in tutorial["read_code"]():
        exec(block, names)
        printed.append(capsys.readouterr().out)
    _, table, _, comparison, _, sizes = printed

    # the numbers printed are those counted by hand from the stored run
    run = kdviz.open_run(tmp_path / "run.zarr")
    assert set(run.networks) == {"student", "baseline"}
    student = kdviz.find_points(run.dataset("student", "layer3"))
    n_fg = (student["knowledge_point"] & student["foreground"]).sum("unit").mean("sample")
    rows = [line.split() for line in table.splitlines() if line[:1].isdigit()]
    assert [(int(row[0]), float(row[1])) for row in rows] == [
        (epoch, pytest.approx(float(value), abs=0.0051)) for epoch, value in zip([0, 1, 2], n_fg, strict=True)
    ]
    assert n_fg.max() > 0
    by_metric = {line.split()[0]: line.split() for line in comparison.splitlines() if " H" in line}
    assert list(by_metric) == ["n_fg", "n_bg", "fg_ratio", "d_mean", "d_var", "d_std", "rho"]
    assert float(by_metric["n_fg"][2]) == pytest.approx(float(n_fg[-1]), abs=0.0051)
    distance = names["comparison"]["student"].sel(metric="d_mean").item()
    assert 0 <= distance < 10

    # what the page shows below its code has the form of what was printed; sizes do not depend on training
    shown = re.findall(r"^```text\n(.*?)^```", tutorial["TUTORIAL"].read_text(), re.DOTALL | re.MULTILINE)
    assert shown[2] == sizes
    for page, output in zip(shown, (table, comparison), strict=False):
        assert page.split("\n")[0].split() == output.split("\n")[0].split()
    assert [line.split()[0] for line in shown[1].splitlines()[2:]] == list(by_metric)

    # student and baseline start alike and differ after training; the masks are those of the folder
    assert torch.equal(
        kdviz.networks.read_checkpoint(tmp_path / "student/epoch_000.pt")["conv1.weight"],
        kdviz.networks.read_checkpoint(tmp_path / "baseline/epoch_000.safetensors")["conv1.weight"],
    )
    baseline = run.dataset("baseline", "layer3")
    np.testing.assert_array_equal(baseline["entropy"].sel(epoch=0), student["entropy"].sel(epoch=0))
    assert abs(baseline["entropy"].sel(epoch=1) - student["entropy"].sel(epoch=1)).mean() > 0.01
    with Image.open(tmp_path / "masks" / f"{student['sample'].values[0]}.png") as file:
        mask = np.asarray(file)[None] > 0
    np.testing.assert_array_equal(
        kdviz.units.grid(16).reduce_mask(mask)[0], student["foreground"].isel(sample=0)
    )

    # the app finds the weight distance and the maps, and wrote its figure
    app = kdviz.explore("run.zarr", overlay="grad_cam")
    maps = run.result("attribution/baseline")["attribution"].sel(attribution_method="grad_cam", epoch=2)
    np.testing.assert_array_equal(app.view.networks[1].values, maps[0])
    assert "weight_distance" in run.dataset("student", "layer3")
    with Image.open(tmp_path / "view.png") as file:
        assert np.asarray(file.convert("L"), float).std() > 20

    # the picture has a column for the input and one for each epoch, and something in each
    with Image.open(tmp_path / "points.jpg") as file:
        pixels = np.asarray(file.convert("L"), float)
    width = pixels.shape[1] // 4
    columns = [pixels[40:-40, at * width : (at + 1) * width] for at in range(4)]
    assert all(column.std() > 20 for column in columns)
    assert np.abs(columns[0] - columns[1]).mean() > 5


@pytest.mark.slow
def test_words_and_points__from_ones_own_networks_to_tables_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tutorial = runpy.run_path(str(DOCS / "make_words_and_points.py"))
    with pytest.warns(kdviz.errors.KdvizWarning, match="beyond length=48 tokens"):
        tutorial["make_words"](tmp_path / "words", teacher_texts=200, texts=64, epochs=1)
    tutorial["make_meshes"](tmp_path / "meshes")
    sizes = dict(shown=3, teacher_clouds=22, clouds=22, epochs=1, points=64, around=32)
    tutorial["make_points"](tmp_path / "points", **sizes)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    printed, names = [], {}
    for block in tutorial["read_code"]():
        exec(block, names)
        if output := capsys.readouterr().out:
            printed.append(output)

    # what the page shows has the form of what is printed; what does not depend on training is the same
    page = tutorial["TUTORIAL"].read_text()
    shown = re.findall(r"^```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(shown) == len(printed) == 8
    assert shown[0] == printed[0] and shown[-1] == printed[-1]
    for ours, theirs in zip(shown, printed, strict=True):
        assert [line.split()[:1] for line in ours.splitlines()][:1] == [
            line.split()[:1] for line in theirs.splitlines()
        ][:1]
    metrics = [line.split()[0] for line in printed[2].splitlines()[2:]]  # so small, ratios may be undefined
    assert metrics[:2] == ["n_fg", "n_bg"] and set(metrics[2:]) <= {"fg_ratio", "rho"}
    none, of_pieces = (eval(line.partition(" ")[2]) for line in printed[3].splitlines())
    untrained = kdviz.open_run("words.zarr").dataset("student", "bert.pooler").isel(epoch=[0])
    longest = untrained["token"].values[untrained["unit_size"].values > 2].tolist()
    assert none == [] and of_pieces and {*of_pieces} <= {*longest}, "the pieces alone make points"

    # words: those of the page, at steps as the folders are named; `network` is the run's last checkpoint
    words = kdviz.open_run("words.zarr").dataset("student", "bert.pooler")
    assert words["epoch"].values.tolist() == [0, 2] and words.attrs["modality"] == "text"
    assert words["token"].values[5, :4].tolist() == ["It", "isn't", "perfect", ","]
    np.testing.assert_array_equal(words["foreground"].sum("unit"), [2, 2, 2, 3, 3, 2, 2, 3])
    np.testing.assert_allclose(
        names["points"]["entropy"][0], words["entropy"][1], rtol=0, atol=1e-4
    )  # rounding
    spread = names["both"]["entropy"].std("unit").mean(["epoch", "sample"]).to_series()
    assert spread["hidden"] < spread["cls"]

    # clouds: turned for the network, stored as they came, counted as the table says
    run = kdviz.open_run("clouds.zarr")
    clouds = run.dataset("student", "fc1")
    arrays = np.load("points/clouds.npz")
    for axis, name in enumerate("xyz"):
        np.testing.assert_array_equal(clouds[name], arrays["xyz"][..., axis])
    np.testing.assert_array_equal(clouds["foreground"], arrays["on_object"])
    assert (clouds.attrs["weight"], kdviz.schema.choose_words(clouds).threshold) == (4.0, 0.5)
    found = kdviz.find_points(clouds, threshold=0.5).isel(epoch=-1)
    n_fg = float((found["knowledge_point"] & found["foreground"]).sum("unit").mean())
    row = next(line.split() for line in printed[5].splitlines() if line.startswith("n_fg"))
    assert float(row[2]) == pytest.approx(n_fg, abs=0.0051) and n_fg > 0
    assert names["app"].selection.settings.threshold == 0.5
    assert names["masks"].sum(1).tolist() == [256] * 4

    # classes go by their names in both runs
    assert (
        kdviz.schema.read_classes(run.samples) == arrays["classes"].tolist() == [*sources.FURNITURE_CLASSES]
    )
    assert kdviz.schema.read_classes(kdviz.open_run("words.zarr").samples) == ["negative", "positive"]

    # pictures: something in every column
    for name, count in (("words", 4), ("clouds", 4)):
        with Image.open(f"{name}.png") as file:
            pixels = np.asarray(file.convert("L"), float)
        assert all(column[40:-40].std() > 10 for column in np.array_split(pixels, count, axis=1))


# -- checkpoints by name


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "epochs"),
    [
        (["epoch_010.pt", "epoch_002.pt", "epoch-1.safetensors"], {1: 2, 2: 1, 10: 0}),
        (["resnet18-seed3-epoch7.pth", "resnet18-seed3-epoch12.pth"], {7: 0, 12: 1}),
        (["0.pt", "5.pt", "best.pt", "notes-3.txt", ".epoch_4.pt"], {0: 0, 5: 1}),
        (["Epoch=3-loss=0.25.ckpt"], {3: 0}),
        (["ckpt_epoch_40.pth", "vgg8_best.pth"], {40: 0}),
        (["resnet56_10.pth", "resnet56_20.pth", "resnet56_last.pth"], {10: 0, 20: 1}),
        (["elastic_3.pt", "elastic_12.pt", "elastic_last.pt"], {3: 0, 12: 1}),
        (["vgg8-s1-3.pth.tar", "vgg8-s1-12.pth.tar"], {3: 0, 12: 1}),
        (["run7-step=200.pt", "run7-step=50.pt", "run7-final.pt"], {50: 1, 200: 0}),
    ],
)
def test_find_checkpoints__reads_epochs_from_names(tmp_path: Path, names: list[str], epochs: dict) -> None:
    found = find_checkpoints(touch(tmp_path, *names))
    assert list(found.items()) == [(epoch, tmp_path / names[k]) for epoch, k in epochs.items()]


def test_find_checkpoints__takes_a_pattern(tmp_path: Path) -> None:
    touch(
        tmp_path, "s1-e2-loss0.5.pt", "s1-e10-loss0.1.pt", "s2-e2-loss0.5.pt", "s1-e10.pt", "s1-e2-loss0.5xpt"
    )
    found = find_checkpoints(tmp_path, pattern="s1-e{epoch}-*.pt")
    assert found == {2: tmp_path / "s1-e2-loss0.5.pt", 10: tmp_path / "s1-e10-loss0.1.pt"}
    assert list(found) == [2, 10]


@pytest.mark.parametrize("pattern", ["*{epoch}.pt", "*{epoch}*"])
def test_find_checkpoints__a_star_takes_no_digit_of_the_epoch(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "student-12.pt", "student-25.pt")
    found = find_checkpoints(tmp_path, pattern=pattern)
    assert found == {12: tmp_path / "student-12.pt", 25: tmp_path / "student-25.pt"}


@pytest.mark.parametrize(
    ("names", "pattern", "error", "message"),
    [
        (["a.pt"], None, DataError, r"holds no checkpoint \(\.ckpt, \.pt.* that has an epoch in its name"),
        (["a.pt"], "b-{epoch}.pt", DataError, r"that fits 'b-\{epoch\}\.pt'; it holds a\.pt$"),
        ([], None, DataError, r"that has an epoch in its name, or anything$"),
        (["s0-12.pt", "s1-12.pt"], None, DataError, r"which number in s0-12\.pt is the epoch\? pass pattern"),
        (["vgg8_best.pth"], None, DataError, "holds no checkpoint .* that has an epoch in its name"),
        (["s1-e2.pt"], None, DataError, r"which number in s1-e2\.pt is the epoch\? pass pattern"),
        (
            ["epoch_3.pt", "epoch_03.pth"],
            None,
            DataError,
            "two checkpoints of epoch 3: epoch_03.pth and epoch_3",
        ),
        (["epoch_3.pt"], "epoch_*.pt", ValueError, r"must hold \{epoch\} once"),
        (["epoch_3.pt"], "{epoch}-{epoch}.pt", ValueError, r"must hold \{epoch\} once"),
    ],
)
def test_find_checkpoints__refuses(
    tmp_path: Path, names: list[str], pattern: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        find_checkpoints(touch(tmp_path, *names), pattern=pattern)


def test_find_checkpoints__refuses_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder of checkpoints at .*nowhere"):
        find_checkpoints(tmp_path / "nowhere")
