"""The released codec's files, of tiny sizes and random numbers, come through `songkit import levo2`."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from songkit.build import build_roles
from songkit.errors import CheckpointError, RequestError
from songkit.recipe import load
from songkit.registry import Registry
from songkit.types import Audio
from songkit_levo2.codec import MusicCodec, build_dual_track
from songkit_levo2.codec_configs import DualTrackCodecConfig
from songkit_levo2.import_codec import import_codec
from songkit_levo2.importing import run
from songkit_levo2.plugin import songkit_components
from songkit_levo2.released_codec import DUAL_TRACK, MIXED, VAE, renamed

GOLDEN = Path(__file__).parents[3] / "tests" / "data" / "levo2"
RATE = 48000


def tiny() -> DualTrackCodecConfig:
    return copy.deepcopy(next(c.example for c in songkit_components() if c.name == "dual-track-codec"))


def released_files(codec: MusicCodec, folder: Path) -> None:
    """Writes a codec as the released files, with their names; what else they hold is there in one row."""
    state = codec.state_dict()
    (folder / "vae").mkdir(parents=True)
    for kind, parts in (("codec_dual", (DUAL_TRACK, MIXED)), ("vae", (VAE,))):
        names = [
            name
            for name in json.loads((GOLDEN / kind / "shapes.json").read_text())
            if not re.search(r"\.h\.[1-9]|layers\.[2-9]\.ffn", name)
        ]
        for part in parts:
            written = {}
            for name in names:
                if part is MIXED and "bgm" in name:
                    continue
                used, _ = renamed(part, [name], state)
                new = used.get(name)
                if new is None or new not in state:
                    written[name] = torch.ones(1)
                elif name.endswith(("weight_g", "weight_v")):
                    direction = state[new][..., None] if ".quantizers." in new else state[new]
                    length = direction.flatten(1).norm(dim=1).reshape(-1, *[1] * (direction.ndim - 1))
                    written[name] = length if name.endswith("g") else direction
                else:
                    transposed = re.search(r"c_(attn|proj|fc)\.weight$", name)
                    written[name] = (state[new].T if transposed else state[new]).contiguous()
            if part is DUAL_TRACK:
                count = torch.tensor([1000.0])
                mean, square = state["vae.mean"], state["vae.std"].square() + state["vae.mean"].square()
                written |= {"normfeat.counts": count, "normfeat.sum_x": mean * count, "normfeat.sum_x2": square * count}
            if part is VAE:
                torch.save({"state_dict": written}, folder / "vae" / "autoencoder.ckpt")
            else:
                safetensors.torch.save_file(written, folder / f"{len(written)}.safetensors")


def test_released_files_are_imported_and_decode_alike(tmp_path: Path) -> None:
    torch.manual_seed(1)
    codec = build_dual_track(tiny()).eval()
    torch.nn.init.normal_(codec.vae.mean)
    released_files(codec, tmp_path / "ckpt")
    (tmp_path / "ckpt" / "htdemucs.pth").write_bytes(b"somebody else's")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        json.dumps({"format": 1, "codec": {"use": "levo2/dual-track-codec", **dataclasses.asdict(tiny())}})
    )
    registry = Registry.discover()

    report = run(tmp_path / "ckpt", tmp_path / "out", name=str(recipe), dtype=None, registry=registry)

    assert any(name.endswith(": zero_cond_embedding1") for name in report.unused)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(report.files)
    imported = load(tmp_path / "out" / "codec.yaml", registry=registry)
    built = build_roles(imported, ["codec"], require_weights=True)["codec"].eval()
    waves = {track: 0.1 * torch.randn(1, 2, RATE) for track in ("mix", "vocal", "accompaniment")}
    audio = Audio(waves, torch.tensor([RATE]), RATE)
    codes, again = codec.encode(audio), built.encode(audio)
    assert torch.equal(codes.ids, again.ids)
    wave, same = (c.decode(codes.select(["vocal", "accompaniment"])).tracks["vocal"] for c in (codec, built))
    torch.testing.assert_close(same, wave, rtol=0, atol=1e-5)


def test_the_codec_is_refused_in_less_than_float32(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"the codec was asked for in bfloat16; expected float32.*Leave --dtype out"):
        run(tmp_path, tmp_path / "out", name="codec", dtype="bfloat16", registry=Registry.discover())


def test_a_folder_without_all_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"lacks the dual-track model .*, the mixed model .*, the VAE .*x\.pt"):
        import_codec(tmp_path, tmp_path / "out", "levo2/released/codec", Registry.discover())
    assert not (tmp_path / "out").exists()
