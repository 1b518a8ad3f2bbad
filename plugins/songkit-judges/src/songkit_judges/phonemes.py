"""Phoneme error rate: edit distance between the phones that were asked for and those that were heard.

Pooled over songs as (sum of edits) / (sum of reference phones). Each song's edits are clipped at its reference
length, because whisper loops on some recordings and one loop would otherwise outweigh all other songs. Whisper also
makes fluent English of babble; so the same transcripts are scored against another song's words too, as a control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from songkit.errors import RequestError
from songkit.phonemes import PHONES, phonemize, unsingable

__all__ = ["PhonemeErrors", "edit_distance", "phone_ids", "phoneme_errors", "pooled_interval", "score"]

_ID = {symbol: i for i, symbol in enumerate(PHONES)}


@dataclass(frozen=True, kw_only=True)
class PhonemeErrors:
    """Phoneme error rates of a set of songs; see `phoneme_errors`."""

    per: float
    """Pooled: edits over reference phones, each song clipped at 1."""
    low: float
    """Lower end of the 95 % interval of `per`, by bootstrap over songs."""
    high: float
    """Upper end of it."""
    control: float | None
    """Pooled rate of the same transcripts against another song's words; `None` without another song."""
    control_low: float | None
    """Lower end of the 95 % interval of `control`."""
    control_high: float | None
    """Upper end of it."""
    length_ratio: float
    """Phones heard over phones asked for."""
    songs: tuple[float, ...]
    """The rate of each song, clipped at 1."""
    controls: tuple[float | None, ...]
    """The rate of each song against another song's words, clipped at 1."""
    ratios: tuple[float, ...]
    """Phones heard over phones asked for, of each song."""


def phoneme_errors(
    references: Sequence[str], hypotheses: Sequence[str], *, replicates: int = 2000, seed: int = 0
) -> PhonemeErrors:
    r"""Scores transcripts against lyrics.

    Args:
        references: The lyrics of each song, lines separated by newlines.
        hypotheses: The transcript of each song, as `songkit_judges.whisper.transcribe` returns it.
        replicates: Bootstrap resamples for the intervals.
        seed: Seed of the bootstrap.

    Raises:
        RequestError: If the lists differ in length or are empty, or lyrics hold nothing that is pronounced.

    Example:
        >>> phoneme_errors(["we sing all night"], ["we sing all day"]).per  # `night` for `day`: three of ten phones
        0.3
    """
    return score(
        [phone_ids(r) for r in references],
        [phone_ids(h, heard=True) for h in hypotheses],
        replicates=replicates,
        seed=seed,
    )


def score(
    references: Sequence[np.ndarray], hypotheses: Sequence[np.ndarray], *, replicates: int = 2000, seed: int = 0
) -> PhonemeErrors:
    """Scores phones against phones; as `phoneme_errors`, with the phone ids [N] of each song."""
    if len(references) != len(hypotheses) or not references:
        raise RequestError(
            f"{len(references)} lyrics and {len(hypotheses)} transcripts: expected as many of each, at least 1"
        )
    sizes = np.array([len(r) for r in references])
    if not sizes.all():
        raise RequestError(f"the lyrics of song {int(np.argmin(sizes))} hold nothing that is pronounced; leave it out")
    edits = np.array([_clipped(r, h) for r, h in zip(references, hypotheses, strict=True)])
    low, high = pooled_interval(edits, sizes, replicates=replicates, seed=seed)
    other = [_other(references, i) for i in range(len(references))]
    known = [(i, o) for i, o in enumerate(other) if o is not None]
    wrong = {i: _clipped(references[o], hypotheses[i]) / len(references[o]) for i, o in known}
    control = control_low = control_high = None
    if known:
        lengths = np.array([len(references[o]) for _, o in known])
        misses = np.array([wrong[i] for i, _ in known]) * lengths
        control = float(misses.sum() / lengths.sum())
        control_low, control_high = pooled_interval(misses, lengths, replicates=replicates, seed=seed)
    heard = np.array([len(h) for h in hypotheses])
    return PhonemeErrors(
        per=float(edits.sum() / sizes.sum()),
        low=low,
        high=high,
        control=control,
        control_low=control_low,
        control_high=control_high,
        length_ratio=float(heard.sum() / sizes.sum()),
        songs=tuple((edits / sizes).tolist()),
        controls=tuple(wrong.get(i) for i in range(len(references))),
        ratios=tuple((heard / sizes).tolist()),
    )


def phone_ids(text: str, *, heard: bool = False) -> np.ndarray:
    """Returns the phones of a text as ids, int16 [N] (positions in `songkit.phonemes.PHONES`).

    Args:
        text: Lines separated by newlines.
        heard: Whether it is a transcript. In lyrics, letters that cannot be pronounced are an error; in a
            transcript they are left out, so that the phones they stand for count as not heard.

    Raises:
        RequestError: If lyrics hold letters of another script.
    """
    if heard:
        text = text.translate(dict.fromkeys(map(ord, unsingable(text)), " "))
    return np.array([_ID[p.symbol] for line in text.splitlines() for p in phonemize(line)], dtype=np.int16)


def edit_distance(a: np.ndarray, b: np.ndarray) -> int:
    """Returns the least number of insertions, deletions and substitutions that turn `a` [N] into `b` [M]."""
    steps = np.arange(len(b) + 1)
    row = steps.copy()
    for i, symbol in enumerate(a, start=1):
        best = np.empty_like(row)
        best[0] = i
        np.minimum(row[1:] + 1, row[:-1] + (b != symbol), out=best[1:])
        # Insertions run along the row: the least of best[k] + (j - k) over all k <= j.
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def pooled_interval(
    parts: np.ndarray, wholes: np.ndarray, *, replicates: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Returns the percentile interval of sum(parts) / sum(wholes) under a bootstrap over songs.

    Args:
        parts: The numerator of each song [N].
        wholes: The denominator of each song [N], above zero.
        replicates: Number of resamples.
        seed: Seed of the resampling.
        level: How much of the distribution lies inside.
    """
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=replicates)  # [R, N]
    low, high = np.quantile((counts @ parts) / (counts @ wholes), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _clipped(reference: np.ndarray, hypothesis: np.ndarray) -> int:
    return min(edit_distance(reference, hypothesis), len(reference))


def _other(references: Sequence[np.ndarray], index: int) -> int | None:
    """Returns the next song, cyclically, whose words are not the same."""
    for shift in range(1, len(references)):
        other = (index + shift) % len(references)
        if not np.array_equal(references[other], references[index]):
            return other
    return None
