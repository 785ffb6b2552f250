"""Three peers' procedures for the same entropy, written from descriptions of their code and nothing of kdviz.

Each searches noise scales that move a feature little and are large, from one noise draw a step:

:func:`search_words`
    Guan et al., ICML 2019, as published in ``nlp-recipes`` (5,000 steps); with other defaults the explainer
    of ``interpret-text`` (150 steps).
:func:`search_points`
    Shen et al., CVPR 2021, for point clouds (2,000 steps).

Several seeds run side by side, each with draws and a result of its own: Adam and the losses treat them
apart, so this is the same as one after the other. A pass is one forward or one backward of one sample up to
the layer.

Symbols: ``S`` seeds, ``T`` words, ``K`` entries of an embedding, ``B`` clouds, ``n`` points, ``D`` features.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RATE_OF_ENTROPY = 0.1  # of both text procedures
STEPS, STEPS_SHORT, STEPS_POINTS = 5000, 150, 2000
SCALE_SHORT = 0.5  # largest sigma of interpret-text
START, LARGEST, BASE_NOISE = 0.03, 0.08, 0.007  # of the cloud procedure
WANTED, LEAST = 2.0, 0.5  # feature loss
WEIGHT_OF_ALL = 0.004 * 1024  # a point's weight times the points
DECAY, CLOUDS_A_DECAY = 0.7, 40_000

Phi = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Search:
    """What a search keeps.

    Attributes
    ----------
    noise_scale
        Standard deviations, ``(S, T)`` or ``(S, B, n)``.
    loss
        ``(S,)``: the noisy loss for which they were kept.
    step
        ``(S,)``: where that was.
    passes
        Spent for one seed, and one cloud.
    """

    noise_scale: Tensor
    loss: Tensor
    step: Tensor
    passes: int


def find_spread(features: Sequence[Tensor]) -> Tensor:
    """Return the standard deviation of every feature entry over sampled inputs, the text normaliser.

    Where features have an axis of words, ``(1, T, D)``, its mean stands for a sentence, because sentences
    differ in length. Each is to be run at its own length: the padding that ``interpret-text`` lets in is a
    fault of its own. Needed once for a network and layer, so these passes belong to no sentence.
    """
    rows = [feature[0].mean(0) if feature.ndim == 3 else feature[0] for feature in features]
    return torch.stack(rows).std(0, correction=0)


def search_words(
    phi: Phi,
    embeddings: Tensor,
    *,
    spread: Tensor,
    scale: float,
    seeds: Sequence[int],
    steps: int = STEPS,
    rate: float = 0.01,
) -> Search:
    """Search ``sigma = scale sigmoid(r)``, one for every word, from ``r ~ N(0, 1)``.

    Adam on ``mean((dPhi / spread)^2) - 0.1 mean(log sigmoid(r))``, the mean over all feature entries; the
    clean feature is run anew in every step, as they do. Kept are the scales that gave the lowest noisy loss:
    the description leaves open whether those before or after that step's update.

    Parameters
    ----------
    phi
        ``(S, T, K)`` to features ``(S, ...)``.
    embeddings
        One sentence, ``(T, K)``.
    spread
        From :func:`find_spread`.
    scale
        Largest sigma: 10 standard deviations of the embeddings are recommended, ``interpret-text`` takes 0.5.
    seeds
        Of start and draws.
    steps, rate
        5,000 and 0.01 (0.5 in the five-word toy); ``interpret-text`` takes 150 steps.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    logit = _draw(generators, embeddings.shape[:1]).requires_grad_(True)
    adam = torch.optim.Adam([logit], lr=rate)
    clean_inputs = embeddings.expand(len(seeds), *embeddings.shape)
    best = _Best(logit, passes=0)
    for step in range(steps):
        ratio = logit.sigmoid()
        noise = _draw(generators, embeddings.shape)
        with torch.no_grad():
            clean = phi(clean_inputs)
        change = (phi(embeddings + scale * ratio[..., None] * noise) - clean) / spread
        loss = change.square().flatten(1).mean(1) - RATE_OF_ENTROPY * ratio.log().mean(1)
        best.offer(scale * ratio, loss.detach(), loss.detach(), step)
        adam.zero_grad()
        loss.sum().backward()
        best.passes += 3
        adam.step()
    return best.result()


def settle_words(
    phi: Phi, embeddings: Tensor, *, spread: Tensor, scale: float, draws: int = 32, steps: int = 600
) -> Tensor:
    """Find the minimum that :func:`search_words` aims at: same loss, many draws, a falling rate; ``(T,)``.

    It starts from equal scales that have the minimum's feature loss if the network is linear.
    """
    generator = torch.Generator().manual_seed(0)

    def feature_loss(sigma: Tensor) -> Tensor:
        noise = torch.randn(draws, *embeddings.shape, generator=generator)
        return ((phi(embeddings + sigma[:, None] * noise) - clean) / spread).square().mean()

    with torch.no_grad():
        clean = phi(embeddings[None])
        little = torch.full((len(embeddings),), scale / 1000)
        start = little * (RATE_OF_ENTROPY / 2 / feature_loss(little)).sqrt()
    log_sigma = start.clamp(max=scale / 2).log().requires_grad_(True)
    for _ in _falling(log_sigma, steps):
        loss = feature_loss(log_sigma.exp().clamp(max=scale)) - RATE_OF_ENTROPY * log_sigma.mean()
        loss.backward()
    return log_sigma.detach().exp().clamp(max=scale)


def find_variance(phi: Phi, clouds: Tensor, *, seed: int = 0, passes: int = 20) -> tuple[float, int]:
    """Return the mean of ``|df|^2`` at sigma 0.007, the cloud normaliser, and the passes of one cloud.

    Over all clouds and 20 draws of each.
    """
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    with torch.no_grad():
        clean = phi(clouds).flatten(1)
        for _ in range(passes):
            noisy = clouds + BASE_NOISE * torch.randn(clouds.shape, generator=generator)
            total += float((phi(noisy).flatten(1) - clean).square().sum(1).mean()) / passes
    return total, passes + 1


def search_points(
    phi: Phi,
    clouds: Tensor,
    *,
    variance: float,
    seeds: Sequence[int],
    weight: float | None = None,
    steps: int = STEPS_POINTS,
    rate: float = 5e-4,
) -> Search:
    """Search one sigma for every point, all clouds of a batch together, from 0.03.

    Adam on ``|df|^2 / variance - weight sum(log |sigma|)``, both meant over the clouds, one draw a cloud and
    step; sigma is clipped to +-0.08 wherever it is used. Kept is the step at which the noisy feature loss of
    the batch is nearest 2, steps below 0.5 left out. Open in the description, and chosen: the clean
    feature is run once; the rate decays by 0.7 for every 40,000 clouds seen, so not before the end of a
    batch of 16; sigma is left free beyond the clip, where its gradient is zero.

    Parameters
    ----------
    phi
        ``(S * B, n, 3)`` to features ``(S * B, D)``.
    clouds
        ``(B, n, 3)``.
    variance
        From :func:`find_variance`.
    seeds
        Of the draws.
    weight
        Of the sum over points; by default 4.1 / n, which is their 0.004 at 1,024 points.
    steps, rate
        2,000, and 1e-4 to 5e-4.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    weight = WEIGHT_OF_ALL / clouds.shape[1] if weight is None else weight
    free = torch.full((len(seeds), *clouds.shape[:2]), START, requires_grad=True)
    adam = torch.optim.Adam([free], lr=rate)
    decay_every = max(1, CLOUDS_A_DECAY // len(clouds))
    schedule = torch.optim.lr_scheduler.StepLR(adam, decay_every, DECAY)
    with torch.no_grad():
        clean = phi(clouds).flatten(1)
    best = _Best(free, passes=1)
    for step in range(steps):
        sigma = free.clamp(-LARGEST, LARGEST)
        noisy = clouds + sigma[..., None] * _draw(generators, clouds.shape)
        features = phi(noisy.flatten(0, 1)).flatten(1).unflatten(0, sigma.shape[:2])
        feature_loss = (features - clean).square().sum(2).mean(1) / variance
        loss = feature_loss - weight * sigma.abs().log().sum(2).mean(1)
        found = feature_loss.detach()
        distance = torch.where(found >= LEAST, (found - WANTED).abs(), torch.inf)
        best.offer(sigma.abs(), distance, found, step)
        adam.zero_grad()
        loss.sum().backward()
        best.passes += 2
        adam.step()
        schedule.step()
    return best.result()


def settle_points(phi: Phi, clouds: Tensor, *, variance: float, draws: int = 8, steps: int = 600) -> Tensor:
    """Find the minimum that :func:`search_points` aims at, ``(B, n)``, as :func:`settle_words` does."""
    generator = torch.Generator().manual_seed(0)
    log_sigma = torch.full(clouds.shape[:2], math.log(START), requires_grad=True)
    weight = WEIGHT_OF_ALL / clouds.shape[1]
    with torch.no_grad():
        clean = phi(clouds).flatten(1)
    for _ in _falling(log_sigma, steps):
        sigma = log_sigma.exp().clamp(max=LARGEST)
        noisy = clouds + sigma[..., None] * torch.randn(draws, *clouds.shape, generator=generator)
        features = phi(noisy.flatten(0, 1)).flatten(1).unflatten(0, (draws, len(clouds)))
        losses = (features - clean).square().sum(2).mean(0) / variance - weight * sigma.log().sum(1)
        losses.sum().backward()
    return log_sigma.detach().exp().clamp(max=LARGEST)


def _falling(parameter: Tensor, steps: int) -> Iterator[int]:
    """Step Adam after every turn of a loop, its rate falling from 0.1 to 0."""
    adam = torch.optim.Adam([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(steps):
        adam.zero_grad()
        yield step
        adam.step()
        schedule.step()


def _draw(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


class _Best:
    """The scales of least badness so far, seed by seed."""

    def __init__(self, like: Tensor, *, passes: int) -> None:
        self.noise_scale = torch.full(like.shape, torch.nan)
        self.badness = torch.full((len(like),), torch.inf)
        self.loss = torch.full((len(like),), torch.nan)
        self.step = torch.zeros(len(like), dtype=torch.long)
        self.passes = passes

    def offer(self, noise_scale: Tensor, badness: Tensor, loss: Tensor, step: int) -> None:
        better = badness < self.badness
        self.noise_scale[better] = noise_scale.detach()[better]
        self.badness[better], self.loss[better], self.step[better] = badness[better], loss[better], step

    def result(self) -> Search:
        return Search(self.noise_scale, self.loss, self.step, self.passes)
