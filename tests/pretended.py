"""A device that is not there, on which kdviz runs in a process of its own.

Tensors on it are computed by the processor, but go no other ways than those on a GPU: whoever mixes them with
tensors elsewhere, or hands them to NumPy, gets an error. Waits for what a GPU computes are noted: numbers and
sizes that are asked of it, copies from it, and copies to it that are not told to go on meanwhile.

``python tests/pretended.py TRIAL FOLDER`` does one of the trials below and prints as JSON what came of it.
The device has to be made known before anything computes a gradient, which no process of pytest can promise.
"""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"
aten = torch.ops.aten
WAITING = (
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default),
    *(aten.masked_select.default, aten._unique2.default),
)
INDEXING = (aten.index.Tensor, aten.index_put_.default)  # by places that may lie elsewhere

waits: list[str] = []  # where in kdviz the device was waited for


class _Module(_DummyBackendModule):
    """What torch asks a kind of device for; random numbers are the processor's."""

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def manual_seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)

    def device(self, index: int) -> Any:
        return nullcontext()


class There(torch.Tensor):
    """A tensor on the device; `inner` is where it is computed."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "There":
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device=torch.device(NAME, 0))
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(op, args, kwargs or {})

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> "There":
        return There(inner["inner"])

    def tolist(self) -> Any:
        wait()
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {NAME} tensor to numpy")

    __array__ = numpy


class Pretended(TorchDispatchMode):
    """Within it tensors can be made on the device."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(op, args, kwargs or {})


def compute(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do what a device would."""
    values, form = tree_flatten((args, kwargs))
    there = [value for value in values if isinstance(value, There)]
    elsewhere = [
        value
        for value in values
        if isinstance(value, torch.Tensor) and not isinstance(value, There) and value.ndim
    ]
    target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
    patient = not kwargs.get("non_blocking", False)
    if op is aten.copy_.default:
        if there and ((elsewhere and patient) or not isinstance(args[0], There)):
            wait()
    elif op is aten._to_copy.default:
        if (there and target == "cpu") or (elsewhere and target == NAME and patient):
            wait()
    elif op in INDEXING:
        if len({isinstance(one, There) for one in (args[0], *args[2:]) if isinstance(one, torch.Tensor)}) > 1:
            raise RuntimeError(f"{op}: values on {NAME} and on the cpu")
        places = [one for one in args[1] if isinstance(one, torch.Tensor)]
        if there and not isinstance(args[0], There):
            raise RuntimeError(f"{op}: places on {NAME} for values on the cpu")
        if there and any(one.dtype == torch.bool or not isinstance(one, There) for one in places):
            wait()
    elif there and elsewhere:
        raise RuntimeError(f"{op}: tensors on {NAME} and on the cpu")
    elif there and op in WAITING:
        wait()
    plain = [value.inner if isinstance(value, There) else value for value in values]
    inner_args, inner_kwargs = tree_unflatten(plain, form)
    if target is not None:
        inner_kwargs["device"] = torch.device("cpu")
    made = op(*inner_args, **inner_kwargs)
    goes_there = target == NAME if target is not None else bool(there)
    known = {id(value.inner): value for value in there} | {
        id(value): value for value in values if isinstance(value, torch.Tensor)
    }

    def place(one: torch.Tensor) -> torch.Tensor:
        if id(one) in known and (op is not aten._to_copy.default or not target):
            return known[id(one)]
        return There(one.clone() if id(one) in known else one) if goes_there else one

    return tree_map_only(torch.Tensor, place, made)


def wait() -> None:
    """Note the module of kdviz that waits."""
    import kdviz

    folder = str(Path(kdviz.__file__).parent)
    inside = [frame for frame in traceback.extract_stack() if frame.filename.startswith(folder)]
    waits.append(Path(inside[-1].filename).stem if inside else "")


def _empty(size: Any, *_: Any, dtype: Any = None, **__: Any) -> There:
    return There(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> There:
    return There(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    if not non_blocking or not isinstance(target, There):
        wait()
    inner, onto = (one.inner if isinstance(one, There) else one for one in (source, target))
    onto.copy_(inner)
    return target


@contextmanager
def counting() -> Iterator[list[str]]:
    """Work with the device; what it was waited for meanwhile."""
    waits.clear()
    with Pretended():
        yield waits


# -- the trials


def compare_measuring(folder: Path) -> dict[str, Any]:
    """Measure there and here, with few and many probes; whether all is equal, and what was waited for."""
    import kdviz
    from kdviz.schema import MEASURED
    from kdviz.testing import random_images, small_cnn

    found = {}
    for method in ("gain", "path"):
        for probes in (8, 64):
            options = {"layers": ("conv2", "fc1"), "units": kdviz.units.grid(4), "probes": probes}
            options |= {"method": method, "draws": 4, "progress": False}
            with counting() as waited:
                there = kdviz.measure(small_cnn(seed=1), random_images(3), device=NAME, **options)
                gain = {name: waited.count(name) for name in ("bench", "probes", "losses", "descents")}
            here = kdviz.measure(small_cnn(seed=1), random_images(3), **options)
            found[f"{method} {probes}"] = {
                "device": there.attrs["device"],
                "equal": all(there[name].equals(here[name]) for name in MEASURED),
                "waits": gain,
            }
    return found


def compare_studies(folder: Path, plan: Any) -> dict[str, bool]:
    """Do a study there and here: whether what is measured, mapped, shared and scored is equal."""
    from kdviz.studies import Study

    runs = {}
    for device in (NAME, None):
        study = Study(folder / str(device), plan.model_copy(update={"device": device}), progress=False)
        with counting() if device else nullcontext():
            study.train()
            study.measure()
            if study.plan.data.modality == "image":
                study.attribute()
            study.share(samples=8)
            runs[device] = study.explain(samples=24)
    there, here = runs.values()
    assert [*there.catalogue()] == [*here.catalogue()] and there.results == here.results
    same = {
        f"{at}/{layer}": there.dataset(at, layer).equals(here.dataset(at, layer))
        for at, layer in here.catalogue()
    }
    return same | {name: _is_close(there.result(name), here.result(name)) for name in here.results}


def _is_close(one: xr.Dataset, other: xr.Dataset) -> bool:
    """Tell whether all is equal but for rounding: memory is laid out otherwise there."""
    try:
        xr.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    except AssertionError:
        return False
    return True


def compare_images(folder: Path) -> dict[str, Any]:
    """Use losses that read features, logits, maps, and one with weights of its own."""
    from tiny_study import draw_images, make_plan

    losses = [{"kind": kind} for kind in ("features", "kl", "crd", "attention")]
    plan = make_plan(draw_images(folder, per_class=32), losses=losses)
    return compare_studies(folder, plan)


def compare_kind(folder: Path, kind: str) -> dict[str, Any]:
    """Use built-in data that are no images."""
    from kdviz.studies import StudyPlan

    measurement = {"samples": 2, "probes": 8, "method": "gain"}
    parts = {"data": {"kind": kind}, "training": {"count": 24, "epochs": 2}, "measurement": measurement}
    return compare_studies(folder, StudyPlan.model_validate(parts))


if __name__ == "__main__":
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    torch.set_num_threads(1)
    trial, folder = sys.argv[1], Path(sys.argv[2])
    trials = {"measure": compare_measuring, "images": compare_images}
    print(json.dumps(trials[trial](folder) if trial in trials else compare_kind(folder, trial)))
