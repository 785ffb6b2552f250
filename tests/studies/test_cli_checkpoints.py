"""Networks trained elsewhere, measured from the shell: what is written, and what is refused."""

import json
import re
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import xarray as xr
from tiny_study import SIDE, draw_images

import kdviz
from kdviz import cli
from kdviz.cli import speaking
from kdviz.errors import DataError, LayerError, MisfitError, find_network, naming

NETS = """
from torch import nn

def make():
    below = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*below, nn.Linear(4 * 14 * 14, 32), nn.ReLU(), nn.Linear(32, 2))

def smaller():
    return nn.Sequential(*make()[:3], nn.Linear(4 * 14 * 14, 16), nn.ReLU(), nn.Linear(16, 2))

broken = 3

def needs(width):
    return make()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images with masks, a module that builds a network, and checkpoints of three epochs of two of them."""
    (tmp_path / "my_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    draw_images(tmp_path)
    import my_nets

    for index, role in enumerate(("student", "baseline")):
        torch.manual_seed(index)
        network = my_nets.make()
        (tmp_path / role).mkdir()
        for epoch in (0, 1, 2):
            torch.save(network.state_dict(), tmp_path / role / f"epoch_{epoch}.pt")
            with torch.no_grad():
                network[3].weight += 0.05 * torch.randn_like(network[3].weight)
    return tmp_path


def tell(**options: str) -> list[str]:
    given = {
        "network": "my_nets:make",
        "checkpoints": "student",
        "images": "images",
        "masks": "masks",
        "layers": "3",
        "size": str(SIDE),
        "grid": "4",
        "samples": "6",
    } | options
    return [part for name, value in given.items() if value for part in (f"--{name}", value)]


def call(run: str = "run.zarr", **options: str) -> None:
    cli.app(["measure", run, *tell(**options), "--no-progress"], standalone_mode=False)


def test_measure__of_own_checkpoints_is_measure_checkpoints(place: Path, capsys) -> None:
    call()
    call(checkpoints="baseline", role="baseline", name="scratch", seed="0")
    assert "next      kdviz report run.zarr" in capsys.readouterr().out
    run = kdviz.open_run("run.zarr")
    assert run.networks == ["scratch", "student-s0"] and run.layers("scratch") == ["3"]
    found = run.dataset("student-s0", "3")
    images = kdviz.sources.image_folder("images", masks="masks", size=SIDE)
    rows = [0, 3, 6, 9, 12, 15]  # of sixteen, six spread over both classes
    chosen = images.select(rows)
    assert found["sample"].values.tolist() == [images.sample_ids[row] for row in rows]
    import my_nets

    files = kdviz.sources.find_checkpoints("student")
    expected = kdviz.measure_checkpoints(
        my_nets.make,
        files,
        torch.from_numpy(kdviz.sources.normalise(chosen.images[:])),
        network="student-s0",
        role="student",
        layers="3",
        units=kdviz.units.grid(4),
        foreground=chosen.masks[:],
        sample_ids=chosen.sample_ids,
        progress=False,
    )
    np.testing.assert_array_equal(found["gain"], expected["gain"])
    np.testing.assert_array_equal(found["foreground"], expected["foreground"])
    way = kdviz.weight_distance(files, layer="3", initial=files[0])
    np.testing.assert_allclose(found["weight_distance"], way)
    assert kdviz.schema.read_classes(run.samples) == ["lying", "upright"]
    assert found.attrs["network_role"] == "student" and found.attrs["architecture"] == "Sequential"
    assert "more knowledge points on the object: undecided at 3 " in str(kdviz.analysis.give_verdict(run))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "my_nets:none"}, ValueError, "--network is 'my_nets:none'; allowed: module:function"),
        ({"network": "no_such_nets:make"}, ValueError, "No module named 'no_such_nets'"),
        (
            {"network": "my_nets:broken"},
            ValueError,
            "allowed: module:function of .*int' object is not callable",
        ),
        ({"checkpoints": "", "layers": ""}, ValueError, "--network needs --checkpoints, --layers too"),
        (
            {"network": ""},
            ValueError,
            "--checkpoints, --layers, --images, --masks, --size, --grid is of a",
        ),
        ({"network": "my_nets:needs"}, ValueError, r"missing 1 required positional argument: 'width'"),
        ({"workers": "2"}, ValueError, "--workers is of studies, .*: leave it out; .* kdviz.store.join puts"),
        (
            {"network": "my_nets:smaller"},
            MisfitError,
            "epoch_0.pt does not fit the network: .* of another shape .*; if .*/student is of another kind "
            "of network, name what builds that: --network module:function$",
        ),
        ({"checkpoints": "nowhere"}, DataError, "--checkpoints is not a folder: nowhere"),
        ({"images": "nowhere"}, DataError, r"images \(--images\) is not a folder: .*/nowhere"),
        ({"masks": "nowhere"}, DataError, r"masks \(--masks\) is not a folder: .*/nowhere"),
        ({"layers": "4.x"}, LayerError, "4.x"),
    ],
)
def test_measure__of_own_checkpoints_refuses(place: Path, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(**options)
    assert not (place / "run.zarr").exists()


def test_measure__plan_of_own_checkpoints_says_what_is_left_and_does_nothing(place: Path, capsys) -> None:
    cli.app(["measure", "run.zarr", *tell(), "--plan"], standalone_mode=False)
    network, every, _, following = capsys.readouterr().out.splitlines()
    assert re.match(r"student-s0  18 samples times epochs: [\d,]+ to [\d,]+ passes, .* (s|h) here", network)
    assert every.split() == ["all", *network.split()[1:]]
    assert following == "next  kdviz measure run.zarr --network ... as before"
    assert not Path("run.zarr").exists() and not Path("run-networks.json").exists()
    Path("student/epoch_2.pt").rename("later.pt")
    call()
    Path("later.pt").rename("student/epoch_2.pt")
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    cli.app(["measure", "run.zarr", *tell(), "--plan"], standalone_mode=False)
    assert "student-s0  6 samples times epochs: " in capsys.readouterr().out
    assert sorted(Path().rglob("*")) == before
    call()
    capsys.readouterr()
    cli.app(["measure", "run.zarr", *tell(), "--plan"], standalone_mode=False)
    assert capsys.readouterr().out == "no entropy is left to measure\nnext  kdviz report run.zarr\n"


def test_measure__without_masks_keeps_entropies(place: Path) -> None:
    call(masks="")
    run = kdviz.open_run("run.zarr")
    assert "foreground" not in run.samples
    assert "no masks say what the object is" in str(kdviz.analysis.give_verdict(run))


# -- messages: options, not arguments


def fail(monkeypatch: pytest.MonkeyPatch, capsys, **options: str) -> str:
    """Call as a shell does, and return the one line of the mistake."""
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["kdviz", "measure", "run.zarr", *tell(**options), "--no-progress"])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as exit:
        cli.main()
    capsys.readouterr()
    return str(exit.value.code)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "24"}, "run.zarr was measured with --size 16, now 24: all networks of a run see the same"),
        ({"grid": "8", "samples": "4"}, "measured with --grid 4, now 8; --samples 6, now 4: all networks"),
        ({"masks": ""}, "run.zarr was measured with --masks given, now none: all networks of a run see"),
        ({"images": "others", "masks": ""}, "measured with --masks given, now none"),
        (
            {"role": "baseline", "name": "student-s0", "method": "kl"},
            "run.zarr holds a network student-s0 already, measured with --method none, now kl; --role "
            "student, now baseline: give the same, or another --name",
        ),
        (
            {"checkpoints": "baseline"},
            "student-s0/3 in run.zarr was already measured with other weights at epoch 0, 1, 2 "
            "(weights_fingerprint); use another --name or another run",
        ),
        ({"layers": "3,fc"}, "my_nets:make has no layer 'fc' (--layers); allowed: 0, 1, 2, 3, 4, 5"),
        ({"device": "gpu7"}, "--device 'gpu7' cannot be used here: "),
        (
            {"checkpoints": "odd"},
            "which number in net1_2.pt is the epoch? give --pattern, with {epoch} for it",
        ),
        (
            {"checkpoints": "both", "name": "n"},
            "holds 2 networks that fit; name one with --part: 'student', 'teacher'",
        ),
    ],
)
def test_measure__of_own_checkpoints_says_options(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys, options: dict, message: str
) -> None:
    call()
    shutil.copytree("images", "others")
    for name in ("odd", "both"):
        Path(name).mkdir()
    shutil.copy("student/epoch_0.pt", "odd/net1_2.pt")
    weights = {name: torch.load(f"{place}/{name}/epoch_1.pt") for name in ("student", "baseline")}
    torch.save({"student": weights["student"], "teacher": weights["baseline"]}, "both/epoch_1.pt")
    before = sorted(Path("run.zarr").rglob("*"))
    assert message in fail(monkeypatch, capsys, **options)
    assert sorted(Path("run.zarr").rglob("*")) == before


def test_measure__of_one_of_two_networks_in_files_of_odd_names(place: Path) -> None:
    Path("both").mkdir()
    for epoch in (0, 2):
        weights = {name: torch.load(f"{name}/epoch_{epoch}.pt") for name in ("student", "baseline")}
        torch.save({"student": weights["student"], "teacher": weights["baseline"]}, f"both/1-{epoch}-9.pt")
    call(checkpoints="both", pattern="1-{epoch}-*.pt", part="student")
    call(run="plain.zarr")
    ours, theirs = (kdviz.open_run(run).dataset("student-s0", "3") for run in ("run.zarr", "plain.zarr"))
    assert ours["epoch"].values.tolist() == [0, 2]
    np.testing.assert_array_equal(ours["gain"], theirs["gain"].sel(epoch=[0, 2]))
    np.testing.assert_allclose(ours["weight_distance"][-1] > 0, True)
    for run in ("run.zarr", "plain.zarr"):
        cli.app(["attribute", run, "--network=my_nets:make", "--no-progress"], standalone_mode=False)
    ours, theirs = (
        kdviz.open_run(run).result("attribution/student-s0") for run in ("run.zarr", "plain.zarr")
    )
    np.testing.assert_array_equal(ours["attribution"], theirs["attribution"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("transfer", "of role teacher run.zarr has none, of role baseline none"),
        (
            "unicam",
            "no baseline of training seed 0 beside student-s0: measure one first, with --role baseline --",
        ),
    ],
)
def test_networks__that_miss_whom_to_compare_with_say_so(place: Path, command: str, message: str) -> None:
    call()
    with pytest.raises(ValueError, match=message):
        cli.app([command, "run.zarr", "--network=my_nets:make", "--no-progress"], standalone_mode=False)
    assert kdviz.open_run("run.zarr").gaps() == ""


def test_networks__that_were_moved_are_found_again_once_they_are_measured_as_before(place: Path) -> None:
    call()
    attribute = ["attribute", "run.zarr", "--network=my_nets:make", "--no-progress"]
    before = kdviz.open_run("run.zarr").dataset("student-s0", "3")
    for old, new in (("images", "pictures"), ("masks", "outlines"), ("student", "kd")):
        Path(old).rename(new)
    lost = r"run.zarr was measured from, images, is not there: .*/images; kdviz measure run.zarr --network"
    with pytest.raises(DataError, match=lost):
        cli.app(attribute, standalone_mode=False)
    Path("outlines").rename("masks")
    Path("pictures").rename("images")
    with pytest.raises(
        DataError, match=r"checkpoints of student-s0, is not there: .*/student; kdviz measure"
    ):
        cli.app([*attribute], standalone_mode=False)
    Path("images").rename("pictures")
    Path("masks").rename("outlines")
    call(images="pictures", masks="outlines", checkpoints="kd")
    xr.testing.assert_identical(kdviz.open_run("run.zarr").dataset("student-s0", "3"), before)
    cli.app(attribute, standalone_mode=False)
    assert kdviz.open_run("run.zarr").results == ["attribution/student-s0"]
    Path("pictures/lying/0.png").unlink()
    with pytest.raises(DataError, match=r"pictures lacks 1 images that were measured: lying/0"):
        cli.app(attribute, standalone_mode=False)


def test_networks__remembered_while_there_were_images_alone_are_measured_and_asked_on(place: Path) -> None:
    call()
    before = kdviz.open_run("run.zarr").dataset("student-s0", "3")
    path = Path("run-networks.json")
    told = json.loads(path.read_text())
    data = told.pop("data")
    old = {"images": data["images"], "masks": data["masks"], "size": data["size"], "grid": told["grid"]}
    path.write_text(json.dumps({**old, "checkpoints": told["checkpoints"]}))
    cli.app(["attribute", "run.zarr", "--network=my_nets:make", "--no-progress"], standalone_mode=False)
    assert kdviz.open_run("run.zarr").results == ["attribution/student-s0"]
    call()
    xr.testing.assert_identical(kdviz.open_run("run.zarr").dataset("student-s0", "3"), before)
    assert json.loads(path.read_text())["data"] == data


def test_gaps__of_own_networks_are_filled_by_the_same_commands(place: Path) -> None:
    call()
    kdviz.open_run("run.zarr").expect({"attribution/student-s0": {}, "unicam-scores/student-s0": {}})
    told = kdviz.open_run("run.zarr").gaps()
    assert told.endswith(
        "continue with kdviz attribute run.zarr --network ..., then kdviz unicam run.zarr --network ..."
    )


@pytest.mark.parametrize(
    ("said", "options", "message"),
    [
        (
            "lower training.rate_factor, or its rate in training.recipes",
            {"rate_factor": "--rate-factor", **dict.fromkeys(speaking.LINES, "--x")},
            "lower training.rate_factor (--x), or its rate in training.recipes",
        ),
        ("lower training.rate_factor", {"device": "--device"}, "lower training.rate_factor"),
        (
            "a soft mask (in study.yaml, of data)",
            {"change": "--set"},
            "a soft mask (--set data.foreground=[1], and so on)",
        ),
        ("images (--images) is not a folder", dict.fromkeys(speaking.LINES, "--x"), None),
        ("root (data.folder, --clouds) is not", dict.fromkeys(speaking.LINES, "--x"), None),
        ("networks.layers.fc1 and data.sizes", dict.fromkeys(speaking.LINES, "--x"), None),
        ("two of epoch 1; pass pattern", {}, None),
        ("workers must be a number", {"workers": "--workers"}, "--workers must be a number"),
        ("workers must be a number", {"device": "--device"}, None),
        ("x: /data/entry=3/a.jpg is no image", {}, None),
        ("pixels=64/a.jpg is no image", {}, None),
        ("length=9 leaves no word", {}, "data.length=9 leaves no word"),
        (
            "pass max_batch=8 (out)",
            {"device": "--device"},
            "choose a --device with more memory, such as cpu (out)",
        ),
        (
            "by itself, with max_batch=1",
            {},
            "by itself, with max_batch=1 (max_batch is an argument of kdviz in Python, and no option here)",
        ),
    ],
)
def test_say__names_options_of_the_command_alone(said: str, options: dict, message: str | None) -> None:
    assert speaking.say(said, options) == (said if message is None else message)


def test_lines__are_those_of_options_of_train() -> None:
    command = typer.main.get_command(cli.app).commands["train"]
    assert speaking.LINES.keys() <= {param.name for param in command.params}


def test_error__says_of_which_network_it_is() -> None:
    with (
        pytest.raises(ValueError, match="no gradient") as caught,
        naming("baseline-s0"),
        naming("student-s0"),
    ):
        raise ValueError("no gradient")
    assert find_network(caught.value) == "student-s0"
    with pytest.raises(DataError) as missing, naming("student-s0"):
        raise DataError("a mask is missing")
    assert find_network(missing.value) == ""
    assert find_network(ValueError("no gradient")) == ""
