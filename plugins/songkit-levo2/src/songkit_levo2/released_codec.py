"""The released codec's files as this plugin's weights: which tensor goes where, and what is left out and why.

Names are those of tencent-ailab/SongGeneration at b1b03ec (codeclm/tokenizer/Flow1dVAE) and of stable-audio-tools.
Three files make one codec: the dual-track model (encoder, two quantizers, flow transformer), the mixed model, of which
only the quantizer is used, and the VAE. Tensors are read one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from songkit.errors import CheckpointError

__all__ = ["DUAL_TRACK", "MIXED", "VAE", "Makers", "Part", "codec_makers", "makers", "recognised", "renamed"]


@dataclass(frozen=True)
class Part:
    """How the tensors of one file are named here."""

    title: str
    """What the file is, for messages."""
    names: tuple[tuple[str, str], ...]
    """Patterns of released names, and what is put in their place. The first that matches a name's start counts."""
    left_out: tuple[tuple[str, str], ...]
    """Patterns of released names that are not used, and why. They count before `names`."""
    sign: str
    """A name that tells the file from those after it."""


Makers = dict[str, Callable[[], Tensor]]
"""What reads and converts a tensor, by its name here."""


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
    sign="rvq_bestrq_bgm_emb.quantizers.0.codebook.weight",
)

MIXED = Part(
    title="mixed model (model_1rvq)",
    names=(*_ENCODER, *_quantizer("rvq_bestrq_emb", "mix")),
    left_out=(
        *_ENCODER_LEFT_OUT,
        (r"cfm_wrapper|normfeat|mask_emb|zero_cond_embedding1", "the mixed stream is planned and not decoded"),
    ),
    sign="rvq_bestrq_emb.quantizers.0.codebook.weight",
)

VAE = Part(
    title="VAE (autoencoder_music_1320k)",
    names=((r"(encoder|decoder)\.", r"vae.\1."),),
    left_out=((r"discriminator|losses|autoencoder_ema", _OF_TRAINING),),
    sign="decoder.layers.0.weight_g",
)


def recognised(tensors: Container[str]) -> Part | None:
    """Returns which of the released files has tensors of such names, if any."""
    return next((part for part in (DUAL_TRACK, MIXED, VAE) if part.sign in tensors), None)


def codec_makers(
    wanted: Mapping[str, Tensor], files: Mapping[Part, Mapping[str, Tensor]]
) -> tuple[Makers, dict[Part, dict[str, str]], dict[Part, dict[str, str]]]:
    """Returns how a codec's whole state is made of the released files.

    Args:
        wanted: The codec's state, on any device.
        files: Tensors of each file, by what it is.

    Returns:
        The makers, and for each file the new names of its tensors and the reasons of those that are left out.

    Raises:
        CheckpointError: If a name is unknown or missing, a shape is another, or the encoders of two files differ.
    """
    made: Makers = {}
    used: dict[Part, dict[str, str]] = {}
    unused: dict[Part, dict[str, str]] = {}
    problems = []
    for part, tensors in files.items():
        used[part], unused[part] = renamed(part, tensors, wanted)
        shapes = {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}
        found = makers(part, shapes, used[part])
        problems += [
            f"{name} {list(make().shape)} instead of {list(wanted[name].shape)}"
            for name, make in found.items()
            if name in wanted and make().shape != wanted[name].shape
        ]
        problems += [f"{name} unknown to the codec" for name in found if name not in wanted]
        for name, make in makers(part, tensors, used[part]).items():
            if name in made and not problems and not torch.equal(made[name](), make()):
                raise CheckpointError(
                    f"'{name}' of the {part.title} differs from that of another file: they were not released together. "
                    "Take all files from the same release."
                )
            made[name] = make
    for name, tensor in wanted.items():  # what training counts starts anew
        if name.endswith((".usage", ".seen")):
            made[name] = partial(torch.full, tensor.shape, float(name.endswith("usage")), dtype=tensor.dtype)
    problems += [f"{name} missing" for name in sorted(wanted.keys() - made.keys())]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"the released files do not fit the codec: {'; '.join(problems[:5])}{more}. Check that all files are "
            "there, and the sizes of the codec's recipe."
        )
    return made, used, unused


def renamed(part: Part, tensors: Iterable[str], wanted: Container[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the names here of a released file's tensors, and why others are left out.

    Args:
        part: Which file it is.
        tensors: The names in the file.
        wanted: The names of the codec's state; encoder layers that it does not have are left out.

    Raises:
        CheckpointError: If a name is unknown.
    """
    used, unused, unknown = {}, {}, []
    for name in tensors:
        reason = next((why for pattern, why in part.left_out if re.match(pattern, name)), None)
        new = next((re.sub(pattern, to, name) for pattern, to in part.names if re.match(pattern, name)), None)
        if reason is not None:
            unused[name] = reason
        elif new is None:
            unknown.append(name)
        elif new.startswith("semantic.layers.") and new not in wanted:
            unused[name] = "behind the deepest tap"
        else:
            used[name] = re.sub(r"weight_[gv]$", "weight", new)
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors are none of the released {part.title}: {', '.join(sorted(unknown)[:5])}. Check "
            "which file it is; nothing was imported."
        )
    return used, unused


def makers(part: Part, tensors: Mapping[str, Tensor], used: Mapping[str, str]) -> Makers:
    """Returns how the tensors of a released file are made, by their names here.

    Args:
        part: Which file it is.
        tensors: The file's.
        used: From `renamed`.
    """
    made: Makers = {
        new: partial(_fitted, name, new, tensors) for name, new in used.items() if not name.endswith("weight_v")
    }
    if part is DUAL_TRACK and "normfeat.counts" in tensors:
        made["vae.mean"], made["vae.std"] = (partial(_statistic, tensors, which) for which in ("mean", "std"))
    return made


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


def _statistic(tensors: Mapping[str, Tensor], which: str) -> Tensor:
    """Returns mean or standard deviation of the latents from their running sums."""
    count, total, squares = (tensors[f"normfeat.{name}"].double() for name in ("counts", "sum_x", "sum_x2"))
    mean = total / count
    return (mean if which == "mean" else (squares / count - mean.square()).clamp(min=0).sqrt()).float()
