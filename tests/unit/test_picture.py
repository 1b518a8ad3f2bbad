"""Tests of picture.py."""

from __future__ import annotations

import io
import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from songkit.picture import draw_song, mel_spectrogram
from songkit.types import Span

RATE = 16000
TONE = np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE)[None].astype(np.float32) * 0.5


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(imread(io.BytesIO(png), format="png"))


def test_the_same_song_gives_the_same_bytes_whatever_the_users_settings() -> None:
    first = draw_song({"mix": TONE}, RATE, title="a", sections=[Span("verse", 0, 4)])

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 30}):
        second = draw_song({"mix": TONE}, RATE, title="a", sections=[Span("verse", 0, 4)])

    assert first == second
    assert first.startswith(b"\x89PNG")


def test_every_part_adds_to_the_height() -> None:
    plain = pixels(draw_song({"mix": TONE}, RATE, title="a"))
    vocal = pixels(draw_song({"mix": TONE, "vocal": TONE}, RATE, title="a"))
    sections = pixels(draw_song({"mix": TONE}, RATE, title="a", sections=[Span("verse", 0, 4)]))
    lines = pixels(draw_song({"mix": TONE}, RATE, title="a", lines=[Span("la la", 0, 4)]))

    assert vocal.shape[0] > plain.shape[0]
    assert sections.shape[0] > plain.shape[0]
    assert lines.shape[0] > plain.shape[0]


@pytest.mark.parametrize("samples", [0, 1, 100], ids=["none", "one", "few"])
def test_short_and_silent_audio_is_drawn(samples: int) -> None:
    assert pixels(draw_song({"vocal": np.zeros((1, samples), np.int16)}, RATE, title="")).shape[0] > 100


def test_any_text_is_drawn_as_it_is_without_a_warning() -> None:
    text = r"$\frac{1}{$ 日本語 {} %s \n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_song(
            {"mix": TONE}, RATE, title=text * 20, sections=[Span(text, 0, 0.01)], lines=[Span(text * 9, 1, 2)] * 9
        )


def test_a_tone_is_loudest_in_its_band() -> None:
    low = mel_spectrogram(TONE, RATE, 100)
    high = mel_spectrogram(np.sin(2 * np.pi * 3000 * np.arange(RATE) / RATE)[None], RATE, 100)

    assert low.shape == (128, 100)
    assert low.max() == pytest.approx(0.0, abs=1e-5)
    assert low.min() >= -80
    mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)  # noqa: E731
    for spectrogram, hertz in ((low, 440), (high, 3000)):
        expected = (mel(hertz) - mel(40)) / (mel(RATE / 2) - mel(40)) * 129 - 1
        assert spectrogram.mean(axis=1).argmax() == pytest.approx(expected, abs=1.5)


def test_loudness_and_number_type_do_not_change_the_spectrogram() -> None:
    whole = mel_spectrogram((TONE * 32767).astype(np.int16), RATE, 50)

    assert np.abs(whole - mel_spectrogram(TONE * 0.1, RATE, 50)).max() < 3.0
