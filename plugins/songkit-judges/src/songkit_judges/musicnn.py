"""Tags and embeddings of music by musicnn (Pons & Serra, arXiv 1909.06654), in torch.

Two models of .79 M parameters come inside the package musicnn 0.1.0 (ISC): trained on the Million Song Dataset
(genres, eras, moods) and on MagnaTagATune (instruments, voices). The package itself asks for TensorFlow and librosa and
is not imported: its checkpoints are read by `songkit_judges.tensor_bundle`, and checked against the digests below. The
network follows musicnn/models.py of that release; tests compare tags and embeddings with TensorFlow's.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from songkit.errors import CheckpointError, PluginError
from songkit_judges.mel import mel_spectrogram
from songkit_judges.remembered import remembered
from songkit_judges.tensor_bundle import read_bundle
from songkit_judges.whisper import RATE, resample

__all__ = ["MODELS", "TAGS", "Heard", "listen", "network"]

_MSD = """
rock,pop,alternative,indie,electronic,female vocalists,dance,00s,alternative rock,jazz,beautiful,metal,chillout,
male vocalists,classic rock,soul,indie rock,Mellow,electronica,80s,folk,90s,chill,instrumental,punk,oldies,blues,
hard rock,ambient,acoustic,experimental,female vocalist,guitar,Hip-Hop,70s,party,country,easy listening,sexy,catchy,
funk,electro,heavy metal,Progressive rock,60s,rnb,indie pop,sad,House,happy
"""
_MTT = """
guitar,classical,slow,techno,strings,drums,electronic,rock,fast,piano,ambient,beat,violin,vocal,synth,female,indian,
opera,male,singing,vocals,no vocals,harpsichord,loud,quiet,flute,woman,male vocal,no vocal,pop,soft,sitar,solo,man,
classic,choir,voice,new age,dance,male voice,female vocal,beats,harp,cello,no voice,weird,country,metal,female voice,
choral
"""
TAGS: Mapping[str, tuple[str, ...]] = {
    model: tuple(tag.strip() for tag in text.split(",")) for model, text in (("msd", _MSD), ("mtt", _MTT))
}
"""The tags of each model, in the order of its outputs."""

MODELS: Mapping[str, tuple[str, str, str]] = {
    "msd": (
        "MSD_musicnn",
        "87f3e0f3550c8d3bafc840374003e5c8af5eeb5ecf6add61af09a7822d3282c8",
        "8579734ee6388f799ed0def4bbd0d1fdcbeaf213ef2a9dc860917bd76a303de6",
    ),
    "mtt": (
        "MTT_musicnn",
        "da2d7bb670b2b31e9bc441bb1bd75eca31b5b061f963cc1f9630c1aff3238f57",
        "041f3935e981a65cea739842d30c188d3a7d2adf4410955c8668eb3de4a5acab",
    ),
}
"""Folder in the package, and SHA-256 of its index and of its tensors."""

PATCH = 187
"""Frames (16 ms) of a patch: three seconds, as in training."""
_BANDS, _SIZE, _HOP = 96, 512, 256
_EPSILON = 1e-3
"""Of the batch normalisations."""


@dataclass(frozen=True)
class Heard:
    """What a model makes of a recording, on average over patches of three seconds."""

    logits: np.ndarray
    """float32 [50], log-odds of each of `TAGS`."""
    embedding: np.ndarray
    """float32 [200], the penultimate layer."""


@remembered
def listen(audio: np.ndarray, sample_rate: int, model: str = "msd") -> Heard:
    """Listens to a whole recording; one shorter than three seconds is repeated.

    Args:
        audio: Float samples [T] or [C, T].
        sample_rate: Samples per second.
        model: One of `MODELS`.

    Raises:
        PluginError: If the package with the weights is not installed.
        CheckpointError: If its files are not those that are pinned here.
        AudioError: If the audio is not finite or has no samples.
    """
    power = mel_spectrogram(resample(audio, sample_rate, RATE), RATE, size=_SIZE, hop=_HOP, bands=_BANDS)
    # Half precision before the logarithm is in musicnn's extractor, and its largest value caps what is loud.
    frames = np.log10(1e4 * np.minimum(power, 65504).astype(np.float16).astype(np.float32) + 1)
    if len(frames) < PATCH:
        frames = np.resize(frames, (PATCH, _BANDS))
    count = len(frames) // PATCH
    patches = torch.from_numpy(frames[: count * PATCH].reshape(count, PATCH, _BANDS))
    weights = _load(model)
    # One patch at a time: the same sums in the same order, however long the song is.
    found = [network(weights, patches[i : i + 1]) for i in range(count)]
    logits, embedding = (torch.cat(part).double().mean(0).float().numpy() for part in zip(*found, strict=True))
    return Heard(logits, embedding)


@torch.no_grad()
def network(weights: Mapping[str, Tensor], patches: Tensor) -> tuple[Tensor, Tensor]:
    """Runs the network.

    Args:
        weights: By TensorFlow's names.
        patches: float32 [N, frames, 96], log-compressed mel spectra.

    Returns:
        Log-odds of the tags [N, 50] and the penultimate layer [N, 200].
    """

    def normalised(x: Tensor, number: int) -> Tensor:
        name = "batch_normalization" + (f"_{number}" if number else "")
        mean, variance, gamma, beta = [
            weights[f"{name}/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")
        ]
        return functional.batch_norm(x, mean, variance, gamma, beta, eps=_EPSILON)

    def block(x: Tensor, number: int, padding: tuple[int, int], norm: int) -> Tensor:
        """Convolution over time (padded) and all it can reach of the other axis, [N, filters, time, rest]."""
        name = "conv2d" + (f"_{number}" if number else "")
        kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        x = functional.conv2d(functional.pad(x, (0, 0, *padding)), kernel, weights[f"{name}/bias"])
        return normalised(functional.relu(x), norm)

    x = normalised(patches[:, None], 0)
    # Front end: two timbral blocks (7 frames by .4 and .7 of the bands), three temporal ones (128, 64, 32 frames);
    # TensorFlow's 'same' puts the odd frame of padding behind.
    paddings = [(3, 3), (3, 3), (63, 64), (31, 32), (15, 16)]
    front = torch.cat([block(x, i, padding, i + 1).amax(3) for i, padding in enumerate(paddings)], 1)  # [N, 561, time]
    layers = [front]
    for i in range(3):  # mid end, with residual connections from the second layer on
        out = block(layers[-1].transpose(1, 2)[:, None], 5 + i, (3, 3), 6 + i)[..., 0]  # [N, 64, time]
        layers.append(out + layers[-1] if i else out)
    features = torch.cat(layers, 1)
    # The pools are concatenated along a last axis and flattened, so that they alternate.
    pooled = torch.stack([features.amax(2), features.mean(2)], 2).flatten(1)
    dense = functional.relu(normalised(pooled, 9) @ weights["dense/kernel"] + weights["dense/bias"])
    penultimate = normalised(dense, 10)
    return penultimate @ weights["dense_1/kernel"] + weights["dense_1/bias"], penultimate


@functools.lru_cache(maxsize=2)
def _load(model: str) -> Mapping[str, Tensor]:
    folder, *digests = MODELS[model]
    try:
        package = importlib.metadata.distribution("musicnn")
    except importlib.metadata.PackageNotFoundError as error:
        raise PluginError(
            "the judges of style and musicality need the weights in the package musicnn, which is not installed: "
            "pip install --no-deps musicnn==0.1.0 (29 MB; --no-deps, because it asks for TensorFlow, which is not used)"
        ) from error
    content = []
    for name, digest in zip((".index", ".data-00000-of-00001"), digests, strict=True):
        path = package.locate_file(f"musicnn/{folder}/{name}")
        try:
            content.append(path.read_bytes())  # type: ignore[attr-defined]
        except OSError as error:
            raise CheckpointError(f"cannot read {path} of musicnn: {error}. Install musicnn==0.1.0 again.") from error
        found = hashlib.sha256(content[-1]).hexdigest()
        if found != digest:
            raise CheckpointError(
                f"{path} is not that of musicnn 0.1.0: its SHA-256 is {found}, expected {digest}. "
                "pip install --no-deps --force-reinstall musicnn==0.1.0"
            )
    tensors = read_bundle(*content)
    # Beside its weights the checkpoint holds the optimizer's moments.
    return {name: torch.from_numpy(value.copy()) for name, value in tensors.items() if "Adam" not in name}
