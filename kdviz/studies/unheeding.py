"""Imported by workers on this machine: Ctrl-C is for the process that started them, which ends them, too."""

import signal


def dask_setup(worker: object) -> None:
    """Pass over Ctrl-C, which a terminal sends to all processes at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
