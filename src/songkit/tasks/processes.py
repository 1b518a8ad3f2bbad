"""Several processes that train one task: weights of which each holds a part.

In a process that trains alone everything here is the identity. Weights are shared out by FSDP2 (`fully_shard` of
torch; Zhao et al. 2023, arXiv 2304.11277): a parameter is then a `DTensor`; what is written holds whole ones.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from songkit.errors import SongkitError
from songkit.interfaces import Backbone
from songkit.processes import gathered, place

__all__ = [
    "alike",
    "blocks",
    "forget_whole",
    "local",
    "make_lean",
    "refuse_own_buffers",
    "share_out",
    "whole",
]


def refuse_own_buffers(task: nn.Module) -> None:
    """Refuses buffers that processes have changed each for itself: only those of the first would be kept.

    All processes must call it.

    Raises:
        SongkitError: If buffers of the task's state are not the same bits in all processes.
    """
    if place()[1] == 1:
        return
    parameters = {name for name, _ in task.named_parameters(remove_duplicate=False)}  # tied ones too
    state = {name: value for name, value in task.state_dict().items() if isinstance(value, Tensor)}
    mine = {name: _digest(value) for name, value in state.items() if name not in parameters}
    everyone = gathered(mine)
    own = [name for name in everyone[0] if any(one.get(name) != everyone[0][name] for one in everyone)]
    if own:
        more = f" and {len(own) - 3} more" if len(own) > 3 else ""
        raise SongkitError(
            f"buffers of {type(task).__name__} differ between the processes: {', '.join(own[:3])}{more}. Each changes "
            "them by its own batches, as batch norm does, so that what is trained would depend on trainer.devices. Set "
            "it to 1, or have the task change them by the batches of all processes."
        )


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def blocks(task: nn.Module) -> list[nn.Module]:
    """Returns the layers of all backbones: what is shared out, computed again or compiled at a time."""
    lists = [
        part
        for module in task.modules()
        if isinstance(module, Backbone)
        for part in module.modules()
        if isinstance(part, nn.ModuleList)
    ]
    return list({id(block): block for members in lists for block in members}.values())


def make_lean(task: nn.Module, *, activation_checkpointing: bool, compiled: bool) -> None:
    """Has the layers of backbones computed again in the backward pass, or compiled, or both; names stay."""
    for block in blocks(task):
        if activation_checkpointing:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        if compiled:
            block.forward = torch.compile(block.forward)


def share_out(task: nn.Module, mesh: DeviceMesh, methods: tuple[str, ...]) -> None:
    """Leaves each process with a part of each parameter.

    Layers of backbones are whole while they compute. All else is whole during the named methods of the task, which
    take the place of `forward`.
    """
    for block in blocks(task):
        fully_shard(block, mesh=mesh)
    fully_shard(task, mesh=mesh)
    for name in methods:
        register_fsdp_forward_method(task, name)


def forget_whole(task: nn.Module) -> None:
    """Drops the whole parameters that a method without a backward pass leaves behind: they would soon be old."""
    if isinstance(task, FSDPModule):
        task.reshard()


def whole(value: Any) -> Any:
    """Returns a state with whole tensors in the place of parts; only the first process gets them.

    All processes must call it with the same state.
    """
    if isinstance(value, DTensor):
        full = value.full_tensor()  # one at a time: the device may not hold them all
        return full.cpu() if place()[0] == 0 else full.new_empty(0)
    if isinstance(value, Mapping):
        return {name: whole(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [whole(item) for item in value]
    return value


def alike(value: Tensor, parameter: Tensor) -> Tensor:
    """Returns this process's part of a whole tensor, if the parameter that it belongs to is shared out."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def local(tensor: Tensor) -> Tensor:
    """Returns the part of a tensor that lies in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
