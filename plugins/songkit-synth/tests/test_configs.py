from collections.abc import Callable
from pathlib import Path

import pytest

from songkit.errors import AudioError, RecipeError, RequestError
from songkit_synth.plugin import songkit_components
from songkit_synth.source import SynthSongs

Make = Callable[..., SynthSongs]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"songs": 0}, "songs is 0; it has to be at least 1"),
        ({"seconds_min": 30.0, "seconds_max": 20.0}, "at least 4 seconds apart"),
        ({"seconds_max": 900.0}, "from 8 to 275 seconds"),
        ({"genres": ["pop", "jaz"]}, "Did you mean 'jazz'?"),
        ({"voices": []}, "voices is empty"),
        ({"tiers": {"best": 1.0}}, "tiers holds 'best'"),
        ({"tiers": {"low": 0.0}}, "one of them above 0"),
        ({"tracks": ["vocals"]}, "Did you mean 'vocal'?"),
        ({"sample_rate": 44100}, "sample_rate is 44100"),
        ({"channels": 6}, "channels is 6"),
        ({"sound_font": "/no/such.sf2"}, "'/no/such.sf2', which is not a file"),
    ],
)
def test_wrong_setting_is_named_with_what_was_expected(source: Make, options: dict[str, object], expected: str) -> None:
    with pytest.raises(RecipeError, match="synth/songs") as caught:
        source(**options)
    assert expected in str(caught.value)


def test_all_wrong_settings_are_reported_at_once(source: Make) -> None:
    with pytest.raises(RecipeError) as caught:
        source(songs=-1, channels=0, genres=["polka"])
    assert len(caught.value.problems) == 3


def test_file_that_is_no_sound_font_is_refused(source: Make, tmp_path: Path) -> None:
    font = tmp_path / "font.sf2"
    font.write_bytes(b"this is text")
    with pytest.raises(AudioError, match="sound font"):
        source(sound_font=str(font), tracks=["accompaniment"])[0]


def test_too_few_words_are_refused(source: Make, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("One line is not enough for songs\n", encoding="utf-8")
    with pytest.raises(RequestError, match="at least 16"):
        source(words=str(path))


def test_words_that_are_not_text_are_refused(source: Make, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"\xff\xfe\x00\x81" * 20)
    with pytest.raises(RequestError, match="UTF-8"):
        source(words=str(path))


def test_index_beyond_the_end_is_an_index_error(source: Make) -> None:
    with pytest.raises(IndexError):
        source()[4]


def test_the_declared_example_is_valid() -> None:
    (component,) = songkit_components()
    assert component.example.validate() == []
