"""Commands that train, measure and ask networks: those of a study, or others; and all on built-in data."""

import operator
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import kdviz
from kdviz.cli.options import Device, Folder, Modality, Progress, Workers
from kdviz.cli.runs import report
from kdviz.errors import StoreError

if TYPE_CHECKING:
    from kdviz.studies import Study
    from kdviz.studies.own import OwnNetworks

Asked = Annotated[Path, typer.Argument(help="Folder of the study; with --network, the run.")]
Builders = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        help="Of a run that kdviz measure --network made: module:function that builds its networks; repeat "
        "it for those of another kind: NAME=module:function.",
    ),
]

_OF_DATA: dict[str, tuple[str, dict[str, str]]] = {
    "--images": ("image-folder", {"--images": "images", "--masks": "masks", "--size": "size", "--grid": ""}),
    "--texts": (
        "texts",
        {"--texts": "file", "--words": "foreground", "--tokenizer": "tokenizer", "--entry": ""},
    ),
    "--clouds": ("modelnet40", {"--clouds": "folder"}),
}
"""Data of one's own: the kind of source, and which options go with it, by the names that the source has."""

_UNICAM = {
    "rs": "what features have to do with the classes (1 at most, about 0 if nothing): those of each network, "
    "those that the student has beside its baseline (distilled), those that only the baseline has "
    "(residual), and by how much the former are ahead",
    "fss": "how alike the features of two networks are (1 at most, about 0 if not at all), and by how much "
    "the student is ahead of its baseline in likeness to the teacher",
}
"""What the scores of UniCAM say, by how their names begin."""

_NEEDED = {"image-folder": ("--size",), "texts": ("--tokenizer",), "modelnet40": ()}


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
    any line of it. A study that is begun takes more seeds, layers and losses, and another --rate-factor for
    what is not trained yet.

    Example: kdviz train runs/birds --images birds/images --masks birds/masks --size 64 --layers fc1
    """
    from kdviz.studies import BUILT_IN_DATA, STUDY_FILE, Study, change_rates, make_plan

    own = {"--images": images, "--masks": masks, "--texts": texts, "--words": words, "--clouds": clouds}
    data = _find_data(own)
    if modality and not data:
        data = {"kind": BUILT_IN_DATA[modality]}
    teacher = _given({"encoder": encoder, "epochs": teacher_epochs})
    options = {
        "data": data or None,
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
    asked = make_plan(folder, plan, given, change or [])
    if told := change_rates(folder, asked):
        typer.echo(told)
    study = Study(folder, asked, progress, device)
    study.train(workers)
    typer.echo(f"accuracy  {study.tell_accuracies()}\nnetworks  {folder / 'networks'}")
    typer.echo(f"next      kdviz measure {folder}")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _find_data(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what options say of data of one's own, by names of its source; nothing if none is given.

    Raises
    ------
    ValueError
        If options of several kinds of data are given.
    """
    kinds = [option for option in _OF_DATA if told.get(option) is not None]
    if len(kinds) > 1:
        raise ValueError(f"pass one kind of data: --images, --texts or --clouds, got {' and '.join(kinds)}")
    with_what = {option: kind for kind, (_, names) in _OF_DATA.items() for option in names}
    for option in _given(told):
        if (owner := with_what.get(option)) and owner not in kinds:
            advice = f", not with {kinds[0]}: leave it out" if kinds else ": give that, too"
            raise ValueError(f"{option} goes with {owner}{advice}")
    if not kinds:
        return {}
    kind, names = _OF_DATA[kinds[0]]
    return {"kind": kind} | _given({name: told.get(option) for option, name in names.items() if name})


def _open_study(folder: Path, progress: bool, device: str | None) -> "Study":
    from kdviz.studies import Study, StudyPlan

    return Study(folder, StudyPlan.load(folder), progress, device)


def _open_asked(
    folder: Path, networks: list[str] | None, progress: bool, device: str | None
) -> "Study | OwnNetworks":
    from kdviz.studies import STUDY_FILE

    if (folder / STUDY_FILE).exists():
        if networks:
            raise ValueError(f"{folder} is a study, which builds its own networks: leave --network out")
        return _open_study(folder, progress, device)
    if networks:
        from kdviz.studies.own import OwnNetworks

        return OwnNetworks(kdviz.open_run(folder), networks, device, progress)
    with suppress(StoreError):
        kdviz.open_run(folder)
        raise ValueError(
            f"{folder} is a run without a study: say with --network module:function what builds its "
            "networks, as for kdviz measure"
        )
    return _open_study(folder, progress, device)


def measure(
    folder: Annotated[Path, typer.Argument(help="Folder of the study; with --network, the run to write.")],
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it will take on this machine.")] = False,
    network: Annotated[
        str | None, typer.Option(help="A network of your own: module:function that builds it.")
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder of its checkpoints, one file per epoch.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="How they are named, where that is not clear, such as 'run7-*-{epoch}.pt'."),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="Which of several networks in each file, such as student.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Images: IMAGES/<class>/<name>.jpg")] = None,
    masks: Annotated[Path | None, typer.Option(help="Masks, if any: MASKS/<class>/<name>.png")] = None,
    size: Annotated[
        int | None, typer.Option(min=8, help="Pixels a side images are resized to, as in training.")
    ] = None,
    grid: Annotated[int | None, typer.Option(min=1, help="Cells a side of images. [16]")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Or texts: a table with tabs, as kdviz train takes it.")
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option(help="Words in them that ought to matter, one a line; a lexicon's by default."),
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the network's tokenizer.")] = None,
    entry: Annotated[
        str | None,
        typer.Option(help="Its module that embeds words, where that is not clear, such as transformer.drop."),
    ] = None,
    clouds: Annotated[
        Path | None, typer.Option(help="Or meshes: CLOUDS/<class>/train/ and test/, as ModelNet40.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "-s", "--set", help="data.NAME=VALUE, such as data.length=64, data.points=1024; repeat it."
        ),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Its layers to measure, comma separated.")] = None,
    role: Annotated[str, typer.Option(help="teacher, student, baseline, or any word.")] = "student",
    name: Annotated[str | None, typer.Option(help="Its name in the run; role and seed by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Its training seed, by which pairs are made.")] = 0,
    method: Annotated[str | None, typer.Option(help="In a word, the loss that a student learned by.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many samples, spread over all there are.")] = 32,
    workers: Workers = None,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Measure a study's networks over their training; continues where it was stopped.

    Students and baselines are measured at every epoch of the first half, every second later, and the last.
    With --network, --checkpoints and --layers, a network trained elsewhere, at all its checkpoints: on
    --images of --size, normalised as ImageNet's or by -s data.mean and data.std, on --texts with --tokenizer,
    or on --clouds.

    Example: kdviz measure runs/birds
    """
    needed: dict[str, Any] = {"--checkpoints": checkpoints, "--layers": layers}
    told = {"--pattern": pattern, "--part": part, "--name": name, "--method": method, "-s": change, **needed}
    told |= {"--images": images, "--masks": masks, "--size": size, "--grid": grid, "--texts": texts}
    told |= {"--words": words, "--tokenizer": tokenizer, "--entry": entry, "--clouds": clouds}
    if network is None and (wrong := [*_given(told)]):
        raise ValueError(f"{', '.join(wrong)} is of a network of your own: give --network too")
    if network is not None:
        data = _find_data(told)
        needed |= {option: told[option] for option in _NEEDED.get(data.get("kind", ""), ())}
        needed |= {} if data else {"--images, --texts or --clouds": None}
        if gone := [option for option, value in needed.items() if not value]:
            raise ValueError(f"--network needs {', '.join(gone)} too")
        if workers:
            raise ValueError(
                "--workers is of studies, and --network has none: leave it out; what is measured elsewhere, "
                "into runs of its own, kdviz.store.join puts together in Python"
            )
        from kdviz.studies.checkpoints import plan_folder
        from kdviz.studies.own import choose_data

        asked = plan_folder(
            folder,
            network=network,
            checkpoints=Path(checkpoints or ""),
            pattern=pattern,
            part=part,
            data=choose_data(data, change or []),
            layers=[one.strip() for one in (layers or "").split(",")],
            entry=entry,
            role=role,
            name=name,
            seed=seed,
            method=method,
            grid=grid or 16 if images else None,
            samples=samples,
            device=device,
        )
        if plan:
            left = asked.estimate()
            _tell_plan({} if left is None else {asked.name: left}, folder, " --network ... as before")
            return
        run = asked.measure(progress)
        typer.echo(f"\n{run.summary().to_string(index=False)}")
        typer.echo(f"\naccuracy  {kdviz.analysis.describe_accuracy(run, [asked.name])}")
        typer.echo(f"run       {folder}\nnext      kdviz report {folder}")
        return
    study = _open_study(folder, progress, device)
    if plan:
        _tell_plan(study.estimate(), folder)
        return
    run = study.measure(workers)
    typer.echo(f"\n{run.summary().to_string(index=False)}\n")
    typer.echo(f"run   {study.run_path}\nnext  kdviz report {folder}")


def _tell_plan(found: Mapping[str, Any], folder: Path, options: str = "") -> None:
    """Say what is left to measure, by network and in all."""
    if not found:
        typer.echo(f"no entropy is left to measure\nnext  kdviz report {folder}")
        return
    lines = {**found, "all": reduce(operator.add, found.values())}
    width = max(map(len, lines))
    typer.echo("\n".join(f"{name:{width}}  {estimate}" for name, estimate in lines.items()))
    typer.echo(f"\nnext  kdviz measure {folder}{options}")


def attribute(
    folder: Asked, network: Builders = None, device: Device = None, progress: Progress = True
) -> None:
    """Draw CAM, gradient and occlusion maps of finished networks beside what was measured; continues.

    Example: kdviz attribute runs/birds
    """
    run = _open_asked(folder, network, progress, device).attribute()
    names = [name for name in run.results if name.startswith("attribution/")]
    typer.echo(f"maps  {', '.join(names)}\nrun   {run.path}")
    typer.echo(f"next  kdviz report {folder}, or kdviz rerun 04_baselines -p run_path={run.path}")


def coherency(
    folder: Asked,
    network: Builders = None,
    samples: Annotated[int, typer.Option(min=1, help="How many of the measured images.")] = 4,
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs of layers of each network.")] = 4,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Rescale weights so that no output changes, and see which maps of finished networks move; continues.

    Example: kdviz coherency runs/birds
    """
    run = _open_asked(folder, network, progress, device).check_coherency(samples, pairs)
    for name, why in kdviz.analysis.list_refused(run).items():
        typer.echo(f"not asked of {name}: {why}", err=True)
    found = kdviz.analysis.summarise_audits(kdviz.analysis.read_audits(run))
    told = found["moved"].astype(str) + " of " + found["compared"].astype(str)
    table = told.unstack("place", fill_value="").reindex(columns=["input", "before", "between", "after"])
    typer.echo("maps that moved, though no output did: before, between and after the two rescaled layers\n")
    typer.echo(f"{table.to_string(na_rep='')}\n" if len(told) else "none compared\n")
    typer.echo(f"run   {run.path}\nnext  kdviz report {folder}")


def transfer(
    folder: Asked,
    network: Builders = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=10,
            help="Samples to ask about: held-out ones, of a run those in its folder; as many as before, at "
            "first 1000. Answers about another number are replaced.",
        ),
    ] = None,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Ask which properties of the teacher the other networks share; continues.

    Example: kdviz transfer runs/birds
    """
    run = _open_asked(folder, network, progress, device).share(samples)
    found = kdviz.analysis.read_transfer(run)
    table = kdviz.analysis.score_transfer(found.values())
    chosen = table[table["role"] == "student"]  # means of baselines over each other are 0
    if len(chosen):
        margins = 100 * chosen.pivot_table("margin", ["property", "part"], "kind", sort=False)
        count = found["confidence"].sizes["sample"]
        typer.echo(f"percentage points more than the baselines, means over seeds, of {count} samples\n")
        typer.echo(f"{(margins.round(1) + 0.0).to_string(na_rep='')}\n")
    else:
        typer.echo(f"{run.path} has no network of role student to compare with the baselines\n")
    typer.echo(
        f"run   {run.path}\nnext  kdviz report {folder}, or kdviz rerun 10_transfer -p run_path={run.path}"
    )


def unicam(
    folder: Asked,
    network: Builders = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Samples to score: held-out ones, of a run those in its folder; as many as before, at first "
            "300. Scores of another number are replaced.",
        ),
    ] = None,
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Map and score what students have beside the baselines, and lack; continues.

    Example: kdviz unicam runs/birds
    """
    run = _open_asked(folder, network, progress, device).explain(samples)
    table = kdviz.analysis.tabulate_relevance(kdviz.analysis.read_room(run, "unicam-scores").values())
    plain = table[table["input"] == "plain"]
    for kind, told in _UNICAM.items():
        of_it = plain[plain["score"].str.startswith(f"{kind} ")]
        scores = of_it["score"].str.removeprefix(f"{kind} ")
        shown = of_it.assign(score=scores).pivot(index=["layer", "student"], columns="score", values="value")
        typer.echo(f"{textwrap.fill(told, 100)}\n\n{shown[scores.unique()].round(3).to_string(na_rep='')}\n")
    typer.echo(
        f"run   {run.path}\nnext  kdviz report {folder}, or kdviz rerun 11_unicam -p run_path={run.path}"
    )
