"""How networks are fooled: attacks made against one network and shown to all.

The attacks are a few lines of their own. captum's ``robust.PGD`` takes gradients below 1e-6 for zero, which
spares the samples of which a network is most certain; it draws its random start for a whole batch, so that
`max_batch` would change it, and it may leave its budget by a rounding. Otherwise the two agree.

Symbols: ``A`` attacked networks, ``M`` networks, ``B`` samples.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, Unpack

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kdviz.arguments import finite_number, one_of, whole_number
from kdviz.networks.features import Batch, answer, main_of, put_main
from kdviz.networks.reading import InputsLike
from kdviz.transfer.pixels import Pixels, check_pixels, find_images
from kdviz.transfer.question import Options, ask, beside, generator_of

ATTACKS = ("fgsm", "pgd")


def adversarial(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    attack: Literal["fgsm", "pgd"] = "fgsm",
    epsilon: float = 4 / 255,
    step: float | None = None,
    steps: int = 5,
    attacked: str | Sequence[str] | None = None,
    pixels: Pixels | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Attack some networks, and tell whom else the images that fool them fool [1]_.

    Every step adds `step` times the sign of the gradient of the cross-entropy with the label, and goes back
    into the budget: at most `epsilon` from the image in every pixel, and pixels of 0 to 1 [2]_.

    Parameters
    ----------
    networks, inputs, labels, **options
        As for :func:`kdviz.transfer.ask`; inputs are images.
    attack
        ``"fgsm"`` starts at the image [2]_; ``"pgd"`` at a random point of the budget, the same for all
        attacked networks [3]_.
    epsilon, step
        In pixels of 0..1, whatever the normalisation. A step is by default ``2.5 * epsilon / steps`` [3]_, by
        which every point of the budget can be reached from any other. The default budget fools the built-in
        teacher on 0.83 of the held-out images, as those of [1]_ are fooled; a larger one hardly more: images
        that a network gets wrong are made more wrong, and seldom another class.
    steps
        Number of steps.
    attacked
        Name or names of the networks to attack. The teacher always is; by default also the independent
        networks: what they are fooled by says how much any network shares with any other.
    pixels
        How inputs are normalised; must be said.
    seed
        Of random starts, drawn sample by sample.

    Returns
    -------
    Dataset
        ``fooled`` ``(attacked, network, sample)``: 1 where an image made against one network changes the
        class that another gives, 0 where it does not, NaN where it leaves the class that the attacked network
        itself gives: only images that fool it count. ``fooled_by_teacher`` ``(network, sample)``, the
        headline, is that of the teacher's. Of a network that no image fools all is NaN, and the attribute
        ``note`` says so. What was chosen, such as `epsilon`, are attributes.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As :func:`kdviz.transfer.ask`; if inputs are no images or normalised otherwise, `pixels` is not said,
        an option is not as said, or no gradient reaches the inputs of an attacked network.

    Notes
    -----
    Rounding never exceeds the budget: the largest and least pixels are rounded towards the image. The
    gradient of the cross-entropy is ``1 - p`` times that of its margin, the log-sum-exp of the other logits
    less the label's. The sign of the latter is taken, which certainty does not round to 0.

    References
    ----------
    .. [1] Ojha et al., "What Knowledge Gets Distilled in Knowledge Distillation?", NeurIPS 2023, section 4.2
       and appendix 10: five steps; its budget is not printed.
    .. [2] Kurakin et al., "Adversarial examples in the physical world", ICLR workshop 2017, section 2.2.
    .. [3] Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.
    """
    one_of("attack", attack, ATTACKS)
    epsilon, steps = finite_number("epsilon", epsilon, 0.0), whole_number("steps", steps, 1)
    step = 2.5 * epsilon / steps if step is None else finite_number("step", step, 0.0)
    seed = whole_number("seed", seed)
    question = ask(networks, inputs, labels, **options)
    others = question.independent if attacked is None else attacked
    victims = tuple(dict.fromkeys((question.teacher, *((others,) if isinstance(others, str) else others))))
    for name in victims:
        one_of("attacked", name, question.networks)
    at = [list(question.networks).index(name) for name in victims]
    first, _ = question.source.read([0])
    main = find_images(first, "adversarial")
    cut = check_pixels(pixels, "adversarial")
    cut.read(main_of(first, main))

    def look(batch: Batch, classes: Tensor, rows: Sequence[int]) -> dict[str, NDArray]:
        def feed(images: Tensor) -> Batch:
            return put_main(batch, main, cut.write(images))

        clean = cut.read(main_of(batch, main))
        start = clean
        if attack == "pgd":
            draws = [torch.rand(clean.shape[1:], generator=generator_of(seed, row)) for row in rows]
            start = clean + epsilon * (2 * torch.stack(draws).to(clean.dtype) - 1)
        known = question.predict(feed(clean))
        fooled = np.full((len(victims), *known.shape), np.nan)
        for name, own, found in zip(victims, at, fooled, strict=True):
            climb = partial(_find_gradient, name, question.networks[name], feed, classes)
            changed = question.predict(feed(_climb(clean, start, climb, epsilon, step, steps))) != known
            found[:, changed[own]] = changed[:, changed[own]]
        return {"fooled": fooled, "fooled_by_teacher": fooled[0]}

    values = question.walk(look, "adversarial")
    safe = [name for name, found in zip(victims, values["fooled"], strict=True) if np.isnan(found).all()]
    note = f"the attack changes no class that {', '.join(safe)} gives" if safe else ""
    chosen = {"attack": attack, "epsilon": epsilon, "step": step, "steps": steps, "seed": seed}
    return question.build(
        "adversarial", "fooled_by_teacher", values, {"attacked": list(victims)}, note, **chosen
    )


def _find_gradient(
    name: str, network: nn.Module, feed: Callable[[Tensor], Batch], classes: Tensor, images: Tensor
) -> Tensor:
    """Return, up to a positive factor, the gradient of the loss in the pixels; the network must be frozen."""
    watched = images.clone().requires_grad_(True)
    logits = answer(network, beside(feed(watched), network)).cpu()
    if not logits.requires_grad:
        raise ValueError(f"no gradient reaches the inputs of network {name!r}, so that it cannot be attacked")
    own = classes[:, None]
    margin = logits.scatter(1, own, -torch.inf).logsumexp(1) - logits.gather(1, own)[:, 0]
    return torch.autograd.grad(margin.sum(), watched)[0]


def _climb(
    clean: Tensor,
    start: Tensor,
    find_gradient: Callable[[Tensor], Tensor],
    epsilon: float,
    step: float,
    steps: int,
) -> Tensor:
    """Go up the signs of gradients, inside the budget around clean images."""
    low, high = (
        _round_inwards(clean, (clean.double() + way * epsilon).clamp(0, 1), epsilon) for way in (-1, 1)
    )
    images = start.clamp(low, high)
    for _ in range(steps):
        images = (images + step * find_gradient(images).sign()).clamp(low, high)
    return images


def _round_inwards(clean: Tensor, ends: Tensor, epsilon: float) -> Tensor:
    """Round ends of a budget to the precision of images, towards these where they would lie outside."""
    near = ends.to(clean.dtype)
    outside = (near.double() - clean.double()).abs() > epsilon
    return torch.where(outside, torch.nextafter(near, clean), near)
