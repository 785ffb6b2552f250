"""YAML and JSON that would keep their reader busy without end: one sentence, at once."""

import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from kdviz.errors import DataError, StoreError
from kdviz.files import parse_yaml, read_json
from kdviz.networks.checkpoints import load_weights
from kdviz.sources import image_folder
from kdviz.studies.plans import make_plan

LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 13)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, r"it holds an alias \(\*name\); write the value itself there"),
        (f"{LAUGHS}training: {{seeds: *a12}}", "it holds an alias"),
        ("training: &a {x: *a}", "it holds an alias"),
        ("data: &b {<<: *b}", "it holds an alias"),
        (f"data: {'[' * 100_000}", "it is nested deeper than 50 levels"),
        (f"data: {'{a: ' * 5_000}1{'}' * 5_000}", "it is nested deeper than 50 levels"),
        ("- " * 100_000, "it is nested deeper than 50 levels"),
        (f"training: {{epochs: {'9' * 5_000}}}", "4300 digits"),
        ("training: [1", "while parsing a flow sequence .* expected ',' or ']'"),
        ("training: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)
def test_plan__that_never_ends_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(StoreError, match=message) as raised:
        make_plan(tmp_path / "study", tmp_path / "plan.yaml", {}, [])
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=message) as raised:
        make_plan(tmp_path / "study", None, {}, [f"x={text}"])
    assert "\n" not in str(raised.value) and str(raised.value).startswith("the value of x cannot be read: ")


def test_parse_yaml__reads_what_is_usual() -> None:
    assert parse_yaml("a: [1, {b: 2.5}, null]\nc: 'x *y &z'") == {"a": [1, {"b": 2.5}, None], "c": "x *y &z"}
    assert parse_yaml("[" * 50 + "]" * 50)


@pytest.mark.parametrize("depth", [5_000, 1_000_000])
def test_read_json__nested_deep_is_one_sentence(tmp_path: Path, depth: int) -> None:
    (tmp_path / "x.json").write_text(f'{{"sha256": "", "a": {"[" * depth}{"]" * depth}}}')
    with pytest.raises(StoreError, match="it is nested too deep; put a backup of it back, or remove"):
        read_json(tmp_path / "x.json", remove=tmp_path)
    index = tmp_path / "x.safetensors.index.json"
    (tmp_path / "x.json").rename(index)
    with pytest.raises(DataError, match=r"it is nested too deep$"):
        load_weights(nn.Linear(2, 2), index)


def shared(kind: str) -> object:
    held: object = [0] if kind == "list" else {"a": torch.ones(1)}
    for _ in range(60):
        held = [held, held] if kind == "list" else {"x": held, "y": held}
    return held


def nested(kind: str, depth: int = 900) -> object:
    held: object = 0
    for _ in range(depth):
        held = {"list": [held], "tuple": (held,), "dict": {"a": held}}[kind]
    return held


def cyclic(kind: str) -> object:
    held: list | dict = [] if kind == "list" else {}
    held.append(held) if isinstance(held, list) else held.update(a=held)
    return held


@pytest.mark.parametrize("name", ["extra", "x._extra_state"])
@pytest.mark.parametrize(
    "make", [lambda: shared("list"), lambda: nested("list"), lambda: nested("tuple"), lambda: cyclic("list")]
)
def test_load_weights__lists_beside_them_are_passed_over(tmp_path: Path, make, name: str) -> None:
    network, weights = nn.Linear(2, 2), nn.Linear(2, 2).state_dict()
    save(weights | {name: make()}, tmp_path / "x.pt")
    if name == "extra":
        load_weights(network, tmp_path / "x.pt")
        assert torch.equal(network.weight, weights["weight"])
    else:
        with pytest.raises(DataError, match=r"1 unknown \(x\._extra_state\)$"):
            load_weights(network, tmp_path / "x.pt")


@pytest.mark.parametrize("make", [lambda: shared("dict"), lambda: nested("dict"), lambda: cyclic("dict")])
def test_load_weights__records_without_end_are_one_sentence(tmp_path: Path, make) -> None:
    save(nn.Linear(2, 2).state_dict() | {"extra": make()}, tmp_path / "x.pt")
    with pytest.raises(DataError, match="holds records in records without end; save network"):
        load_weights(nn.Linear(2, 2), tmp_path / "x.pt")


def save(content: dict, path: Path) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    torch.save(content, path)
    sys.setrecursionlimit(limit)


def test_plan__says_all_of_its_faults_at_once(tmp_path: Path) -> None:
    changes = [
        "training.epochs=1",
        "training.seeds=[0, 0]",
        "measurement.grid=100",
        "networks.depth=3",
        "x=1",
    ]
    with pytest.raises(ValidationError) as raised:
        make_plan(tmp_path, None, {}, changes)
    told = {".".join(map(str, fault["loc"])): fault["msg"] for fault in raised.value.errors()}
    assert told.keys() == {"training.epochs", "training.seeds", "measurement", "networks", "x"}
    assert "a grid of 100 units a side does not fit pictures of 48 pixels" in told["measurement"]


def test_plan__names_the_argument_whose_folder_is_not_there(tmp_path: Path) -> None:
    given = {
        "data": {"kind": "texts", "file": tmp_path / "x.tsv"},
        "data.tokenizer": tmp_path / "none",
        "networks.teacher": {"kind": "trained", "encoder": tmp_path / "none"},
    }
    with pytest.raises(
        ValueError, match=r"^networks\.teacher\.encoder \(--encoder\) is not a folder: .*none$"
    ):
        make_plan(tmp_path, None, given, [])


@pytest.mark.parametrize(("tree", "kind"), [("cat/\udcff.png", "sample_ids"), ("\udcff/a.png", "classes")])
def test_image_folder__names_that_are_not_utf8_are_found_at_once(
    tmp_path: Path, tree: str, kind: str
) -> None:
    path = tmp_path / tree
    path.parent.mkdir()
    path.write_bytes(b"no image: nothing is read")
    with pytest.raises(
        ValueError, match=rf"^{kind} must be text in UTF-8, got .*\\udcff.*; rename"
    ) as raised:
        image_folder(tmp_path, size=16)
    str(raised.value).encode()
