"""How time, disk and memory of a measurement grow with samples, checkpoints and layers."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import kdviz
from benchmarks.costs import read_memory
from benchmarks.reports import show_table, write_result
from kdviz.testing import random_images

LINEAR, FLAT = (0.9, 1.1), 1.2  # goals: exponents of time and disk; memory at the end over that at the start
AXES = ("samples", "checkpoints", "layers")
_SIDE, _GRID = 32, 16
_PLACE = Path(__file__).parents[1]


@dataclass(frozen=True)
class GrowthPlan:
    """What is measured: a smallest job, and one axis at a time so many times as much."""

    samples: int = 16
    checkpoints: int = 2
    layers: int = 2
    times: tuple[int, ...] = (1, 4, 16)
    probes: int = 8
    width: int = 32


QUICK = GrowthPlan(samples=2, checkpoints=1, layers=1, times=(1, 2), probes=2, width=2)


def run_growth(plan: GrowthPlan, folder: Path | None = None, *, name: str = "growth") -> bool:
    """Measure every job in a process of its own, print and write it; True if the goals are met."""
    rows = []
    for axis in AXES:
        for times in plan.times:
            job = {one: getattr(plan, one) * (times if one == axis else 1) for one in AXES}
            given = f"{job!r}, {plan.probes}, {plan.width}, {-(-4 // times)}"
            command = f"from benchmarks.growth import probe; probe({given})"
            done = subprocess.run(
                [sys.executable, "-c", command],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                cwd=_PLACE,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            rows.append({"axis": axis, "times": times, **job, **json.loads(done.stdout.splitlines()[-1])})
    show_table("seconds of the processor, bytes", rows)
    goals = list(judge(rows))
    show_table("growth from end to end", goals)
    write_result(name, asdict(plan), {"jobs": rows, "goals": goals}, folder)
    return all(goal["met"] for goal in goals)


def judge(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Compare the ends of every axis: exponents of time and disk, how many times the memory is."""
    for axis in AXES:
        first, *_, last = (row for row in rows if row["axis"] == axis)
        times = math.log(last["times"] / first["times"])
        for what in ("seconds", "disk"):
            exponent = math.log(last[what] / first[what]) / times
            yield {
                "axis": axis,
                "what": f"exponent of {'time' if what == 'seconds' else what}",
                "asked": f"{LINEAR[0]} to {LINEAR[1]}",
                "reached": exponent,
                "met": LINEAR[0] <= exponent <= LINEAR[1],
            }
        ratio = last["peak"] / first["peak"]
        asked = f"at most {FLAT}"
        yield {
            "axis": axis,
            "what": "memory, end over start",
            "asked": asked,
            "reached": ratio,
            "met": ratio <= FLAT,
        }


class Heads(nn.Module):
    """A trunk of convolutions, and linear layers that all read it: each costs a measurement the same."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.heads = nn.ModuleList([nn.Linear(16 * width, 32) for _ in range(count)])

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum of all heads."""
        trunk = self.trunk(images)
        return torch.stack([head(trunk) for head in self.heads]).sum(0)


def probe(job: dict[str, int], probes: int, width: int, repeats: int) -> None:
    """Print what one job takes in this process, after a small one for whatever is made once.

    ``seconds`` is the median of `repeats`, of which short jobs need more. ``peak`` is all that the process
    holds at most, ``beyond`` what that is more than before the job.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make = partial(Heads, job["layers"], width)
    images = random_images(job["samples"], size=_SIDE)

    def measure(epochs: int, count: int, store: Path) -> None:
        places = {epoch: store.parent / f"{epoch}.pt" for epoch in range(epochs)}
        kdviz.measure_checkpoints(
            make,
            places,
            images[:count],
            network="baseline-s0",
            role="baseline",
            layers=[f"heads.{at}" for at in range(job["layers"])],
            units=kdviz.units.grid(_GRID),
            method="gain",
            probes=probes,
            draws=2,
            store=store,
            progress=False,
        )

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as place:
        warnings.simplefilter("ignore")  # an untrained network may miss the calibration
        for epoch in range(job["checkpoints"]):
            torch.save(make().state_dict(), Path(place) / f"{epoch}.pt")
        measure(1, 1, Path(place) / "small.zarr")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before, seconds = read_memory("VmRSS"), []
        for repeat in range(repeats):
            store, start = Path(place) / f"{repeat}.zarr", time.process_time()
            measure(job["checkpoints"], job["samples"], store)
            seconds.append(time.process_time() - start)
        peak = read_memory("VmHWM")
        disk = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    print(json.dumps({"seconds": median(seconds), "disk": disk, "peak": peak, "beyond": peak - before}))
