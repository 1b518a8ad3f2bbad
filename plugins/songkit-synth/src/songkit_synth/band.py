"""The band: a score to MIDI, and MIDI to sound by midirenderer."""

from __future__ import annotations

import functools
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import mido
import numpy as np
import soundfile

from songkit.errors import AudioError, PluginError
from songkit_synth.musicality import Musicality
from songkit_synth.score import Bar, Part, Score, chord_tones
from songkit_synth.styles import GENRES, INSTRUMENTS, MODES

__all__ = ["RATE", "Arrangement", "arrange", "play"]

RATE = 48000
"""Samples per second of the band."""

_TICKS = 480
_PAD, _KEYS, _BASS, _LEAD, _DRUMS = 0, 1, 2, 3, 9
_LEVELS = {_PAD: (58, 40), _KEYS: (84, 84), _BASS: (98, 64), _LEAD: (80, 50), _DRUMS: (96, 64)}  # volume, pan

_KICK, _STICK, _SNARE, _HAT, _OPEN, _CRASH, _RIDE, _SHAKER = 36, 37, 38, 42, 46, 49, 51, 82
_PATTERNS: dict[str, tuple[tuple[int, tuple[float, ...], int], ...]] = {
    "pop": ((_KICK, (0, 2, 2.5), 100), (_SNARE, (1, 3), 92), (_HAT, (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5), 58)),
    "folk": ((_KICK, (0, 2), 82), (_SHAKER, (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5), 50), (_STICK, (1, 3), 62)),
    "rock": ((_KICK, (0, 1.5, 2), 108), (_SNARE, (1, 3), 104), (_HAT, (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5), 70)),
    "ballad": ((_KICK, (0, 2.5), 80), (_STICK, (2,), 74), (_HAT, (0, 1, 2, 3), 46)),
    "house": ((_KICK, (0, 1, 2, 3), 108), (_SNARE, (1, 3), 84), (_OPEN, (0.5, 1.5, 2.5, 3.5), 62)),
    "train": ((_KICK, (0, 2), 90), (_SNARE, (0.5, 1, 1.5, 2.5, 3, 3.5), 52), (_SNARE, (1, 3), 78)),
    "swing": ((_RIDE, (0, 1, 1.5, 2, 3, 3.5), 66), (_KICK, (0,), 62), (_HAT, (1, 3), 58)),
}


@dataclass(frozen=True)
class Arrangement:
    """What the band plays."""

    notes: tuple[tuple[int, int, int, int, int], ...]
    """First and last tick, channel, pitch and velocity of each note."""
    tempo: int
    """Beats per minute."""
    end: int
    """Tick at which the song is over."""
    programs: dict[str, int]
    """General MIDI programs by part of the band."""
    instruments: list[str]
    """Names of what is heard, as descriptions write them."""


def arrange(score: Score, faults: Musicality, rng: np.random.Generator, faults_rng: np.random.Generator) -> Arrangement:
    """Writes what the band plays.

    Args:
        score: The song on paper.
        faults: How badly it is played.
        rng: For the choice of instruments and the small unevenness of good playing.
        faults_rng: For the faults.
    """
    writer = _Players(score, faults, rng, faults_rng)
    beat = 0.0
    for part in score.parts:
        writer.play(part, beat)
        beat += part.beats
    return writer.finish()


def play(arrangement: Arrangement, samples: int, sound_font: str | None) -> np.ndarray:
    """Renders an arrangement; returns float32 [2, samples] at 48 kHz.

    Raises:
        AudioError: If the sound font cannot be read.
    """
    import midirenderer

    font = _font(sound_font)
    try:
        wav = midirenderer.render_wave_from(font, _midi(arrangement))
    except Exception as error:  # the renderer raises bare exceptions of its own
        raise AudioError(
            f"the band cannot be rendered with the sound font '{sound_font or 'of pretty_midi'}': {error}. "
            "Give another .sf2 file as sound_font, or none."
        ) from error
    data, rate = soundfile.read(io.BytesIO(bytes(wav)), dtype="float32", always_2d=True)
    if rate != RATE:
        raise PluginError(f"midirenderer made {rate} samples a second, not {RATE}: pip install 'midirenderer>=1.1'")
    out = np.zeros((2, samples), np.float32)
    count = min(samples, len(data))
    out[:, :count] = data[:count].T
    return out


class _Players:
    """Collects the notes of a song."""

    def __init__(
        self, score: Score, faults: Musicality, rng: np.random.Generator, faults_rng: np.random.Generator
    ) -> None:
        self.score, self.faults, self.rng, self.bad = score, faults, rng, faults_rng
        self.genre = GENRES[score.genre]
        pick = {"pad": self.genre.pad, "keys": self.genre.keys, "bass": self.genre.bass, "lead": self.genre.lead}
        self.programs = {name: int(rng.choice(choices)) for name, choices in pick.items()}
        self.with_pad = bool(rng.random() < 0.75)
        self.with_drums = bool(rng.random() < {"ballad": 0.6, "folk": 0.6}.get(score.genre, 1.0))
        self.notes: list[tuple[int, int, int, int, int]] = []  # on, off, channel, pitch, velocity

    def play(self, part: Part, start: float) -> None:
        loud = part.kind == "chorus"
        beat = start
        for i, bar in enumerate(part.bars):
            clash = int(self.bad.choice((-1, 1))) if self.bad.random() < self.faults.clashes else 0
            tones = [60 + t % 12 + 12 * (t // 12) - 12 * (self.score.tonic > 6) + clash for t in self._chord(bar)]
            if self.with_pad:
                for tone in tones[:3]:
                    self._note(_PAD, tone, beat, bar.beats, 58 if loud else 46)
            self._keys(bar, beat, tones, loud)
            self._bass(bar, beat, loud)
            if self.with_drums and part.kind != "outro":
                self._drums(bar, beat, loud and i % 4 == 0, i == len(part.bars) - 1 and bar.beats >= 3)
            if not part.lines:
                self._lead(bar, beat, i == len(part.bars) - 1)
            beat += bar.beats

    def finish(self) -> Arrangement:
        channels = {note[2] for note in self.notes}
        heard = [INSTRUMENTS[self.programs["keys"]]]
        if _LEAD in channels:
            heard.append(INSTRUMENTS[self.programs["lead"]])
        elif _PAD in channels:
            heard.append(INSTRUMENTS[self.programs["pad"]])
        heard.append("drums" if _DRUMS in channels else "bass")
        end = self._tick((self.score.seconds - self.score.lead) / self.score.beat)
        return Arrangement(tuple(self.notes), self.score.tempo, end, self.programs, list(dict.fromkeys(heard)))

    def _chord(self, bar: Bar) -> tuple[int, ...]:
        return chord_tones(self.score, bar.degree, seventh=self.genre.sevenths)

    def _keys(self, bar: Bar, beat: float, tones: list[int], loud: bool) -> None:
        figure = self.genre.figure
        if figure == "arpeggio":
            order = (0, 1, 2, 3, 2, 1, 2, 1)
            wide = [*tones[:3], tones[0] + 12]
            for q in range(2 * bar.beats):
                self._note(_KEYS, wide[order[q % 8]], beat + q / 2, 0.6, 66 if q % 2 == 0 else 58)
        elif figure == "comp":
            for place, length in ((0.0, 1.0), (1.5, 0.4), (2.5, 0.9)):
                if place < bar.beats:
                    for tone in tones:
                        self._note(_KEYS, tone, beat + place, length, 60)
        elif figure == "pulse":
            for q in range(2 * bar.beats):
                for tone in tones[:3]:
                    self._note(_KEYS, tone + 12 * loud, beat + q / 2, 0.3, 50 + 14 * (q % 2))
        else:
            for q in range(2 * bar.beats if loud else bar.beats):
                at = q / 2 if loud else q
                for tone in tones[:3]:
                    self._note(_KEYS, tone, beat + at, 0.45 if loud else 0.9, 66 if at % 2 == 0 else 56)

    def _bass(self, bar: Bar, beat: float, loud: bool) -> None:
        root = 36 + self._chord(bar)[0] % 12
        if self.genre.drums == "swing":
            tones = [36 + t % 12 for t in self._chord(bar)]
            for q in range(bar.beats):
                self._note(_BASS, tones[q % len(tones)], beat + q, 0.9, 82)
        elif loud or self.genre.drums == "house":
            for q in range(2 * bar.beats):
                self._note(_BASS, root, beat + q / 2, 0.45, 84)
        else:
            for place, length, up in ((0.0, 1.4, 0), (1.5, 0.45, 0), (2.0, 1.4, 0), (3.5, 0.45, 7)):
                if place < bar.beats:
                    self._note(_BASS, root + up, beat + place, length, 84)

    def _drums(self, bar: Bar, beat: float, crash: bool, fill: bool) -> None:
        for drum, places, velocity in _PATTERNS[self.genre.drums]:
            for q in places:
                if self.score.meter == 3 and drum in (_SNARE, _STICK) and q == 3:
                    continue
                if q < bar.beats - (1 if fill and drum != _KICK else 0):
                    self._note(_DRUMS, drum, beat + q, 0.2, velocity)
        if crash:
            self._note(_DRUMS, _CRASH, beat, 1.0, 84)
        if fill:
            for i, drum in enumerate((45, 47, 48, 38)):
                self._note(_DRUMS, drum, beat + bar.beats - 1 + i / 4, 0.2, 82)

    def _lead(self, bar: Bar, beat: float, final: bool) -> None:
        rng = self.rng
        tones = sorted(72 + t % 12 for t in self._chord(bar)[:3])
        scale = sorted(72 + (self.score.tonic + s) % 12 for s in MODES[self.score.mode])
        at, pitch = 0.0, int(rng.choice(tones))
        while at < bar.beats:
            length = min(float(rng.choice((0.5, 1.0, 1.5))), bar.beats - at)
            if final and at + length >= bar.beats:
                pitch = tones[0]
            self._note(_LEAD, pitch, beat + at, length * 0.95, 74)
            at += length
            near = [p for p in (tones if at % 1 == 0 else scale) if abs(p - pitch) <= 5]
            pitch = int(rng.choice(near)) if near else int(rng.choice(tones))

    def _note(self, channel: int, pitch: int, beat: float, length: float, velocity: int) -> None:
        late = self.genre.swing if beat % 1 == 0.5 else 0.0
        human, accent = self.rng.standard_normal(2)
        slip = 0.004 * human * (1 - self.faults.stiff) + self.bad.standard_normal() * self.faults.sloppy
        moved = slip / self.score.beat
        soft = velocity + 6 * accent
        level = min(120, max(20, int(soft + (80 - soft) * self.faults.stiff)))
        on = self._tick(beat + late + moved)
        off = max(on + 20, self._tick(beat + length + moved) - 8)
        self.notes.append((on, off, channel, min(127, max(0, pitch)), level))

    def _tick(self, beat: float) -> int:
        return max(1, round((beat + self.score.lead / self.score.beat) * _TICKS))


def _midi(arrangement: Arrangement) -> bytes:
    """Returns a standard MIDI file that lasts a beat longer than the song, so that the last notes ring out."""
    events: list[tuple[int, int, str, dict[str, int]]] = []
    for channel, (volume, pan) in _LEVELS.items():
        for control, value in ((7, volume), (10, pan), (91, 36), (93, 0)):  # volume, pan, reverb, chorus
            events.append((0, 0, "control_change", {"channel": channel, "control": control, "value": value}))
    for channel, name in ((_PAD, "pad"), (_KEYS, "keys"), (_BASS, "bass"), (_LEAD, "lead")):
        events.append((0, 1, "program_change", {"channel": channel, "program": arrangement.programs[name]}))
    for on, off, channel, pitch, velocity in arrangement.notes:
        events.append((on, 3, "note_on", {"channel": channel, "note": pitch, "velocity": velocity}))
        events.append((off, 2, "note_off", {"channel": channel, "note": pitch, "velocity": 64}))
    events.append((arrangement.end + _TICKS, 4, "control_change", {"channel": _DRUMS, "control": 7, "value": 0}))
    events.sort(key=lambda event: event[:2])
    file = mido.MidiFile(ticks_per_beat=_TICKS)
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=round(60e6 / arrangement.tempo))])
    last = 0
    for tick, _, kind, values in events:
        track.append(mido.Message(kind, skip_checks=True, time=tick - last, **values))
        last = tick
    file.tracks.append(track)
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


@functools.lru_cache(maxsize=2)
def _font(path: str | None) -> bytes:
    if path is None:
        spec = importlib.util.find_spec("pretty_midi")
        if spec is None or not spec.submodule_search_locations:
            raise PluginError("the sound font is missing: the package pretty_midi is not installed")
        path = str(Path(spec.submodule_search_locations[0]) / "TimGM6mb.sf2")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise AudioError(f"sound_font: cannot read '{path}': {error}. Give a .sf2 file, or none.") from error
