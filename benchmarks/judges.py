"""Do the judges order songs whose quality is known?

    python benchmarks/judges.py --songs 40 --out results/judges.json
    python benchmarks/judges.py --songs 40 --only phoneme-errors --out results/judges-words.json   # whisper: slow
    python benchmarks/judges.py --songs 40 --only form --seconds 70 90 --out results/judges-form.json   # two choruses

The same songs of the synthesiser (words, tune, singer, arrangement) are made at each of its five musicality tiers, and
the best of them are damaged in one way each. A judge is asked about what it should hear and about what it should not:

- tiers: rank correlation of tier and score within a song, and the share of pairs of tiers that are scored in order;
- damage: the share of songs whose damaged version scores worse (ties count half);
- quieter: the same for a version that is 6 dB softer and otherwise alike, which should be .5.

A judge may be used for choosing where the whole interval of what it should hear lies above .75, and that of the control
holds .5. Intervals are bootstraps over songs.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import finish, mean_interval, test_songs
from scipy.stats import spearmanr
from tqdm import tqdm

from songkit.evaluate import build_metrics, evaluate
from songkit.recipe import choose
from songkit.registry import Registry
from songkit.types import TIERS, ArrayTrack, Song


@dataclass(frozen=True)
class Question:
    """What one number of a judge should hear."""

    metric: str
    name: str
    better: int
    """1 if higher is better, -1 if lower is, 0 where distance from the undamaged song is what counts."""
    hears: tuple[str, ...]
    """`tiers` and names of damages."""


QUESTIONS = (
    Question("phoneme-errors", "per", -1, ("other words", "muted lines")),
    Question("pitch", "off_grid", -1, ("tiers",)),
    Question("pitch", "in_best_key", 1, ("tiers",)),
    Question("pitch", "in_tune", 1, ("tiers", "transposed voice")),
    Question("melody", "on_chord", 1, ("tiers", "transposed voice")),
    Question("melody", "keys_apart", -1, ("transposed voice",)),
    Question("ensemble", "voice_in_band_key", 1, ("tiers", "transposed voice")),
    Question("ensemble", "band_in_key", 1, ("tiers",)),
    Question("structure", "sung", 1, ("muted lines", "rotated")),
    Question("structure", "silent", 1, ("rotated",)),
    Question("form", "form", 1, ("chorus replaced",)),
    Question("style", "agreement", 1, ("other description",)),
    Question("style", "genre", 1, ("other description",)),
    Question("style", "instrument", 1, ("other description",)),
    Question("style", "register", 1, ("other description",)),
    Question("style", "mode", 1, ("other description",)),
    Question("style", "tempo", 1, ("other description",)),
    Question("similarity", "similarity", 1, ("other song",)),
    Question("integrity", "clipped", -1, ("clipped",)),
    Question("integrity", "dropouts", -1, ("dropouts",)),
    Question("integrity", "flatness", -1, ("noise",)),
    Question("voice-quality", "overall", 1, ("noise", "dropouts", "clipped")),
    Question("voice-quality", "signal", 1, ("noise", "dropouts", "clipped")),
    Question("voice-quality", "background", 1, ("noise",)),
    Question("musicality", "musicality", 1, ("tiers",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=4, help="songs, each in every version (default 4)")
    parser.add_argument("--seed", type=int, default=505, help="of the songs (default 505)")
    parser.add_argument("--seconds", type=float, nargs=2, default=(24.0, 40.0), help="their lengths")
    parser.add_argument(
        "--only", nargs="+", metavar="JUDGE", help="judges to ask (default: all but phoneme-errors and form)"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    judges = args.only or [q.metric for q in QUESTIONS if q.metric not in ("phoneme-errors", "form")]
    questions = [q for q in QUESTIONS if q.metric in judges]
    versions = make_versions(args.songs, args.seed, args.seconds, {heard for q in questions for heard in q.hears})
    values = ask(versions, questions)
    rows, record = [], []
    for question in questions:
        row, found = answer(question, values)
        rows.append(row)
        record.append(found)
    heads = [
        "judge",
        "number",
        "tiers: rank correlation",
        "tiers: pairs",
        "damage found",
        "quieter (.5)",
        "for choosing",
    ]
    title = f"Judges on {args.songs} songs of known quality"
    finish(title, heads, rows, out=args.out, runs=1, record={"seed": args.seed, "answers": record})


def make_versions(
    count: int, seed: int, seconds: tuple[float, float], wanted: set[str]
) -> dict[str, list[tuple[Song, Song]]]:
    """Returns for each version the songs with their references: the undamaged recordings, or others."""

    def made(tier: str) -> list[Song]:
        return test_songs(
            count,
            seed=seed,
            shortest=seconds[0],
            longest=seconds[1],
            tracks=["vocal", "accompaniment", "mix"],
            tiers={tier: 1.0},
        )

    best = made(TIERS[-1])
    versions = {"as it is": list(zip(best, best, strict=True))}
    for tier in TIERS[:-1] if "tiers" in wanted else ():
        versions[tier] = list(zip(made(tier), best, strict=True))
    rng = np.random.default_rng(seed)
    for name in [name for name in DAMAGES if name in wanted or name == "quieter"]:
        others = [*best[1:], best[0]]
        versions[name] = [(DAMAGES[name](song, other, rng), song) for song, other in zip(best, others, strict=True)]
    if "other song" in wanted:
        versions["other song"] = list(zip(best, [*best[1:], best[0]], strict=True))
    return versions


def ask(
    versions: Mapping[str, Sequence[tuple[Song, Song]]], questions: Sequence[Question]
) -> dict[tuple[str, str, str], list[float]]:
    """Returns the numbers of all songs, NaN where there is none, by judge, number and version."""
    registry = Registry.discover()
    values: dict[tuple[str, str, str], list[float]] = {}
    for version, songs in tqdm(versions.items(), desc="judge", unit="version"):
        asked = [q for q in questions if version in (*q.hears, "as it is", "quieter") or "tiers" in q.hears]
        asked = [q for q in asked if version in (*q.hears, "as it is", "quieter", *TIERS)]
        nodes = choose("metric", {q.metric: f"judges/{q.metric}" for q in asked}, [], registry=registry)
        if not nodes:
            continue
        references = {song.id: reference for song, reference in songs}
        results = evaluate([song for song, _ in songs], build_metrics(nodes), nodes=nodes, references=references)
        for reason in results.reasons():
            print(f"{version}: {reason}")
        for q in asked:
            rows = {cell.song: cell.values for cell in results.cells if cell.metric == q.metric}
            found = [rows[song.id].get(q.name, np.nan) for song, _ in songs]
            values[q.metric, q.name, version] = [float(value) for value in found]
    return values


def answer(
    question: Question, values: Mapping[tuple[str, str, str], list[float]]
) -> tuple[list[str], dict[str, object]]:
    """Returns a row of the table, and the same as JSON values."""

    def of(version: str) -> np.ndarray:
        return question.better * np.array(values[question.metric, question.name, version])

    best, heard = of("as it is"), []
    row, found = [question.metric, question.name], {"judge": question.metric, "number": question.name}
    if "tiers" in question.hears:
        scores = np.stack([*(of(tier) for tier in TIERS[:-1]), best], axis=1)  # [songs, tiers]
        scores = scores[np.isfinite(scores).all(axis=1)]
        ranks = [float(spearmanr(np.arange(len(TIERS)), song).statistic) if np.ptp(song) else 0.0 for song in scores]
        low, high = np.triu_indices(len(TIERS), 1)
        pairs = [float(_worse(song[low], song[high]).mean()) for song in scores]
        row += [_text(ranks), _text(pairs)]
        found |= {"rank_correlation": ranks, "pairs": pairs}
        heard.append(pairs)
    else:
        row += ["-", "-"]
    damages = {name: _finite(_worse(of(name), best)) for name in question.hears if name != "tiers"}
    row.append("; ".join(f"{name} {_text(each)}" for name, each in damages.items()) or "-")
    control = _finite(_worse(of("quieter"), best))
    row.append(_text(control))
    heard += damages.values()
    good = all(len(each) and mean_interval(each)[1] > 0.75 for each in heard)
    steady = bool(control) and mean_interval(control)[1] <= 0.5 <= mean_interval(control)[2]
    row.append("yes" if good and steady else "NO")
    return row, {**found, "damages": damages, "quieter": control, "for_choosing": good and steady}


def _worse(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns 1 where the first is lower, .5 where they are alike (within what rounding to 16 bits changes)."""
    alike = np.isclose(one, other, rtol=1e-3, atol=1e-6)
    worse = np.where(alike, 0.5, (one < other).astype(float))
    return np.asarray(np.where(np.isfinite(one) & np.isfinite(other), worse, np.nan))


def _finite(values: np.ndarray) -> list[float]:
    return [float(value) for value in values if np.isfinite(value)]


def _text(values: Sequence[float]) -> str:
    if not len(values):
        return "no song"
    mean, low, high = mean_interval(values)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


# --- damages: a song, another song, and a generator to a worse song ----------------------------------------------


def _changed(song: Song, **tracks: np.ndarray) -> Song:
    """Returns the song with other stems, float [C, T]; the mix is their sum."""
    stems = {name: song.tracks[name].read() for name in ("vocal", "accompaniment")} | tracks
    rate = song.tracks["mix"].sample_rate
    stems = {name: np.clip(track, -1, 1).astype(np.float32) for name, track in stems.items()}
    stems["mix"] = np.clip(stems["vocal"] + stems["accompaniment"], -1, 1)
    return dataclasses.replace(song, tracks={name: ArrayTrack(track, rate) for name, track in stems.items()})


def _stems(song: Song, change: Callable[[np.ndarray], np.ndarray]) -> Song:
    return _changed(song, **{name: change(song.tracks[name].read()) for name in ("vocal", "accompaniment")})


def _noise(song: Song, other: Song, rng: np.random.Generator) -> Song:
    return _stems(song, lambda track: track + 0.01 * rng.standard_normal(track.shape))


def _clipped(song: Song, other: Song, rng: np.random.Generator) -> Song:
    return _stems(song, lambda track: np.clip(6 * track / np.abs(track).max(), -1, 1))


def _dropouts(song: Song, other: Song, rng: np.random.Generator) -> Song:
    rate = song.tracks["mix"].sample_rate

    def holes(track: np.ndarray) -> np.ndarray:
        track = track.copy()
        for start in np.random.default_rng(0).uniform(0, track.shape[1] - rate, 2 * track.shape[1] // rate).astype(int):
            track[:, start : start + rate // 25] = 0
        return track

    return _stems(song, holes)


def _transposed(song: Song, other: Song, rng: np.random.Generator) -> Song:
    """The voice a semitone higher, at the same times: read at another speed, then stretched by a phase vocoder."""
    vocal = song.tracks["vocal"].read()
    factor = 2 ** (1 / 12)
    return _changed(song, vocal=np.stack([_higher(channel, factor) for channel in vocal]))


def _higher(wave: np.ndarray, factor: float) -> np.ndarray:
    size, hop = 2048, 512
    window = np.hanning(size)
    padded = np.pad(wave, (size, 2 * size))
    frames = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window)
    advance = 2 * np.pi * hop * np.arange(size // 2 + 1) / size
    at = np.arange(0, len(frames) - 1, 1 / factor)
    phase, out = np.angle(frames[0]), np.zeros(len(at) * hop + size)
    for i, position in enumerate(at):
        left, share = int(position), position % 1
        size_now = (1 - share) * np.abs(frames[left]) + share * np.abs(frames[left + 1])
        out[i * hop : i * hop + size] += np.fft.irfft(size_now * np.exp(1j * phase)) * window
        step = np.angle(frames[left + 1]) - np.angle(frames[left]) - advance
        phase = phase + advance + np.angle(np.exp(1j * step))
    longer = out[round(size * factor) :] / 1.5  # the overlapping windows sum to 1.5
    times = np.arange(wave.size) * factor
    return np.interp(times, np.arange(longer.size), longer, right=0.0)


def _muted(song: Song, other: Song, rng: np.random.Generator) -> Song:
    """The voice is silent in every other line."""
    vocal, rate = song.tracks["vocal"].read().copy(), song.tracks["mix"].sample_rate
    assert song.alignment is not None
    for line in song.alignment.lines[::2]:
        vocal[:, int(line.start * rate) : int(line.end * rate)] = 0
    return _changed(song, vocal=vocal)


def _rotated(song: Song, other: Song, rng: np.random.Generator) -> Song:
    """The song begins in its middle, so that no section is where it was asked for."""
    half = song.tracks["mix"].samples // 2
    return _stems(song, lambda track: np.roll(track, half, axis=1))


def _replaced(song: Song, other: Song, rng: np.random.Generator) -> Song:
    """The last chorus is played as a verse, where there are both."""
    assert song.alignment is not None
    rate = song.tracks["mix"].sample_rate
    verses, choruses = ([s for s in song.alignment.sections if s.label == tag] for tag in ("verse", "chorus"))
    if not verses or not choruses:
        return song
    start, end = (int(seconds * rate) for seconds in (choruses[-1].start, choruses[-1].end))
    source = int(verses[0].start * rate)

    def overwritten(track: np.ndarray) -> np.ndarray:
        track = track.copy()
        part = np.resize(track[:, source : int(verses[0].end * rate)].T, (end - start, track.shape[0])).T
        track[:, start:end] = part
        return track

    return _stems(song, overwritten)


def _contrary(song: Song, other: Song, rng: np.random.Generator) -> Song:
    """The song under a description that is wrong in every part."""
    from songkit_synth.styles import GENRES, INSTRUMENTS, moods

    low, brisk = song.description.startswith("male"), (song.tempo or 0) >= 100
    genre = rng.choice([name for name in GENRES if name != song.provenance["genre"]])
    mood = moods("min" if str(song.key).endswith("maj") else "maj", 120 if brisk else 80)[0]
    absent = sorted({name for name in INSTRUMENTS.values() if name.split()[-1] not in song.description})
    played = " and ".join(rng.choice(absent, 2, replace=False))
    text = f"{'female' if low else 'male'}, {genre}, {mood}, {played}, the bpm is {(song.tempo or 0) * 0.8:.0f}"
    return dataclasses.replace(song, description=text)


DAMAGES: Mapping[str, Callable[[Song, Song, np.random.Generator], Song]] = {
    "quieter": lambda song, other, rng: _stems(song, lambda track: 0.5 * track),
    "noise": _noise,
    "clipped": _clipped,
    "dropouts": _dropouts,
    "transposed voice": _transposed,
    "muted lines": _muted,
    "rotated": _rotated,
    "chorus replaced": _replaced,
    "other description": _contrary,
    "other words": lambda song, other, rng: dataclasses.replace(song, sections=other.sections),
}


if __name__ == "__main__":
    main()
