"""The native library of the kernels: compiled by the machine's own compiler at first use, kept in the user's cache.

It is never required. Without a compiler, or with SONGKIT_NATIVE=0, the kernels run on torch alone.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch

__all__ = ["cache_folder", "compile_library", "library"]

_FOLDER = Path(__file__).with_name("cpp")
# No -ffast-math: it lets the order of sums change, and libraries that are linked with it flush denormals everywhere.
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_COMPILERS = ("g++", "clang++", "c++")
_SECONDS = 120

_POINTER, _COUNT, _FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_FUNCTIONS: dict[str, list[type]] = {
    "songkit_linear": [_POINTER, _POINTER, _POINTER, _COUNT, ctypes.c_float, _FLAG],
    "songkit_step": [
        *(_POINTER, _COUNT, _POINTER, ctypes.c_float, _COUNT, _POINTER),
        *(_POINTER, _COUNT, _POINTER, _POINTER, _COUNT, _FLAG),
    ],
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """Returns the library, compiled if that was not done before; `None`, with one warning, where it cannot be."""
    if os.environ.get("SONGKIT_NATIVE", "1") == "0":
        return None
    try:
        path = compile_library()
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        warnings.warn(
            f"decoding runs without its native kernels, several times slower: {error}. Install a C++ compiler such as "
            "g++, or set SONGKIT_NATIVE=0 to do without.",
            stacklevel=2,
        )
        return None
    for name, types in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = types, None
    if not loaded.songkit_parallel():
        warnings.warn(
            f"the native kernels of decoding use one thread: OpenMP could not be linked to {path}. Install a C++ "
            "compiler that has it, such as g++, name it in CXX and delete that file.",
            stacklevel=2,
        )
    return loaded


def compile_library() -> Path:
    """Compiles the library for this machine, unless that was done before.

    Raises:
        OSError: If there is no compiler, or it fails.
    """
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise OSError(f"there is none of the compilers {', '.join(_COMPILERS)}, and CXX is not set")
    source, texts = _FOLDER / "step.cpp", [path.read_bytes() for path in sorted(_FOLDER.iterdir())]
    key = repr((texts, _FLAGS, compiler, platform.machine(), _abilities(), torch.__version__))
    path = cache_folder() / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # torch's own OpenMP is linked, so that there is one pool of threads.
    libraries = Path(torch.__file__).parent / "lib"
    attempts = (("-fopenmp", f"-L{libraries}"), ("-fopenmp-simd",))  # Apple's compiler has no OpenMP: one thread then
    reason = ""
    for extra in attempts:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [compiler, *_FLAGS, *extra, str(source), "-o", str(made)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            except subprocess.TimeoutExpired as error:
                raise OSError(f"{compiler} did not compile {source} within {_SECONDS} s") from error
            if done.returncode == 0:
                os.replace(made, path)
                return path
            reason = reason or done.stderr.strip()[-400:]
    raise OSError(f"{compiler} could not compile {source}: {reason}")


def cache_folder() -> Path:
    """Returns where compiled libraries are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "songkit"


def _abilities() -> str:
    """What the processor can do: a home folder may be shared by machines that differ."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
