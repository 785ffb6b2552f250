"""Point cloud networks of the source papers, at any width and class count, and one small PointNet.

Every network takes clouds ``(B, n, 3)``, points first and xyz last, and gives the same logits for any order
of the points. Its head is ``fc1``, ``fc2``, ``fc3``. This package knows nothing of data or training.

Symbols: ``B`` clouds, ``n`` points, ``C`` classes.
"""

from collections.abc import Callable

import torch

from kdviz.architectures import CLOUD_PRESETS as PRESETS
from kdviz.models.building import check_arguments, draw_weights, set_dropout
from kdviz.models.cloud.dgcnn import DGCNN
from kdviz.models.cloud.layers import CloudNetwork
from kdviz.models.cloud.levels import PointConv, PointNet2
from kdviz.models.cloud.pointnet import Alignment, PointNet, SmallPointNet

__all__ = ["PRESETS", "build"]

_NETWORKS: dict[str, Callable[[int, float], CloudNetwork]] = {
    "dgcnn": DGCNN,
    "pointconv": PointConv,
    "pointnet": PointNet,
    "pointnet2": PointNet2,
    "small_pointnet": SmallPointNet,
}


def build(
    name: str,
    *,
    classes: int,
    width: float = 1.0,
    seed: int = 0,
    dropout: float | None = None,
    device: str | torch.device = "cpu",
) -> CloudNetwork:
    """Make an untrained point cloud network.

    Parameters
    ----------
    name
        One of `PRESETS`.
    classes
        Number of logits ``C``, at least 1.
    width
        Factor on the number of channels and hidden units of every layer, rounded, at least 1 each. Numbers of
        centres and neighbours stay.
    seed
        Same seed, same weights; no global random state is read or changed.
    dropout
        Probability after ``fc1`` and ``fc2``; ``None`` keeps the architecture's own (PointNet 0 and 0.3,
        PointNet++ and DGCNN 0.5, PointConv 0.4, ``small_pointnet`` 0).
    device
        Where the weights live. ``"meta"`` gives shapes without values or cost.

    Returns
    -------
    CloudNetwork
        In train mode, float32, taking ``(B, n, 3)``, giving ``(B, C)``. No layer works in place, so that any
        layer can be read. ``PRESETS[name].layers`` names the papers' layers; those modules hold their batch
        normalisation, so their output is what meets the activation.

    Raises
    ------
    ValueError
        If `name` is unknown or a number is out of range. The network itself raises for a tensor of another
        shape or clouds of too few points (PointNet++ and PointConv need 512).

    Notes
    -----
    Where batch normalisation follows, layers have no bias, which it would cancel. Weights start
    Kaiming-normal (fan-in), biases at 0, PointNet's alignments as the identity.

    In train mode, a batch needs two clouds, and one of only a few spoils the running statistics that eval
    mode uses: choose a batch size that leaves no small rest.

    Neighbours and centres are chosen by distance, without gradient, and in blocks of bounded memory. Where
    points at different places are equally far, which one is chosen is arbitrary.

    Examples
    --------
    >>> network = build("small_pointnet", classes=10)
    >>> tuple(network(torch.zeros(2, 1024, 3)).shape)
    (2, 10)
    """
    check_arguments(name, PRESETS, width=width, dropout=dropout, classes=classes)
    with torch.device("meta"):
        network = _NETWORKS[name](classes, width)
    set_dropout(network, dropout)
    if torch.device(device).type != "meta":
        draw_weights(network, seed)
        for module in network.modules():
            if isinstance(module, Alignment):
                module.start_at_identity()
    return network.to(device)
