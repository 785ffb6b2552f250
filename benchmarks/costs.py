"""What a measurement costs: time beside the bare network passes, memory, and how both grow."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import kdviz
from benchmarks.authors import cut_head
from benchmarks.problems import LAYERS, load_images, load_network
from benchmarks.reports import show_table, write_result
from kdviz.measuring.settings import Method
from kdviz.models import build
from kdviz.networks.features import frozen
from kdviz.testing import random_images, small_cnn

MEMORY_LIMIT = 2 * 2**30  # bytes, at a million units x samples


@dataclass(frozen=True)
class CostPlan:
    """How much is measured.

    Attributes
    ----------
    samples
        Images of an overhead measurement.
    gain_repeats, path_repeats
        Timings of either kind, interleaved.
    networks
        Of `list_subjects`.
    memory_samples
        Numbers of samples whose peak memory is taken, each in a process of its own.
    verbs
        Public verbs whose memory is measured; ``measure_checkpoints`` writes to a store.
    growth_values
        How many values of every setting the growth table tries.
    growth_repeats
        Timings of each.
    """

    samples: int = 16
    gain_repeats: int = 3
    path_repeats: int = 1
    networks: tuple[str, ...] = ("small_vgg", "resnet18")
    memory_samples: tuple[int, ...] = (1024, 2048, 4096)
    verbs: tuple[str, ...] = ("measure", "measure_checkpoints")
    growth_values: int = 6
    growth_repeats: int = 1


QUICK = CostPlan(
    samples=2,
    gain_repeats=2,
    path_repeats=1,
    networks=("small_vgg",),
    memory_samples=(64, 128),
    verbs=("measure_checkpoints",),
    growth_values=2,
    growth_repeats=1,
)


def run_costs(plan: CostPlan, folder: Path | None = None, *, name: str = "costs") -> bool:
    """Measure all costs, print and write them, and give whether passes and memory are as promised."""
    torch.set_num_threads(1)
    overhead = []
    for subject in list_subjects(plan.networks, plan.samples):
        overhead += [measure_overhead(subject, "gain", plan.gain_repeats)]
        overhead += [measure_overhead(subject, "path", plan.path_repeats)]
        show_table("Time of measure over its bare passes", overhead[-2:])
    show_table("Time of measure over its bare passes, processor seconds", overhead)
    memory = [measure_memory(verb, samples) for verb in plan.verbs for samples in plan.memory_samples]
    show_table("Peak memory at 256 units, bytes", memory)
    slopes = [fit_slope([row for row in memory if row["verb"] == verb]) for verb in plan.verbs]
    show_table("Bytes that every further sample adds", slopes)
    growth = list(measure_growth(plan.growth_values, plan.growth_repeats))
    show_table("Growth of the cost along one setting at a time", growth)
    as_documented = all(row["as_documented"] for row in growth)
    within_limit = all(row["peak"] < MEMORY_LIMIT for row in memory)
    print(f"\npasses {'as' if as_documented else 'NOT as'} documented; ", end="")
    print(f"peak memory {'below' if within_limit else 'NOT below'} {MEMORY_LIMIT / 2**30:g} GiB")
    results = {
        "growth": growth,
        "memory": memory,
        "memory_slopes": slopes,
        "overhead": overhead,
        "passes_as_documented": as_documented,
        "peak_below_limit": within_limit,
    }
    write_result(name, asdict(plan), results, folder)
    return as_documented and within_limit


# -- time beside the bare passes


@dataclass(frozen=True)
class Subject:
    """A network, one of its layers, and images for it."""

    name: str
    network: nn.Module
    layer: str
    images: Tensor


@dataclass
class Pass:
    """One forward pass of a batch, and the backward passes to its input that followed."""

    samples: int
    gradient: bool
    channels_last: bool
    backwards: int = 0


def list_subjects(networks: Sequence[str], samples: int) -> Iterator[Subject]:
    """Return the networks whose overhead is measured: the trained built-in one, and a larger one."""
    images, _, _ = load_images(samples)
    if "small_vgg" in networks:
        for layer in LAYERS.values():
            yield Subject("small_vgg, 48 px", load_network("late"), layer, images)
    if "resnet18" in networks:
        from torchvision.models import resnet18

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = resnet18(num_classes=10)
        for side, share in ((64, 4), (224, 8)):
            few = images[: max(1, samples // share)]
            yield Subject(f"resnet18, {side} px", network, "layer2", _resize(few, side))


def _resize(images: Tensor, side: int) -> Tensor:
    return nn.functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def measure_overhead(subject: Subject, method: Method, repeats: int) -> dict[str, Any]:
    """Time ``kdviz.measure`` and a replay of the very passes it made, in turns."""

    def measure() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an untrained network may miss the calibration; its cost counts
            kdviz.measure(
                subject.network,
                subject.images,
                layers=subject.layer,
                units=kdviz.units.grid(16),
                method=method,
                progress=False,
            )

    passes = trace_passes(subject.network, measure)
    replay_passes(subject, passes)
    whole, bare = [], []
    for _ in range(repeats):
        whole.append(time_of(measure))
        bare.append(time_of(lambda: replay_passes(subject, passes)))
    return {
        "network": subject.name,
        "layer": subject.layer,
        "method": method,
        "forward": sum(one.samples for one in passes),
        "backward": sum(one.samples * one.backwards for one in passes),
        "measure": statistics.median(whole),
        "bare": statistics.median(bare),
        "ratio": statistics.median(whole) / statistics.median(bare),
        "ratio_of_least": min(whole) / min(bare),
    }


def trace_passes(network: nn.Module, call: Callable[[], object]) -> list[Pass]:
    """Record every forward pass of `network` during `call`, and every backward pass to its inputs."""
    passes: list[Pass] = []

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        (inputs,) = args
        last = inputs.ndim == 4 and inputs.is_contiguous(memory_format=torch.channels_last)
        made = Pass(len(inputs), inputs.requires_grad and torch.is_grad_enabled(), last)
        passes.append(made)

        def count(gradient: Tensor) -> None:
            made.backwards += 1

        if made.gradient:
            inputs.register_hook(count)

    handle = network.register_forward_pre_hook(note)
    try:
        call()
    finally:
        handle.remove()
    return passes


def replay_passes(subject: Subject, passes: Sequence[Pass]) -> None:
    """Make the same passes on inputs and probes that lie ready, and nothing else."""
    inputs: dict[tuple[int, bool], Tensor] = {}
    probes: dict[int, Tensor] = {}
    with frozen(subject.network):
        for one in passes:
            kind = (one.samples, one.channels_last)
            if kind not in inputs:
                layout = torch.channels_last if one.channels_last else torch.contiguous_format
                inputs[kind] = subject.images[: one.samples].clone(memory_format=layout)
            with torch.set_grad_enabled(one.gradient):
                fresh = inputs[kind].detach().requires_grad_(one.gradient)  # no copy; a leaf of its own
                feature = read_bare(subject.network, subject.layer, fresh)
            for left in reversed(range(one.backwards)):
                if one.samples not in probes:
                    probes[one.samples] = torch.ones_like(feature)
                torch.autograd.grad(feature, fresh, probes[one.samples], retain_graph=left > 0)


def read_bare(network: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """Run the network up to one layer: its output after ReLU, shape ``(B, D)``."""
    return cut_head(network, layer)(inputs).flatten(1)


def time_of(call: Callable[[], object]) -> float:
    """Seconds of processor time, which other people's work on the machine disturbs least."""
    start = time.process_time()
    call()
    return time.process_time() - start


# -- memory


def measure_memory(verb: str, samples: int) -> dict[str, Any]:
    """Measure peak memory in a fresh process, see `probe_memory`."""
    command = f"from benchmarks.costs import probe_memory; probe_memory({verb!r}, {samples})"
    done = subprocess.run(
        [sys.executable, "-c", command],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def probe_memory(verb: str, samples: int) -> None:
    """Print this process's peak memory while 256 units of `samples` images are measured.

    ``beyond`` is what the peak holds besides everything that was there before, inputs included, and the
    result; ``while_measuring`` is what it holds besides what was there before when the last pass begins, that
    is before the result is put together. The verb is called once on a single block before, for whatever is
    imported or kept once.
    """
    torch.set_num_threads(1)
    network, units = small_cnn(size=16), kdviz.units.grid(16)
    weights, images = network.state_dict(), random_images(samples, size=16)
    options = {"layers": "fc1", "units": units, "method": "gain", "probes": 2, "draws": 2, "progress": False}

    def call(count: int, folder: Path) -> int:
        if verb == "measure_checkpoints":
            about = {"network": "baseline-s0", "role": "baseline", "store": folder / f"{count}.zarr"}
            ds = kdviz.measure_checkpoints(lambda: network, {0: weights}, images[:count], **about, **options)
        else:
            ds = kdviz.measure(network, images[:count], **options)
        return ds.nbytes

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        call(16, Path(folder))
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = read_memory("VmRSS")
        so_far = [0]
        network.register_forward_pre_hook(lambda *_: so_far.__setitem__(0, read_memory("VmHWM")))
        result = call(samples, Path(folder))
        peak = read_memory("VmHWM")
    row = {
        "verb": verb,
        "samples": samples,
        "units_x_samples": samples * units.count,
        "inputs": images.nbytes,
        "result": result,
        "before": before,
        "peak": peak,
        "beyond": peak - before - result,
        "while_measuring": so_far[0] - before,
    }
    print(json.dumps(row))


def read_memory(name: str) -> int:
    """Read ``VmRSS`` (resident now) or ``VmHWM`` (at its peak) of this process, in bytes; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def fit_slope(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Fit lines through one verb's peak memory against the number of samples, see `probe_memory`.

    What is left of the slope are copies of the result: ``copies`` says how many there are at the peak beside
    the one that is returned.
    """
    samples = [row["samples"] for row in rows]
    slope, start = np.polyfit(samples, [row["beyond"] for row in rows], 1)
    measuring, _ = np.polyfit(samples, [row["while_measuring"] for row in rows], 1)
    return {
        "verb": rows[-1]["verb"],
        "bytes_a_sample": slope,
        "while_measuring": measuring,
        "copies": slope * rows[-1]["samples"] / rows[-1]["result"],
        "result_bytes_a_sample": rows[-1]["result"] / rows[-1]["samples"],
        "input_bytes_a_sample": rows[-1]["inputs"] / rows[-1]["samples"],
        "at_no_sample": start,
    }


# -- growth


AXES: dict[str, tuple[Any, ...]] = {
    "samples": (1, 2, 4, 8, 16, 32),
    "layers": (1, 2, 3),
    "grid": (4, 8, 16, 32, 64),
    "probes": (8, 16, 32, 64),
    "draws": (2, 4, 8),
    "max_batch": (1, 2, 4, 8),
}
BASE = {"samples": 8, "layers": 1, "grid": 16, "probes": 16, "draws": 4, "max_batch": 8}


def measure_growth(values: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Change one setting at a time: passes, which must be as documented, and seconds for one of the first."""
    network = build("small_vgg", classes=10, input_size=64)
    layers = ["classifier.fc1", "classifier.fc2", "features.conv4"]
    images = _resize(load_images(max(AXES["samples"]))[0], 64)
    methods: tuple[Method, ...] = ("gain", "path")
    for method in methods:
        for axis in AXES if method == "gain" else ("draws",):
            first = None
            for value in AXES[axis][:values]:
                at = BASE | {axis: value}

                def call(at: dict[str, int] = at, method: Method = method) -> None:
                    kdviz.measure(
                        network,
                        images[: at["samples"]],
                        layers=layers[: at["layers"]],
                        units=kdviz.units.grid(at["grid"]),
                        method=method,
                        probes=at["probes"],
                        draws=at["draws"],
                        max_batch=at["max_batch"],
                        progress=False,
                    )

                passes = trace_passes(network, call)
                together = min(at["samples"], at["max_batch"])
                tried_forward, tried_backward = count_trial(at["layers"], together)
                forward = sum(one.samples for one in passes) - tried_forward
                backward = sum(one.samples * one.backwards for one in passes) - tried_backward
                seconds = statistics.median(time_of(call) for _ in range(repeats))
                first = first or seconds
                yield {
                    "method": method,
                    "axis": axis,
                    "value": value,
                    "forward": forward,
                    "backward": backward,
                    "as_documented": is_documented(method, at, forward, backward),
                    "seconds": seconds,
                    "times_first": seconds / first,
                }


def count_trial(layers: int, max_batch: int) -> tuple[int, int]:
    """Return the passes, forward and backward, of the trial that precedes a measurement: measure's Notes."""
    return 7 if max_batch > 1 else 5, 2 * layers  # samples that share no pass are not tried side by side


def count_passes(probes: int, draws: int, layers: int) -> tuple[int, int]:
    """Return the passes, forward and backward, of a sample by gain: measure's Notes, in other words."""
    pairs = max(4, probes // 4)
    shared = 1 + max(2, draws // 2) + 2 * pairs
    return shared + layers * (4 * pairs + 4), layers * (probes + 4 * pairs)


def is_documented(method: str, at: dict[str, int], forward: int, backward: int) -> bool:
    """Say whether these are the passes, trial apart, that the Notes of ``kdviz.measure`` promise.

    By gain exactly so; by path each sample stops on its own, near step 36, and its end is checked.
    """
    by_gain = count_passes(at["probes"], at["draws"], at["layers"])
    forward, backward = forward - at["samples"] * by_gain[0], backward - at["samples"] * by_gain[1]
    if method == "gain":
        return forward == backward == 0
    rows, of_pairs = at["samples"] * at["layers"], 2 * max(4, at["probes"] // 4)
    # the path spares those half-way; forward these are as many as the check of its end
    backward += 2 * rows * of_pairs
    return forward == backward + rows * 64 and 30 < backward / (rows * at["draws"]) < 50
