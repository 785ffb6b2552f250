"""Rewrite the stored runs in the present schema version, and check that no number changed.

    python data/runs/migrate.py [RUN.nc ...]

Without arguments all runs of this folder. Run ``data/make_checksums.py`` afterwards, and put the printed
SHA-256 into ``README.md``.
"""

import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import xarray as xr

import kdviz


def read_all(path: Path) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield everything a run holds, by name."""
    run = kdviz.open_run(path)
    yield "samples", run.samples
    for network, layer in run.catalogue():
        yield f"{network}/{layer}", run.dataset(network, layer, partial=True)
    for name in run.results:
        yield name, run.result(name)


def main(paths: list[Path]) -> None:
    """Export each run anew, compare it with the old file bit by bit, and replace that."""
    for path in paths:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            new = kdviz.open_run(path).export(Path(folder) / path.name)
            for (name, old), (_, now) in zip(read_all(path), read_all(new), strict=True):
                xr.testing.assert_equal(old, now)
                for variable in old.variables:
                    ours, theirs = old[variable].values, now[variable].values
                    assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes(), (name, variable)
            new.replace(path)
        print(f"{path.name}  SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main([*map(Path, sys.argv[1:])] or sorted(Path(__file__).parent.glob("*.nc")))
