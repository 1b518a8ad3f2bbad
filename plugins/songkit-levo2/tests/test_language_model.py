"""Laws of planner, refiner and conditioner on tiny random models."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.errors import LayoutError, RequestError
from songkit.interfaces import Sampling
from songkit.kernels import pack
from songkit.phonemes import phonemize
from songkit.request import SongRequest
from songkit.sampling import noise
from songkit.types import Alignment, Codes, Section, Span
from songkit_levo2.conditioner import LeLMConditioner
from songkit_levo2.configs import LeLMConditionerConfig, MixedLMConfig, TrackLMConfig
from songkit_levo2.planner import MixedLM
from songkit_levo2.refiner import TrackLM

SIZE, WIDTH = 32, 16
VERSE = SongRequest(
    id="a", description="female, pop", sections=(Section("intro-short"), Section("verse", ("sing to me", "again")))
)
CHORUS = SongRequest(id="b", sections=(Section("chorus", ("oh the river runs away from here",)),), tier="low")


@pytest.fixture(scope="module")
def parts() -> tuple[LeLMConditioner, MixedLM, TrackLM]:
    torch.manual_seed(0)

    def tower() -> Transformer:
        return Transformer(TransformerConfig(dim=WIDTH, layers=2, heads=2, feed_forward=32))

    config = LeLMConditionerConfig(width=WIDTH, codebook_size=SIZE, tape_depth=1, style_words=["female", "pop"])
    planner = MixedLM(MixedLMConfig(codebook_size=SIZE), tower())
    refiner = TrackLM(
        TrackLMConfig(codebook_size=SIZE, source_codebook_size=SIZE, source_width=WIDTH, delay=3), tower()
    )
    modules = LeLMConditioner(config), planner, refiner
    for module in modules:
        module.eval()
        for parameter in module.parameters():  # small initial weights would make every logit alike
            torch.nn.init.normal_(parameter, std=0.3)
    return modules


def teacher(frames: int = 20) -> tuple[Codes, Codes]:
    generator = torch.Generator().manual_seed(1)
    mixed = MixedLM(MixedLMConfig(codebook_size=SIZE), Transformer(TransformerConfig(dim=WIDTH, heads=2))).layout
    tracks = TrackLM(TrackLMConfig(codebook_size=SIZE), Transformer(TransformerConfig(dim=WIDTH, heads=2))).layout
    draw = lambda k: torch.randint(SIZE, (2, k, frames), generator=generator)  # noqa: E731  # two calls
    lengths = torch.tensor([frames, frames - 6])
    return Codes(draw(1), lengths, mixed), Codes(draw(2), lengths, tracks)


def conditions(conditioner: LeLMConditioner, frames: int = 20, *, side: str = "planner", null: bool = False):
    made = conditioner([VERSE, CHORUS], side=side, null=null)
    made.cursor = torch.arange(frames).expand(2, -1).clamp(max=5) // 2
    return made


@torch.no_grad()
def test_a_later_id_leaves_earlier_logits_as_they_are(parts) -> None:
    conditioner, planner, _ = parts
    codes, _ = teacher()
    before = planner(codes, conditions(conditioner)).logits
    codes.ids[:, :, 10] = (codes.ids[:, :, 10] + 1) % SIZE
    after = planner(codes, conditions(conditioner)).logits
    torch.testing.assert_close(before[:, :, :11], after[:, :, :11])
    assert not torch.allclose(before[:, :, 11], after[:, :, 11])


@torch.no_grad()
def test_a_packed_model_scores_as_before(parts) -> None:
    """As `SongModel.load` returns it: packed layers have no parameters."""
    conditioner, planner, refiner = parts
    mixed, tracks = teacher()
    given = [conditions(conditioner, side=side) for side in ("planner", "refiner")]
    packed, scored = copy.deepcopy((planner, refiner)), []
    for part in packed:
        pack(part, "fp32")
    for one, two in ((planner, refiner), packed):
        plan = one.score(mixed, given[0])
        scored.append((plan.scores.log_probabilities, two.score(plan, tracks, given[1]).scores.log_probabilities))
    for before, after in zip(*scored, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_cursor_that_lingers_should_move_on_at_each_of_its_frames(parts) -> None:
    conditioner, planner, _ = parts
    codes, _ = teacher()
    given = conditions(conditioner)
    plan = planner.score(codes, given)
    given.due = given.cursor.clone()
    given.due[0, 4:6] += 1  # at frame 6 the cursor stands still, and at 4 and 5 it should be a token further
    late = planner.score(codes, given)
    torch.testing.assert_close(late.hidden, plan.hidden)
    moves = planner.move(plan.hidden[0, -planner.states_of(20) :][3:5]).log_softmax(-1)
    stays = plan.scores.log_probabilities[0, -1, 3:5]
    went = given.due[0, 4:6] - given.cursor[0, 3:5]
    expected = (stays - moves.gather(1, went[:, None])[:, 0]).sum() / plan.scores.counted[:, -1].sum()
    weight = MixedLMConfig().cursor_weight
    torch.testing.assert_close(late.losses["cursor"] - plan.losses["cursor"], weight * expected)


@torch.no_grad()
def test_a_song_that_overruns_should_end_at_each_frame_after_its_end(parts) -> None:
    conditioner, planner, _ = parts
    codes, _ = teacher()
    whole = Codes(codes.ids, codes.lengths - 4, codes.layout, torch.tensor([True, False]))
    late = dataclasses.replace(whole, overrun=4)
    plain, overrun = (planner.score(c, conditions(conditioner)).scores.log_probabilities[:, 0] for c in (whole, late))
    length = int(whole.lengths[0])
    torch.testing.assert_close(plain[0, : length + 1], overrun[0, : length + 1])
    ends = (
        planner(dataclasses.replace(late, lengths=codes.lengths), conditions(conditioner)).logits[0, 0].log_softmax(-1)
    )
    torch.testing.assert_close(overrun[0, length : length + 5], ends[length : length + 5, -1])
    assert not plain[0, length + 1 :].any()
    torch.testing.assert_close(plain[1], overrun[1])  # a cut song has no end to miss


@torch.no_grad()
def test_the_words_that_are_sung_change_the_logits(parts) -> None:
    conditioner, planner, _ = parts
    codes, _ = teacher()
    here, there = conditions(conditioner), conditions(conditioner)
    there.cursor = there.cursor + 1
    assert not torch.allclose(planner(codes, here).logits, planner(codes, there).logits)


@torch.no_grad()
def test_tracks_see_the_plan_only_up_to_their_delay(parts) -> None:
    conditioner, planner, refiner = parts
    mixed, tracks = teacher()
    run = lambda: refiner(planner(mixed, conditions(conditioner)), tracks, conditions(conditioner, side="refiner"))  # noqa: E731
    before = run().logits
    mixed.ids[0, 0, 10] = (mixed.ids[0, 0, 10] + 1) % SIZE
    after = run().logits
    # Frame f is refined at step f + 3, whose state has read the mixed frames before f + 3.
    torch.testing.assert_close(before[0, :, :8], after[0, :, :8])
    assert not torch.allclose(before[0, :, 8], after[0, :, 8])


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_generating_step_by_step_equals_the_whole_pass(parts, guidance: float) -> None:
    """The ids that were drawn greedily are those of a teacher-forced pass over themselves."""
    conditioner, planner, refiner = parts
    sampling = Sampling(temperature=0, guidance=guidance)
    null = guidance != 1.0
    request = [VERSE]
    plan = planner.generate(conditioner(request, null=null), sampling=sampling, max_frames=15, seeds=[3])
    drawn = refiner.generate(plan, conditioner(request, side="refiner", null=null), sampling=sampling, seeds=[3])
    whole = conditioner(request, null=null)
    whole.cursor = plan.cursor
    forced = planner(plan.codes, whole)
    frames = int(plan.codes.lengths[0])
    logits = forced.logits[0, 0, :frames]
    torch.testing.assert_close(forced.hidden[0], plan.hidden[0][plan.mask[0]], atol=1e-4, rtol=1e-4)
    if null:
        blank = whole.null
        blank.cursor = plan.cursor
        unguided = planner(plan.codes, blank)
        logits = unguided.logits[0, 0, :frames] + guidance * (logits - unguided.logits[0, 0, :frames])
    logits[:, SIZE] = float("-inf")  # the cursor has not reached the end of these lyrics
    assert logits.argmax(-1).tolist() == plan.codes.ids[0, 0].tolist()
    refined = refiner(forced, drawn, conditioner(request, side="refiner")).logits[0]
    if not null:
        assert refined.argmax(-1).tolist() == drawn.ids[0].tolist()
    assert len(set(plan.codes.ids[0, 0].tolist())) > 2  # a constant would prove nothing


@torch.no_grad()
def test_a_song_is_the_same_alone_and_in_company(parts) -> None:
    conditioner, planner, refiner = parts
    sampling = Sampling(temperature=1.0, top_k=0, guidance=1.5)
    requests, seeds = [VERSE, CHORUS, VERSE, CHORUS, CHORUS], [5, 6, 7, 8, 9]

    def song(chosen: list[int]) -> list[tuple[list[int], list[list[int]]]]:
        asked, own = [requests[i] for i in chosen], [seeds[i] for i in chosen]
        plan = planner.generate(conditioner(asked, null=True), sampling=sampling, max_frames=25, seeds=own)
        refiner_side = conditioner(asked, null=True, side="refiner")
        codes = refiner.generate(plan, refiner_side, sampling=sampling, seeds=own)
        lengths = plan.codes.lengths.tolist()
        return [(plan.codes.ids[i, 0, :n].tolist(), codes.ids[i, :, :n].tolist()) for i, n in enumerate(lengths)]

    together = song([0, 1, 2, 3, 4])
    assert together[0] != together[2]  # another seed, another song
    for i in range(5):
        assert song([i])[0] == together[i]
    assert song([4, 0]) == [together[4], together[0]]


def test_generation_stays_within_lyrics_layout_and_limit(parts) -> None:
    conditioner, planner, _ = parts
    sampling = Sampling(temperature=1.0, guidance=1.0)
    plan = planner.generate(conditioner([VERSE, CHORUS]), sampling=sampling, max_frames=40, seeds=[0, 1])
    assert int(plan.codes.ids.max()) < SIZE
    assert int(plan.codes.lengths.max()) <= 40
    moves = plan.cursor.diff(dim=1)
    assert int(moves.min()) >= 0
    assert int(moves.max()) <= planner.config.cursor_steps
    for b, n in enumerate(conditioner([VERSE, CHORUS]).tape_lengths.tolist()):
        assert int(plan.cursor[b].max()) < n
        assert bool(plan.finished[b]) == (int(plan.codes.lengths[b]) < 40)


def test_the_null_branch_knows_no_words(parts) -> None:
    conditioner, _, _ = parts
    other = SongRequest(id="a", description="male, rock", sections=(Section("verse", ("quite another line",)),))
    one, two = conditioner([VERSE], null=True).null, conditioner([other], null=True).null
    torch.testing.assert_close(one.prefix, two.prefix)
    torch.testing.assert_close(one.tape[0, 0], two.tape[0, 0])
    assert one.prefix.shape[1] == 2  # no lyrics, and the tier that guidance moves away from


def test_prefixes_abut_the_codes(parts) -> None:
    made = parts[0]([VERSE, CHORUS])
    assert made.mask[:, -1].all()
    shorter = int(made.mask.sum(1).argmin())
    assert not made.mask[shorter, 0]
    assert bool((made.prefix[shorter, 0] == 0).all())


def test_planner_refuses_conditions_without_a_cursor(parts) -> None:
    conditioner, planner, _ = parts
    with pytest.raises(LayoutError, match="cursor"):
        planner(teacher()[0], conditioner([VERSE, CHORUS]))
    with pytest.raises(LayoutError, match="null"):
        planner.generate(conditioner([VERSE]), sampling=Sampling(guidance=1.5), max_frames=3, seeds=[0])


def test_lines_in_another_script_are_refused_by_name(parts) -> None:
    request = SongRequest(id="c", sections=(Section("verse", ("hello", "你好 world")),))
    with pytest.raises(RequestError, match=r"'c'(.|\n)*你好(.|\n)*Latin"):
        parts[0].check(request)


def test_unknown_style_words_are_reported(parts, caplog: pytest.LogCaptureFixture) -> None:
    request = SongRequest(id="c", description="female, zydeco", sections=VERSE.sections)
    parts[0].check(request)
    assert "'zydeco'" in caplog.text
    assert "female" not in caplog.text


def test_cursor_and_alignment_are_inverse_to_a_frame(parts) -> None:
    request = SongRequest(id="x", sections=(Section("intro-short"), Section("verse", ("sing to me",))))
    symbols = [phone.symbol for phone in phonemize("sing to me")]
    times = 1.0 + 0.2 * np.arange(len(symbols) + 1)
    phones = tuple(Span(s, a, b) for s, a, b in zip(symbols, times[:-1], times[1:], strict=True))
    truth = Alignment(
        sections=(Span("intro-short", 0.0, 0.9), Span("verse", 0.9, 4.0)),
        lines=(Span("sing to me", times[0], times[-1]),),
        phones=phones,
    )
    cursor = parts[0].cursor(request, truth, 100, 25.0)
    assert (np.diff(cursor) >= 0).all()
    found = parts[0].align(request, cursor, 25.0)
    for mine, true in zip(found.phones, truth.phones, strict=True):
        assert mine.label == true.label
        assert abs(mine.start - true.start) <= 0.04
        assert abs(mine.end - true.end) <= 0.04
    assert [s.label for s in found.sections] == ["intro-short", "verse"]
    assert abs(found.sections[1].start - 0.9) <= 0.04
    assert found.lines[0].label == "sing to me"


def test_weights_keep_the_names_and_shapes_that_shipped_files_have(parts) -> None:
    own = {name: tuple(w.shape) for name, w in parts[1].state_dict().items() if not name.startswith("tower.")}
    assert own == {
        "embed.weight": (SIZE + 1, WIDTH),
        "head.weight": (SIZE + 1, WIDTH),
        "at.weight": (WIDTH, WIDTH),
        "at.bias": (WIDTH,),
        "age.weight": (64, WIDTH),
        "move.weight": (4, WIDTH),
        "move.bias": (4,),
    }


@torch.no_grad()
def test_draws_are_keyed_as_in_shipped_songs(parts) -> None:
    """Ids of the first stream take their noise from key 0 and the cursor from key 1: other keys, other songs."""
    conditioner, planner, _ = parts
    asked = conditioner([VERSE])
    plan = planner.generate(asked, sampling=Sampling(temperature=1.0, top_k=0, guidance=1.0), max_frames=8, seeds=[4])
    asked.cursor = plan.cursor
    forced = planner(plan.codes, asked)
    moves = planner.move(forced.hidden[0, asked.prefix.shape[1] :]).float()
    last = int(asked.tape_lengths[0]) - 1
    for frame, drawn in enumerate(plan.codes.ids[0, 0].tolist()):
        ids = forced.logits[0, 0, frame].float()
        if frame == 0 or int(plan.cursor[0, frame - 1]) < last:  # no song ends before its last token was sung
            ids[SIZE] = float("-inf")
        assert int((ids + noise(4, 0, frame, SIZE + 1)).argmax()) == drawn
        if frame + 1 < plan.codes.ids.shape[2]:
            here = int(plan.cursor[0, frame])
            moved = int((moves[frame] + noise(4, 1, frame, 4))[: last - here + 1].argmax())
            assert moved == int(plan.cursor[0, frame + 1]) - here
