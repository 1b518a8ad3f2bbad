"""The parent's side of `songkit._decode`: one child process, started when needed and replaced when it fails."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from songkit.errors import AudioError

__all__ = ["DECODER", "Decoder"]

_COMMAND = (sys.executable, "-P", "-m", "songkit._decode")
_TIMEOUT = 60.0
_LINE = 4096
"""No line of an answer is longer, in bytes."""


class Decoder:
    """Reads audio files in a child process. One request at a time; threads wait for each other."""

    def __init__(self, command: Sequence[str] = _COMMAND, timeout: float = _TIMEOUT) -> None:
        """Starts nothing yet.

        Args:
            command: The child.
            timeout: How long it may stay silent, in seconds.
        """
        self._command, self._timeout = tuple(command), timeout
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._buffer = b""

    def properties(self, path: Path) -> dict[str, int]:
        """Returns `sample_rate`, `channels` and `samples` of a file.

        Raises:
            AudioError: It cannot be decoded.
        """
        with self._request(path, {}) as header:
            return {name: int(header[name]) for name in ("sample_rate", "channels", "samples")}

    def read(self, path: Path, start: int, stop: int | None) -> np.ndarray:
        """Returns float32 samples [T, C] of a file from `start` up to `stop`, both at least 0.

        Raises:
            AudioError: It cannot be decoded, or the range cannot.
        """
        with self._request(path, {"start": start, "stop": stop}) as header:
            audio = np.empty((header["stop"] - header["start"], header["channels"]), np.float32)
            view, filled = audio.reshape(-1).view(np.uint8), 0
            while "bytes" in (block := self._line(path)):
                for part in self._bytes(path, block["bytes"]):
                    view[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
                    filled += len(part)
            if filled != len(view):
                raise self._failed(path, f"the decoder gave {filled} of {len(view)} bytes")
        return audio

    def close(self) -> None:
        """Ends the child; the next request starts another."""
        child, self._child = self._child, None
        self._buffer = b""
        if child is not None and self._owner == os.getpid():
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what could not be flushed to a dead child
                        pipe.close()

    @contextlib.contextmanager
    def _request(self, path: Path, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self._lock:
            try:
                self._start()
                assert self._child is not None
                assert self._child.stdin is not None
                request = json.dumps({"path": os.path.abspath(path), **values}) + "\n"
                try:
                    self._child.stdin.write(request.encode())
                    self._child.stdin.flush()
                except OSError as error:
                    raise self._failed(path, "the decoder died before it could be asked") from error
                yield self._line(path)
            except _RefusedError as refused:
                raise AudioError(str(refused)) from None
            except BaseException:
                self.close()  # whatever is left of the answer must not be taken for the next one's
                raise

    def _start(self) -> None:
        if self._child is not None and self._owner == os.getpid() and self._child.poll() is None:
            return
        self.close()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._owner = os.getpid()
        self._child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )

    def _line(self, path: Path) -> dict[str, Any]:
        """Returns the next line of the answer; raises what it says went wrong."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LINE:
                raise self._failed(path, "the decoder answered nonsense")
            self._buffer += self._more(path)
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            values: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise self._failed(path, "the decoder answered nonsense") from error
        if "error" in values:
            raise _RefusedError(_message(path, values["error"]))
        return values

    def _bytes(self, path: Path, count: int) -> Iterator[bytes]:
        while count:
            part = self._buffer or self._more(path)
            part, self._buffer = part[:count], part[count:]
            count -= len(part)
            yield part

    def _more(self, path: Path) -> bytes:
        assert self._child is not None
        assert self._child.stdout is not None
        began = time.monotonic()
        ready, _, _ = select.select([self._child.stdout], [], [], self._timeout)
        if not ready:
            raise self._failed(path, f"decoding it did not get on for {time.monotonic() - began:.0f} s and was ended")
        part = os.read(self._child.stdout.fileno(), 1 << 18)
        if not part:
            code = self._child.wait()
            how = f"signal {-code}" if code < 0 else f"status {code}"
            raise self._failed(path, f"the decoder died of it ({how})")
        return part

    def _failed(self, path: Path, reason: str) -> AudioError:
        return AudioError(_message(path, reason))


class _RefusedError(Exception):
    """The child's own answer that a file is bad; it is ready for the next."""


DECODER = Decoder()
"""The decoder of this process."""


def _message(path: Path, reason: str) -> str:
    return (
        f"audio file {path} cannot be read: {reason}. Check it with another player, or write it again, for example "
        "with 'ffmpeg -i IN OUT.flac'."
    )
