"""Which points lie near which: nearest neighbours, balls, far-apart centres and density, all in blocks.

Distances are computed a block of queries at a time, at most `BLOCK` of them (or those of one query to each
cloud), so that memory does not grow with the square of the number of points. Choosing neighbours is a step
function of the coordinates: the indices carry no gradient, the values gathered by them do.

None of the choices depends on the order of the points, up to exact ties between points at different places:
there, which one is taken is arbitrary. Points at the same place are interchangeable.

Symbols: ``B`` clouds, ``n`` points, ``m`` queries, ``k`` neighbours, ``K`` numbers per point.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BLOCK = 2**22
"""Distances held at a time (16 MiB in float32)."""

_EXACT = 8  # numbers per point up to which differences cost no more than the sorting that follows


def _split(queries: Tensor, points: Tensor) -> Iterable[Tensor]:
    """Cut queries ``(B, m, K)`` into blocks ``(B, rows, K)``."""
    return queries.split(max(1, BLOCK // (len(points) * points.shape[1])), dim=1)


def _distances(block: Tensor, points: Tensor) -> Tensor:
    """Distances ``(B, rows, n)`` of a block of queries.

    Of coordinates as norms of differences, hence the same bits in any block and order; of features by matrix
    products, which are 20 times as fast and lose about half of the digits of small distances.
    """
    mode = "donot_use_mm" if points.shape[-1] <= _EXACT else "use_mm"
    return torch.cdist(block, points, compute_mode=f"{mode}_for_euclid_dist")


@torch.no_grad()
def find_nearest(queries: Tensor, points: Tensor, count: int, radius: float = math.inf) -> Tensor:
    """Find the points nearest to each query and at most `radius` away: indices ``(B, m, k)``, nearest first.

    ``k`` is `count`, or ``n`` where there are fewer points. A query that is itself a point is among them.
    Where a ball of that radius holds fewer, the nearest point stands in for the missing ones, as it does
    where the ball is empty. Taking the nearest rather than the first in order, where a ball holds more, is
    what keeps the result free of the order of the points.
    """
    count, blocks = min(count, points.shape[1]), []
    for block in _split(queries, points):
        distance, index = _distances(block, points).topk(count, largest=False)
        blocks.append(torch.where(distance <= radius, index, index[..., :1]))
    return torch.cat(blocks, dim=1)


@torch.no_grad()
def find_centres(points: Tensor, count: int) -> Tensor:
    """Find far-apart points, indices ``(B, m)``: each is the farthest from those before it.

    The first is the farthest from the mean of all points. ``m`` is `count`, or ``n`` where there are fewer
    points. Where there are fewer different places, the first centre fills the rest.
    """
    first = (points - points.mean(1, keepdim=True)).square().sum(-1).argmax(1)
    clouds = torch.arange(len(points), device=points.device)
    gap = torch.full(points.shape[:2], torch.inf, dtype=points.dtype, device=points.device)
    chosen = [first]
    for _ in range(min(count, points.shape[1]) - 1):
        newest = points[clouds, chosen[-1]].unsqueeze(1)
        gap = torch.minimum(gap, (points - newest).square().sum(-1))
        width, farthest = gap.max(1)
        chosen.append(torch.where(width > 0, farthest, first))
    return torch.stack(chosen, dim=1)


def gather(values: Tensor, indices: Tensor) -> Tensor:
    """Take from ``(B, n, K)`` the rows of indices ``(B, ...)``; the shape is ``(B, ..., K)``."""
    flat = indices.flatten(1).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).unflatten(1, indices.shape[1:])


def estimate_density(points: Tensor, bandwidth: float) -> Tensor:
    """Density ``(B, n)`` at each point: the mean of a Gaussian of that bandwidth around every point.

    The Gaussian is 1 at its centre. The backward pass makes the distances anew, in blocks, too.
    """

    def look_from(block: Tensor) -> Tensor:
        return torch.exp(-(_distances(block, points) / bandwidth).square() / 2).mean(-1)

    blocks = [checkpoint(look_from, block, use_reentrant=False) for block in _split(points, points)]
    return torch.cat(blocks, dim=1)
