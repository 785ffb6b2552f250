"""Several runs on the same samples, put into one."""

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from kdviz import schema
from kdviz.arguments import name_some
from kdviz.errors import StoreError
from kdviz.store.descriptions import describe
from kdviz.store.layout import difference_of_samples, difference_of_settings
from kdviz.store.run import Run, Store, as_run, create_run, open_run


def join(path: str | os.PathLike[str], runs: Sequence[Store]) -> Run:
    """Put the networks of several runs into one, to see and compare them side by side there.

    Nothing is measured again, and the runs stay as they are. A network that several of them hold, measured
    alike, is taken once; another one of the same name is called ``<run>-<network>``, by the name of its run's
    folder. Students are compared with the baselines of their own run, where it has some of their seed. Of
    what runs hold beside networks, what two have under one name is taken from the first, and what compares
    networks only from runs of which none was renamed. A call that was killed can be repeated.

    Parameters
    ----------
    path
        Run directory to make, or one that an earlier call began.
    runs
        Two or more runs, in order: directories, exported files, folders of studies, or open runs.

    Returns
    -------
    Run
        The run at `path`.

    Raises
    ------
    ValueError
        If there are fewer than two runs, `path` is one of them, two networks would get one name, or the runs
        call two layers of one network alike.
    StoreError
        If samples, units or masks differ (masks and labels that one run lacks are taken from the other), a
        run is damaged or not measured whole, or `path` holds another run.

    Examples
    --------
    >>> import kdviz
    >>> both = kdviz.store.join("runs/both.zarr", ["runs/monday.zarr", "runs/tuesday.zarr"])  # doctest: +SKIP
    """
    opened = [as_run(one) for one in runs]
    if len(opened) < 2:
        raise ValueError(f"runs names {len(opened)}; name two or more")
    most = max(opened, key=lambda run: len(run.samples.variables))
    for run in opened:
        if run.path.resolve() == Path(path).resolve():
            raise ValueError(f"path is {path}, one of the runs, which stay as they are; name another")
        if difference := difference_of_samples(_bare(most), _bare(run)):
            raise StoreError(f"{most.path} and {run.path} hold other samples: {difference}")
        if (run.summary()["done"] < 1).any():
            raise StoreError(f"{run.path} is not measured whole; measure it to its end first")
    names, layers = _name(opened), _join_layers(opened)
    made_of = {
        "joined": json.dumps([[run.name, called] for run, (called, _) in zip(opened, names, strict=True)])
    }
    whole = create_run(path, samples=most.samples, attrs=most.attrs | made_of)
    with whole.writing():
        for run, (called, new) in zip(opened, names, strict=True):
            for network in new:
                for layer in run.layers(network):
                    _copy(run, network, layer, whole, called)
            for network, name in called.items():
                if f"attribution/{network}" in run.results:
                    _add(whole, f"attribution/{name}", run.result(f"attribution/{network}"))
            if all(network == name for network, name in called.items()):
                for result in run.results:
                    _add(whole, result, run.result(result))
        if layers:
            describe(whole, layers=layers, overwrite=True)
    return open_run(path)


def _join_layers(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """Put the names of layers of all runs together; a layer goes by the first name that it has."""
    layers: dict[str, tuple[str, ...]] = {}
    for run in runs:
        for label, modules in run.layer_names.items():
            taken = {*itertools.chain(*layers.values())}
            layers[label] = (*layers.get(label, ()), *(one for one in modules if one not in taken))
    for run in runs:
        for label, modules in layers.items():
            for network in run.networks:
                if len({*modules} & {*run.layers(network)}) > 1:
                    raise ValueError(
                        f"{label!r} names {name_some(modules)} in these runs, and {network} of {run.path} "
                        "has two of them; name them alike with kdviz.store.describe"
                    )
    return {label: modules for label, modules in layers.items() if modules}


def _bare(run: Run) -> xr.Dataset:
    return run.samples.drop_attrs(deep=False)


def _name(runs: Sequence[Run]) -> list[tuple[dict[str, str], list[str]]]:
    """Choose names by run, ``{network: name}``, and list the networks that no earlier run holds as well."""
    taken: dict[str, tuple[Run, str]] = {}
    names = []
    for run in runs:
        called, new = {}, []
        for network in run.networks:
            called[network] = network
            if network in taken and _is_same(taken[network], (run, network)):
                continue
            if network in taken:
                called[network] = f"{run.name}-{network}"
            name = called[network]
            if name in taken:
                raise ValueError(
                    f"runs hold two networks that would be called {name!r}; rename a run's folder"
                )
            taken[name] = run, network
            new.append(network)
        names.append((called, new))
    return names


def _is_same(one: tuple[Run, str], other: tuple[Run, str]) -> bool:
    """Whether two networks are one, measured alike at the same layers and epochs."""
    layers = [run.layers(network) for run, network in (one, other)]
    if layers[0] != layers[1]:
        return False
    settings = [
        [(run.epochs(network, layer), run.catalogue()[network, layer]) for layer in layers[0]]
        for run, network in (one, other)
    ]
    return all(
        ours == theirs and not difference_of_settings(old, new)
        for (ours, old), (theirs, new) in zip(*settings, strict=True)
    )


def _copy(run: Run, network: str, layer: str, whole: Run, called: dict[str, str]) -> None:
    ds, name = run.dataset(network, layer), called[network]
    attrs = {**run.catalogue()[network, layer], "joined_from": run.name}
    if "teacher" in attrs:
        attrs["teacher"] = called.get(str(attrs["teacher"]), attrs["teacher"])
    block = int(attrs["block"])
    measured = [one for one in schema.MEASURED if one in ds]
    epochs = ds["epoch"].values.tolist()
    whole.create_group(name, layer, epochs=epochs, attrs=attrs, block=block, variables=measured)
    for epoch, at in whole.missing(name, layer):
        rows = slice(at * block, (at + 1) * block)
        whole.write_block(name, layer, epoch, at, ds[measured].isel(epoch=[epoch], sample=rows))
    for further in [one for one in ds.data_vars if one not in {*schema.MEASURED, *schema.SAMPLES}]:
        whole.write_variable(name, layer, ds[further])
    about = run.contents.get(f"points/{network}/{layer}", {})
    if "repeat_of" in about:
        about = about | {"repeat_of": called.get(about["repeat_of"], about["repeat_of"])}
    whole.expect({f"points/{name}/{layer}": about})


def _add(whole: Run, name: str, ds: xr.Dataset) -> None:
    if name not in whole.results:
        whole.write_result(name, ds)
