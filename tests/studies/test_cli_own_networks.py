"""Networks trained elsewhere, asked from the shell: answers are those of direct calls on these networks."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_study import draw_images
from torch import nn

import kdviz
import kdviz.models  # before torchvision: makes it importable beside a CPU build of torch
from kdviz import analysis, cli, coherency, transfer, unicam
from kdviz.errors import DataError, KdvizWarning, StoreError
from kdviz.networks import load_weights
from kdviz.sources import find_checkpoints, image_folder, normalise
from kdviz.studies import attributing, explaining
from kdviz.studies.own import OwnNetworks, Whereabouts

pytestmark = pytest.mark.slow  # ResNets are trained, measured and asked

SIZE, EPOCHS = 32, (0, 16)
NETS = """
import kdviz.models
import torch
from torch import nn
from torchvision.models import resnet18

def make():
    return resnet18(num_classes=2)

def turned():
    network = make()
    with torch.no_grad():
        network.fc.register_forward_hook(lambda module, given, out: out.flip(1))
    return network

def five():
    return resnet18(num_classes=5)

def otherwise():
    network = make()
    network.layer1 = nn.Sequential(network.layer1, nn.Tanh())
    return network

def big():
    network = make()
    network.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 2))
    return network
"""
FOLDERS = {"teacher": "big", "student": "make", "baseline": "make"}


def train(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, folder: Path) -> None:
    """Train by plain torch, and save the weights before and after."""
    folder.mkdir()
    optimiser = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9)
    for epoch in range(EPOCHS[-1] + 1):
        if epoch in EPOCHS:
            torch.save(network.state_dict(), folder / f"epoch_{epoch}.pt")
        for rows in torch.randperm(len(inputs)).split(10):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network.train()(inputs[rows]), labels[rows]).backward()
            optimiser.step()


def call(*arguments: str) -> None:
    cli.app([*arguments, "--no-progress"], standalone_mode=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a module, checkpoints of three networks, and a run of them that was asked."""
    folder = tmp_path_factory.mktemp("own")
    draw_images(folder, per_class=20)
    (folder / "own_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        import own_nets

        images = image_folder("images", size=SIZE)
        inputs, labels = torch.from_numpy(normalise(images.images)), torch.from_numpy(images.labels)
        for seed, (name, factory) in enumerate(FOLDERS.items()):
            torch.manual_seed(seed)
            train(getattr(own_nets, factory)(), inputs, labels, folder / name)
            told = [f"--network=own_nets:{factory}", f"--checkpoints={name}", f"--role={name}"]
            told += ["--images=images", "--masks=masks", "--layers=layer3", f"--size={SIZE}", "--grid=4"]
            call("measure", "run.zarr", *told, "--samples=4")
        audit = ["coherency", "--samples=2", "--pairs=1"]
        for command in (["attribute"], audit, ["transfer", "--samples=20"], ["unicam", "--samples=20"]):
            call(command[0], "run.zarr", *BUILDERS, *command[1:])
    return folder


BUILDERS = ("--network=own_nets:make", "--network=teacher-s0=own_nets:big")


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    monkeypatch.syspath_prepend(str(made))
    return made


@pytest.fixture
def copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of run and checkpoints to change; images stay where they are."""
    for name in ("run.zarr", "student", "own_nets.py", "run-networks.json"):
        one = shutil.copytree if (made / name).is_dir() else shutil.copy2
        one(made / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def open_own() -> OwnNetworks:
    return OwnNetworks(kdviz.open_run("run.zarr"), [one.partition("=")[2] for one in BUILDERS], None, False)


def load(name: str) -> nn.Module:
    import own_nets

    files = find_checkpoints(name)
    network = getattr(own_nets, FOLDERS[name])()
    load_weights(network, files[16])
    return network.eval()


def twenty() -> tuple[torch.Tensor, np.ndarray, tuple[str, ...]]:
    images = image_folder("images", size=SIZE)
    chosen = images.select(np.linspace(0, 39, 20).round().astype(int))
    return torch.from_numpy(normalise(chosen.images)), chosen.labels, chosen.sample_ids


def test_attribute__of_own_networks_is_kdviz_attribute(here: Path) -> None:
    run = kdviz.open_run("run.zarr")
    images = image_folder("images", masks="masks", size=SIZE).select(run.samples["sample"].values.tolist())
    for name in FOLDERS:
        stored = run.result(f"attribution/{name}-s0")
        expected = kdviz.attribute(
            load(name), torch.from_numpy(normalise(images.images)), units=kdviz.units.grid(4),
            labels=images.labels, foreground=images.masks[:], sample_ids=images.sample_ids, epoch=16,
            progress=False,
        )  # fmt: skip
        assert stored["epoch"].values.tolist() == [16] and stored.attrs["network_role"] == name
        np.testing.assert_allclose(stored["attribution"], expected["attribution"], rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(stored["foreground"], expected["foreground"])


def test_coherency__of_own_networks_is_coherency_audit(here: Path) -> None:
    run = kdviz.open_run("run.zarr")
    found, names = analysis.read_audits(run), run.samples["sample"].values.tolist()
    images = image_folder("images", masks="masks", size=SIZE).select([names[0], names[-1]])
    inputs = torch.from_numpy(normalise(images.images))
    for name in FOLDERS:
        network, stored = load(name), found[found["network"] == f"{name}-s0"]
        folded = coherency.fold_batch_norm(network, inputs)
        pairs = {str(pair): pair for pair in coherency.find_pairs(folded, inputs).pairs}
        (chosen,), layers = stored["pair"].unique(), [*stored["layer"].unique()]
        assert layers == ["input", "layer3", pairs[chosen].first], "measured and mapped, inside"
        expected = coherency.audit(
            network, inputs, torch.from_numpy(images.labels), units=kdviz.units.grid(4),
            foreground=images.masks[:], pairs=[pairs[chosen]], layers=layers[1:], probes=16, progress=False,
            methods=[*dict.fromkeys(stored["method"])], threshold=0.2,
        )  # fmt: skip
        np.testing.assert_allclose(stored["difference"], expected["difference"], rtol=1e-4, atol=1e-8)
        assert stored["moved"].tolist() == expected["moved"].tolist() and stored["moved"].any()


def test_measure__normalises_as_told(copy: Path) -> None:
    images = Whereabouts.load(Path("run.zarr")).data.images
    told = ["--network=own_nets:make", "--checkpoints=student", f"--images={images}", f"--size={SIZE}"]
    told += ["--layers=layer3", "--grid=4", "-s", "data.mean=[0.5,0.4,0.3]", "-s", "data.std=[0.5,1,2]"]
    call("measure", "other.zarr", *told, "--samples=2")
    chosen = image_folder(images, size=SIZE).select(kdviz.open_run("other.zarr").samples["sample"].values)
    pixels = torch.from_numpy(chosen.images[:]).movedim(-1, 1) / 255
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.5, 1, 2]).view(3, 1, 1)
    expected = kdviz.measure(
        load("student"), (pixels - mean) / std, layers="layer3", units=kdviz.units.grid(4),
        sample_ids=chosen.sample_ids, progress=False,
    )  # fmt: skip
    found = kdviz.open_run("other.zarr").dataset("student-s0", "layer3").sel(epoch=16)
    np.testing.assert_allclose(found["entropy"], expected["entropy"].isel(epoch=0), atol=2e-4)
    cast = OwnNetworks(kdviz.open_run("other.zarr"), ["own_nets:make"], None, False)
    torch.testing.assert_close(cast.as_tensors(cast.measured_set)[0], (pixels - mean) / std)
    with pytest.raises(ValueError, match=r"image-folder\.std\.0\n.*greater than 0"):
        call("measure", "third.zarr", *told[:-1], "data.std=[0,1,1]")


def test_transfer__of_own_networks_is_transfer_report(here: Path) -> None:
    inputs, labels, names = twenty()
    networks = {f"{name}-s0": load(name) for name in ("teacher", "baseline", "student")}
    asked = ["confidence", "localization", "representation", "adversarial", "boundary"]
    expected = transfer.report(
        networks, inputs, labels, teacher="teacher-s0", independent="baseline-s0", sample_ids=names,
        pixels=transfer.Pixels(), properties=asked, progress=False,
    )  # fmt: skip
    found = analysis.read_transfer(kdviz.open_run("run.zarr"))
    assert [*found] == [name for name in transfer.PROPERTIES if name != "bias"]
    for name in asked:
        assert found[name]["network"].values.tolist() == [*networks]
        assert found[name]["role"].values.tolist() == ["teacher", "independent", "student"]
        for variable, values in expected[name].data_vars.items():
            np.testing.assert_allclose(found[name][variable], values, rtol=1e-4, atol=1e-5)


def test_unicam__of_own_networks_is_unicam_score(here: Path) -> None:
    inputs, labels, names = twenty()
    networks = {f"{name}-s0": load(name) for name in FOLDERS}
    expected = unicam.score(
        networks, inputs, labels, student="student-s0", base="baseline-s0", teacher="teacher-s0",
        layers=["layer3"], sample_ids=names, epoch=16, progress=False,
    )  # fmt: skip
    run = kdviz.open_run("run.zarr")
    found = run.result("unicam-scores/student-s0").sel(input="plain")
    for name in ("rs", "rs_distilled", "rs_residual", "fss"):
        np.testing.assert_allclose(found[name], expected[name].sel(input="plain"), rtol=1e-4, atol=1e-6)
    steps = run.result("unicam-progress/student-s0")
    assert steps["epoch"].values.tolist() == [*EPOCHS]
    np.testing.assert_allclose(steps["rs"].sel(epoch=16, input="plain"), found["rs"].sel(epoch=16))
    maps = run.result("unicam/student-s0")
    assert maps["sample"].values.tolist() == run.samples["sample"].values.tolist()


def test_own_networks__appear_in_the_verdict(here: Path) -> None:
    told = str(analysis.give_verdict(kdviz.open_run("run.zarr")))
    assert "incomplete" not in told and "layer3" in told and "not recorded" not in told
    assert "teacher" in told


def test_measure__tells_accuracy_at_every_checkpoint_of_networks_that_know_the_classes(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import own_nets

    place = Whereabouts.load(Path("run.zarr")).data.images
    images = image_folder(place, size=SIZE)
    inputs, labels = torch.from_numpy(normalise(images.images)), images.labels
    run = kdviz.open_run("run.zarr")
    right = {}
    for epoch, file in find_checkpoints("student").items():
        network = own_nets.make()
        network.load_state_dict(torch.load(file))
        right[epoch] = (network.eval()(inputs).argmax(1).numpy() == labels).mean()
    stored = run.variable("student-s0", "layer3", "accuracy")
    assert dict(zip(stored["epoch"].values, stored.values, strict=True)) == pytest.approx(right)
    assert stored.attrs["definition"] == "the network itself, on 40 of the images that there are"
    assert right[16] > right[0], "it has learned, so that the two are told apart"
    told = ["--network=own_nets:make", "--checkpoints=student", f"--images={place}", f"--size={SIZE}"]
    told += [f"--masks={place.with_name('masks')}", "--layers=layer3", "--grid=4", "--samples=4"]
    told_by_hand = {"student-s0": {16: 0.25}}
    for lost in (False, True):  # what somebody has told stays, alone
        if lost:
            shutil.rmtree("run.zarr/points/student-s0/layer3/accuracy")
        kdviz.store.describe("run.zarr", accuracy=told_by_hand, overwrite=True)
        call("measure", "run.zarr", *told)
        stored = run.variable("student-s0", "layer3", "accuracy").values.tolist()
        assert stored == [pytest.approx(np.nan if lost else right[0], nan_ok=True), 0.25]
    Path("five").mkdir()
    torch.save(own_nets.five().state_dict(), "five/epoch_0.pt")
    masks = place.with_name("masks")
    told = ["--network=own_nets:five", "--checkpoints=five", f"--images={place}", f"--masks={masks}"]
    told += ["--layers=layer3", f"--size={SIZE}", "--grid=4", "--samples=4", "--role=teacher", "--seed=5"]
    call("measure", "run.zarr", *told)
    assert run.variable("teacher-s5", "layer3", "accuracy") is None, "five classes are others"
    told = re.findall(r"accuracy  (.*) \(chance 0.50, classes lying, upright\)\n", capsys.readouterr().out)
    assert told == ["student-s0 0.25", "student-s0 0.25", "teacher-s5 unknown"]


def test_measure__tells_outputs_that_fit_the_classes_in_another_order(copy: Path) -> None:
    place = Whereabouts.load(Path("run.zarr")).data.images
    told = ["--network=own_nets:turned", "--checkpoints=student", f"--images={place}", "--layers=layer3"]
    hint = r"right on 0\.\d\d of the samples, but on (1\.00|0\.9\d) if its outputs were upright, lying, in"
    with pytest.warns(KdvizWarning, match=hint):
        call("measure", "other.zarr", *told, f"--size={SIZE}", "--grid=4", "--samples=2")


def test_measure__of_samples_that_do_not_fit_the_network_is_one_sentence(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("flat_nets.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(6912, 2))\n"
    )
    Path("flat").mkdir()
    torch.save({"1.weight": torch.zeros(2, 6912), "1.bias": torch.zeros(2)}, "flat/epoch_0.pt")
    place = Whereabouts.load(Path("run.zarr")).data.images
    told = ["--network=flat_nets:make", "--checkpoints=flat", f"--images={place}", "--layers=1", "--size=32"]
    monkeypatch.setattr(sys, "argv", ["kdviz", "measure", "other.zarr", *told, "--no-progress"])
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    with pytest.raises(
        SystemExit, match=r"on one sample, of shape .3, 32, 32., it fails: mat1 and .* --size"
    ):
        cli.main()


def test_own_networks__finished_is_not_asked_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributing, "attribute", lambda *_: pytest.fail("a map was drawn"))
    monkeypatch.setattr(explaining.unicam, "score", lambda *_, **__: pytest.fail("a score was asked"))
    call("attribute", "run.zarr", *BUILDERS)
    call("unicam", "run.zarr", *BUILDERS, "--samples=20")


def test_own_networks__of_another_epoch_are_drawn_anew(copy: Path) -> None:
    file = Path("student/epoch_16.pt")
    torch.save({name: 1.01 * values for name, values in torch.load(file).items()}, "student/epoch_20.pt")
    images = Whereabouts.load(Path("run.zarr")).data.images
    told = ["--network=own_nets:make", "--checkpoints=student", f"--images={images}"]
    told += [f"--masks={images.with_name('masks')}", "--layers=layer3", f"--size={SIZE}", "--grid=4"]
    call("measure", "run.zarr", *told, "--samples=4")
    call("attribute", "run.zarr", *BUILDERS)
    run = kdviz.open_run("run.zarr")
    drawn = {name: run.result(f"attribution/{name}-s0")["epoch"].values.tolist() for name in FOLDERS}
    assert drawn == {"teacher": [16], "student": [20], "baseline": [16]}


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (
            [],
            "run.zarr is a run without a study: say with --network module:function what builds its networks",
        ),
        (
            ["teacher-s0=own_nets:big"],
            "--network does not say what builds baseline-s0, student-s0: give module",
        ),
        (["own_nets:make", "teachr=own_nets:big"], "a name before = is 'teachr'; did you mean 'teacher-s0'"),
        (
            ["own_nets:make", "own_nets:big"],
            "says twice what builds all networks: own_nets:make and own_nets:b",
        ),
        (["own_nets:none"], "--network is 'own_nets:none'; allowed: module:function"),
    ],
)
@pytest.mark.parametrize("command", ["attribute", "coherency", "transfer", "unicam"])
def test_own_networks__have_to_be_built(here: Path, command: str, networks: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(command, "run.zarr", *[f"--network={one}" for one in networks])


def test_own_networks__of_other_code_are_refused(here: Path) -> None:
    with pytest.raises((StoreError, DataError), match=r"baseline-s0|baseline"):
        call("attribute", "run.zarr", "--network=own_nets:otherwise", "--network=teacher-s0=own_nets:big")


def test_own_networks__gone_or_changed_are_one_error(copy: Path) -> None:
    path = Path("run-networks.json")
    told = json.loads(path.read_text())
    told.pop("sha256")
    told["checkpoints"]["student-s0"] |= {"folder": str(copy / "student")}
    path.write_text(json.dumps(told))
    Path("student/epoch_16.pt").rename("kept.pt")
    with pytest.raises(DataError, match=r"student lacks checkpoints of student-s0 .*: epochs 16"):
        call("transfer", "run.zarr", *BUILDERS)
    Path("student/epoch_16.pt").write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"cannot read the checkpoint .*epoch_16\.pt") as damaged:
        call("transfer", "run.zarr", *BUILDERS)
    assert "--network" not in str(damaged.value), "no other builder makes a damaged file fit"
    torch.save({name: 2 * values for name, values in torch.load("kept.pt").items()}, "student/epoch_16.pt")
    with pytest.raises(StoreError, match="student-s0 is not the network that was measured"):
        call("transfer", "run.zarr", *BUILDERS)
    path.write_text(json.dumps(told | {"data": told["data"] | {"images": str(copy / "none")}}))
    with pytest.raises(DataError, match="none"):
        call("unicam", "run.zarr", *BUILDERS)
    path.write_text("{}")
    with pytest.raises(
        StoreError, match=r"run-networks.json is damaged: remove it; kdviz measure run.zarr --n"
    ):
        call("unicam", "run.zarr", *BUILDERS)
    path.unlink()
    with pytest.raises(
        StoreError, match=r"run-networks.json is missing, which says where checkpoints and samples"
    ):
        call("unicam", "run.zarr", *BUILDERS)


def test_own_networks__find_a_layer_of_the_teacher_by_the_name_of_both(here: Path) -> None:
    cast = open_own()
    assert cast.in_teacher("layer3") == "layer3"
    taught = cast.found["teacher-s0"]
    cast.found["teacher-s0"] = replace(taught, layers={"late": "layer4", "early": "layer1"})
    student = next(one for one in cast.found.values() if one.role == "student")
    cast.found[student.name] = replace(student, layers={"late": "layer3"})
    assert cast.in_teacher("layer3") == "layer4"


def test_unicam__says_before_it_begins_which_layer_has_no_partner_and_how_to_name_one(here: Path) -> None:
    cast = open_own()
    before = kdviz.open_run("run.zarr").gaps()
    at = [one.role for one in cast.subjects].index("teacher")
    others = ("layer1", "layer4")
    cast.subjects[at] = replace(cast.subjects[at], layers=others)
    cast.found["teacher-s0"] = replace(cast.found["teacher-s0"], layers={one: one for one in others})
    together = r"describe\('.*run\.zarr', layers={'like layer3': \['layer3', 'layer4'\]}\) in Python"
    with pytest.raises(ValueError, match=rf"teacher-s0 was not measured at layer3, but .*{together}"):
        cast.explain(20)
    assert kdviz.open_run("run.zarr").gaps() == before, "nothing is announced that cannot be asked"


def test_unicam__of_several_teachers_is_refused(here: Path) -> None:
    cast = open_own()
    cast.subjects.append(replace(cast.subjects[0], name="other"))
    with pytest.raises(ValueError, match=r"compares with one teacher; .*run\.zarr has teacher-s0, other"):
        cast.explain(20)


def test_run__runs_no_code_by_being_asked(copy: Path) -> None:
    """What lies beside a run of somebody else may name anything: nothing of it is imported."""
    path = Path("run-networks.json")
    told = json.loads(path.read_text())
    told.pop("sha256")
    path.write_text(json.dumps(told | {"network": "evil:make"}))
    Path("evil.py").write_text("raise SystemExit('code ran')")
    for command in ("attribute", "transfer", "unicam"):
        with pytest.raises(StoreError, match="damaged"):
            call(command, "run.zarr", *BUILDERS)
