"""The benchmarks run, and their numbers are what they say: on the smallest problems there are."""

import json
import random
import re
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from reference import authors_loop
from typer.testing import CliRunner

import kdviz
from benchmarks import accuracy, authors, coherency, costs, faults, latency, noise, report
from benchmarks.__main__ import app
from benchmarks.zoo import cases, comparing, references
from kdviz.errors import StoreError
from kdviz.measuring.settings import Method
from kdviz.studies import Study
from kdviz.testing import random_images, small_cnn


def run_quick(folder: Path, command: str, *options: str) -> dict:
    """Run a command through the command line; the numbers it wrote."""
    done = CliRunner().invoke(
        app, [command, "--quick", "--folder", str(folder), *options], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    text = (folder / f"{command}-quick.json").read_text()
    written = json.loads(text)
    assert text == json.dumps(written, indent=1, sort_keys=True) + "\n", "the layout is stable"
    assert written["machine"]["torch"] == torch.__version__ and written["machine"]["threads"] == 1
    return written


# -- costs


@pytest.fixture
def subject() -> costs.Subject:
    return costs.Subject("small", small_cnn(size=16).eval(), "fc1", random_images(3, size=16))


@pytest.mark.parametrize("method", ["gain", "path"])
def test_overhead__replays_exactly_the_passes_of_measure(subject: costs.Subject, method: Method) -> None:
    passes = costs.trace_passes(
        subject.network,
        lambda: kdviz.measure(
            subject.network,
            subject.images,
            layers="fc1",
            units=kdviz.units.grid(4),
            method=method,
            probes=5,
            draws=2,
            progress=False,
        ),
    )
    tried_forward, tried_backward = costs.count_trial(layers=1, max_batch=16)
    forward = sum(one.samples for one in passes) - tried_forward
    backward = sum(one.samples * one.backwards for one in passes) - tried_backward
    at = {"samples": 3, "layers": 1, "probes": 5, "draws": 2}
    assert costs.is_documented(method, at, forward, backward)
    assert not costs.is_documented(method, at, forward + 1, backward)
    assert any(one.channels_last and one.gradient for one in passes)
    again = costs.trace_passes(subject.network, lambda: costs.replay_passes(subject, passes))
    assert again == passes


def test_overhead__bare_passes_read_the_same_feature(subject: costs.Subject) -> None:
    bare = costs.read_bare(subject.network, "fc1", subject.images)
    until_fc1 = subject.network[: [name for name, _ in subject.network.named_children()].index("fc1") + 1]
    torch.testing.assert_close(bare, until_fc1(subject.images).relu())
    assert not subject.network.fc1._forward_hooks


def test_overhead__is_measured_over_bare(subject: costs.Subject) -> None:
    row = costs.measure_overhead(subject, "gain", 1)
    assert row["ratio"] == row["measure"] / row["bare"] > 0.5
    points = 40 // 12  # 12 features, each a probe of its own at every noise point
    tried_forward, tried_backward = costs.count_trial(layers=1, max_batch=16)
    pairs = 40 // 4  # at three noise scales, half-way with four backward; and each quartile once
    assert row["forward"] == 3 * (1 + points + 3 * 2 * pairs + 4) + tried_forward
    assert row["backward"] == 3 * (12 * points + 4 * pairs) + tried_backward


@pytest.mark.slow
def test_costs__counts_grow_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = costs.CostPlan(
        networks=(),
        memory_samples=(32, 64),
        verbs=("measure_checkpoints",),
        growth_values=1,
        growth_repeats=1,
    )
    monkeypatch.setattr(costs, "QUICK", tiny)
    monkeypatch.setitem(costs.BASE, "samples", 2)
    results = run_quick(tmp_path, "costs")["results"]
    assert results["passes_as_documented"] and results["peak_below_limit"]
    found = {row["axis"]: (row["forward"], row["backward"]) for row in results["growth"][:-1]}
    # four antithetic pairs of 16 probes and of 8; two noise points of 4 draws and of 2
    assert found["samples"] == (1 + 2 + 3 * 8 + 4, 16 + 16)
    assert found["probes"] == (2 * 31, 2 * (8 + 16))
    assert found["grid"] == found["layers"] == found["max_batch"] == found["draws"] == (2 * 31, 2 * 32)
    small, large = results["memory"]
    assert (small["units_x_samples"], large["units_x_samples"]) == (32 * 256, 64 * 256)
    assert large["inputs"] == 2 * small["inputs"] == 64 * 3 * 16 * 16 * 4
    maps = 4 * 4 * 256 + 256  # gain, entropy, their errors or the noise: float32 maps; valid
    assert maps < (large["result"] - small["result"]) / 32 < 2 * maps
    for row in results["memory"]:
        assert row["beyond"] == row["peak"] - row["before"] - row["result"]
        assert row["before"] + row["while_measuring"] <= row["peak"] < costs.MEMORY_LIMIT


def test_fit_slope__finds_the_line() -> None:
    rows = [
        {"verb": "measure", "samples": n, "beyond": 100 + 30 * n, "while_measuring": 7, "result": 10 * n}
        | {"inputs": 5 * n}
        for n in (1, 2, 4)
    ]
    slope = costs.fit_slope(rows)
    assert slope["bytes_a_sample"] == pytest.approx(30) and slope["at_no_sample"] == pytest.approx(100)
    assert slope["copies"] == pytest.approx(3) and slope["while_measuring"] == pytest.approx(0, abs=1e-9)


# -- faults


@pytest.fixture
def stage(study: Study, tmp_path: Path) -> faults.Stage:
    """``kdviz info`` on a copy of the study."""
    before = tmp_path / "before"
    shutil.copytree(study.folder, before / "study")
    command = faults.Command(faults.arguments_of("info", before, faults.FaultPlan()))
    assert not command.wait() and command.process.returncode == 0
    told = faults.plain(command.told, before)
    assert "4 samples" in told
    return faults.Stage("info", before, faults.read_files(before), told, 0.5)


def test_faults__signals_are_survived_and_one_bit_is_seen(stage: faults.Stage) -> None:
    plan, chance = faults.FaultPlan(within=faults.HANGS), random.Random(0)
    assert faults.attack_with_signals(stage, faults.SIGNALS, 2, plan, chance) == ["", ""]
    weights = next(name for name in stage.after if name.endswith(".safetensors"))
    changed = bytearray(stage.after[weights])
    changed[-1] ^= 1
    other = replace(stage, after=stage.after | {weights: bytes(changed)})
    assert faults.attack_with_signals(other, [signal.SIGKILL], 1, plan, chance) == [
        f"info left another {weights}"
    ]
    other = replace(stage, told="something else")
    (fault,) = faults.attack_with_signals(other, [signal.SIGKILL], 1, plan, chance)
    assert fault.startswith("info told ")


def test_faults__a_command_without_a_sentence_is_seen(
    stage: faults.Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "STOPPED", "kdviz: something else")
    command = faults.Command(faults.arguments_of("info", stage.before, faults.FaultPlan()))
    fault = faults.strike(command, signal.SIGTERM, faults.HANGS)
    assert fault == "SIGTERM: status 143, 'kdviz: stopped; nothing is lost, call the same command again'"


def test_read_files__does_not_mind_when_a_run_was_made(study: Study, tmp_path: Path) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study")
    nodes = [path for path in copy.rglob("zarr.json") if '"created_at"' in path.read_text()]
    for node in nodes:
        node.write_text(
            re.sub(r'("created_at": ")[^"]*', r"\g<1>2001-01-01T00:00:00+00:00", node.read_text())
        )
    assert nodes and "2001-01-01" in nodes[0].read_text()
    assert faults.read_files(copy) == faults.read_files(study.folder)


def test_flip__tells_what_is_read_as_something_else(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(4))

    def refuse(path: Path) -> str:
        if any(path.read_bytes()):
            raise StoreError("damaged")
        return "whole"

    def crash(path: Path) -> str:
        return str(1 / (1 - any(path.read_bytes())))

    chance = random.Random(0)
    assert faults.flip(file, refuse, "whole", chance) == ""
    assert faults.flip(file, lambda path: "whole", "whole", chance) == ""
    told = faults.flip(file, lambda path: path.read_bytes().hex(), "00000000", chance)
    assert re.fullmatch(r"file: bit \d+ of 32 was read as something else", told)
    assert faults.flip(file, crash, "1.0", chance) == "file: ZeroDivisionError: division by zero"
    assert file.read_bytes() == bytes(4)


@pytest.mark.slow
def test_faults__are_counted_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "QUICK", replace(faults.QUICK, flips=2))
    for attack in ("kills", "flipped bits"):
        done = CliRunner().invoke(app, ["faults", "--quick", "--attack", attack, "--folder", str(tmp_path)])
        assert done.exit_code in (0, 1), done.output
    rows = json.loads((tmp_path / "faults-quick.json").read_text())["results"]["attacks"]
    tried = {(row["attack"], row["target"]): row["tried"] for row in rows}
    assert tried == dict.fromkeys(
        (("kills", command) for command in ("train", "measure", "attribute", "transfer", "export")), 1
    ) | dict.fromkeys(
        (("flipped bits", kind) for kind in (
            "numbers of a run", "metadata of a run", "exported file", "weights", "plan of a study",
            "histories",
        )), 2,
    )  # fmt: skip
    assert all(row["survived"] == row["tried"] and row["faults"] == [] for row in rows)


# -- noise


def test_noise__of_a_study_agrees_with_measuring_it_twice(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "QUICK", noise.NoisePlan(seeds=2, samples=4, more=2))
    written = run_quick(tmp_path, "noise", "--study", str(study.folder))
    assert written["settings"]["probes"] == study.plan.measurement.probes, "those of the study"
    results = written["results"]
    # the study's own run was measured with seed 0, and its end again with seed 1
    run = kdviz.open_run(study.run_path)
    layer = "classifier.fc1"
    once, again = (run.dataset(f"student-fc1-s0{end}", layer).isel(epoch=-1) for end in ("", "-repeat"))
    moved = float(np.sqrt(((once["entropy"] - again["entropy"]) ** 2).mean() / 2))
    rows = {(row["role"], row["epochs"], row["probes"]): row for row in results["entropies"]}
    assert rows["student", "last", 40]["moved"] == pytest.approx(moved, rel=1e-4)
    reported = float(np.sqrt((once["entropy_error"] ** 2 + again["entropy_error"] ** 2).mean() / 2))
    assert rows["student", "last", 40]["reported"] == pytest.approx(reported, rel=1e-4)
    assert {(role, epochs, probes) for role, epochs, probes in rows if role == "baseline"} == {
        ("baseline", "all", 40),
        ("baseline", "last", 40),
        ("baseline", "last", 80),
    }
    metrics = {row["metric"]: row for row in results["metrics"]}
    counts = [
        float(
            kdviz.count_points(kdviz.find_points(run.dataset(f"student-fc1-s0{end}", layer)))["n_fg_mean"][-1]
        )
        for end in ("", "-repeat")
    ]
    assert metrics["n_fg"]["student"] == pytest.approx(np.mean(counts))
    assert metrics["n_fg"]["student_noise"] == pytest.approx(np.std(counts, ddof=1))
    assert metrics["rho"]["teacher"] is None, "one checkpoint has no rho"
    (pair,) = (row for row in results["pairs"] if row["role"] == "student")
    assert [pair["n_fg"], pair["n_fg again"]] == pytest.approx(counts)


@pytest.mark.parametrize(("claimed", "ratio"), [(0.1, 1.0), (0.05, 2.0)])
def test_measure_movement__sees_whether_the_reported_error_is_right(claimed: float, ratio: float) -> None:
    rng = np.random.default_rng(0)
    shape, dims = (1, 50, 100), ("epoch", "sample", "unit")
    truth = rng.normal(size=shape)
    networks = []
    for _ in range(4):
        entropy = truth + 0.1 * rng.normal(size=shape)
        point = entropy < -1
        networks.append(
            xr.Dataset(
                {
                    "entropy": (dims, entropy),
                    "entropy_error": (dims, np.full(shape, claimed)),
                    "knowledge_point": (dims, point),
                    "uncertain": (dims, np.abs(entropy + 1) < 2 * claimed),
                    "method": (dims[:2], np.zeros(shape[:2], int)),
                }
            )
        )
    found = noise.measure_movement(networks)
    assert found["moved"] == pytest.approx(0.1, rel=0.02)  # 15,000 degrees of freedom: 0.6 %
    assert found["ratio"] == found["gain_ratio"] == pytest.approx(ratio, rel=0.02)
    assert found["path_ratio"] is None and found["path"] == 0
    assert 0.02 < found["flipped"] < 0.05 and 0.6 < found["jaccard"] < 0.9
    assert found["flagged"] > 0.95 if claimed == 0.1 else found["flagged"] < 0.95
    same = noise.measure_movement([networks[0], networks[0]])
    assert (same["moved"], same["jaccard"], same["flipped"], same["flagged"]) == (0, 1, 0, None)


# -- accuracy


def test_authors__descend_as_the_slow_replica_on_a_linear_layer():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 256, 40, bias=False))
    loudness = torch.linspace(-0.7, 0.7, 256).exp()
    with torch.no_grad():
        weights = torch.randn(40, 3, 256, generator=torch.Generator().manual_seed(9)) * loudness
        network[1].weight.copy_(weights.flatten(1))
    network.requires_grad_(False)
    gain = weights.double().square().sum((0, 1)) / 40
    kept, _ = authors_loop.run(authors_loop.linear_slope(gain), float(gain.sum()) * 1e-4, 256)
    expected = kept.log() + authors.HALF_LOG_TWO_PI_E
    unit = authors.share_cells(16, 16)
    run = authors.descend(network, torch.zeros(3, 16, 16), unit, seed=0)
    assert run.passes == 96 + 60 * 2 * 96  # it met the target, so it stops after 60 steps
    assert float((run.kept - expected).abs().mean()) < 0.02  # a map that spreads over 0.3 nat
    assert float((run.at_target.mean() - authors.TARGET).abs()) < 1e-6
    short = authors.descend(network, torch.zeros(3, 16, 16), unit, seed=0, to_the_end=False)
    assert torch.equal(short.kept, run.kept)
    assert short.passes < run.passes


def test_accuracy__compares_one_case():
    plan = accuracy.AccuracyPlan(images=2, probes=(16,), draws=(), few_draws=(4,))
    case = accuracy.load_case("late", "fc1", plan)
    rows = {row["setting"]: row for row in accuracy.compare_case(case, plan)}
    trial = (7 + 2) / 2  # passes of the trial, on two images
    assert rows["kdviz default"]["passes"] == 149 + trial
    assert rows["kdviz gain, 16 probes"]["passes"] == 149 - 24 - 6 * 10 + trial  # pairs: 10, now 4

    def error(setting):
        row = rows[setting]
        kinds = [kind for kind in ("near", "far") if row[f"{kind}_images"]]
        return sum(row[f"{kind}_error"] * row[f"{kind}_images"] for kind in kinds) / 2

    assert error("authors' procedure, run a") < 0.025 < error("probe gains alone")
    assert error("kdviz default") < error("probe gains alone")
    assert error("kdviz default") < 0.06
    pooled = accuracy.summarise(list(rows.values()))
    assert pooled[0]["setting"] == "kdviz default"
    assert accuracy.judge(pooled, "near")["times_fewer"] == round(15_456 / (149 + trial), 1)


def test_accuracy__jaccard_of_shifted_maps_is_known():
    plan = accuracy.AccuracyPlan(images=2)
    case = accuracy.load_case("late", "fc1", plan)
    same = accuracy.jaccard(case, case.expected, case.expected + 1.0)  # a shift of all changes nothing
    assert same.tolist() == [1.0, 1.0]
    assert (accuracy.jaccard(case, case.expected, -case.expected) < 0.1).all()


def test_authors__noise_falls_on_units_alone_and_a_step_is_as_long_for_few_of_them():
    weights = torch.tensor([1.0, 2.0, 0.5, 1.5])  # the third element is of no unit
    unit = torch.tensor([[0], [1], [-1], [2]])
    sample = torch.ones(4, 3)

    def head(inputs: torch.Tensor) -> torch.Tensor:
        assert torch.equal(inputs[:, 2], sample[2].expand(len(inputs), -1))
        return inputs * weights[:, None]

    gain = 3 * weights[[0, 1, 3]].double().square() / 12
    kept, _ = authors_loop.run(authors_loop.linear_slope(gain), float(gain.sum()) * 1e-4, 3)
    run = authors.descend(head, sample, unit, seed=0, draws=2000)
    assert float((run.kept - kept.log() - authors.HALF_LOG_TWO_PI_E).abs().max()) < 0.02
    finer = authors.descend(head, sample, unit, seed=0, draws=2000, base_noise=0.005)
    assert finer.at_target.mean().item() == pytest.approx(authors.TARGET - np.log(2))
    torch.testing.assert_close(finer.at_target, run.at_target - np.log(2), rtol=0, atol=0.01)


# -- real size


@pytest.mark.slow
def test_gpu__projects_from_the_passes_that_it_made(tmp_path: Path) -> None:
    network = {"layers": 2, "pairs": 4, "points": 2}  # of two probes, each at a noise point of its own
    done = CliRunner().invoke(app, ["gpu", "--quick", "--folder", str(tmp_path)], catch_exceptions=False)
    results = json.loads((tmp_path / "gpu-quick.json").read_text())["results"]
    (row,), (bare,) = results["kdviz"], results["bare"]
    shared = 1 + network["points"] + 2 * network["pairs"]
    assert row["forward"] == shared + 2 * (4 * network["pairs"] + 4) + 5  # and the trial
    assert row["backward"] == 2 * (2 + 4 * network["pairs"]) + 4
    spent = row["forward"] / bare["forward"] + row["backward"] / bare["backward"]
    assert row["share"] == pytest.approx(spent / row["seconds"], rel=1e-3)
    kept = 2 * 32 * 32 * (64 + 64) * 4  # bytes of two passes behind the first two convolutions alone
    assert kept < row["predicted_memory"] < row["peak_memory"] < 6 * row["predicted_memory"]
    minutes, share, memory = results["goals"]
    assert memory["reached"] == pytest.approx(row["peak_memory"] / row["predicted_memory"] - 1)
    by_default = 25 + 2 * 124
    whole = row["seconds"] / (row["forward"] + row["backward"]) * by_default * 50 * 15 / 60
    assert minutes["reached"] == pytest.approx(whole, rel=1e-3)
    assert share["projected"] and "projected" in done.output
    assert done.exit_code == 1  # whatever was reached, not on a GPU


# -- the zoo


def test_zoo__entry_leads_to_the_feature_of_the_whole_network():
    case = cases.load_case("bert", "last", 2)
    head, sample, unit = case.heads[1], case.samples[1], case.units[1]
    read = []
    with case.module.register_forward_hook(lambda *told: read.append(told[-1])):
        case.measure(probes=2, method="gain")
    assert sample.shape == (len(unit), 64) and unit.max() + 1 == (unit >= 0).sum() == len(unit) - 2
    clean = head(sample[None])
    assert any(one.shape[1] == len(sample) and torch.allclose(one[0], clean[0], atol=1e-5) for one in read), (
        "kdviz reads the same"
    )
    inside = torch.cat([rows[of[:, 0] >= 0] for rows, of in zip(case.samples, case.units, strict=True)])
    assert float(inside.square().mean()) == pytest.approx(1), "noise is in units of the root mean square"


@pytest.mark.parametrize(("claimed", "beyond"), [(0.03, 0.0455), (0.015, 0.317), (0.06, 6e-5)])
def test_zoo__sees_whether_the_reported_error_is_right(claimed: float, beyond: float) -> None:
    rng = np.random.default_rng(0)
    truth = np.log(0.01) + 0.3 * rng.normal(size=(3, 20_000))
    chance = 1e-5
    runs = truth[:, None] + chance * rng.normal(size=(3, 4, 20_000)) + np.array([0, 0.2, 0.1, 0.1])[:, None]
    reference = comparing.Reference.of(runs)
    assert reference.chance == pytest.approx(chance / 4**0.5, rel=0.02)
    np.testing.assert_allclose(reference.mean, truth + 0.1, atol=1e-4)
    assert len(reference.pairs) == 6
    dims = ("epoch", "sample", "unit")
    entropy = reference.mean + 0.03 * rng.normal(size=truth.shape)
    ds = xr.Dataset(
        {
            "entropy": (dims, entropy[None]),
            "entropy_error": (dims, np.full((1, *truth.shape), claimed)),
            "linearity": (dims[:2], [[0.9, 1.0, 1.3]]),
            "method": (dims[:2], [[0, 0, 1]]),
        }
    )
    row = comparing.compare_maps(ds, reference, np.array([True, True, False]), 200)
    assert row["error"] == pytest.approx(0.03 * (2 / np.pi) ** 0.5, rel=0.02)
    assert row["beyond"] == pytest.approx(beyond, rel=0.05, abs=5e-5)
    assert (row["near"], row["by_path"], row["times_fewer"]) == (2, pytest.approx(1 / 3), 77.3)
    assert row["near_error"] != row["far_error"]
    assert row["error"] == pytest.approx((2 * row["near_error"] + row["far_error"]) / 3)
    assert 0.8 < row["jaccard"] < 0.95 and 0.99 < row["rank"] < 1
    silent = comparing.find_silent([row | {"setting": "default", "case": "made"}], "default")
    assert [one["case"] for one in silent] == (["made"] if claimed == 0.015 else [])


def test_zoo__goals_name_the_worst_case_and_leave_out_what_is_not_there():
    def row(case: str, **values: float | None) -> dict:
        usual = {"times_fewer": 110.0, "near_error": 0.01, "far_error": None, "jaccard": 0.9, "apart": 0.04}
        return {"case": case, "setting": "default", **usual, **values}

    about = [{"case": "a", "jaccard": 0.92}, {"case": "b", "jaccard": None}, {"case": "c", "jaccard": 0.9}]
    rows = [row("a", times_fewer=74.0), row("b", near_error=0.03, jaccard=None), row("c", jaccard=0.8)]
    fewer, near, far, overlap, apart = comparing.judge(
        [*rows, row("d") | {"setting": "path"}], about, "default"
    )
    assert (fewer["worst"], fewer["worst_case"], fewer["reached"], fewer["met"]) == (74.0, "a", 2, False)
    assert (near["worst"], near["worst_case"], near["reached"], near["met"]) == (0.03, "b", 2, False)
    assert (far["cases"], far["worst"], far["met"]) == (0, None, True)
    assert overlap["worst"] == pytest.approx(0.1)
    assert (overlap["worst_case"], overlap["cases"], overlap["met"]) == ("c", 2, False)
    assert (apart["worst"], apart["cases"], apart["met"]) == (0.04, 3, True)


def test_zoo__references_of_other_weights_or_samples_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authors, "descend", partial(authors.descend, draws=8))
    case = cases.load_case("bert", "middle", 2)
    references.make_references(["bert"], 1, tmp_path, where=["middle"])
    runs = references.read_reference(case, tmp_path)
    assert runs.shape == (1, references.RUNS, int(case.units[0].max()) + 1)
    np.testing.assert_allclose(runs.mean(2), authors.TARGET, atol=1e-5)
    assert 0 < np.abs(runs[:, :1] - runs[:, 1:]).max(2).min() < 0.6, "no two runs are the same"
    assert len(references.read_reference(replace(case, fingerprint="other"), tmp_path)) == 0
    assert len(references.read_reference(replace(case, names=["other"]), tmp_path)) == 0
    references.make_references(["bert"], 2, tmp_path, where=["middle"])
    more = references.read_reference(case, tmp_path)
    units = [int(of.max()) + 1 for of in case.units]
    assert np.isfinite(more).sum(2).tolist() == [[count] * references.RUNS for count in units], "all, padded"
    np.testing.assert_array_equal(more[:1, :, : runs.shape[2]], runs)


def test_zoo__compares_what_has_a_reference(tmp_path: Path) -> None:
    assert not comparing.run_zoo(comparing.QUICK, tmp_path, name="zoo-quick"), "goals are not all met"
    results = json.loads((tmp_path / "zoo-quick.json").read_text())["results"]
    assert results["missing"] == []
    rows = {row["case"]: row for row in results["cases"]}
    assert list(rows) == ["tanh middle", "tanh last"]
    assert all(row["error"] < 0.03 and row["rank"] > 0.97 for row in rows.values())
    assert rows["tanh middle"]["passes"] == 149 + 5 + 2, "and the trial"
    assert results["overall"][0]["error"] == pytest.approx(np.mean([row["error"] for row in rows.values()]))
    (goal, *_) = results["goals"]
    found = min(row["times_fewer"] for row in rows.values())
    assert (goal["goal"], goal["asked"], goal["worst"]) == ("times fewer passes", 100, found)
    assert not goal["met"], "on one sample the trial alone is seven passes"


# -- coherency


def test_coherency__audits_both_precisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    case = small_cnn(size=8).eval(), random_images(1, size=8), masks.fill_(True).triu()
    monkeypatch.setattr(coherency, "load_case", lambda name, samples: case)
    monkeypatch.setattr(coherency, "CELLS", 4)
    done = CliRunner().invoke(
        app, ["coherency", "--quick", "--folder", str(tmp_path)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "coherency-small_vgg-quick.json").read_text())["results"]
    double, single = results["goals"]
    assert (double["precision"], double["met"], double["uniform"]) == ("float64", True, 0)
    assert double["outside"] <= 1e-4 < 0.01 < double["between"]
    assert double["output_difference"] < 1e-14 and single["output_difference"] < 1e-5
    where = {"precision": "float64", "factor": "x4", "place": "between"}
    rows = {row["method"]: row for row in results["maps"] if where.items() <= row.items()}
    assert rows["activation"]["ratio_low"] == rows["activation"]["ratio_high"] == pytest.approx(1 / 4)
    assert rows["layer_gradient"]["moved"] == rows["layer_gradient"]["compared"] > 0
    assert rows["grad_cam"]["moved"] == 0


def test_coherency__judges_what_should_stay() -> None:
    rows = [("entropy", "x3", "between", 1e-5), ("entropy", "per channel", "between", 0.7)]
    rows += [("entropy", "per channel", "after", 2e-4), ("activation", "x3", "between", 9.0)]
    table = pd.DataFrame(rows, columns=["method", "factor", "place", "difference"]).assign(
        output_difference=1e-7
    )
    assert coherency.judge(table) == {
        "uniform": 1e-5, "outside": 2e-4, "between": 0.7, "output_difference": 1e-7, "met": False,
    }  # fmt: skip
    assert coherency.judge(table.drop(index=2).assign(place="between")[:2])["met"] is False, (
        "nothing was outside"
    )


@pytest.mark.slow
def test_workers__goals_are_ratios_of_the_rates(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    done = CliRunner().invoke(app, ["workers", "--quick", "--folder", str(tmp_path)], catch_exceptions=False)
    results = json.loads((tmp_path / "workers-small_vgg-quick.json").read_text())["results"]
    alone, one, pair, two = (row["blocks a second"] for row in results["rates"])
    assert min(alone, one, pair, two) > 0
    reached = [goal["reached"] for goal in results["goals"]]
    assert reached == pytest.approx([two / one / (pair / alone), alone / one])
    assert done.exit_code == (not all(goal["met"] for goal in results["goals"]))


# -- the page


def test_report__page_holds_what_is_stored():
    text = "".join(page.read_text(encoding="utf-8") for page in report.PAGES)
    assert text.count("<!-- table ") == len(report.TABLES)
    assert report.fill_tables(text) == text
    assert report.fill_tables(text.replace("| near |", "| nonsense |")) == text


def test_report__figures_hold_every_setting_and_metric():
    stored = json.loads((report.RESULTS / "accuracy.json").read_text(encoding="utf-8"))["results"]
    figure = report.draw_accuracy(stored)
    drawn = sum(len(line.get_xdata()) for line in figure.axes[0].lines)
    assert drawn == len(stored["overall"])
    noise = json.loads((report.RESULTS / "noise.json").read_text(encoding="utf-8"))["results"]
    labels = [label.get_text() for label in report.draw_noise(noise).axes[0].get_yticklabels()]
    assert "fc1  n_fg" in labels


def test_latency__times_every_control_and_derives_anew_for_every_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    derived = []
    derive = kdviz.analysis.settings.derive_entropy
    monkeypatch.setattr(
        "kdviz.analysis.settings.derive_entropy",
        lambda ds, **settings: derived.append(ds.sizes["unit"]) or derive(ds, **settings),
    )
    latency.run_latency(latency.QUICK, tmp_path)
    results = json.loads((tmp_path / "latency.json").read_text())["results"]
    rows = {row["control"]: row for row in results["controls"]}
    assert list(rows) == [
        "first view", "epoch", "sample", "threshold", "weight", "calibration", "coarsening", "charts",
    ]  # fmt: skip
    assert all(0 < row["median"] <= row["slowest"] for row in rows.values())
    assert {
        name: row["asked"] for name, row in rows.items() if name in ("epoch", "weight", "first view")
    } == {
        "epoch": 0.1,
        "weight": 0.3,
        "first view": 3.0,
    }
    assert results["torch_free"] is True
    # three networks: each grid once when it is chosen, and once for the weight that changes before the next
    assert [derived.count(units) for units in (64, 16, 4)] == [6, 6, 3]
