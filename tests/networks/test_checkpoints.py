"""Checkpoints as trainers write them: the right weights in the network, or one sentence that says why not."""

import argparse
import collections
import enum
import json
import os
import pathlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import kdviz
import kdviz.models  # makes torchvision, which transformers wants, importable beside a CPU build of torch
from kdviz.errors import DataError
from kdviz.networks import load_weights
from kdviz.sources import find_checkpoints
from kdviz.testing import random_images, small_cnn
from kdviz.training import weight_distance

OURS = small_cnn(seed=1).state_dict()
OTHERS = small_cnn(seed=5).state_dict()


def has_weights(network: nn.Module, weights: dict) -> bool:
    state = network.state_dict()
    return all(torch.equal(state[name], value) for name, value in weights.items())


def loaded(checkpoint: object, part: str | None = None) -> nn.Module:
    network = small_cnn(seed=9)
    load_weights(network, checkpoint, part)  # type: ignore[arg-type]
    return network


def after(prefix: str, weights: dict) -> dict:
    return {f"{prefix}{name}": value for name, value in weights.items()}


# -- what stands before the names


def in_the_middle(weights: dict) -> dict:
    """As compiling conv1 alone, inside a DataParallel of the whole, names it."""
    return {f"module.{name.replace('conv1.', 'conv1._orig_mod.')}": value for name, value in weights.items()}


def averaged() -> dict:
    return torch.optim.swa_utils.AveragedModel(small_cnn(seed=1)).state_dict()


MOMENTUM = {"state": {0: {"momentum_buffer": torch.zeros(2, 2)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "checkpoint",
    [
        OURS,
        after("net.", OURS),
        after("backbone.", OURS),
        after("module.", OURS),
        after("student.module._orig_mod.", OURS),
        in_the_middle(OURS),
        averaged(),
        {"epoch": 3, "state_dict": after("model.", OURS), "optimizer_states": [MOMENTUM]},
        {"model": OURS, "optimizer": MOMENTUM, "best": torch.tensor(0.5), "class_weights": torch.ones(10)},
        {"whatever": {"deeper": after("module.", OURS)}, "teacher": small_cnn(width=3).state_dict()},
        after("student.", OURS) | after("teacher.", small_cnn(width=3).state_dict()),
        {"model": OURS, "model_ema": OURS},
        {**OURS, "decay": torch.tensor(3), "fc.extra.num_batches_tracked": torch.tensor(7)},
        {**OURS, "projector.weight": torch.ones(3, 3)},
    ],
    ids=lambda checkpoint: next(iter(checkpoint)),
)
def test_load_weights__finds_the_network_in_a_file(checkpoint: dict, tmp_path: Path) -> None:
    assert has_weights(loaded(checkpoint), OURS)
    torch.save(checkpoint, tmp_path / "x.pth.tar")
    assert has_weights(loaded(tmp_path / "x.pth.tar"), OURS)


def test_load_weights__into_a_compiled_network() -> None:
    network = torch.compile(small_cnn(seed=9))
    load_weights(network, after("module.", OURS))
    assert has_weights(network._orig_mod, OURS)


@pytest.mark.parametrize(
    ("checkpoint", "named"),
    [
        (after("student.", OURS) | after("teacher.", OTHERS), "'student', 'teacher'"),
        ({"model": OURS, "model_ema": OTHERS}, "'model', 'model_ema'"),
        (
            {"state_dict": after("student.net.", OURS) | after("teacher.net.", OTHERS)},
            "'state_dict.student.net', 'state_dict.teacher.net'",
        ),
    ],
)
def test_load_weights__of_two_networks_that_fit_the_caller_picks(checkpoint: dict, named: str) -> None:
    with pytest.raises(DataError) as raised:
        loaded(checkpoint)
    message = f"the state dict holds 2 networks that fit; name one with part: {named}"
    assert str(raised.value) == message
    for part, weights in zip(named.replace("'", "").split(", "), (OURS, OTHERS), strict=True):
        assert has_weights(loaded(checkpoint, part), weights)  # as the message says


def test_load_weights__a_part_may_be_named_from_the_middle() -> None:
    checkpoint = {"state_dict": after("student.net.", OURS) | after("teacher.net.", OTHERS)}
    assert has_weights(loaded(checkpoint, "teacher"), OTHERS)
    with pytest.raises(DataError, match=r"no parts named 'techer'; allowed: .*, state_dict\.teacher"):
        loaded(checkpoint, "techer")
    with pytest.raises(DataError, match=r"2 parts named 'net'; .*student\.net, state_dict\.teacher\.net"):
        loaded(checkpoint, "net")


@pytest.mark.parametrize(("student", "teacher"), [("student.", "teacher."), ("net.", "a_teacher.")])
def test_load_weights__a_deeper_network_of_the_same_names_does_not_fit(student: str, teacher: str) -> None:
    shallow, deep = (nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth))) for depth in (2, 4))
    both = after(student, shallow.state_dict()) | after(teacher, deep.state_dict())
    for network in (shallow, deep):  # as ResNet-18 and ResNet-34
        built = nn.Sequential(*(nn.Linear(3, 3) for _ in network))
        load_weights(built, both)
        assert has_weights(built, network.state_dict())


def test_load_weights__a_part_named_in_full_is_that_one() -> None:
    checkpoint = {"model": OURS, "ema": {"model": OTHERS}}
    with pytest.raises(DataError, match=r"2 networks that fit; name one with part: 'ema\.model', 'model'"):
        loaded(checkpoint)
    assert has_weights(loaded(checkpoint, "model"), OURS)
    assert has_weights(loaded(checkpoint, "ema.model"), OTHERS)


def test_measure_checkpoints__measures_the_part_that_is_named(tmp_path: Path) -> None:
    checkpoint = {"model": OURS, "model_ema": OTHERS}
    options = {"layers": "fc1", "units": kdviz.units.grid(4), "role": "student", "network": "n"}
    options |= {"method": "gain", "probes": 2, "draws": 2, "progress": False}

    def measure(weights: dict, **more: object) -> np.ndarray:
        ds = kdviz.measure_checkpoints(small_cnn, {3: weights}, random_images(1), **options, **more)
        return ds["gain"].values

    assert np.array_equal(measure(checkpoint, part="model_ema"), measure(OTHERS))
    assert np.array_equal(measure(checkpoint, part="model", store=tmp_path / "run"), measure(OURS))
    other = (
        r"already measured with other weights at epoch 3 \(weights_fingerprint\); use another network name"
    )
    with pytest.raises(kdviz.errors.StoreError, match=other):
        measure(checkpoint, part="model_ema", store=tmp_path / "run")


def test_weight_distance__of_one_of_two_networks_in_a_file() -> None:
    both = {
        k: after("student.", OURS) | after("teacher.", {n: k * v for n, v in OURS.items()}) for k in (1, 3)
    }
    with pytest.raises(
        DataError, match=r"2 of fc1\.weight; say which: student\.fc1\.weight, teacher\.fc1\.w"
    ):
        weight_distance(both, layer="fc1", initial=both[3])
    assert weight_distance(both, layer="teacher.fc1", initial=both[1]).values.tolist() == [0, 2]
    assert weight_distance(both, layer="student.fc1", initial=both[1]).values.tolist() == [0, 0]


# -- what does not fit


def test_load_weights__names_the_prefix_and_five_names_at_most() -> None:
    network = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    weights = after("net.", network.state_dict())
    weights["net.9.weight"] = weights.pop("net.3.weight")
    weights["net.4.bias"] = torch.zeros(3)
    with pytest.raises(DataError) as raised:
        load_weights(network, {"state_dict": weights})
    assert str(raised.value) == (
        "the state dict does not fit the network after 'state_dict.net.': 1 missing (3.weight); "
        "1 unknown (9.weight); 1 of another shape (4.bias (3,) for (2,))"
    )


def test_load_weights__of_another_architecture_is_short(tmp_path: Path) -> None:
    from torchvision.models import resnet18, vgg11_bn

    torch.save(resnet18().state_dict(), tmp_path / "r.pt")
    with pytest.raises(DataError, match=r"34 missing \(.* and 29 more\)|missing") as raised:
        load_weights(vgg11_bn(num_classes=5), tmp_path / "r.pt")
    assert len(str(raised.value)) < 600


def test_load_weights__a_prefix_of_some_names_is_no_prefix() -> None:
    some = {name if "fc2" in name else f"net.{name}": value for name, value in OURS.items()}
    with pytest.raises(DataError, match=r"after 'net\.': 2 missing \(fc2\.weight, fc2\.bias\)"):
        loaded(some)
    partly = {name if "fc2" in name else f"module.{name}": value for name, value in OURS.items()}
    assert has_weights(loaded(partly), OURS), "as where a part only is a DataParallel"


@pytest.mark.parametrize("deeper", [True, False])
def test_load_weights__of_a_deeper_or_shallower_network_is_refused(deeper: bool) -> None:
    def build(blocks: int) -> nn.Module:
        return nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(2, 2) for _ in range(blocks))})

    with pytest.raises(DataError, match=r"2 (unknown|missing) \(blocks\.3\.weight, blocks\.3\.bias\)"):
        load_weights(build(3 if deeper else 4), build(4 if deeper else 3).state_dict())


def test_load_weights__batch_norms_that_the_network_has_not_are_no_head() -> None:
    with pytest.raises(DataError, match=r"1 unknown \(bn1\.weight\)"):
        loaded({**OURS, "bn1.weight": torch.ones(6)})


def test_load_weights__counters_may_be_missing() -> None:
    network, before = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    with torch.no_grad():
        before.running_mean.fill_(2.0)
    state = before.state_dict()
    del state["num_batches_tracked"]  # of files before PyTorch 0.4.1
    load_weights(network, state)
    assert (network.running_mean == 2).all()
    del state["running_mean"]
    with pytest.raises(DataError, match=r"1 missing \(running_mean\)"):
        load_weights(network, state)


# -- other things beside the weights


class Colour(enum.Enum):
    RED = 1


class Options(dict):
    """A kind of dict, as configuration libraries have them."""


class Names(list):
    pass


BESIDE = {
    "NumPy number": np.float64(0.5),
    "NumPy array": np.arange(3.0),
    "Namespace": argparse.Namespace(lr=0.1, out=pathlib.Path("runs")),
    "path": pathlib.Path("runs"),
    "enumeration": Colour.RED,
    "kind of dict": Options(lr=0.1, deeper=Options(a=[1, 2])),
    "kind of list": Names(["a", "b"]),
    "defaultdict": collections.defaultdict(list, {"loss": [0.5]}),
    "function": os.path.join,
    "class": Colour,
}


def save_as_zip(path: Path, content: object) -> None:
    torch.save(content, path)


def save_as_old_file(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [save_as_zip, save_as_old_file])
@pytest.mark.parametrize("kind", BESIDE)
def test_read_checkpoint__stands_what_lies_beside_the_weights(
    tmp_path: Path, save: Callable, kind: str
) -> None:
    known = set(torch.serialization.get_safe_globals())
    save(tmp_path / "x.pt", {"args": BESIDE[kind], "state_dict": OURS, "also": [BESIDE[kind]]})
    assert has_weights(loaded(tmp_path / "x.pt"), OURS)
    assert set(torch.serialization.get_safe_globals()) == known


class Calls:
    """Unpickling one calls a function."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], tuple(self.call[1:])


class Rebuilt:
    def __setstate__(self, state: str) -> None:
        Path(state).touch()

    def __reduce__(self) -> tuple:
        return Rebuilt, (), str(Rebuilt.path)


@pytest.mark.parametrize("save", [save_as_zip, save_as_old_file])
@pytest.mark.parametrize("kind", ["system", "exec", "eval", "getattr", "state"])
def test_read_checkpoint__runs_nothing_from_a_file(tmp_path: Path, save: Callable, kind: str) -> None:
    trap = Rebuilt.path = tmp_path / "code-was-run"
    code = f"open({str(trap)!r}, 'w')"
    hostile = {
        "system": Calls(os.system, f"touch {trap}"),
        "exec": Calls(exec, code),
        "eval": Calls(eval, code),
        "getattr": Calls(getattr, Calls(pathlib.Path, str(trap)), "touch"),
        "state": Rebuilt(),
    }[kind]
    save(tmp_path / "x.pt", {"state_dict": OURS, "extra": hostile})
    if kind == "system":  # such modules are refused as a whole
        with pytest.raises(DataError, match=r"x\.pt: it holds more than tensors .*\.system\); save network"):
            loaded(tmp_path / "x.pt")
    else:
        assert has_weights(loaded(tmp_path / "x.pt"), OURS)
    assert not trap.exists()
    if kind != "getattr":
        pickle.loads(pickle.dumps(hostile))
        assert trap.exists(), "the trap works"


def doubled(levels: int) -> dict:
    """2 to the power of `levels` records, of as many objects as there are levels."""
    record: dict = {}
    for _ in range(levels):
        record = {"a": record, "b": record}
    return record


def nested(levels: int) -> dict:
    record: dict = {}
    for _ in range(levels):
        record = {"a": record}
    return record


def in_itself() -> dict:
    record: dict = {}
    record["self"] = record
    return record


@pytest.mark.parametrize("record", [in_itself(), doubled(45), nested(100)], ids=["itself", "many", "deep"])
def test_read_checkpoint__of_records_without_end_is_refused(tmp_path: Path, record: dict) -> None:
    content = {"state_dict": OURS, "more": record}
    torch.save(content, tmp_path / "x.pt")
    for checkpoint in (content, tmp_path / "x.pt"):
        with pytest.raises(DataError, match="holds records in records without end; save network"):
            loaded(checkpoint)
    assert has_weights(loaded({"state_dict": OURS, "more": nested(20) | doubled(8)}), OURS)


# -- files and folders


def test_read_checkpoint__knows_files_without_suffix(tmp_path: Path) -> None:
    torch.save(OURS, tmp_path / "ckpt_3")
    safetensors.torch.save_file(OTHERS, tmp_path / "ckpt_12")
    save_as_old_file(tmp_path / "ckpt_20", OURS)
    (tmp_path / "README").write_text("see ckpt_3")
    (tmp_path / "log_40").write_text("loss")
    found = find_checkpoints(tmp_path)
    assert list(found) == [3, 12, 20]
    for path, weights in zip(found.values(), (OURS, OTHERS, OURS), strict=True):
        assert has_weights(loaded(path), weights)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_read_checkpoint__puts_shards_together(tmp_path: Path, suffix: str) -> None:
    halves = [dict(list(OURS.items())[::2]), dict(list(OURS.items())[1::2])]
    save = safetensors.torch.save_file if suffix == "safetensors" else torch.save
    places = {}
    for at, half in enumerate(halves):
        save(half, tmp_path / f"model-{at}.{suffix}")
        places |= dict.fromkeys(half, f"model-{at}.{suffix}")
    index = tmp_path / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert has_weights(loaded(tmp_path), OURS)
    assert has_weights(loaded(index), OURS)
    (tmp_path / f"model-1.{suffix}").unlink()
    with pytest.raises(DataError, match=rf"there is no checkpoint at .*model-1\.{suffix}"):
        loaded(tmp_path)
    for elsewhere in ("../b.bin", "..", "."):
        index.write_text(json.dumps({"weight_map": {"a": elsewhere}}))
        with pytest.raises(DataError, match="it names files of other folders"):
            loaded(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": index.name}}))
    with pytest.raises(DataError, match=r"cannot read the checkpoint .*: it names an index"):
        loaded(tmp_path)
    for damaged in ("{}", "[", '{"weight_map": [1]}', '{"weight_map": {"a": 3}}'):
        index.write_text(damaged)
        with pytest.raises(DataError, match=r"cannot read the checkpoint .*index\.json"):
            loaded(tmp_path)


def test_read_checkpoint__of_a_folder_without_one_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold one file of weights, got none; pass its path"):
        loaded(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        safetensors.torch.save_file(OURS, tmp_path / name)
    with pytest.raises(DataError, match=r"got a\.safetensors, b\.safetensors; pass its path"):
        loaded(tmp_path)
    assert has_weights(loaded(tmp_path / "b.safetensors"), OURS)


def test_find_checkpoints__knows_the_folders_of_a_trainer(tmp_path: Path) -> None:
    for step, weights in ((500, OURS), (1000, OTHERS)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        for beside in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
            torch.save(MOMENTUM, folder / beside)
        (folder / "trainer_state.json").write_text("{}")
    (tmp_path / "runs-7").mkdir()
    safetensors.torch.save_file(OURS, tmp_path / "model.safetensors")
    found = find_checkpoints(tmp_path)
    assert found == {500: tmp_path / "checkpoint-500", 1000: tmp_path / "checkpoint-1000"}
    assert has_weights(loaded(found[500]), OURS) and has_weights(loaded(found[1000]), OTHERS)
    assert find_checkpoints(tmp_path, pattern="checkpoint-{epoch}") == found
    with pytest.raises(DataError, match="holds no checkpoint"):
        find_checkpoints(tmp_path / "checkpoint-500")


def test_find_checkpoints__states_of_optimisers_are_none(tmp_path: Path) -> None:
    for name in ("epoch_3.pth", "optimizer_epoch_3.pth", "model_9.bin", "scheduler_9.bin"):
        torch.save(OURS, tmp_path / name)
    assert find_checkpoints(tmp_path) == {3: tmp_path / "epoch_3.pth"}
    (tmp_path / "epoch_3.pth").unlink()
    assert find_checkpoints(tmp_path) == {9: tmp_path / "model_9.bin"}


# -- what transformers writes

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = {"image_size": 32, "patch_size": 8}
BART = {f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in
        (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
KINDS = {
    "ViTForImageClassification": TINY | IMAGE,
    "DeiTForImageClassification": TINY | IMAGE,
    "DeiTForImageClassificationWithTeacher": TINY | IMAGE,
    "BeitForImageClassification": TINY | IMAGE | {"use_relative_position_bias": True},
    "Dinov2ForImageClassification": IMAGE
    | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2},
    "SwinForImageClassification": {"image_size": 32, "patch_size": 4, "embed_dim": 8, "window_size": 4}
    | {"depths": [1, 1], "num_heads": [1, 2]},
    "SegformerForImageClassification": {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1]}
    | {"hidden_sizes": [8, 16], "num_attention_heads": [1, 2], "patch_sizes": [7, 3], "strides": [4, 2]}
    | {"mlp_ratios": [2, 2]},
    "T5ForConditionalGeneration": {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2}
    | {"num_heads": 2},
    "BartForConditionalGeneration": {"vocab_size": 50, "d_model": 16, "max_position_embeddings": 32} | BART,
    "GPT2LMHeadModel": {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    | {"bos_token_id": 1, "eos_token_id": 2},
    "LlamaForCausalLM": TINY | {"vocab_size": 50, "tie_word_embeddings": True},
    "BertForMaskedLM": TINY | {"vocab_size": 50},
    "BertForSequenceClassification": TINY | {"vocab_size": 50},
}


def build(kind: str, seed: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    maker = getattr(transformers, kind)
    torch.manual_seed(seed)
    network = maker(maker.config_class(**KINDS[kind])).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)  # biases, too
    return network


def answer(network: nn.Module) -> torch.Tensor:
    config = network.config
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if network.main_input_name == "pixel_values":
            return network(torch.randn(2, 3, 32, 32, generator=generator)).logits
        ids = torch.randint(3, 50, (2, 7), generator=generator)
        given = {"decoder_input_ids": ids} if config.is_encoder_decoder else {}
        return network(input_ids=ids, **given).logits


@pytest.mark.parametrize("kind", KINDS)
def test_load_weights__of_what_transformers_saved(kind: str, tmp_path: Path) -> None:
    network = build(kind, seed=1)
    expected = answer(network)
    network.save_pretrained(tmp_path / "whole")
    network.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    torch.save({"model": network.state_dict(), "lr": 0.1}, tmp_path / "record.pt")
    (file,) = (tmp_path / "whole").glob("*.safetensors")
    for path in (tmp_path / "whole", file, tmp_path / "shards", tmp_path / "record.pt"):
        other = build(kind, seed=2)
        assert not torch.equal(answer(other), expected)
        load_weights(other, path)
        assert torch.equal(answer(other), expected), path


@pytest.mark.parametrize(
    "kind", ["ViTForImageClassification", "SwinForImageClassification", "BertForSequenceClassification"]
)
def test_load_weights__of_a_base_in_a_file_with_a_head_and_the_other_way_round(
    kind: str, tmp_path: Path
) -> None:
    network, head, base = build(kind, seed=1), build(kind, seed=2), build(kind, seed=3).base_model
    network.save_pretrained(tmp_path / "head")
    load_weights(base, tmp_path / "head")
    assert has_weights(base, network.base_model.state_dict())
    network.base_model.save_pretrained(tmp_path / "base")
    prefix = network.base_model_prefix
    message = rf"base does not fit the network at its '{prefix}\.': 2 missing \(classifier\.\S+, classifier"
    with pytest.raises(
        DataError, match=message + r".*; it was saved without a head: build the network without"
    ):
        load_weights(head, tmp_path / "base")
    load_weights(base := build(kind, seed=4).base_model, tmp_path / "base")  # as the message says
    assert has_weights(base, network.base_model.state_dict())
    wrapper = nn.ModuleDict({"encoder": build(kind, seed=5).base_model})
    load_weights(wrapper, tmp_path / "base")
    assert has_weights(wrapper["encoder"], network.base_model.state_dict())


def test_load_weights__of_an_old_bert_with_position_ids(tmp_path: Path) -> None:
    network = build("BertForSequenceClassification", seed=1)
    weights = network.state_dict() | {"bert.embeddings.position_ids": torch.arange(512)[None]}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    load_weights(other := build("BertForSequenceClassification", seed=2), tmp_path)
    assert torch.equal(answer(other), answer(network))


def test_load_weights__an_untied_head_that_is_missing_is_told() -> None:
    network = build("GPT2LMHeadModel", seed=1)
    weights = {name: value for name, value in network.state_dict().items() if name != "lm_head.weight"}
    load_weights(network, weights)
    network.lm_head.weight = nn.Parameter(network.lm_head.weight.detach().clone())
    with pytest.raises(DataError, match=r"1 missing \(lm_head\.weight\)"):
        load_weights(network, weights)
