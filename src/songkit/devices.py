"""Where a model computes: the devices that there are, and what is meant by their names."""

from __future__ import annotations

import itertools

import torch

from songkit.errors import RequestError
from songkit.settings import DEVICE_NAMES

__all__ = ["describe_device", "device_of", "devices", "find_device"]


def devices() -> list[str]:
    """Returns the names of the devices of this machine, the fastest first: GPUs, Apple silicon, the CPU."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def find_device(name: str) -> torch.device:
    """Returns the device of a name: `cpu`, `cuda` (the first GPU), `cuda:N`, `mps`, or `auto`, the fastest there is.

    Raises:
        RequestError: If it is no such name, or the device is not there; the message says which are.
    """
    if not DEVICE_NAMES.fullmatch(name):
        raise RequestError(f"the device '{name}' is unknown. Choose auto, cpu, cuda, cuda:N (the GPU N) or mps.")
    there = devices()
    wanted = {"auto": there[0], "cuda": "cuda:0"}.get(name, name)
    if wanted not in there:
        raise RequestError(f"the device '{name}' is not there{_reason(name)}. There is {', '.join(there)}: choose one.")
    return torch.device(wanted)


def describe_device(device: torch.device) -> str:
    """Returns a device's name, of a GPU with its model: `cuda:0 (NVIDIA H200)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def device_of(module: torch.nn.Module) -> torch.device:
    """Returns where a module's tensors are; one without tensors is on the CPU."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _reason(name: str) -> str:
    """Returns why a device is not there, where torch knows it."""
    if name.startswith("cuda") and torch.version.cuda is None and torch.version.hip is None:
        return f": torch {torch.__version__} was built without CUDA (pytorch.org says how to install it with)"
    if name == "mps" and not torch.backends.mps.is_built():
        return f": torch {torch.__version__} was built without MPS, which the one for macOS on Apple silicon has"
    return ""
