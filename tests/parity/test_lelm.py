"""LeLM gives the numbers of the released implementation, with stand-in weights that come through the importer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from levo2_golden import FOLDER, Golden
from levo2_lelm import write_checkpoint, write_recipe
from torch import Tensor

from songkit.build import build_roles
from songkit.interfaces import Sampling
from songkit.recipe import load
from songkit.registry import Registry
from songkit.request import SongRequest, read_requests
from songkit.types import TRACKS, Codes, Conditions, Plan, Stream, TokenLayout
from songkit_levo2.importing import run
from songkit_levo2.lyrics import lyrics_text, null_style, style_text
from songkit_levo2.qwen import START, lyrics_tokenizer, style_tokenizer

pytestmark = pytest.mark.parity

KINDS = ("lelm_v1", "lelm_v2")
CASES = ("prompt", "noprompt")
CLOSE = 1e-4
LAYOUT = TokenLayout(25.0, tuple(Stream(track, 0, 16384) for track in TRACKS))


class Imported:
    """A golden folder, and the model that was imported to give the same."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        golden = Golden.read(folder)
        self.config, self.numbers = golden.config, golden.numbers
        write_checkpoint(scratch / "model.pt", golden)
        write_recipe(scratch / "sizes.yaml", self.config, behaviour="released")
        registry, out = Registry.discover(), scratch / "out"
        run(scratch / "model.pt", out, name=str(scratch / "sizes.yaml"), dtype="float32", registry=registry)
        built = build_roles(load(out / "model.yaml", registry=registry), require_weights=True)
        self.conditioner, self.planner, self.refiner = (
            built[part].eval() for part in ("conditioner", "planner", "refiner")
        )
        self.tiers = self.config["version"] == "v2"
        self.request = _request(scratch / "songs.jsonl", self.config)

    def conditions(self, case: str, side: str) -> Conditions:
        codes = self.numbers["prompt_codes"]
        prompt = Codes(codes, torch.tensor([codes.shape[2]]), LAYOUT) if case == "prompt" else None
        made: Conditions = self.conditioner([self.request], prompts=[prompt], null=True, side=side)
        return made

    def taught(self, case: str, *, null: bool) -> tuple[Tensor, Tensor]:
        """Logits of the planner [S, V] and of the refiner's tracks [2, S, V] at every step."""
        codes = self.numbers["codes"]
        song = Codes(codes, torch.tensor([codes.shape[2]]), LAYOUT)
        planner, refiner = (self.conditions(case, side) for side in ("planner", "refiner"))
        if null:
            assert planner.null is not None
            assert refiner.null is not None
            planner, refiner = planner.null, refiner.null
        plan: Plan = self.planner(song.select(["mix"]), planner)
        refined: Plan = self.refiner(plan, song, refiner)
        prefix = planner.prefix.shape[1]
        tracks = [head(refined.hidden[0, prefix:]) for head in self.refiner.heads]
        return self.planner.logits(0, plan.hidden[0, prefix:]), torch.stack(tracks)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    chosen = request.config.getoption("--golden", default=None)
    if chosen is not None and request.param != KINDS[0]:
        pytest.skip("--golden names one folder")
    folder = FOLDER / request.param if chosen is None else chosen
    if "planner_layers" not in json.loads((folder / "config.json").read_text()):
        pytest.skip(f"{folder} holds no LeLM")
    with torch.inference_mode():
        return Imported(folder, tmp_path_factory.mktemp(request.param))


def test_texts_have_the_same_ids(model: Imported) -> None:
    lyrics, style = lyrics_text(model.request.sections), style_text(model.request, tiers=model.tiers)
    assert lyrics == model.config["lyrics"]
    assert style == model.config["description"]
    for name, text, tokenizer in (
        ("description", lyrics, lyrics_tokenizer(stops=model.tiers)),
        ("type_info", style, style_tokenizer(tiers=model.tiers)),
    ):
        mask = model.numbers[f"ids/{name}/mask"].bool()
        expected = [row[kept].tolist() for row, kept in zip(model.numbers[f"ids/{name}"], mask, strict=True)]
        assert [tokenizer.ids(text), tokenizer.ids(None)] == expected
    assert lyrics_tokenizer(stops=True).ids(None) == [START]
    assert null_style(style) == ("[Musicality-very-low], ." if model.tiers else None)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("side", ["planner", "refiner"])
@torch.inference_mode()
def test_conditions_are_the_same(model: Imported, case: str, side: str) -> None:
    made = model.conditions(case, side)
    assert made.null is not None
    rows = torch.cat([made.prefix, made.null.prefix])
    parts = [model.numbers[f"{case}/cond/{name}/{side}"] for name in ("description", "prompt_audio", "type_info")]
    torch.testing.assert_close(rows, torch.cat(parts, 1), atol=CLOSE, rtol=0)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_logits_are_the_same(model: Imported, case: str) -> None:
    for row, null in enumerate((False, True)):
        mixed, tracks = model.taught(case, null=null)
        logits = torch.cat([mixed[None], tracks])  # [3, S, V]
        expected = model.numbers[f"{case}/logits"][row]
        torch.testing.assert_close(logits[..., model.numbers["logit_columns"]], expected, atol=CLOSE, rtol=0)
        torch.testing.assert_close(logits.logsumexp(-1), model.numbers[f"{case}/logsumexp"][row], atol=CLOSE, rtol=0)
        assert torch.equal(logits.argmax(-1), model.numbers[f"{case}/argmax"][row])


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_greedy_songs_are_the_same(model: Imported, case: str) -> None:
    sampling = Sampling(
        temperature=0,
        guidance=model.config["guidance"],
        repetition_window=model.config["repetition_window"],
        repetition_penalty=model.config["repetition_penalty"],
    )
    plan = model.planner.generate(
        model.conditions(case, "planner"), sampling=sampling, max_frames=model.config["frames"], seeds=[0]
    )
    tracks = model.refiner.generate(plan, model.conditions(case, "refiner"), sampling=sampling, seeds=[0])
    assert torch.equal(torch.cat([plan.codes.ids, tracks.ids], 1), model.numbers[f"{case}/greedy"])


def _request(path: Path, config: dict[str, str]) -> SongRequest:
    """The song of a `config.json`, read as any other request."""
    description = config["description"].removeprefix("[Musicality-very-high], ")
    path.write_text(json.dumps({"idx": "song", "gt_lyric": config["lyrics"], "descriptions": description}))
    [request] = read_requests(path)
    return request
