"""Images of which only what a network finds relevant is left: the rest is imputed from around it (ROAD).

Symbols: ``B`` samples, ``C, H, W`` channels, height and width of an image.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kdviz.attribution.maps import Place, read_gradient
from kdviz.networks.features import Batch, main_of, put_main
from kdviz.transfer.question import generator_of

NOISE = 0.01  # on what is imputed, in the numbers that networks are fed


def perturb(
    network: nn.Module,
    batch: Batch,
    labels: Tensor,
    place: Place,
    *,
    images: str | None,
    kept: float,
    seed: int,
    rows: Sequence[int],
) -> Batch:
    """Keep of every image the share of pixels that a network finds most relevant; impute the rest.

    Relevance is HiResCAM [2]_ of the probability of the labelled class: the sum over channels of a layer
    times its slope, here that of the probability's logarithm, which orders pixels the same and does not
    vanish where the network is sure. Ties are settled at random.

    Parameters
    ----------
    network, batch, labels
        A frozen network, its inputs and their classes ``(B,)``, on its device.
    place
        Layer whose map is taken.
    images
        Name of the images of `batch`.
    kept
        Share of pixels, the percentile of [1]_ over 100; at least one pixel is kept.
    seed, rows
        Of the noise, which is another one for every row.

    References
    ----------
    .. [1] Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022,
       section 4 (noisy linear imputation); so used by UniCAM (Adhane et al., WACV 2025), but for its last
       step, which makes 8-bit pictures of little contrast and is left out.
    .. [2] Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations", 2020, Eq. (4).
    """
    both = read_gradient(network, batch, labels, place.layer, partial(torch.log_softmax, dim=1))
    seen, slope = (place.layout.turn(one.detach()) for one in both)
    pictures = main_of(batch, images)
    maps = (seen * slope).sum(1, keepdim=True)
    relevance = interpolate(maps, size=pictures.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    changed = torch.empty_like(pictures)
    for at, (picture, own, row) in enumerate(zip(pictures.cpu(), relevance.cpu(), rows, strict=True)):
        generator = generator_of(seed, row)
        chance = torch.rand(own.shape, generator=generator).numpy().ravel()
        order = np.lexsort((chance, -own.numpy().ravel()))
        removed = np.ones(own.shape, bool)
        removed.ravel()[order[: max(1, round(kept * own.numel()))]] = False
        imputed = torch.from_numpy(impute(picture.double().numpy(), removed))
        noise = NOISE * torch.randn(imputed.shape, generator=generator, dtype=torch.float64)
        changed[at] = torch.where(torch.from_numpy(removed), imputed + noise, imputed)
    return put_main(batch, images, changed)


def impute(image: NDArray[np.float64], removed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Replace pixels such that each is the weighted mean of its eight neighbours.

    Direct neighbours weigh 1/6, diagonal ones 1/12; at a border the others weigh more.

    Parameters
    ----------
    image
        ``(C, H, W)``.
    removed
        ``(H, W)``, at least one pixel is not.

    References
    ----------
    .. [1] Rong et al., ICML 2022, section 4.
    """
    unknown, known = np.flatnonzero(removed), np.flatnonzero(~removed)
    if not len(unknown):
        return image
    weights = _weigh_neighbours(*removed.shape)[unknown]
    values = image.reshape(len(image), -1).T.copy()
    system = sparse.eye_array(len(unknown)) - weights[:, unknown]
    values[unknown] = splu(system.tocsc()).solve(weights[:, known] @ values[known])
    return values.T.reshape(image.shape)


def _weigh_neighbours(rows: int, cols: int) -> sparse.csr_array:
    """Return the weights of the neighbours of every pixel, ``(H * W, H * W)``, each row of sum 1."""
    down, right = (
        sparse.diags_array([np.ones(size - 1)] * 2, offsets=[-1, 1], shape=(size, size))
        for size in (rows, cols)
    )
    direct = sparse.kron(down, sparse.eye_array(cols)) + sparse.kron(sparse.eye_array(rows), right)
    weights = (direct / 6 + sparse.kron(down, right) / 12).tocsr()
    return sparse.diags_array(1 / weights.sum(1)).tocsr() @ weights
