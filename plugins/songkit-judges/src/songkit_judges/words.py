"""The judge of words: phoneme error rate of a vocal track, as a metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from songkit.errors import RequestError
from songkit.interfaces.metric import MetricInfo
from songkit.types import Audio, Song
from songkit_judges.configs import PhonemeErrorsConfig
from songkit_judges.kept import KeptMetric, check_batch, numbers, track_samples
from songkit_judges.phonemes import PhonemeErrors, phone_ids, score
from songkit_judges.whisper import transcribe

__all__ = ["PhonemeErrorsMetric", "lyrics"]


class PhonemeErrorsMetric(KeptMetric):
    """Phoneme error rate of what whisper hears against the lyrics; see `songkit_judges.phonemes`.

    `compute` returns `per` and its interval, `control` (the same transcripts against another song's words: what
    fluent babble would get) and its interval, `length_ratio` (phones heard over phones asked for) and `songs`.
    """

    def __init__(self, config: PhonemeErrorsConfig) -> None:
        super().__init__("reference", "heard", "text")
        self.config = config
        self.info = MetricInfo(
            needs=frozenset({config.track, "lyrics"}), unit="edits per phone", higher_is_better=False, per_song=True
        )

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Listens to a batch of songs; each must have words.

        Raises:
            RequestError: If a song has no words, or there is no track to listen to.
        """
        check_batch(generated, songs)
        for i, song in enumerate(songs):
            wanted = phone_ids(lyrics(song))
            if not wanted.size:
                raise RequestError(f"song '{song.id}' has no words, so it has no phoneme error rate; leave it out")
            text = transcribe(track_samples(generated, self.config.track, i), generated.sample_rate, self.config)
            heard = phone_ids(text, heard=True)
            self.keep(song.id, reference=wanted, heard=heard, text=np.frombuffer(text.encode(), np.uint8))

    def compute(self) -> dict[str, Tensor]:
        """Returns the pooled rates."""
        result = self._score()
        values = {
            "per": result.per,
            "per_low": result.low,
            "per_high": result.high,
            "control": result.control,
            "control_low": result.control_low,
            "control_high": result.control_high,
            "length_ratio": result.length_ratio,
            "songs": len(result.songs),
        }
        return numbers({name: value for name, value in values.items() if value is not None})

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id`, `per`, `control` (with two songs or more), `length_ratio` and `heard` for each song."""
        if not self.kept():
            return []
        result = self._score()
        rows: dict[str, dict[str, float | str]] = {}
        for i, (song, arrays) in enumerate(self.ordered()):
            rows[song] = {"id": song, "per": result.songs[i]}
            control = result.controls[i]
            if control is not None:
                rows[song]["control"] = control
            rows[song]["length_ratio"] = result.ratios[i]
            rows[song]["heard"] = arrays["text"].astype(np.uint8).tobytes().decode()
        return [rows[song] for song, _ in self.kept()]

    def _score(self) -> PhonemeErrors:
        songs = [arrays for _, arrays in self.ordered()]
        return score(
            [arrays["reference"] for arrays in songs],
            [arrays["heard"] for arrays in songs],
            replicates=self.config.replicates,
            seed=self.config.seed,
        )


def lyrics(song: Song) -> str:
    """Returns all sung lines of a song, separated by newlines."""
    return "\n".join(line for section in song.sections for line in section.lines)
