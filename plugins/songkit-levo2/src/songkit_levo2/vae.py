"""The waveform end of the codec: a variational autoencoder with latents at the frame rate of the tokens.

LeVo 2 uses the Oobleck VAE of stable-audio-tools (48 kHz stereo, strided convolutions down to 25 Hz). The
miniature works on log-mel frames instead and returns to samples by an inverse STFT, as Vocos does (arXiv
2306.00814): a tenth of the arithmetic, so that two CPU cores can train it in an hour.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit_levo2.configs import VAEConfig
from songkit_levo2.layers import LogMel, Stack, mel_filters

__all__ = ["VAE", "LatentVAE", "SpectralLoss"]


class LatentVAE(nn.Module, ABC):
    """Waveform [B, C, T] to latents [B, F, D] and back; T = F * frame."""

    def __init__(self, *, latent: int, frame: int, channels: int, reach: int, chunk: int = 0) -> None:
        """Says what the codec has to know of it.

        Args:
            latent: Values in a latent frame.
            frame: Samples in a latent frame.
            channels: Channels C of the audio.
            reach: Latent frames to either side that a decoded sample depends on.
            chunk: Latent frames that are decoded at once; 0 is all of a song.
        """
        super().__init__()
        self.latent, self.frame, self.channels, self.reach, self.chunk = latent, frame, channels, reach, chunk
        self.mean: Tensor
        self.std: Tensor
        # Statistics of the latents over training audio, for the diffusion model's standardised space.
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("std", torch.ones(latent))

    @abstractmethod
    def posterior(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log variance [B, F, D] of the latents of a waveform [B, C, T] with T = F * frame."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Returns the waveform [B, C, F * frame] of latents [B, F, D]."""

    def encode(self, wave: Tensor) -> Tensor:
        """Returns the means of the latents [B, F, D] of a waveform [B, C, T] with T = F * frame."""
        return self.posterior(wave)[0]

    def forward(self, wave: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Encodes, draws and decodes; returns the waveform and the KL divergence per latent value in nats."""
        mean, log_var = self.posterior(wave)
        noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
        kl = 0.5 * (mean.square() + log_var.exp() - log_var - 1.0).mean()
        return self.decode(mean + (0.5 * log_var).exp() * noise), kl

    def decode_stream(self, parts: Iterable[Tensor], chunk: int | None = None, *, before: int = 0) -> Iterator[Tensor]:
        """Decodes latents [B, F, D] that arrive in parts; yields the waveform [B, C, T] in pieces as soon as it can.

        A piece is decoded together with the `reach` latents on both of its sides. So it has the samples that decoding
        all at once gives, but for rounding, and memory does not grow with the song.

        Args:
            parts: Latents, in order.
            chunk: Latent frames in a piece, 0 for all; the VAE's own by default.
            before: Latent frames at the beginning that are heard, and are no part of the result.
        """
        size = self.chunk if chunk is None else chunk
        held: Tensor | None = None
        start, done = 0, before  # frames before those that are held; frames whose samples were yielded

        def piece(held: Tensor, stop: int) -> Tensor:
            left = max(start, done - self.reach)
            wave = self.decode(held[:, left - start : stop + self.reach - start])
            return wave[:, :, (done - left) * self.frame : (stop - left) * self.frame]

        for part in parts:
            held = part if held is None else torch.cat([held, part], 1)
            while size and done + size + self.reach <= start + held.shape[1]:
                yield piece(held, done + size)
                done += size
            kept = max(start, done - self.reach)
            held, start = held[:, kept - start :], kept
        while held is not None and done < (frames := start + held.shape[1]):
            stop = min(done + size, frames) if size else frames
            yield piece(held, stop)
            done = stop

    def standardise(self, latents: Tensor) -> Tensor:
        """Latents to zero mean and unit variance per dimension."""
        return (latents - self.mean) / self.std

    def restore(self, latents: Tensor) -> Tensor:
        """The inverse of `standardise`."""
        return latents * self.std + self.mean


class VAE(LatentVAE):
    """The miniature's: from log-mel frames, and back by an inverse STFT; mono."""

    def __init__(self, config: VAEConfig) -> None:
        coarse, fine = config.decoder_depths  # a block spans three frames to either side, the inverse STFT n_fft / hop
        reach = 3 * coarse + math.ceil((3 * fine + config.n_fft / config.hop) / config.merge)
        super().__init__(latent=config.latent, frame=config.hop * config.merge, channels=1, reach=reach)
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)

    def posterior(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log variance [B, F, D] of the latents of a waveform [B, 1, T]."""
        mean, log_var = self.encoder(wave.squeeze(1))
        return mean, log_var

    def decode(self, latents: Tensor) -> Tensor:
        """Returns the waveform [B, 1, F * frame] of latents [B, F, D]."""
        wave: Tensor = self.decoder(latents)
        return wave[:, None]


class _Encoder(nn.Module):
    def __init__(self, c: VAEConfig) -> None:
        super().__init__()
        self.merge = c.merge
        self.mel = LogMel(sample_rate=c.sample_rate, n_fft=c.n_fft, hop=c.hop, n_mels=c.mels)
        self.inp = nn.Linear(c.mels, c.encoder_dims[0])
        self.fine = Stack(c.encoder_dims[0], c.encoder_depths[0])
        self.down = nn.Linear(c.merge * c.encoder_dims[0], c.encoder_dims[1])
        self.coarse = Stack(c.encoder_dims[1], c.encoder_depths[1])
        self.norm = nn.LayerNorm(c.encoder_dims[1])
        self.out = nn.Linear(c.encoder_dims[1], 2 * c.latent)

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fine(self.inp(self.mel(wave)))  # [B, F * merge, D]
        h = self.coarse(self.down(h.unflatten(1, (-1, self.merge)).flatten(2)))  # [B, F, D]
        mean, log_var = self.out(self.norm(h)).float().chunk(2, -1)
        return mean, (log_var - 4.0).clamp(-12.0, 4.0)  # starts with little noise, so that the decoder learns first


class _Decoder(nn.Module):
    def __init__(self, c: VAEConfig) -> None:
        super().__init__()
        self.n_fft, self.hop, self.merge, self.fine_dim = c.n_fft, c.hop, c.merge, c.decoder_dims[1]
        self.inp = nn.Linear(c.latent, c.decoder_dims[0])
        self.coarse = Stack(c.decoder_dims[0], c.decoder_depths[0])
        self.up = nn.Linear(c.decoder_dims[0], c.merge * c.decoder_dims[1])
        self.fine = Stack(c.decoder_dims[1], c.decoder_depths[1])
        self.norm = nn.LayerNorm(c.decoder_dims[1])
        self.head = nn.Linear(c.decoder_dims[1], 2 * (c.n_fft // 2 + 1))
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(c.n_fft), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        h = self.up(self.coarse(self.inp(latents))).unflatten(-1, (self.merge, self.fine_dim)).flatten(1, 2)
        log_magnitude, phase = self.head(self.norm(self.fine(h))).float().chunk(2, -1)
        spectrum = torch.polar((log_magnitude - 3.0).clamp(max=5.0).exp(), phase)
        frames = torch.fft.irfft(spectrum, n=self.n_fft) * self.window  # [B, F * merge, n_fft]
        # Overlap-add of n_fft / hop shifted blocks; the Hann windows sum to a constant, so no division per sample.
        overlap = self.n_fft // self.hop
        blocks = frames.unflatten(-1, (overlap, self.hop))
        wave = sum(functional.pad(blocks[:, :, i], (0, 0, i, overlap - 1 - i)) for i in range(overlap))
        assert isinstance(wave, Tensor)
        cut = (self.n_fft - self.hop) // 2
        return wave.flatten(1)[:, cut : cut + frames.shape[1] * self.hop] * (2.0 / overlap)


class SpectralLoss(nn.Module):
    """Multi-resolution STFT distance: log-magnitude, spectral convergence and log-mel terms.

    A random half of the resolutions is used at each call, which costs half and has the same expectation.
    """

    resolutions = ((2048, 160), (1024, 80), (512, 40), (256, 20))
    """(n_fft, mels); hop = n_fft / 4."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        for n_fft, mels in self.resolutions:
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft), persistent=False)
            self.register_buffer(f"mel{n_fft}", mel_filters(n_fft, mels, sample_rate), persistent=False)

    def forward(self, target: Tensor, estimate: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the distance of two waveforms [B, T]; only `estimate` is differentiated."""
        total = torch.zeros((), device=estimate.device)
        for i in torch.randperm(len(self.resolutions), generator=generator, device=generator.device)[
            : len(self.resolutions) // 2
        ].tolist():
            n_fft = self.resolutions[i][0]
            window, mel = getattr(self, f"window{n_fft}"), getattr(self, f"mel{n_fft}")
            gain = (1024 / n_fft) ** 0.5  # the same floor means the same loudness at every resolution
            x = _magnitude(target, n_fft, window)
            y = _magnitude(estimate, n_fft, window)
            log_distance = ((x * gain + 3e-3).log() - (y * gain + 3e-3).log()).abs().mean()
            convergence = (x - y).norm() / (x.norm() + 1e-3)
            mel_distance = ((x * gain @ mel + 1e-2).log() - (y * gain @ mel + 1e-2).log()).abs().mean()
            total = total + log_distance + 0.5 * convergence + 1.5 * mel_distance
        return total / (len(self.resolutions) // 2)


def _magnitude(wave: Tensor, n_fft: int, window: Tensor) -> Tensor:
    spectrum = torch.stft(wave, n_fft, n_fft // 4, window=window, return_complex=True)
    return torch.view_as_real(spectrum).square().sum(-1).add(1e-9).sqrt().transpose(1, 2)
