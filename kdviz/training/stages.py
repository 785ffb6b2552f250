"""The three kinds of training run of the papers: from scratch, feature distillation, and the head on top.

A student is made in two stages, so that everything it knows up to the distilled layer comes from the teacher:
`distil_features` matches that one layer, `train_head` trains what lies above it on the labels. The epochs to
measure are those of the first stage; the second gives the accuracy.

Symbols: ``N`` samples, ``B`` samples of a batch, ``D`` entries of a layer's feature, ``C`` classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from kdviz.errors import LayerError
from kdviz.networks import check_layers, fingerprint_tensors, frozen, read_layers, resolve_layers
from kdviz.training.fitting import Task, fit
from kdviz.training.plans import TrainingPlan
from kdviz.training.records import TrainingRecord

_MAX_CACHED_BYTES = 2**30  # features of more than this are computed again for every batch


def train_classifier(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    folder: str | Path,
    plan: TrainingPlan,
    tracked_layers: Sequence[str],
    validation: tuple[Tensor, Tensor] | None = None,
    progress: bool = True,
) -> TrainingRecord:
    """Train a whole network on labels: a teacher, or the baseline that learns from scratch.

    Parameters
    ----------
    network
        Ends with the weights of the last epoch; its modes, and on error its weights, are restored.
    inputs
        Shape ``(N, ...)``, float32, normalised; ``(N, 3, H, W)`` where `plan` augments.
    labels
        Shape ``(N,)``, int64, classes from 0.
    folder
        Of this run alone. If a run with equal arguments was interrupted there, it continues; if it was
        finished, its result is returned at once.
    plan
        Runs with the same seed see the same batches in the same order.
    tracked_layers
        Layers whose weight movement is recorded beside the whole network's.
    validation
        Held-out inputs and labels, evaluated after every epoch.
    progress
        Show a progress bar.

    Returns
    -------
    TrainingRecord
        ``history`` has the columns ``loss`` and ``accuracy`` (cross-entropy and share of right answers over
        the epoch's batches, in train mode), and ``validation_accuracy`` if asked for.

    Raises
    ------
    ValueError, TypeError
        If inputs and labels do not fit each other or the network.
    LayerError
        If a tracked layer is unknown or has no weight.
    StoreError
        If `folder` belongs to another run.
    FloatingPointError
        If the loss is no longer finite.

    References
    ----------
    .. [1] Zhang et al., TPAMI 2022, section 4.1.
    """
    _check_inputs(inputs, plan)
    task = Task(
        network,
        parameters=dict(network.named_parameters()),
        inputs=inputs,
        loss=_classification(network, labels),
        set_mode=network.train,
        validate=_validation(network, validation),
        identity={"kind": "classifier"} | _identify_data(network, inputs, labels, validation),
    )
    return _fit(task, plan, folder, tracked_layers, progress)


def distil_features(
    student: nn.Module,
    teacher: nn.Module,
    inputs: Tensor,
    *,
    layer: str,
    folder: str | Path,
    plan: TrainingPlan,
    tracked_layers: Sequence[str],
    teacher_layer: str | None = None,
    dropout: bool = True,
    progress: bool = True,
) -> TrainingRecord:
    """Train a student up to one layer to give the teacher's feature there; no label is used.

    Parameters
    ----------
    student
        Ends with the weights of the last epoch. What lies above `layer` is not run and keeps every bit.
    teacher
        Left unchanged, used in eval mode.
    inputs
        Shape ``(N, ...)``, float32, normalised; ``(N, 3, H, W)`` where `plan` augments.
    layer
        Matched layer; its output as it is, before any activation, gives the feature.
    folder, plan, tracked_layers, progress
        As for `train_classifier`.
    teacher_layer
        Name of the layer in the teacher, where it is another one.
    dropout
        Whether dropout below `layer` is active in the student, as in the authors' code.

    Returns
    -------
    TrainingRecord
        ``history`` has the column ``loss``: mean over samples and entries of the squared difference.

    Raises
    ------
    ValueError, TypeError
        If the inputs are of another kind, or the two features of different size.
    LayerError
        If a layer is unknown, or has no weight to track.
    StoreError
        If `folder` belongs to another run.
    FloatingPointError
        If the loss is no longer finite.

    Notes
    -----
    The loss is the mean over the ``D`` entries, not their sum, so that gradients shrink with ``D`` and
    learning rates are far larger than for classification. Entries that are 0 in both, as tokens of padding
    are in :class:`kdviz.models.TextNetwork`, add nothing and are counted: the same error is a smaller loss in
    a batch with more padding.

    References
    ----------
    .. [1] Zhang et al., TPAMI 2022, section 4.1, and the authors' published code, ``distillation.py``.
    """
    _check_inputs(inputs, plan)
    teacher_layer = teacher_layer or layer
    read_student = _layer_reader(student, layer, inputs)
    read_teacher = _layer_reader(teacher, teacher_layer, inputs)
    entries = _read(read_student, student, inputs[:1]).numel()
    wanted = _read(read_teacher, teacher, inputs[:1]).numel()
    if entries != wanted:
        raise ValueError(
            f"feature matching needs equal sizes: {layer!r} of the student has {entries} entries, "
            f"{teacher_layer!r} of the teacher {wanted}"
        )
    known = None
    if not plan.augment and _fits_in_memory(_read(read_teacher, teacher, inputs[:1]), len(inputs)):
        known = _read(read_teacher, teacher, inputs, plan.batch_size)

    def loss(batch: Tensor, positions: Tensor) -> tuple[Tensor, None]:
        target = _read(read_teacher, teacher, batch) if known is None else known[positions]
        return functional.mse_loss(read_student(batch), target.to(batch.device)), None

    def set_mode() -> None:
        student.train()
        for module in student.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) and not dropout:
                module.eval()

    identity = {
        "kind": "features",
        "inputs": fingerprint_tensors({"inputs": inputs}),
        "teacher": fingerprint_tensors(teacher.state_dict()),
        "layer": layer,
        "teacher_layer": teacher_layer,
        "dropout": dropout,
    }
    parameters = _parameters_of(student, modules_below(student, layer, inputs))
    task = Task(student, parameters, inputs, loss, set_mode, validate=None, identity=identity)
    return _fit(task, plan, folder, tracked_layers, progress)


def train_head(
    student: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    layer: str,
    folder: str | Path,
    plan: TrainingPlan,
    tracked_layers: Sequence[str] = (),
    validation: tuple[Tensor, Tensor] | None = None,
    progress: bool = True,
) -> TrainingRecord:
    """Train what lies above a layer on labels, and freeze everything up to and including that layer.

    Parameters
    ----------
    student
        Ends with the weights of the last epoch; up to `layer`, weights and running statistics keep every bit.
    inputs, labels, folder, plan, tracked_layers, validation, progress
        As for `train_classifier`.
    layer
        Last frozen layer.

    Returns
    -------
    TrainingRecord
        As for `train_classifier`.

    Raises
    ------
    ValueError, TypeError
        If inputs and labels do not fit each other or the network.
    LayerError
        If a layer is unknown, or `layer` is the last one with weights.
    StoreError
        If `folder` belongs to another run.
    FloatingPointError
        If the loss is no longer finite.

    Notes
    -----
    The frozen part runs in eval mode. In the authors' code its batch normalisation keeps adapting [1]_, so
    that the distilled feature moves; here it does not. If nothing is augmented and the network can be cut at
    `layer`, the frozen features are computed once.

    References
    ----------
    .. [1] Zhang et al., TPAMI 2022, section 4.1, and the authors' published code, ``distillation.py``.
    """
    _check_inputs(inputs, plan)
    frozen_modules = modules_below(student, layer, inputs)
    below = _parameters_of(student, frozen_modules)
    above = {name: parameter for name, parameter in student.named_parameters() if name not in below}
    if not above:
        raise LayerError(f"no parameter lies above layer {layer!r}, so there is nothing to train")

    def set_mode() -> None:
        student.train()
        for module in frozen_modules:
            module.training = False  # not .eval(), which would reach into a container's upper part

    identity = {"kind": "head", "layer": layer} | _identify_data(student, inputs, labels, validation)
    head: nn.Module = student
    parts = None if plan.augment else _cut(student, layer)
    if parts is not None and _fits_in_memory(_read(parts[0], student, inputs[:1]), len(inputs)):
        body, head = parts
        inputs = _read(body, student, inputs, plan.batch_size)
    task = Task(
        student,
        parameters=above,
        inputs=inputs,
        loss=_classification(head, labels),
        set_mode=set_mode,
        validate=_validation(student, validation),
        identity=identity,
    )
    with _without_gradients(below.values()):
        return _fit(task, plan, folder, tracked_layers, progress)


def evaluate(network: nn.Module, inputs: Tensor, labels: Tensor, *, batch_size: int = 256) -> float:
    """Give the share of right answers, in eval mode; the network is left as it was found.

    Parameters
    ----------
    network
        Gives logits ``(B, C)``.
    inputs, labels
        Shapes ``(N, ...)`` and ``(N,)``.
    batch_size
        Samples a forward pass.

    Raises
    ------
    ValueError, TypeError
        If inputs and labels do not fit each other or the network.
    """
    _check_labels(network, inputs, labels)
    return float((_read(network, network, inputs, batch_size).argmax(1) == labels.cpu()).double().mean())


def _fit(
    task: Task, plan: TrainingPlan, folder: str | Path, tracked_layers: Sequence[str], progress: bool
) -> TrainingRecord:
    layers = resolve_layers(task.network, tracked_layers)
    for layer in layers:
        if not isinstance(getattr(task.network.get_submodule(layer), "weight", None), nn.Parameter):
            raise LayerError(f"tracked layer {layer!r} has no weight whose movement could be recorded")
    return fit(task, plan=plan, folder=folder, tracked_layers=layers, progress=progress)


def _check_inputs(inputs: Tensor, plan: TrainingPlan) -> None:
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a tensor, got {type(inputs).__name__}")
    if inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError(f"inputs must have a sample axis and at least one other, got {tuple(inputs.shape)}")
    if plan.augment and (inputs.ndim != 4 or not inputs.is_floating_point()):
        raise ValueError(
            f"plan.augment is for images (N, channels, H, W), got {inputs.dtype} {tuple(inputs.shape)}"
        )


def _check_labels(network: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(
            f"labels must be an int64 tensor, got {getattr(labels, 'dtype', type(labels).__name__)}"
        )
    if labels.shape != inputs.shape[:1]:
        raise ValueError(f"labels must have shape ({len(inputs)},) as inputs do, got {tuple(labels.shape)}")
    logits = _read(network, network, inputs[:1])
    if logits.ndim != 2:
        raise ValueError(f"the network must give logits (samples, classes), got {tuple(logits.shape)}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels must lie in 0..{logits.shape[1] - 1}, the network's classes, "
            f"got {int(labels.min())}..{int(labels.max())}"
        )


def _identify_data(
    network: nn.Module, inputs: Tensor, labels: Tensor, validation: tuple[Tensor, Tensor] | None
) -> dict[str, str | None]:
    """Check the data against the network and fingerprint it."""
    _check_labels(network, inputs, labels)
    if validation is not None:
        _check_labels(network, *validation)
    return {
        "inputs": fingerprint_tensors({"inputs": inputs}),
        "labels": fingerprint_tensors({"labels": labels}),
        "validation": validation
        and fingerprint_tensors(dict(zip(("inputs", "labels"), validation, strict=True))),
    }


def _classification(network: nn.Module, labels: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def loss(batch: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(batch)
        target = labels[positions].to(logits.device)
        return functional.cross_entropy(logits, target), (logits.argmax(1) == target).sum()

    return loss


def _validation(network: nn.Module, validation: tuple[Tensor, Tensor] | None) -> Callable[[], float] | None:
    return None if validation is None else lambda: evaluate(network, *validation)


def _read(
    function: Callable[[Tensor], Tensor], owner: nn.Module, inputs: Tensor, batch_size: int | None = None
) -> Tensor:
    """Apply a part of the network `owner` in eval mode, without gradients; the result lies on the CPU."""
    device = _device(owner)
    with frozen(owner), torch.no_grad():
        batches = inputs.split(batch_size or len(inputs))
        return torch.cat([function(batch.to(device)).cpu() for batch in batches])


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _fits_in_memory(one: Tensor, count: int) -> bool:
    return one.numel() * one.element_size() * count <= _MAX_CACHED_BYTES


def _layer_reader(network: nn.Module, layer: str, inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """Check a layer; give the function from a batch to its raw feature ``(B, D)``, running no layer above."""
    (layer,) = resolve_layers(network, [layer])
    with frozen(network):
        check_layers(network, inputs[:1].to(_device(network)), [layer])
    return lambda batch: read_layers(network, batch, [layer])[layer].flatten(1)


def modules_below(network: nn.Module, layer: str, inputs: Tensor) -> list[nn.Module]:
    """Modules whose forward pass has begun when the layer's ends: those that its feature can depend on.

    The containers of the layer, the network itself included, have begun too.
    """
    read_layer = _layer_reader(network, layer, inputs)
    begun: dict[nn.Module, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, arguments: begun.setdefault(module))
        for module in network.modules()
    ]
    try:
        _read(read_layer, network, inputs[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return list(begun)


def _parameters_of(network: nn.Module, modules: Iterable[nn.Module]) -> dict[str, nn.Parameter]:
    own = {id(parameter) for module in modules for parameter in module.parameters(recurse=False)}
    return {name: parameter for name, parameter in network.named_parameters() if id(parameter) in own}


@contextmanager
def _without_gradients(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    switched = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        for parameter in switched:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in switched:
            parameter.requires_grad_(True)


class _LeafTracer(fx.Tracer):
    def __init__(self, leaf: str) -> None:
        super().__init__()
        self.leaf = leaf

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self.leaf or super().is_leaf_module(m, module_qualified_name)


def _cut(network: nn.Module, layer: str) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    """Divide a network behind a layer into two that share its modules, so that head(body(x)) = network(x).

    None where that cannot be done: the forward pass cannot be traced, or something passes around the layer.
    """
    parts = []
    for part in ("body", "head"):
        try:
            graph = _LeafTracer(layer).trace(network)
        except Exception:  # the trace runs the network's own code, which may fail in any way on a proxy
            return None
        cuts = graph.find_nodes(op="call_module", target=layer)
        if len(cuts) != 1:
            return None
        if part == "body":
            graph.output_node().args = (cuts[0],)
        else:
            with graph.inserting_before(cuts[0]):
                feature = graph.placeholder("feature")
            cuts[0].replace_all_uses_with(feature)
        module = fx.GraphModule(network, graph)
        module.graph.eliminate_dead_code()
        if part == "head":
            for source in module.graph.find_nodes(op="placeholder")[:-1]:
                if source.users:
                    return None
                module.graph.erase_node(source)
        module.recompile()
        parts.append(module)
    return parts[0], parts[1]
