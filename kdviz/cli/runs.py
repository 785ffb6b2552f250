"""Commands on a run, whoever measured it: report, rerun, info, export, explore."""

import os
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

import kdviz
from kdviz.arguments import positive_number
from kdviz.cli.options import Progress, RunPath
from kdviz.stopping import run_program

_INCOMPLETE = 3  # exit status of a report or an export, whole in itself, of a run that is not
# A page that was left takes its kernel along: seconds without use, and between two looks.
_VOILA = ("--MappingKernelManager.cull_idle_timeout=600", "--MappingKernelManager.cull_interval=60")


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories, exported .nc files, folders of studies.")
    ],
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to write; STUDY/report, or beside RUN.zarr into RUN-report by default."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="How far below the background a point lies, in nat; that of the run by default."),
    ] = None,
    progress: Progress = True,
) -> None:
    """Say what a run shows, and write figures and tables of it as one HTML page.

    Of several runs, each gets its page, and one more shows them side by side.

    Example: kdviz report runs/demo
    """
    from kdviz.reports import place_report, write_report, write_side_by_side

    if threshold is not None:
        positive_number("threshold (--threshold)", threshold)
    settings = kdviz.analysis.Settings(threshold=threshold)
    opened: dict[str, kdviz.store.Run] = {}
    for run in map(kdviz.open_run, runs):
        name, number = run.name, 1
        while name in opened:
            number += 1
            name = f"{run.name}-{number}"
        opened[name] = run
    places: list[Path] = []
    for name, run in opened.items():
        for line in (f"{name}\n", *str(kdviz.analysis.give_verdict(run, settings=settings)).splitlines()):
            typer.echo(textwrap.fill(line, 110, subsequent_indent="      "))
        place = place_report(run, folder / name if folder and len(runs) > 1 else folder)
        places.append(place.with_name(f"{name}-report") if place in places else place)
        page = write_report(run.path, folder=places[-1], threshold=threshold, progress=progress)
        typer.echo(f"\nreport    {page}\nnotebook  {page.with_suffix('.ipynb')}\nrun       {run.path}")
    together = write_side_by_side(opened, folder=folder or places[0], threshold=threshold, progress=progress)
    if together is not None:
        typer.echo(f"together  {together}")
    elif len(runs) > 1:
        typer.echo("together  no page: fewer than two are whole and have a student and a baseline")
    typer.echo(f"next      kdviz explore {runs[0]}")
    if any(run.gaps() for run in opened.values()):
        raise typer.Exit(_INCOMPLETE)


def _say_gaps(run: kdviz.store.Run) -> bool:
    """Say first what of a run is missing; whether nothing is."""
    gaps = run.gaps()
    if gaps:
        typer.echo(f"{gaps}\n")
    return not gaps


def rerun(
    notebook: Annotated[str, typer.Argument(help="Path, or name or number of one that comes with kdviz.")],
    parameter: Annotated[list[str] | None, typer.Option("-p", "--parameter", help="name=value")] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="YAML file of name: value lines.")] = None,
    folder: Annotated[Path, typer.Option(help="Where to put the results.")] = Path("runs/notebooks"),
    progress: Progress = True,
) -> None:
    """Execute a notebook with other parameters; names and types are checked first.

    A file, such as the app saves its settings to, comes first; -p changes single values of it.

    Example: kdviz rerun 01_report -p threshold=0.25
    """
    from kdviz.reports import parse_parameters, read_parameter_file
    from kdviz.reports import rerun as execute

    parameters = read_parameter_file(file) if file else {}
    parameters |= parse_parameters(notebook, parameter or [])
    page = execute(notebook, parameters, folder=folder, progress=progress)
    typer.echo(f"page      {page}\nnotebook  {page.with_suffix('.ipynb')}")


def info(run: RunPath) -> None:
    """Say what a run holds.

    Example: kdviz info runs/demo
    """
    opened = kdviz.open_run(run)
    _say_gaps(opened)
    typer.echo(f"{opened!r}\n\n{opened.summary().to_string(index=False)}\n")
    for name in ("dataset_id", "architecture", "created_at", "kdviz_version"):
        if name in opened.attrs:
            typer.echo(f"{name:14}{opened.attrs[name]}")


def export(
    run: RunPath,
    file: Annotated[Path, typer.Argument(help="netCDF file to write.")],
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it exists.")] = False,
) -> None:
    """Write a run to one netCDF file, to send or to keep.

    Example: kdviz export runs/demo demo.nc
    """
    opened = kdviz.open_run(run)
    whole = _say_gaps(opened)
    path = opened.export(file, overwrite=overwrite)
    typer.echo(f"file  {path} ({path.stat().st_size / 2**20:.1f} MiB)\nnext  kdviz info {path}")
    if not whole:
        raise typer.Exit(_INCOMPLETE)


def explore(
    run: RunPath,
    voila: Annotated[bool, typer.Option("--voila", help="As a web page without code.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where to put the notebook; beside the run by default.")
    ] = None,
) -> None:
    """Open the app on a run: in JupyterLab, or as a web page.

    Example: kdviz explore runs/demo
    """
    from kdviz.reports import prepare_notebook

    path = kdviz.open_run(run).path.resolve()  # a wrong path is refused before a server starts
    notebook = prepare_notebook(
        "02_explore", {"run_path": str(path)}, folder=folder or path.with_name(f"{path.stem}-explore")
    )
    typer.echo(f"notebook  {notebook}\nrun all its cells to see the app; Ctrl-C here ends it")
    # Lab wants to be told that it may run as root, as in a container.
    as_root = not voila and hasattr(os, "geteuid") and os.geteuid() == 0
    lab, page = ["jupyterlab", *(["--allow-root"] if as_root else [])], ["voila", *_VOILA]
    sys.exit(run_program([sys.executable, "-m", *(page if voila else lab), str(notebook)]))
