"""Prepare any network to be read: refuse what allows no measurement, choose devices, advise on memory."""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdviz.networks.features import unwrap

_NO_MEMORY = re.compile(  # the last is all that oneDNN says
    r"not enough memory|can't allocate memory|out of memory|ALLOC_FAILED|ALLOCATION_FAILED|bad_alloc"
    r"|could not create a primitive\s*$",
    re.IGNORECASE,
)


_TOO_FINE = (
    "the small noise of a measurement; pass network.float(), and inputs that are no token ids as float32 too"
)


def prepare_network(
    network: nn.Module,
    device: str | torch.device | None = None,
    fault: str = "the network cannot be measured",
    too_fine: str = _TOO_FINE,
) -> nn.Module:
    """Refuse a network whose parameters and buffers allow no measurement; return its plain self.

    Parameters
    ----------
    network
        As it came, compiled or not.
    device
        If it lies on another one, a copy there is returned; None leaves it where it is.
    fault
        How messages begin.
    too_fine
        For what lower precision is too coarse, and what to do.

    Raises
    ------
    ValueError
        If it holds no values, is of lower precision than float32, was made for inference
        only or is spread over devices, or if the device is not there.
    """
    network = unwrap(network)
    if device is not None:
        network = _on_device(network, device)
    tensors = _tensors_of(network)
    for name, tensor in tensors.items():
        faults = {
            "is on the meta device and holds no values; load weights": tensor.device.type == "meta",
            f"is {tensor.dtype}, too coarse for {too_fine}": is_coarse(tensor),
            "was made under torch.inference_mode() and lets no gradient pass; make or load the network "
            "outside of it": tensor.is_inference(),
        }
        for reason, is_there in faults.items():
            if is_there:
                raise ValueError(f"{fault}: {name!r} {reason}")
    devices = sorted({str(tensor.device) for tensor in tensors.values()})
    if len(devices) > 1:
        raise ValueError(
            f"the network is spread over {', '.join(devices)}; move it to one, such as with "
            f"network.to({devices[0]!r})"
        )
    return network


def is_coarse(tensor: Tensor) -> bool:
    """Tell whether floating-point values are of less than float32, in which small noise is lost."""
    return tensor.is_floating_point() and torch.finfo(tensor.dtype).bits < 32


def _tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _on_device(network: nn.Module, device: str | torch.device) -> nn.Module:
    try:
        wanted = torch.empty(0, device=device).device  # "cuda" becomes the current one, "cuda:0"
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = re.split(r"\n|\. ", str(error))[0]  # some go on for a page
        raise ValueError(f"device {device!r} cannot be used here: {reason}") from error
    places = {tensor.device for tensor in _tensors_of(network).values()} or {torch.device("cpu")}
    same = all(at.type == wanted.type and (at.type == "cpu" or at.index == wanted.index) for at in places)
    return network if same else copy.deepcopy(network).to(wanted)


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's parameters and buffers, the CPU if it has none."""
    return next((tensor.device for tensor in _tensors_of(network).values()), torch.device("cpu"))


def dtype_of(network: nn.Module) -> torch.dtype | None:
    """Return the precision of a network's parameters, or None if it has none."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), None)


@contextmanager
def memory_advice(together: int | None, *others: str) -> Iterator[None]:
    """Turn running out of memory into the advice to take fewer samples at once, then to do one of `others`.

    Where that is not all, `together` is None, only `others` are told, and instead of any advice within.

    Raises
    ------
    MemoryError
        Instead of what torch raises on the CPU and on accelerators.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = f"pass max_batch={together // 2}" if together and together > 1 else " or ".join(others)
        when, cause = f" with max_batch={together}" if together else "", error.__cause__ or error
        reason, _, _ = str(cause).partition("\n")
        raise MemoryError(f"out of memory{when}; {advice} ({reason})") from cause


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is that of torch or Python for too little memory, here or on an accelerator."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or bool(_NO_MEMORY.search(str(error)))
