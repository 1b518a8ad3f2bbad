"""The released LeLM layouts at their real sizes, without a byte of their weights: on the meta device."""

from __future__ import annotations

import pytest
import torch

from songkit.build import build_roles
from songkit.recipe import load
from songkit.registry import Registry
from songkit_levo2.released import DEAD, NAMES, PARTS, entries, released_shapes

REGISTRY = Registry.discover()

SIZES = {
    # width, feed-forward, layers of both towers, rotary base of the planner, lyrics, style, rows of the style table
    "base": (1536, 8960, 28, 12, 1e5, 300, 50, 151646),
    "base-new": (1536, 8960, 28, 12, 1e5, 300, 50, 151646),
    "base-full": (1536, 8960, 28, 12, 5e5, 600, 100, 151646),
    "large": (2048, 11008, 36, 12, 5e5, 600, 100, 151646),
    "v2-medium": (1536, 8960, 28, 12, 5e5, 600, 100, 151652),
    "v2-large": (2048, 11008, 36, 12, 5e5, 600, 100, 151652),
}


def released(width: int, feed_forward: int, layers: int, refiner_layers: int, style_rows: int) -> dict[str, tuple]:
    """Every name and shape of a released `model.pt`, from the public description of its graph."""
    conditions = "condition_provider.conditioners"
    shapes: dict[str, tuple] = {
        f"{conditions}.description.output_proj.weight": (151659, width),
        f"{conditions}.description.structure_emb.weight": (200, width),
        f"{conditions}.type_info.output_proj.weight": (style_rows, width),
        f"{conditions}.prompt_audio.EOT_emb": (1, width),
        f"{conditions}.prompt_audio.layer2_EOT_emb": (1, width),
        "emb.0.weight": (16386, width),
        "mlp.0.weight": (width, 2 * width),
        "mlp.0.bias": (width,),
        "mlp.2.weight": (width, width),
        "mlp.2.bias": (width,),
        "linears.0.weight": (16385, width),
        "linears.1.weight": (16385, width),
        "out_norm.weight": (width,),
        "out_norm.bias": (width,),
    }
    for k in range(3):
        shapes[f"{conditions}.prompt_audio.emb.{k}.weight"] = shapes[f"layer2_emb.{k}.weight"] = (16386, width)
    for tower, depth in (("transformer", layers), ("transformer2", refiner_layers)):
        shapes[f"{tower}.lm_head.weight"] = shapes[f"{tower}.model.embed_tokens.weight"] = (16385, width)
        shapes[f"{tower}.model.norm.weight"] = (width,)
        for i in range(depth):
            layer = f"{tower}.model.layers.{i}"
            shapes |= {f"{layer}.self_attn.{p}_proj.weight": (width, width) for p in "qkvo"}
            shapes |= {f"{layer}.mlp.{p}_proj.weight": (feed_forward, width) for p in ("gate", "up")}
            shapes[f"{layer}.mlp.down_proj.weight"] = (width, feed_forward)
            shapes |= {f"{layer}.{p}_layernorm.weight": (width,) for p in ("input", "post_attention")}
    return shapes


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    """A name, and its parts on the meta device."""
    with torch.device("meta"):
        return request.param, build_roles(load(f"levo2/released/{request.param}", registry=REGISTRY), PARTS)


def test_every_name_and_shape_of_the_checkpoint_is_that_of_our_tensors(model) -> None:
    name, parts = model
    width, feed_forward, layers, refiner_layers, *_, style_rows = SIZES[name]
    ours = {
        (part, key): tuple(value.shape) for part, module in parts.items() for key, value in module.state_dict().items()
    }
    found = list(entries({"planner": layers, "refiner": refiner_layers}))
    assert {(entry.part, entry.name) for entry in found} == set(ours)
    shapes = {}
    for entry in found:
        for source, shape in released_shapes(entry, ours[entry.part, entry.name]).items():
            assert source not in shapes  # no tensor is used twice
            shapes[source] = shape
    expected = released(width, feed_forward, layers, refiner_layers, style_rows)
    assert shapes == {key: shape for key, shape in expected.items() if key not in DEAD}
    assert set(DEAD) <= set(expected)
    assert len(expected) == 26 + 9 * (layers + refiner_layers) == (386 if layers == 28 else 458)


def test_sizes_are_those_that_were_published(model) -> None:
    name, parts = model
    width, feed_forward, layers, refiner_layers, base, lyrics, style, style_rows = SIZES[name]
    towers = sum(p.numel() for part in ("planner", "refiner") for p in parts[part].tower.parameters())
    whole = sum(
        torch.Size(s).numel() for s in released(width, feed_forward, layers, refiner_layers, style_rows).values()
    )
    large = name.endswith("large")
    assert round(towers / 1e9, 2) == (4.05 if large else 2.03)
    assert round(whole / 1e9, 2) == (5.12 if large else 2.83)
    planner, refiner, conditioner = parts["planner"], parts["refiner"], parts["conditioner"]
    assert planner.tower.config.rope_base == base
    assert refiner.tower.config.rope_base == 5e5
    assert width // planner.tower.config.heads == width // refiner.tower.config.heads == 128
    assert (conditioner.config.lyrics_length, conditioner.config.style_length) == (lyrics, style)
    assert planner.tail == refiner.source_tail == refiner.config.delay == 250
    assert conditioner.config.behaviour == refiner.config.behaviour == "mended"
