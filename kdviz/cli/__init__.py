"""The command line ``kdviz``: from demo, train and measure to study, report and explore.

Every command prints where its results are and what to do next. Of a run that is not whole, `info`, `report`
and `export` say first what is missing; the latter two end with status 3 then. A user's mistake gives one
sentence and exit status 1; set ``KDVIZ_STRICT=1`` to see the traceback.
"""

import os
import sys
import warnings
from typing import Any

import typer
from pydantic import ValidationError

from kdviz.cli.named import named
from kdviz.cli.runs import explore, export, info, report, rerun
from kdviz.cli.speaking import say
from kdviz.cli.studying import attribute, coherency, demo, measure, train, transfer, unicam
from kdviz.errors import TRYING, KdvizWarning, find_network

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See what knowledge distillation changed. Start with: kdviz demo",
    rich_markup_mode=None,
)
for _command in (
    demo,
    train,
    measure,
    attribute,
    coherency,
    transfer,
    unicam,
    report,
    rerun,
    info,
    export,
    explore,
):
    app.command()(_command)
app.add_typer(named, name="study")


def _list_options() -> dict[str, str]:
    """List the options of the command that was called, by the names of its parameters."""
    command: Any = typer.main.get_command(app)
    for word in sys.argv[1:3]:
        command = getattr(command, "commands", {}).get(word, command)
    options = {param.name: max(param.opts, key=len) for param in command.params}
    return {name: option for name, option in options.items() if option.startswith("--")}


def main() -> None:
    """Run the command line."""
    options = _list_options()
    warnings.simplefilter("default", KdvizWarning)
    warnings.showwarning = lambda message, *_, **__: typer.echo(
        f"kdviz: note: {say(str(message), options)}", err=True
    )
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
        if network := find_network(error):
            message = f"{network}: {message}"
        sys.exit(f"kdviz: {say(message, options)}")
    except RuntimeError as error:  # of torch, in a network of the user's
        told = [note for note in getattr(error, "__notes__", ()) if note.startswith(TRYING)]
        if not told or os.environ.get("KDVIZ_STRICT") == "1":
            raise
        reason, _, _ = str(error).partition("\n")
        sys.exit(
            f"kdviz: {told[0]}, it fails: {reason}; see that samples are read as in its training, such as "
            "--size and -s data.NAME, and that the function builds it; KDVIZ_STRICT=1 shows where"
        )
