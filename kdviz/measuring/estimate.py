"""What a measurement will take, before it is done: passes, time, memory and disk."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kdviz.gain import Bench, count_probes
from kdviz.measuring.blocks import PATH_PAIRS, make_benches
from kdviz.measuring.settings import Settings
from kdviz.networks.features import FeatureReader
from kdviz.networks.inputs import Inputs
from kdviz.schema import MEASURED, QUARTILES, VARIABLES

STEPS = 36  # of a descent: where the built-in images meet the calibration
_TRIES = 3  # of every timing, of which the fastest counts


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
        Bytes held at a time beside network and inputs, of texts for the longest; ``max_batch`` is their knob.
    disk
        Bytes of the results, before they are compressed.
    """

    samples: int
    passes: tuple[int, int]
    seconds: tuple[float, float]
    memory: int
    disk: int

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
        )

    def __str__(self) -> str:
        """Say it in one line."""
        passes = " to ".join(dict.fromkeys(f"{count:,}" for count in self.passes))
        times = " to ".join(dict.fromkeys(str(timedelta(seconds=math.ceil(one))) for one in self.seconds))
        return (
            f"{self.samples:,} samples times epochs: {passes} passes, {times} h here, "
            f"{self.memory / 1e6:,.0f} MB at a time, {self.disk / 1e6:,.1f} MB of results"
        )


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
    bench = next(make_benches(reader, inputs, rows, settings))
    shifts = bench.base_noise * bench.noise("pairs", range(bench.together))
    noisy = (bench.inputs + shifts).flatten(0, 1)
    with torch.no_grad():
        forward = time_call(lambda: bench.features(noisy)) / len(noisy)
    features, held = _hold(bench, noisy.requires_grad_(True))
    backward = [time_call(partial(_go_back, features[layer], noisy)) / len(noisy) for layer in reader.layers]
    widths = [bench.clean[layer].shape[1] for layer in reader.layers]
    samples, epochs = sum(len(rows) for _, rows in left), len({epoch for epoch, _ in left})
    passes, seconds = [], []
    for path in {"gain": (False, False), "auto": (False, True), "path": (True, True)}[settings.method]:
        forth, back = count_passes(settings, widths, path=path)
        forth = samples * forth + epochs * (7 if settings.micro_batch > 1 else 5)  # and the trials
        back = [samples * count + epochs * 2 for count in back]
        passes.append(forth + sum(back))
        seconds.append(forth * forward + float(np.dot(back, backward)))
    probes = sum(count_probes(width, settings.probes, settings.points)[1] for width in widths)
    copies = bench.inputs.nbytes * (probes + settings.pairs)
    disk = samples * len(widths) * _count_bytes(inputs.units.count)
    return Estimate(samples, (passes[0], passes[1]), (seconds[0], seconds[1]), 2 * held + copies, disk)


def _hold(bench: Bench, noisy: Tensor) -> tuple[dict[str, Tensor], int]:
    """Read the layers, and count the bytes that are kept for their gradients, weights apart."""
    held: dict[int, int] = {}
    weights = {one.untyped_storage().data_ptr() for one in bench.reader.network.state_dict().values()}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        features = bench.features(noisy)
    return features, sum(held.values())


def _go_back(feature: Tensor, noisy: Tensor) -> None:
    torch.autograd.grad(feature, noisy, torch.ones_like(feature), retain_graph=True)


def time_call(call: Callable[[], object]) -> float:
    """Return the seconds of a call: the fastest of some, after one that is not counted."""
    seconds = []
    for _ in range(1 + _TRIES):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _count_bytes(units: int) -> int:
    """Bytes of what is measured of a sample at one epoch and layer."""
    sizes = {"epoch": 1, "sample": 1, "unit": units, "quartile": QUARTILES}
    variables = [VARIABLES[name] for name in MEASURED]
    return sum(
        np.dtype(one.dtype).itemsize * int(np.prod([sizes[dim] for dim in one.dims])) for one in variables
    )
