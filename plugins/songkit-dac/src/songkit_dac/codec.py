"""Descript Audio Codec, run by its own package; long songs in parts that overlap by what the network sees."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.errors import CheckpointError
from songkit.imports import import_without
from songkit.published import PublishedCodec, fold_weight_norm, remove_weight_norm
from songkit_dac.configs import Dac44Config

# audiotools imports these for what is not used here. The torchaudio on PyPI does not load beside a PyTorch for CPUs;
# TensorBoard is why audiotools asks for an old protobuf, and need not be installed; randomname names experiments.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
    dac = import_without("dac", ["torchaudio", "torch.utils.tensorboard", "randomname"])

__all__ = ["DescriptCodec", "build", "extent"]

_SIZES = (
    "sample_rate",
    "encoder_dim",
    "encoder_rates",
    "latent_dim",
    "decoder_dim",
    "decoder_rates",
    "n_codebooks",
    "codebook_size",
    "codebook_dim",
)
"""The arguments of the package's model that have options here, by the same names."""


def build(config: Dac44Config) -> DescriptCodec:
    """Makes the codec with random weights."""
    return DescriptCodec(config)


class DescriptCodec(PublishedCodec):
    """The model of "High-Fidelity Audio Compression with Improved RVQGAN" (Kumar et al., 2023), run by its own package.

    Songs of up to `chunk_seconds` go through the package's own functions. Longer ones go through the same networks in
    parts; each sees as much of its neighbours as its own frames or samples depend on, so there are no seams, and
    only rounding differs. The package's `compress` changes the loudness and is not used.

    A model whose decoder has odd rates (16 and 24 kHz) makes some samples less than there are in the frames: 8.
    """

    def __init__(self, config: Dac44Config) -> None:
        hop = math.prod(config.encoder_rates)
        super().__init__(
            config.tracks,
            [config.codebook_size] * (config.levels or config.n_codebooks),
            frame_rate=config.sample_rate / hop,
            sample_rate=config.sample_rate,
            channels=1,
        )
        self._sizes = {name: getattr(config, name) for name in _SIZES}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)
            self.model = dac.DAC(**self._sizes).eval()
        remove_weight_norm(self.model)
        self._hop, self._chunk = hop, round(config.chunk_seconds * self.layout.frame_rate)
        first, last = extent(self.model.encoder, 0, 0)
        self.encoder_reach = -(-max(-first, last - hop + 1) // hop)
        """Frames on either side whose samples an id depends on."""
        first, last = extent(self.model.decoder, 0, hop - 1)
        self.decoder_reach = max(-first, last)
        """Frames on either side that a frame's samples depend on."""

    def published_state(self, content: Any) -> Mapping[str, Tensor]:
        """Returns the state of a file such as `weights_44khz_8kbps_0.0.1.pth`.

        Raises:
            CheckpointError: If the file is not one of these, or of a model with other sizes.
        """
        if not isinstance(content, Mapping) or {"state_dict", "metadata"} - set(content):
            raise CheckpointError("expected the mapping of `state_dict` and `metadata` that DAC's weights files are")
        written = content["metadata"].get("kwargs", {})
        differing = [
            f"{name} is {written[name]} in the file, {value} here"
            for name, value in self._sizes.items()
            if written.get(name) is not None and written[name] != value
        ]
        if differing:
            raise CheckpointError(
                f"the model has other sizes: {'; '.join(differing)}. Use the codec of its sample rate (dac/dac-16khz, "
                "dac/dac-24khz, dac/dac-44khz), or set these options."
            )
        return {f"model.{name}": tensor for name, tensor in fold_weight_norm(content["state_dict"]).items()}

    def encode_track(self, wave: Tensor) -> Tensor:
        """Turns samples [1, T] into ids [levels, F]."""
        frames = -(-wave.shape[1] // self._hop)
        wave = functional.pad(wave, (0, frames * self._hop - wave.shape[1]))
        parts = []
        with _without_denormals():
            for start, stop, before, after in self._parts(frames, self.encoder_reach):
                seen = self.model.encoder(wave[None, :, before * self._hop : after * self._hop])
                latents = seen[..., start - before : stop - before]
                parts.append(self.model.quantizer(latents, self.levels)[1][0])
        return torch.cat(parts, 1)

    def decode_track(self, ids: Tensor) -> Tensor:
        """Turns ids [levels, F] into samples [1, T]."""
        parts = []
        with _without_denormals():
            for start, stop, before, after in self._parts(ids.shape[1], self.decoder_reach):
                latents = self.model.quantizer.from_codes(ids[None, :, before:after])[0]
                made = self.model.decode(latents)[0]
                end = None if stop == ids.shape[1] else (stop - before) * self._hop
                parts.append(made[:, (start - before) * self._hop : end])
        return torch.cat(parts, 1)

    def _parts(self, frames: int, reach: int) -> Iterator[tuple[int, int, int, int]]:
        """Yields start and stop of each part, and of the frames around it that it depends on."""
        chunk = self._chunk or frames
        for start in range(0, frames, chunk):
            stop = min(start + chunk, frames)
            yield start, stop, max(0, start - reach), min(frames, stop + reach)


def extent(network: nn.Module, first: int, last: int) -> tuple[int, int]:
    """Returns the first and last input position that output positions from `first` to `last` depend on.

    Args:
        network: Its convolutions follow one another in the order in which it holds them, beside shortcuts.
        first: Of the output; positions count from the start of a signal that has no ends.
        last: Of the output.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)]
    for layer in reversed(layers):
        reach = layer.dilation[0] * (layer.kernel_size[0] - 1)
        stride, padding = layer.stride[0], int(layer.padding[0])
        if isinstance(layer, nn.ConvTranspose1d):
            first, last = -(-(first + padding - reach) // stride), (last + padding) // stride
        else:
            first, last = first * stride - padding, last * stride - padding + reach
    return first, last


@contextlib.contextmanager
def _without_denormals() -> Iterator[None]:
    """Lets the processor take numbers below 1e-38 as zero: they change nothing and slow random weights down tenfold."""
    kept = bool(torch.tensor(1e-40) * 1.0 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(kept)
