"""What studies cost and how measurements grow: sums, projections and exponents are what they say."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import growth, presets
from benchmarks.__main__ import app
from kdviz.sources.tokenizing import load_tokenizer
from kdviz.studies import Study, StudyPlan
from kdviz.studies.costs import ArmCosts, Cost, Item

HOUR = 3600


def make_items(folder: Path, teacher: int, student: int, *, shared: bool) -> ArmCosts:
    """A teacher, its baseline and student and what measuring them takes; operations in units of an hour."""
    study = Study(folder, StudyPlan.model_validate({"networks": {"layers": ["fc1"]}}))
    by_name = {"teacher": teacher, "baseline-s0": 1, "student-fc1-s0": student}
    items = []
    for task in study.tasks("train", "measure"):
        flops = by_name[task.subject.name] * HOUR if task.action == "train" else HOUR
        cost = Cost(1, (10**6, 2 * 10**6), (HOUR, HOUR), (flops, 2 * flops), 10**9, 5 * 10**8)
        items.append(Item(task, cost, shared and task.action == "train"))
    return ArmCosts(items)


def test_presets__shared_networks_count_once_and_gpus_wait_for_the_longest_chain(tmp_path: Path) -> None:
    arms = [make_items(tmp_path, 5, 3, shared=False), make_items(tmp_path, 7, 4, shared=True)]
    row = presets.add_up(arms, rate=1.0)
    assert row["networks"] == 3 and row["passes"] == [9, 18] and row["hours"] == [9, 9]
    assert (row["memory"], row["disk"]) == (1, 4.5)
    assert row["gpu"] == [5 + 1 + 3 + 6, 30]
    assert row["chain"] == 2 * (7 + 4), "that of the arm whose networks are taken over: they were trained too"
    assert row["gpus"] == [22, 22]
    assert presets.add_up(arms[:1], rate=0.1)["gpus"] == [160, 160]
    assert "gpu" not in presets.add_up(arms)


def test_presets__many_short_chains_are_shared_out_evenly(tmp_path: Path) -> None:
    arms = [make_items(tmp_path, 1, 1, shared=False)] * 20
    row = presets.add_up(arms, rate=1.0)
    assert row["gpu"] == [20 * 6, 40 * 6] and row["gpus"] == [15, 30] and row["chain"] == 4


def test_presets__encoder_reads_the_invented_texts(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    presets.make_encoder(tmp_path)
    told = load_tokenizer(tmp_path)("good film film xyz", max_length=5, truncation=True)
    assert told["input_ids"] == [2, 5, 6, 6, 3]
    config = transformers.BertConfig.from_pretrained(tmp_path)
    assert (config.hidden_size, config.num_hidden_layers) == (768, 12), "BERT-base"


def test_presets__counts_the_networks_and_passes_of_a_small_study(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["presets", "--quick", "--folder", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "presets-quick.json").read_text())["results"]
    (row,) = results["presets"]
    assert (row["study"], row["preset"], row["arms"]) == ("vii", "small", 1)
    assert row["networks"] == 9, "of three seeds a baseline and two students; the teacher is built in"
    assert row["passes"][0] == row["passes"][1] > 0 and "gpu" not in row
    assert 0 < row["petaflop"][0] < 1


def test_growth__judges_the_ends_of_every_axis() -> None:
    rows = [
        {"axis": axis, "times": times, "seconds": 3 * times, "disk": 8 * times**power, "peak": 100 + times}
        for axis, power in (("samples", 1), ("checkpoints", 1.2), ("layers", 0.5))
        for times in (1, 4, 16)
    ]
    goals = {(goal["axis"], goal["what"]): goal for goal in growth.judge(rows)}
    assert goals["samples", "exponent of time"]["reached"] == pytest.approx(1)
    assert goals["checkpoints", "exponent of disk"]["reached"] == pytest.approx(1.2)
    assert goals["layers", "exponent of disk"]["reached"] == pytest.approx(0.5)
    assert goals["layers", "memory, end over start"]["reached"] == pytest.approx(116 / 101)
    met = [goal["met"] for goal in goals.values()]
    assert met == [True, True, True, True, False, True, True, False, True]
    rows[2]["peak"] = 122
    assert not next(goal for goal in growth.judge(rows) if goal["what"].startswith("memory"))["met"]


@pytest.mark.slow
def test_growth__jobs_are_as_large_as_they_say(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["growth", "--quick", "--folder", str(tmp_path)], catch_exceptions=False)
    results = json.loads((tmp_path / "growth-quick.json").read_text())["results"]
    sizes = [(row["samples"], row["checkpoints"], row["layers"]) for row in results["jobs"]]
    assert sizes == [(2, 1, 1), (4, 1, 1), (2, 1, 1), (2, 2, 1), (2, 1, 1), (2, 1, 2)]
    small, more = results["jobs"][:2]
    assert results["goals"][1]["reached"] == pytest.approx(math.log2(more["disk"] / small["disk"]))
    assert all(row["beyond"] <= row["peak"] and row["seconds"] > 0 for row in results["jobs"])
    assert done.exit_code == (not all(goal["met"] for goal in results["goals"]))
