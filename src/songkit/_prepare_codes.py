"""The second step of `songkit prepare`: prepared audio to codes."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from songkit._prepare_audio import begun, finish, progress_bar, write_json, writing
from songkit._workers import in_order, worker_pool
from songkit.components.prepared import FORMAT, PreparedSource, layout_to_json, offsets
from songkit.errors import LayoutError
from songkit.interfaces import Tokenizer
from songkit.types import Audio

__all__ = ["weights_digest", "write_codes"]

_BATCH = 8
_BATCH_SECONDS = 240.0
"""A batch holds at most so many songs, and so many padded seconds of a track (or one song that is longer)."""


def weights_digest(module: nn.Module) -> str:
    """Returns a SHA-256 over the names, types, shapes and values of all that a module's state holds."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_codes(
    prepared: PreparedSource,
    tokenizer: Tokenizer,
    make_tokenizer: Callable[[], Tokenizer],
    folder: Path,
    info: dict[str, Any],
    *,
    workers: int,
    progress: bool,
) -> None:
    """Writes the codes of all songs of a prepared set.

    Args:
        prepared: The whole set, unfiltered.
        tokenizer: Encodes it, where there is an accelerator or one worker.
        make_tokenizer: Makes the same in a worker process; must be picklable.
        folder: `codes-<key>` of the prepared set; appears only when everything is written.
        info: Goes into `layout.json`.
        workers: Processes that encode on the CPU.
        progress: Whether to show a progress bar.

    Raises:
        LayoutError: The tokenizer does not fit the audio, or breaks its own promise of frames and ids.
    """
    _check_fit(prepared, tokenizer)
    layout, streams = tokenizer.layout, len(tokenizer.layout)
    frames = np.array(
        [math.ceil(n * layout.frame_rate / tokenizer.sample_rate) for n in prepared.samples.tolist()], int
    )
    ends = offsets(frames * streams)
    dtype = next(d for d in ("u1", "u2", "u4") if max(s.size for s in layout.streams) <= 2 ** (8 * int(d[1])))
    batches = list(_batches(prepared.samples, prepared.sample_rate))
    seconds = prepared.samples / prepared.sample_rate
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer.eval().to(device)
    root, partial = folder.parent, folder.parent / f".partial-{folder.name}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(begun(partial / "done"))
        with writing(root):
            partial.mkdir(exist_ok=True)
            path = partial / f"ids.{dtype}"
            path.touch()
            file = stack.enter_context(path.open("r+b", buffering=0))
            done = stack.enter_context((partial / "done").open("ab", buffering=0))  # a byte for each batch
            file.truncate(int(ends[-1]) * int(dtype[1]))
            first = done.tell()
        skipped = sum(len(batch) for batch in batches[:first])
        bar = stack.enter_context(progress_bar("codes", len(prepared), skipped, progress))
        began, made = time.monotonic(), 0.0
        if workers > 1 and device.type == "cpu":
            start = (make_tokenizer, (prepared.root, prepared.audio_key), frames)
            pool = stack.enter_context(worker_pool(_start, start, workers))
            encoded = in_order(pool, _encode_here, batches[first:], window=2 * workers)
        else:
            encoded = (_encode(prepared, tokenizer, batch, frames, device) for batch in batches[first:])
        for batch, ids in zip(batches[first:], encoded, strict=True):
            with writing(root):
                for row, index in enumerate(batch):
                    file.seek(int(ends[index]) * int(dtype[1]))
                    left = memoryview(ids[row, :, : frames[index]].astype(f"<{dtype}").tobytes())
                    while left:
                        left = left[file.write(left) :]
                os.fsync(file.fileno())
                done.write(b".")
            made += float(seconds[batch].sum())
            bar.set_postfix_str(f"{made / (time.monotonic() - began):.1f} x real time", refresh=False)
            bar.update(len(batch))
    values = {"format": FORMAT, **info, "layout": layout_to_json(layout), "dtype": dtype, "frames": frames.tolist()}
    with writing(root):
        write_json(partial / "layout.json", values)
        finish(partial, folder)


def _batches(samples: np.ndarray, sample_rate: int) -> Iterator[list[int]]:
    """Yields songs in order of length, so that a batch holds little padding."""
    batch: list[int] = []
    for index in np.argsort(samples, kind="stable").tolist():
        padded = (len(batch) + 1) * samples[index] / sample_rate
        if batch and (len(batch) == _BATCH or padded > _BATCH_SECONDS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def _encode(
    prepared: PreparedSource, tokenizer: Tokenizer, batch: list[int], frames: np.ndarray, device: torch.device
) -> np.ndarray:
    """Returns the ids [B, K, F] of some songs."""
    lengths = prepared.samples[batch]
    tracks = {track: torch.zeros(len(batch), prepared.channels, int(lengths.max())) for track in tokenizer.tracks}
    for row, index in enumerate(batch):
        for name, track in prepared.song_tracks(index).items():
            if name in tracks:
                tracks[name][row, :, : lengths[row]] = torch.from_numpy(track.read())
    audio = Audio(
        {name: tensor.to(device) for name, tensor in tracks.items()},
        torch.from_numpy(lengths).to(device),
        prepared.sample_rate,
    )
    codes = tokenizer.encode(audio)
    if codes.lengths.tolist() != frames[batch].tolist():
        raise LayoutError(
            f"{type(tokenizer).__name__} gave {codes.lengths.tolist()} frames for songs of {lengths.tolist()} samples; "
            f"its layout ({tokenizer.layout}) promises {frames[batch].tolist()}. This is a defect of the tokenizer."
        )
    ids = codes.ids.cpu().numpy()
    sizes = np.array([stream.size for stream in tokenizer.layout.streams])
    if ids.min(initial=0) < 0 or (ids.max(axis=(0, 2), initial=0) >= sizes).any():
        raise LayoutError(
            f"{type(tokenizer).__name__} gave ids outside its layout ({tokenizer.layout}). This is a defect of the "
            "tokenizer."
        )
    return np.asarray(ids)


_work: tuple[PreparedSource, Tokenizer, np.ndarray]
"""What a worker process keeps between batches."""


def _start(make_tokenizer: Callable[[], Tokenizer], songs: tuple[Path, str], frames: np.ndarray) -> None:
    global _work
    torch.set_num_threads(1)
    root, audio = songs
    _work = PreparedSource(root, audio=audio), make_tokenizer().eval(), frames


def _encode_here(batch: list[int]) -> np.ndarray:
    prepared, tokenizer, frames = _work
    return _encode(prepared, tokenizer, batch, frames, torch.device("cpu"))


def _check_fit(prepared: PreparedSource, tokenizer: Tokenizer) -> None:
    have = set(prepared.tracks) | ({"mix"} if {"vocal", "accompaniment"} <= set(prepared.tracks) else set())
    problems = []
    if prepared.sample_rate != tokenizer.sample_rate:
        problems.append(f"it needs {tokenizer.sample_rate} Hz, the audio has {prepared.sample_rate} Hz")
    if prepared.channels != tokenizer.channels:
        problems.append(f"it needs {tokenizer.channels} channels, the audio has {prepared.channels}")
    if missing := set(tokenizer.tracks) - have:
        problems.append(
            f"it needs the tracks {', '.join(tokenizer.tracks)}, the audio lacks {', '.join(sorted(missing))}"
        )
    if problems:
        raise LayoutError(
            f"{type(tokenizer).__name__} does not fit the audio of {prepared.root}: {'; '.join(problems)}. Set "
            "prepare.sample_rate, prepare.channels and prepare.tracks, and prepare the songs again."
        )
