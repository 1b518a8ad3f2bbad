"""Fast decoding. On a CPU: packed linear layers, and a step in native code. On a GPU: steps as captured graphs.

Everything here can also be done by plain torch, and is where there is no C++ compiler; tests hold the two together.
"""

from songkit.kernels.linear import PackedLinear, Precision, linear_rows, pack
from songkit.kernels.memory import large
from songkit.kernels.native import library
from songkit.kernels.replay import Replay
from songkit.kernels.step import NativeTower

__all__ = ["NativeTower", "PackedLinear", "Precision", "Replay", "large", "library", "linear_rows", "pack"]
