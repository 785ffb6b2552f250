"""Open a stored run and count its knowledge points where no torch is installed.

Run as ``python tests/view_without_torch.py RUN SOLVER THRESHOLD`` in an environment that has what
``kdviz[view]`` asks for and nothing else; `tests/whole/test_packaging.py` builds one, CI installs one.
"""

import sys
from importlib.util import find_spec

import kdviz


def view(path: str, solver: str, threshold: float) -> None:
    """Print, for every measured layer, the knowledge points a sample at the first and the last epoch."""
    run = kdviz.open_run(path)
    for network, layer in run.summary()[["network", "layer"]].itertuples(index=False):
        entropies = kdviz.derive_entropy(run.dataset(network, layer), solver=solver)
        counts = kdviz.count_points(kdviz.find_points(entropies, threshold=threshold))
        first, last = (counts["n_fg_mean"] + counts["n_bg_mean"]).values[[0, -1]]
        print(f"{network} {layer}: {first:.2f} -> {last:.2f} knowledge points a sample")


if __name__ == "__main__":
    if find_spec("torch"):
        sys.exit("torch is installed here, so this would prove nothing")
    view(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    if "torch" in sys.modules:
        sys.exit("viewing loaded torch")
