"""What can be laid over a sample: the entropy, and the attribution maps that a run holds."""

import numpy as np
import xarray as xr

from kdviz.render.canvas import Canvas
from kdviz.render.looks import ENTROPY, Floats
from kdviz.store import Run


class Overlays:
    """Attribution maps by network: results ``attribution/<network>`` on the units of the run.

    Attributes
    ----------
    names
        ``"entropy"``, and the methods of which there is a map.
    notes
        Results that were passed over, one sentence each.
    """

    def __init__(self, run: Run, kind: type[Canvas]) -> None:
        self._samples, self._kind = run.samples, kind
        self._maps: dict[str, xr.DataArray] = {}
        self.notes: list[str] = []
        for name in run.results:
            room, _, network = name.partition("/")
            if room != "attribution":
                continue
            maps = run.result(name).get("attribution") if network in run.networks else None
            if maps is not None and maps.sizes.get("unit") == run.samples.sizes["unit"]:
                self._maps[network] = maps
            else:
                self.notes.append(
                    f"Result {name!r} is not shown: maps are named attribution/<network> and on these units."
                )
        methods = [str(one) for maps in self._maps.values() for one in maps["attribution_method"].values]
        self.names = list(dict.fromkeys([ENTROPY, *methods]))

    def find(
        self, network: str, method: str, sample: str, coarsening: int
    ) -> tuple[Floats | None, tuple[float, float]]:
        """Find a map, None if there is none, and its scale, symmetric and the same for all samples."""
        maps = self._maps.get(network)
        if maps is None or method not in maps["attribution_method"] or sample not in maps["sample"]:
            return None, (-1.0, 1.0)
        last = maps.sel(attribution_method=method).isel(epoch=-1)
        valid = self._samples["valid"].sel(sample=last["sample"]).values
        known = np.abs(last.values[valid & np.isfinite(last.values)])
        end = (float(np.quantile(known, 0.99)) if known.any() else 0.0) or 1.0
        return self._kind.merge(self._samples, last.sel(sample=sample).values, coarsening), (-end, end)
