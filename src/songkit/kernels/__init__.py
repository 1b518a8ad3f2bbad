"""Fast inference on a CPU: packed linear layers, and a decoding step in native code.

Everything here can also be done by plain torch, and is where there is no C++ compiler; tests hold the two together.
"""

from songkit.kernels.linear import PackedLinear, Precision, linear_rows, pack
from songkit.kernels.native import library
from songkit.kernels.step import NativeTower

__all__ = ["NativeTower", "PackedLinear", "Precision", "library", "linear_rows", "pack"]
