"""Read named layers of any network, and leave the network exactly as it was found.

Layers are read through forward hooks that always come off; the forward pass stops as soon as the
last requested layer has spoken. This module must not know any particular architecture.

Symbols: ``B`` samples, ``D`` feature entries of a layer.
"""

import inspect
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kdviz.arguments import name_some, one_of, suggest
from kdviz.errors import LayerError

NO_TENSOR = "several tensors or none"  # what messages say of an empty shape

Batch = Tensor | Mapping[str, Tensor]
"""What a network is given: one tensor ``(B, ...)``, or several, passed as keyword arguments."""

Feature = str | Callable[[Any], Tensor]

TOKEN_FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "first": lambda tokens: tokens[:, 0].clone(),
    "last": lambda tokens: tokens[:, -1].clone(),
    "mean": lambda tokens: tokens.mean(1),
}
"""Features of layers that give tokens ``(B, T, K)`` without padding, ``(B, K)`` each."""

_FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "identity": Tensor.clone,
    **TOKEN_FEATURES,
}


def map_batch(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Apply a function to every tensor of a batch."""
    if isinstance(batch, Tensor):
        return change(batch)
    return {name: change(tensor) for name, tensor in batch.items()}


def rows_at(batch: Batch, rows: int | slice | list[int]) -> Batch:
    """Take some rows of every tensor of a batch."""
    return map_batch(batch, lambda tensor: tensor[rows])


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor of a batch."""
    return map_batch(batch, lambda tensor: tensor.to(device))


def main_of(batch: Batch, name: str | None) -> Tensor:
    """Return the named tensor of a mapping, or the one tensor."""
    if isinstance(batch, Tensor):
        return batch
    assert name is not None
    return batch[name]


def rows_of(batch: Batch) -> int:
    """Return the number of samples of a batch."""
    return len(batch if isinstance(batch, Tensor) else next(iter(batch.values())))


def put_main(batch: Batch, name: str | None, tensor: Tensor) -> Batch:
    """Put another tensor in the place of the one that `main_of` returns."""
    return tensor if isinstance(batch, Tensor) else {**batch, str(name): tensor}


def noisy_part(batch: Batch, fits: Callable[[Tensor], bool] = lambda tensor: True) -> str | None:
    """Name the floating-point tensor of a mapping on which noise falls; None for a tensor.

    Raises
    ------
    ValueError
        If there is none, or more than one and not exactly one of them `fits`.
    """
    if isinstance(batch, Tensor):
        return None
    found = [name for name, tensor in batch.items() if tensor.is_floating_point()]
    fitting = [name for name in found if fits(batch[name])] if len(found) > 1 else found
    if len(fitting) != 1:
        raise ValueError(
            f"inputs are {', '.join(batch)}, of which {len(found)} are floating point; noise needs one, or "
            f"entry= the name of one of them ({', '.join(found) or 'none'}) or of a module"
        )
    return fitting[0]


def list_layers(network: nn.Module) -> list[str]:
    """List the layers that :func:`kdviz.measure` can read: every leaf of ``named_modules()``."""
    modules = unwrap(network).named_modules()
    return [plain_name(name) for name, module in modules if name and not list(module.children())]


def unwrap(network: nn.Module) -> nn.Module:
    """Return the plain module that ``torch.compile`` has wrapped."""
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"network must be a torch.nn.Module, got {type(network).__name__}; of an exported or converted "
            "program, pass the module that it was made from"
        )
    inner = getattr(network, "_orig_mod", network)
    if isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise LayerError("the network is wrapped for several devices; pass its .module instead")
    return inner


def resolve_layers(network: nn.Module, layers: Sequence[str | nn.Module]) -> list[str]:
    """Turn layer names or module objects into checked names.

    Raises
    ------
    LayerError
        If a name is unknown (near names are listed), or a module is not part of `network`.
    """
    modules = name_modules(network)
    names = []
    for layer in layers:
        if isinstance(layer, nn.Module):
            found = [name for name, module in modules.items() if module is unwrap(layer)]
            if not found:
                raise LayerError(f"the {type(layer).__name__} passed as layer is not a part of this network")
            if not found[0]:
                raise LayerError("the layer passed is the network itself; choose a layer inside it")
            names.append(found[0])
        elif isinstance(layer, str) and (name := plain_name(layer)) and name in modules:
            names.append(name)
        else:
            hint = suggest(layer, filter(None, modules))
            raise LayerError(f"unknown layer {layer!r}; {hint} (kdviz.list_layers(network) names them all)")
    if len(set(names)) != len(names):
        raise LayerError(f"a layer is named twice: {names}")
    return names


def name_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Return all modules by name, one under several names included, as if nothing were compiled."""
    modules = unwrap(network).named_modules(remove_duplicate=False)
    return {plain_name(name): module for name, module in modules}  # of a wrapper and its inside, the inside


def plain_name(name: str) -> str:
    """Take out what ``torch.compile`` of a part adds to the names of its layers."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


@contextmanager
def frozen(network: nn.Module) -> Iterator[nn.Module]:
    """Hold a network in eval mode without parameter gradients; restore both afterwards.

    Inside, gradients of inputs can be taken even if the caller has switched them off, what was compiled runs
    as the plain modules that hooks can read, and float32 is float32 on a GPU too.
    """
    modes = [(module, module.training) for module in network.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        for module, _ in modes:
            module.training = False  # .eval() may do more, such as merging weights, that could not be undone
        for parameter, _ in gradients:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad(), _not_compiled(), _full_precision():
            yield network
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in gradients:
            parameter.requires_grad_(flag)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep tensor cores from rounding float32 to 10 bits, in which noise of 0.01 is lost."""
    places: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    kept = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, allowed in zip(places, kept, strict=True):
            place.allow_tf32 = allowed


def _not_compiled() -> AbstractContextManager[object]:
    """Run the code that ``torch.compile`` has wrapped, which need not call hooks set after compilation."""
    # loading the compiler takes seconds, and nothing is compiled where it is not loaded
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def same_random_state(network: nn.Module) -> Iterator[None]:
    """Leave the global random state of torch, NumPy and Python as found, whatever `network` draws."""
    used = {tensor.device for tensor in (*network.parameters(), *network.buffers())}
    states = np.random.get_state(), random.getstate()  # noqa: NPY002  (the global state is what is kept)
    try:
        with torch.random.fork_rng(devices=[device for device in used if device.type == "cuda"]):
            yield
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])


class _LastLayerRead(Exception):
    """Ends a forward pass once every requested layer has been read."""


def read_layers(network: nn.Module, inputs: Batch, layers: Sequence[str]) -> dict[str, Tensor]:
    """Run a network up to the last of some layers; return what each gives, as it is, with its graph.

    Modes and gradient flags are those the caller has set: hold the network :func:`frozen` to explain it,
    leave it as it is to train it.

    Parameters
    ----------
    network
        Keeps no hook.
    inputs
        Shape ``(B, ...)``, or a mapping of such tensors, passed as keyword arguments; a copy is passed on.
    layers
        Names from ``network.named_modules()``; ``""`` is the network itself, such as for its logits.

    Returns
    -------
    dict
        ``{layer: tensor}``, each on the way to the later ones, so that gradients of these can be taken with
        respect to it. No step in place can overwrite it.

    Raises
    ------
    LayerError
        If a layer is unknown, not reached, used twice on the way or gives no tensor (:func:`pick_tensor`).
    """
    modules = name_modules(network)
    if unknown := [layer for layer in layers if layer not in modules]:
        resolve_layers(network, unknown)

    def keep(layer: str, output: Any) -> tuple[Tensor, Any]:
        tensor = pick_tensor(output, rows_of(inputs))
        if tensor is None:
            raise LayerError(f"{_explain_structure(layer, output)}; choose a layer that gives one")
        return tensor, _put_tensor(output, tensor, tensor.clone())

    with _not_compiled():
        kept = _collect(unwrap(network), inputs, {layer: modules[layer] for layer in layers}, keep)
    for layer in layers:
        if layer not in kept:
            raise LayerError(_explain_calls(layer, 0))
    return {layer: kept[layer] for layer in layers}


def pick_tensor(output: Any, samples: int) -> Tensor | None:
    """Pick what counts out of what a module gives: its logits, or its one floating-point tensor.

    Parameters
    ----------
    output
        A tensor, which is returned as it is; or tuples, lists and dictionaries of tensors, such as the
        output classes of transformers.
    samples
        ``B``: what is picked has as many rows.

    Returns
    -------
    Tensor or None
        None if there is no such tensor, or more than one, or what there is has other rows.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    found = {id(part): part for part in _list_tensors(output) if part.shape[:1] == (samples,)}
    if isinstance(logits, Tensor):
        return logits
    return next(iter(found.values())) if len(found) == 1 else None


def answer(network: nn.Module, inputs: Batch) -> Tensor:
    """Return what a network gives, picked as by :func:`pick_tensor`, such as its logits.

    Raises
    ------
    LayerError
        If it gives no tensor, or several.
    """
    return read_layers(network, inputs, [""])[""]


def _list_tensors(output: Any) -> list[Tensor]:
    return [
        leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]


def _put_tensor(output: Any, old: Tensor, new: Tensor) -> Any:
    """Put another tensor in the place of one in a structure."""
    return pytree.tree_map(lambda leaf: new if leaf is old else leaf, output)


def _explain_structure(layer: str, output: Any) -> str:
    who = f"layer {layer!r}" if layer else "the network"
    shapes = [str(tuple(part.shape)) for part in _list_tensors(output)]
    return (
        f"{who} returns a {type(output).__name__} of {len(shapes)} floating-point tensors "
        f"({name_some(shapes)}), not one"
    )


def list_shapes(network: nn.Module, inputs: Batch, layers: Iterable[str]) -> dict[str, list[tuple[int, ...]]]:
    """List the shapes that layers give in one whole pass, without gradients.

    Parameters
    ----------
    network, inputs
        As for :func:`read_layers`.
    layers
        Names from ``network.named_modules()``.

    Returns
    -------
    dict
        A shape for every call, that of what :func:`pick_tensor` picks and else empty, in the order in which
        layers first return; none for layers that take no part.
    """
    modules, shapes = name_modules(network), dict[str, list[tuple[int, ...]]]()

    def note(layer: str, output: Any) -> None:
        tensor = pick_tensor(output, rows_of(inputs))
        shapes.setdefault(layer, []).append(() if tensor is None else tuple(tensor.shape))

    with torch.no_grad(), _not_compiled(), _hooked({layer: modules[layer] for layer in layers}, note):
        _run(unwrap(network), inputs)
    return shapes


def check_layers(network: nn.Module, inputs: Batch, layers: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Run one whole pass and return the shape that each layer gives.

    Raises
    ------
    LayerError
        If a layer is never reached or is used more than once.
    """
    shapes = list_shapes(network, inputs, layers)
    for layer in layers:
        if (count := len(shapes.get(layer, ()))) != 1:
            raise LayerError(_explain_calls(layer, count))
    return {layer: shapes[layer][0] for layer in layers}


def _explain_calls(layer: str, count: int) -> str:
    if count == 0:
        return (
            f"layer {layer!r} takes no part in the forward pass of these inputs, or only its weights do, or "
            "it lies in a scripted, traced or exported program; choose a layer that is called, such as the "
            "one around it, in the plain network"
        )
    return (
        f"layer {layer!r} is used {count} times in one forward pass, so its output is not unique; give each "
        "use its own module, or choose the layer around it"
    )


def _collect(
    network: nn.Module,
    inputs: Batch,
    modules: Mapping[str, nn.Module],
    take: Callable[[str, Any], tuple[Any, Any]],
    within: AbstractContextManager[object] | None = None,
) -> dict[str, Any]:
    """Run until all modules have spoken; `take` gives what to keep of an output and what to pass on.

    Hooks set `within` come after these: a layer that is the entry itself is read as it was.
    """
    kept: dict[str, Any] = {}

    def keep(layer: str, output: Any) -> Any:
        if layer in kept:
            raise LayerError(_explain_calls(layer, 2))
        kept[layer], passed_on = take(layer, output)
        if len(kept) == len(modules):
            raise _LastLayerRead
        return passed_on

    with suppress(_LastLayerRead), _hooked(modules, keep), within or nullcontext():
        _run(network, inputs)
    return kept


@contextmanager
def _hooked(modules: Mapping[str, nn.Module], hook: Callable[[str, Any], Any]) -> Iterator[None]:
    """Call `hook` with the name and output of each module; what it returns takes the output's place."""
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: hook(name, output))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(network: nn.Module, inputs: Batch) -> Any:
    """Call a network with a copy of its inputs, which a step in place at its start may change.

    A mapping is passed by name, but for a single tensor of a name that the network does not know, as datasets
    call what networks such as ``nn.Sequential`` take as ``input``.
    """
    copy = map_batch(inputs, Tensor.clone)
    if isinstance(copy, Tensor):
        return network(copy)
    if len(copy) == 1 and not _takes(network, *copy):
        return network(*copy.values())
    return network(**copy)


def _takes(network: nn.Module, name: str) -> bool:
    """Tell whether a network takes an argument of this name, or may."""
    try:
        parameters = inspect.signature(network.forward).parameters
    except (TypeError, ValueError):  # of a compiled or scripted one, nothing is known
        return True
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


class FeatureReader:
    """Callable that maps what noise falls on, ``(B, ...)``, to features ``{layer: (B, D)}`` of one network.

    Parameters
    ----------
    network
        Must already be :func:`frozen`.
    layers
        Names checked by :func:`resolve_layers`.
    feature
        ``"relu"`` (the authors' choice, [1]_); ``"identity"``; of layers that give tokens, ``"first"``,
        ``"last"`` or the ``"mean"`` of all; each of the tensor that :func:`pick_tensor` finds. Or a callable
        from the layer's raw output to a tensor whose first axis is the sample.
    entry
        Name of the module at whose output noise enters, checked by :func:`resolve_layers`; None for the
        network's input.
    main
        Of several inputs the one on which noise falls; by default the one that is floating point.

    Attributes
    ----------
    entry
        As given.
    noise_unit
        Size of one unit of noise in the numbers of `entry`; what noise falls on is given in such units.

    Notes
    -----
    The feature is taken inside the hook as a new tensor, so that an in-place activation after the
    layer cannot change it. The network gets a copy of the inputs, so that one at its start cannot change
    those.

    References
    ----------
    .. [1] Cheng et al., "Explaining Knowledge Distillation by Quantifying the Knowledge", CVPR 2020,
       published code, ``model/models.py``.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        feature: Feature = "relu",
        entry: str | None = None,
        main: str | None = None,
    ) -> None:
        if not callable(feature):
            one_of("feature", feature, _FEATURES)
        self.network = unwrap(network)
        self.layers = tuple(layers)
        modules = name_modules(network)  # once: walking a large network takes as long as a small pass
        self._modules = {layer: modules[layer] for layer in self.layers}
        self._feature = feature
        self._entry = None if entry is None else modules[entry]
        self.entry = entry
        self._main = main
        self.noise_unit = 1.0

    def enter(self, inputs: Batch) -> Tensor:
        """Return what noise falls on, ``(B, ...)``: the network's `inputs`, or the output of `entry`.

        Raises
        ------
        LayerError
            If `entry` takes no part in the forward pass or gives no tensor of one row a sample.
        ValueError
            If it cannot embed the inputs: token identifiers beyond its vocabulary, or texts beyond its
            positions.
        """
        if self._entry is None:
            return main_of(inputs, self._main or noisy_part(inputs))
        try:
            with torch.no_grad():
                found = _collect(
                    self.network, inputs, {"entry": self._entry}, lambda _, output: (output, None)
                )
        except (IndexError, RuntimeError) as error:
            tensors = [inputs] if isinstance(inputs, Tensor) else inputs.values()
            are_ids = any(not tensor.is_floating_point() for tensor in tensors)
            if not are_ids or isinstance(error, torch.OutOfMemoryError):
                raise
            reason, _, _ = str(error).partition("\n")
            raise ValueError(
                f"entry {self.entry!r} cannot embed these ids: {reason}. Most likely they come from another "
                "tokenizer, or a text has more tokens than the network has positions: encode with the "
                "network's own tokenizer, and a smaller length"
            ) from error
        if not found:
            raise LayerError(f"entry {self.entry!r} takes no part in the forward pass of these inputs")
        (given,) = found.values()
        output = pick_tensor(given, rows_of(inputs))
        if output is None or not output.is_floating_point() or len(output) != rows_of(inputs):
            came = type(given).__name__ if output is None else tuple(output.shape)
            raise LayerError(
                f"entry {self.entry!r} must give a floating-point tensor whose first axis is the "
                f"sample, got {came}; name the module that embeds the inputs"
            )
        return output / self.noise_unit

    def check(self, inputs: Batch) -> dict[str, int]:
        """Run one whole forward pass of `inputs` and return ``{layer: D}``.

        Raises
        ------
        LayerError
            If a layer is never reached, is used more than once in a pass, or gives no tensor whose
            first axis is the sample; as `enter`.
        ValueError
            As `enter`.
        """
        values = self.enter(inputs)
        check_layers(self.network, inputs, [*([] if self.entry is None else [self.entry]), *self.layers])
        with torch.no_grad():
            return {layer: feature.shape[1] for layer, feature in self(values, inputs).items()}

    def __call__(self, values: Tensor, inputs: Batch | None = None) -> dict[str, Tensor]:
        """Return ``{layer: feature of shape (B, D)}``, differentiable with respect to `values`.

        `values` are what noise falls on, as from `enter`. Where that is the output of `entry`, it takes the
        place of what comes out there for the network's `inputs`, which are needed then, or where these are
        several tensors.
        """
        if inputs is None:
            given: Batch = values
        elif self._entry is not None:
            given = inputs
        else:
            given = put_main(inputs, self._main or noisy_part(inputs), values)

        def take(layer: str, output: Any) -> tuple[Tensor, None]:
            return self._read(layer, output, len(values)), None

        def replace(_: str, output: Any) -> Any:
            tensor = pick_tensor(output, len(values))
            assert tensor is not None
            return _put_tensor(output, tensor, values * self.noise_unit)

        entering = _hooked({} if self._entry is None else {"entry": self._entry}, replace)
        features = _collect(self.network, given, self._modules, take, entering)
        return {layer: features[layer] for layer in self.layers}

    def _read(self, layer: str, output: Any, samples: int) -> Tensor:
        if callable(self._feature):
            value = self._feature(output)
            value = value.clone() if isinstance(value, Tensor) else value
        elif (tensor := pick_tensor(output, samples)) is None:
            raise LayerError(
                f"{_explain_structure(layer, output)}; pass feature= a callable that picks one, such as "
                "feature=lambda output: output[0].relu()"
            )
        elif self._feature in TOKEN_FEATURES and tensor.ndim != 3:
            raise LayerError(
                f"feature={self._feature!r} is for layers that give tokens (B, tokens, channels); "
                f"{layer!r} gives {tuple(tensor.shape)}; pass feature='identity'"
            )
        else:
            value = _FEATURES[self._feature](tensor)
        if not isinstance(value, Tensor) or value.ndim < 1 or len(value) != samples:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise LayerError(
                f"the feature of layer {layer!r} must be a tensor whose first axis is the sample "
                f"({samples} here), got {shape}"
            )
        return value.flatten(1) if value.ndim > 1 else value[:, None]
