"""Judges of style, melody, form and sound, on recordings of which the answer is known."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from songkit.errors import RequestError
from songkit.types import Alignment, Audio, Section, Song, Span
from songkit_judges import style
from songkit_judges.configs import (
    PARTS,
    FormConfig,
    IntegrityConfig,
    MelodyConfig,
    SimilarityConfig,
    StyleConfig,
    VoiceQualityConfig,
)
from songkit_judges.descriptions import MOODS, TAG_WORDS, VOICES, read_description
from songkit_judges.form import FormMetric
from songkit_judges.harmony import chord_notes, chroma_frames, hear_chords, hear_mode
from songkit_judges.melody import MelodyMetric, fifths_apart
from songkit_judges.musicnn import TAGS, Heard
from songkit_judges.quality import IntegrityMetric, faults
from songkit_judges.style import SimilarityMetric, StyleMetric
from songkit_judges.tempo import hear_tempo, tempo_misses

RATE = 16000


def tone(pitch, seconds):
    times = np.arange(round(seconds * RATE)) / RATE
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    wave = sum(np.sin(2 * np.pi * hertz * k * times) / k for k in range(1, 7))
    return 0.1 * wave * np.minimum(1, np.minimum(times, seconds - times) / 0.02)


def chord(root, mode="maj", seconds=1.0):
    return sum(tone(pitch, seconds) for pitch in (root, root + (4 if mode == "maj" else 3), root + 7)) / 2


def clicks(bpm, seconds=12.0):
    out = np.zeros(round(seconds * RATE))
    burst = np.random.default_rng(0).standard_normal(800) * np.exp(-np.arange(800) / 150)
    for beat in range(int(seconds * bpm / 60)):
        at = round(beat * 60 / bpm * RATE)
        out[at : at + 800] += burst[: out.size - at] * (1.0 if beat % 2 else 0.6)
    return out


def audio(**tracks):
    made = {name: torch.from_numpy(np.atleast_2d(track).astype(np.float32))[None] for name, track in tracks.items()}
    return Audio(made, torch.tensor([next(iter(made.values())).shape[2]]), RATE)


def test_a_description_is_read_part_by_part():
    wanted = read_description("Female, clear voice, pop, bright, electric piano and drums, the BPM is 104")
    assert wanted.tags == {"genre": ("pop",), "instrument": ("piano", "drums")}
    assert (wanted.register, wanted.mode, wanted.tempo) == ("high", "maj", 104)
    assert wanted.unheard == ("clear voice",)
    empty = read_description("")
    assert (empty.register, empty.mode, empty.tempo, empty.unheard) == ("", "", 0, ())


def test_every_word_of_the_synthesiser_is_listened_for_or_said_not_to_be():
    styles = pytest.importorskip("songkit_synth.styles")
    known = {word for words in TAG_WORDS.values() for word in words} | set(VOICES) | set(MOODS)
    assert set(styles.GENRES) <= known
    for mode in ("maj", "min"):
        for tempo in (70, 120):
            assert {MOODS[word] for word in styles.moods(mode, tempo)} == {mode}
    unheard = {text for text in styles.INSTRUMENTS.values() if read_description(text).unheard}
    assert unheard == {"vibraphone", "organ", "accordion", "harmonica", "bass", "trumpet", "saxophone", "banjo"}


def test_every_tag_word_names_tags_of_musicnn():
    for words in TAG_WORDS.values():
        for tags in words.values():
            assert all(tag.split(":")[1] in TAGS[tag.split(":")[0]] for tag in tags)


@given(st.text(max_size=80))
def test_no_description_is_too_strange_to_read(text):
    assert read_description(text).tempo >= 0


@pytest.mark.parametrize("bpm", [72, 96, 120, 150])
def test_a_pulse_is_heard_at_its_tempo_or_its_half_or_double(bpm):
    heard, clear = hear_tempo(clicks(bpm), RATE)
    assert tempo_misses(heard, bpm) < 1.5
    assert clear > 0.3


def test_noise_and_silence_have_no_pulse():
    assert hear_tempo(np.zeros(RATE), RATE) == (0, 0)
    assert hear_tempo(np.random.default_rng(0).standard_normal(12 * RATE), RATE)[1] < 0.2
    assert tempo_misses(0, 100) == 100
    assert tempo_misses(50, 100) == tempo_misses(200, 100) == 0
    assert tempo_misses(90, 100) == pytest.approx(10)


@pytest.fixture
def hears(monkeypatch):
    """Sets which tags musicnn hears; everything else is unlikely."""
    likely = {"msd": (), "mtt": ()}

    def listen(samples, rate, model="msd"):
        logits = np.linspace(-6, -5, 50)
        for tag in likely[model]:
            logits[TAGS[model].index(tag)] = 2
        return Heard(logits, np.zeros(200))

    monkeypatch.setattr(style, "listen", listen)
    return likely


def described(text, id_="a"):
    return Song(id=id_, description=text)


def test_each_part_of_a_description_is_judged_by_what_is_heard(hears):
    hears |= {"msd": ("jazz",), "mtt": ("piano",)}
    beat = clicks(120)
    band = np.concatenate([chord(57, "min")] * 12) + 0.3 * beat  # A minor, all the time
    sung = audio(mix=band, vocal=np.concatenate([tone(49, 1.0)] * 12), accompaniment=band)
    metric = StyleMetric(StyleConfig())
    metric.update(sung, [described("male, jazz, sad, piano, the bpm is 120, whatever", "a")])
    metric.update(sung, [described("female, country, happy, flute, the bpm is 97", "b")])
    right, wrong = metric.per_song()
    assert {name: right[name] for name in ("genre", "instrument", "register", "mode", "tempo")} == {
        "genre": 1, "instrument": 1, "register": 1, "mode": 1, "tempo": 1
    }  # fmt: skip
    assert right["agreement"] == 1
    assert right["unheard"] == "whatever"
    assert {name: wrong[name] for name in ("register", "mode", "tempo")} == {"register": 0, "mode": 0, "tempo": 0}
    assert wrong["agreement"] < 0.4
    assert right["control"] == wrong["agreement"]  # the same recording under the other description
    pooled = metric.compute()
    assert float(pooled["agreement"]) == pytest.approx((1 + wrong["agreement"]) / 2)


def test_a_part_that_is_left_out_is_told_and_does_not_count(hears):
    hears |= {"msd": ("jazz",), "mtt": ("flute",)}
    band = np.concatenate([chord(60)] * 4)
    sung = audio(mix=band, vocal=np.zeros(band.size), accompaniment=band)
    songs = [described("jazz, piano", "a"), described("country, flute", "b"), described("drums", "c")]
    found = {}
    for parts in (PARTS, ("genre", "tempo")):
        metric = StyleMetric(StyleConfig(parts=parts))
        for song in songs:
            metric.update(sung, [song])
        found[parts] = metric.per_song()
    every, fewer = found.values()
    assert [row.get("instrument") for row in every] == [row.get("instrument") for row in fewer]
    assert every[0]["agreement"] == (every[0]["genre"] + every[0]["instrument"]) / 2 < 1
    assert fewer[0]["agreement"] == fewer[0]["genre"] == 1
    assert fewer[0]["control"] == fewer[1]["agreement"] < 1
    assert "agreement" not in fewer[2]  # nothing that counts is asked for


def test_a_part_that_nobody_listens_for_is_told():
    (problem,) = StyleConfig(parts=("genre", "instruments")).validate()
    assert "'instruments', no part of a description. Did you mean 'instrument'?" in problem
    assert "parts is empty" in StyleConfig(parts=()).validate()[0]


def test_what_a_description_does_not_say_is_not_judged(hears):
    band = np.concatenate([chord(60)] * 4)
    metric = StyleMetric(StyleConfig())
    metric.update(audio(mix=band, vocal=np.zeros(band.size), accompaniment=band), [described("male, something new")])
    (row,) = metric.per_song()
    assert row == {"id": "a", "register": 0, "agreement": 0, "unheard": "something new"}


@pytest.mark.skipif(importlib.util.find_spec("musicnn") is None, reason="pip install --no-deps musicnn==0.1.0")
def test_a_song_is_most_like_itself():
    metric = SimilarityMetric(SimilarityConfig())
    one, other = np.concatenate([chord(60)] * 4), clicks(140, 4.0)
    for id_, song in (("a", one), ("b", other)):
        metric.update(audio(mix=song), [Song(id=id_)], audio(mix=song))
    for row in metric.per_song():
        assert row["similarity"] == pytest.approx(1)
        assert row["control"] < 0.95


def test_a_voice_on_the_bands_chords_is_told_from_one_beside_them():
    band = np.concatenate([chord(60, seconds=2.0), chord(65, seconds=2.0), chord(67, seconds=2.0)])  # C F G
    chords = tuple(Span(f"{name}:maj", 2.0 * i, 2.0 * i + 2) for i, name in enumerate("CFG"))
    metric = MelodyMetric(MelodyConfig())
    for id_, pitches in (("on", (64, 69, 62)), ("beside", (61, 66, 68))):
        vocal = np.concatenate([tone(pitch, 2.0) for pitch in pitches])
        metric.update(audio(vocal=vocal, accompaniment=band), [Song(id=id_, alignment=Alignment(chords=chords))])
    on, beside = metric.per_song()
    assert on["on_chord"] > 0.8
    assert on["on_written_chord"] > 0.9
    assert beside["on_chord"] < 0.2
    assert beside["on_written_chord"] < 0.01
    assert on["keys_apart"] < beside["keys_apart"]


def test_fifths_are_counted_around_the_circle():
    c_major = np.array([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1.0])
    scale = np.flatnonzero(c_major) + 60.0
    assert [fifths_apart(scale + step, c_major) for step in (0, 7, 2, 6, 5)] == [0, 1, 2, 6, 1]


@pytest.mark.parametrize("name", ["C:maj", "A:min", "F#:maj", "Bb:min"])
def test_triads_are_heard_as_what_they_are(name):
    root = {"C": 60, "A": 57, "F#": 66, "Bb": 58}[name.partition(":")[0]]
    frames = chroma_frames(chord(root, name[-3:], 3.0), RATE)
    assert (hear_chords(frames)[2:-2] == chord_notes(name)).all()
    assert chord_notes(name).sum() == 3
    assert not hear_chords(np.zeros((5, 12))).any()


def test_sevenths_are_notes_of_their_chord():
    assert np.flatnonzero(chord_notes("Eb:maj7")).tolist() == [2, 3, 7, 10]
    assert np.flatnonzero(chord_notes("B:hdim7")).tolist() == [2, 5, 9, 11]
    for bad in ("H:maj", "C:sus", "C", ":min"):
        with pytest.raises(RequestError, match="not understood"):
            chord_notes(bad)


def test_modes_are_heard():
    def scale(root, steps):
        return np.concatenate([chord(root, "maj" if 4 in steps else "min"), *(tone(root + s, 0.5) for s in steps)])

    assert hear_mode(chroma_frames(scale(60, (0, 2, 4, 5, 7, 9, 11)), RATE).sum(0)) == "maj"
    assert hear_mode(chroma_frames(scale(60, (0, 2, 3, 5, 7, 8, 10)), RATE).sum(0)) == "min"
    assert hear_mode(np.zeros(12)) == ""


def test_a_chorus_that_comes_back_is_told_from_one_that_does_not():
    tags = ("chorus", "verse", "chorus")
    spans = tuple(Span(tag, 4.0 * i, 4.0 * i + 4) for i, tag in enumerate(tags))
    parts = {"chorus": ((60, 65, 67, 60), (64, 69, 71, 72)), "verse": ((57, 62, 57, 64), (69, 65, 64, 68))}
    other = ((62, 59, 66, 61), (66, 71, 70, 73))

    def made(plays):
        vocal = np.concatenate([tone(p, 1.0) for _, tune in plays for p in tune])
        return audio(vocal=vocal, accompaniment=np.concatenate([chord(r) for roots, _ in plays for r in roots]))

    song = {"sections": tuple(Section(tag, ("la",)) for tag in tags), "alignment": Alignment(sections=spans)}
    metric = FormMetric(FormConfig())
    metric.update(made([parts[tag] for tag in tags]), [Song(id="back", **song)])
    metric.update(made([parts["chorus"], parts["verse"], other]), [Song(id="away", **song)])
    back, away = metric.per_song()
    assert back["returns"] > 0.9
    assert back["form"] > away["form"] + 0.3
    assert back["choruses"] == 2


def test_a_song_with_one_chorus_has_no_form():
    metric = FormMetric(FormConfig())
    sound = np.concatenate([chord(60)] * 4)
    song = Song(
        id="a", sections=(Section("chorus", ("la",)),), alignment=Alignment(sections=(Span("chorus", 0.0, 4.0),))
    )
    metric.update(audio(vocal=sound, accompaniment=sound), [song])
    assert metric.per_song() == [{"id": "a", "choruses": 1}]


def test_each_fault_is_found_and_the_sound_without_it_has_none():
    clean = 0.5 * np.sin(2 * np.pi * 330 * np.arange(4 * RATE) / RATE)[None]
    good = faults(clean, RATE)
    assert (good["clipped"], good["dropouts"], good["silent"]) == (0, 0, 0)
    assert good["offset"] < -80
    assert good["flatness"] < 0.01
    assert faults(np.clip(3 * clean, -1, 1), RATE)["clipped"] > 0.3
    gap = clean.copy()
    gap[:, 20000:20800] = 0
    assert faults(gap, RATE)["dropouts"] == 15  # one in four seconds
    assert faults(clean + 0.1, RATE)["offset"] == pytest.approx(-20, abs=0.1)
    assert faults(np.concatenate([clean, 0 * clean], 1), RATE)["silent"] == pytest.approx(0.5, abs=0.02)
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    assert faults(0.1 * noise, RATE)["flatness"] > 0.4
    assert faults(0.1 * noise, RATE)["bandwidth"] > 7000 > faults(clean, RATE)["bandwidth"]
    assert faults(np.zeros((1, RATE)), RATE)["silent"] == 1


def test_the_track_that_is_measured_is_the_one_that_is_named():
    metric = IntegrityMetric(IntegrityConfig(track="vocal"))
    assert metric.info.needs == {"vocal"}
    metric.update(audio(mix=np.zeros(RATE), vocal=0.1 * np.ones(RATE)), [Song(id="a")])
    assert metric.per_song()[0]["loudness"] == pytest.approx(-20)


@pytest.mark.parametrize(
    "config",
    [
        StyleConfig(tolerance=0, replicates=1),
        MelodyConfig(tolerance=51, replicates=1),
        FormConfig(tag="", replicates=1),
        IntegrityConfig(track="drums", replicates=1),
        VoiceQualityConfig(hop=0, replicates=1),
    ],
)
def test_all_problems_of_a_config_are_found_at_once(config):
    assert len(config.validate()) == 2
