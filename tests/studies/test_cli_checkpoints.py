"""Networks trained elsewhere, measured from the shell: what is written, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_study import SIDE, draw_images

import kdviz
from kdviz import cli
from kdviz.errors import DataError, LayerError

NETS = """
from torch import nn

def make():
    below = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*below, nn.Linear(4 * 14 * 14, 32), nn.ReLU(), nn.Linear(32, 2))

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


def call(*changes: str, run: str = "run.zarr", **options: str) -> None:
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
    told = [part for name, value in given.items() if value for part in (f"--{name}", value)]
    cli.app(["measure", run, *told, "--no-progress", *changes], standalone_mode=False)


def test_measure__of_own_checkpoints_is_measure_checkpoints(place: Path, capsys) -> None:
    call()
    call(checkpoints="baseline", role="baseline", name="scratch", seed="0")
    assert "next  kdviz report run.zarr" in capsys.readouterr().out
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
            "--masks, --checkpoints, --images, --layers, --size is of a",
        ),
        ({"network": "my_nets:needs"}, ValueError, r"missing 1 required positional argument: 'width'"),
        ({"workers": "2"}, ValueError, "--plan and --workers are of studies"),
        ({"checkpoints": "nowhere"}, DataError, "nowhere"),
        ({"images": "nowhere"}, DataError, "nowhere"),
        ({"layers": "4.x"}, LayerError, "4.x"),
    ],
)
def test_measure__of_own_checkpoints_refuses(place: Path, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(**options)
    assert not (place / "run.zarr").exists()


def test_measure__without_masks_keeps_entropies(place: Path) -> None:
    call(masks="")
    run = kdviz.open_run("run.zarr")
    assert "foreground" not in run.samples
    assert "no masks say what the object is" in str(kdviz.analysis.give_verdict(run))
