"""The process that opens untrusted audio files: `python -m songkit._decode`, started by `songkit.audio`.

libsndfile and the decoders inside it parse files that anybody may have made; what goes wrong here ends this process
and not the one that asked. It may use little memory, writes no files, and is killed when it does not answer.

A request is a line of JSON on standard input: `{"path": ..., "start": ..., "stop": ...}` in samples, or without
`start` for the properties alone. The answer is a line of JSON; where audio was asked for, blocks follow, each a line
with its number of bytes and then interleaved float32 samples, and at last a line `{}` or `{"error": ...}`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

import soundfile

__all__ = ["BLOCK", "MEMORY", "main"]

BLOCK = 1 << 16
"""Samples of a channel in one block."""
MEMORY = 2 << 30
"""Address space that decoding may use, in bytes."""
_LONGEST = 1 << 40
"""More samples than this are how libsndfile says that the header does not know."""
_NOT_AUDIO = (1, 7, 18)
"""Codes of libsndfile: format not recognised; not a regular file (what it says of a damaged MP3); unimplemented."""

_MP3_LEAD = 16 * 1152
"""Samples decoded before a range of an MP3: its first frame needs bytes of up to a dozen frames before it, and is
silent without them."""


def main() -> None:
    """Answers requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Decoders print warnings to standard output and error; the answers keep a channel of their own.
    answers = os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            _answer(request, answers)
        except (soundfile.SoundFileError, OSError, TypeError, ValueError, MemoryError) as error:
            _line(answers, {"error": _reason(error)})
        answers.flush()


def _answer(request: dict[str, Any], answers: BinaryIO) -> None:
    path = request["path"]
    with _Forward(path) as file:
        _check_whole(Path(path), file)
        start, stop = request.get("start"), request.get("stop")
        header = {"sample_rate": file.samplerate, "channels": file.channels, "samples": file.frames}
        if start is None:
            _line(answers, header)
            return
        stop = file.frames if stop is None else min(stop, file.frames)
        start = min(start, stop)
        lead = min(start, _MP3_LEAD) if file.format == "MP3" else 0
        file.seek(start - lead)
        file.read(lead, dtype="float32")
        _line(answers, {**header, "start": start, "stop": stop})
        left = stop - start
        while left:
            block = file.read(min(BLOCK, left), dtype="float32", always_2d=True)
            if not len(block):
                raise ValueError(f"it ends or is damaged after {stop - left} of {file.frames} samples")
            left -= len(block)
            data = block.tobytes()
            _line(answers, {"bytes": len(data)})
            answers.write(data)
        _line(answers, {})


class _Forward(soundfile.SoundFile):
    """A file that is read on and on.

    After every read of a seekable file, soundfile seeks to where it is already; that clears what an MP3 decoder
    remembers, and the next block begins with silence.
    """

    def seekable(self) -> bool:
        """Returns false; `seek` works all the same."""
        return False


def _check_whole(path: Path, file: soundfile.SoundFile) -> None:
    if file.frames == 0:
        raise ValueError("it holds no samples")
    if file.frames > _LONGEST:
        raise ValueError("its header does not say how long it is; write it again as FLAC or WAV")
    with path.open("rb") as raw:
        head = raw.read(8)
    claimed = int.from_bytes(head[4:], "little") + 8
    # libsndfile shortens a cut WAV file without a word; 0xFFFFFFFF is what encodes into a pipe write.
    if head[:4] == b"RIFF" and path.stat().st_size < claimed < 0xFFFFFFFF:
        raise ValueError(f"it is cut short: its header promises {claimed} bytes, it has {path.stat().st_size}")


def _line(answers: BinaryIO, values: dict[str, Any]) -> None:
    answers.write(json.dumps(values).encode() + b"\n")


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"decoding it takes more than {MEMORY >> 30} GiB of memory"
    if isinstance(error, soundfile.LibsndfileError):
        if error.code in _NOT_AUDIO:
            return "it is not WAV, FLAC, MP3 or OGG, or its header is damaged"
        return str(error.error_string).removeprefix("Error : ").rstrip(".")
    return str(error)


if __name__ == "__main__":
    main()
