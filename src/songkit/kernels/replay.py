"""Steps as captured graphs: on a GPU, starting the kernels of a step one by one takes longer than they run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Replay"]


class Replay:
    """A function of tensors, with inputs that stay where they are; on a GPU it is captured once, then replayed."""

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
        """Captures the function.

        Args:
            function: Without control that depends on values. It is called once or twice more than it is asked for
                here, with these inputs: what it writes must not depend on how often.
            inputs: Of the shapes and types of all later ones.
        """
        self._function, self._inputs = function, [x.clone() for x in inputs]
        self._graph: torch.cuda.CUDAGraph | None = None
        if inputs[0].is_cuda:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                function(*self._inputs)  # kernels are chosen and loaded outside the capture
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Returns what the function returns for inputs."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        if self._graph is None:
            return self._function(*self._inputs)
        self._graph.replay()
        return self._output.clone()
