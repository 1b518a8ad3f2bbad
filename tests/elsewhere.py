"""A device that is none: tensors that say they are on `elsewhere` and are computed on the CPU.

Here is no GPU, and what tests of code for one can find is a tensor that was made on the wrong side. Every operator is
seen by a dispatch mode: it takes tensors of both sides only where a GPU would (numbers [] of the CPU, and copies).
torch's hook for devices that are written in Python makes `elsewhere` a device like others: `.to`, `device=`, guards.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

__all__ = ["DEVICE", "pretended"]

DEVICE = "elsewhere"

_COPIES = {"copy_", "to", "_to_copy"}
_INDEXES = {"index", "index_put_", "index_put", "_index_put_impl_"}
"""Their indices may be on the CPU."""


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """Lets tensors be on `elsewhere` inside."""
    _register()
    with _Elsewhere():
        yield


class _Tensor(torch.Tensor):
    """On `elsewhere`, with its numbers in `held`, a tensor of the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _Tensor:
        about = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        with torch.inference_mode(False):  # or views of parameters would be of a kind that has no versions
            made = torch.Tensor._make_wrapper_subclass(cls, held.size(), device=torch.device(DEVICE, 0), **about)
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


class _Elsewhere(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its compiler, for seconds

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


def _run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = op._schema.name.partition("::")[2]
    values = list(_leaves((*args, *kwargs.values())))
    owners = {id(x.held): x for x in values if isinstance(x, _Tensor)}
    looked = _leaves((args[0], *args[2:])) if name in _INDEXES else values
    left = [x for x in looked if isinstance(x, Tensor) and not isinstance(x, _Tensor) and x.dim()]
    if owners and left and name not in _COPIES:
        shapes = ", ".join(str(list(x.shape)) for x in left)
        raise RuntimeError(f"{op}: tensors {shapes} are on the CPU, others on {DEVICE}")
    targets = [x for x in values if isinstance(x, torch.device)]
    targets += [args[1].device] if op is torch.ops.aten.to.other else []
    there = targets[0].type == DEVICE if targets else bool(owners)
    found = op(*_mapped(_held, args), **{key: _mapped(_held, value) for key, value in kwargs.items()})
    if not there:  # a copy to the CPU is a copy
        return _mapped(lambda x: x.clone() if id(x) in owners else x, found)
    return _mapped(lambda x: owners[id(x)] if id(x) in owners else _Tensor(x) if isinstance(x, Tensor) else x, found)


def _held(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.held if isinstance(value, _Tensor) else value


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
        else:
            yield value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_mapped(change, part) for part in value)
    return change(value)


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


@functools.cache
def _register() -> list[torch.library.Library]:
    """Makes the device known, with the operators by which `torch.tensor` passes modes by."""
    # The first backward pass starts a thread for each device that torch knows, and a process with such threads cannot
    # be forked and trained, as tests of trainings do behind these: so the first one comes before there is a device.
    torch.ones((), requires_grad=True).backward()
    _setup_privateuseone_for_python_backend(DEVICE, backend_module=_Module())
    library, all_others = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    all_others.fallback(torch.library.fallthrough_kernel, f"Autocast{_KEY}")  # autocast changes nothing there
    for name in ("empty.memory_format", "empty_strided"):
        op = getattr(torch.ops.aten, name.partition(".")[0])
        library.impl(name, lambda *args, op=op, **kwargs: _Tensor(op(*args, **{**kwargs, "device": "cpu"})), _KEY)
    library.impl("_copy_from", lambda source, target, waits=False: _copied(source, target), _KEY)
    return [library, all_others]  # what is registered lasts as long as they do


_KEY = "PrivateUse1"


def _copied(source: Tensor, target: Tensor) -> Tensor:
    target.held.copy_(source)
    return target
