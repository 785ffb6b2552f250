"""Run a slow redraw once the user has stopped moving."""

import asyncio
from collections.abc import Callable

from kdviz.widgets.status import is_strict


class Debounced:
    """A call that waits until it has not been asked for during `delay` seconds.

    Where nothing would ever run it later, which is without an event loop or in a strict run that must see its
    errors, it runs at once; or, unless `at_once`, not at all.
    """

    def __init__(self, call: Callable[[], object], delay: float, *, at_once: bool = True) -> None:
        self._call, self._delay, self._at_once = call, delay, at_once
        self._waiting: asyncio.TimerHandle | None = None

    def __call__(self, delay: float | None = None) -> None:
        """Ask for the call, if said after another delay."""
        self.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or is_strict():
            if self._at_once:
                self._call()
        else:
            self._waiting = loop.call_later(self._delay if delay is None else delay, self._run)

    @property
    def waits(self) -> bool:
        """Whether a call is still to come."""
        return self._waiting is not None

    def _run(self) -> None:
        self._waiting = None
        self._call()

    def cancel(self) -> None:
        """Forget a call that still waits."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
