"""Laws of the planner under every pattern that the recipes use, on tiny random models."""

from __future__ import annotations

import pytest
import torch

from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.interfaces import Sampling
from songkit.patterns import Pattern
from songkit.stream_planner import StreamPlanner
from songkit.types import Codes, Conditions, Stream, TokenLayout
from songkit_planners.configs import StreamLMConfig
from songkit_planners.planner import build, layout_of, pattern_of

SIZES, WIDTH, FRAMES = [12, 9], 16, 14
SYSTEMS = {
    "mixed": StreamLMConfig(tracks=["mix"], codebook_sizes=[12]),
    "level-delay": StreamLMConfig(tracks=["mix"], level_delay=1, codebook_sizes=SIZES),
    "parallel": StreamLMConfig(codebook_sizes=[12]),
    "parallel-delay": StreamLMConfig(track_delay=2, codebook_sizes=[12]),
    "interleaved-va": StreamLMConfig(pattern="interleaved", codebook_sizes=[12]),
    "interleaved-av": StreamLMConfig(
        tracks=["accompaniment", "vocal"], pattern="interleaved", level_delay=1, codebook_sizes=SIZES
    ),
    "flat": StreamLMConfig(pattern="flat", codebook_sizes=SIZES),
    "no-cursor": StreamLMConfig(track_delay=1, codebook_sizes=[12], cursor=False),
}
systems = pytest.mark.parametrize("name", SYSTEMS)


def planner_of(config: StreamLMConfig) -> StreamPlanner:
    torch.manual_seed(0)
    planner = build(config, tower=Transformer(TransformerConfig(dim=WIDTH, layers=1, heads=2, feed_forward=32)))
    for parameter in planner.parameters():  # small initial weights would make every logit alike
        torch.nn.init.normal_(parameter, std=0.3)
    return planner.eval()


def conditions_of(songs: int, *, null: bool = False, frames: int | None = None, lyrics: int = 3) -> Conditions:
    """Prefixes of 3, 4, ... positions and a few lyrics tokens, different for each song."""
    draw = torch.Generator().manual_seed(5)
    prefix = torch.randn(songs, 3 + songs, WIDTH, generator=draw)
    mask = torch.arange(3 + songs) >= torch.arange(songs - 1, -1, -1)[:, None]
    tape = torch.randn(songs, lyrics, WIDTH, generator=draw)
    made = Conditions(prefix, mask, tape=tape, tape_lengths=torch.full((songs,), lyrics))
    if null:
        made.null = Conditions(prefix[:, -1:] * 0, mask[:, -1:], tape=tape * 0)
    if frames is not None:
        made.cursor = (torch.arange(frames) // 5).clamp(max=2).expand(songs, -1)
    return made


def codes_of(layout: TokenLayout, songs: int = 2) -> Codes:
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(stream.size, (songs, FRAMES), generator=draw) for stream in layout.streams]
    return Codes(torch.stack(rows, 1), torch.tensor([FRAMES, FRAMES - 4])[:songs], layout)


def test_options_become_layouts_and_patterns() -> None:
    two = SYSTEMS["interleaved-av"]
    assert layout_of(two).streams == tuple(
        Stream(track, level, size) for track in ("vocal", "accompaniment") for level, size in enumerate(SIZES)
    )
    assert pattern_of(two) == Pattern(2, (1, 3, 0, 2))
    assert pattern_of(SYSTEMS["flat"]) == Pattern(4, (0, 1, 2, 3))
    assert pattern_of(SYSTEMS["parallel-delay"]) == Pattern(1, (0, 2))
    assert pattern_of(SYSTEMS["level-delay"]) == Pattern(1, (0, 1))


@systems
@torch.no_grad()
def test_an_id_changes_only_what_comes_after_it_in_the_pattern(name: str) -> None:
    planner = planner_of(SYSTEMS[name])
    codes, given = codes_of(planner.layout), conditions_of(2, frames=FRAMES)
    before = planner(codes, given).logits
    assert before.shape == (2, len(planner.layout), FRAMES + 1, 13)
    pattern = planner.pattern
    for stream in range(len(planner.layout)):
        codes.ids[0, stream, 6] = (codes.ids[0, stream, 6] + 1) % planner.layout.streams[stream].size
        after = planner(codes, given).logits
        changed = 1 + pattern.stride * 6 + pattern.offsets[stream]
        for k, offset in enumerate(pattern.offsets):
            for frame in range(FRAMES + 1):
                same = torch.equal(before[0, k, frame], after[0, k, frame])
                later = 1 + pattern.stride * frame + offset > changed
                assert same != later, (stream, k, frame)
        assert torch.equal(before[1], after[1])
        before = after


@systems
@torch.no_grad()
def test_padding_behind_a_song_is_not_read(name: str) -> None:
    planner = planner_of(SYSTEMS[name])
    codes, given = codes_of(planner.layout), conditions_of(2, frames=FRAMES)
    before = planner(codes, given).logits
    codes.ids[1, :, FRAMES - 4 :] = 3
    torch.testing.assert_close(planner(codes, given).logits, before, rtol=0, atol=0)


@systems
@pytest.mark.parametrize("guidance", [1.0, 1.5])
@torch.no_grad()
def test_drawing_step_by_step_equals_the_whole_pass(name: str, guidance: float) -> None:
    planner = planner_of(SYSTEMS[name])
    sampling = Sampling(temperature=0, guidance=guidance)
    given = conditions_of(1, null=guidance != 1, lyrics=60)  # more than can be sung: the song is cut
    plan = planner.generate(given, sampling=sampling, max_frames=FRAMES, seeds=[3])
    frames = int(plan.codes.lengths[0])
    assert plan.codes.ids.shape == (1, len(planner.layout), frames)
    given.cursor = plan.cursor
    forced = planner(plan.codes, given)
    # Up to the last frame: behind it a drawn cursor has moved on, and a given one has not.
    own = given.prefix.shape[1] + planner.pattern.stride * frames
    torch.testing.assert_close(forced.hidden[:, :own], plan.hidden[:, :own], atol=1e-4, rtol=1e-4)
    logits = forced.logits[0, :, :frames]
    if given.null is not None:
        given.null.cursor = plan.cursor
        unguided = planner(plan.codes, given.null).logits[0, :, :frames]
        logits = unguided + guidance * (logits - unguided)
    for k, stream in enumerate(planner.layout.streams):
        sure = frames if plan.cursor is None else frames - planner.pattern.offsets[k] // planner.pattern.stride
        assert logits[k, :sure, : stream.size].argmax(-1).tolist() == plan.codes.ids[0, k, :sure].tolist()
    assert len(set(plan.codes.ids.flatten().tolist())) > 2  # a constant would prove nothing


@systems
@torch.no_grad()
def test_a_song_is_the_same_alone_and_in_company(name: str) -> None:
    planner = planner_of(SYSTEMS[name])
    sampling = Sampling(temperature=1.0, top_k=0, guidance=1.5)
    given, seeds = conditions_of(5, null=True), [5, 6, 7, 8, 9]
    together = planner.generate(given, sampling=sampling, max_frames=25, seeds=seeds)
    for i in (0, 3):
        rows = slice(i, i + 1)
        null = Conditions(given.null.prefix[rows], given.null.mask[rows], tape=given.null.tape[rows])
        alone = Conditions(given.prefix[rows], given.mask[rows], null, given.tape[rows], given.tape_lengths[rows])
        plan = planner.generate(alone, sampling=sampling, max_frames=25, seeds=[seeds[i]])
        frames = int(plan.codes.lengths[0])
        assert frames == int(together.codes.lengths[i])
        assert torch.equal(plan.codes.ids[0], together.codes.ids[i, :, :frames])
    again = planner.generate(given, sampling=sampling, max_frames=25, seeds=[s + 1 for s in seeds])
    assert not torch.equal(again.codes.ids[..., :3], together.codes.ids[..., :3])


@systems
@torch.no_grad()
def test_all_streams_of_a_song_end_together_within_the_limit(name: str) -> None:
    planner = planner_of(SYSTEMS[name])
    passed: list[int] = []
    plan = planner.generate(
        conditions_of(6),
        sampling=Sampling(temperature=1.0, top_k=0, guidance=1.0),
        max_frames=30,
        seeds=list(range(6)),
        progress=passed.append,
    )
    lengths = plan.codes.lengths.tolist()
    assert 0 < min(lengths) < max(lengths) <= 30
    assert passed == sorted(passed)
    assert passed[-1] == sum(lengths)
    for stream, ids in zip(planner.layout.streams, plan.codes.ids.unbind(1), strict=True):
        assert int(ids.max()) < stream.size
    assert [bool(f) for f in plan.finished] == [n < 30 for n in lengths]
    assert (plan.cursor is None) == (name == "no-cursor")
    if plan.cursor is not None:
        ended = [int(plan.cursor[i, n - 1]) for i, n in enumerate(lengths) if plan.finished[i]]
        assert ended
        assert all(place == 2 for place in ended)  # the last token has been sung


@torch.no_grad()
def test_no_song_ends_before_it_has_stayed_on_its_last_token() -> None:
    planner = planner_of(SYSTEMS["parallel"])
    stayed = {}
    for least in (1, 5):
        sampling = Sampling(temperature=1.0, top_k=0, guidance=1.0, last_frames=least)
        plan = planner.generate(conditions_of(12), sampling=sampling, max_frames=60, seeds=list(range(12)))
        assert plan.cursor is not None
        stayed[least] = [
            int((plan.cursor[i, :frames] == 2).sum())
            for i, frames in enumerate(plan.codes.lengths.tolist())
            if plan.finished[i]
        ]
    assert min(stayed[1]) < 5 <= min(stayed[5])


@torch.no_grad()
def test_auxiliary_tracks_are_predicted_and_change_nothing_else() -> None:
    plain = planner_of(StreamLMConfig(tracks=["mix"], codebook_sizes=SIZES))
    pro = planner_of(StreamLMConfig(tracks=["mix"], codebook_sizes=SIZES, auxiliary={"vocal": 0.1}))
    pro.load_state_dict(plain.state_dict(), strict=False)
    both = TokenLayout(25.0, tuple(Stream(t, n, size) for t in ("mix", "vocal") for n, size in enumerate(SIZES)))
    codes, given = codes_of(both), conditions_of(2, frames=FRAMES)
    plan, reference = pro(codes, given), plain(codes, given)
    assert torch.equal(plan.logits, reference.logits)
    assert plan.codes.layout == plain.layout
    assert set(plan.losses) == {"cursor", "vocal"}
    halved = planner_of(StreamLMConfig(tracks=["mix"], codebook_sizes=SIZES, auxiliary={"vocal": 0.05}))
    halved.load_state_dict(pro.state_dict())
    torch.testing.assert_close(halved(codes, given).losses["vocal"], plan.losses["vocal"] / 2)
    codes.ids[1, 2:, FRAMES - 4 :] = 0  # behind the end of the second song
    torch.testing.assert_close(pro(codes, given).losses["vocal"], plan.losses["vocal"])
    codes.ids[0, 2, 3] = (codes.ids[0, 2, 3] + 1) % SIZES[0]
    assert not torch.equal(pro(codes, given).losses["vocal"], plan.losses["vocal"])


@torch.no_grad()
def test_the_mixed_tokens_alone_are_levo2s_planner() -> None:
    levo2 = pytest.importorskip("songkit_levo2.planner")
    from songkit_levo2.configs import MixedLMConfig

    ours = planner_of(SYSTEMS["mixed"])
    theirs = levo2.MixedLM(MixedLMConfig(codebook_size=12), ours.tower).eval()
    theirs.load_state_dict(ours.state_dict())
    plans = [
        planner.generate(conditions_of(2), sampling=Sampling(guidance=1.0), max_frames=20, seeds=[1, 2])
        for planner in (ours, theirs)
    ]
    assert torch.equal(plans[0].codes.ids, plans[1].codes.ids)
    assert torch.equal(plans[0].hidden, plans[1].hidden)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tracks": ["vocal", "vocal"]}, "tracks is ['vocal', 'vocal']; expected some of mix"),
        ({"tracks": []}, "tracks is []"),
        ({"codebook_sizes": []}, "codebook_sizes is []"),
        ({"track_delay": -1}, "track_delay is -1; expected 0 frames or more"),
        ({"auxiliary": {"vocal": 0.1}}, "auxiliary names 'vocal'; expected tracks that are not planned: mix"),
        ({"cursor_steps": 0}, "cursor_steps is 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, told: str) -> None:
    problems = StreamLMConfig(**options).validate()
    assert len(problems) == 1
    assert told in problems[0]
