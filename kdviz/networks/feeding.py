"""Let a network take samples as sources prepare them, whatever its forward pass asks for.

Token identifiers are one tensor, padded at the end, and clouds have points first: so all networks of a run
see the same inputs. What a network takes instead is made of them by a hook before its forward pass, which
changes neither weights nor names of layers.

Symbols: ``B`` samples, ``T`` tokens of the longest text, ``n`` points.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from kdviz.arguments import name_some
from kdviz.errors import LayerError
from kdviz.networks.features import frozen, name_modules, same_random_state, unwrap
from kdviz.networks.preparing import device_of, is_out_of_memory

_EMBEDDINGS = "embeddings"  # what transformers calls the whole of words, positions and types


def name_tokens(network: nn.Module, pad: int) -> None:
    """Let a network whose forward pass takes ``input_ids``, as those of transformers, take one tensor.

    It is then given identifiers ``(B, T)``, or identifiers and token types of pairs ``(B, 2, T)``, and gets
    by name what it takes of ``input_ids``, ``attention_mask`` and ``token_type_ids``. Another network is
    left as it is.

    Parameters
    ----------
    network
        Gets a hook.
    pad
        Token identifier of padding, at the end of texts.
    """
    network = unwrap(network)
    taken = inspect.signature(network.forward).parameters
    if "input_ids" not in taken:
        return

    def name(_: nn.Module, given: tuple[Tensor], named: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        (ids,), types = given, {}
        if ids.ndim == 3:
            ids, types["token_type_ids"] = ids.unbind(1)
        text = (ids != pad).flip(1).cumsum(1).flip(1) > 0  # only at the end is it padding
        known = {"input_ids": ids, "attention_mask": text.long(), **types}
        return (), named | {name: one for name, one in known.items() if name in taken}

    network.register_forward_pre_hook(name, with_kwargs=True)


def turn_clouds(network: nn.Module, cloud: Tensor) -> None:
    """Let a network that takes coordinates first, ``(B, 3, n)``, take points first, ``(B, n, 3)``.

    Which of the two it takes is tried; one that takes both is given points first.

    Parameters
    ----------
    network
        Gets a hook if need be, and is else left as found.
    cloud
        ``(1, n, 3)``.

    Raises
    ------
    ValueError
        If it takes neither; with the reason that it gives for each.
    """
    network, reasons = unwrap(network), []
    cloud = cloud.to(device_of(network))
    with same_random_state(network), frozen(network), torch.no_grad():
        for given in (cloud, cloud.mT.contiguous()):
            try:
                network(given)
            except Exception as error:  # the network may be anything
                if is_out_of_memory(error):
                    raise
                reason, _, _ = str(error).partition("\n")
                reasons.append(f"of {tuple(given.shape)} it says {reason!r}")
            else:
                break
    if len(reasons) == 2:
        raise ValueError(
            "the network takes clouds neither with points first, (B, n, 3), nor with coordinates first, "
            f"(B, 3, n): {'; '.join(reasons)}"
        )
    if reasons:
        network.register_forward_pre_hook(lambda _, given: (given[0].mT.contiguous(),))


def find_entry(network: nn.Module) -> str:
    """Name the module that embeds words, at whose output noise is added.

    That is the one called ``embeddings``, as transformers have it, around words and positions; or else the
    only ``nn.Embedding`` there is.

    Raises
    ------
    LayerError
        If there is none, or more than one.
    """
    modules = name_modules(network)
    embed = [name for name, module in modules.items() if isinstance(module, nn.Embedding)]
    whole = [name for name in modules if name.split(".")[-1] == _EMBEDDINGS]
    around = [name for name in whole if any(f"{one}.".startswith(f"{name}.") for one in embed)]
    outermost = [name for name in around if not any(name.startswith(f"{one}.") for one in around)]
    found = outermost or embed
    if len(found) == 1:
        return found[0]
    listed = f"of {name_some(found)} each embeds a part" if found else "it has no nn.Embedding"
    raise LayerError(
        f"which module of the network gives the whole embedding of words, positions included, is not clear: "
        f"{listed}; pass entry, the name of the module at whose output noise is added, such as the dropout "
        "after them"
    )
