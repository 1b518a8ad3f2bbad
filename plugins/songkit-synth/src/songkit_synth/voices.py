"""The singers: fixed identities on top of one neural voice."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VOICES", "Voice"]


@dataclass(frozen=True, kw_only=True)
class Voice:
    """What makes a singer recognisable."""

    kind: str
    """`female`, `male` or `child`: the first tag of a description."""
    word: str
    """The tag that tells this singer from the others of the kind."""
    formant: float
    """Factor on all resonances; below 1 is a longer vocal tract. Two decimals, so that rates stay whole numbers."""
    low: int
    """Lowest note, MIDI pitch."""
    high: int
    """Highest note, MIDI pitch."""
    vibrato_rate: float
    """Hz."""
    vibrato_depth: float
    """Semitones from the centre to the peak."""
    glide: float
    """Seconds that a change of pitch takes."""
    tilt: float
    """dB added above 3 kHz, as a shelf."""
    breath: float
    """dB added to the noise part."""
    peak: tuple[float, float]
    """An equaliser band: centre in Hz, gain in dB."""


VOICES: dict[str, Voice] = {
    "mara": Voice(
        kind="female",
        word="clear voice",
        formant=1.0,
        low=57,
        high=72,
        vibrato_rate=5.6,
        vibrato_depth=0.30,
        glide=0.07,
        tilt=1.0,
        breath=0.0,
        peak=(3200.0, 2.0),
    ),
    "ines": Voice(
        kind="female",
        word="warm voice",
        formant=0.94,
        low=54,
        high=69,
        vibrato_rate=5.0,
        vibrato_depth=0.40,
        glide=0.10,
        tilt=-4.0,
        breath=3.0,
        peak=(450.0, 3.0),
    ),
    "otto": Voice(
        kind="male",
        word="deep voice",
        formant=0.80,
        low=45,
        high=58,
        vibrato_rate=4.8,
        vibrato_depth=0.28,
        glide=0.09,
        tilt=-2.0,
        breath=-2.0,
        peak=(2400.0, 3.0),
    ),
    "theo": Voice(
        kind="male",
        word="bright voice",
        formant=0.86,
        low=49,
        high=62,
        vibrato_rate=5.8,
        vibrato_depth=0.22,
        glide=0.06,
        tilt=3.0,
        breath=0.0,
        peak=(2900.0, 3.0),
    ),
    "juni": Voice(
        kind="child",
        word="sweet voice",
        formant=1.12,
        low=60,
        high=74,
        vibrato_rate=6.0,
        vibrato_depth=0.12,
        glide=0.05,
        tilt=0.0,
        breath=1.0,
        peak=(1200.0, 1.5),
    ),
    "pip": Voice(
        kind="child",
        word="small voice",
        formant=1.19,
        low=62,
        high=76,
        vibrato_rate=5.4,
        vibrato_depth=0.08,
        glide=0.06,
        tilt=-3.0,
        breath=4.0,
        peak=(800.0, 2.0),
    ),
}
"""All singers by name."""
