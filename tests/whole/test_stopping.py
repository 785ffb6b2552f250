"""Ctrl-C and signals: every command ends soon, with one sentence, and nothing is half done."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from run_files import plain_files

import kdviz
from kdviz.studies import Study

SENTENCE = "kdviz: stopped; nothing is lost, call the same command again"
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
LONGEST = 600  # seconds, where what is right takes a few; only what hangs takes so long

AT_WORK = """
import os, signal, sys, time
import kdviz, kdviz.__main__
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C

def signalled(call, at):
    # let the signal come when the call is made for the `at`th time
    left = [at]
    def around(*arguments, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), NUMBER)
        return call(*arguments, **options)
    return around
"""


def run_command(
    setup: str, *arguments: str | Path, number: int = signal.SIGTERM, prefix: tuple[str, ...] = ()
) -> tuple[int, str]:
    """Run ``kdviz ARGUMENTS`` in a process of its own after a setup; its status and last line of errors."""
    script = f"NUMBER = {int(number)}\n{AT_WORK}\n{setup}\nkdviz.__main__.main()"
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    return done.returncode, "".join(done.stderr.splitlines()[-1:])


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_measure__stops_at_a_safe_place_and_goes_on(
    study: Study, tmp_path: Path, number: int, status: int
) -> None:
    copy = tmp_path / "study"
    plan = study.plan
    plan.save(copy)
    for name in ("networks", "data.json"):
        os.symlink(study.folder / name, copy / name)
    setup = "kdviz.store.Run.write_block = signalled(kdviz.store.Run.write_block, 3)"
    ended = run_command(setup, "measure", copy, "--no-progress", number=number)
    assert ended == (status, SENTENCE)
    begun = kdviz.open_run(copy / "run.zarr").summary()["done"]
    assert 0 < begun.sum() < len(kdviz.open_run(study.run_path).summary())
    assert not (copy / "run.zarr.lock.json").exists(), "it let go of what it held"
    Study(copy, plan, progress=False).measure()
    assert plain_files(copy / "run.zarr") == plain_files(study.run_path)


BETWEEN_LOCKS = """
from xarray.backends import locks
acquire, taken = locks.acquire, []
def acquire_signalled(lock, blocking=True):
    held = acquire(lock, blocking=blocking)
    taken.append(lock)
    if len(taken) == 41:  # the first of two
        os.kill(os.getpid(), NUMBER)
    return held
locks.acquire = acquire_signalled
"""


def test_export__a_signal_between_two_locks_of_netcdf(study: Study, tmp_path: Path) -> None:
    """Closing the file waits for both; unwinding right here would leave one of them held for ever."""
    target = tmp_path / "run.nc"
    target.write_text("old")
    ended = run_command(BETWEEN_LOCKS, "export", study.folder, target, "--overwrite")
    assert ended == (143, SENTENCE)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    assert run_command("", "export", study.folder, target, "--overwrite") == (0, "")
    assert kdviz.open_run(target).networks == kdviz.open_run(study.run_path).networks


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_info__at_work_without_a_safe_place_ends_by_force(study: Study, number: int, status: int) -> None:
    setup = "kdviz.open_run = signalled(lambda path: time.sleep(10_000), 1)"
    assert run_command(setup, "info", study.folder, number=number) == (status, SENTENCE)


def test_report__signal_while_a_cell_runs(study: Study, tmp_path: Path) -> None:
    setup = """
import papermill, threading
execute = papermill.execute_notebook
def execute_signalled(*arguments, **options):
    threading.Timer(0.5, lambda: os.kill(os.getpid(), NUMBER)).start()  # the kernel is starting, or later
    return execute(*arguments, **options)
papermill.execute_notebook = execute_signalled
"""
    ended = run_command(setup, "report", study.folder, "--folder", tmp_path, "--no-progress")
    assert ended == (143, SENTENCE)
    assert not (tmp_path / "report.html").exists()


def test_explore__ends_its_server_too(study: Study, tmp_path: Path) -> None:
    told = tmp_path / "told"
    setup = f"""
import kdviz.cli.runs
run = kdviz.cli.runs.run_program
server = f'''
import os, pathlib, signal, time
def end(*_):
    pathlib.Path({str(told)!r}).touch()
    os._exit(0)
signal.signal(signal.SIGTERM, end)
os.kill(os.getppid(), {{int(NUMBER)}})
time.sleep(10_000)
'''
kdviz.cli.runs.run_program = lambda command: run([sys.executable, "-c", server])
"""
    ended = run_command(setup, "explore", study.folder, "--folder", tmp_path)
    assert ended == (143, SENTENCE) and told.exists()


def test_export__interrupted_in_a_notebook_can_be_called_again(study: Study, tmp_path: Path) -> None:
    script = f"""
NUMBER = {int(signal.SIGINT)}
{AT_WORK}
{BETWEEN_LOCKS}
run = kdviz.open_run(sys.argv[1])
try:
    run.export(sys.argv[2])
except KeyboardInterrupt:
    print("interrupted", os.path.exists(sys.argv[2]))
print(run.export(sys.argv[2]).name)
"""
    command = [sys.executable, "-c", script, study.folder, tmp_path / "run.nc"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST)
    assert done.stdout.split() == ["interrupted", "False", "run.nc"], done.stderr


def test_export__that_comes_to_its_end_is_not_called_stopped(study: Study, tmp_path: Path) -> None:
    setup = "kdviz.cli.runs.typer.echo = signalled(kdviz.cli.runs.typer.echo, 1)"
    target = tmp_path / "run.nc"
    assert run_command(f"import kdviz.cli.runs\n{setup}", "export", study.folder, target) == (0, "")
    assert kdviz.open_run(target).networks == kdviz.open_run(study.run_path).networks


def test_info__a_signal_while_python_takes_itself_down_changes_nothing(study: Study) -> None:
    setup = "import threading\nthreading._register_atexit(lambda: os.kill(os.getpid(), NUMBER))"
    last = """
class Last:
    def __del__(self, kill=os.kill, itself=os.getpid(), number=NUMBER):
        kill(itself, number)
sys.last = Last()
"""
    for way in (setup, last):
        status, told = run_command(way, "info", study.folder)
        assert (status, told) == (0, "")


def test_main__what_is_ignored_stays_ignored(study: Study) -> None:
    setup = "kdviz.open_run = signalled(kdviz.open_run, 1)"
    status, told = run_command(setup, "info", study.folder, number=signal.SIGHUP, prefix=("nohup",))
    assert (status, SENTENCE in told) == (0, False)
