"""Codecs that others published: their weights files, and one song track at a time.

A plugin around such a codec derives from `PublishedCodec`, and says by `published_state` what the package's own weights
files hold. `songkit.imports` helps where the package imports more than is used.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.checkpoint import fill
from songkit.errors import CheckpointError, LayoutError
from songkit.interfaces import Codec
from songkit.types import Audio, Codes, Stream, TokenLayout

__all__ = ["PublishedCodec", "PublishedWeights", "fold_weight_norm", "load_published", "remove_weight_norm"]


@runtime_checkable
class PublishedWeights(Protocol):
    """A module that can also be filled from the weights files of somebody else's package."""

    def published_state(self, content: Any) -> Mapping[str, Tensor]:
        """Returns the module's state dict.

        Args:
            content: What the file holds: tensors, numbers, strings, and containers of them.

        Raises:
            CheckpointError: If the content is something else, or belongs to another configuration.
        """
        ...


def load_published(path: Path, module: nn.Module) -> None:
    """Loads a weights file in the format of the package that published it.

    The file is a `torch.save` of tensors and plain values; anything else in it, such as code, is refused. Where its
    name ends as PyTorch's hub has it, in a dash and the start of its SHA-256, that is verified.

    Args:
        path: Such as `encodec_24khz-d7cc33bc.th`.
        module: Has `published_state`; untouched when an error is raised.

    Raises:
        CheckpointError: If the file is missing, damaged, holds something else, or does not fit.
    """
    if not isinstance(module, PublishedWeights):
        raise TypeError(f"{type(module).__name__} reads no published weights: it has no method published_state")
    if not path.is_file():
        raise CheckpointError(
            f"weights file {path} does not exist. songkit fetches no weights: get the file from the codec's authors "
            "(the plugin's page says where), and name it by 'weights' in the recipe."
        )
    named = re.fullmatch(r".*-([0-9a-f]{8,64})", path.stem)
    if named and not _sha256(path).startswith(named[1]):
        raise CheckpointError(
            f"weights file {path} is damaged: its SHA-256 starts with other digits than its name says. Get it again."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"weights file {path} cannot be read as tensors and plain values ({reason}). It is damaged, or holds "
            "objects that could run code, which songkit does not load. Get it again."
        ) from error
    try:
        tensors = module.published_state(content)
    except CheckpointError as error:
        raise CheckpointError(f"weights file {path}: {error}") from error
    fill(path, tensors, module)


def remove_weight_norm(network: nn.Module) -> None:
    """Replaces each pair of `weight_g` and `weight_v` by the weight that they stand for.

    PyTorch's old weight norm recomputes it in every pass, and keeps it where moves and copies of a module do not
    see it. The numbers stay the same to the bit.
    """
    for module in network.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state dict as `remove_weight_norm` leaves it, of one from before."""
    folded = {}
    for name, tensor in state.items():
        if name.endswith("weight_g"):
            direction = state.get(f"{name[:-1]}v")
            if direction is None:
                raise CheckpointError(f"it has '{name}' and no '{name[:-1]}v'")
            folded[name[:-2]] = torch._weight_norm(direction, tensor, 0)  # what weight_norm itself calls
        elif not name.endswith("weight_v"):
            folded[name] = tensor
    return folded


class PublishedCodec(Codec):
    """A frozen codec that codes one track at a time; a song of several tracks has tracks × levels streams.

    Songs are coded one by one and at their own length, so that neither padding nor company changes them.
    """

    def __init__(
        self,
        tracks: Sequence[str],
        sizes: Sequence[int],
        *,
        frame_rate: float,
        sample_rate: int,
        channels: int,
    ) -> None:
        """Declares the layout.

        Args:
            tracks: Each has all levels; the streams are ordered by track, then level.
            sizes: Number of ids of each level.
            frame_rate: Frames a second.
            sample_rate: Samples a second.
            channels: Channels that `encode_track` and `decode_track` work on.
        """
        super().__init__()
        streams = (Stream(track, level, size) for track in tracks for level, size in enumerate(sizes))
        self.layout = TokenLayout(frame_rate, tuple(streams))
        self.tracks = self.decoded_tracks = tuple(tracks)
        self.sample_rate, self.channels, self.levels = sample_rate, channels, len(sizes)

    @abstractmethod
    def encode_track(self, wave: Tensor) -> Tensor:
        """Turns samples [C, T] of one track, T > 0, into ids [levels, F]."""

    @abstractmethod
    def decode_track(self, ids: Tensor) -> Tensor:
        """Turns ids [levels, F] of one track, F > 0, into samples [C, T]."""

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: in training, quantizers drop levels at random and move their codes."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, audio: Audio) -> Codes:
        """Turns the tracks that are there, [B, C, T], into ids [B, K, F].

        Channels are averaged for a codec of one channel, and a single one is doubled for a codec of two.

        Raises:
            LayoutError: If the sample rate or the channels are not the codec's, or no track is.
        """
        if audio.sample_rate != self.sample_rate:
            raise LayoutError(f"the codec encodes audio at {self.sample_rate} Hz, this is at {audio.sample_rate} Hz")
        layout = self.layout.select(audio.tracks)
        if not layout.streams:
            raise LayoutError(
                f"the codec encodes {', '.join(self.tracks)}; the audio has {', '.join(audio.tracks) or 'none'}. Name "
                "the tracks by the codec's option 'tracks'."
            )
        lengths = [math.ceil(n * layout.frame_rate / self.sample_rate) for n in audio.lengths.tolist()]
        ids = audio.lengths.new_zeros(len(lengths), len(layout), max(lengths, default=0))
        for track in layout.tracks:
            rows = [layout.index(track, level) for level in range(self.levels)]
            for song, samples in enumerate(audio.lengths.tolist()):
                if samples:
                    wave = self._with_channels(audio.tracks[track][song, :, :samples], track)
                    ids[song, rows, : lengths[song]] = self.encode_track(wave)
        return Codes(ids, audio.lengths.new_tensor(lengths), layout)

    @torch.no_grad()
    def decode(
        self, codes: Codes, *, seeds: Sequence[int] = (), progress: Callable[[float], None] | None = None
    ) -> Audio:
        """Turns ids [B, K, F] into samples [B, C, T] of each of their tracks; nothing is sampled by `seeds`."""
        tracks: dict[str, Tensor] = {}
        samples = [0] * len(codes.lengths)
        seconds = 0.0
        for track in self.decodes(codes.layout):
            rows = [codes.layout.index(track, level) for level in range(self.levels)]
            waves = []
            for song, frames in enumerate(codes.lengths.tolist()):
                ids = codes.ids[song, rows, :frames]
                waves.append(self.decode_track(ids) if frames else torch.zeros(self.channels, 0, device=ids.device))
                samples[song] = waves[-1].shape[1]
                seconds += frames / self.layout.frame_rate
                if progress is not None:
                    progress(seconds)
            longest = max(wave.shape[1] for wave in waves)
            tracks[track] = torch.stack([functional.pad(wave, (0, longest - wave.shape[1])) for wave in waves])
        return Audio(tracks, codes.lengths.new_tensor(samples), self.sample_rate)

    def _with_channels(self, wave: Tensor, track: str) -> Tensor:
        """Returns samples [C, T] with the codec's number of channels."""
        if wave.shape[0] == self.channels:
            return wave
        if self.channels == 1:
            return wave.mean(0, keepdim=True)
        if wave.shape[0] == 1:
            return wave.expand(self.channels, -1)
        raise LayoutError(f"the codec encodes {self.channels} channels, and the track '{track}' has {wave.shape[0]}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
