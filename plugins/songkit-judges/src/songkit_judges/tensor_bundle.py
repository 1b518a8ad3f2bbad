"""TensorFlow's checkpoint files without TensorFlow: an index (a sorted string table) and the tensors' bytes.

The table is LevelDB's: blocks of prefix-compressed entries, and at the end a footer that finds them (leveldb's
doc/table_format.md). An entry's value is a `BundleEntryProto` (tensorflow/core/protobuf/tensor_bundle.proto). Read is
what musicnn's checkpoints hold: float32 tensors in one shard, uncompressed. Nothing in the files is executed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from songkit.errors import CheckpointError

__all__ = ["read_bundle"]

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_FLOAT = 1
"""DT_FLOAT."""


def read_bundle(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """Returns the float32 tensors of a checkpoint by name; those of other types are left out.

    Args:
        index: The file that ends in `.index`.
        data: The file that ends in `.data-00000-of-00001`.

    Raises:
        CheckpointError: If the files are not such a checkpoint.
    """
    try:
        footer = index[-_FOOTER:]
        if len(footer) < _FOOTER or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
            raise CheckpointError("it does not end as a TensorFlow checkpoint's index does")
        _, _, at = _handle(footer, 0)  # of the metaindex, which is empty
        offset, size, _ = _handle(footer, at)
        tensors = {}
        for _, block in _entries(_block(index, offset, size)):
            start, length, _ = _handle(block, 0)
            for key, value in _entries(_block(index, start, length)):
                tensor = _tensor(value, data) if key else None  # the entry without a name is the header
                if tensor is not None:
                    tensors[key.decode()] = tensor
    except (IndexError, struct.error, ValueError) as error:
        raise CheckpointError(f"it is no TensorFlow checkpoint: {error}") from error
    return tensors


def _block(index: bytes, offset: int, size: int) -> bytes:
    if index[offset + size] != 0:
        raise ValueError("a block of the index is compressed")
    return index[offset : offset + size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values; a key shares its beginning with the one before."""
    (restarts,) = struct.unpack("<I", block[-4:])
    at, end, key = 0, len(block) - 4 * (restarts + 1), b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _tensor(entry: bytes, data: bytes) -> np.ndarray | None:
    fields = dict(_fields(entry))
    if fields.get(1) != _FLOAT:
        return None
    shape = [dict(_fields(dim)).get(1, 0) for number, dim in _fields(fields.get(2, b"")) if number == 2]
    offset, size = fields.get(4, 0), fields.get(5, 0)
    if offset + size > len(data):
        raise ValueError(f"a tensor ends at byte {offset + size} of {len(data)}")
    return np.frombuffer(data, "<f4", size // 4, offset).reshape(shape)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yields number and value of each field of a protocol buffer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
        elif wire == 2:
            length, at = _varint(message, at)
            yield number, message[at : at + length]
            at += length
        elif wire == 5:
            yield number, message[at : at + 4]
            at += 4
        else:
            raise ValueError(f"field {number} has the wire type {wire}")


def _handle(block: bytes, at: int) -> tuple[int, int, int]:
    offset, at = _varint(block, at)
    size, at = _varint(block, at)
    return offset, size, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns a number of seven bits a byte and where the next byte is."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
