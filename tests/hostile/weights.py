"""Hostile weights and training states: headers that lie, pickles in disguise, links, and names that lead elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fakes
import torch
from hostile.attack import CANARY, CODE, Case
from safetensors.torch import save

from songkit.checkpoint import _digest

__all__ = ["CASES"]

_GENERATE = ("generate", "lyrics.txt", "--out", "out", "--model", "model/model.yaml")
_LYRICS = "[verse]\nla la la\n"


class _Executed:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


class _Evaluated:
    """The same with Python's own `exec`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (CODE,)


def _zip(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return file.getvalue()


def _tar(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("../../../data.pkl")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _torch(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


_PICKLES = {
    "a pickle": pickle.dumps(_Executed()),
    "an old pickle": pickle.dumps(_Executed(), 0),
    "a pickle that evaluates": pickle.dumps({"gain": _Evaluated()}),
    "a pickle of torch": _torch({"gain": _Executed()}),
    "an old pickle of torch": _torch({"gain": _Executed()}, _use_new_zipfile_serialization=False),
    "a pickle in a zip": _zip(archive__data_pkl=pickle.dumps(_Executed()), archive__version=b"3\n"),
    "a pickle in a tar": _tar(pickle.dumps(_Executed())),
    "a pickle in a gzip": gzip.compress(pickle.dumps(_Executed())),
    "a numpy object array": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    + b" " * 57
    + b"\n"
    + pickle.dumps([_Executed()]),
    "a python file": CODE.encode(),
    "a shell script": f"#!/bin/sh\ntouch {CANARY}\n".encode(),
    "nothing": b"",
    "seven bytes": b"\0" * 7,
}

_OURS = {"component": "local/fake", "revision": 1}
_GAIN = {"gain": torch.ones(1)}
_BYTES = b"\0\0\x80?"  # 1.0


def _header(text: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header, whatever it says of itself."""
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def _described(tensors: str, data: bytes = _BYTES, metadata: Mapping[str, Any] = _OURS, digest: str = "") -> bytes:
    """A file that says it is ours, with this text where its tensors are described."""
    own = json.dumps({"songkit": json.dumps(dict(metadata)), "sha256": digest or _digest(_GAIN, metadata)})
    return _header(f'{{"__metadata__":{own}{"," if tensors else ""}{tensors}}}', data)


def _tensor(dtype: str = '"F32"', shape: str = "[1]", offsets: str = "[0,4]", name: str = "gain") -> str:
    return f'"{name}":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


def _true(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] = _OURS) -> bytes:
    """A file whose digest is right."""
    return save(dict(tensors), {"songkit": json.dumps(dict(metadata)), "sha256": _digest(tensors, metadata)})


_DEEP = "[" * 100_000 + "]" * 100_000
_HEADERS = {
    "a header of 2^63 bytes": _header("{}", length=2**63),
    "a header of 2^64 - 1 bytes": _header("{}", length=2**64 - 1),
    "a header of no bytes": _header("", length=0),
    "a header that is cut": _header('{"__meta', length=8),
    "a header that is a list": _header("[]"),
    "a header that is a string": _header('"__metadata__"'),
    "a header that is not UTF-8": _header(b'{"\xff\xfe": 1}'),
    "a header of 10^5 levels": _header(_DEEP),
    "a description of 10^5 levels": _header(json.dumps({"__metadata__": {"songkit": _DEEP, "sha256": ""}})),
    "a description that is a list": _header(json.dumps({"__metadata__": {"songkit": "[1]", "sha256": ""}})),
    "a description that is no JSON": _header(json.dumps({"__metadata__": {"songkit": "os.system", "sha256": ""}})),
    "a description that is a number": _header(json.dumps({"__metadata__": {"songkit": 3, "sha256": 3}})),
    "no description": _header(_tensor().join("{}"), _BYTES),
    "metadata that is a list": _header('{"__metadata__":[1]}'),
    "somebody else's component": _described(_tensor(), metadata={**_OURS, "component": "os.system"}),
    "a component that is a list": _described(_tensor(), metadata={**_OURS, "component": [[]]}),
    "another revision": _described(_tensor(), metadata={**_OURS, "revision": 10**300}),
    "a revision that is true": _described(_tensor(), metadata={**_OURS, "revision": "1"}),
    "a digest of nothing": _described(_tensor(), digest="0"),
    "overlapping tensors": _described(f"{_tensor()},{_tensor(name='twin')}"),
    "a tensor twice": _described(f"{_tensor()},{_tensor()}"),
    "a tensor twice, differently": _described(f"{_tensor()},{_tensor(offsets='[4,8]')}", _BYTES * 2),
    "offsets below zero": _described(_tensor(offsets="[-4,0]")),
    "offsets backwards": _described(_tensor(offsets="[4,0]")),
    "offsets beyond the end": _described(_tensor(shape="[1000000]", offsets="[0,4000000]")),
    "offsets of 2^63": _described(_tensor(offsets="[0,9223372036854775808]")),
    "offsets that are fractions": _described(_tensor(offsets="[0.5,4.5]")),
    "offsets that are text": _described(_tensor(offsets='["0","4"]')),
    "three offsets": _described(_tensor(offsets="[0,4,8]")),
    "no offsets": _described('"gain":{"dtype":"F32","shape":[1]}'),
    "a hole between tensors": _described(f"{_tensor()},{_tensor(name='twin', offsets='[8,12]')}", _BYTES * 3),
    "data that no tensor names": _described(_tensor(), _BYTES * 1000),
    "no data": _described(_tensor(), b""),
    "a shape of NaN": _described(_tensor(shape="[NaN]")),
    "a shape of infinity": _described(_tensor(shape="[Infinity]")),
    "a shape below zero": _described(_tensor(shape="[-1]")),
    "a shape of 2^62": _described(_tensor(shape="[4611686018427387904,4]")),
    "a shape that overflows to its size": _described(_tensor(shape="[4611686018427387905,4]")),
    "a shape of 10^5 levels": _described(_tensor(shape=_DEEP)),
    "a shape that is text": _described(_tensor(shape='"1"')),
    "a type that is a callable": _described(_tensor(dtype='"os.system"')),
    "a type of objects": _described(_tensor(dtype='"O"')),
    "a type that does not fit": _described(_tensor(dtype='"F64"')),
    "a tensor that is a number": _described('"gain":3'),
    "a tensor of 10^5 letters": _true({"g" * 100_000: torch.ones(1)}),
    "a tensor with a path": _true({"../../gain": torch.ones(1)}),
    "a tensor with a magic name": _true({"__class__": torch.ones(1)}),
    "a tensor with an escape sequence": _true({"\x1b[2Jgain": torch.ones(1)}),
    "20,000 tensors": _true({f"t{i}": torch.ones(1) for i in range(20_000)}),
    "no tensors": _true({}),
    "a tensor of another shape": _true({"gain": torch.ones(3)}),
    "a tensor of whole numbers": _true({"gain": torch.ones(1, dtype=torch.int64)}),
    "a complex tensor": _true({"gain": torch.ones(1, dtype=torch.complex64)}),
    "a scale of another shape": _true({"gain": torch.ones(1, dtype=torch.int8), "gain::scale": torch.ones(7)}),
    "too few scales": _true({"gain": torch.ones(3, 4, dtype=torch.int8), "gain::scale": torch.ones(2)}),
    "a scale of a number": _true({"gain": torch.ones((), dtype=torch.int8), "gain::scale": torch.ones(1)}),
    "a scale of a scale": _true({"gain": torch.ones(1, dtype=torch.int8), "gain::scale::scale": torch.ones(1)}),
    "a scale of nothing": _true({"gain": torch.ones(1), "other::scale": torch.ones(1)}),
}


def _hold(content: bytes) -> Callable[[Path], None]:
    """A model whose codec has this file."""

    def prepare(folder: Path) -> None:
        (folder / "model").mkdir()
        fakes.write_model(folder / "model")
        (folder / "model" / "codec.safetensors").write_bytes(content)

    return prepare


def _written(weights: str) -> Callable[[Path], None]:
    """A model whose recipe names these weights for its codec."""

    def prepare(folder: Path) -> None:
        (folder / "model").mkdir()
        path = fakes.write_model(folder / "model")
        text = path.read_text()
        assert "./codec.safetensors" in text
        path.write_text(text.replace("./codec.safetensors", weights))

    return prepare


def _replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """A model at whose codec's weights there is something else."""

    def prepare(folder: Path) -> None:
        _hold(b"")(folder)
        path = folder / "model" / "codec.safetensors"
        path.unlink()
        make(path)

    return prepare


def _huge(path: Path) -> None:
    with path.open("wb") as file:  # sparse: it takes no room
        file.write(struct.pack("<Q", 10**11 - 8))
        file.truncate(10**11)


_FILES = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to the passwords": lambda path: path.symlink_to("/etc/passwd"),
    "a link to an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a hundred gigabytes of header": _huge,
}
_NAMES = {
    "up and away": "../../../../../../../etc/passwd",
    "absolute": "/etc/passwd",
    "an endless device": "/dev/zero",
    "the home of nobody": "~nobody-at-all/weights",
    "an address": "'https://example.com/weights.safetensors'",
    "a null byte": '"a\\0b"',
    "10^5 letters": "x" * 100_000,
    "empty": "''",
    "a list": "[./codec.safetensors]",
    "a number": "3",
    "a callable": "{_target_: os.system}",
    "a submodule that leads up": "{../..: ./codec.safetensors}",
    "a submodule that is a method": "{forward: ./codec.safetensors}",
    "a submodule that is magic": "{__class__: ./codec.safetensors}",
    "a submodule that is a parameter": "{gain: ./codec.safetensors}",
    "a submodule of 10^4 levels": "{'" + "a." * 90 + "a': ./codec.safetensors}",
    "a mapping in a mapping": "{a: {b: {c: ./codec.safetensors}}}",
}


def _state(content: bytes | Callable[[Path], object], digest: bytes | None = None) -> Callable[[Path], None]:
    """The folder of a training whose newest state is this, with a digest that is right."""

    def prepare(folder: Path) -> None:
        states = folder / "checkpoints"
        states.mkdir()
        path = states / "step-000000007.pt"
        if isinstance(content, bytes):
            path.write_bytes(content)
            right = hashlib.sha256(content).hexdigest().encode()
            path.with_suffix(".sha256").write_bytes(right if digest is None else digest)
        else:
            content(path)
            path.with_suffix(".sha256").write_bytes(b"0" * 64)

    return prepare


class _Huge:
    """A tensor of 4 TB over a storage of 4 bytes."""

    def __reduce__(self) -> tuple[Any, ...]:
        storage = torch.ones(1).untyped_storage()
        typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
        return torch._utils._rebuild_tensor_v2, (typed, 0, (10**12,), (1,), False, {})


_STATES = {
    **{name: content for name, content in _PICKLES.items()},
    "a number": _torch(3),
    "a list": _torch([1, 2]),
    "a whole module": _torch(torch.nn.Linear(1, 1)),
    "a function": _torch(print),
    "a tensor larger than its data": _torch({"a": _Huge()}),
    "a zip of zeros": _zip(archive__data_pkl=b"\0" * 10_000_000, archive__version=b"3\n"),
    "10^5 levels": _zip(archive__data_pkl=b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", archive__version=b"3\n"),
    "an empty stack": _zip(archive__data_pkl=b"\x80\x02R.", archive__version=b"3\n"),
    "a memo of 2^31": _zip(archive__data_pkl=b"\x80\x02]r\xff\xff\xff\x7f.", archive__version=b"3\n"),
    "safetensors": _true(_GAIN),
}


def _refused(name: str, prepare: Callable[[Path], object], *says: str) -> Case:
    return Case(name, says, {"lyrics.txt": _LYRICS}, _GENERATE, prepare)


CASES = [
    *(_refused(f"weights: {name}", _hold(content), "codec.safetensors") for name, content in _PICKLES.items()),
    *(_refused(f"weights: {name}", _hold(content), "codec.safetensors") for name, content in _HEADERS.items()),
    *(_refused(f"weights: {name}", _replaced(make), "codec.safetensors") for name, make in _FILES.items()),
    *(_refused(f"weights' name: {name}", _written(text), "weights") for name, text in _NAMES.items()),
    *(
        Case(f"state: {name}", ("step-000000007.pt",), {}, ("load_state", "checkpoints"), _state(content))
        for name, content in _STATES.items()
    ),
    *(
        Case(f"state: {name}", ("step-000000007.pt",), {}, ("load_state", "checkpoints"), _state(make))
        for name, make in _FILES.items()
        if make is not _huge  # a state may be large, and is hashed whole
    ),
    *(
        Case(f"state: {name}", ("step-000000007.pt",), {}, ("load_state", "checkpoints"), _state(_torch({}), digest))
        for name, digest in {
            "another digest": b"0" * 64,
            "a digest that is no text": b"\xff\xfe\0",
            "a digest of a megabyte": b"0" * 1_000_000,
        }.items()
    ),
]
