"""Attack every command and every kind of file at random: nothing may be lost, nor look whole that is not.

A small study is worked through once, left alone: trained, measured, attributed, asked what was transferred,
exported, reported, shown. Every attack begins with a copy of what there was before a command, and ends with a
comparison, bit by bit, of what the command left after it was called until it ended by itself.

``demo`` is left out: train, measure and report in one process, on built-in data whose size cannot be chosen.
"""

import contextlib
import functools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from PIL import Image

import kdviz
from benchmarks.problems import RESULTS
from benchmarks.reports import show_table, write_result
from kdviz.errors import DataError, KdvizWarning, SchemaError, StoreError
from kdviz.networks.checkpoints import read_checkpoint
from kdviz.sources import fashion_composites
from kdviz.studies import STUDY_FILE, StudyPlan
from kdviz.training import TrainingRecord

ATTACKS = ("signals", "kills", "full disks", "flipped bits")
WRITERS = ("train", "measure", "attribute", "transfer", "export")  # of a study, its run, or a file of it
COMMANDS = (*WRITERS, "report", "rerun", "info", "explore")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = "kdviz: stopped; nothing is lost, call the same command again"
READY = "kdviz takes signals"
PROGRAM = f"""
import contextlib, signal
import kdviz.__main__ as program

signal.signal(signal.SIGINT, signal.default_int_handler)  # this may run in a shell's background
listening = program.listening

@contextlib.contextmanager
def tell():
    with listening():
        print({READY!r}, flush=True)
        yield

program.listening = tell
program.main()
"""
HANGS = 60  # seconds after a signal
SERVING = 12  # seconds after which a server is taken to work

Row = dict[str, Any]
Limit = int | None


@dataclass(frozen=True)
class FaultPlan:
    """How often what is attacked; the defaults are a few of each, for a look.

    Attributes
    ----------
    signals, disks
        Signals sent to, and full disks under, every command that has them.
    kills
        SIGKILLs in a study, shared out over `WRITERS`.
    flips
        Bits flipped in every kind of file, one at a time.
    within
        Seconds in which a command ends after a signal.
    images, size, epochs, teacher_epochs, samples, probes
        Of the study. A teacher that has learned nothing is asked for no property.
    seed
        Of all that is random.
    """

    signals: int = 4
    disks: int = 2
    kills: int = 8
    flips: int = 100
    within: float = 5.0
    images: int = 24
    size: int = 16
    epochs: int = 2
    teacher_epochs: int = 20
    samples: int = 4
    probes: int = 4
    seed: int = 0


QUICK = FaultPlan(signals=1, disks=1, kills=len(WRITERS), flips=10)
FULL = FaultPlan(signals=-(-200 // len(COMMANDS)), disks=4, kills=20, flips=300)  # 200 signals in all


@dataclass(frozen=True)
class Stage:
    """A command, where it is called, and what it leaves.

    Attributes
    ----------
    command
        Its name.
    before
        Folder as it is before the command; copied, never written to.
    after
        Contents of all files, by name, once it has ended; see `read_files`.
    told
        What it prints.
    seconds
        It takes when left alone, after Python has started.
    """

    command: str
    before: Path
    after: dict[str, Any]
    told: str
    seconds: float


def run_faults(
    plan: FaultPlan, folder: Path | None = None, *, name: str = "faults", attacks: Sequence[str] = ATTACKS
) -> bool:
    """Run attacks; print and write how many were tried and survived, and what went wrong.

    What was written of other attacks before stays; what is known is written after every command and kind.
    """
    for number in SIGNALS:  # what is ignored here, as under nohup, the commands would ignore
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    chance = random.Random(plan.seed)
    path = (RESULTS if folder is None else folder) / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["results"]["attacks"] if path.exists() else []
    rows = [row for row in before if row["attack"] not in attacks]
    fine = True
    with tempfile.TemporaryDirectory() as place:
        stages = work_through(Path(place), plan)
        show_table("Left alone", [{"command": one.command, "seconds": one.seconds} for one in stages])
        for attack in attacks:
            for target, faults in run_attack(attack, stages, plan, chance):
                rows.append(count(attack, target, faults))
                fine &= rows[-1]["survived"] == rows[-1]["tried"]
                rows.sort(key=lambda row: ATTACKS.index(row["attack"]))
                write_result(name, asdict(plan), {"attacks": rows}, folder)
    return fine


def run_attack(
    attack: str, stages: Sequence[Stage], plan: FaultPlan, chance: random.Random
) -> Iterator[tuple[str, list[str]]]:
    """Run one kind of attack on everything; by what was attacked, the faults."""
    if attack == "flipped bits":
        yield from flip_bits(next(one.before for one in stages if one.command == "report"), plan, chance)
    elif attack == "kills":
        writers = [one for one in stages if one.command in WRITERS]
        for stage, share in zip(writers, share_out(plan.kills, len(writers)), strict=True):
            yield stage.command, attack_with_signals(stage, [signal.SIGKILL], share, plan, chance)
    else:
        for stage in stages:
            if attack == "signals":
                yield stage.command, attack_with_signals(stage, SIGNALS, plan.signals, plan, chance)
            elif stage.command != "info":  # it writes nothing
                yield stage.command, attack_with_full_disks(stage, plan, chance)


def count(attack: str, target: str, faults: Sequence[str]) -> Row:
    """Make a row of what went wrong, an empty text for each that went well; show it at once."""
    wrong = sorted({fault for fault in faults if fault})
    row = {"attack": attack, "target": target, "tried": len(faults), "survived": faults.count("")}
    show_table("Attacked", [row])
    for fault in wrong:
        print(f"  {fault}", flush=True)
    return row | {"faults": wrong}


def share_out(total: int, parts: int) -> list[int]:
    """Split a number into parts that differ by one at most."""
    return [total // parts + (at < total % parts) for at in range(parts)]


# -- the study, left alone


def work_through(place: Path, plan: FaultPlan) -> list[Stage]:
    """Call every command once; keep what there was before each."""
    write_images(place / "images", plan)
    stages, work = [], place / "left-alone"
    work.mkdir()
    for name in COMMANDS:
        before = Path(shutil.copytree(work, place / f"before-{name}"))
        command = Command(arguments_of(name, work, plan))
        alive = command.wait(SERVING if name == "explore" else None)
        if alive:
            command.process.terminate()
            command.wait()
        elif command.process.returncode:
            raise RuntimeError(f"kdviz {name} failed:\n{command.told}")
        assert command.ready is not None
        seconds = time.monotonic() - command.ready
        stages.append(Stage(name, before, read_files(work), plain(command.told, work), seconds))
    return stages


def write_images(place: Path, plan: FaultPlan) -> None:
    """Write built-in images and their masks as a user keeps them: a folder a class, of one colour each."""
    data = fashion_composites("held-out", canvas=28).select(np.arange(plan.images))
    for position, (picture, mask, label) in enumerate(zip(data.images, data.masks, data.labels, strict=True)):
        colour = np.eye(3, dtype=np.uint8)[label % 2]  # a few images teach nothing harder to a network
        for tree, array in (("images", picture * colour), ("masks", mask.astype(np.uint8) * 255)):
            path = place / tree / f"class-{label % 2}" / f"{position}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


def arguments_of(command: str, place: Path, plan: FaultPlan) -> list[str]:
    """Return the arguments of ``kdviz`` for this command in a working folder."""
    study, images = place / "study", place.parent / "images"
    values = {
        "training.count": plan.images,
        "training.epochs": plan.epochs,
        "measurement.samples": plan.samples,
        "measurement.grid": 4,
        "measurement.probes": plan.probes,
    }
    trained = [f"--images={images / 'images'}", f"--masks={images / 'masks'}", f"--size={plan.size}"]
    trained += ["--layers=fc1", f"--teacher-epochs={plan.teacher_epochs}", "--no-progress"]
    trained += [f"--set={name}={value}" for name, value in values.items()]
    options: dict[str, list[Any]] = {
        "train": trained,
        "measure": ["--no-progress"],
        "attribute": ["--no-progress"],
        "transfer": [f"--samples={plan.images}", "--no-progress"],
        "export": [place / "run.nc", "--overwrite"],
        "report": ["--folder", place / "report", "--no-progress"],
        "info": [],
        "explore": ["--voila", "--folder", place / "app"],
    }
    if command == "rerun":
        return [
            "rerun",
            "07_layers",
            "-p",
            f"run_path={study}",
            "--folder",
            str(place / "pages"),
            "--no-progress",
        ]
    return [command, str(study), *map(str, options[command])]


class Command:
    """A running ``kdviz`` command: a process of its own, that says when it takes signals."""

    def __init__(self, arguments: Sequence[str], *, limit: Limit = None) -> None:
        self.ready: float | None = None
        self.lines: list[str] = []

        def restrict() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=restrict,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        while self.ready is None and self.process.poll() is None:
            time.sleep(0.002)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == READY:
                self.ready = time.monotonic()
            else:
                self.lines.append(line)

    @property
    def told(self) -> str:
        """All it printed."""
        return "".join(self.lines)

    @property
    def last_line(self) -> str:
        """What it said last."""
        return "".join(self.told.rstrip().splitlines()[-1:])

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end or some seconds; give whether it still runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
            self._reader.join(1)  # a kernel that is about to end may hold the pipe
            return False
        return True


def read_files(place: Path) -> dict[str, Any]:
    """Read every file that a command leaves, but locks, by name.

    Of a run, when it was made is left out; of a notebook all but its outputs; a page is one of its notebook.
    """
    files: dict[str, Any] = {}
    for path in sorted(place.rglob("*")):
        name = re.sub("-[0-9a-f]{8}[.]", ".", str(path.relative_to(place)))  # a digest of the run's path
        if not path.is_file() or name.endswith((".lock", ".lock.json")):
            continue
        if path.suffix == ".html":
            files[name] = "a page"
        elif path.suffix == ".ipynb" and path.read_bytes().rstrip().endswith(b"}"):  # else cut short
            cells = nbformat.read(path, as_version=4).cells
            outputs = [output for cell in cells for output in cell.get("outputs", ())]
            files[name] = plain(repr([one.get("text", one.get("data")) for one in outputs]), place)
        else:
            content = path.read_bytes()
            if path.name == "zarr.json":
                node = json.loads(content)
                for circumstance in ("created_at", "kdviz_checksum"):
                    node["attributes"].pop(circumstance, None)
                content = json.dumps(node, sort_keys=True).encode()
            files[name] = content
    return files


def plain(text: str, place: Path) -> str:
    """Leave out where it was."""
    return text.replace(str(place), "PLACE").replace(place.name, "PLACE")


def name_differences(stage: Stage, place: Path) -> str:
    """Name the files that are not as the command leaves them when left alone."""
    found = read_files(place)
    differing = [
        name for name in sorted(found.keys() | stage.after.keys()) if found.get(name) != stage.after.get(name)
    ]
    return f"{stage.command} left another {', '.join(differing[:5])}" if differing else ""


# -- signals, kills and full disks


def attack_with_signals(
    stage: Stage, numbers: Sequence[int], strikes: int, plan: FaultPlan, chance: random.Random
) -> list[str]:
    """Strike a command at random moments, called again in the same folder, until it ends; give the faults."""
    faults: list[str] = []
    while len(faults) < strikes:
        batch, (place, arguments) = len(faults), begin(stage, plan)
        while len(faults) < strikes:
            number = chance.choice(numbers)
            command = Command(arguments)
            if not command.wait(chance.uniform(0, stage.seconds)):
                break  # it came to its end before
            faults.append(strike(command, number, plan.within))
        wrong = finish(stage, arguments, place)
        faults[batch:] = [fault or wrong for fault in faults[batch:]]
        shutil.rmtree(place)
    return faults


def begin(stage: Stage, plan: FaultPlan) -> tuple[Path, list[str]]:
    """Copy what there is before a command; give the copy and the arguments."""
    place = Path(tempfile.mkdtemp(prefix="attacked-", dir=stage.before.parent))
    shutil.copytree(stage.before, place, dirs_exist_ok=True)
    return place, arguments_of(stage.command, place, plan)


def strike(command: Command, number: int, within: float) -> str:
    """Send a signal; say what is wrong with the end of the command, or nothing."""
    name, start = signal.Signals(number).name, time.monotonic()
    command.process.send_signal(number)
    if command.wait(HANGS):
        command.process.kill()
        command.wait()
        return f"{name}: it did not end"
    seconds, status = time.monotonic() - start, command.process.returncode
    if number == signal.SIGKILL or status == 0:  # it had all but ended
        return ""
    if status != 128 + number or command.last_line != STOPPED:
        return f"{name}: status {status}, {command.last_line!r}"
    return "" if seconds <= within else f"{name}: it took {seconds:.1f} s"


def finish(stage: Stage, arguments: Sequence[str], place: Path) -> str:
    """Call the command until its end; say what is not as if it had been left alone, or nothing."""
    command = Command(arguments)
    if command.wait(SERVING if stage.command == "explore" else None):
        command.process.terminate()
        command.wait()
    elif command.process.returncode:
        return f"{stage.command} could not be called again: {command.last_line}"
    if stage.command == "info" and plain(command.told, place) != stage.told:
        return f"info told {command.told}"
    return name_differences(stage, place)


def attack_with_full_disks(stage: Stage, plan: FaultPlan, chance: random.Random) -> list[str]:
    """Call a command on a disk that takes files up to a random size only, then on one with room."""
    sizes = [len(content) for content in stage.after.values()]
    faults = []
    while len(faults) < plan.disks:
        place, arguments = begin(stage, plan)
        command = Command(arguments, limit=int(np.exp(chance.uniform(0, np.log(max(sizes))))))
        wrong = ""
        if command.wait(2 * SERVING if stage.command == "explore" else None):
            command.process.terminate()
            command.wait()
        elif command.process.returncode and not command.last_line.startswith("kdviz: "):
            wrong = f"{stage.command}: status {command.process.returncode}, {command.last_line!r}"
        faults.append(wrong or finish(stage, arguments, place))
        shutil.rmtree(place)
    return faults


# -- flipped bits


def flip_bits(whole: Path, plan: FaultPlan, chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Flip one bit at a time in every kind of file that is read again; by kind, the faults."""
    study, run = whole / "study", whole / "study" / "run.zarr"
    kinds: dict[str, tuple[list[Path], Callable[[Path], str]]] = {
        "numbers of a run": (
            [path for path in run.rglob("*") if "c" in path.parts and path.is_file()],
            lambda _: read_run(run),
        ),
        "metadata of a run": (list(run.rglob("zarr.json")), lambda _: read_run(run)),
        "exported file": ([whole / "run.nc"], read_run),
        "weights": (list((study / "networks").rglob("*.safetensors")), read_training),
        "plan of a study": ([study / STUDY_FILE], read_plan),
        "histories": (list((study / "networks").rglob("history.json")), read_training),
    }
    for kind, (files, read) in kinds.items():
        whole_one, faults = functools.cache(read), []
        for path in chance.choices(sorted(files), k=plan.flips):
            faults.append(flip(path, read, whole_one(path), chance))
        yield kind, faults


def flip(path: Path, read: Callable[[Path], str], expected: str, chance: random.Random) -> str:
    """Flip a bit; say if what is read then is neither what was written nor one error or note of kdviz."""
    content = path.read_bytes()
    at = chance.randrange(8 * len(content))
    damaged = bytearray(content)
    damaged[at // 8] ^= 1 << at % 8
    path.write_bytes(damaged)
    try:
        same = read(path) == expected
    except (DataError, SchemaError, StoreError, KdvizWarning):
        same = True
    except Exception as error:
        return f"{path.name}: {type(error).__name__}: {error}"[:200]
    finally:
        path.write_bytes(content)
    return "" if same else f"{path.name}: bit {at} of {8 * len(content)} was read as something else"


def read_run(path: Path) -> str:
    """Read all of a run, as text that tells every value."""
    run = kdviz.open_run(path)
    groups = {f"{one}/{layer}": run.dataset(one, layer) for one in run.networks for layer in run.layers(one)}
    groups |= {name: run.result(name) for name in run.results} | {"samples": run.samples}
    return repr([run.attrs, *((name, ds.to_dict()) for name, ds in groups.items())])


def read_plan(path: Path) -> str:
    """Read the plan of a study; that it is not as it was written is a warning."""
    with warnings.catch_warnings(action="error", category=KdvizWarning):
        return repr(StudyPlan.load(path.parent))


def read_training(path: Path) -> str:
    """Read all of the training run that a file is of, as text that tells every value."""
    record = TrainingRecord.open(path.parent)
    saved = [*record.checkpoints.values(), *record.parts.values()]
    weights = [(name, array.tolist()) for one in saved for name, array in read_checkpoint(one).items()]
    return repr([record.history.to_dict(), weights])
