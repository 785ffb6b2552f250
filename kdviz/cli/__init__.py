"""The command line ``kdviz``: from demo, train and measure to study, report and explore.

Every command prints where its results are and what to do next. Of a run that is not whole, `info`, `report`
and `export` say first what is missing; the latter two end with status 3 then. A user's mistake gives one
sentence and exit status 1; set ``KDVIZ_STRICT=1`` to see the traceback.
"""

import os
import sys
import warnings

import typer
from pydantic import ValidationError

from kdviz.cli.named import named
from kdviz.cli.runs import explore, export, info, report, rerun
from kdviz.cli.studying import attribute, demo, measure, train, transfer, unicam
from kdviz.errors import KdvizWarning

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See what knowledge distillation changed. Start with: kdviz demo",
    rich_markup_mode=None,
)
for _command in (demo, train, measure, attribute, transfer, unicam, report, rerun, info, export, explore):
    app.command()(_command)
app.add_typer(named, name="study")


def main() -> None:
    """Run the command line."""
    warnings.simplefilter("default", KdvizWarning)
    warnings.showwarning = lambda message, *_, **__: typer.echo(f"kdviz: note: {message}", err=True)
    try:
        app(sys.argv[1:] or ["--help"])
    except (ValueError, TypeError, ArithmeticError, MemoryError, OSError, ImportError) as error:
        if os.environ.get("KDVIZ_STRICT") == "1":
            raise
        message = str(error)
        if isinstance(error, ValidationError):
            from kdviz.studies.plans import explain_faults  # nothing but plans is checked so

            message = explain_faults(error)
        elif isinstance(error, ModuleNotFoundError) and error.name in ("torch", "safetensors"):
            message = f"this needs {error.name}: install kdviz[vision], or kdviz[text] for a study of texts"
        sys.exit(f"kdviz: {message}")
