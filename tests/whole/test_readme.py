"""The code in the README runs as it stands."""

import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import kdviz
from kdviz.testing import random_images, small_cnn

README = Path(__file__).resolve().parents[2] / "README.md"


class Network(nn.Sequential):
    """A layer named ``classifier.3``, as in the text."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 6))


def test_readme__python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    mask = np.zeros((2, 16, 16), bool)
    mask[:, 4:12, 4:12] = True
    names = {
        "network": Network(),
        "make_network": Network,
        "images": random_images(2, channels=3, size=16, seed=0),
        "masks": mask,
        "photographs": np.zeros((2, 16, 16, 3), np.uint8),
    }
    save_file(Network().state_dict(), "s-0.safetensors")
    save_file(Network().state_dict(), "s-5.safetensors")
    torch.save(Network().state_dict(), "s-10.pt")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    first, second, third, shared, apart, words = blocks
    exec(first, names)
    assert "knowledge points on the object per image" in capsys.readouterr().out
    assert [axis.get_title() for axis in names["figure"].axes[:2]] == ["input", "mine"]
    assert float(names["other"]["entropy"].mean()) == pytest.approx(  # the target asked for, in nat
        0.5 + np.log(0.01) + 0.5 * np.log(2 * np.pi * np.e), abs=1e-3
    )
    with pytest.raises(NameError, match="baseline"):  # "made likewise"
        exec(second, names)
    exec(second, names | {"baseline": _baseline(names)})
    assert re.search(r"d_mean +0 +H2", capsys.readouterr().out)
    exec(third, names)
    assert "student-s0" in Path("view.svg").read_text()
    assert (
        names["app"].view.networks[0].role == "student"
        and not (names["app"].view.canvas.draw_input() == 128).all()
    )
    assert {"input_gradient", "grad_cam"} <= set(names["maps"]["attribution_method"].values)
    exec(shared, names | answering_networks())
    exec(apart, names | compared_networks())
    assert Path("relevance.png").stat().st_size > 10_000
    exec(words, names)
    assert (names["words"]["token"].values[0] != "").sum() == len(names["texts"].words[0])
    assert names["points"]["x"].shape == (2, 384) and names["points"]["zero_gain"].values.min() > 100


def answering_networks() -> dict:
    """Three networks and images of which the teacher is right."""
    images = kdviz.transfer.Pixels().write(torch.rand(24, 3, 8, 8))
    networks = {name: small_cnn(seed=seed) for seed, name in enumerate(("teacher", "alone-0", "kl-0"))}
    with torch.no_grad():
        for network in networks.values():  # no class is given to all
            network.fc2.bias -= network.eval()(images).mean(0)
        labels = networks["teacher"](images).argmax(1).numpy()
    return {"networks": networks, "images": images, "labels": labels}


def compared_networks() -> dict:
    """Three networks with a layer named ``layer4``, and images as they take them and as they are shown."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        layers = {"layer4": nn.Conv2d(3, 4, 3, padding=1), "flat": nn.Flatten(), "head": nn.Linear(784, 3)}
        return nn.Sequential(OrderedDict(layers))

    networks = {name: build(seed) for seed, name in enumerate(("student", "alone", "teacher"))}
    pictures = (255 * torch.rand(24, 14, 14, 3)).byte().numpy()
    images = torch.from_numpy(pictures).movedim(3, 1) / 255
    return networks | {"images": images, "pictures": pictures, "labels": np.arange(24) % 3}


def _baseline(names: dict) -> object:
    checkpoints = {0: "s-0.safetensors", 5: "s-10.pt", 10: "s-5.safetensors"}
    ds = kdviz.measure_checkpoints(
        Network,
        checkpoints,
        names["images"],
        network="baseline-s0",
        role="baseline",
        layers="classifier.3",
        units=kdviz.units.grid(16),
        foreground=names["masks"],
    )
    distance = kdviz.weight_distance(checkpoints, layer="classifier.3", initial=checkpoints[0])
    return kdviz.find_points(ds.assign(weight_distance=distance))
