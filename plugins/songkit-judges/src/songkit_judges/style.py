"""The judges of style: is it the music that was described, or like the music that was given?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from songkit.interfaces.metric import MetricInfo
from songkit.types import Audio, Song
from songkit_judges.configs import PARTS, SimilarityConfig, StyleConfig
from songkit_judges.descriptions import TAG_WORDS, read_description
from songkit_judges.harmony import chroma_frames, hear_mode
from songkit_judges.kept import KeptMetric, check_batch, levelled, track_samples
from songkit_judges.musicnn import TAGS, listen
from songkit_judges.pitch import track_pitch
from songkit_judges.tempo import hear_tempo, tempo_misses

__all__ = ["SimilarityMetric", "StyleMetric", "cosine"]

_WORDS = tuple((group, word) for group, words in TAG_WORDS.items() for word in words)
_REGISTERS, _MODES = ("", "low", "high"), ("", "maj", "min")
_LEVEL = 0.1
"""Root mean square of the mix at which musicnn hears it."""
_LOW_VOICE = 58.5
"""MIDI pitch (240 Hz) that the median of a low voice stays below: men sing around A2 to A3, women and children around
A3 to A4."""


class StyleMetric(KeptMetric):
    """How much of the description is heard, part by part; each from 0 to 1.

    `genre`, `instrument`: share of the other words of the group that fit the recording less than the wanted ones, by
    musicnn's tags of the mix and of the accompaniment; .5 by chance. `register`: whether the median pitch of the voice
    is low (man) or high (woman, child); `mode`: whether the accompaniment is in major or minor, as the mood word says;
    `tempo`: whether the pulse is within `tolerance` of the wanted one, or of its half or double. `agreement`: the mean
    of those of `parts` that the description names. `control`: the same recording's agreement with another song's
    description.
    """

    info = MetricInfo(
        needs=frozenset({"mix", "vocal", "accompaniment", "description"}),
        unit="share",
        higher_is_better=True,
        per_song=True,
    )

    def __init__(self, config: StyleConfig) -> None:
        super().__init__("fits", "heard", "wanted_words", "wanted", "text")
        self.config = config

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Listens to each song."""
        check_batch(generated, songs)
        rate = generated.sample_rate
        for i, song in enumerate(songs):
            mix, vocal, band = (track_samples(generated, name, i) for name in ("mix", "vocal", "accompaniment"))
            mix, band = levelled(mix, _LEVEL, mix, band)
            logits = {"msd": listen(mix, rate, "msd").logits, "mtt": listen(band, rate, "mtt").logits}
            _, midi = track_pitch(vocal, rate)
            sung = midi[np.isfinite(midi)]
            register = "" if not sung.size else "low" if np.median(sung) < _LOW_VOICE else "high"
            mode = hear_mode(chroma_frames(band, rate).sum(axis=0))
            tempo, _ = hear_tempo(band, rate)
            wanted = read_description(song.description)
            self.keep(
                song.id,
                fits=[_fit(TAG_WORDS[group][word], logits) for group, word in _WORDS],
                heard=[_REGISTERS.index(register), _MODES.index(mode), tempo],
                wanted_words=[float(word in wanted.tags[group]) for group, word in _WORDS],
                wanted=[_REGISTERS.index(wanted.register), _MODES.index(wanted.mode), wanted.tempo],
                text=np.frombuffer(", ".join(wanted.unheard).encode(), np.uint8),
            )

    def compute(self) -> dict[str, Tensor]:
        """Returns the mean of each part over the songs that name it, the agreement and its control, with intervals."""
        rows = self._parts()
        out: dict[str, Tensor] = {}
        for name in (*PARTS, "agreement", "control"):
            values = [row[name] for row in rows if name in row]
            out |= self.mean(name, values, replicates=self.config.replicates, seed=self.config.seed)
        return out

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id`, the parts that the description names, and `unheard`: what in it no judge listens for."""
        if not self.kept():
            return []
        found = {song: row for (song, _), row in zip(self.ordered(), self._parts(), strict=True)}
        rows: list[dict[str, float | str]] = []
        for song, arrays in self.kept():
            unheard = arrays["text"].astype(np.uint8).tobytes().decode()
            rows.append({"id": song, **found[song], **({"unheard": unheard} if unheard else {})})
        return rows

    def _parts(self) -> list[dict[str, float]]:
        """Returns the numbers of each song, in order of id."""
        songs = [arrays for _, arrays in self.ordered()]
        rows = []
        for i, song in enumerate(songs):
            row = self._agreement(song, song)
            other = _other(songs, i)
            control = self._agreement(song, other) if other else {}
            if "agreement" in control:
                row["control"] = control["agreement"]
            rows.append(row)
        return rows

    def _agreement(self, heard: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns how far what is heard of one song is what is wanted of another, by part, and the mean of `parts`."""
        row = _fits(heard, wanted, self.config.tolerance)
        counted = [value for name, value in row.items() if name in self.config.parts]
        return row | ({"agreement": float(np.mean(counted))} if counted else {})


class SimilarityMetric(KeptMetric):
    """How like its reference a song is: the cosine of musicnn's embeddings (penultimate layer, Million Song Dataset).

    `similarity`: with the song's own reference; `control`: with another song's.
    """

    info = MetricInfo(needs=frozenset({"mix", "reference"}), unit="cosine", higher_is_better=True, per_song=True)

    def __init__(self, config: SimilarityConfig) -> None:
        super().__init__("own", "like")
        self.config = config

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Listens to each song and its reference."""
        check_batch(generated, songs)
        for i, song in enumerate(songs):
            heard = [
                listen(levelled(track_samples(audio, "mix", i), _LEVEL)[0], audio.sample_rate).embedding
                for audio in (generated, reference or generated)
            ]
            self.keep(song.id, own=heard[0], like=heard[1])

    def compute(self) -> dict[str, Tensor]:
        """Returns the mean similarity and its control, with their intervals."""
        rows = self._rows()
        out: dict[str, Tensor] = {}
        for name in ("similarity", "control"):
            values = [row[name] for row in rows.values() if name in row]
            out |= self.mean(name, values, replicates=self.config.replicates, seed=self.config.seed)
        return out

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id`, `similarity` and, with two songs or more, `control` of each song."""
        rows = self._rows() if self.kept() else {}
        return [{"id": song, **rows[song]} for song, _ in self.kept()]

    def _rows(self) -> dict[str, dict[str, float]]:
        songs = self.ordered()
        rows = {}
        for i, (song, arrays) in enumerate(songs):
            rows[song] = {"similarity": cosine(arrays["own"], arrays["like"])}
            if len(songs) > 1:
                rows[song]["control"] = cosine(arrays["own"], songs[(i + 1) % len(songs)][1]["like"])
        return rows


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the cosine of the angle between two vectors [D]; 0 if one of them is zero."""
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length > 0 else 0.0


def _fit(tags: Sequence[str], logits: Mapping[str, np.ndarray]) -> float:
    pairs = [tag.split(":") for tag in tags]
    return float(np.mean([logits[model][TAGS[model].index(tag)] for model, tag in pairs]))


def _fits(heard: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerance: float) -> dict[str, float]:
    """Returns how far what is heard of one song is what is wanted of another, by part."""
    row: dict[str, float] = {}
    for group in TAG_WORDS:
        own = np.array([name == group for name, _ in _WORDS])
        fits, named = heard["fits"][own], wanted["wanted_words"][own] > 0
        if named.any():
            row[group] = float(np.mean([(fits[~named] < fit).mean() for fit in fits[named]]))
    for i, name in enumerate(("register", "mode")):
        if wanted["wanted"][i]:
            row[name] = float(heard["heard"][i] == wanted["wanted"][i])
    if wanted["wanted"][2]:
        row["tempo"] = float(tempo_misses(heard["heard"][2], wanted["wanted"][2]) <= tolerance)
    return row


def _other(songs: Sequence[Mapping[str, np.ndarray]], index: int) -> Mapping[str, np.ndarray] | None:
    """Returns the next song, cyclically, of which something else is wanted."""
    for shift in range(1, len(songs)):
        other = songs[(index + shift) % len(songs)]
        if any(not np.array_equal(other[name], songs[index][name]) for name in ("wanted", "wanted_words")):
            return other
    return None
