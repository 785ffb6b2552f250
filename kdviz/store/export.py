"""What of a run goes into an exported file."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

_DERIVABLE = ("entropy", "entropy_error", "noise_scale")


def find_rows(known: list[str], samples: Sequence[str] | None) -> list[int]:
    """Return the positions of the samples to keep among those `known`, or refuse unknown ones."""
    if unknown := [name for name in samples or () if name not in known]:
        raise ValueError(f"samples to keep are not in the run: {', '.join(map(str, unknown[:5]))}")
    rows = [known.index(name) for name in known if samples is None or name in set(samples)]
    if not rows:
        raise ValueError("samples is empty; name at least one")
    return rows


def cut_group(ds: xr.Dataset, rows: list[int], *, compact: bool) -> xr.Dataset:
    """Keep some rows of the samples or of a layer; `compact` leaves out and rounds as `Run.export` says."""
    if compact:
        ds = ds.drop_vars(_DERIVABLE, errors="ignore")
        if "gain_error" in ds:
            ds["gain_error"] = _round_bits(ds["gain_error"])
    return ds.isel(sample=rows) if "sample" in ds.dims else ds


def cut_result(ds: xr.Dataset, samples: Sequence[str] | None) -> xr.Dataset:
    """Keep those of a result's own samples that are named."""
    if samples is None or "sample" not in ds.dims:
        return ds
    return ds.isel(sample=ds["sample"].isin(samples))


def _round_bits(values: xr.DataArray, bits: int = 14) -> xr.DataArray:
    """Round to that many significant binary digits: what then ends in zeros compresses well."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 2**bits) / 2**bits, exponent).assign_attrs(values.attrs)
