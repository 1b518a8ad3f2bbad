"""The package's own model, made of its parts without fetching weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from songkit.errors import CheckpointError
from songkit.imports import import_without
from songkit.published import fold_weight_norm, remove_weight_norm
from songkit_encodec.configs import EncodecConfig

__all__ = ["ENTRIES", "encodec", "make_model", "state_of"]

# encodec.utils imports torchaudio to resample and to write files, neither of which is used here, and the wheel on PyPI
# does not load beside a PyTorch for CPUs.
encodec: Any = import_without("encodec", ["torchaudio"])

ENTRIES = 1024
"""Ids of every level."""


def make_model(
    config: EncodecConfig, *, sample_rate: int, channels: int, levels: int, causal: bool, segment: float | None
) -> Any:
    """Returns an `encodec.EncodecModel` with random weights, in evaluation mode.

    Args:
        config: Sizes and bandwidth.
        sample_rate: Samples a second.
        channels: Channels of the audio.
        levels: Levels of the quantizer at the highest bandwidth.
        causal: Causal with weight norm, as the 24 kHz model, or not and with norms over time, as the 48 kHz model.
        segment: Seconds of the segments that are coded one by one, each at the same loudness; `None` for none.
    """
    sizes = {
        "channels": channels,
        "dimension": config.dimension,
        "n_filters": config.filters,
        "norm": "weight_norm" if causal else "time_group_norm",
        "causal": causal,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)
        encoder, decoder = encodec.modules.SEANetEncoder(**sizes), encodec.modules.SEANetDecoder(**sizes)
        # By k-means the codes would be zero until it has seen audio; published weights replace either.
        quantizer = encodec.quantization.ResidualVectorQuantizer(config.dimension, levels, ENTRIES, kmeans_init=False)
    model = encodec.EncodecModel(
        encoder,
        decoder,
        quantizer,
        list(config.bandwidths),
        sample_rate,
        channels,
        normalize=segment is not None,
        segment=segment,
    )
    model.set_target_bandwidth(config.bandwidth)
    remove_weight_norm(model)
    return model.eval()


def state_of(content: Any, model: str) -> Mapping[str, Tensor]:
    """Returns the state dict in a file that the package publishes, named as in a codec with a submodule `model`.

    Raises:
        CheckpointError: If the content is no state dict.
    """
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"expected the state dict of {model}, found {type(content).__name__}")
    return {f"model.{name}": tensor for name, tensor in fold_weight_norm(content).items()}
