"""What can be laid over a sample: the entropy, and the maps of attribution and UniCAM that a run holds."""

import numpy as np
import xarray as xr

from kdviz.analysis import as_attributions
from kdviz.render.canvas import Canvas
from kdviz.render.looks import ENTROPY, Floats
from kdviz.store import Run


class Overlays:
    """Maps by network, results ``attribution/<network>`` and ``unicam/<student>`` on the units of the run.

    Attributes
    ----------
    names
        ``"entropy"``, and the methods of which there is a map.
    notes
        Results that were passed over, one sentence each.
    """

    def __init__(self, run: Run, kind: type[Canvas]) -> None:
        self._samples, self._kind = run.samples, kind
        self._maps: dict[str, dict[str, xr.DataArray]] = {}
        self.notes: list[str] = []
        for name in run.results:
            room, _, network = name.partition("/")
            if room not in ("attribution", "unicam"):
                continue
            ds = run.result(name)
            maps = (as_attributions(ds) if room == "unicam" and "distilled" in ds else ds).get("attribution")
            if (
                network in run.networks
                and maps is not None
                and maps.sizes.get("unit") == run.samples.sizes["unit"]
            ):
                of_method = {
                    str(one): maps.sel(attribution_method=one) for one in maps["attribution_method"].values
                }
                self._maps.setdefault(network, {}).update(of_method)
            else:
                self.notes.append(
                    f"Result {name!r} is not shown: maps are named {room}/<network> and on these units."
                )
        every = [(name, one) for maps in self._maps.values() for name, one in maps.items()]
        self._signed = {name for name, one in every if (one < 0).any()}
        self.names = list(dict.fromkeys([ENTROPY, *(name for name, _ in every)]))

    def find(
        self, network: str, method: str, sample: str, coarsening: int
    ) -> tuple[Floats | None, tuple[float, float]]:
        """Find a map, None if there is none, and its scale, the same for all samples.

        It is symmetric, or begins at zero where no map of the method is negative anywhere.
        """
        maps, signed = self._maps.get(network, {}).get(method), method in self._signed
        if maps is None or sample not in maps["sample"]:
            return None, (-1.0 if signed else 0.0, 1.0)
        last = maps.isel(epoch=-1)
        valid = self._samples["valid"].sel(sample=last["sample"]).values
        known = np.abs(last.values[valid & np.isfinite(last.values)])
        end = (float(np.quantile(known, 0.99)) if known.any() else 0.0) or 1.0
        values = self._kind.merge(self._samples, last.sel(sample=sample).values, coarsening)
        return values, (-end if signed else 0.0, end)
