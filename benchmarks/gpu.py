"""The engine at real size: VGG-16 on images of 224 pixels, whole on a GPU, in part without one."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import kdviz
from benchmarks.authors import cut_head
from benchmarks.costs import count_passes, trace_passes
from benchmarks.reports import show_table, write_result
from benchmarks.zoo.photographs import load_crops
from kdviz.measuring import Settings, plan_measurement
from kdviz.measuring.estimate import now

MINUTES, SHARE = 10.0, 0.6  # goals: of the whole job, and the pass rate over that of a bare loop
OFF = 0.1  # goal: how far the most memory that is held is from what was predicted, as a share of that


def time_call(call: Callable[[], object]) -> float:
    """Return the seconds of a call: the fastest of three, after one that is not counted."""
    seconds = []
    for _ in range(4):
        start = now()
        call()
        seconds.append(now() - start)
    return min(seconds[1:])


@dataclass(frozen=True)
class SizePlan:
    """What is measured; `batches` are samples in a pass, of which that nearest to the bare rate counts."""

    images: int
    checkpoints: int
    probes: int
    batches: tuple[int, ...]
    side: int = 224
    layers: tuple[str, ...] = ("features.21", "features.28", "classifier.0", "classifier.3")


WHOLE = SizePlan(50, 15, Settings.probes, (16, 32, 64))
SMALL = SizePlan(1, 1, 8, (1,))
QUICK = SizePlan(1, 1, 2, (1,), side=32, layers=("features.21", "classifier.0"))


def run_gpu(plan: SizePlan, folder: Path | None = None, *, name: str = "gpu") -> bool:
    """Time the job and a bare loop, print and write both; True if the goals are met, on a GPU alone."""
    from torchvision.models import vgg16

    device = "cuda" if has_device() else "cpu"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = vgg16().eval().requires_grad_(False).to(device)
    crops = load_crops("held-out", plan.images)[0]
    images = nn.functional.interpolate(crops, (plan.side, plan.side), mode="bilinear", antialias=True)
    bare = [time_bare(network, plan.layers, images, batch) for batch in plan.batches]
    show_table(f"bare loop on {name_device(device)}", bare)
    rates = {kind: max(row[kind] for row in bare) for kind in ("forward", "backward")}
    rows = [time_measure(network, images, plan, batch, rates) for batch in plan.batches]
    show_table("kdviz, the same passes over the best rates of the bare loop being `share`", rows)
    best = max(rows, key=lambda row: row["share"])
    passes = sum(count_passes(Settings.probes, kdviz.units.grid(16).draws, len(plan.layers)))
    per_pass = best["seconds"] / (best["forward"] + best["backward"])
    minutes = per_pass * passes * WHOLE.images * WHOLE.checkpoints / 60
    furthest = max((row["peak_memory"] / row["predicted_memory"] - 1 for row in rows), key=abs)
    projected = plan != WHOLE or device == "cpu"
    goals = [
        {"goal": goal, "asked": asked, "reached": reached, "met": met, "projected": projected}
        for goal, asked, reached, met in (
            ("minutes of the whole job", MINUTES, minutes, minutes <= MINUTES),
            ("pass rate over bare", SHARE, best["share"], best["share"] >= SHARE),
            ("memory beyond what was predicted", OFF, furthest, abs(furthest) <= OFF),
        )
    ]
    show_table("goals" + ", projected from a smaller job on this machine" * projected, goals)
    results = {"bare": bare, "kdviz": rows, "goals": goals, "device": name_device(device)}
    write_result(name, asdict(plan), results, folder)
    return device == "cuda" and all(goal["met"] for goal in goals)


def has_device() -> bool:
    """Whether there is a GPU that torch can use."""
    return torch.cuda.is_available()


def time_bare(network: nn.Module, layers: Sequence[str], images: Tensor, batch: int) -> dict[str, Any]:
    """Count samples a second of nothing but passes: forward to the last layer, backward from all alike."""
    inputs = images[:batch].to(next(network.parameters()).device).requires_grad_(True)
    with torch.no_grad():
        forward = time_call(partial(cut_head(network, layers[-1]), inputs))
    backward = []
    for layer in layers:
        feature = cut_head(network, layer)(inputs)
        probe = torch.ones_like(feature)
        backward.append(time_call(partial(torch.autograd.grad, feature, inputs, probe, retain_graph=True)))
    rates = {"forward": 1 / forward, "backward": len(layers) / sum(backward)}
    return {"batch": len(inputs), **{kind: len(inputs) * rate for kind, rate in rates.items()}}


def time_measure(
    network: nn.Module, images: Tensor, plan: SizePlan, batch: int, rates: dict[str, float]
) -> dict[str, Any]:
    """Time ``kdviz.measure`` on every checkpoint, and the share of it that its passes alone would take."""
    measurement = plan_measurement(
        lambda: network,
        {0: None},
        images,
        network="vgg16",
        role="network",
        layers=plan.layers,
        units=kdviz.units.grid(16),
        method="gain",
        probes=plan.probes,
        max_batch=batch,
        device=next(network.parameters()).device,
    )

    def measure() -> None:
        again = replace(measurement)  # tried anew, as every measurement is
        again.collect(map(again.do, again.tasks()))

    told = measurement.estimate()
    assert told is not None
    passes, peak = trace_passes(network, measure), find_peak(measure)
    start = time.perf_counter()
    for _ in range(plan.checkpoints):
        measure()
    seconds = (time.perf_counter() - start) / plan.checkpoints
    forward = sum(one.samples for one in passes)
    backward = sum(one.samples * one.backwards for one in passes)
    return {
        "batch": batch,
        "forward": forward / len(images),
        "backward": backward / len(images),
        "seconds": seconds / len(images),
        "share": (forward / rates["forward"] + backward / rates["backward"]) / seconds,
        "predicted_memory": told.memory,
        "peak_memory": peak,
    }


def find_peak(call: Callable[[], object]) -> int:
    """Return the most bytes of tensors held at a time in a call, beside those that there are."""
    if has_device():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    moves = [
        event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    return max(itertools.accumulate(moves))


def name_device(device: str) -> str:
    """Name what computes."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"the processor, {torch.get_num_threads()} threads"
