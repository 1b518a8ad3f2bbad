"""What makes a song of a lower tier worse."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUSICALITY", "Musicality"]


@dataclass(frozen=True, kw_only=True)
class Musicality:
    """Faults of a performance. All are zero in a song of the tier `very-high`."""

    wrong_notes: float = 0.0
    """Share of sung notes that are a semitone out of the key."""
    detune: float = 0.0
    """Standard deviation of each sung note's pitch, in cents."""
    sloppy: float = 0.0
    """Standard deviation of onsets of the singer and of each instrument, in seconds."""
    stiff: float = 0.0
    """From 0 to 1: how far accents, vibrato and glides are gone."""
    clashes: float = 0.0
    """Share of bars in which the chord instruments play a semitone beside the bass."""
    balance: float = 0.0
    """dB by which the accompaniment is too loud or too soft; the sign is drawn."""


MUSICALITY: dict[str, Musicality] = {
    "very-high": Musicality(),
    "high": Musicality(wrong_notes=0.03, detune=12.0, sloppy=0.012, stiff=0.2, clashes=0.03, balance=2.0),
    "medium": Musicality(wrong_notes=0.10, detune=28.0, sloppy=0.028, stiff=0.5, clashes=0.10, balance=5.0),
    "low": Musicality(wrong_notes=0.22, detune=48.0, sloppy=0.050, stiff=0.8, clashes=0.25, balance=9.0),
    "very-low": Musicality(wrong_notes=0.40, detune=75.0, sloppy=0.080, stiff=1.0, clashes=0.45, balance=13.0),
}
"""The faults of each tier."""
