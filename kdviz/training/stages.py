"""Train a network on labels, from a teacher by any loss, or its head alone: one path for all.

The papers make a student in two stages, so that everything it knows up to the distilled layer comes from the
teacher: first `train` by :class:`kdviz.distillation.Features` matches that one layer, then by
``CrossEntropy(beyond=layer)`` it trains what lies beyond it on the labels. The epochs to measure are those of
the first stage; the second gives the accuracy.

Symbols: ``N`` samples, ``B`` samples of a batch, ``C`` classes, ``T`` tokens of a text.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from kdviz.distillation import LOGITS, CrossEntropy, Loss, Outputs, as_loss
from kdviz.networks import device_of, fingerprint_tensors, frozen
from kdviz.networks.features import same_random_state
from kdviz.training.distances import Odometer
from kdviz.training.dividing import cut, divide
from kdviz.training.fitting import Task, draws_seeded, fit
from kdviz.training.plans import TrainingPlan
from kdviz.training.reading import Read, apply, reader, recall
from kdviz.training.records import TrainingRecord


def train(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor | None = None,
    *,
    loss: Loss | Callable[..., Tensor] | None = None,
    teacher: nn.Module | None = None,
    folder: str | Path,
    plan: TrainingPlan,
    tracked_layers: Sequence[str] = (),
    validation: tuple[Tensor, Tensor] | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    name: str | None = None,
) -> TrainingRecord:
    """Train a network: a teacher or baseline on labels, a student from a teacher, or a head alone.

    A training that diverges or dies is thrown away and begins anew at 0.3, 0.09 and at last 0.027 times the
    rates of `plan`. It is seen after an epoch: loss or weights are not finite; half of the epoch's batches
    have more than twice the loss of the untrained network; or, of a whole network that learns from labels
    alone, the mean loss stays within 1 % of that of the best guess that looks at no input (the entropy of the
    labels), or above, for half of all epochs, five at least. What is left is, to the bit, what the lower
    rates alone would have led to, and ``setbacks`` of the record tells what was thrown away.

    Parameters
    ----------
    network
        Ends with the weights of the last epoch; what the loss does not train keeps every bit. Its modes, and
        on error its weights, are restored.
    inputs
        Shape ``(N, ...)``, float32, normalised; ``(N, 3, H, W)`` where `plan` augments.
    labels
        Shape ``(N,)``, int64, classes from 0; or ``(N, 2)``, first and last token of an answer, where the
        network gives logits ``(B, T, 2)`` (:class:`kdviz.models.SpanNetwork`); for a loss that uses them.
    loss
        `CrossEntropy` by default; such as :class:`kdviz.distillation.Features`; or a function
        ``(student, teacher, labels, rows)`` that reads ``student.logits`` and ``teacher.logits``, ``(B, C)``,
        and returns the mean over the batch. Its parts end with the state of the last epoch; to resume, build
        the loss again as it was.
    teacher
        For a loss that asks for one, which is named with it. Left unchanged, used in eval mode.
    folder
        Of this run alone. If a run with equal arguments was interrupted there, it continues; if it was
        finished, its result is returned at once.
    plan
        Runs with the same seed see the same batches in the same order.
    tracked_layers
        Layers whose weight movement is recorded.
    validation
        Held-out inputs and labels, evaluated after every epoch.
    device
        Where to train; networks are back where they were afterwards. None: where `network` is. Data is moved
        batch by batch.
    progress
        Show a progress bar.
    name
        Of the network in what is told of it; the name of `folder` by default.

    Returns
    -------
    TrainingRecord
        ``history`` has the column ``loss``; ``accuracy`` where there are labels and the loss reads the
        logits (both over the epoch's batches, in train mode); and ``validation_accuracy`` if asked for.

    Raises
    ------
    ValueError, TypeError
        If inputs, labels or networks do not fit each other or the loss, which is tried on a first batch
        before any work.
    LayerError
        If a layer is unknown, a tracked one has no weight, or nothing is left to train.
    StoreError
        If `folder` belongs to another run.
    FloatingPointError
        If it diverges or dies at all rates, and inputs are finite. `folder` is then empty again.

    Warns
    -----
    KdvizWarning
        If the training diverges or dies, and begins anew.

    References
    ----------
    .. [1] Zhang et al., TPAMI 2022, section 4.1, and the authors' published code, ``distillation.py``.
    """
    if loss is None and teacher is not None:
        raise ValueError(
            "a teacher came without the loss by which to learn from it; pass loss=, such as "
            "kdviz.distillation.Features(layer)"
        )
    loss = CrossEntropy() if loss is None else as_loss(loss)
    _check_inputs(inputs, plan)
    if labels is None and loss.needs_labels:
        raise ValueError("this loss needs labels, and there are none")
    if teacher is None and loss.needs_teacher:
        raise ValueError("this loss needs a teacher, and there is none: pass teacher=")
    device = torch.device(device or device_of(network))
    with placed(device, network, teacher):
        if labels is not None:
            _check_labels(inputs, labels, network if LOGITS in loss.layers else None)
        if validation is not None:
            _check_labels(*validation, network)
        read, watch = try_loss(network, inputs, labels, loss=loss, teacher=teacher, plan=plan)
        identity = {
            "loss": loss.describe(),
            "inputs": fingerprint_tensors({"inputs": inputs}),
            "labels": labels if labels is None else fingerprint_tensors({"labels": labels}),
            "teacher": teacher and fingerprint_tensors(teacher.state_dict()),
            "validation": validation and fingerprint_tensors(dict(zip("xy", validation, strict=True))),
        }
        guide = None if teacher is None or watch is None else recall(watch, teacher, inputs, plan)
        trained, resting = divide(network, loss, inputs)
        learner = _read_beyond(network, loss, inputs, plan) or (lambda batch, rows: read(batch))

        def set_mode() -> None:
            network.train()
            for module in resting:
                module.training = False  # not .eval(), which would reach into a container's other parts

        def step(batch: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
            outputs = learner(batch, rows)
            wanted = None if labels is None else labels[rows].to(device)
            value = loss(outputs, guide and guide(batch, rows), wanted, rows.to(device))
            if wanted is None or LOGITS not in outputs:
                return value, None
            return value, right_answers(outputs.logits, wanted).sum()

        validate = None if validation is None else partial(evaluate, network, *validation)
        odometer, parts = Odometer(network, tracked_layers), parts_of(loss)
        beats = isinstance(loss, CrossEntropy) and loss.beyond is None  # a frozen part may know nothing
        task = Task(
            network,
            parts,
            [*trained.values()],
            inputs,
            step,
            set_mode,
            validate,
            odometer,
            _guess(labels) if beats and labels is not None else None,
            identity,
            Path(folder).name if name is None else name,
        )
        with placed(device, parts):
            return fit(task, plan=plan, folder=folder, progress=progress)


def parts_of(loss: Loss) -> nn.Module:
    """Return what a loss trains along; an empty module if that is nothing."""
    return nn.Module() if loss.parts is None else loss.parts


def try_loss(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor | None,
    *,
    loss: Loss,
    teacher: nn.Module | None,
    plan: TrainingPlan,
) -> tuple[Read, Read | None]:
    """Prepare a loss and compute it on a first batch, which changes nothing but makes the loss's parts.

    Returns
    -------
    tuple
        What reads the network for the loss, and what reads the teacher; None if that is not read.

    Raises
    ------
    ValueError
        If the networks do not suit the loss, or it fails, whatever it raises itself.
    LayerError
        If a layer is unknown, or nothing is left to train.
    """
    read = reader(network, loss.layers, inputs)
    layers = loss.layers if loss.teacher_layers is None else loss.teacher_layers
    watch = reader(teacher, layers, inputs) if teacher is not None and len(layers) else None
    device, rows = device_of(network), torch.arange(plan.batch_sizes(len(inputs))[0])
    batch, wanted = inputs[rows].to(device), None if labels is None else labels[rows].to(device)
    trained, _ = divide(network, loss, inputs)
    with same_random_state(network), frozen(network):
        with frozen(network if teacher is None else teacher), torch.no_grad():
            guide, first = watch and watch(batch), watch and watch(batch[:1])
            with draws_seeded(device, plan.seed, epoch=0):
                loss.prepare(read(batch[:1]), first, len(inputs), labels)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        parts = parts_of(loss)
        known = copy.deepcopy(parts.state_dict())
        try:
            with placed(device, parts):
                value = loss(read(batch), guide, wanted, rows.to(device))
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                raise TypeError(f"it must return one number with a gradient, got {value!r}")
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the loss is the user's own code
            about = loss.describe()
            name = about.get("function", about["name"])
            raise ValueError(f"the loss {name} fails on a first batch of {len(rows)}: {error}") from error
        finally:
            parts.load_state_dict(known)
    return read, watch


def evaluate(network: nn.Module, inputs: Tensor, labels: Tensor, *, batch_size: int = 256) -> float:
    """Return the share of right answers, in eval mode; the network is left as it was found.

    Parameters
    ----------
    network
        Gives logits ``(B, C)``, or of spans ``(B, T, 2)``.
    inputs, labels
        Shapes ``(N, ...)`` and ``(N,)``, or of spans ``(N, 2)``: an answer is right if its first and its last
        token are (exact match).
    batch_size
        Samples a forward pass.

    Raises
    ------
    ValueError, TypeError
        If inputs and labels do not fit each other or the network.
    """
    _check_labels(inputs, labels, network)
    logits = apply(reader(network, [LOGITS], inputs), network, inputs, batch_size).logits
    return float(right_answers(logits, labels.cpu()).double().mean())


def right_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Tell which samples are answered right, ``(B,)``, bool: of a span, first and last token must be.

    Parameters
    ----------
    logits, labels
        Shapes ``(B, C)`` and ``(B,)``, or of spans ``(B, T, 2)`` and ``(B, 2)``. First and last token are
        each the likeliest, chosen apart: an answer that ends before it begins is wrong.
    """
    return (logits.argmax(1) == labels).reshape(len(labels), -1).all(1)


def _check_inputs(inputs: Tensor, plan: TrainingPlan) -> None:
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a tensor, got {type(inputs).__name__}")
    if inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError(f"inputs must have a sample axis and at least one other, got {tuple(inputs.shape)}")
    if plan.augment and (inputs.ndim != 4 or not inputs.is_floating_point()):
        raise ValueError(
            f"plan.augment is for images (N, channels, H, W), got {inputs.dtype} {tuple(inputs.shape)}"
        )


def _check_labels(inputs: Tensor, labels: Tensor, network: nn.Module | None) -> None:
    """Refuse labels that do not fit the inputs or, if it is given, the network's logits."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(
            f"labels must be an int64 tensor, got {getattr(labels, 'dtype', type(labels).__name__)}"
        )
    if labels.shape[:1] != inputs.shape[:1] or (labels.ndim != 1 and labels.shape[1:] != (2,)):
        raise ValueError(
            f"labels must have shape ({len(inputs)},) as inputs do, or of spans ({len(inputs)}, 2), "
            f"got {tuple(labels.shape)}"
        )
    if network is None:
        return
    logits = apply(reader(network, [LOGITS], inputs), network, inputs[:1]).logits
    if logits.ndim < 2 or logits.shape[2:] != labels.shape[1:]:
        wanted = "(samples, classes)" if labels.ndim == 1 else "(samples, tokens, 2) for spans"
        raise ValueError(f"the network must give logits {wanted}, got {tuple(logits.shape)}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels must lie in 0..{logits.shape[1] - 1}, the network's classes or tokens, "
            f"got {int(labels.min())}..{int(labels.max())}"
        )


def _guess(labels: Tensor) -> float | None:
    """Return the cross-entropy of guessing by how often each label comes; None where one is all there is."""
    columns = labels.reshape(len(labels), -1).T
    shares = [column.bincount().double() / len(column) for column in columns]
    entropies = [-float(torch.xlogy(share, share).sum()) for share in shares]
    return sum(entropies) / len(entropies) or None


def _read_beyond(
    student: nn.Module, loss: Loss, inputs: Tensor, plan: TrainingPlan
) -> Callable[[Tensor, Tensor], Outputs] | None:
    """Run the frozen part apart, once if that can be, and only what lies beyond it at every step."""
    layer = loss.beyond
    if layer is None or tuple(loss.layers) != (LOGITS,) or (head := cut(student, layer)) is None:
        return None
    known = recall(reader(student, [layer], inputs), student, inputs, plan)
    return lambda batch, rows: Outputs({LOGITS: head(known(batch, rows)[layer])})


@contextmanager
def placed(device: str | torch.device, *modules: nn.Module | None) -> Iterator[None]:
    """Hold modules on a device, and put each back where it was."""
    places = {module: device_of(module) for module in modules if module is not None}
    try:
        for module in places:
            module.to(device)
        yield
    finally:
        for module, place in places.items():
            module.to(place)
