"""Waveform to ids: one encoder, one quantizer a track, and the features that the diffusion model sees.

LeVo's encoder is a BEST-RQ conformer of 290 M parameters taken at three depths, with a factorised quantizer
(1024 -> 32 -> 1024, l2-normalised nearest neighbour, dead codes replaced) for each of mix, vocal and accompaniment
(tencent-ailab/SongGeneration at b1b03ec, codeclm/tokenizer/Flow1dVAE); that encoder is in `conformer`. In the miniature
the same parts are small, and the encoder is taught by what synthetic songs know: mel spectrum, phones, pitch and chords
behind the quantizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.processes import place
from songkit.types import TRACKS
from songkit_levo2.configs import SemanticConfig, VAEConfig
from songkit_levo2.layers import ConvNeXt, LogMel, LogPitch, Stack
from songkit_levo2.processes import gathered, last_says

__all__ = ["Quantized", "Quantizer", "Semantic", "SemanticTokenizer"]


@dataclass
class Quantized:
    """What a quantizer makes of features [B, F, D]."""

    features: Tensor
    """[B, F, D]; gradients pass straight through."""
    ids: Tensor
    """int64 [B, F]."""
    commitment: Tensor
    """Scalar: mean squared distance between the projected features and their codes."""


class Quantizer(nn.Module):
    """A factorised vector quantizer: project, normalise, nearest code by cosine, project back.

    Codes follow the features by exponential averages (VQ-VAE, arXiv 1711.00937, appendix A.1); codes that have
    not been used for a while are moved onto current features. Training begins with features passing unquantized, with
    noise on them that is as bad as the quantization will be, while the codes only collect the latest of them: quantized
    from the start, the features fall into three of sixteen dimensions and never leave them.

    Codes are unit vectors unless `unit` is false; then they have lengths, as in the released model, which play no part
    in which code is nearest.
    """

    def __init__(
        self, width: int, size: int, dim: int, *, warmup: int = 0, noise: float = 0.0, unit: bool = True
    ) -> None:
        super().__init__()
        self.size, self.warmup, self.noise, self.unit = size, warmup, noise, unit
        self.down = nn.Linear(width, dim)
        self.up = nn.Linear(dim, width)
        self.codes: Tensor
        self.usage: Tensor
        self.seen: Tensor
        self.register_buffer("codes", functional.normalize(torch.randn(size, dim), dim=-1))
        self.register_buffer("usage", torch.ones(size))
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))  # batches, features

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantizes features [B, F, D]; in training, `generator` chooses where unused codes go."""
        with torch.autocast(features.device.type, enabled=False):
            z = self.project(features)
            flat = z.detach().flatten(0, 1)
            learning = self.training and generator is not None
            if learning and int(self.seen[0]) < self.warmup:
                self._collect(flat)
                ids = torch.zeros(z.shape[:-1], dtype=torch.int64, device=z.device)
                noise = self.noise * torch.randn(z.shape, generator=generator, device=z.device)
                return Quantized(self.up(z + noise), ids, z.new_zeros(()))
            ids = self._nearest(flat)
            codes = self.codes[ids].view_as(z)
            commitment = (z - codes.detach()).square().sum(-1).mean()
            if learning and generator is not None:
                self._follow(flat, ids, generator)
            passed = z + (codes - z).detach() if self.training else codes
            return Quantized(self.up(passed), ids.view(z.shape[:-1]), commitment)

    def project(self, features: Tensor) -> Tensor:
        """Returns the directions [B, F, dim] of features [B, F, D], of which the codes are some."""
        with torch.autocast(features.device.type, enabled=False):
            return functional.normalize(self.down(features.float()), dim=-1)

    def embed(self, ids: Tensor) -> Tensor:
        """Returns the features [B, F, D] of ids [B, F]."""
        return self.up(self.codes[ids])

    @torch.no_grad()
    def learn(self, flat: Tensor, generator: torch.Generator) -> None:
        """Has the codes follow the directions [N, dim] of a batch as `forward` does, if they are learning."""
        if not self.training:
            return
        with torch.autocast(flat.device.type, enabled=False):
            if int(self.seen[0]) < self.warmup:
                self._collect(flat)
            else:
                self._follow(flat, self._nearest(flat), generator)

    def _nearest(self, flat: Tensor) -> Tensor:
        directions = self.codes if self.unit else functional.normalize(self.codes, dim=-1)
        return (flat @ directions.T).argmax(-1)

    @torch.no_grad()
    def _collect(self, flat: Tensor) -> None:
        """Keeps the latest features as codes: the codebook is a ring while the warm-up lasts."""
        places = (int(self.seen[1]) + torch.arange(len(flat), device=flat.device)) % self.size
        self.codes[places] = flat
        self.seen += torch.tensor([1, len(flat)], device=flat.device)

    @torch.no_grad()
    def _follow(self, flat: Tensor, ids: Tensor, generator: torch.Generator) -> None:
        counts = torch.bincount(ids, minlength=self.size).float()
        sums = torch.zeros_like(self.codes).index_add_(0, ids, flat)
        hit = counts > 0
        self.usage.mul_(0.98).add_(counts, alpha=0.02)
        # A code that many features chose moves further than one that a single feature chose.
        rate = (0.1 * counts[hit] / (0.1 * counts[hit] + 1.0)).sqrt()[:, None]
        target = functional.normalize(sums[hit], dim=-1)
        self.codes[hit] = functional.normalize(self.codes[hit].lerp(target, rate), dim=-1)
        dead = (self.usage < 0.003).nonzero()[:, 0]
        if len(dead):
            dead = dead[torch.randperm(len(dead), generator=generator, device=generator.device)[:64]]
            chosen = torch.randint(len(flat), (len(dead),), generator=generator, device=generator.device)
            self.codes[dead] = flat[chosen]
            self.usage[dead] = 0.1


class Semantic(nn.Module, ABC):
    """What the codec asks of an encoder with its quantizers."""

    quantizers: nn.ModuleDict
    """One `Quantizer` for each track that can be encoded."""
    reach: int = 0
    """Frames to either side whose ids `features_of` a frame depends on."""

    def __init__(self, *, width: int, size: int, frame: int) -> None:
        """Says what the codec has to know of it.

        Args:
            width: Width D of the features that the diffusion model sees.
            size: Ids of each stream.
            frame: Samples in a frame.
        """
        super().__init__()
        self.width, self.size, self.frame = width, size, frame

    @abstractmethod
    def encode(self, wave: Tensor, track: str) -> Tensor:
        """Returns features [B, F, D] before the quantizer of a track, of its waveform [B, T] with T = F * frame."""

    def ids(self, wave: Tensor, track: str) -> Tensor:
        """Returns ids int64 [B, F] of a track's waveform [B, T] with T = F * frame."""
        found: Tensor = self.quantizers[track](self.encode(wave, track)).ids
        return found

    def song_ids(self, wave: Tensor, track: str) -> Tensor:
        """Returns ids int64 [F] of a song's track [C, T] of any length, F = ceil(T / frame)."""
        mono = wave.mean(0, keepdim=True)
        return self.ids(functional.pad(mono, (0, -mono.shape[1] % self.frame)), track)[0]

    def features_of(self, ids: Tensor, track: str) -> Tensor:
        """Returns the features [B, F, D] that the diffusion model sees, of ids [B, F]."""
        quantizer: Quantizer = self.quantizers[track]  # type: ignore[assignment]  # ModuleDict yields Module
        return quantizer.embed(ids)


class SemanticTokenizer(Semantic):
    """The miniature's: ConvNeXt blocks over mel and semitone spectra, quantizers, and a decoder of features."""

    def __init__(self, config: SemanticConfig, vae: VAEConfig) -> None:
        super().__init__(width=config.dims[1], size=config.codebook_size, frame=vae.hop * vae.merge)
        self.config, self.merge = config, vae.merge
        self.reach = 3 * config.feature_depth  # a block spans three frames to either side
        fine, width = config.dims
        self.mel = LogMel(sample_rate=vae.sample_rate, n_fft=config.n_fft, hop=vae.hop, n_mels=config.mels)
        self.inp = nn.Linear(config.mels, fine)
        self.fine = Stack(fine, config.depths[0])
        self.down = nn.Linear(vae.merge * fine, width)
        self.pitch: LogPitch | None = None
        if config.pitch_n_fft:
            low, high = config.pitch_range
            self.pitch = LogPitch(vae.sample_rate, config.pitch_n_fft, vae.hop * vae.merge, low=low, high=high)
            self.pitch_inp = nn.Linear(high - low + 1, width, bias=False)
        self.blocks = nn.ModuleList(ConvNeXt(width) for _ in range(config.depths[1]))
        self.norms = nn.ModuleDict({track: nn.LayerNorm(width) for track in TRACKS})
        self.quantizers = nn.ModuleDict(
            {
                track: Quantizer(
                    width,
                    config.codebook_size,
                    config.codebook_dim,
                    warmup=config.warmup,
                    noise=config.warmup_noise,
                )
                for track in TRACKS
            }
        )
        self.track_features = nn.Embedding(len(TRACKS), width)
        self.features = nn.Sequential(Stack(width, config.feature_depth), nn.LayerNorm(width))
        self.mel_head = nn.Linear(width, vae.merge * config.mels)
        # Two labels a frame: at 25 Hz a phone can be shorter than a frame.
        self.heads = nn.ModuleDict({name: nn.Linear(width, 2 * size) for name, size in config.teachers.items()})
        # The same before the quantizer: what the encoder has not learned yet, the codes cannot tell.
        self.probes = nn.ModuleDict({name: nn.Linear(width, 2 * size) for name, size in config.teachers.items()})

    def encode(self, wave: Tensor, track: str) -> Tensor:
        """Returns features [B, F, D] before the quantizer of a track, of its waveform [B, T]."""
        return self._encode(wave, self.mel(wave), track)

    def decode_features(self, quantized: Tensor, track: str) -> Tensor:
        """Returns the features [B, F, D] that the diffusion model sees, of quantized ones."""
        index = torch.tensor(TRACKS.index(track), device=quantized.device)
        return self.features(quantized + self.track_features(index))

    def features_of(self, ids: Tensor, track: str) -> Tensor:
        """Returns the features [B, F, D] that the diffusion model sees, of ids [B, F]."""
        return self.decode_features(super().features_of(ids, track), track)

    def forward(
        self, wave: Tensor, track: str, generator: torch.Generator
    ) -> tuple[Quantized, Tensor, Tensor, list[dict[str, Tensor]]]:
        """A training pass: quantized, mel [B, F * merge, n_mels], its estimate, and teachers' logits [B, 2 F, V].

        The logits are those behind the quantizer and those before it.
        """
        mel = self.mel(wave)
        encoded = self._encode(wave, mel, track)
        quantized = self._quantize(encoded, track, generator)
        features = self.decode_features(quantized.features, track)
        estimate = self.mel_head(features).unflatten(-1, (self.merge, -1)).flatten(1, 2)
        logits = [
            {name: head(x).unflatten(-1, (2, -1)).flatten(1, 2) for name, head in heads.items()}
            for heads, x in ((self.heads, features), (self.probes, encoded))
        ]
        return quantized, mel, estimate, logits

    def _quantize(self, features: Tensor, track: str, generator: torch.Generator) -> Quantized:
        """Quantizes features [B, F, D], while the codes learn from the batches of all processes.

        One process would take these batches in turn, each with the codes that the one before has left. So each process
        first learns from the batches before its own; the last has then learned from all, and its codes are everyone's.
        """
        number, processes = place()
        quantizer: Quantizer = self.quantizers[track]  # type: ignore[assignment]  # ModuleDict yields Module
        if processes == 1 or not self.training:
            return quantizer(features, generator)
        told = torch.tensor([TRACKS.index(track)]), quantizer.project(features).detach().flatten(0, 1)
        tracks, flats, states = (gathered(value.to(features.device)) for value in (*told, generator.get_state()))
        learners: list[Quantizer] = [self.quantizers[TRACKS[int(i)]] for i in tracks]  # type: ignore[misc]  # as above
        for learner, flat, state in zip(learners[:number], flats, states, strict=False):
            drawn = torch.Generator(generator.device)
            drawn.set_state(state.cpu())
            learner.learn(flat, drawn)
        quantized: Quantized = quantizer(features, generator)
        for learner in dict.fromkeys(learners):
            last_says(learner.buffers())
        return quantized

    def _encode(self, wave: Tensor, mel: Tensor, track: str) -> Tensor:
        h = self.fine(self.inp(mel))
        h = self.down(h.unflatten(1, (-1, self.merge)).flatten(2))
        if self.pitch is not None:
            h = h + self.pitch_inp(self.pitch(wave))
        for block in self.blocks[: self.config.taps[track]]:
            h = block(h)
        return self.norms[track](h)
