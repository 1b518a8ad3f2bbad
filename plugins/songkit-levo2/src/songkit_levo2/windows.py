"""Ids to latents, in windows of which each goes on where the one before ended.

So memory does not grow with the song, and the first window is made while the rest of the song is still being drawn. The
released decoder does the same when the song is drawn (tencent-ailab/SongGeneration at b1b03ec,
codeclm/tokenizer/Flow1dVAE).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from songkit.errors import LayoutError
from songkit.interfaces import Codec
from songkit.types import TRACKS, Audio, Stream, TokenLayout
from songkit_levo2.diffusion import FlowMatching
from songkit_levo2.noise import Noise
from songkit_levo2.semantic import Semantic
from songkit_levo2.vae import LatentVAE

__all__ = ["Known", "WindowedCodec"]


@dataclass(frozen=True)
class Known:
    """What comes before a song."""

    ids: Tensor
    """[1, F]."""
    latents: Tensor
    """Standardised, [1, F, D]."""


class WindowedCodec(Codec):
    """A codec's parts, and how they make latents of ids."""

    def __init__(
        self,
        vae: LatentVAE,
        semantic: Semantic,
        diffusion: FlowMatching,
        *,
        sample_rate: int,
        window_seconds: float,
        overlap_seconds: float,
        opening_seconds: float | None = None,
        fill_windows: bool = False,
        silence: Mapping[str, int] | None = None,
    ) -> None:
        """Puts the parts together.

        Args:
            vae: Waveform to latents and back.
            semantic: Waveform to ids, ids to features.
            diffusion: Features to latents.
            sample_rate: Samples per second.
            window_seconds: Length of the windows in which latents are made.
            overlap_seconds: Part of a window that is given by the window before; at most half of it counts.
            opening_seconds: New frames in a song's first window; by default as many as fit.
            fill_windows: Whether a song's ids are repeated to fill the last window.
            silence: For flow transformers that hear several tracks together, the id of each that is silent. By default
                a track is made of its own ids alone.
        """
        super().__init__()
        self.sample_rate, self.channels = sample_rate, vae.channels
        self.vae, self.semantic, self.diffusion = vae, semantic, diffusion
        self.silence = dict(silence or {})
        rate = sample_rate / vae.frame
        self.window = max(2, round(window_seconds * rate))
        self.overlap = min(round(overlap_seconds * rate), self.window // 2)
        self.opening = self.window if opening_seconds is None else max(1, round(opening_seconds * rate))
        self.fill_windows = fill_windows
        self.tracks = tuple(track for track in TRACKS if track in semantic.quantizers)
        self.layout = TokenLayout(rate, tuple(Stream(track, 0, semantic.size) for track in self.tracks))

    def latents(self, ids: Tensor, track: str, seed: int) -> Tensor:
        """Returns standardised latents [1, F, D] of a track's ids [1, F]."""
        return torch.cat(list(self._windows([ids], track, seed)), 1)

    def _known(self, prompt: Audio | None, track: str) -> Known | None:
        """Encodes the end of a prompt's track, as long as windows overlap; `None` where the prompt has no such track.

        The released decoder does the same with its prompts of ten seconds, which is how far its windows overlap.
        """
        if prompt is None or track not in prompt.tracks:
            return None
        if prompt.sample_rate != self.sample_rate:
            raise LayoutError(
                f"the prompt is at {prompt.sample_rate} Hz; expected {self.sample_rate}, as the codec. Resample it."
            )
        frames = int(prompt.lengths[0]) // self.vae.frame
        wave = prompt.tracks[track][:1, :, : frames * self.vae.frame]
        if min(frames, self.overlap) == 0:
            return None
        latents = self.vae.standardise(self.vae.encode(wave))
        ids = self.semantic.song_ids(wave[0], track)[None]
        return Known(ids[:, frames - self.overlap :] if frames > self.overlap else ids, latents[:, -self.overlap :])

    def _windows(self, parts: Iterable[Tensor], track: str, seed: int, prompt: Known | None = None) -> Iterator[Tensor]:
        """Yields the new latents [1, F, D] of windows that continue each other, as soon as their ids are there."""
        arriving, ended = iter(parts), False
        ids = next(arriving, torch.zeros(1, 0, dtype=torch.int64))
        # One draw a frame for the whole song: the noise of a frame does not depend on where windows begin.
        key = [seed & (2**64 - 1), TRACKS.index(track)]
        noise = Noise(key, self.vae.latent, ids.device)
        known = noise.empty
        if prompt is not None:
            known, ids = prompt.latents, torch.cat([prompt.ids.to(ids.device), ids], 1)
            noise.given(prompt.latents.shape[1], [key[0], key[1] + len(TRACKS)])
        done, new = known.shape[1], self.opening
        while True:
            start = done - known.shape[1]
            stop, new = min(start + self.window, done + new), self.window
            while not ended and ids.shape[1] < stop + self.semantic.reach:
                part = next(arriving, None)
                ended = part is None
                ids = ids if part is None else torch.cat([ids, part], 1)
            frames = ids.shape[1]
            if done >= frames:
                return
            stop = stop if self.fill_windows else min(stop, frames)
            condition = self._condition(ids, start, stop, track, ended=ended)
            given = functional.pad(known, (0, 0, 0, stop - done))
            flag = (torch.arange(start, stop, device=ids.device) < done).float()[None, :, None]
            latents = self.diffusion.sample(condition, given, flag, noise(start, stop))
            yield latents[:, done - start : frames - start]
            known, done = latents[:, latents.shape[1] - self.overlap :], stop

    def _condition(self, ids: Tensor, start: int, stop: int, track: str, *, ended: bool) -> Tensor:
        """Returns what the flow is told of frames `start` to `stop`; behind a song that ended it hears it again."""
        frames, reach = ids.shape[1], self.semantic.reach
        first, last = max(0, start - reach), stop + reach
        if not (ended and self.fill_windows):
            last = min(last, frames)
        own = ids[:, torch.arange(first, last, device=ids.device) % frames]
        heard = {other: torch.full_like(own, silent) for other, silent in self.silence.items()} | {track: own}
        features = {
            name: self.semantic.features_of(row, name)[:, start - first : stop - first] for name, row in heard.items()
        }
        return self.diffusion.condition(features, track)
