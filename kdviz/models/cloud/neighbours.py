"""Which points lie near which: nearest neighbours, balls, far-apart centres and density, all in blocks.

Distances are computed a block of queries at a time, at most `BLOCK` of them (or those of one query to each
cloud), so that memory does not grow with the square of the number of points. Choosing neighbours is a step
function of the coordinates: the indices carry no gradient, the values gathered by them do.

None of the choices depends on the order of the points, up to exact ties between points at different places:
there, which one is taken is arbitrary. Points at the same place are interchangeable.

Symbols: ``B`` clouds, ``n`` points, ``m`` queries, ``k`` neighbours, ``K`` numbers per point.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**22
"""Distances held at a time (16 MiB in float32)."""

_EXACT = 8  # numbers per point up to which differences cost no more than the sorting that follows


def _distances(queries: Tensor, points: Tensor) -> Iterator[Tensor]:
    """Yield distances ``(B, rows, n)``, block after block of the queries ``(B, m, K)``.

    Of coordinates as norms of differences, hence the same bits in any block and order; of features by matrix
    products, which are 20 times as fast and lose about half of the digits of small distances.
    """
    mode = "donot_use_mm" if points.shape[-1] <= _EXACT else "use_mm"
    rows = max(1, BLOCK // (len(points) * points.shape[1]))
    for block in queries.split(rows, dim=1):
        yield torch.cdist(block, points, compute_mode=f"{mode}_for_euclid_dist")


@torch.no_grad()
def find_nearest(queries: Tensor, points: Tensor, count: int) -> Tensor:
    """Give the indices ``(B, m, k)`` of the points nearest to each query, the nearest first.

    ``k`` is `count`, or ``n`` where there are fewer points. A query that is itself a point is among them.
    """
    count = min(count, points.shape[1])
    blocks = [block.topk(count, largest=False).indices for block in _distances(queries, points)]
    return torch.cat(blocks, dim=1)


@torch.no_grad()
def find_in_ball(queries: Tensor, points: Tensor, radius: float, count: int) -> Tensor:
    """Give the indices ``(B, m, k)`` of the points nearest to each query and at most `radius` away.

    Where a ball holds fewer than ``k = min(count, n)``, the nearest point stands in for the missing ones, as
    it does where the ball is empty. Taking the nearest rather than the first in order, where a ball
    holds more, is what keeps the result free of the order of the points.
    """
    count, blocks = min(count, points.shape[1]), []
    for block in _distances(queries, points):
        distance, index = block.topk(count, largest=False)
        blocks.append(torch.where(distance <= radius, index, index[..., :1]))
    return torch.cat(blocks, dim=1)


@torch.no_grad()
def find_centres(points: Tensor, count: int) -> Tensor:
    """Give the indices ``(B, m)`` of far-apart points: each is the farthest from those before it.

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
    """Give the density ``(B, n)`` at each point: the mean of a Gaussian of that bandwidth around every point.

    The Gaussian is 1 at its centre. Differentiable once; the backward pass works in blocks, too.
    """
    return _Density.apply(points, bandwidth)


class _Density(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(points)
        ctx.bandwidth = bandwidth
        blocks = [_kernel(block, bandwidth).mean(-1) for block in _distances(points, points)]
        return torch.cat(blocks, dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (points,) = ctx.saved_tensors
        slopes, start = [], 0
        for block in _distances(points, points):
            rows = slice(start, start + block.shape[1])
            # a pair of points counts in the density of both, hence the sum of both gradients
            pull = _kernel(block, ctx.bandwidth) * (gradient[:, rows, None] + gradient[:, None])
            slopes.append(pull @ points - pull.sum(-1, keepdim=True) * points[:, rows])
            start = rows.stop
        return torch.cat(slopes, dim=1) / (points.shape[1] * ctx.bandwidth**2), None


def _kernel(distance: Tensor, bandwidth: float) -> Tensor:
    return torch.exp(-(distance / bandwidth).square() / 2)
