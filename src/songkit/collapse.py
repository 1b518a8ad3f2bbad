"""What tells a policy that has collapsed: fewer different ids, other lengths, frames that repeat. Needs no torch.

Preference training can win by degenerate means: a policy that sings ever the same, ever shorter, or in loops may please
its judge. Three numbers of its songs show that before anybody listens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from songkit.pairs import MinedCandidates
from songkit.preference_settings import SemiOnlineSettings

__all__ = ["collapsed", "entropy", "health", "repetition"]

_GRAM = 4
"""Frames in a row that are a repetition when they come again: 0.16 s at 25 Hz. Single ids come again in any song."""


def health(mined: MinedCandidates) -> dict[str, float]:
    """Returns `entropy`, `repetition`, mean `seconds`, and the share of `finished` songs of a mining.

    All are of the layout's first stream, the one that leads; songs that failed are left out.
    """
    sung = [row for row in mined.rows if row["frames"]]
    leading = [mined.candidate(row["request"], row["candidate"]).ids[0] for row in sung]
    if not leading:
        return {"entropy": 0.0, "repetition": 0.0, "seconds": 0.0, "finished": 0.0}
    return {
        "entropy": entropy(np.concatenate(leading)),
        "repetition": float(np.mean([repetition(ids) for ids in leading])),
        "seconds": float(np.mean([row["seconds"] for row in sung])),
        "finished": float(np.mean([row["finished"] for row in sung])),
    }


def entropy(ids: np.ndarray) -> float:
    """Returns the entropy of how often ids [N] are used, in bits."""
    _, counts = np.unique(ids, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no -0


def repetition(ids: np.ndarray) -> float:
    """Returns the share of frames of ids [F] that begin a run of four ids which came before in the song."""
    if len(ids) < _GRAM:
        return 0.0
    grams = np.lib.stride_tricks.sliding_window_view(ids, _GRAM)
    return 1.0 - len(np.unique(grams, axis=0)) / len(grams)


def collapsed(now: Mapping[str, float], first: Mapping[str, float], settings: SemiOnlineSettings) -> str:
    """Returns all that shows collapse in the songs of a round, or an empty string.

    Args:
        now: The health of the round's songs.
        first: That of the first round's, which the limits are relative to.
        settings: The limits.

    Returns:
        For each measure that passes its limit: its value, the limit, the option that sets it, and the first value.
    """
    least = settings.least_entropy * first["entropy"]
    shortest, longest = (share * first["seconds"] for share in settings.length_range)
    most = first["repetition"] + settings.most_repetition
    found = []
    if now["entropy"] < least:
        found.append(
            f"the entropy is {now['entropy']:.4g} bits, below {least:.4g} (least_entropy; {first['entropy']:.4g} in "
            "the first round)"
        )
    if not shortest <= now["seconds"] <= longest:
        found.append(
            f"songs last {now['seconds']:.4g} s, outside {shortest:.4g} to {longest:.4g} s (length_range; "
            f"{first['seconds']:.4g} s in the first round)"
        )
    if now["repetition"] > most:
        found.append(
            f"{now['repetition']:.1%} of the frames repeat, above {most:.1%} (most_repetition; "
            f"{first['repetition']:.1%} in the first round)"
        )
    return "; ".join(found)
