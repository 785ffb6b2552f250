"""The command line ``kdviz``: from demo, train and measure to study, report and explore.

Every command prints where its results are and what to do next. Of a run that is not whole, `info`, `report`
and `export` say first what is missing; the latter two end with status 3 then. A user's mistake gives one
sentence and exit status 1; set ``KDVIZ_STRICT=1`` to see the traceback.
"""

import operator
import os
import shlex
import sys
import textwrap
import warnings
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError

import kdviz
from kdviz.errors import KdvizWarning, StoreError
from kdviz.stopping import run_program

if TYPE_CHECKING:
    from kdviz.studies import Series, Study

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See what knowledge distillation changed. Start with: kdviz demo",
    rich_markup_mode=None,
)

_INCOMPLETE = 3  # exit status of a report or an export, whole in itself, of a run that is not
# A page that was left takes its kernel along: seconds without use, and between two looks.
_VOILA = ("--MappingKernelManager.cull_idle_timeout=600", "--MappingKernelManager.cull_interval=60")

Modality = Literal["image", "text", "cloud"]
Folder = Annotated[Path, typer.Argument(help="Folder of the study.")]
RunPath = Annotated[Path, typer.Argument(help="Run directory, exported .nc file, or folder of a study.")]
Device = Annotated[
    str | None, typer.Option(help="Where to compute, such as cuda; that of the plan by default.")
]
Progress = Annotated[bool, typer.Option(help="Show progress bars.")]
Workers = Annotated[
    str | None,
    typer.Option(
        help="How many processes here, the address of a dask scheduler, or a YAML file of SLURM options."
    ),
]


named = typer.Typer(help="Repeat the papers' tables, small or whole, or a comparison of your own.")
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


@app.command()
def demo(
    modality: Annotated[Modality, typer.Option(help="Kind of input.")] = "image",
    folder: Annotated[
        Path | None, typer.Option(help="Where to put the study; runs/demo, runs/demo-text, ... by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of training seeds.")] = 1,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Run the main job on built-in data: train, measure, report. Minutes on two cores.

    Example: kdviz demo --modality text --seeds 3
    """
    import kdviz.reports  # noqa: F401 - what it needs is missed before the training, not after
    from kdviz.studies import BUILT_IN_DATA, Study, StudyPlan

    folder = folder or Path("runs") / ("demo" if modality == "image" else f"demo-{modality}")
    asked = {"data": {"kind": BUILT_IN_DATA[modality]}, "training": {"seeds": tuple(range(seeds))}}
    study = Study(folder, StudyPlan.model_validate(asked), progress, device)
    typer.echo("1/3  training baseline and students beside the built-in teacher")
    study.train()
    typer.echo("2/3  measuring what each layer discards, epoch by epoch")
    run = study.measure()
    typer.echo(f"\n{run.summary().to_string(index=False)}\n")
    typer.echo("3/3  writing the report")
    report([folder], progress=progress)


@app.command()
def train(
    folder: Folder,
    plan: Annotated[Path | None, typer.Option(help="YAML file of a plan, as study.yaml of a study.")] = None,
    modality: Annotated[Modality | None, typer.Option(help="Built-in data of this kind. [image]")] = None,
    images: Annotated[Path | None, typer.Option(help="Your images: IMAGES/<class>/<name>.jpg")] = None,
    masks: Annotated[Path | None, typer.Option(help="Masks, if any: MASKS/<class>/<name>.png")] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="Your texts: a table with tabs, of a column label, and one of texts or two of pairs."
        ),
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option(help="Words in them that ought to matter, one a line; a lexicon's by default."),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(help="Folder of a pretrained encoder and its tokenizer: the teacher is made from it."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of a tokenizer; that of the encoder.")
    ] = None,
    clouds: Annotated[
        Path | None, typer.Option(help="Your meshes: CLOUDS/<class>/train/ and test/, as ModelNet40.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels a side images are resized to. [48]")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Network of teacher, student and baseline; a small one by default.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Layers to distil at, comma separated. [conv,fc1,fc2; hidden,cls; fc1,fc2]"),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of training seeds. [1]")] = None,
    teacher_epochs: Annotated[int | None, typer.Option(help="Epochs of a teacher trained here. [30]")] = None,
    rate_factor: Annotated[
        float | None,
        typer.Option(help="Times all learning rates: below 1 for networks that do not learn. [1]"),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", help="NAME=VALUE of study.yaml, such as training.epochs=20; repeat it."),
    ] = None,
    workers: Workers = None,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Train teacher, baselines and students of a study; with the folder of one alone, continues it.

    Options change single values of the plan in the file or, without one, of that in the folder; -s changes
    any line of it.

    Example: kdviz train runs/birds --images birds/images --masks birds/masks --size 64 --layers fc1
    """
    from kdviz.studies import BUILT_IN_DATA, STUDY_FILE, Study, make_plan

    kinds = {
        "image-folder": {"images": images, "masks": masks},
        "texts": {"file": texts, "foreground": words},
        "modelnet40": {"folder": clouds},
    }
    data = [{"kind": kind, **given} for kind, options in kinds.items() if (given := _given(options))]
    if len(data) > 1:
        raise ValueError("pass one kind of data: --images and --masks, --texts, or --clouds")
    if modality and not data:
        data = [{"kind": BUILT_IN_DATA[modality]}]
    teacher = _given({"encoder": encoder, "epochs": teacher_epochs})
    options = {
        "data": data[0] if data else None,
        "data.size": size,
        "networks.architecture": architecture,
        "networks.layers": layers and [layer.strip() for layer in layers.split(",")],
        "data.tokenizer": tokenizer or encoder,
        "networks.teacher": {"kind": "trained", **teacher} if teacher else None,
        "training.seeds": seeds and list(range(seeds)),
        "training.rate_factor": rate_factor,
    }
    given = _given(options)
    if not (given or plan or change or (folder / STUDY_FILE).exists()):
        raise StoreError(
            f"{folder} holds no study to continue; begin one with --modality image (the built-in images), "
            "--images with --masks, --texts, --clouds, or --plan FILE"
        )
    study = Study(folder, make_plan(folder, plan, given, change or []), progress, device)
    study.train(workers)
    typer.echo(f"networks  {folder / 'networks'}\nnext      kdviz measure {folder}")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _open_study(folder: Path, progress: bool, device: str | None) -> "Study":
    from kdviz.studies import Study, StudyPlan

    return Study(folder, StudyPlan.load(folder), progress, device)


@app.command()
def measure(
    folder: Folder,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it will take on this machine.")] = False,
    workers: Workers = None,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Measure a study's networks over their training; continues where it was stopped.

    Students and baselines are measured at every epoch of the first half, every second later, and the last.

    Example: kdviz measure runs/birds
    """
    study = _open_study(folder, progress, device)
    if plan:
        if told := study.estimate():
            lines = told | {"all": reduce(operator.add, told.values())}
            width = max(map(len, lines))
            typer.echo("\n".join(f"{name:{width}}  {estimate}" for name, estimate in lines.items()))
            typer.echo(f"\nnext  kdviz measure {folder}")
        else:
            typer.echo(f"nothing is left to measure\nnext  kdviz report {folder}")
        return
    run = study.measure(workers)
    typer.echo(f"\n{run.summary().to_string(index=False)}\n")
    typer.echo(f"run   {study.run_path}\nnext  kdviz report {folder}")


@app.command()
def attribute(folder: Folder, device: Device = None, progress: Progress = True) -> None:
    """Draw CAM, gradient and occlusion maps of a study's networks beside what was measured; continues.

    Example: kdviz attribute runs/birds
    """
    study = _open_study(folder, progress, device)
    run = study.attribute()
    names = [name for name in run.results if name.startswith("attribution/")]
    typer.echo(f"maps  {', '.join(names)}\nrun   {study.run_path}")
    typer.echo(f"next  kdviz rerun 04_baselines -p run_path={study.run_path}")


@app.command()
def transfer(
    folder: Folder,
    samples: Annotated[int, typer.Option(min=10, help="Held-out samples to ask about.")] = 1000,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Ask which properties of the teacher a study's networks share; continues.

    Example: kdviz transfer runs/birds
    """
    study = _open_study(folder, progress, device)
    run = study.share(samples)
    table = kdviz.analysis.score_transfer(kdviz.analysis.read_transfer(run).values())
    margins = (
        table[table["role"] != "teacher"].pivot_table("margin", ["property", "part"], "kind", sort=False)
        * 100
    )
    typer.echo("percentage points more than the baselines, means over seeds\n")
    typer.echo(f"{margins.round(1).to_string(na_rep='')}\n")
    typer.echo(f"run   {study.run_path}\nnext  kdviz rerun 10_transfer -p run_path={study.run_path}")


@app.command()
def unicam(
    folder: Folder,
    samples: Annotated[int, typer.Option(min=16, help="Held-out samples to score.")] = 300,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Map and score what a study's students have beside the baselines, and lack; continues.

    Example: kdviz unicam runs/birds
    """
    study = _open_study(folder, progress, device)
    run = study.explain(samples)
    table = kdviz.analysis.tabulate_relevance(kdviz.analysis.read_room(run, "unicam-scores").values())
    shown = table[table["input"] == "plain"].pivot(
        index=["layer", "student"], columns="score", values="value"
    )
    typer.echo("squared distance correlation with the classes (rs), and with other networks (fss)\n")
    typer.echo(f"{shown.round(3).to_string(na_rep='')}\n")
    typer.echo(f"run   {study.run_path}\nnext  kdviz rerun 11_unicam -p run_path={study.run_path}")


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories, exported .nc files, folders of studies.")
    ],
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to write; STUDY/report, or beside RUN.zarr into RUN-report by default."),
    ] = None,
    progress: Progress = True,
) -> None:
    """Say what a run shows, and write figures and tables of it as one HTML page.

    Of several runs, each gets its page, and one more shows them side by side.

    Example: kdviz report runs/demo
    """
    from kdviz.reports import place_report, write_report, write_side_by_side

    opened = [kdviz.open_run(run) for run in runs]
    for run in opened:
        for line in (f"{run.name}\n", *str(kdviz.analysis.give_verdict(run)).splitlines()):
            typer.echo(textwrap.fill(line, 110, subsequent_indent="      "))
        place = place_report(run, folder / run.name if folder and len(runs) > 1 else folder)
        page = write_report(run.path, folder=place, progress=progress)
        typer.echo(f"\nreport    {page}\nnotebook  {page.with_suffix('.ipynb')}\nrun       {run.path}")
    together = write_side_by_side(opened, folder=folder or place, progress=progress)
    if together is not None:
        typer.echo(f"together  {together}")
    typer.echo(f"next      kdviz explore {runs[0]}")
    if any(run.gaps() for run in opened):
        raise typer.Exit(_INCOMPLETE)


def _say_gaps(run: kdviz.store.Run) -> bool:
    """Say first what of a run is missing; whether nothing is."""
    gaps = run.gaps()
    if gaps:
        typer.echo(f"{gaps}\n")
    return not gaps


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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
