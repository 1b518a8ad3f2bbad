import importlib.util

import numpy as np
import pytest
import torch

import songkit_judges.words as words
from songkit.errors import RequestError
from songkit.types import Alignment, Audio, Note, Section, Song, Span
from songkit_judges.configs import EnsembleConfig, PhonemeErrorsConfig, PitchConfig, StructureConfig
from songkit_judges.ensemble import EnsembleMetric, band_key, chroma
from songkit_judges.pitch import PitchMetric, best_key_share, chance_of_best_key, note_errors, scale_of, scale_share
from songkit_judges.plugin import songkit_components
from songkit_judges.structure import StructureMetric, activity
from songkit_judges.words import PhonemeErrorsMetric

RATE = 16000
LINES = ("the river runs below", "my lover sailed away", "the moon is rising slow")


def audio(*tracks):
    longest = max(t.shape[-1] for t in tracks)
    padded = np.stack([np.pad(t.reshape(1, -1), ((0, 0), (0, longest - t.size))) for t in tracks]).astype(np.float32)
    return Audio({"vocal": torch.from_numpy(padded)}, torch.tensor([t.size for t in tracks]), RATE)


def voice(*pitches, seconds=0.5):
    """A voice-like tone (six harmonics) on each pitch; None is silence."""
    t = np.arange(round(seconds * RATE)) / RATE
    parts = []
    for pitch in pitches:
        hertz = 0 if pitch is None else 440 * 2 ** ((pitch - 69) / 12)
        parts.append(sum(np.sin(2 * np.pi * h * hertz * t) / h for h in range(1, 7)) * 0.2)
    return np.concatenate(parts)


def melody(*pitches, seconds=0.5):
    return tuple(Note(p, i * seconds, (i + 1) * seconds) for i, p in enumerate(pitches) if p is not None)


@pytest.fixture
def told(monkeypatch):
    """Transcripts by the number of samples, in the place of whisper."""
    texts = {1600 * (i + 1): line for i, line in enumerate(LINES)}
    monkeypatch.setattr(words, "transcribe", lambda samples, rate, config: texts[samples.shape[-1]])


def word_song(i):
    return Song(id=f"song-{i}", sections=(Section("verse", (LINES[i],)),)), np.ones(1600 * (i + 1))


def fed(metric, items, batch):
    for start in range(0, len(items), batch):
        songs, vocals, *bands = zip(*items[start : start + batch], strict=True)
        made = audio(*vocals)
        if bands:
            made.tracks["accompaniment"] = audio(*bands[0]).tracks["vocal"]
        metric.update(made, songs)
    return metric


def pitch_items():
    tunes = [(60, 64, 67, 60), (62, 65, None, 69), (57, 60, 63)]
    return [
        (Song(id=f"s{i}", key="C:maj", alignment=Alignment(notes=melody(*t))), voice(*t)) for i, t in enumerate(tunes)
    ]


def structure_items():
    sections = (Section("intro-short"), Section("verse", ("la",)))
    spans = Alignment(sections=(Span("intro-short", 0, 4), Span("verse", 4, 8)))
    good = voice(None, None, 60, 62, seconds=2)
    bad = voice(60, 62, 60, 62, seconds=2)
    return [(Song(id=n, sections=sections, alignment=spans), v) for n, v in (("a", good), ("b", bad))]


def ensemble_items():
    chords = [voice(p, seconds=2) + voice(p + 4, seconds=2) + voice(p + 7, seconds=2) for p in (48, 53, 55)]
    band = np.concatenate(chords)  # C, F and G are in no other key than C major
    tunes = {"a": voice(60, 64, 69, seconds=2), "b": 0.1 * voice(61, 63, 66, seconds=2)}
    return [(Song(id=name), tune, band) for name, tune in tunes.items()]


CASES = {
    "phoneme-errors": (
        lambda: PhonemeErrorsMetric(PhonemeErrorsConfig(replicates=100)),
        lambda: [word_song(i) for i in (2, 0, 1)],
    ),
    "pitch": (lambda: PitchMetric(PitchConfig(replicates=100)), pitch_items),
    "ensemble": (lambda: EnsembleMetric(EnsembleConfig(replicates=100)), ensemble_items),
    "structure": (lambda: StructureMetric(StructureConfig(replicates=100)), structure_items),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # torchmetrics does not count merged states as updates
def test_batches_and_merged_states_change_nothing(name, told):
    make, items = CASES[name][0], CASES[name][1]()
    whole = fed(make(), items, batch=len(items))
    single = fed(make(), items, batch=1)
    merged = fed(make(), items[:1], batch=1)
    merged.merge_state(fed(make(), items[1:], batch=1))
    empty = make()
    empty.merge_state(whole)
    assert whole.per_song() == single.per_song()
    assert [row["id"] for row in whole.per_song()] == [song.id for song, *_ in items]
    for other in (single, merged, empty):
        assert other.compute() == whole.compute()
        assert sorted(map(str, other.per_song())) == sorted(map(str, whole.per_song()))


@pytest.mark.parametrize("name", CASES)
def test_nothing_judged_is_said(name):
    metric = CASES[name][0]()
    assert metric.per_song() == []
    with pytest.raises(RequestError, match="no songs"), pytest.warns(UserWarning, match="before the ``update``"):
        metric.compute()


@pytest.mark.parametrize("name", CASES)
def test_a_batch_that_does_not_fit_its_songs_is_refused(name):
    song, samples, *_ = CASES[name][1]()[0]
    with pytest.raises(RequestError, match="1 recordings for 2 songs"):
        CASES[name][0]().update(audio(samples), [song, song])


def test_right_words_have_no_errors_and_their_control_many(told):
    result = fed(PhonemeErrorsMetric(PhonemeErrorsConfig()), [word_song(i) for i in range(3)], batch=3)
    pooled = {name: float(value) for name, value in result.compute().items()}
    assert pooled["per"] == pooled["per_low"] == pooled["per_high"] == 0
    assert pooled["control_low"] <= pooled["control"] <= pooled["control_high"]
    assert pooled["control"] > 0.6
    assert pooled["songs"] == 3
    assert result.per_song()[0] == {
        "id": "song-0", "per": 0, "control": result.per_song()[0]["control"], "length_ratio": 1, "heard": LINES[0]
    }  # fmt: skip


def test_a_song_without_words_has_no_rate(told):
    with pytest.raises(RequestError, match="'empty' has no words"):
        PhonemeErrorsMetric(PhonemeErrorsConfig()).update(audio(np.ones(1600)), [Song(id="empty")])


def test_a_missing_track_is_named(told):
    song, samples = word_song(0)
    with pytest.raises(RequestError, match="no track 'mix' to judge; the songs have vocal"):
        PhonemeErrorsMetric(PhonemeErrorsConfig(track="mix")).update(audio(samples), [song])


@pytest.mark.parametrize("tracker", ["swift-f0", "harvest"])
def test_notes_that_are_sung_are_in_tune_and_wrong_ones_are_not(tracker):
    if tracker == "harvest" and importlib.util.find_spec("pyworld") is None:
        pytest.skip("the tracker harvest needs pyworld: pip install songkit-judges[harvest]")
    song = Song(id="a", key="C:maj", alignment=Alignment(notes=melody(60, 64, 67, 72)))
    metric = PitchMetric(PitchConfig(tracker=tracker))
    metric.update(audio(voice(60, 64, 67.8, 60)), [song])  # right, right, 80 cents sharp, an octave low
    (row,) = metric.per_song()
    assert row["in_tune"] == 0.5
    assert row["octave"] == 0.75
    assert row["voiced"] == 1


def test_silence_has_no_pitch_and_says_so():
    metric = PitchMetric(PitchConfig())
    metric.update(audio(np.zeros(RATE)), [Song(id="a", alignment=Alignment(notes=melody(60)))])
    (row,) = metric.per_song()
    assert row == {"id": "a", "voiced": 0, "note": "no voiced frame in the vocal track"}
    assert set(metric.compute()) == {"voiced", "voiced_low", "voiced_high"}


def test_note_errors_are_medians_of_the_middle():
    times = np.arange(100) / 100
    midi = np.where(times < 0.19, 55.0, 60.25)
    errors = note_errors([Note(60, 0, 1), Note(60, 1, 2)], times, midi)
    assert errors[0] == 25
    assert np.isnan(errors[1])


def test_relative_keys_share_a_scale():
    assert scale_of("C:maj").tolist() == scale_of("A:min").tolist()
    assert np.flatnonzero(scale_of("F#:maj")).tolist() == np.flatnonzero(scale_of("Gb:maj")).tolist()
    assert scale_of("Bb:min").sum() == 7
    for bad in ("H:maj", "C", "C:dorian", ":maj"):
        with pytest.raises(RequestError, match="not understood"):
            scale_of(bad)


def test_random_pitches_are_in_a_scale_at_chance():
    midi = np.random.default_rng(0).uniform(48, 72, 20000)
    assert scale_share(midi, scale_of("C:maj")) == pytest.approx(7 / 12, abs=0.01)
    assert scale_share(np.round(midi) + 0.3, scale_of("C:maj"), tolerance=25) == 0


def test_best_key_of_random_melodies_is_at_its_stated_chance():
    rng = np.random.default_rng(1)
    melodies = [np.repeat(rng.integers(48, 72, 12), rng.integers(5, 30, 12)).astype(float) for _ in range(100)]
    found = np.mean([best_key_share(m) for m in melodies])
    stated = np.mean([chance_of_best_key(m) for m in melodies])
    assert found == pytest.approx(stated, abs=0.02)
    assert found > 7 / 12 + 0.1


def test_voice_in_instrumental_sections_is_found():
    metric = fed(StructureMetric(StructureConfig()), structure_items(), batch=2)
    rows = metric.per_song()
    assert rows[0] == {"id": "a", "sung": 1, "silent": 1}
    assert rows[1] == {"id": "b", "sung": 1, "silent": 0}
    assert float(metric.compute()["balance"]) == 0.75


def test_a_voice_in_the_key_of_the_band_is_told_from_one_beside_it():
    metric = fed(EnsembleMetric(EnsembleConfig()), ensemble_items(), batch=2)
    inside, beside = metric.per_song()
    assert inside["voice_in_band_key"] > 0.95
    assert beside["voice_in_band_key"] < 0.05
    assert inside["band_in_key"] > 0.85
    assert inside["vocal_level"] - beside["vocal_level"] == pytest.approx(20, abs=0.5)


def test_a_song_without_band_or_voice_lacks_their_numbers():
    metric = EnsembleMetric(EnsembleConfig())
    silence = audio(np.zeros(RATE))
    silence.tracks["accompaniment"] = silence.tracks["vocal"]
    metric.update(silence, [Song(id="a")])
    assert metric.per_song() == [{"id": "a"}]
    assert metric.compute() == {}


def test_chroma_hears_the_notes_and_not_the_noise():
    noise = np.random.default_rng(0).normal(size=3 * RATE) * 0.05
    classes = chroma(np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE) + noise, RATE)
    assert classes[9] / classes.sum() > 0.9
    scale, share = band_key(np.array([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1.0]))
    assert share == 1
    assert scale.tolist() == scale_of("C:maj").tolist()


def test_detuned_voices_are_off_the_grid():
    for cents in (0, 30):
        metric = PitchMetric(PitchConfig())
        metric.update(audio(voice(60 + cents / 100, 64 + cents / 100)), [Song(id="a")])
        assert metric.per_song()[0]["off_grid"] == pytest.approx(cents, abs=8)


def test_sections_without_times_are_refused():
    with pytest.raises(RequestError, match="times for 0 sections and lyrics with 1"):
        StructureMetric(StructureConfig()).update(
            audio(np.ones(RATE)), [Song(id="a", sections=(Section("verse", ("la",)),))]
        )


def test_activity_follows_the_level_of_the_song():
    loud = np.concatenate([np.ones(RATE), np.full(RATE, 0.1), np.full(RATE, 0.001), np.zeros(RATE)])[None]
    for gain in (1, 0.1):
        assert activity(gain * loud, RATE).reshape(4, 20).all(axis=1).tolist() == [True, True, False, False]
    assert not activity(np.zeros((2, RATE)), RATE).any()


def test_every_component_builds_from_its_example():
    components = songkit_components()
    assert {c.name for c in components} > set(CASES)
    for component in components:
        assert component.example.validate() == []
        assert component.summary()


@pytest.mark.parametrize(
    "config",
    [
        PhonemeErrorsConfig(beam=0, track="drums"),
        PitchConfig(tracker="ear", tolerance=60),
        StructureConfig(floor=0, margin=-1),
    ],
)
def test_all_problems_of_a_config_are_found_at_once(config):
    assert len(config.validate()) == 2
