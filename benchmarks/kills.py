"""Kill a study again and again while it trains and measures; in the end every bit must be there."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import kdviz
from benchmarks.reports import show_table, write_result
from kdviz.sources import fashion_composites

READY = "everything is imported"
COMMAND_LINE = f"import kdviz.cli, kdviz.studies.work{{more}}; print('{READY}', flush=True); kdviz.cli.main()"
# torch loads its compiler at the first step of an optimiser: an import too
PHASES = {"train": ", torch._dynamo", "measure": ""}


@dataclass(frozen=True)
class KillPlan:
    """What is killed, and how often.

    Attributes
    ----------
    kills
        SIGKILLs in all, half of them aimed at either command.
    import_share
        Share of the kills that strike while the command is still importing.
    reach
        A kill strikes within this share of the command's undisturbed working time.
    images, size, epochs, samples, probes
        Of the study.
    seed
        Of the moments.
    """

    kills: int = 20
    import_share: float = 0.1
    reach: float = 0.5
    images: int = 200
    size: int = 24
    epochs: int = 6
    samples: int = 20
    probes: int = 32
    seed: int = 0


QUICK = KillPlan(kills=2, import_share=0.0, images=40, size=16, epochs=3, samples=20, probes=32)


@dataclass(frozen=True)
class Timing:
    """Seconds of one undisturbed command."""

    importing: float
    working: float


def run_kills(plan: KillPlan, folder: Path | None = None, *, name: str = "kills") -> bool:
    """Kill studies until all kills have struck, finish each, and compare it with an undisturbed one."""
    with tempfile.TemporaryDirectory() as place:
        images = write_images(Path(place), plan)
        calm = Path(place) / "undisturbed"
        timings = {phase: time_undisturbed(arguments_of(phase, calm, images, plan)) for phase in PHASES}
        rows = [{"command": f"kdviz {phase}", **asdict(timing)} for phase, timing in timings.items()]
        show_table("Undisturbed, seconds", rows)
        kills: list[dict[str, Any]] = []
        studies: list[dict[str, Any]] = []
        chance = random.Random(plan.seed)
        quota = {"train": (plan.kills + 1) // 2, "measure": plan.kills // 2}
        while any(quota.values()):
            study = Path(place) / f"study-{len(studies) + 1}"
            for phase in PHASES:
                call = arguments_of(phase, study, images, plan)
                before, left = look_at(study), quota[phase]
                while (kill := attempt(call, phase, timings[phase], plan, chance, left)) is not None:
                    after = look_at(study)
                    quota[phase] -= 1
                    progress = {"progress": after != before, "last_written": after[0]}
                    kills.append({"kill": len(kills) + 1, "study": study.name, **kill, **progress})
                    show_table("Killed", kills[-1:])
                    left = quota[phase] if after != before else 0  # most likely nothing is left to be done
                    before = after
            studies.append({"study": study.name, **compare_studies(study, calm)})
    show_table("Every kill: seconds after the start, and after the imports", kills)
    struck = Counter(row["struck"] for row in kills)
    differing = sum(len(row["differing"]) for row in studies)
    show_table("Every study, in the end", [{**row, "differing": len(row["differing"])} for row in studies])
    print(
        f"\n{len(kills)} kills ({', '.join(f'{count} {where}' for where, count in struck.items())}), ", end=""
    )
    print("everything bit-equal" if not differing else f"{differing} FILES OR ARRAYS DIFFER")
    results = {
        "bit_equal": not differing,
        "kills": kills,
        "struck": dict(struck),
        "studies": studies,
        "undisturbed": {phase: asdict(timing) for phase, timing in timings.items()},
    }
    write_result(name, asdict(plan), results, folder)
    return not differing


def write_images(place: Path, plan: KillPlan) -> Path:
    """Write built-in images and their masks as a user keeps them: a folder a class."""
    data = fashion_composites("held-out", canvas=28).select(np.arange(plan.images))
    for position, (picture, mask, label) in enumerate(zip(data.images, data.masks, data.labels, strict=True)):
        for tree, array in (("images", picture), ("masks", mask.astype(np.uint8) * 255)):
            path = place / tree / f"class-{label % 2}" / f"{position}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return place


def arguments_of(phase: str, study: Path, images: Path, plan: KillPlan) -> list[str]:
    """Return the arguments of ``kdviz`` for this command."""
    if phase == "measure":
        return ["measure", str(study), "--no-progress"]
    options: Mapping[str, object] = {
        "images": images / "images",
        "masks": images / "masks",
        "size": plan.size,
        "layers": "conv,fc1",
        "teacher-epochs": plan.epochs,
    }
    values = {
        "training.count": plan.images,
        "training.epochs": plan.epochs,
        "measurement.samples": plan.samples,
        "measurement.grid": 8,
        "measurement.probes": plan.probes,
    }
    return [
        "train",
        str(study),
        "--no-progress",
        *(f"--{name}={value}" for name, value in options.items()),
        *(f"--set={name}={value}" for name, value in values.items()),
    ]


class Command:
    """A running ``kdviz`` command: a process of its own, with one thread, that says when it is imported."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.log = tempfile.NamedTemporaryFile("r", suffix=".log")
        self.start = time.monotonic()
        self.ready: float | None = None
        with open(self.log.name, "w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND_LINE.format(more=PHASES[arguments[0]]), *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parents[1],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def wait(self, *, until_ready: bool = False, seconds: float = float("inf")) -> bool:
        """Wait for the imports, the end or some seconds; give whether the process still runs."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.ready is None and READY in Path(self.log.name).read_text():
                self.ready = time.monotonic()
            if self.process.poll() is not None:
                if self.process.returncode:
                    raise RuntimeError(f"kdviz failed:\n{Path(self.log.name).read_text()}")
                return False
            if until_ready and self.ready is not None:
                break
            time.sleep(0.002)
        return True

    def kill(self) -> None:
        """Kill it, as a power cut or a cluster does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def time_undisturbed(arguments: Sequence[str]) -> Timing:
    """Let a command end by itself."""
    command = Command(arguments)
    command.wait(until_ready=True)
    command.wait()
    assert command.ready is not None
    return Timing(command.ready - command.start, time.monotonic() - command.ready)


def attempt(
    arguments: Sequence[str], phase: str, timing: Timing, plan: KillPlan, chance: random.Random, left: int
) -> dict[str, Any] | None:
    """Start a command and kill it at a random moment while kills are left; None where it ended before."""
    command = Command(arguments)
    if not left:
        command.wait()
        return None
    if chance.random() < plan.import_share:
        alive = command.wait(seconds=chance.uniform(0, timing.importing))
    else:
        alive = command.wait(until_ready=True)
        alive = alive and command.wait(seconds=chance.uniform(0, timing.working * plan.reach))
    if not alive:
        return None
    now = time.monotonic()
    command.kill()
    return {
        "command": phase,
        "struck": "importing" if command.ready is None else {"train": "training"}.get(phase, "measuring"),
        "seconds": now - command.start,
        "worked": 0.0 if command.ready is None else now - command.ready,
    }


def look_at(study: Path) -> tuple[str, int]:
    """Say how far a study has come: the last result written, and when."""
    files = [path for path in study.rglob("*") if path.is_file() and "lock" not in path.name]
    results = [path for path in files if path.name not in ("study.yaml", "plan.json", "data.json")]
    last = max(results, key=lambda path: path.stat().st_mtime_ns, default=None)
    return ("", 0) if last is None else (str(last.relative_to(study)), last.stat().st_mtime_ns)


def compare_studies(ours: Path, theirs: Path) -> dict[str, Any]:
    """Compare all files, byte by byte, and all stored arrays of two studies."""
    one, two = read_files(ours), read_files(theirs)
    differing = [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]
    kinds = Counter(
        "checkpoints" if name.endswith(".safetensors") else "histories"
        for name in two
        if name.endswith((".safetensors", "history.json"))
    )
    arrays = 0
    left, right = (kdviz.open_run(study / "run.zarr") for study in (ours, theirs))
    for network in right.networks:
        for layer in right.layers(network):
            stored, expected = (run.dataset(network, layer) for run in (left, right))
            for variable in expected.variables:
                arrays += 1
                if not np.array_equal(
                    stored[variable], expected[variable], equal_nan=_is_float(expected[variable])
                ):
                    differing.append(f"{network}/{layer}/{variable}")
    return {"files": len(two), **kinds, "arrays": arrays, "differing": differing}


def _is_float(values: Any) -> bool:
    return values.dtype.kind == "f"


def read_files(study: Path) -> dict[str, bytes]:
    """Read every file but locks; a run's moment of making is left out."""
    files = {}
    for path in study.rglob("*"):
        if path.is_file() and not path.name.endswith("lock"):
            content = path.read_bytes()
            if path.name == "zarr.json":
                node = json.loads(content)
                node["attributes"].pop("created_at", None)
                content = json.dumps(node, sort_keys=True).encode()
            files[str(path.relative_to(study))] = content
    return files
