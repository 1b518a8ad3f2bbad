"""`songkit generate`: lyrics to songs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songkit.errors import RecipeError, RequestError, did_you_mean
from songkit.types import TRACKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from songkit.progress import Progress
    from songkit.recipe import Recipe
    from songkit.request import SongRequest
    from songkit.settings import GenerateSettings
    from songkit.singing import SungSong
    from songkit.song_model import SongModel

__all__ = ["add_arguments", "run"]

DEFAULT_MODEL = "mini/song"


def _of_tracks(kind: type) -> Callable[[Any], dict[str, Any]]:
    """Returns what reads `vocal=0.6,accompaniment=0`, or the same as JSON has it."""

    def read(given: Any) -> dict[str, Any]:
        items = given.items() if isinstance(given, dict) else (part.split("=") for part in given.split(",") if part)
        return {str(track).strip(): kind(value) for track, value in items}

    read.__name__ = f"TRACK={kind.__name__}"  # argparse names it where a value is wrong
    return read


_SETTINGS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "temperature": (float, "how freely ids are drawn; 0 takes the most likely one"),
    "top_k": (int, "ids that may be drawn at each step; 0 means all"),
    "guidance": (float, "how much the song obeys the request; 1 is no guidance"),
    "repetition_window": (int, "frames in which a drawn id is made less likely; 0 means none"),
    "repetition_penalty": (float, "how much less likely; 1 is not at all"),
    "refiner_temperature": (float, "the same as --temperature for the track refiner"),
    "refiner_top_k": (int, "the same as --top-k for the track refiner"),
    "track_temperature": (_of_tracks(float), "--temperature of single tracks, such as vocal=0.6,accompaniment=0"),
    "track_top_k": (_of_tracks(int), "the same of --top-k"),
    "max_seconds": (float, "where a song that does not end by itself is cut"),
    "min_seconds": (float, "before which a song does not end by itself"),
    "last_seconds": (float, "how long it stays on the last token of its lyrics, at least, before it ends by itself"),
    "prompt_seconds": (float, "how much of an audio prompt is used"),
    "precision": (str, "of the weights while decoding: fp32, bf16 or int8; the latter are faster for large models"),
    "threads": (int, "CPU threads"),
}
"""The options that override the model's own `generate` settings."""

_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "KIND"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "request",
        metavar="REQUEST",
        help="lyrics with [section] lines, LRC, LeVo's JSON Lines, or a song.json to make again with the options it "
        "was made with; - is standard input",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="DIR", type=Path, help="each song is written to DIR/<its id>")
    where.add_argument(
        "--stream",
        action="store_true",
        help="write one song to standard output as WAV while it is sung, for a player such as `ffplay -`: the mix, "
        "or the one of --tracks",
    )
    parser.add_argument("--seed", metavar="N", type=int, help="same seed, same song (default 0)")
    parser.add_argument("--model", help=f"recipe of the model: a name or a .yaml file (default {DEFAULT_MODEL})")
    parser.add_argument("--batch", metavar="N", type=int, default=4, help="songs that are sung together (default 4)")
    parser.add_argument("--tracks", help=f"which of {', '.join(TRACKS)} are made (default all that the model can)")
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="where the model computes: cpu, cuda, cuda:N, mps, or auto for the fastest that is there (default: the "
        "model's generate.device)",
    )
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    group = parser.add_argument_group("sampling", "Defaults come from the model's recipe.")
    for name, (kind, text) in _SETTINGS.items():
        group.add_argument(f"--{name.replace('_', '-')}", metavar=_METAVARS.get(kind, "TRACK=X"), type=kind, help=text)


def run(args: argparse.Namespace) -> int:
    """Generates the songs of a request file. Everything that can be checked without torch is checked first."""
    from songkit.output import check_folders

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, which cleans up
    requests = _read(args)
    tracks = None if args.tracks is None else _tracks(args.tracks)
    if not 1 <= args.batch <= 1024:
        raise RequestError(f"--batch is {args.batch}; expected 1 to 1024.")
    if args.stream:
        _check_stream(args, requests, tracks)
    else:
        check_folders(args.out, [request.id for request in requests])
    recipe = _load_model(args.model)
    settings = _settings(recipe, args)

    import torch

    from songkit.devices import describe_device
    from songkit.generate import generate
    from songkit.song_model import SongModel

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model = SongModel.load(recipe, precision=settings.precision, device=args.device)
    if model.device.type != "cpu":
        print(f"computing on {describe_device(model.device)}", file=sys.stderr)
    if args.stream:
        _stream(model, requests[0], (tracks or ["mix"])[0], args.seed or 0, settings)
        return 0
    start, rows = time.perf_counter(), []
    with _Bar(model.frame_rate) as bar:
        songs = generate(
            model,
            requests,
            out=args.out,
            seed=args.seed or 0,
            settings=settings,
            tracks=tracks,
            batch=args.batch,
            progress=bar.show,
        )
        for folder, song in songs:
            rows.append(_row(folder, song))
            if not args.json:
                bar.write(_sentence(rows[-1]))
    if args.json:
        wall = time.perf_counter() - start
        total = sum(row["seconds"] for row in rows)
        print(json.dumps({"songs": rows, "seconds": total, "wall_seconds": wall, "rtf": wall / total}, indent=2))
    return 0


def _check_stream(args: argparse.Namespace, requests: list[SongRequest], tracks: list[str] | None) -> None:
    problems = []
    if len(requests) > 1:
        problems.append(f"--stream sings one song; {args.request} has {len(requests)}. Give it one, or use --out.")
    if tracks is not None and len(tracks) > 1:
        problems.append(f"--stream writes one track; --tracks names {len(tracks)}. Name one, or use --out.")
    if args.json:
        problems.append("--stream writes audio to standard output, where --json would print. Use one of them.")
    if sys.stdout.isatty():
        problems.append(
            "--stream writes audio to standard output: send it to a player or a file, as in `... | ffplay -`."
        )
    if problems:
        raise RequestError("\n".join(problems))


def _stream(model: SongModel, request: SongRequest, track: str, seed: int, settings: GenerateSettings) -> None:
    """Writes a track as WAV of a length that is not known: players read such a file to its end."""
    from songkit.streaming import stream, wav_header, wav_samples

    if track not in model.tracks():
        raise RequestError(f"the model makes {', '.join(model.tracks())}, not {track}. Choose one of them by --tracks.")
    out, begun = sys.stdout.buffer, False
    with _Bar(model.frame_rate) as bar:
        for piece in stream(model, request, seed=seed, settings=settings, tracks=[track], progress=bar.show):
            if not begun:
                out.write(wav_header(model.codec.sample_rate, piece[track].shape[0]))
            begun = True
            out.write(wav_samples(piece[track]))
            out.flush()


def _read(args: argparse.Namespace) -> list[SongRequest]:
    """Reads the requests; a song.json also fills in the options that the command line leaves open."""
    from songkit.output import read_song_json
    from songkit.request import read_requests

    request = read_song_json(Path(args.request)) if args.request.endswith(".json") else None
    if request is None:
        return read_requests(args.request)
    values = json.loads(Path(args.request).read_bytes())
    try:
        sampling = dict(values["sampling"])
        # A song of an older songkit does not tell of options that came later: they keep the model's values.
        told = {name: kind(sampling[name]) for name, (kind, _) in _SETTINGS.items() if name in sampling}
        told |= {"seed": int(values["seed"]), "threads": int(values["threads"]), "tracks": ",".join(values["tracks"])}
        told["device"] = str(values.get("device", "cpu")).partition(" ")[0]  # older songs were all sung on the CPU
        told["model"] = values["model"] and values["model"]["name"]
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"{args.request}: the options of the song are damaged ({type(error).__name__}: {error}). Restore the file, "
            "or write its lyrics as a request of their own."
        ) from error
    for name, value in told.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return [request]


def _tracks(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in TRACKS:
            raise RequestError(
                f"--tracks: unknown track '{name}'.{did_you_mean(name, TRACKS)} Tracks: {', '.join(TRACKS)}."
            )
    if not names:
        raise RequestError(f"--tracks is empty. Name some of {', '.join(TRACKS)}.")
    return names


def _load_model(name: str | None) -> Recipe:
    from songkit.recipe import load
    from songkit.registry import Registry

    registry = Registry.discover()
    if name is None and DEFAULT_MODEL not in registry.recipes():
        raise RecipeError(
            f"there is no model: the default, {DEFAULT_MODEL}, is in a package of its own. Install it with "
            "'pip install songkit-mini', or name another recipe with --model."
        )
    return load(name or DEFAULT_MODEL, registry=registry)


def _settings(recipe: Recipe, args: argparse.Namespace) -> GenerateSettings:
    given = {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
    settings = dataclasses.replace(recipe.generate, **given)
    problems = settings.validate()
    if problems:
        split = (problem.partition(" ") for problem in problems)
        raise RequestError("\n".join(f"--{name.replace('_', '-')} {text}." for name, _, text in split))
    return settings


def _row(folder: Path, song: SungSong) -> dict[str, Any]:
    wall = sum(song.wall_seconds.values())
    return {
        "id": song.request.id,
        "folder": str(folder),
        "seconds": song.seconds,
        "finished": song.finished,
        "song_seed": song.seed,
        "wall_seconds": song.wall_seconds,
        "rtf": wall / song.seconds,
    }


def _sentence(row: dict[str, Any]) -> str:
    end = "ended by itself" if row["finished"] else "cut at the longest length"
    return f"{row['folder']}: {row['seconds']:.1f} s, {end}, {1 / row['rtf']:.2f} × real time"


class _Bar:
    """A progress bar on standard error, where that is a terminal."""

    def __init__(self, frame_rate: float) -> None:
        self.frame_rate = frame_rate
        self.bar: Any = None
        self.stage: tuple[str, int] | None = None
        self.started, self.before = 0.0, 0

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, progress: Progress) -> None:
        """Moves the bar; a new stage starts a new one in its place."""
        if not sys.stderr.isatty():
            return
        if self.stage != (progress.stage, progress.first):
            self._begin(progress)
        speed = (progress.frames - self.before) / self.frame_rate / max(time.perf_counter() - self.started, 1e-6)
        self.bar.n = progress.frames
        self.bar.set_postfix_str(f"{speed:.1f} × real time")

    def write(self, line: str) -> None:
        """Prints a line above the bar, to standard output."""
        if self.bar is not None:
            self.bar.clear()
        print(line, flush=True)

    def _begin(self, progress: Progress) -> None:
        from tqdm import tqdm

        if self.bar is not None:
            self.bar.close()
        last = progress.first + progress.songs - 1
        which = f"song {progress.first}" if last == progress.first else f"songs {progress.first}-{last}"
        self.bar = tqdm(
            total=progress.most,
            desc=f"{which} of {progress.total} · {progress.stage}",
            leave=False,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} frames, {postfix}",
        )
        self.stage, self.started = (progress.stage, progress.first), time.perf_counter()
        self.before = progress.frames  # of a stage that goes on after another
