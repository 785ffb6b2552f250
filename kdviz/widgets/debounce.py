"""Run a slow redraw once the user has stopped moving."""

import asyncio
from collections.abc import Callable

from kdviz.widgets.status import is_strict


class Debounced:
    """A call that waits until it has not been asked for during `delay` seconds.

    Where nothing would ever run it later, which is without an event loop or in a strict run that must see its
    errors, it runs at once.
    """

    def __init__(self, call: Callable[[], object], delay: float) -> None:
        self._call, self._delay = call, delay
        self._waiting: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        """Ask for the call."""
        self.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or is_strict():
            self._call()
        else:
            self._waiting = loop.call_later(self._delay, self._call)

    def cancel(self) -> None:
        """Forget a call that still waits."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
