"""One bar for many tasks: what is done, what runs, and when all of it will be over."""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from tqdm.auto import tqdm

from kdviz.studies.tasks import Task

_LAYOUT = "{desc} |{bar:20}| {n_fmt} of {total_fmt}, {elapsed} so far{postfix}"
_PAUSE = 10  # seconds between two lines of a log


class Forecast:
    """Counts what is done of the tasks of several studies, and shows it.

    In a terminal and in a notebook as a bar, in a log as lines. A training counts as one, a measurement as
    its blocks. How long one takes is learned from those of the same part, action and role that were done,
    else from those of the same action; what nothing is known of yet is left out, and the time said to be
    more.

    Parameters
    ----------
    name
        Of all of it.
    tasks
        What is left to do, by name of what it belongs to.
    shown
        Whether anything is shown.
    """

    def __init__(self, name: str, tasks: Mapping[str, Sequence[Task]], *, shown: bool = True) -> None:
        self.name, self.shown = name, shown
        self.left: Counter[tuple[str, str, str]] = Counter()
        self.seconds: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for part, many in tasks.items():
            for task in many:
                self.left[part, task.action, task.subject.role] += task.steps
        self._last = self._told = time.monotonic()

    def __enter__(self) -> Self:
        """Show the bar."""
        in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
        self._as_lines = not (sys.stderr.isatty() or in_notebook)
        hidden = not self.shown or self._as_lines or not self.left.total()
        self._bar = tqdm(total=self.left.total(), desc=self.name, disable=hidden, bar_format=_LAYOUT)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        """Close the bar."""
        self._bar.close()

    def begin(self, part: str) -> Callable[[Task], None]:
        """Return what is to hear of every step of a part's tasks."""
        self._last = time.monotonic()

        def count(task: Task) -> None:
            kind, now = (part, task.action, task.subject.role), time.monotonic()
            self.seconds[kind].append(now - self._last)
            self.left[kind] = max(0, self.left[kind] - 1)
            self._last = now
            about = f"{part}, {task.action} {task.subject.name}"
            self._bar.update()
            self._bar.set_postfix_str(f"{self.remaining} left: {about}")
            if self.shown and self._as_lines and (now > self._told + _PAUSE or not self.left.total()):
                done, self._told = sum(map(len, self.seconds.values())), now
                of = done + self.left.total()
                print(f"{self.name}: {done} of {of}, {self.remaining} left: {about}", file=sys.stderr)

        return count

    @property
    def remaining(self) -> str:
        """Time that is left, as far as it is known: "about 0:12:00", or "more than" that."""
        seconds, unknown = 0.0, False
        for kind, count in self.left.items():
            alike = self.seconds.get(kind) or [
                one for other, many in self.seconds.items() if other[1] == kind[1] for one in many
            ]
            if alike:
                seconds += count * sum(alike) / len(alike)
            unknown = unknown or (count > 0 and not alike)
        return f"{'more than' if unknown else 'about'} {timedelta(seconds=round(seconds))}"
