"""Command line: ``python -m benchmarks --help``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Quick = Annotated[bool, typer.Option("--quick", help="A tiny version, to try whether it runs.")]
Folder = Annotated[Path | None, typer.Option(help="Where to write; benchmarks/results by default.")]


@app.callback()
def main() -> None:
    """Measure what docs/validation.md claims."""


@app.command()
def references(
    zoo: Annotated[bool, typer.Option("--zoo", help="Those of the zoo of networks instead.")] = False,
    network: Annotated[list[str] | None, typer.Option(help="Of the zoo only these; in this order.")] = None,
) -> None:
    """Make the long runs of the authors' procedure that are not stored yet: an hour on one core."""
    if zoo or network:
        from benchmarks.zoo.networks import ZOO
        from benchmarks.zoo.references import make_references as make_zoo_references

        make_zoo_references(network or ZOO)
    else:
        from benchmarks.references import make_references

        make_references()


@app.command()
def accuracy(quick: Quick = False, folder: Folder = None) -> None:
    """Error against long runs of the authors' procedure, and passes; exit code 1 if a goal is missed."""
    from benchmarks.accuracy import QUICK, AccuracyPlan, run_accuracy

    fine = run_accuracy(QUICK if quick else AccuracyPlan(), folder, name=_name("accuracy", quick))
    raise typer.Exit(not fine)


@app.command()
def zoo(
    quick: Quick = False,
    network: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
    folder: Folder = None,
) -> None:
    """Error and passes on networks that differ in kind; exit code 1 if a goal or a reference is missed."""
    from benchmarks.zoo.comparing import QUICK, ZooPlan, run_zoo
    from benchmarks.zoo.networks import ZOO

    if unknown := {*(network or ())} - {*ZOO}:
        raise typer.BadParameter(f"--network is {', '.join(unknown)}; allowed: {', '.join(ZOO)}")
    plan = QUICK if quick else ZooPlan(tuple(network or ZOO))
    raise typer.Exit(not run_zoo(plan, folder, name=_name("zoo", quick)))


@app.command()
def costs(quick: Quick = False, folder: Folder = None) -> None:
    """Time over bare passes, peak memory, and growth of both; exit code 1 where passes or memory surprise."""
    from benchmarks.costs import QUICK, CostPlan, run_costs

    fine = run_costs(QUICK if quick else CostPlan(), folder, name=_name("costs", quick))
    raise typer.Exit(not fine)


@app.command()
def gpu(quick: Quick = False, folder: Folder = None) -> None:
    """Time VGG-16 at 224 pixels on a GPU, or a part of it on the processor; exit code 1 without the first."""
    from benchmarks import gpu

    plan = gpu.QUICK if quick else gpu.WHOLE if gpu.has_device() else gpu.SMALL
    raise typer.Exit(not gpu.run_gpu(plan, folder, name=_name("gpu", quick)))


@app.command()
def faults(
    quick: Quick = False,
    full: Annotated[bool, typer.Option("--full", help="200 signals, 20 kills, 300 bits a kind.")] = False,
    attack: Annotated[
        list[str] | None, typer.Option(help="Only these: signals, kills, full disks, flipped bits.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Signals, kills, full disks and flipped bits at random; exit code 1 if one is not survived."""
    from benchmarks.faults import ATTACKS, FULL, QUICK, FaultPlan, run_faults

    if unknown := {*(attack or ())} - {*ATTACKS}:
        raise typer.BadParameter(f"--attack is {', '.join(unknown)}; allowed: {', '.join(ATTACKS)}")
    plan = QUICK if quick else FULL if full else FaultPlan()
    fine = run_faults(plan, folder, name=_name("faults", quick), attacks=attack or ATTACKS)
    raise typer.Exit(not fine)


@app.command()
def noise(
    quick: Quick = False,
    study: Annotated[
        Path | None, typer.Option(help="A trained study to measure; else one is trained.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Show how far every metric moves when nothing but the measurement seed changes."""
    from benchmarks.noise import QUICK, NoisePlan, run_noise

    run_noise(QUICK if quick else NoisePlan(), folder, study=study, name=_name("noise", quick))


@app.command()
def latency(quick: Quick = False, folder: Folder = None) -> None:
    """Time the app from a moved control to new panels; exit code 1 if a goal is missed."""
    from benchmarks.latency import QUICK, LatencyPlan, run_latency

    fine = run_latency(QUICK if quick else LatencyPlan(), folder, name=_name("latency", quick))
    raise typer.Exit(not fine)


@app.command()
def coherency(
    quick: Quick = False,
    network: Annotated[str, typer.Option(help="Only small_vgg or vgg16.")] = "",
    folder: Folder = None,
) -> None:
    """Rescale weights, keep outputs, see which maps move; exit code 1 if an entropy moves that must not."""
    from benchmarks.coherency import PLANS, QUICK, run_coherency

    plans = _choose(QUICK if quick else PLANS, network)
    raise typer.Exit(not run_coherency(plans, folder, name=_name("coherency", quick)))


@app.command()
def peers(quick: Quick = False, folder: Folder = None) -> None:
    """Run the peers' text and cloud procedures beside kdviz; exit code 1 if a goal is missed."""
    from benchmarks.peers import QUICK, PeerPlan, run_peers

    fine = run_peers(QUICK if quick else PeerPlan(), folder, name=_name("peers", quick))
    raise typer.Exit(not fine)


@app.command()
def workers(
    quick: Quick = False,
    network: Annotated[str, typer.Option(help="Only small_vgg or vgg11.")] = "",
    folder: Folder = None,
) -> None:
    """Rates of one and two workers of a study beside bare processes; exit code 1 if a goal is missed."""
    from benchmarks.workers import PLANS, QUICK, run_workers

    plans = _choose(QUICK if quick else PLANS, network)
    raise typer.Exit(not run_workers(plans, folder, name=_name("workers", quick)))


@app.command()
def presets(
    quick: Quick = False,
    teraflops: Annotated[
        float, typer.Option(help="Assumed of a GPU, sustained in float32; measured where there is one.")
    ] = 20.0,
    folder: Folder = None,
) -> None:
    """Estimate what the named studies cost at each size, and those of the papers on GPUs, projected."""
    from dataclasses import replace

    from benchmarks.presets import QUICK, PresetPlan, run_presets

    plan = replace(QUICK if quick else PresetPlan(), teraflops=teraflops)
    run_presets(plan, folder, name=_name("presets", quick))


@app.command()
def growth(quick: Quick = False, folder: Folder = None) -> None:
    """Growth with samples, checkpoints and layers: time, disk, memory; exit code 1 if a goal is missed."""
    from benchmarks.growth import QUICK, GrowthPlan, run_growth

    raise typer.Exit(not run_growth(QUICK if quick else GrowthPlan(), folder, name=_name("growth", quick)))


@app.command()
def report() -> None:
    """Fill the tables of the documentation from the stored results, and draw its figures."""
    from benchmarks.report import write_pages

    write_pages()


@app.command(name="all")
def run_all() -> None:
    """Run everything but the references, one after the other, and fill the page: an hour on one core."""
    every = (accuracy, zoo, costs, gpu, faults, noise, coherency, peers, latency, workers, presets, growth)
    for command in every:
        try:
            command(**{"full": True} if command is faults else {})
        except typer.Exit as verdict:
            print(f"{command.__name__}: {'FELL SHORT' if verdict.exit_code else 'as promised'}")
    report()


def _choose(plans: Mapping[str, Any], network: str) -> dict[str, Any]:
    chosen = {name: plan for name, plan in plans.items() if network in ("", name)}
    if not chosen:
        raise typer.BadParameter(f"--network is {network!r}; allowed: {', '.join(plans)}")
    return chosen


def _name(command: str, quick: bool) -> str:
    return f"{command}-quick" if quick else command


if __name__ == "__main__":
    app()
