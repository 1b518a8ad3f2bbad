"""Songs that `songkit prepare` has written: flat memory-mapped audio and codes, cheap to read at random.

The folder of a prepared set:

    songs.jsonl                    one `Song.record()` a line
    audio-<key>/index.json         rate, channels, tracks, samples of each song, bytes of each record
    audio-<key>/<track>.i16        little-endian int16, song after song, channels interleaved
    codes-<key>/layout.json        the tokenizer's layout and identity, frames of each song
    codes-<key>/ids.<u1|u2|u4>     unsigned ids, song after song, each [K, F]

A key is a digest of everything that the numbers depend on, so that codes of another tokenizer never mix.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from songkit._flat import FlatFile
from songkit.audio import SumTrack
from songkit.components.configs import PreparedConfig
from songkit.errors import LayoutError, SongkitError
from songkit.types import TIERS, Song, Stream, TokenLayout, Track

__all__ = ["MmapTrack", "PreparedSource", "build", "layout_from_json", "layout_to_json", "prepared_keys"]

FORMAT = 1
"""Version of the folder layout above."""

_REMEDY = "Delete its folder and run 'songkit prepare' again."


class PreparedSource:
    """A `DataSource` over a prepared set; also the token cache that planners train on.

    Attributes:
        root: The folder.
        audio_key, sample_rate, channels, tracks: The audio that is there.
        samples: int64 [songs], length of each song in samples.
    """

    def __init__(
        self,
        root: Path,
        *,
        audio: str = "",
        codes: str = "",
        start: int | None = None,
        stop: int | None = None,
        min_seconds: float = 0.0,
        max_seconds: float = 0.0,
        tiers: Sequence[str] = (),
        labels: Path | None = None,
    ) -> None:
        """Opens a prepared set.

        Args:
            root: Folder that `songkit prepare` wrote.
            audio: Key of the audio; the only one that is there when empty.
            codes: Key (or the id of the tokenizer) of the codes; the only ones that are there when empty.
            start: First song, as in a Python slice.
            stop: Song to stop before, as in a Python slice.
            min_seconds: Leaves out shorter songs.
            max_seconds: Leaves out longer songs; 0 means no limit.
            tiers: Leaves out songs of other tiers; empty keeps all.
            labels: JSON file with the tier of each song by its id, in the place of those in the set.

        Raises:
            LayoutError: The folder holds no prepared set, or not the wanted one, or no song of these tiers.
        """
        self.root = Path(root)
        self._wanted_codes = codes
        self.audio_key = _choose_audio(self.root, audio)
        index = _read_json(self.root / f"audio-{self.audio_key}" / "index.json")
        self.sample_rate = int(index["sample_rate"])
        self.channels = int(index["channels"])
        self.tracks: tuple[str, ...] = tuple(index["tracks"])
        samples = np.asarray(index["samples"], dtype=np.int64)
        seconds = samples / self.sample_rate
        chosen = np.arange(len(samples))[start:stop]
        keep = seconds[chosen] >= min_seconds
        if max_seconds:
            keep &= seconds[chosen] <= max_seconds
        self._chosen = chosen[keep]
        self._sample_offsets = offsets(samples * self.channels)
        self._record_offsets = offsets(np.asarray(index["records"], dtype=np.int64))
        self.samples = samples[self._chosen]
        self._records = FlatFile(self.root / "songs.jsonl", "u1", int(self._record_offsets[-1]), _REMEDY)
        self._audio = {
            track: FlatFile(
                self.root / f"audio-{self.audio_key}" / f"{track}.i16", "<i2", int(self._sample_offsets[-1]), _REMEDY
            )
            for track in self.tracks
        }

        self._labels: dict[str, str] = {} if labels is None else _read_labels(labels)
        if tiers:
            self._keep_tiers(tiers)

    def __len__(self) -> int:
        """Number of songs."""
        return len(self._chosen)

    def __getitem__(self, index: int) -> Song:
        """Returns one song; its audio is read from the memory map when asked for."""
        return Song.from_record(self._record(index), self.song_tracks(index))

    def song_tracks(self, index: int) -> dict[str, Track]:
        """Returns the tracks of one song without parsing the rest of it.

        A mix that was not written is the sum of vocal and accompaniment.
        """
        i = self._position(index)
        begin, end = int(self._sample_offsets[i]), int(self._sample_offsets[i + 1])
        found: dict[str, Track] = {
            name: MmapTrack(flat.array[begin:end].reshape(-1, self.channels), self.sample_rate)
            for name, flat in self._audio.items()
        }
        if "mix" not in found and {"vocal", "accompaniment"} <= found.keys():
            found["mix"] = SumTrack((found["vocal"], found["accompaniment"]))
        return found

    @functools.cached_property
    def codes_info(self) -> dict[str, Any]:
        """What `layout.json` of the codes says: `key`, `id`, `revision`, `weights`, `layout`, `frames`, ...

        Raises:
            LayoutError: There are no codes, not the wanted ones, or several to choose from.
        """
        return _choose_codes(self.root, self.audio_key, self._wanted_codes)

    @functools.cached_property
    def layout(self) -> TokenLayout:
        """The layout of the codes."""
        return layout_from_json(self.codes_info["layout"])

    @functools.cached_property
    def frames(self) -> np.ndarray:
        """int64 [songs], length of each song in frames of the codes."""
        return np.asarray(self.codes_info["frames"], dtype=np.int64)[self._chosen]

    def codes(self, index: int) -> np.ndarray:
        """Returns the ids [K, F] of one song, a read-only view of unsigned integers into the memory map."""
        i = self._position(index)
        begin, end = int(self._code_offsets[i]), int(self._code_offsets[i + 1])
        return self._codes.array[begin:end].reshape(len(self.layout), -1)

    def _record(self, index: int) -> dict[str, Any]:
        i = self._position(index)
        record: dict[str, Any] = json.loads(
            self._records.array[self._record_offsets[i] : self._record_offsets[i + 1]].tobytes()
        )
        if self._labels:
            if record["id"] not in self._labels:
                raise LayoutError(f"song '{record['id']}' of {self.root} has no label. Label all songs of the set.")
            record["tier"] = self._labels[record["id"]]
        return record

    def _keep_tiers(self, tiers: Sequence[str]) -> None:
        found = [self._record(index).get("tier") for index in range(len(self))]
        keep = np.array([tier in tiers for tier in found], dtype=bool)
        if not keep.any():
            there = ", ".join(sorted({str(tier) for tier in found}))
            raise LayoutError(f"{self.root} holds no song of the tiers {', '.join(tiers)}; it holds {there}.")
        self._chosen, self.samples = self._chosen[keep], self.samples[keep]

    @functools.cached_property
    def _code_offsets(self) -> np.ndarray:
        return offsets(np.asarray(self.codes_info["frames"], dtype=np.int64) * len(self.layout))

    @functools.cached_property
    def _codes(self) -> FlatFile:
        dtype = self.codes_info["dtype"]
        path = self.root / f"codes-{self.codes_info['key']}" / f"ids.{dtype}"
        return FlatFile(path, f"<{dtype}", int(self._code_offsets[-1]), _REMEDY)

    def _position(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"song {index} of {len(self)} in {self.root}")
        return int(self._chosen[index])


def build(config: PreparedConfig) -> PreparedSource:
    """Builds the component `songkit/prepared`."""
    return PreparedSource(
        Path(config.root),
        audio=config.audio,
        codes=config.codes,
        start=config.start,
        stop=config.stop,
        min_seconds=config.min_seconds,
        max_seconds=config.max_seconds,
        tiers=config.tiers,
        labels=Path(config.labels) if config.labels else None,
    )


@dataclass(frozen=True)
class MmapTrack:
    """A `Track` over int16 samples [T, C] in a memory map."""

    data: np.ndarray
    sample_rate: int

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.data.shape[1])

    @property
    def samples(self) -> int:
        """Length in samples."""
        return int(self.data.shape[0])

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Returns float32 audio [C, T] of the samples from `start` up to `stop`."""
        part = np.ascontiguousarray(self.data[start:stop].T).astype(np.float32)
        part /= 32768.0
        return part


def prepared_keys(root: Path, kind: str) -> list[str]:
    """Returns the keys of the finished `audio` or `codes` of a prepared set, in alphabetical order."""
    name = {"audio": "index.json", "codes": "layout.json"}[kind]
    return sorted(path.parent.name.removeprefix(f"{kind}-") for path in Path(root).glob(f"{kind}-*/{name}"))


def layout_to_json(layout: TokenLayout) -> dict[str, Any]:
    """Returns a layout as JSON values."""
    return {"frame_rate": layout.frame_rate, "streams": [[s.track, s.level, s.size] for s in layout.streams]}


def layout_from_json(values: Mapping[str, Any]) -> TokenLayout:
    """Makes a layout of what `layout_to_json` returned."""
    return TokenLayout(float(values["frame_rate"]), tuple(Stream(*stream) for stream in values["streams"]))


def offsets(lengths: np.ndarray) -> np.ndarray:
    """Returns where each of n consecutive pieces begins, and the end of the last: int64 [n + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _read_labels(path: Path) -> dict[str, str]:
    try:
        values = json.loads(path.read_text("utf-8"))
        wrong = [f"'{name}': {tier!r}" for name, tier in values.items() if tier not in TIERS]
    except (OSError, ValueError, AttributeError) as error:
        raise LayoutError(
            f"{path} holds no labels ({error}); expected a JSON object from song ids to tiers."
        ) from error
    if wrong or not values:
        raise LayoutError(f"{path}: {', '.join(wrong[:3]) or 'nothing'}; expected tiers: {', '.join(TIERS)}.")
    return dict(values)


def _choose_audio(root: Path, wanted: str) -> str:
    keys = prepared_keys(root, "audio")
    if not keys:
        raise LayoutError(
            f"{root} holds no prepared set (no finished audio-*/index.json). "
            f"Make one with 'songkit prepare RECIPE --out {root}'."
        )
    if wanted and wanted not in keys:
        raise LayoutError(f"{root} holds no audio '{wanted}'; it holds {', '.join(keys)}.")
    if not wanted and len(keys) > 1:
        raise LayoutError(f"{root} holds several sets of audio: {', '.join(keys)}. Choose one by the option 'audio'.")
    return wanted or keys[0]


def _choose_codes(root: Path, audio_key: str, wanted: str) -> dict[str, Any]:
    infos = [_read_json(root / f"codes-{key}" / "layout.json") for key in prepared_keys(root, "codes")]
    infos = [info for info in infos if info["audio"] == audio_key]
    listed = ", ".join(f"{info['key']} ({info['id']})" for info in infos)
    matching = [info for info in infos if not wanted or wanted in (info["key"], info["id"])]
    if not matching:
        found = f"holds only the codes {listed}" if infos else "holds no codes"
        raise LayoutError(
            f"{root} {found}{f', not {wanted!r}' if wanted else ''}. Run 'songkit prepare RECIPE --out {root}' with a "
            f"recipe that names a tokenizer or codec with weights and 'prepare: {{audio: false, codes: true}}'."
        )
    if len(matching) > 1:
        raise LayoutError(f"{root} holds several sets of codes: {listed}. Choose one key by the option 'codes'.")
    return matching[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise LayoutError(f"{path} cannot be read ({error}): the prepared set is damaged; prepare it again.") from error
    if values.get("format") != FORMAT:
        raise SongkitError(
            f"{path} has format {values.get('format')!r}; this songkit reads {FORMAT}. Prepare the set again."
        )
    return values
