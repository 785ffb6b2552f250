"""Networks of texts and of clouds that were trained elsewhere: answers are those of direct calls on them."""

import json
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import kdviz
import kdviz.models  # before networks of transformers
from kdviz import analysis, cli, transfer, unicam
from kdviz.errors import DataError, LayerError, StoreError
from kdviz.networks import load_weights
from kdviz.sources import (
    LabelledTexts,
    ModelNet40,
    encode,
    find_checkpoints,
    read_modelnet40,
    read_texts,
    review_tokenizer,
)
from kdviz.studies.own import Whereabouts

pytestmark = pytest.mark.slow  # networks are trained, measured and asked
torch.set_num_threads(1)
EPOCHS, STEPS = (0, 3), {"text": 8, "cloud": 80}  # of an epoch
NETS = """
import kdviz.models
import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification, GPT2Config, GPT2Model

SMALL = dict(vocab_size=4000, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=24)

def make():
    return DistilBertForSequenceClassification(DistilBertConfig(**SMALL, num_labels=2))

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(4000, 8), nn.Linear(8, 2)
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, tokens):
        states, _ = self.gru(self.words(tokens))
        return self.head(states.mean(1))

def decode():
    return GPT2Model(GPT2Config(vocab_size=4000, n_embd=8, n_layer=1, n_head=2))

class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 24, 1)
        self.fc1, self.fc2 = nn.Linear(24, 48), nn.Linear(48, 2)

    def forward(self, xyz):
        points = self.conv2(self.conv1(xyz).relu())
        return self.fc2(self.fc1(points.amax(2).relu()).relu())

class PointsFirst(PointNet):
    def forward(self, clouds):
        return super().forward(clouds.transpose(1, 2))

class Twice(PointNet):
    def forward(self, xyz):
        return super().forward(2 * xyz)

def sharper():
    network = make()
    network.distilbert.transformer.layer[0].ffn.activation = nn.Tanh()
    return network

def flat():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(1, 2))
"""
ROLES = ("teacher", "student", "baseline")
SIZES = {"points": 24, "background": 12}
SETS = [part for name, value in SIZES.items() for part in ("-s", f"data.{name}={value}")]
OF_TEXTS = ["--texts=films.tsv", "--tokenizer=tokenizer", "--words=words.txt", "-s", "data.length=20"]
LAYER = {"text": "distilbert.transformer.layer.1", "cloud": "fc1"}
FACTORY = {"text": "own_kinds:make", "cloud": "own_kinds:PointNet"}


def call(*arguments: str) -> None:
    cli.app([*arguments, "--no-progress"], standalone_mode=False)


def tell(kind: str, name: str = "student", *more: str, **options: str) -> list[str]:
    """List the options that measure one of the networks."""
    given = {"network": FACTORY[kind], "checkpoints": f"{kind}s/{name}", "role": name}
    given |= {"layers": LAYER[kind], "samples": "6"} | options
    data = OF_TEXTS if kind == "text" else ["--clouds=meshes", *SETS]
    return [*(f"--{option}={value}" for option, value in given.items() if value), *data, *more]


def write_off(path: Path, vertices: list, faces: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [" ".join(map(str, row)) for row in vertices]
    rows += [" ".join(map(str, (len(face), *face))) for face in faces]
    path.write_text("\n".join([f"OFF {len(vertices)} {len(faces)} 0", *rows]), "ascii")


def draw_data(folder: Path) -> None:
    """Sentences of two classes, a tokenizer, and boxes and pyramids of several heights."""
    telling = ("wonderful", "awful")
    rows = [f"It was a {telling[at % 2]} film that I saw {at} times.\t{at % 2}" for at in range(40)]
    (folder / "films.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    (folder / "words.txt").write_text("wonderful\nawful\n")
    review_tokenizer().save_pretrained(folder / "tokenizer")
    square = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    ring = [(at, (at + 1) % 4) for at in range(4)]
    for number, height in enumerate(np.linspace(0.5, 2, 10).tolist()):
        part = "test" if number % 5 == 0 else "train"
        pyramid = [*((x, y, 0) for x, y in square), (0, 0, height)]
        box = [(x, y, z) for z in (0, height) for x, y in square]
        faces = [(0, 1, 2, 3), *((a, b, 4) for a, b in ring)]
        write_off(folder / "meshes" / "pyramid" / part / f"{number}.off", pyramid, faces)
        faces = [(0, 1, 2, 3), (4, 5, 6, 7), *((a, b, b + 4, a + 4) for a, b in ring)]
        write_off(folder / "meshes" / "box" / part / f"{number}.off", box, faces)


def read(kind: str) -> tuple[Tensor | dict[str, Tensor], np.ndarray, tuple[str, ...]]:
    """Read all samples as these networks take them, by what sources offer to everybody."""
    if kind == "cloud":
        clouds = read_modelnet40("meshes", "all", **SIZES)
        return torch.from_numpy(clouds.clouds[:]).mT.contiguous(), clouds.labels, clouds.sample_ids
    texts = read_texts("films.tsv", foreground=["wonderful", "awful"])
    found = encode(texts, review_tokenizer(), length=20).inputs
    return {name: torch.from_numpy(one) for name, one in found.items()}, texts.labels, texts.sample_ids


def train(network: nn.Module, kind: str, folder: Path) -> None:
    """Train by plain torch, and save the weights before and after."""
    folder.mkdir(parents=True)
    inputs, labels, _ = read(kind)
    classes = torch.from_numpy(labels)
    optimiser = torch.optim.AdamW(network.parameters(), 0.01)
    network.train()
    for epoch in range(EPOCHS[-1] + 1):
        if epoch in EPOCHS:
            torch.save(network.state_dict(), folder / f"epoch_{epoch}.pt")
        for _ in range(STEPS[kind]):
            told = network(**inputs).logits if isinstance(inputs, dict) else network(inputs)
            optimiser.zero_grad()
            nn.functional.cross_entropy(told, classes).backward()
            optimiser.step()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a module, checkpoints of three networks a kind, and a run of each, asked."""
    folder = tmp_path_factory.mktemp("kinds")
    draw_data(folder)
    (folder / "own_kinds.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        import own_kinds

        for kind, build in (("text", own_kinds.make), ("cloud", own_kinds.PointNet)):
            for seed, name in enumerate(ROLES):
                torch.manual_seed(seed)
                train(build(), kind, folder / f"{kind}s" / name)
                call("measure", f"{kind}.zarr", *tell(kind, name))
            for command in ("transfer", "unicam"):
                call(command, f"{kind}.zarr", f"--network={FACTORY[kind]}", "--samples=20")
    return folder


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    monkeypatch.syspath_prepend(str(made))
    return made


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all but the runs, to write into."""
    for one in made.iterdir():
        if not one.name.startswith(("text.", "cloud.", "text-", "cloud-", ".", "__")):
            (shutil.copytree if one.is_dir() else shutil.copy2)(one, tmp_path / one.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(made))
    return tmp_path


def load(kind: str, name: str, epoch: int = EPOCHS[-1]) -> nn.Module:
    import own_kinds

    network = (own_kinds.make if kind == "text" else own_kinds.PointNet)()
    load_weights(network, find_checkpoints(f"{kind}s/{name}")[epoch])
    return network.eval()


def twenty(kind: str) -> tuple[Tensor | dict[str, Tensor], np.ndarray, tuple[str, ...]]:
    """Twenty samples, evenly from both classes, in the order of the source."""
    inputs, labels, names = read(kind)
    by_class = np.argsort(labels, kind="stable")
    rows = np.sort(by_class[np.linspace(0, len(labels) - 1, 20).round().astype(int)])
    chosen = {name: one[rows] for name, one in inputs.items()} if isinstance(inputs, dict) else inputs[rows]
    return chosen, labels[rows], tuple(names[row] for row in rows)


def three(kind: str, names: tuple[str, ...] = ROLES) -> dict[str, nn.Module]:
    return {f"{name}-s0": load(kind, name) for name in names}


# -- measuring


def test_measure__of_own_texts_is_measure_checkpoints(here: Path) -> None:
    import own_kinds

    texts = read_texts("films.tsv", foreground=["wonderful", "awful"])
    rows = [0, 7, 16, 23, 32, 39]  # of twenty of each class, three spread over them
    chosen = texts.select(rows)
    encoding = encode(chosen, review_tokenizer(), length=20)
    files = find_checkpoints("texts/student")
    expected = kdviz.measure_checkpoints(
        own_kinds.make,
        files,
        {name: torch.from_numpy(one) for name, one in encoding.inputs.items()},  # as transformers take them
        network="student-s0",
        role="student",
        layers=LAYER["text"],
        entry="distilbert.embeddings",
        units=encoding.units,
        foreground=encoding.texts.foreground_mask,
        sample_ids=chosen.sample_ids,
        progress=False,
    )
    run = kdviz.open_run("text.zarr")
    found = run.dataset("student-s0", LAYER["text"])
    assert found["sample"].values.tolist() == [f"films-{row + 2:06d}" for row in rows]
    for name in ("gain", "entropy", "noise_unit", "clean_response", "foreground", "token", "label"):
        np.testing.assert_array_equal(found[name], expected[name] if name != "label" else chosen.labels)
    assert found["foreground"].sum("unit").values.tolist() == [1] * 6
    shown = found["token"].values[found["foreground"].values].tolist()
    assert shown == [("wonderful", "awful")[row % 2] for row in rows]
    way = kdviz.weight_distance(files, layer=f"{LAYER['text']}.ffn.lin2", initial=files[0])
    np.testing.assert_allclose(found["weight_distance"], way)
    assert found.attrs["modality"] == "text" and found.attrs["dataset_id"] == "texts, films.tsv"
    assert kdviz.schema.read_classes(run.samples) == ["0", "1"]


def test_measure__of_own_clouds_is_measure_checkpoints(here: Path) -> None:
    import own_kinds

    clouds = read_modelnet40("meshes", "all", **SIZES)
    assert clouds.sample_ids[:2] == ("box/train/1-0", "pyramid/train/1-0") and len(clouds) == 20
    rows = [0, 3, 8, 11, 16, 19]
    chosen = clouds.select(rows)
    files = find_checkpoints("clouds/student")
    expected = kdviz.measure_checkpoints(
        own_kinds.PointsFirst,  # the same network, turned by hand
        files,
        torch.from_numpy(chosen.clouds[:]),
        network="student-s0",
        role="student",
        layers="fc1",
        units=kdviz.units.cloud(36),
        foreground=chosen.masks[:],
        sample_ids=chosen.sample_ids,
        progress=False,
    )
    found = kdviz.open_run("cloud.zarr").dataset("student-s0", "fc1")
    assert found["sample"].values.tolist() == [*chosen.sample_ids]
    for name in ("gain", "entropy", "clean_response", "foreground", "x", "z"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert found.attrs["modality"] == "cloud" and found.attrs["architecture"] == "PointNet"
    assert found.attrs["dataset_id"].startswith("meshes of meshes, all, 24 points and 12 around them")


def test_measure__takes_networks_that_are_fed_otherwise_into_one_run(place: Path) -> None:
    """A recurrent network of identifiers beside an encoder; a network of points first beside a turned one."""
    import own_kinds

    for kind, name, build, layer in (
        ("text", "Recurrent", own_kinds.Recurrent, "head"),
        ("cloud", "PointsFirst", own_kinds.PointsFirst, "fc1"),
    ):
        torch.manual_seed(5)
        (place / name).mkdir()
        torch.save(build().state_dict(), place / name / "epoch_0.pt")
        call("measure", "run.zarr", *tell(kind))
        other = {"network": f"own_kinds:{name}", "checkpoints": name, "role": "baseline", "layers": layer}
        call("measure", "run.zarr", *tell(kind, **other))
        run = kdviz.open_run("run.zarr")
        assert run.networks == ["baseline-s0", "student-s0"] and run.gaps() == ""
        if kind == "text":
            entries = {
                network: json.loads(str(attrs["config"]))["entry"]
                for (network, _), attrs in run.catalogue().items()
            }
            assert entries == {"baseline-s0": "words", "student-s0": "distilbert.embeddings"}
        gain = run.dataset("baseline-s0", layer)["gain"].values
        assert np.nanmin(gain) >= 0 and np.nanmax(gain) > 0
        shutil.rmtree("run.zarr")
        Path("run-networks.json").unlink()


def test_measure__of_a_decoder_takes_the_entry_that_is_named(place: Path) -> None:
    import own_kinds

    Path("gpt").mkdir()
    torch.save(own_kinds.decode().state_dict(), "gpt/epoch_0.pt")
    options = {"network": "own_kinds:decode", "checkpoints": "gpt", "layers": "h.0"}
    with pytest.raises(LayerError, match=r"of wte, wpe each embeds a part; pass entry"):
        call("measure", "run.zarr", *tell("text", **options))
    assert not Path("run.zarr").exists()
    call("measure", "run.zarr", *tell("text", "student", "--entry=drop", **options))
    attrs = kdviz.open_run("run.zarr").catalogue()["student-s0", "h.0"]
    assert json.loads(str(attrs["config"]))["entry"] == "drop"


def test_measure__goes_on_where_files_were_moved(place: Path) -> None:
    call("measure", "run.zarr", *tell("text"))
    before = kdviz.open_run("run.zarr").dataset("student-s0", LAYER["text"])
    Path("tokenizer").rename("cutter")
    Path("words.txt").rename("telling.txt")
    unicam = ["unicam", "run.zarr", f"--network={FACTORY['text']}"]
    with pytest.raises(DataError, match=r"measured from, tokenizer, is not there: .*/tokenizer; kdviz measu"):
        call(*unicam)
    moved = [one.replace("=tokenizer", "=cutter").replace("words.txt", "telling.txt") for one in tell("text")]
    call("measure", "run.zarr", *moved)
    xr.testing.assert_identical(kdviz.open_run("run.zarr").dataset("student-s0", LAYER["text"]), before)
    where = Whereabouts.load(Path("run.zarr"))
    assert where.data == LabelledTexts(
        file="films.tsv", tokenizer="cutter", foreground="telling.txt", length=20
    )
    Path("films.tsv").write_text(Path("films.tsv").read_text().replace("film", "movie"))
    with pytest.raises(DataError, match=r"films\.tsv holds other texts under the names of those that were"):
        call(*unicam)


# -- what is asked of them


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    for variable, values in expected.data_vars.items():
        np.testing.assert_allclose(found[variable], values, rtol=1e-4, atol=1e-5, err_msg=str(variable))


@pytest.mark.parametrize("kind", ["text", "cloud"])
def test_transfer__of_own_kinds_is_transfer_report(here: Path, kind: str) -> None:
    inputs, labels, names = twenty(kind)
    tokenizer = review_tokenizer()
    of_words = {"special_ids": tokenizer.all_special_ids, "mask_id": tokenizer.mask_token_id}
    expected = transfer.report(
        three(kind, ("teacher", "baseline", "student")),
        inputs,
        labels,
        teacher="teacher-s0",
        independent="baseline-s0",
        sample_ids=names,
        settings={"invariance": of_words} if kind == "text" else None,
        progress=False,
    )
    found = analysis.read_transfer(kdviz.open_run(f"{kind}.zarr"))
    assert {*found} == {*expected} and {"confidence", "consensus", "invariance", "representation"} <= {*found}
    for name in expected:
        if (kind, name) != ("cloud", "boundary"):  # planes are spanned by numbers in the order they come in
            assert_same(found[name], expected[name])
    assert found["confidence"]["right"].sel(network="teacher-s0").mean() > 0.9


@pytest.mark.parametrize("kind", ["text", "cloud"])
def test_unicam__of_own_kinds_is_unicam_score(here: Path, kind: str) -> None:
    inputs, labels, names = twenty(kind)
    expected = unicam.score(
        three(kind), inputs, labels, student="student-s0", base="baseline-s0", teacher="teacher-s0",
        layers=[LAYER[kind]], sample_ids=names, epoch=EPOCHS[-1], progress=False,
    )  # fmt: skip
    run = kdviz.open_run(f"{kind}.zarr")
    found = run.result("unicam-scores/student-s0")
    assert "unicam/student-s0" not in run.results, "maps are of images"
    for name in ("rs", "rs_distilled", "rs_residual", "fss"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
    assert run.result("unicam-progress/student-s0")["epoch"].values.tolist() == [*EPOCHS]


def test_attribute__of_own_kinds_is_refused(here: Path) -> None:
    for kind, plural in (("text", "texts"), ("cloud", "clouds")):
        with pytest.raises(ValueError, match=rf"maps are drawn for images, .*{kind}\.zarr is about {plural}"):
            call("attribute", f"{kind}.zarr", f"--network={FACTORY[kind]}")


@pytest.mark.parametrize("kind", ["text", "cloud"])
def test_own_kinds__appear_in_the_verdict(here: Path, kind: str) -> None:
    told = str(analysis.give_verdict(kdviz.open_run(f"{kind}.zarr")))
    assert "incomplete" not in told and LAYER[kind] in told


def test_own_kinds__of_other_code_are_refused(here: Path) -> None:
    for kind, network in (("text", "own_kinds:sharper"), ("cloud", "own_kinds:Twice")):
        others = [f"--network={FACTORY[kind]}", f"--network=baseline-s0={network}"]
        with pytest.raises(StoreError, match="baseline-s0 is not the network that was measured: the weights"):
            call("unicam", f"{kind}.zarr", *others)


# -- what does not fit is refused by name, before any work


@pytest.fixture
def fail(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., str]:
    """Call as a shell does, and return the one line of the mistake."""
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["kdviz", "measure", "new.zarr", *words, "--no-progress"])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ending:
            cli.main()
        assert not Path("new.zarr").exists()
        capsys.readouterr()
        return str(ending.value.code)

    return run


def without(words: list[str], *starts: str) -> list[str]:
    return [word for word in words if not word.startswith(starts)]


def test_measure__refuses_options_of_other_data_by_name(fail: Callable[..., str]) -> None:
    texts, clouds = tell("text"), tell("cloud")
    assert "--masks goes with --images, not with --texts: leave it out" in fail(*texts, "--masks=meshes")
    assert "--size goes with --images, not with --clouds: leave it out" in fail(*clouds, "--size=32")
    assert "--grid goes with --images, not with --texts: leave it out" in fail(*texts, "--grid=4")
    assert "--entry goes with --texts, not with --clouds: leave it out" in fail(*clouds, "--entry=fc1")
    assert "--words goes with --texts, not with --clouds" in fail(*clouds, "--words=words.txt")
    assert "pass one kind of data: --images, --texts or --clouds, got --texts and --clouds" in fail(
        *texts, "--clouds=meshes"
    )
    bare = without(clouds, "--clouds", "-s", "data.")
    assert "--network needs --images, --texts or --clouds too" in fail(*bare)
    assert "--masks goes with --images: give that, too" in fail(*bare, "--masks=meshes")
    assert "--network needs --tokenizer too" in fail(*without(texts, "--tokenizer"))
    assert "data.modelnet40.length: unknown; allowed: points, background" in fail(
        *clouds, "-s", "data.length=9"
    )
    assert "data: Input tag 'furniture' found using 'kind'" in fail(*clouds, "-s", "data.kind=furniture")
    assert "-s is grid; without a study it changes how samples are read" in fail(*clouds, "-s", "grid=4")


def test_measure__says_what_of_data_or_network_is_wrong(fail: Callable[..., str]) -> None:
    texts, clouds = tell("text"), tell("cloud")
    gone = [word.replace("films.tsv", "none.tsv") for word in texts]
    assert re.search(r"path \(data\.file, --texts\) is not a file: .*/none\.tsv", fail(*gone))
    gone = [word.replace("=tokenizer", "=none") for word in texts]
    assert re.search(r"tokenizer is not a folder: .*/none", fail(*gone))
    gone = [word.replace("=meshes", "=none") for word in clouds]
    assert re.search(r"root \(data\.folder, --clouds\) is not a folder: .*/none", fail(*gone))
    Path("gone").mkdir()
    import own_kinds

    torch.save(own_kinds.flat().state_dict(), "gone/epoch_0.pt")
    told = fail(*tell("cloud", network="own_kinds:flat", checkpoints="gone", layers="0"))
    assert (
        "takes clouds neither with points first, (B, n, 3), nor with coordinates first, (B, 3, n): o" in told
    )
    torch.save(own_kinds.decode().state_dict(), "gone/epoch_0.pt")
    told = fail(*tell("text", network="own_kinds:decode", checkpoints="gone", layers="h.0"))
    assert "each embeds a part; give --entry, the name of the module" in told
    Path("films.tsv").write_text(Path("films.tsv").read_text().replace("that I", f"{'very ' * 30}that I"))
    long = [word.replace("length=20", "length=60") for word in texts]
    assert "and a smaller length, --set data.length=..." in fail(*long)


def test_measure__refuses_other_samples_in_a_run(place: Path) -> None:
    call("measure", "run.zarr", *tell("text"))
    for words, message in (
        (
            ["-s", "data.length=24"],
            "measured with data.length 20, now 24: all networks of a run see the same",
        ),
        (["--samples=4"], "run.zarr was measured with --samples 6, now 4: all .* see the same texts"),
    ):
        with pytest.raises(StoreError, match=message):
            call("measure", "run.zarr", *tell("text", "baseline"), *words)
    with pytest.raises(StoreError, match=r"measured with data\.kind texts, now modelnet40: all networks of"):
        call("measure", "run.zarr", *tell("cloud"))
    Path("films.tsv").rename("others.tsv")
    with pytest.raises(StoreError, match=r"measured with other texts, without others-000002, others-00000"):
        call("measure", "run.zarr", *[word.replace("films", "others") for word in tell("text", "baseline")])


def test_whereabouts__understand_what_was_remembered_of_images(tmp_path: Path) -> None:
    old = {"images": "/i", "masks": None, "size": 12, "grid": 4}
    where = Whereabouts.model_validate({**old, "checkpoints": {"a": {"folder": "/c"}}})
    assert where.data.kind == "image-folder" and where.data.images == Path("/i") and where.grid == 4
    assert (where.data.masks, where.data.size) == (None, 12)
    assert Whereabouts.model_validate(where.model_dump(mode="json")) == where
    clouds = Whereabouts(data=ModelNet40(folder="meshes"), checkpoints={})
    assert Whereabouts.model_validate(clouds.model_dump(mode="json")) == clouds and clouds.grid is None
