"""How the parts of the music codec are trained, on random crops of songs.

Order: the VAE and the tokens need nothing but songs and may be trained side by side; the diffusion needs both.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.errors import LayoutError, RecipeError
from songkit.interfaces import DataSource
from songkit.phonemes import PHONES
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.tasks.base import Task
from songkit.types import Alignment
from songkit_levo2.codec import MusicCodec
from songkit_levo2.configs import TrainDiffusionConfig, TrainVAEConfig
from songkit_levo2.processes import gathered, last_says
from songkit_levo2.vae import SpectralLoss

__all__ = ["TrainDiffusion", "TrainTokens", "TrainVAE", "frame_labels"]


@dataclass
class _Crops:
    """Crops of one track: waveforms [B, T] and, where asked for, two labels a frame, int64 [B, 2 F]."""

    wave: Tensor
    labels: dict[str, Tensor]
    track: str
    songs: list[int]

    def to(self, device: torch.device) -> _Crops:
        """Returns the crops on a device."""
        labels = {name: rows.to(device) for name, rows in self.labels.items()}
        return replace(self, wave=self.wave.to(device), labels=labels)


class _CropTask(Task):
    """Batches of crops, each batch from one track of different songs."""

    unit = "seconds of audio"
    by_track: bool = False
    """Whether each track trains weights of its own, which the others leave without a gradient."""

    def __init__(
        self,
        config: Any,
        *,
        codec: MusicCodec,
        data: DataSource,
        validation: DataSource | None = None,
        settings: TrainerSettings,
        optimizer: OptimizerSettings,
        seed: int,
    ) -> None:
        super().__init__(settings=settings, optimizer=optimizer, seed=seed)
        if self.by_track and settings.strategy == "fsdp":
            raise RecipeError(
                f"trainer.strategy is fsdp, and {type(self).__name__} has weights for each track: processes whose "
                "batches are of different tracks could not add up their gradients. Set trainer.strategy to ddp; each "
                "device then holds the whole codec."
            )
        if codec.channels != 1:
            raise LayoutError(
                f"codec: the codec has {codec.channels} channels, and this task trains on mono crops. Use "
                "levo2/music-codec; weights of levo2/dual-track-codec are imported (`songkit import levo2`)."
            )
        self.config, self.codec = config, codec
        self._data, self._validation = data, validation
        frame = codec.vae.frame
        self._frames = max(1, round(config.crop_seconds * codec.layout.frame_rate))
        self._samples = self._frames * frame
        self._labels: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        shares = config.track_shares
        self._tracks = list(shares)
        self._shares = np.array([shares[t] for t in self._tracks]) / sum(shares.values())

    def batch(self, step: int) -> _Crops:
        """Crops for one step."""
        return self._crops(self._data, self.rng(step))

    def items(self, batch: _Crops) -> float:
        """Seconds of audio in a batch."""
        return batch.wave.numel() / self.codec.sample_rate

    def named(self, batch: _Crops) -> str:
        """The track, and the songs by their place in the data."""
        return f"{batch.track} of songs {', '.join(map(str, batch.songs))}"

    def validate_step(self, step: int) -> dict[str, float]:
        """Mean losses over fixed crops of the validation songs."""
        if self._validation is None:
            return {}
        sums: dict[str, list[float]] = {}
        for i in range(self.settings.validate_batches):
            batch = self._crops(self._validation, self.rng(2**31 + i))
            with self.autocast():
                losses = self.losses(batch.to(self.device), torch.Generator(self.device).manual_seed(i))
            for name, value in losses.items():
                sums.setdefault(f"{batch.track}/{name.lstrip('_')}", []).append(float(value))
        return {name: float(np.mean(values)) for name, values in sums.items()}

    @abstractmethod
    def losses(self, batch: _Crops, generator: torch.Generator) -> Mapping[str, Tensor]:
        """The losses of a batch of crops."""

    def _crops(self, data: DataSource, rng: np.random.Generator, wanted: Sequence[str] = ()) -> _Crops:
        track = self._tracks[int(rng.choice(len(self._tracks), p=self._shares))]
        waves: list[np.ndarray] = []
        labels: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
        songs = rng.integers(len(data), size=self.settings.batch_size).tolist()
        for index in songs:
            # Songs of a prepared set give their tracks without parsing their record.
            tracks = data.song_tracks(index) if hasattr(data, "song_tracks") else data[index].tracks
            if track not in tracks:
                raise LayoutError(f"song {index} of the data has no track '{track}' (track_shares asks for it)")
            audio = tracks[track]
            if audio.sample_rate != self.codec.sample_rate:
                raise LayoutError(
                    f"the data is at {audio.sample_rate} Hz, the codec at {self.codec.sample_rate} Hz: prepare it "
                    f"with prepare.sample_rate={self.codec.sample_rate}"
                )
            frame = self.codec.vae.frame
            start = frame * int(rng.integers(max(1, audio.samples // frame - self._frames + 1)))
            wave = audio.read(start, start + self._samples).mean(0)
            gain = 10 ** (rng.uniform(-6, 2) / 20)  # songs come at one loudness, users' prompts do not
            wave = np.pad(wave, (0, self._samples - len(wave))) * gain
            waves.append(np.clip(wave, -1, 1).astype(np.float32))
            for name in labels:
                half = 2 * (start // frame)
                row = self._labels_of(data, index, name)[half : half + 2 * self._frames]
                labels[name].append(np.pad(row, (0, 2 * self._frames - len(row)), constant_values=0))
        tensors = {name: torch.from_numpy(np.stack(rows).astype(np.int64)) for name, rows in labels.items()}
        return _Crops(torch.from_numpy(np.stack(waves)), tensors, track, songs)

    def _labels_of(self, data: DataSource, index: int, name: str) -> np.ndarray:
        key = (id(data), index)
        if key not in self._labels:
            song = data[index]
            if song.alignment is None:
                raise LayoutError(
                    f"song '{song.id}' has no alignment; the teachers {name!r} need the truth of its notes"
                )
            frames = round(song.seconds * self.codec.layout.frame_rate) + 1
            self._labels[key] = frame_labels(song.alignment, 2 * frames, 2 * self.codec.layout.frame_rate)
        return self._labels[key][name]


class TrainVAE(_CropTask):
    """Waveform to latents and back."""

    def __init__(self, config: TrainVAEConfig, **parts: Any) -> None:
        super().__init__(config, **parts)
        self.spectral = SpectralLoss(self.codec.sample_rate)

    def trainable(self) -> Iterable[nn.Parameter]:
        """The VAE alone."""
        return self.codec.vae.parameters()

    def exports(self) -> dict[str, nn.Module]:
        """The VAE."""
        return {"codec.vae": self.codec.vae}

    def losses(self, batch: _Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """Spectral distance and KL divergence; the statistics of the latents follow on the way."""
        vae = self.codec.vae
        wave, kl = vae(batch.wave[:, None], generator)
        if self.training:
            with torch.no_grad():
                for latents in gathered(vae.encode(batch.wave[:, None]).flatten(0, 1)):  # as one process would
                    vae.mean.lerp_(latents.mean(0), 0.01)
                    vae.std.lerp_((latents - vae.mean).square().mean(0).sqrt().clamp(min=0.1), 0.01)
                last_says((vae.mean, vae.std))
        return {
            "spectral": self.spectral(batch.wave, wave[:, 0].float(), generator),
            "kl": self.config.kl_weight * kl,
        }


class TrainTokens(_CropTask):
    """Encoder, quantizers and feature decoder, by what the codes tell of mel spectrum, phones, pitch and chords."""

    by_track = True

    def trainable(self) -> Iterable[nn.Parameter]:
        """The semantic part alone."""
        return self.codec.semantic.parameters()

    def exports(self) -> dict[str, nn.Module]:
        """The semantic part."""
        return {"codec.semantic": self.codec.semantic}

    def losses(self, batch: _Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """Mel distance, commitment and the teachers' cross-entropies."""
        quantized, mel, estimate, logits = self.codec.semantic(batch.wave, batch.track, generator)
        losses = {
            "mel": (estimate.float() - mel).abs().mean(),
            "commitment": self.config.commitment * quantized.commitment,
        }
        for name, labels in batch.labels.items():
            values, before = (found[name].float().transpose(1, 2) for found in logits)
            weight = self.config.teacher_weights[name]
            losses[name] = weight * functional.cross_entropy(values, labels)
            losses[f"{name}_before"] = weight * functional.cross_entropy(before, labels)
            heard = labels > 0
            losses[f"_{name}_accuracy_before"] = ((before.argmax(1) == labels) & heard).sum() / heard.sum().clamp(min=1)
            losses[f"_{name}_accuracy"] = ((values.argmax(1) == labels) & heard).sum() / heard.sum().clamp(min=1)
        losses["_codes"] = torch.tensor(float(quantized.ids.unique().numel()))
        return losses

    def _crops(self, data: DataSource, rng: np.random.Generator, wanted: Sequence[str] = ()) -> _Crops:
        crops = super()._crops(data, rng, wanted=list(self.config.teacher_weights))
        crops.labels = {name: labels for name, labels in crops.labels.items() if name in _HEARD[crops.track]}
        return crops


_HEARD = {"vocal": ("phone", "pitch"), "accompaniment": ("chord",), "mix": ("phone", "pitch", "chord")}
"""What can be heard in each track."""


class TrainDiffusion(_CropTask):
    """Ids to latents; everything else in the codec stays as it is."""

    by_track = True

    def __init__(self, config: TrainDiffusionConfig, **parts: Any) -> None:
        super().__init__(config, **parts)
        self.freeze(self.codec.vae)
        self.freeze(self.codec.semantic)

    def trainable(self) -> Iterable[nn.Parameter]:
        """The flow transformer alone."""
        return self.codec.diffusion.parameters()

    def exports(self) -> dict[str, nn.Module]:
        """The whole codec, now complete."""
        return {"codec": self.codec}

    def losses(self, batch: _Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """The flow-matching loss of one track's latents given its own ids."""
        codec, config, track = self.codec, self.config, batch.track
        with torch.no_grad():
            latents = codec.vae.standardise(codec.vae.encode(batch.wave[:, None]))
            features = codec.semantic.features_of(codec.semantic.ids(batch.wave, track), track)
        count, frames, _ = latents.shape
        chance = torch.rand(3, count, generator=generator, device=generator.device)
        condition = codec.diffusion.condition({track: features}, track)
        hidden = codec.diffusion.hidden_condition(frames, count).to(condition.dtype)
        condition = torch.where((chance[0] < config.code_dropout)[:, None, None], hidden, condition)
        given = torch.where(chance[1] < config.continue_share, (chance[2] * frames * 0.5).long(), 0)
        flag = (torch.arange(frames, device=given.device) < given[:, None]).float()[:, :, None]
        return {"flow": codec.diffusion.loss(latents.float(), condition, flag, generator)}


PITCH_OFFSET = 39
"""MIDI pitch 40 (E2) is the first pitch class; 0 stands for no note."""


def frame_labels(alignment: Alignment, frames: int, frame_rate: float) -> dict[str, np.ndarray]:
    """Returns what is sung and played at the centre of each frame, int16 [frames] by name; 0 is nothing."""
    phones = {symbol: i + 1 for i, symbol in enumerate(PHONES)}
    spans = {
        "phone": [(phones[s.label], s.start, s.end) for s in alignment.phones],
        "pitch": [(int(np.clip(n.pitch - PITCH_OFFSET, 1, 39)), n.start, n.end) for n in alignment.notes],
        "chord": [(_chord_class(s.label), s.start, s.end) for s in alignment.chords],
    }
    out = {}
    for name, items in spans.items():
        row = np.zeros(frames, np.int16)
        for value, start, end in items:
            row[max(0, round(start * frame_rate)) : round(end * frame_rate)] = value
        out[name] = row
    out["pitch"][out["phone"] == 0] = 0  # a rest within a note is a rest
    return out


def _chord_class(label: str) -> int:
    """`C:maj` to 1, `C:min` to 13, ..., anything else to 0."""
    root, _, quality = label.partition(":")
    names = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    flats = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#"}
    root = flats.get(root, root)
    if root not in names or quality[:3] not in ("maj", "min"):
        return 0
    return 1 + names.index(root) + (12 if quality.startswith("min") else 0)
