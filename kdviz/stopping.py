"""Stop when asked to, by Ctrl-C or a signal: soon, at a safe place, with a sentence.

A handler runs between any two steps of any library, one that holds a lock included, so it sets a flag and no
more. Who is about to write a file looks at the flag and unwinds (`check`). What comes to no such place within
seconds ends where it is, as by a kill; that loses nothing, because every file is whole or absent.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import NoReturn, TypeVar

Result = TypeVar("Result")

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is not known to Windows
_PATIENCE, _GLANCE = 1.0, 0.1  # seconds: until the end by force, and between two looks at the flag
_asked: list[int] = []  # numbers of the signals that came


@contextmanager
def listening() -> Iterator[None]:
    """Take signals from now on, in the main thread of a command; ends the process where one stopped it.

    Signals that are ignored, as by ``nohup`` or in a shell's background, stay so.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    known = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    heard = [number for number in known if signal.getsignal(number) != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, lambda number, _: _asked.append(number))
    # written to by the C library: the thread below hears of a signal while the main thread is busy, too
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_end_by_force, args=(ours,), daemon=True).start()
    try:
        yield
    except BaseException as ending:
        finished = isinstance(ending, SystemExit) and not ending.code
        if _asked and not finished:  # whatever else went wrong by now
            _leave(_asked[0])
        raise
    finally:
        for number in heard:  # all is done: while Python takes itself down it would die of one
            signal.signal(number, signal.SIG_IGN)
        _asked.clear()


def check() -> None:
    """Unwind if a signal came: raise `SystemExit`, here where nothing is half done."""
    if _asked:
        sys.exit(128 + _asked[0])


def run_aside(call: Callable[[], Result]) -> Result:
    """Run in another thread what would take signals for its own, or is long without a safe place."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    while not wait([future], _GLANCE).done:
        check()
    return future.result()


def run_program(command: Sequence[str]) -> int:
    """Run a program to its end, or end it when asked to stop; give its exit status."""
    with subprocess.Popen(command) as program:
        try:
            while program.poll() is None:
                check()
                with suppress(subprocess.TimeoutExpired):
                    program.wait(_GLANCE)
        finally:
            program.terminate()
    return program.returncode


def _end_by_force(signals: socket.socket) -> None:
    """End after a signal if the main thread has not by itself: in time, or at once at a second signal."""
    while number := signals.recv(1)[0]:
        signals.settimeout(_PATIENCE)
        with suppress(TimeoutError):
            signals.recv(1)
        if _asked:
            _leave(number)
        signals.settimeout(None)


def _leave(number: int) -> NoReturn:
    """Say so and end, without what libraries do at the end of a process, which may wait for each other."""
    print("\nkdviz: stopped; nothing is lost, call the same command again", file=sys.stderr, flush=True)
    os._exit(128 + number)
