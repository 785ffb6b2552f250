"""One line that says what happened; errors in callbacks end up here, never nowhere."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import ipywidgets as widgets


def is_strict() -> bool:
    """Tell whether errors in callbacks shall be raised as well as shown: ``KDVIZ_STRICT=1``."""
    return os.environ.get("KDVIZ_STRICT") == "1"


class Status(widgets.HTML):
    """The line, empty as long as all is well."""

    @property
    def failed(self) -> bool:
        """Whether an error is shown."""
        return self.value.startswith("<div role=alert")

    def clear(self) -> None:
        """Show nothing."""
        self.value = ""

    def say(self, text: str) -> None:
        """Show a message."""
        self.value = escape(text)

    @contextmanager
    def showing_errors(self, *, fresh: bool = True) -> Iterator[None]:
        """Show what goes wrong inside, and raise it only in a strict run; `fresh` clears the line first."""
        if fresh:
            self.clear()
        try:
            yield
        except Exception as error:
            style = "color:#fff;background:#b00020;padding:4px 8px"
            message = escape(f"{type(error).__name__}: {error}")
            self.value = f'<div role=alert style="{style}">{message}</div>'
            if is_strict():
                raise
