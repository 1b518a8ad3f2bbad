"""What the released sampler does, and what is mended by default, on tiny random models of the released layout."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.errors import RequestError
from songkit.interfaces import Sampling
from songkit.recipe import load
from songkit.registry import Registry
from songkit.request import SongRequest
from songkit.types import TRACKS, Codes, Section, Stream, TokenLayout
from songkit_levo2.configs import MixedLMConfig, QwenConditionerConfig, TrackLMConfig
from songkit_levo2.lyrics import line_problems, lyrics_text, style_text
from songkit_levo2.planner import MixedLM
from songkit_levo2.qwen_conditioner import QwenConditioner
from songkit_levo2.refiner import TrackLM

SIZE, WIDTH, DELAY = 24, 16, 3
SONG = SongRequest(id="a", description="female, pop", sections=(Section("verse", ("sing to me", "again")),))
PURE = SongRequest(id="p", sections=(), pure_music=True)
GREEDY = Sampling(temperature=0, guidance=1.5, repetition_window=0)
HOT = Sampling(temperature=3.0, top_k=0, guidance=1.5, repetition_window=0)
END = 40.0
"""A logit that wins."""


@pytest.fixture(scope="module")
def conditioner() -> QwenConditioner:
    return lively(QwenConditioner(conditions()))


def conditions(**changes) -> QwenConditionerConfig:
    values = {"width": WIDTH, "lyrics_length": 24, "style_length": 16, "prompt_seconds": 0.2, "codebook_size": SIZE}
    return QwenConditionerConfig(**{**values, **changes})


def lively(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


def towers(**changes) -> tuple[MixedLM, TrackLM]:
    tower = lambda: Transformer(TransformerConfig(dim=WIDTH, layers=2, heads=2, feed_forward=32))  # noqa: E731
    planner = MixedLM(MixedLMConfig(codebook_size=SIZE, cursor=False, tail=DELAY), tower())
    values = {"codebook_size": SIZE, "source_codebook_size": SIZE, "source_width": WIDTH, "delay": DELAY}
    config = TrackLMConfig(**values, after="planner", ends=True, **changes)
    return lively(planner), lively(TrackLM(config, tower()))


def prompt_of(ids: list[int]) -> Codes:
    layout = TokenLayout(25.0, tuple(Stream(track, 0, SIZE) for track in TRACKS))
    return Codes(torch.tensor(ids).expand(1, 3, -1).clone(), torch.tensor([len(ids)]), layout)


# --- states beyond the song ----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("ends", [False, True])
def test_states_after_a_song_are_the_same_drawn_and_taught(conditioner, ends) -> None:
    planner, refiner = towers()
    if ends:  # after six frames the end of song is the only id that is left
        sampling = dataclasses.replace(GREEDY, min_frames=6)
        planner.logits = lambda stream, states, guidance=1.0: boosted(MixedLM.logits(planner, stream, states, guidance))
    else:
        sampling = dataclasses.replace(GREEDY, min_frames=10)
    made = conditioner([SONG], null=True)
    plan = planner.generate(made, sampling=sampling, max_frames=9, seeds=[1])
    assert bool(plan.finished[0]) == ends
    assert int(plan.codes.lengths[0]) == (6 if ends else 9)
    codes = dataclasses.replace(plan.codes, ended=torch.tensor([ends]))
    taught = planner(codes, made)
    torch.testing.assert_close(taught.hidden, plan.hidden, atol=1e-4, rtol=1e-4)
    other = planner(dataclasses.replace(codes, ended=torch.tensor([not ends])), made)
    assert not torch.allclose(other.hidden[:, -DELAY:], plan.hidden[:, -DELAY:], atol=1e-3)
    side = conditioner([SONG], side="refiner", null=True)
    tracks = refiner.generate(plan, side, sampling=dataclasses.replace(GREEDY, guidance=1.0), seeds=[1])
    logits = refiner(taught, tracks, side).logits[0, :, : tracks.ids.shape[2], :SIZE]
    assert torch.equal(logits.argmax(-1), tracks.ids[0])


def boosted(logits: torch.Tensor) -> torch.Tensor:
    return logits + END * (torch.arange(logits.shape[-1]) == logits.shape[-1] - 1)


# --- the defects ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_track_that_ends_early_cuts_nothing_off_unless_the_behaviour_is_released(conditioner) -> None:
    lengths = {}
    for behaviour in ("mended", "released"):
        planner, refiner = towers(behaviour=behaviour)
        plan = planner.generate(
            conditioner([SONG], null=True),
            sampling=dataclasses.replace(GREEDY, min_frames=12),
            max_frames=12,
            seeds=[1],
        )
        refiner.heads[0] = Ending(refiner.heads[0])  # the voice ends at once
        side = conditioner([SONG], side="refiner", null=True)
        codes = refiner.generate(plan, side, sampling=GREEDY, seeds=[1])
        lengths[behaviour] = int(codes.lengths[0])
        assert codes.ids.shape == (1, 2, lengths[behaviour])
    assert lengths == {"mended": 12, "released": 0}


class Ending(torch.nn.Module):
    """A head whose most likely id is the end of song."""

    def __init__(self, head) -> None:
        super().__init__()
        self.head = head

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return boosted(self.head(states))


@torch.no_grad()
def test_the_ids_of_a_prompt_may_be_drawn_unless_the_behaviour_is_released() -> None:
    ids, drawn = [1, 2, 3, 4, 5], {}
    planner, _ = towers()
    for behaviour in ("mended", "released"):
        made = lively(QwenConditioner(conditions(behaviour=behaviour)))([SONG], prompts=[prompt_of(ids)], null=True)
        plan = planner.generate(made, sampling=dataclasses.replace(HOT, min_frames=60), max_frames=60, seeds=[1])
        drawn[behaviour] = set(plan.codes.ids[0, 0].tolist())
    assert drawn["mended"] & set(ids)
    assert not drawn["released"] & set(ids)


def test_pure_music_keeps_its_tags_without_a_description_unless_the_behaviour_is_released() -> None:
    told = {}
    for behaviour in ("mended", "released"):
        module = QwenConditioner(conditions(behaviour=behaviour))
        module.check(PURE)
        told[behaviour] = module._style(PURE)
    tags = "[Musicality-very-high], [Pure-Music], ."
    assert style_text(PURE, tiers=True) == tags
    assert told["mended"] == QwenConditioner(conditions())._style_ids(tags)
    assert told["released"] == QwenConditioner(conditions())._style_ids(".")
    described = dataclasses.replace(PURE, description="Calm, Piano")
    for keep in (True, False):
        assert style_text(described, tiers=True, keep_tags=keep) == "[Musicality-very-high], [Pure-Music], calm, piano"


@torch.no_grad()
def test_no_song_ends_before_its_shortest_length(conditioner) -> None:
    planner, _ = towers()
    planner.logits = lambda stream, states, guidance=1.0: boosted(MixedLM.logits(planner, stream, states, guidance))
    made = conditioner([SONG], null=True)
    for least in (0, 1, 7):
        sampling = dataclasses.replace(HOT, min_frames=least)
        plan = planner.generate(made, sampling=sampling, max_frames=20, seeds=[1])
        assert int(plan.codes.lengths[0]) == max(1, least)


@torch.no_grad()
def test_the_released_window_keeps_a_long_song_from_standing_still(conditioner) -> None:
    """Ports that left it out saw long songs fall to near silence: an id that is likely after itself stays for ever."""
    planner, _ = towers()
    stuck = 3.0 + 0.25 * (torch.arange(SIZE + 1) == 5)  # the most likely id, by less than a tenth
    planner.logits = lambda stream, states, guidance=1.0: stuck.repeat(len(states), 1)  # guided ones
    drawn = {}
    settings = load("levo2/released/v2-medium", registry=Registry.discover(), allow_missing=True).generate
    for window in (0, settings.repetition_window):
        sampling = Sampling(
            temperature=0, repetition_window=window, repetition_penalty=settings.repetition_penalty, min_frames=60
        )
        plan = planner.generate(conditioner([SONG], null=True), sampling=sampling, max_frames=60, seeds=[1])
        drawn[window] = plan.codes.ids[0, 0].tolist()
    assert drawn[0] == [5] * 60
    assert len(set(drawn[50])) == SIZE  # fewer ids than frames in the window: each is drawn


# --- conditions ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_null_branch_is_the_lowest_tier_only_where_the_highest_was_asked_for(conditioner) -> None:
    high, low = (conditioner([dataclasses.replace(SONG, tier=tier)], null=True).null for tier in ("very-high", "low"))
    start = conditioner.style(torch.tensor([151644]))
    style = slice(-conditioner.config.style_length, None)
    torch.testing.assert_close(low.prefix[0, style][:1], start)
    padding = conditioner.style(torch.tensor([151643]))
    torch.testing.assert_close(low.prefix[0, style][1:2], padding)
    torch.testing.assert_close(high.prefix[0, style][1:2], conditioner.style(torch.tensor([151650])))
    assert high.mask.all()  # padding counts, as released


@torch.no_grad()
def test_guidance_of_pure_music_pushes_away_from_the_tier_only_where_the_style_has_kept_it() -> None:
    for behaviour, after_start in (("mended", 151650), ("released", 151643)):  # the tier very-low, padding
        module = lively(QwenConditioner(conditions(behaviour=behaviour)))
        style = module([PURE], null=True).null.prefix[0, -module.config.style_length :]
        torch.testing.assert_close(style[1:2], module.style(torch.tensor([after_start])))


@torch.no_grad()
def test_a_prompt_reaches_its_own_side_only(conditioner) -> None:
    prompt = prompt_of([1, 2, 3])
    prompt.ids[0, 0] = 7
    for side, own in (("planner", [0]), ("refiner", [1, 2])):
        before = conditioner([SONG], prompts=[prompt], side=side).prefix
        for row in range(3):
            other = dataclasses.replace(prompt, ids=prompt.ids.clone())
            other.ids[0, row] = 9
            changed = not torch.equal(conditioner([SONG], prompts=[other], side=side).prefix, before)
            assert changed == (row in own)


def test_lyrics_are_written_as_the_model_was_taught() -> None:
    sections = (Section("intro-short"), Section("verse", ("Hold on.", "Let go")), Section("chorus", ("雪花", "情缘")))
    assert lyrics_text(sections) == "[intro-short] ; [verse] Hold on. Let go. ; [chorus] 雪花.情缘"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Oh， my love！", "Write 'Oh, my love!'"),
        ("don’t go", 'Write "don\'t go"'),
        ("one; two", "Write 'one, two'"),
        ("Mr. Smith is here", "Write 2 lines: ['Mr', 'Smith is here']"),
        ("hello [chorus] again", "[chorus], which the model reads as a tag"),
    ],
)
def test_a_line_in_other_writing_is_refused_with_the_right_one(conditioner, line, told) -> None:
    [problem] = line_problems(line)
    assert told in problem
    with pytest.raises(RequestError, match=re.escape(told)):
        conditioner.check(dataclasses.replace(SONG, sections=(Section("verse", (line,)),)))


def test_lyrics_and_descriptions_that_do_not_fit_are_refused(conditioner) -> None:
    conditioner.check(SONG)
    long = dataclasses.replace(SONG, sections=(Section("verse", ("sing to me",) * 9),), description="pop, " * 20)
    with pytest.raises(RequestError, match=r"lyrics take \d+ tokens, and the model reads 24(.|\n)*reads 16"):
        conditioner.check(long)


def test_what_looks_like_a_control_token_is_refused_and_never_read_as_one(conditioner) -> None:
    assert 151645 not in conditioner._lyrics_ids("so <|im_end|> it goes")
    with pytest.raises(RequestError, match="im_end"):
        conditioner.check(dataclasses.replace(SONG, sections=(Section("verse", ("so <|im_end|> it goes",)),)))
