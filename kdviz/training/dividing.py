"""Divide a network at a layer: what its feature depends on, what lies beyond, and each part by itself."""

from itertools import chain

import torch
from torch import Tensor, fx, nn

from kdviz.distillation import LOGITS, Loss
from kdviz.errors import LayerError
from kdviz.networks import device_of, frozen, read_layers, resolve_layers


def modules_up_to(network: nn.Module, layer: str, inputs: Tensor) -> list[nn.Module]:
    """List the modules on which a layer's feature depends: no other changes it.

    They are those whose forward pass has begun when the layer's ends, its containers and the network itself
    included, and those whose parameters it was all computed from without a call, as where a layer folds its
    normalisation into its weight. `LOGITS` stands for the network's end.
    """
    layers = [LOGITS] if layer == LOGITS else resolve_layers(network, [layer])
    begun: dict[nn.Module, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, arguments: begun.setdefault(module))
        for module in network.modules()
    ]
    try:
        with frozen(network):
            parameters = [p.requires_grad_(True) for p in network.parameters() if p.is_floating_point()]
            (feature,) = read_layers(network, inputs[:1].to(device_of(network)), layers).values()
            gradients = torch.autograd.grad(feature.sum(), parameters, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    used = {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    own = {module: {id(p) for p in module.parameters(recurse=False)} for module in network.modules()}
    return [module for module, theirs in own.items() if module in begun or (theirs and theirs <= used)]


def names_up_to(network: nn.Module, layer: str, inputs: Tensor) -> set[str]:
    """Name, as in the state dict, all tensors that the layer's feature can depend on."""
    kinds = (nn.Module.named_parameters, nn.Module.named_buffers)
    modules = modules_up_to(network, layer, inputs)
    own = {id(tensor) for part in modules for kind in kinds for _, tensor in kind(part, recurse=False)}
    named = chain.from_iterable(kind(network, remove_duplicate=False) for kind in kinds)
    return {name for name, tensor in named if id(tensor) in own}  # by identity: weights may be tied


def divide(network: nn.Module, loss: Loss, inputs: Tensor) -> tuple[dict[str, nn.Parameter], list[nn.Module]]:
    """Return the parameters that a loss trains and the modules that rest in eval mode.

    Raises
    ------
    LayerError
        If there is nothing to train.
    """
    reached = [*network.modules()] if loss.up_to is None else modules_up_to(network, loss.up_to, inputs)
    still = [] if loss.beyond is None else modules_up_to(network, loss.beyond, inputs)
    ours, others = ({id(p) for part in m for p in part.parameters(recurse=False)} for m in (reached, still))
    trained = {name: p for name, p in network.named_parameters() if id(p) in ours - others}
    if not trained:
        raise LayerError(f"no parameter lies beyond layer {loss.beyond!r}, so there is nothing to train")
    beyond = [] if loss.up_to is None else set(modules_up_to(network, LOGITS, inputs)) - set(reached)
    return trained, [*still, *beyond]


class _LeafTracer(fx.Tracer):
    def __init__(self, leaf: str) -> None:
        super().__init__()
        self.leaf = leaf

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self.leaf or super().is_leaf_module(m, module_qualified_name)


def cut(network: nn.Module, layer: str) -> fx.GraphModule | None:
    """Return what lies beyond a layer, sharing the network's modules, so that head(feature) = network(x).

    None where that cannot be done: the forward pass cannot be traced, or something passes around the layer.
    """
    try:
        graph = _LeafTracer(layer).trace(network)
    except Exception:  # the trace runs the network's own code, which may fail in any way on a proxy
        return None
    cuts = graph.find_nodes(op="call_module", target=layer)
    if len(cuts) != 1:
        return None
    with graph.inserting_before(cuts[0]):
        cuts[0].replace_all_uses_with(graph.placeholder("feature"))
    head = fx.GraphModule(network, graph)
    head.graph.eliminate_dead_code()
    for source in head.graph.find_nodes(op="placeholder")[:-1]:
        if source.users:
            return None
        head.graph.erase_node(source)
    head.recompile()
    return head
