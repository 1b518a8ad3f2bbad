"""Bad input: exit status 2, one message that names the place and what to do, and nothing half-written."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fakes
import numpy as np
import pytest
import soundfile

from songkit.cli import main

LYRICS = "id: song\n\n[verse]\nthe river runs\nbeneath the moon\n"


@dataclass(frozen=True)
class Case:
    """One way to go wrong."""

    name: str
    says: tuple[str, ...]
    """What the message has to hold: the place, the fault, the remedy."""
    request: str | bytes = LYRICS
    options: tuple[str, ...] = ()
    prepare: Callable[[Path], object] | None = None
    """Breaks something in the folder that holds lyrics.txt, model/ and out/."""


def damage(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def prepare(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return prepare


def flip_last_bit(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def occupy(folder: Path) -> None:
    (folder / "out" / "song").mkdir(parents=True)
    (folder / "out" / "song" / "mine.txt").write_text("keep this")


def replace(old: str, new: str) -> Callable[[Path], object]:
    return damage("model/model.yaml", lambda data: data.replace(old.encode(), new.encode(), 1))


def prompt(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "prompt.wav").write_bytes(content)


def write_wave(path: Path, seconds: float, rate: int, channels: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(bytes(range(256)) * (int(seconds * rate * channels * 2) // 256))


def truncated_wave(folder: Path) -> None:
    write_wave(folder / "prompt.wav", 3.0, 48000, 2)
    damage("prompt.wav", lambda data: data[:30])(folder)


WITH_PROMPT = "prompt: prompt.wav\n" + LYRICS

CASES = [
    # the request
    Case("lyrics that are empty", ("lyrics.txt", "empty", "[verse]"), b""),
    Case("lyrics of spaces", ("lyrics.txt", "empty"), "  \n\t\n"),
    Case("lyrics without words", ("lyrics.txt:", "[verse] has no words", "Add lines"), "[verse]\n\n[chorus]\n"),
    Case("lyrics without tags", ("lyrics.txt:1:", "before the first section tag", "[verse]"), "la la\nla\n"),
    Case("an unknown tag", ("lyrics.txt:1:", "[vers]", "Did you mean 'verse'?"), "[vers]\nla la\n"),
    Case("two unknown tags", ("lyrics.txt:1:", "lyrics.txt:3:"), "[vers]\nla\n[refrain]\nla\n"),
    Case("not UTF-8", ("lyrics.txt:2:", "0xe9", "UTF-8"), "[verse]\ncafé\n".encode("latin-1")),
    Case("a picture instead of lyrics", ("lyrics.txt:1:", "UTF-8"), b"\x89PNG\r\n\x1a\n\x00\x00"),
    Case("a script it cannot sing", ("'song'", "река", "English"), "id: song\n[verse]\nрека течёт\n"),
    Case("ten megabytes", ("lyrics.txt", "10.0 MB", "1 MB"), "[verse]\n" + "la la la\n" * 1_111_111),
    Case("a broken JSON line", ("lyrics.txt:2:", "JSON"), '{"idx": "a", "gt_lyric": "[verse] la"}\n{"idx": \n'),
    Case("two songs of one id", ("lyrics.txt:2:", "'a'", "its own"), '{"idx": "a", "gt_lyric": "[verse] la"}\n' * 2),
    Case("an id that leaves the folder", ("../song", "letters"), "id: ../song\n" + LYRICS[10:]),
    Case("no such file", ("nowhere.txt", "No such file"), options=("nowhere.txt",)),
    # where to write
    Case("an occupied folder", ("out/song", "--out"), prepare=occupy),
    Case("a file as output folder", ("out", "not a folder", "--out"), prepare=lambda f: (f / "out").write_text("x")),
    # numbers
    Case("a temperature below zero", ("--temperature", "-1", "at least 0"), options=("--temperature=-1",)),
    Case("a temperature that is no number", ("--temperature", "nan"), options=("--temperature=nan",)),
    Case("an endless temperature", ("--temperature", "infinite"), options=("--temperature=inf",)),
    Case("words for a temperature", ("--temperature", "'hot'"), options=("--temperature=hot",)),
    Case("a negative top-k", ("--top-k", "-5", "at least 0"), options=("--top-k=-5",)),
    Case("half a top-k", ("--top-k", "'2.5'"), options=("--top-k=2.5",)),
    Case("a negative guidance", ("--guidance", "at least 0"), options=("--guidance=-2",)),
    Case("no seconds at all", ("--max-seconds", "more than 0"), options=("--max-seconds=0",)),
    Case("eleven hours of song", ("--max-seconds", "at most"), options=("--max-seconds=39600",)),
    Case("two wrong numbers", ("--top-k", "--guidance"), options=("--top-k=-1", "--guidance=-1")),
    Case("an empty batch", ("--batch", "expected 1"), options=("--batch=0",)),
    Case("no threads", ("--threads", "expected 1"), options=("--threads=0",)),
    Case("an unknown track", ("--tracks", "'vocals'", "Did you mean 'vocal'?"), options=("--tracks=mix,vocals",)),
    Case("no tracks", ("--tracks", "Name some"), options=("--tracks=,",)),
    Case("an unknown option", ("--temprature", "Did you mean '--temperature'?"), options=("--temprature=1",)),
    # the model
    Case("an unknown model", ("mini/sing", "recipe"), options=("--model=mini/sing",)),
    Case(
        "a typo in the recipe",
        ("model.yaml:", "loudnes", "loudness"),
        prepare=replace("weights:", "loudnes: 1, weights:"),
    ),
    Case(
        "a wrong type", ("model.yaml:", "loudness", "'loud'"), prepare=replace("weights:", "loudness: loud, weights:")
    ),
    Case("an unknown component", ("model.yaml:", "local/fak"), prepare=replace("local/fake", "local/fak")),
    Case("a recipe without a part", ("planner", "--model"), prepare=replace("planner:", "tokenizer: null #")),
    Case("parts that do not fit", ("width", "8", "4"), prepare=replace("planner: {", "planner: {width: 8, ")),
    Case(
        "weights missing",
        ("codec.safetensors", "does not exist"),
        prepare=lambda f: (f / "model/codec.safetensors").unlink(),
    ),
    Case(
        "all weights missing",
        ("model", "codec.safetensors", "planner.safetensors", "songkit train"),
        prepare=lambda f: [file.unlink() for file in (f / "model").glob("*.safetensors")],
    ),
    Case(
        "weights truncated",
        ("codec.safetensors", "damaged"),
        prepare=damage("model/codec.safetensors", lambda d: d[:-2]),
    ),
    Case(
        "weights cut short",
        ("codec.safetensors", "damaged"),
        prepare=damage("model/codec.safetensors", lambda d: d[:20]),
    ),
    Case("weights empty", ("codec.safetensors", "empty"), prepare=damage("model/codec.safetensors", lambda d: b"")),
    Case("a flipped bit", ("codec.safetensors", "SHA-256"), prepare=damage("model/codec.safetensors", flip_last_bit)),
    # the audio prompt
    Case("no prompt", ("lyrics.txt:1:", "prompt.wav", "Check the path"), WITH_PROMPT),
    Case("an empty prompt", ("'song'", "prompt.wav", "empty"), WITH_PROMPT, prepare=prompt(b"")),
    Case("noise as prompt", ("'song'", "prompt.wav"), WITH_PROMPT, prepare=prompt(bytes(range(256)) * 50)),
    Case("text as prompt", ("'song'", "prompt.wav"), WITH_PROMPT, prepare=prompt(LYRICS.encode())),
    Case("a prompt without samples", ("'song'", "prompt.wav"), WITH_PROMPT, prepare=truncated_wave),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, which is also the current one."""
    (tmp_path / "model").mkdir()
    fakes.write_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def state(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def arguments(case: Case) -> list[str]:
    positional = [option for option in case.options if not option.startswith("--")] or ["lyrics.txt"]
    flags = [option for option in case.options if option.startswith("--")]
    return ["generate", *positional, "--out", "out", "--model", "model/model.yaml", *flags]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_told_and_leaves_nothing(case: Case, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = case.request if isinstance(case.request, bytes) else case.request.encode()
    (place / "lyrics.txt").write_bytes(content)
    if case.prepare is not None:
        case.prepare(place)
    before = state(place)

    status = main(arguments(case))

    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for part in case.says:
        assert part in err
    assert err.strip()[-1] in ".?"
    assert state(place) == before


@pytest.mark.parametrize(
    ("seconds", "rate", "channels"), [(3.0, 48000, 1), (3.0, 8000, 1), (0.05, 44100, 2)], ids=["mono", "8 kHz", "short"]
)
def test_unusual_prompts_work(place: Path, seconds: float, rate: int, channels: int) -> None:
    (place / "lyrics.txt").write_text(WITH_PROMPT)
    write_wave(place / "prompt.wav", seconds, rate, channels)

    assert main(["generate", "lyrics.txt", "--out", "out", "--model", "model/model.yaml"]) == 0
    assert (place / "out/song/mix.flac").is_file()


def test_only_the_start_of_an_eleven_hour_prompt_is_read(place: Path) -> None:
    (place / "lyrics.txt").write_text(WITH_PROMPT)
    write_wave(place / "prompt.wav", 0.0, 8000, 1)
    size = 11 * 3600 * 8000 * 2
    with (place / "prompt.wav").open("r+b") as file:  # a sparse file: eleven hours of silence take no room
        file.seek(4)
        file.write((36 + size).to_bytes(4, "little"))
        file.seek(40)
        file.write(size.to_bytes(4, "little"))
        file.truncate(44 + size)

    assert main(["generate", "lyrics.txt", "--out", "out", "--model", "model/model.yaml"]) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_folder_that_cannot_be_written_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "lyrics.txt").write_text(LYRICS)

    assert main(["generate", "lyrics.txt", "--out", "/proc/songs", "--model", "model/model.yaml"]) == 2
    assert "cannot write /proc/songs" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "lyrics.txt").write_text(LYRICS)
    (place / "out").mkdir(mode=0o555)

    assert main(["generate", "lyrics.txt", "--out", "out", "--model", "model/model.yaml"]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_the_default_model_names_its_package(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "lyrics.txt").write_text(LYRICS)
    monkeypatch.setenv("SONGKIT_PLUGINS", "levo2")

    assert main(["generate", "lyrics.txt", "--out", "out"]) == 2
    assert "pip install songkit-mini" in capsys.readouterr().err


def test_the_program_says_it_without_importing_torch(place: Path) -> None:
    (place / "lyrics.txt").write_text("[vers]\nla\n")
    code = (
        "import sys; from songkit.cli import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'matplotlib', 'scipy'} & set(sys.modules); sys.exit(status)"
    )

    result = subprocess.run(
        [sys.executable, "-c", code, "generate", "lyrics.txt", "--out", "out"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: lyrics.txt:1:")


def test_standard_input_is_a_request(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LYRICS.encode())))

    assert main(["generate", "-", "--out", "out", "--model", "model/model.yaml", "--tracks", "vocal"]) == 0
    assert sorted(os.listdir(place / "out/song")) == ["song.json", "song.png", "vocal.flac"]


def test_a_streamed_song_is_a_wav_that_players_read_to_its_end(
    place: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (place / "lyrics.txt").write_text(LYRICS)
    model = ["--model", "model/model.yaml", "--seed", "3"]
    assert main(["generate", "lyrics.txt", "--stream", "--tracks", "vocal", *model]) == 0
    streamed = capfdbinary.readouterr().out
    header, samples = streamed[:44], np.frombuffer(streamed[44:], "<i2")
    assert (header[:4], header[8:16], header[36:40]) == (b"RIFF", b"WAVEfmt ", b"data")
    assert header[4:8] == header[40:44] == b"\xff" * 4  # the length is not known
    assert main(["generate", "lyrics.txt", "--out", "out", "--tracks", "vocal", *model]) == 0
    written, rate = soundfile.read(place / "out" / "song" / "vocal.flac", dtype="int16", always_2d=True)
    assert int.from_bytes(header[24:28], "little") == rate
    assert np.array_equal(samples.reshape(written.shape), written)
    assert sorted(os.listdir(place)) == ["lyrics.txt", "model", "out"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tracks", "vocal,mix"], "--stream writes one track"),
        (["--json"], "--json"),
        (["--out", "out"], "not allowed with"),
    ],
)
def test_what_cannot_be_streamed_is_told(
    place: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    (place / "lyrics.txt").write_text(LYRICS)
    try:
        status = main(["generate", "lyrics.txt", "--stream", "--model", "model/model.yaml", *options])
    except SystemExit as end:  # argparse
        status = end.code
    assert status == 2
    told = capsys.readouterr()
    assert says in told.err
    assert told.out == ""


def test_json_output_tells_what_was_made(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "lyrics.txt").write_text(LYRICS)

    assert main(["generate", "lyrics.txt", "--out", "out", "--model", "model/model.yaml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    [song] = told["songs"]
    assert (song["id"], song["folder"]) == ("song", "out/song")
    assert set(song["wall_seconds"]) == {"plan", "refine", "decode"}
    assert told["rtf"] == pytest.approx(told["wall_seconds"] / song["seconds"])


def test_a_polite_kill_while_writing_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "lyrics.txt").write_text(LYRICS)
    monkeypatch.setattr("songkit.picture.draw_song", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))

    assert main(["generate", "lyrics.txt", "--out", "out", "--model", "model/model.yaml"]) == 130
    assert os.listdir(place / "out") == []


def test_song_json_alone_makes_the_same_files_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "lyrics.txt").write_text(LYRICS)
    options = ["--seed", "5", "--top-k", "7", "--tracks", "vocal", "--max-seconds", "1"]
    main(["generate", "lyrics.txt", "--out", "a", "--model", "model/model.yaml", *options])

    assert main(["generate", "a/song/song.json", "--out", "b"]) == 0
    assert state(place / "a") == state(place / "b")

    older = json.loads((place / "a/song/song.json").read_text())
    del older["sampling"]["min_seconds"]  # an option that came later
    (place / "older.json").write_text(json.dumps(older))
    assert main(["generate", "older.json", "--out", "c"]) == 0
    assert state(place / "c") == state(place / "b")

    command = shlex.split(json.loads((place / "a/song/song.json").read_text())["command"])
    monkeypatch.chdir(place / "a/song")
    assert main(command[1:]) == 0
    again = state(place / "a/song/again/song")
    assert again == state(place / "b/song")


def test_a_damaged_song_json_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "song.json").write_text('{"format": 1, "request": {"id": "song", "sections": 3}}')

    assert main(["generate", "song.json", "--out", "out", "--model", "model/model.yaml"]) == 2
    assert "song.json: request:" in capsys.readouterr().err
    request = '{"id": "song", "sections": [{"tag": "verse", "lines": ["la"]}], "prompt_audio": null}'
    (place / "song.json").write_text('{"format": 1, "request": ' + request + ', "sampling": {"top_k": "many"}}')
    assert main(["generate", "song.json", "--out", "out"]) == 2
    assert "song.json: the options of the song are damaged" in capsys.readouterr().err
    shutil.rmtree(place / "model")
    assert os.listdir(place) == ["song.json"]
