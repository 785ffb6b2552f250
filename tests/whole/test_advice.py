"""What messages advise is carried out: each row fails with the advice, and works when it is taken."""

import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_study import draw_images, make_plan
from torch import nn

import kdviz
from kdviz import analysis, attribution, coherency, render, training, units
from kdviz.analysis import Settings
from kdviz.distillation import Features
from kdviz.errors import ConvergenceWarning, KdvizWarning
from kdviz.reports import prepare_notebook
from kdviz.sources import TextSet, find_checkpoints
from kdviz.store import open_run
from kdviz.studies import Study
from kdviz.testing import random_images, small_cnn
from kdviz.training import TrainingPlan

GRID = units.grid(4)
IMAGES = random_images(3, seed=3)
MASKS = np.zeros((3, 8, 8), bool)
MASKS[:, :4] = True
CLOUDS = torch.linspace(-1, 1, 24).view(2, 4, 3)
FAST = {"units": GRID, "method": "gain", "probes": 4, "draws": 2, "progress": False}
NAMED = {"network": "n", "role": "student", "layers": "fc1"}


def measure(network=None, inputs=IMAGES, *, layers="fc1", **options):
    return kdviz.measure(network or small_cnn(), inputs, layers=layers, **(FAST | options))


@cache
def measured() -> xr.Dataset:
    return measure(foreground=MASKS)


@cache
def found() -> xr.Dataset:
    return kdviz.find_points(kdviz.derive_entropy(measured()))


@cache
def maps() -> xr.Dataset:
    return kdviz.attribute(small_cnn(), IMAGES, units=GRID, methods=["input_gradient"], progress=False)


def without(ds: xr.Dataset, name: str) -> xr.Dataset:
    return ds.drop_attrs(deep=False).assign_attrs(
        {key: value for key, value in ds.attrs.items() if key != name}
    )


class Net(nn.Module):
    """A convolution and what `forward` makes of it."""

    def __init__(self, forward: Callable[[torch.Tensor], object], **parts: nn.Module) -> None:
        super().__init__()
        self.fc1, self.act, self.then = nn.Linear(192, 5), nn.ReLU(), forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images: torch.Tensor) -> object:
        return self.then(self.act(self.fc1(images.flatten(1))))


class First(nn.Module):
    """A layer that gives several things."""

    def forward(self, images):
        return images.flatten(1), 2 * images.flatten(1)


def tokens_of(width: int = 4) -> SimpleNamespace:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Embedding(9, width), nn.Linear(width, 3), nn.Flatten(), nn.Linear(12, 2)
    ).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    words = units.tokens([["a", "b"]], [[-1, 0, 1, -1]], [4])
    return SimpleNamespace(network=network, ids=ids, words=words)


def measure_words(**options):
    given = tokens_of()
    return measure(given.network, given.ids, layers="1", units=given.words, **options)


class Row(NamedTuple):
    """A failing call, the advice in its message, and the call as advised; calls take an empty folder."""

    advice: str
    wrong: Callable[[Path], object]
    right: Callable[[Path], object]


def store(folder: Path, **options) -> Path:
    states = {0: small_cnn().state_dict()}
    path = options.pop("path", folder / "run")
    given = NAMED | FAST | {"store": path, "foreground": MASKS} | options
    kdviz.measure_checkpoints(small_cnn, states, given.pop("inputs", IMAGES), **given)
    return path


def store_twice(folder: Path, **second) -> object:
    store(folder)
    return store(folder, **second)


def exported(folder: Path, **options) -> Path:
    run = open_run(store(folder))
    run.export(folder / "run.nc")
    return run.export(folder / "run.nc", **options)


@cache
def two_layers() -> xr.Dataset:
    states = {epoch: small_cnn(seed=epoch).state_dict() for epoch in (0, 1)}
    given = NAMED | FAST | {"layers": ["conv2", "fc1"], "foreground": MASKS}
    return kdviz.find_points(kdviz.measure_checkpoints(small_cnn, states, IMAGES, **given))


ROWS = {
    # analysis
    "one layer": Row(
        r"take one with ds.sel\(layer='conv2'\)",
        lambda _: kdviz.measure_learning(two_layers()),
        lambda _: kdviz.measure_learning(two_layers().sel(layer="conv2")),
    ),
    "no base noise": Row(
        "use a dataset from kdviz.measure",
        lambda _: kdviz.derive_entropy(without(measured(), "base_noise")),
        lambda _: kdviz.derive_entropy(measured()),
    ),
    "no weight": Row(
        r"pass Settings\(weight=...\)",
        lambda _: analysis.apply_settings(without(measured(), "weight"), Settings()),
        lambda _: analysis.apply_settings(without(measured(), "weight"), Settings(weight=7.0)),
    ),
    "points of hand": Row(
        "make it with find_points",
        lambda _: kdviz.count_points(
            found().assign(knowledge_point=found()["knowledge_point"].drop_attrs())
        ),
        lambda _: kdviz.count_points(found()),
    ),
    "no points": Row(
        r"kdviz.find_points\(ds\) makes it",
        lambda _: kdviz.count_points(measured()),
        lambda _: kdviz.count_points(kdviz.find_points(measured())),
    ),
    "no foreground": Row(
        "measure with foreground=",
        lambda _: kdviz.find_points(measure()),
        lambda _: kdviz.find_points(measure(foreground=MASKS)),
    ),
    "full masks, left out": Row(
        "leave them out",
        lambda _: kdviz.find_points(half_full(), background="sample"),
        lambda _: kdviz.find_points(half_full().isel(sample=[1, 2]), background="sample"),
    ),
    "full masks, by checkpoint": Row(
        "use background='checkpoint'",
        lambda _: kdviz.find_points(half_full(), background="sample"),
        lambda _: quietly(lambda: kdviz.find_points(half_full(), background="checkpoint")),
    ),
    # store
    "export again": Row(
        "pass overwrite=True",
        lambda folder: exported(folder),
        lambda folder: exported(folder, overwrite=True),
    ),
    "other settings, another name": Row(
        "use another network name",
        lambda folder: store_twice(folder, probes=8),
        lambda folder: store_twice(folder, probes=8, network="other"),
    ),
    "other settings, another run": Row(
        "or another run",
        lambda folder: store_twice(folder, probes=8),
        lambda folder: store_twice(folder, probes=8, path=folder / "other"),
    ),
    "other samples": Row(
        "use another run",
        lambda folder: store_twice(folder, inputs=random_images(3, seed=4)),
        lambda folder: store_twice(folder, inputs=random_images(3, seed=4), path=folder / "other"),
    ),
    "written export": Row(
        "use the run directory",
        lambda folder: exported_run(folder).write_result("attribution/n", maps()),
        lambda folder: open_run(store(folder)).write_result("attribution/n", maps()),
    ),
    # measuring and networks
    "thumbnails": Row(
        "pass store, or leave them out",
        lambda folder: store(folder, thumbnails=PICTURES, path=None),
        lambda folder: (store(folder, path=None), store(folder, thumbnails=PICTURES)),
    ),
    "random layer": Row(
        "switch off what is random .* without training=self.training",
        lambda _: measure(Net(lambda x: x, act=nn.Sequential(Dropping())), layers="act"),
        lambda _: measure(Net(lambda x: x, act=nn.Sequential(Dropping(True))).eval(), layers="act"),
    ),
    "batch mates": Row(
        "measure every sample by itself, with max_batch=1",
        lambda _: measure(Net(lambda x: x, act=Centred()), layers="act"),
        lambda _: measure(Net(lambda x: x, act=Centred()), layers="act", max_batch=1),
    ),
    "rounded": Row(
        "measure the network without it, or an earlier layer",
        lambda _: measure(Net(lambda x: x, act=Rounding()), layers="act"),
        lambda _: measure(Net(lambda x: x, act=Rounding()), layers="fc1"),
    ),
    "cut gradient": Row(
        "take out what cuts it",
        lambda _: measure(Net(lambda x: x, act=Detached()), layers="act"),
        lambda _: measure(Net(lambda x: x), layers="act"),
    ),
    "infinite": Row(
        "measure another layer",
        lambda _: measure(Net(lambda x: x, act=Infinite()), layers="act"),
        lambda _: measure(Net(lambda x: x, act=Infinite()), layers="fc1"),
    ),
    "half precision": Row(
        r"pass network.float\(\)",
        lambda _: measure(small_cnn().half()),
        lambda _: measure(small_cnn().half().float()),
    ),
    "half inputs": Row(
        r"pass inputs.float\(\)",
        lambda _: measure(inputs=IMAGES.half()),
        lambda _: measure(inputs=IMAGES.half().float()),
    ),
    "wrapped": Row(
        "pass its .module",
        lambda _: measure(nn.DataParallel(small_cnn())),
        lambda _: measure(nn.DataParallel(small_cnn()).module),
    ),
    "array": Row(
        "torch.from_numpy makes a tensor",
        lambda _: measure(inputs=[IMAGES.numpy()]),
        lambda _: measure(inputs=[torch.from_numpy(IMAGES.numpy())]),
    ),
    "large inputs, base noise": Row(
        "pass a larger base_noise, such as 2.55",
        lambda _: strictly(lambda: measure(inputs=PIXELS)),
        lambda _: strictly(lambda: measure(inputs=PIXELS, base_noise=2.55)),
    ),
    "large inputs, normalised": Row(
        "normalise them as in training",
        lambda _: strictly(lambda: measure(inputs=PIXELS)),
        lambda _: strictly(lambda: measure(inputs=(PIXELS - PIXELS.mean()) / PIXELS.std())),
    ),
    "large cloud": Row(
        "such as 2.1$",  # no word of pixels
        lambda _: strictly(lambda: measure_cloud()),
        lambda _: strictly(lambda: measure_cloud(base_noise=2.1)),
    ),
    "coordinates first": Row(
        r"\(B, 3, 4\), not \(B, 4, 3\): pass inputs\.movedim\(-1, 1\)",
        lambda _: measure_turned(CLOUDS),
        lambda _: measure_turned(CLOUDS.movedim(-1, 1)),
    ),
    "words without entry": Row(
        "needs entry: the name of the module",
        lambda _: measure_words(),
        lambda _: measure_words(entry="0"),
    ),
    "no layers": Row(
        r"kdviz.list_layers\(network\) names them all",
        lambda _: measure(layers=[]),
        lambda _: measure(layers=list(kdviz.list_layers(small_cnn()))[:1]),
    ),
    "other precision": Row(
        r"convert them with inputs.to\(torch.float64\)",
        lambda _: measure(small_cnn().double()),
        lambda _: measure(small_cnn().double(), IMAGES.to(torch.float64)),
    ),
    "several things": Row(
        r"pass feature= a callable .* feature=lambda output: output\[0\].relu\(\)",
        lambda _: measure(SEVERAL, layers="0"),
        lambda _: measure(SEVERAL, layers="0", feature=lambda output: output[0].relu()),
    ),
    "the network itself": Row(
        "choose a layer inside it",
        lambda _: (network := small_cnn(), measure(network, layers=network)),
        lambda _: (network := small_cnn(), measure(network, layers=network.fc1)),
    ),
    "no network": Row(
        "pass the module that it was made from",
        lambda _: measure(small_cnn().forward),
        lambda _: measure(small_cnn()),
    ),
    "no samples": Row(
        "pass at least one sample",
        lambda _: measure(inputs=IMAGES[:0]),
        lambda _: measure(inputs=IMAGES[:1]),
    ),
    "same names": Row(
        "must be 3 unique names",
        lambda _: measure(sample_ids=["a", "a", "b"]),
        lambda _: measure(sample_ids=["a", "c", "b"]),
    ),
    # texts
    "a pair for words": Row(
        "of a pair the first text in sentences, the second in contexts",
        lambda _: TextSet.from_sentences([("Where is it?", "It is here.")]),
        lambda _: TextSet.from_sentences(["Where is it?"], contexts=["It is here."]),
    ),
    # units
    "no channels": Row(
        r"pass inputs of shape \(B, C, H, W\)",
        lambda _: measure(Net(lambda x: x, fc1=nn.Linear(64, 5)), IMAGES[:, 0]),
        lambda _: measure(Net(lambda x: x, fc1=nn.Linear(64, 5)), IMAGES[:, :1]),
    ),
    "fine grid": Row(
        "choose a coarser grid",
        lambda _: measure(units=units.grid(16)),
        lambda _: measure(units=units.grid(8)),
    ),
    "partition of another size": Row(
        "pass labels of the inputs' height and width",
        lambda _: measure(units=units.mask(np.arange(16).reshape(4, 4))),
        lambda _: measure(units=units.mask(np.arange(64).reshape(8, 8))),
    ),
    "partitions of other samples": Row(
        r"pass labels of shape \(H, W\) to divide all alike",
        lambda _: measure(units=units.mask(np.arange(128).reshape(2, 8, 8) % 64)),
        lambda _: measure(units=units.mask(np.arange(64).reshape(8, 8))),
    ),
    # attribution and coherency
    "logits of three axes": Row(
        "wrap it in one that does",
        lambda _: attribute(Net(lambda x: x[..., None])),
        lambda _: attribute(nn.Sequential(Net(lambda x: x[..., None]), nn.Flatten())),
    ),
    "no rectifier": Row(
        "or take grad_cam",
        lambda _: attribute(SMOOTH, methods=["guided_grad_cam"]),
        lambda _: attribute(SMOOTH, methods=["grad_cam"]),
    ),
    "no linear head": Row(
        "take grad_cam",
        lambda _: attribute(small_cnn(), methods=["cam"]),
        lambda _: attribute(small_cnn(), methods=["grad_cam"]),
    ),
    "other units": Row(
        "pass the units that the maps were reduced to",
        lambda _: remove(units=units.grid(2)),
        lambda _: remove(units=GRID),
    ),
    "other inputs": Row(
        "pass the same, in the same order",
        lambda _: remove(IMAGES.flip(0)),
        lambda _: remove(IMAGES),
    ),
    "no map": Row(
        "choose among the methods that need none: input_gradient, integrated_gradients, occlusion",
        lambda _: attribute(Net(lambda x: x), methods=["grad_cam"]),
        lambda _: attribute(Net(lambda x: x), methods=WITHOUT_LAYER),
    ),
    "untraceable": Row(
        "pass a part of it that has no control flow",
        lambda _: coherency.find_pairs(Net(lambda x: x if x.sum() > -1e9 else -x).eval(), IMAGES),
        lambda _: coherency.find_pairs(nn.Sequential(nn.Flatten(), Net(lambda x: x).fc1).eval(), IMAGES),
    ),
    "traced to several": Row(
        "wrap it in a module that gives one tensor",
        lambda _: coherency.find_pairs(Net(lambda x: [x, x]).eval(), IMAGES),
        lambda _: coherency.find_pairs(nn.Sequential(Net(lambda x: [x, x]), Pick()).eval(), IMAGES),
    ),
    "unknown layers": Row(
        r"kdviz.list_layers\(network\) names the layers",
        lambda _: audit(["none"]),
        lambda _: audit([next(name for name in kdviz.list_layers(small_cnn()) if name == "fc1")]),
    ),
    # render and widgets
    "no networks": Row(
        r"pass \{title: dataset\}",
        lambda _: render.plot_points({}),
        lambda _: render.plot_points({"student": found()}),
    ),
    "pictures of no entropies": Row(
        "which kdviz.find_points adds",
        lambda _: render.plot_points({"student": measured()}),
        lambda _: render.plot_points({"student": kdviz.find_points(measured())}),
    ),
    "misspelt trait": Row(
        "did you mean 'epoch'",
        lambda folder: setattr(kdviz.explore(store(folder)).selection, "epok", 0),
        lambda folder: setattr(kdviz.explore(store(folder)).selection, "epoch", 0),
    ),
    "no network shown": Row(
        "choose 1 to 6 networks",
        lambda folder: kdviz.explore(store(folder), networks=[]),
        lambda folder: kdviz.explore(store(folder), networks=["n"]),
    ),
    # training
    "teacher without loss": Row(
        r"pass loss=, such as kdviz.distillation.Features\(layer\)",
        lambda folder: teach(folder, teacher=small_cnn(seed=1)),
        lambda folder: teach(folder, teacher=small_cnn(seed=1), loss=Features("fc1")),
    ),
    "diverged": Row(
        "lower learning_rate",
        lambda folder: teach(folder, learning_rate=1e30),
        lambda folder: teach(folder, learning_rate=1e-3),
    ),
    "other training, another folder": Row(
        "name another folder",
        lambda folder: teach_twice(folder, seed=5),
        lambda folder: teach_twice(folder, seed=5, name="other"),
    ),
    "other training, as it was": Row(
        "pass what that run was started with",
        lambda folder: teach_twice(folder, seed=5),
        lambda folder: teach_twice(folder),
    ),
    "damaged history": Row(
        "remove .* to train anew",
        lambda folder: (teach(folder), spoil(folder / "trained"), teach(folder).history),
        lambda folder: teach_anew(folder).history,
    ),
    "foreign files": Row(
        "name an empty folder",
        lambda folder: (clutter(folder / "trained"), teach(folder)),
        lambda folder: (clutter(folder / "trained"), teach(folder, name="empty")),
    ),
    # checkpoints
    "two numbers": Row(
        r"pass pattern, with \{epoch\} for it",
        lambda folder: find_checkpoints(name_files(folder, "a1-2.pth", "b3-4.pth")),
        lambda folder: find_checkpoints(name_files(folder, "a1-2.pth", "b3-4.pth"), pattern="*-{epoch}.pth"),
    ),
    "two of one epoch": Row(
        "pass pattern",
        lambda folder: find_checkpoints(name_files(folder, "a-1.pth", "b-1.pth")),
        lambda folder: find_checkpoints(name_files(folder, "a-1.pth", "b-1.pth"), pattern="a-{epoch}.pth"),
    ),
    "pattern": Row(
        r"must hold \{epoch\} once",
        lambda folder: find_checkpoints(name_files(folder, "a-1.pth"), pattern="a-*.pth"),
        lambda folder: find_checkpoints(name_files(folder, "a-1.pth"), pattern="a-{epoch}.pth"),
    ),
    # notebooks, studies and the shell
    "misspelt parameter": Row(
        "did you mean 'threshold'",
        lambda folder: prepare_notebook("01", {"treshold": 0.3}, folder=folder),
        lambda folder: prepare_notebook("01", {"threshold": 0.3}, folder=folder),
    ),
    "parameter of another notebook": Row(
        "01_report, .* take it",
        lambda folder: prepare_notebook("05", {"run_path": "run"}, folder=folder),
        lambda folder: prepare_notebook("01", {"run_path": "run"}, folder=folder),
    ),
    "no such notebook": Row(
        "come 01_report",
        lambda folder: prepare_notebook("report", {}, folder=folder),
        lambda folder: prepare_notebook("01_report", {}, folder=folder),
    ),
    "not trained": Row(
        "first kdviz train",
        lambda folder: tiny(folder).measure(),
        lambda folder: (tiny(folder).train(), tiny(folder).measure()),
    ),
    "not measured": Row(
        "first kdviz measure",
        lambda folder: (tiny(folder).train(), tiny(folder).attribute()),
        lambda folder: (tiny(folder).train(), tiny(folder).measure(), tiny(folder).attribute()),
    ),
}  # fmt: skip

PICTURES = np.zeros((3, 4, 4, 3), np.uint8)
PIXELS = torch.linspace(0, 255, 576).view(3, 3, 8, 8)
SMOOTH = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)
).eval()


class Dropping(nn.Module):
    """Functional dropout, of which one forgets to say that it is for training."""

    def __init__(self, told: bool = False) -> None:
        super().__init__()
        self.told = told

    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=self.training if self.told else True)


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0) if len(x) > 1 else x


class Rounding(nn.Module):
    def forward(self, x):
        return (x * 1e4).round()


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


class Infinite(nn.Module):
    def forward(self, x):
        return (x - x).log() + x


class Pick(nn.Module):
    def forward(self, several):
        return several[0]


def teach(folder: Path, *, name: str = "trained", learning_rate: float = 1e-3, seed: int = 0, **options):
    plan = TrainingPlan(epochs=1, batch_size=2, learning_rate=learning_rate, seed=seed)
    given = {"plan": plan, "folder": folder / name, "progress": False} | options
    return training.train(small_cnn(), IMAGES, torch.arange(3), **given)


def teach_twice(folder: Path, **second):
    teach(folder)
    return teach(folder, **second)


def teach_anew(folder: Path):
    teach(folder)
    spoil(folder / "trained")
    rmtree(folder / "trained")
    return teach(folder)


def spoil(folder: Path) -> None:
    for path in folder.glob("history*"):
        path.write_text("{}")


def clutter(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")


def name_files(folder: Path, *names: str) -> Path:
    for name in names:
        torch.save(small_cnn().state_dict(), folder / name)
    return folder


def tiny(folder: Path) -> Study:
    return Study(folder / "study", make_plan(draw_images(folder)), progress=False)


SEVERAL = nn.Sequential(First(), Pick(), nn.Linear(192, 4))
WITHOUT_LAYER = ["input_gradient", "integrated_gradients", "occlusion"]


def quietly(call: Callable[[], object]) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KdvizWarning)
        return call()


def strictly(call: Callable[[], object]) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error", KdvizWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        return call()


def measure_cloud(**options) -> xr.Dataset:
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)).eval()
    cloud = torch.linspace(-30, 30, 24).view(2, 4, 3) * 10
    return measure(network, cloud, layers="1", units=units.cloud(4), **options)


def measure_turned(clouds: torch.Tensor) -> xr.Dataset:
    network = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Flatten())
    return measure(network, clouds, layers="0", units=units.cloud(4))


@cache
def half_full() -> xr.Dataset:
    masks = MASKS.copy()
    masks[0] = True
    return quietly(lambda: measure(foreground=masks))


def exported_run(folder: Path):
    run = open_run(store(folder))
    return open_run(run.export(folder / "run.nc"))


def attribute(network: nn.Module, **options) -> xr.Dataset:
    given = {"units": GRID, "methods": ["input_gradient"], "progress": False} | options
    return kdviz.attribute(network.eval(), IMAGES, **given)


def remove(inputs: torch.Tensor = IMAGES, **options) -> xr.Dataset:
    given = {"units": GRID, "steps": 2, "progress": False} | options
    return attribution.remove_units(small_cnn(), inputs, maps(), **given)


def audit(layers: list[str]) -> object:
    return coherency.audit(
        small_cnn().eval(), IMAGES[:1], torch.zeros(1, dtype=torch.long), units=GRID, layers=layers,
        factors=[2.0], probes=4, progress=False,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*its training begins anew:kdviz.errors.KdvizWarning")
@pytest.mark.filterwarnings("ignore::kdviz.errors.DegenerateWarning")
@pytest.mark.filterwarnings("ignore::kdviz.errors.ConvergenceWarning")
@pytest.mark.parametrize("name", ROWS)
def test_advice__is_said_and_helps(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    (tmp_path / "wrong").mkdir()
    (tmp_path / "right").mkdir()
    with pytest.raises(Exception) as told:  # which kind, the rooms' own tests say
        row.wrong(tmp_path / "wrong")
    assert re.search(row.advice, str(told.value)), f"{type(told.value).__name__}: {told.value}"
    row.right(tmp_path / "right")
