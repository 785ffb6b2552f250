"""What a measurement will take, before it is done: passes, time, memory and disk."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kdviz.gain import count_probes
from kdviz.measuring.blocks import PATH_PAIRS, make_benches
from kdviz.measuring.settings import Settings
from kdviz.networks.features import FeatureReader, name_modules
from kdviz.networks.inputs import Inputs
from kdviz.schema import MEASURED, QUARTILES, VARIABLES
from kdviz.units import Units

STEPS = 36  # of a descent: where the built-in images meet the calibration
_COPIES = 10  # of what noise falls on, beside probes and draws: shifts, noisy inputs, gradients
_QUICK = 0.2  # seconds; what takes less is timed once more, as counting operations shows in it


@dataclass(frozen=True)
class Estimate:
    """What is left to do of a measurement, and what that will take on this machine.

    Ranges go from all samples by gain to all by path; where the method leaves no choice both ends are equal.

    Attributes
    ----------
    samples
        Samples times epochs.
    passes
        Forward and backward passes in all, of one sample each, the trials included.
    seconds
        Of the passes in one process, from the time of some, of texts the longest. Where a pass takes less
        than a millisecond, what is done between passes takes about as long.
    memory
        Bytes of tensors held at a time beside network and inputs, of texts for the longest; ``max_batch`` is
        their knob. What convolutions take inside comes to that: next to nothing, or, of few samples of a deep
        network, as much again.
    disk
        Bytes of the results, before they are compressed.
    flops
        Floating-point operations of the passes, two for a multiplication and its addition. Those of matrix
        products, convolutions and attention count; of norms, activations and pooling none do, nor the noise.
    """

    samples: int
    passes: tuple[int, int]
    seconds: tuple[float, float]
    memory: int
    disk: int
    flops: tuple[int, int] = (0, 0)

    def __add__(self, other: "Estimate") -> "Estimate":
        """Take one after the other: all adds up but the memory, of which the larger counts."""
        (low, high), (more, most) = (
            tuple(zip(one.passes, one.seconds, strict=True)) for one in (self, other)
        )
        return Estimate(
            self.samples + other.samples,
            (low[0] + more[0], high[0] + most[0]),
            (low[1] + more[1], high[1] + most[1]),
            max(self.memory, other.memory),
            self.disk + other.disk,
            (self.flops[0] + other.flops[0], self.flops[1] + other.flops[1]),
        )

    def __str__(self) -> str:
        """Say it in one line."""
        passes = " to ".join(dict.fromkeys(f"{count:,}" for count in self.passes))
        times = " to ".join(dict.fromkeys(map(_say_time, self.seconds)))
        disk = f"{self.disk / 1e6:,.1f} MB" if self.disk >= 1e6 else f"{self.disk / 1e3:,.0f} kB"
        return (
            f"{self.samples:,} samples times epochs: {passes} passes, {times} here, "
            f"{self.memory / 1e6:,.0f} MB at a time, {disk} of results"
        )


def _say_time(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole} s" if whole < 120 else f"{timedelta(seconds=whole)} h"


def count_passes(settings: Settings, widths: Sequence[int], *, path: bool) -> tuple[int, list[int]]:
    """Count the passes of a sample: forward, and backward of every layer, as in :func:`kdviz.measure`.

    Parameters
    ----------
    settings
        Of the measurement.
    widths
        Number of features of every layer.
    path
        Whether the sample goes by path at every layer.
    """
    each = [count_probes(width, settings.probes, settings.points) for width in widths]
    points, probes = zip(*each, strict=True)
    layers, members = len(widths), 2 * settings.pairs
    forward, backward = 1 + max(points) + members + layers * (members + QUARTILES), list(probes)
    if settings.method != "path":  # the drift
        forward, backward = forward + layers * members, [count + 2 * members for count in backward]
    if path:
        steps = STEPS * settings.draws
        forward += layers * (2 * PATH_PAIRS + steps + members)
        backward = [count + steps for count in backward]
    return forward, backward


@dataclass(frozen=True)
class LayerPace:
    """What a pass of one sample takes as far as one layer, or back from it.

    Attributes
    ----------
    width
        Number of features.
    forward, backward
        Seconds from the input to the layer, and from the layer alone back to the input.
    held, largest
        Bytes kept for gradients on the way, in all and of the largest tensor.
    flops
        Of both, as of an :class:`Estimate`.
    """

    width: int
    forward: float
    backward: float
    held: int
    largest: int
    flops: tuple[int, int]


@dataclass(frozen=True)
class Pace:
    """What a pass of one sample takes in one process here.

    Attributes
    ----------
    layers
        By name, in the order in which they speak.
    values
        Bytes of what noise falls on.
    """

    layers: Mapping[str, LayerPace]
    values: int


def time_passes(reader: FeatureReader, inputs: Inputs, rows: range, settings: Settings) -> Pace:
    """Time passes of some samples; their operations are counted, and what is quick is timed again without."""
    bench = next(make_benches(reader, inputs, rows, settings))
    noisy = (bench.inputs + bench.base_noise * bench.noise("pairs", range(bench.together))).flatten(0, 1)
    noisy.requires_grad_(True)
    counter, held = FlopCounterMode(display=False), dict[int, int]()
    marks: dict[str, list[tuple[float, int, int, int]]] = {}

    def mark(layer: str) -> None:
        told = now() - start, counter.get_total_flops(), sum(held.values()), max(held.values(), default=0)
        marks.setdefault(layer, []).append(told)

    modules = name_modules(reader.network)
    handles = [
        modules[name].register_forward_hook(lambda *_, name=name: mark(name)) for name in reader.layers
    ]
    try:
        for counted in (True, False):
            with counter if counted else nullcontext(), _holding(reader, held if counted else {}):
                start = now()
                features = bench.features(noisy)
            if now() - start > _QUICK:
                break
    finally:
        for handle in handles:
            handle.remove()
    layers = {}
    for name in sorted(reader.layers, key=lambda name: marks[name][0][1:]):
        back, seconds = FlopCounterMode(display=False), []
        for counted in (True, False):
            start = now()
            with back if counted else nullcontext():
                _go_back(features[name], noisy)
            seconds.append(now() - start)
            if seconds[0] > _QUICK:
                break
        (_, flops, kept, largest), count = marks[name][0], len(noisy)
        layers[name] = LayerPace(
            features[name][0].numel(),
            min(one[0] for one in marks[name]) / count,
            min(seconds) / count,
            kept // count,
            largest // count,
            (flops // count, back.get_total_flops() // count),
        )
    return Pace(layers, bench.inputs[0].nbytes)


@contextmanager
def _holding(reader: FeatureReader, held: dict[int, int]) -> Iterator[None]:
    """Note the bytes of what is kept for gradients, by address, weights apart."""
    weights = {one.untyped_storage().data_ptr() for one in reader.network.state_dict().values()}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return saved.detach()  # what a node returns would hold the node, and that the network, without end

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        yield


def _go_back(feature: Tensor, noisy: Tensor) -> None:
    torch.autograd.grad(feature, noisy, torch.ones_like(feature), retain_graph=True)


def scale(
    pace: Pace,
    layers: Sequence[str],
    units: Units,
    settings: Settings,
    *,
    samples: int,
    epochs: int,
    block: int,
) -> Estimate:
    """Estimate what a measurement takes from a pass of one sample.

    Parameters
    ----------
    pace
        At these layers, and maybe others.
    layers, units, settings
        Of the measurement.
    samples
        Samples times epochs.
    epochs
        Checkpoints, each of which is tried first.
    block
        Samples of a block.
    """
    asked = [pace.layers[layer] for layer in layers]
    forward, operations = (max(one.forward for one in asked), max(one.flops[0] for one in asked))
    widths = [one.width for one in asked]
    passes, seconds, flops = [], [], []
    for path in {"gain": (False, False), "auto": (False, True), "path": (True, True)}[settings.method]:
        forth, back = count_passes(settings, widths, path=path)
        forth = samples * forth + epochs * (7 if settings.micro_batch > 1 else 5)  # and the trials
        back = [samples * count + epochs * 2 for count in back]
        passes.append(forth + sum(back))
        seconds.append(forth * forward + float(np.dot(back, [one.backward for one in asked])))
        flops.append(forth * operations + sum(n * one.flops[1] for n, one in zip(back, asked, strict=True)))
    together = settings.micro_batch
    alone = units.length(0) is not None  # then noise draws of one sample fill the pass
    rows = 1 if alone else min(together, block)
    probes = sum(count_probes(width, settings.probes, settings.points)[1] for width in widths)
    copies = rows * pace.values * (probes + settings.pairs + _COPIES)
    # of both members of a pair; on the way back, gradients on both sides of the largest
    held = (together if alone else rows) * max(one.held + one.largest for one in asked)
    disk = samples * len(widths) * _count_bytes(units.count)
    return Estimate(
        samples,
        (passes[0], passes[1]),
        (seconds[0], seconds[1]),
        2 * held + copies,
        disk,
        (flops[0], flops[1]),
    )


def estimate(
    reader: FeatureReader, inputs: Inputs, left: Sequence[tuple[int, range]], settings: Settings
) -> Estimate:
    """Estimate what measuring some blocks takes, from a few passes of the first samples.

    Parameters
    ----------
    reader, inputs, settings
        Of the measurement.
    left
        Epoch and samples of every block to be done; at least one.
    """
    longest = max((row for _, rows in left for row in rows), key=lambda row: inputs.units.length(row) or 0)
    rows = range(longest, longest + 1) if inputs.units.length(longest) else left[0][1]
    return scale(
        time_passes(reader, inputs, rows, settings),
        reader.layers,
        inputs.units,
        settings,
        samples=sum(len(rows) for _, rows in left),
        epochs=len({epoch for epoch, _ in left}),
        block=len(left[0][1]),
    )


def now() -> float:
    """Return the seconds of a clock: of one thread those it computed, whatever else the machine does.

    Where there is a GPU, once it has done what it was told; there and of several threads, those that went by.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def _count_bytes(units: int) -> int:
    """Bytes of what is measured of a sample at one epoch and layer."""
    sizes = {"epoch": 1, "sample": 1, "unit": units, "quartile": QUARTILES}
    variables = [VARIABLES[name] for name in MEASURED]
    return sum(
        np.dtype(one.dtype).itemsize * int(np.prod([sizes[dim] for dim in one.dims])) for one in variables
    )
