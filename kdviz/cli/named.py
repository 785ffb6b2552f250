"""Commands on named studies: ``kdviz study list``, ``show``, ``plan``, ``run``, ``status`` and ``report``."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import kdviz
from kdviz.cli.options import Device, Progress, Workers

if TYPE_CHECKING:
    from kdviz.studies import Series

named = typer.Typer(help="Repeat the papers' tables, small or whole, or a comparison of your own.")
Name = Annotated[str, typer.Argument(help="As `kdviz study list` has it, or a YAML file of your own.")]
PresetName = Annotated[str, typer.Option("--preset", help="small: on built-in data; paper: as published.")]
Change = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", help="NAME=VALUE of every plan, such as training.seeds=[0]; repeat it."),
]
Only = Annotated[
    list[str] | None, typer.Option(help="AXIS=LABEL, such as network=VGG-16: these arms alone; repeat it.")
]
Place = Annotated[Path, typer.Option("--folder", help="Where arms of all named studies lie.")]
_PLACE = Path("runs/studies")


def _open_series(
    name: str,
    preset: str,
    change: list[str] | None,
    only: list[str] | None,
    folder: Path,
    progress: bool = True,
    device: str | None = None,
) -> "Series":
    from kdviz.studies import Series, find_study

    study, chosen = find_study(name), dict[str, str]()
    for one in only or []:
        axis, equals, label = one.partition("=")
        if not equals:
            raise ValueError(f"--only takes AXIS=LABEL, got {one!r}")
        if axis in chosen:
            raise ValueError(f"--only names the axis {axis} twice: {chosen[axis]!r} and {label!r}")
        chosen[axis] = label
    arms = study.arms(preset, change or [], chosen)
    return Series(f"{Path(name).stem} {preset}", study, arms, folder, progress, device)


def _same(name: str, preset: str, change: list[str] | None, only: list[str] | None, folder: Path) -> str:
    """Return the arguments of the same study, as a shell takes them."""
    told = [name, *(["--preset", preset] if preset != "small" else [])]
    told += [part for one in change or [] for part in ("-s", one)]
    told += [part for one in only or [] for part in ("--only", one)]
    told += ["--folder", str(folder)] if folder != _PLACE else []
    return shlex.join(told)


@named.command("list")
def list_named() -> None:
    """List the studies that come with kdviz.

    Example: kdviz study list
    """
    from kdviz.studies import find_study, list_studies

    found = {name: find_study(name) for name in list_studies()}
    for name, study in found.items():
        table = f"Table {study.table}, " if study.table else ""
        typer.echo(f"{name:12}{study.title} ({table}{', '.join(study.presets)})")
    typer.echo("\nnext  kdviz study show v")


@named.command()
def show(name: Name, preset: PresetName = "small", change: Change = None, only: Only = None) -> None:
    """Say what a study asks, and what it compares.

    Example: kdviz study show v --preset paper
    """
    from kdviz.studies import find_study

    study, opened = find_study(name), _open_series(name, preset, change, only, _PLACE)
    about = study.title, study.question, study.presets[preset].about.strip()
    typer.echo("\n\n".join(filter(None, about)) + "\n")
    for arm in opened.arms:
        plan = arm.plan
        losses = ", ".join(loss.kind for loss in plan.losses)
        typer.echo(
            f"{arm.name}\n  {plan.networks.architecture} at {', '.join(plan.networks.layers)}, students by "
            f"{losses}, seeds {', '.join(map(str, plan.training.seeds))}, {plan.training.epochs} epochs, "
            f"{plan.measurement.samples} samples measured\n"
            f"  data {', '.join(f'{key} {value}' for key, value in plan.data if value is not None)}\n"
            f"  teacher {plan.networks.teacher.kind}"
        )
    typer.echo(f"\nnext  kdviz study plan {_same(name, preset, change, only, _PLACE)}")


@named.command("plan")
def plan_named(
    name: Name,
    preset: PresetName = "small",
    change: Change = None,
    only: Only = None,
    folder: Place = _PLACE,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Say what is missing and what the rest will take on this machine; nothing is trained.

    Example: kdviz study plan v
    """
    opened = _open_series(name, preset, change, only, folder, progress, device)
    for _, what in opened.missing():
        typer.echo(f"missing  {what}")
    table = opened.estimate()
    typer.echo(f"\n{table.to_string(index=False)}" if len(table) else "nothing is left to do")
    typer.echo(f"\nnext  kdviz study run {_same(name, preset, change, only, folder)}")


@named.command("run")
def run_named(
    name: Name,
    preset: PresetName = "small",
    change: Change = None,
    only: Only = None,
    folder: Place = _PLACE,
    workers: Workers = None,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Train, measure and ask all arms of a study; continues where it was stopped.

    Example: kdviz study run v -s training.seeds=[0]
    """
    opened = _open_series(name, preset, change, only, folder, progress, device)
    opened.run(workers)
    typer.echo(f"{opened.status().to_string(index=False)}\n")
    typer.echo(f"next  kdviz study report {_same(name, preset, change, only, folder)}")


@named.command()
def status(
    name: Name,
    preset: PresetName = "small",
    change: Change = None,
    only: Only = None,
    folder: Place = _PLACE,
) -> None:
    """Say what of a study is done, and where it lies.

    Example: kdviz study status v
    """
    opened = _open_series(name, preset, change, only, folder)
    step = "run" if any(opened.left().values()) else "report"
    typer.echo(f"{opened.status().to_string(index=False)}\n")
    typer.echo(f"next  kdviz study {step} {_same(name, preset, change, only, folder)}")


@named.command("report")
def report_named(
    name: Name,
    preset: PresetName = "small",
    change: Change = None,
    only: Only = None,
    folder: Place = _PLACE,
    progress: Progress = True,
) -> None:
    """Write the table of a study beside the printed one, from the arms that are measured.

    Example: kdviz study report v
    """
    from kdviz.reports import rerun, write_tables

    opened = _open_series(name, preset, change, only, folder)
    study, arms, at = opened.study, opened.readings(), folder / "reports"
    rows = kdviz.analysis.tabulate_arms(arms, table=study.table or None)
    notes = [f"left out: {arm}, {told}" for arm, told in opened.unfinished().items()]
    notes += kdviz.analysis.doubt_arms(arms)
    typer.echo("\n".join([*notes, *kdviz.analysis.describe_arms(rows).values()]) + "\n")
    page = write_tables(
        arms,
        title=study.title,
        question="\n".join([study.question, *notes]),
        table=study.table,
        folder=at,
        name="-".join([Path(name).stem, preset, *(only or []), *(change or [])]).replace("/", "-"),
        progress=progress,
    )
    typer.echo(f"page      {page}\nnotebook  {page.with_suffix('.ipynb')}")
    for chapter, notebook in (("transfer", "10_transfer"), ("unicam", "11_unicam")):
        for run in {arm.run.path: arm.run for arm in arms}.values() if chapter in study.chapters else ():
            page = rerun(notebook, {"run_path": str(run.path.resolve())}, folder=at, progress=progress)
            typer.echo(f"{chapter:10}{page}")
