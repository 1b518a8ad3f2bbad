"""The released codec's files as this plugin's weights: which tensor goes where, and what is left out and why.

Names are those of tencent-ailab/SongGeneration at b1b03ec (codeclm/tokenizer/Flow1dVAE) and of stable-audio-tools.
Three files make one codec: the dual-track model (encoder, two quantizers, flow transformer), the mixed model, of which
only the quantizer is used, and the VAE. Tensors are read one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from songkit.errors import CheckpointError
from songkit_levo2.codec import MusicCodec

__all__ = ["DUAL_TRACK", "MIXED", "VAE", "Converted", "Part", "codec_state", "convert"]


@dataclass(frozen=True)
class Part:
    """How the tensors of one file are named here."""

    title: str
    """What the file is, for messages."""
    names: tuple[tuple[str, str], ...]
    """Patterns of released names, and what is put in their place. The first that matches a name's start counts."""
    left_out: tuple[tuple[str, str], ...]
    """Patterns of released names that are not used, and why. They count before `names`."""


@dataclass
class Converted:
    """What became of a file's tensors."""

    used: dict[str, str] = field(default_factory=dict)
    """Released name to the name here."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Released name to the reason."""


_LAYER = r"bestrq\.model\.conformer\.layers\.(\d+)\."
_NEW_LAYER = r"semantic.layers.\1."
_FLOW = r"cfm_wrapper\.estimator\."

_ENCODER = (
    (r"bestrq\.model\.conv\.conv\.(\d)\.conv", r"semantic.stages.\1.conv"),
    (r"bestrq\.model\.conv\.conv\.(\d)\.bn", r"semantic.stages.\1.norm"),
    (r"bestrq\.model\.conv\.linear", r"semantic.project"),
    (_LAYER + r"ffn(\d)_layer_norm", _NEW_LAYER + r"feed\2_norm"),
    (_LAYER + r"ffn(\d)\.intermediate_dense", _NEW_LAYER + r"feed\2.0"),
    (_LAYER + r"ffn(\d)\.output_dense", _NEW_LAYER + r"feed\2.2"),
    (_LAYER + r"self_attn_layer_norm", _NEW_LAYER + r"attention_norm"),
    (_LAYER + r"self_attn\.linear_([qkv])", _NEW_LAYER + r"\2"),
    (_LAYER + r"self_attn\.linear_out", _NEW_LAYER + r"proj"),
    (_LAYER + r"conv_module\.layer_norm", _NEW_LAYER + r"conv_norm"),
    (_LAYER + r"conv_module\.pointwise_conv1", _NEW_LAYER + r"expand"),
    (_LAYER + r"conv_module\.depthwise_conv", _NEW_LAYER + r"depthwise"),
    (_LAYER + r"conv_module\.batch_norm", _NEW_LAYER + r"depthwise_norm"),
    (_LAYER + r"conv_module\.pointwise_conv2", _NEW_LAYER + r"contract"),
    (_LAYER + r"final_layer_norm", _NEW_LAYER + r"norm"),
)

_OF_TRAINING = "only the released training uses it"
_DERIVED = "derived from the configuration"
_NOT_CALLED = "the released encoder has it and does not call it"
_ENCODER_LEFT_OUT = (
    (r"bestrq\.model\.(preprocessor|conformer\.embed_positions)", _DERIVED),
    (r"rs[pq]48to", _DERIVED),
    (r"bestrq\.model\.(cls_token|conformer\.pos_conv_embed)", _NOT_CALLED),
    (r"bestrq\.model\.(linear|conformer\.layer_norm)", "behind the deepest tap"),
    (r"bestrq\.model\.(quantizer|rvq|mask|classifier)", _OF_TRAINING),
    (r"rvq\w*\.quantizers\.0\.stale_counter", _OF_TRAINING),
)


def _quantizer(released: str, track: str) -> tuple[tuple[str, str], ...]:
    old, new = rf"{released}\.quantizers\.0\.", f"semantic.quantizers.{track}."
    return (old + r"in_proj", new + "down"), (old + r"out_proj", new + "up"), (old + r"codebook\.weight", new + "codes")


DUAL_TRACK = Part(
    title="dual-track model (model_septoken)",
    names=(
        *_ENCODER,
        *_quantizer("rvq_bestrq_emb", "vocal"),
        *_quantizer("rvq_bestrq_bgm_emb", "accompaniment"),
        (r"mask_emb", "diffusion.flag"),
        (_FLOW + r"wpe", "diffusion.positions"),
        (_FLOW + r"adaln_single\.emb\.timestep_embedder\.linear_1", "diffusion.time.0"),
        (_FLOW + r"adaln_single\.emb\.timestep_embedder\.linear_2", "diffusion.time.2"),
        (_FLOW + r"adaln_single\.linear", "diffusion.modulation"),
        (_FLOW + r"h\.(\d+)\.ln_(\d)", r"diffusion.blocks.\1.norm\2"),
        (_FLOW + r"h\.(\d+)\.attn\.c_attn", r"diffusion.blocks.\1.qkv"),
        (_FLOW + r"h\.(\d+)\.attn\.c_proj", r"diffusion.blocks.\1.proj"),
        (_FLOW + r"h\.(\d+)\.mlp\.c_fc", r"diffusion.blocks.\1.expand"),
        (_FLOW + r"h\.(\d+)\.mlp\.c_proj", r"diffusion.blocks.\1.contract"),
        (_FLOW + r"h\.(\d+)\.scale_shift_table", r"diffusion.blocks.\1.table"),
        (_FLOW + r"scale_shift_table", "diffusion.table"),
        (_FLOW + r"ln_f", "diffusion.norm"),
        (_FLOW + r"proj_out", "diffusion.out"),
    ),
    left_out=(
        *_ENCODER_LEFT_OUT,
        (r"normfeat\.", "becomes vae.mean and vae.std"),
        (_FLOW + r"wte", "the released transformer has it and does not call it"),
        (_FLOW + r"h\.\d+\.attn\.(masked_)?bias", _DERIVED),
        (r"cfm_wrapper\.mlp", _OF_TRAINING),
        (r"zero_cond_embedding1", "for padding, which is not made here"),
    ),
)

MIXED = Part(
    title="mixed model (model_1rvq)",
    names=(*_ENCODER, *_quantizer("rvq_bestrq_emb", "mix")),
    left_out=(
        *_ENCODER_LEFT_OUT,
        (r"cfm_wrapper|normfeat|mask_emb|zero_cond_embedding1", "the mixed stream is planned and not decoded"),
    ),
)

VAE = Part(
    title="VAE (autoencoder_music_1320k)",
    names=((r"(?:autoencoder\.)?(encoder|decoder)", r"vae.\1"),),
    left_out=((r"discriminator|losses|bottleneck|pretransform|autoencoder_ema", _OF_TRAINING),),
)


def codec_state(
    codec: MusicCodec, dual_track: Mapping[str, Tensor], mixed: Mapping[str, Tensor] | None, vae: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Converted]]:
    """Returns a codec's state from the released files, and what became of the tensors of each file.

    Args:
        codec: Says which names are wanted; it may be on the meta device.
        dual_track: Tensors of the dual-track model.
        mixed: Tensors of the mixed model; `None` for a codec without the mixed stream.
        vae: Tensors of the VAE.

    Raises:
        CheckpointError: If a name is unknown or missing, a shape is another, or the encoders of both models differ.
    """
    wanted = codec.state_dict()
    state: dict[str, Tensor] = {}
    reports = {}
    for part, tensors in ((DUAL_TRACK, dual_track), (MIXED, mixed), (VAE, vae)):
        if tensors is None:
            continue
        report = reports[part.title] = Converted()
        for name, tensor in convert(part, tensors, wanted, report):
            if name in state and not torch.equal(state[name], tensor):
                raise CheckpointError(
                    f"'{name}' differs between the {DUAL_TRACK.title} and the {part.title}: they were not released "
                    "together. Take both files from the same release."
                )
            state[name] = tensor
    for name, tensor in wanted.items():  # what training counts starts anew
        if name.endswith((".usage", ".seen")):
            state[name] = torch.ones(tensor.shape) if name.endswith("usage") else torch.zeros(tensor.shape).long()
    missing = sorted(wanted.keys() - state.keys())
    extra = sorted(state.keys() - wanted.keys())
    shapes = [
        f"{name} {list(tensor.shape)} instead of {list(wanted[name].shape)}"
        for name, tensor in state.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    problems = [f"{len(names)} {what}: {', '.join(names[:5])}" for what, names in (
        ("missing", missing), ("that the codec does not have", extra), ("of another shape", shapes)
    ) if names]  # fmt: skip
    if problems:
        raise CheckpointError(
            f"the released files do not fit the codec: {'; '.join(problems)}. Check its sizes (layers, taps, channels)."
        )
    return state, reports


def convert(
    part: Part, tensors: Mapping[str, Tensor], wanted: Iterable[str], report: Converted
) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a released file by their names here, one at a time.

    Args:
        part: Which file it is.
        tensors: The file's, read when they are asked for.
        wanted: The names of the codec's state; encoder layers that it does not have are left out.
        report: Is told what becomes of every name.

    Raises:
        CheckpointError: If a name is unknown; nothing has been yielded then.
    """
    wanted = set(wanted)
    unknown = []
    for name in tensors:
        reason = next((why for pattern, why in part.left_out if re.match(pattern, name)), None)
        new = next((re.sub(pattern, to, name) for pattern, to in part.names if re.match(pattern, name)), None)
        if reason is not None:
            report.left_out[name] = reason
        elif new is None:
            unknown.append(name)
        elif new.startswith("semantic.layers.") and new not in wanted:
            report.left_out[name] = "behind the deepest tap"
        else:
            report.used[name] = re.sub(r"weight_[gv]$", "weight", new)
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors are none of the released {part.title}: {', '.join(sorted(unknown)[:5])}. Check "
            "which file it is; nothing was imported."
        )
    for name, new in list(report.used.items()):
        if name in tensors and not name.endswith("weight_v"):
            yield new, _fitted(name, new, tensors)
    if "normfeat.counts" in tensors and part is DUAL_TRACK:
        yield from _statistics(tensors)


def _fitted(name: str, new: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Returns a tensor as it is kept here."""
    tensor = tensors[name]
    if name.endswith("weight_g"):
        tensor = torch._weight_norm(tensors[f"{name[:-1]}v"], tensor, 0)  # what weight_norm itself calls
    if re.search(r"\.quantizers\.\w+\.(down|up)\.weight$", new):
        tensor = tensor.squeeze(-1)  # a convolution over single frames there, a linear here
    if re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name):
        tensor = tensor.T  # GPT-2 keeps [in, out]
    return tensor.contiguous()


def _statistics(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields mean and standard deviation of the latents from their running sums."""
    count, total, squares = (tensors[f"normfeat.{name}"].double() for name in ("counts", "sum_x", "sum_x2"))
    if float(count) < 10:
        raise CheckpointError(f"normfeat.counts is {float(count):g}: the statistics of the latents were not gathered")
    mean = total / count
    yield "vae.mean", mean.float()
    yield "vae.std", (squares / count - mean.square()).clamp(min=0).sqrt().float()
