"""The base of the judges here: a metric that keeps a few numbers of each song and pools them at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from songkit.errors import RequestError
from songkit.interfaces.metric import SongMetric
from songkit.types import Audio, Song
from songkit_judges.phonemes import pooled_interval

__all__ = ["KeptMetric", "check_batch", "levelled", "numbers", "track_samples"]


class KeptMetric(SongMetric):
    """A metric over arrays that are kept for each song.

    The arrays are metric states (flat, with their sizes), so that states merge across processes. What is pooled
    does not depend on the order of the songs: `ordered` sorts them by id.
    """

    full_state_update = False

    def __init__(self, *names: str) -> None:
        super().__init__()
        self._names = ("id", *names)
        for name in self._names:
            self.add_state(f"{name}_values", [], dist_reduce_fx="cat")
            self.add_state(f"{name}_sizes", [], dist_reduce_fx="cat")

    def keep(self, song: str, /, **arrays: np.ndarray | Sequence[float]) -> None:
        """Takes in the arrays of one song, one for each name."""
        for name in self._names:
            values = np.frombuffer(song.encode(), np.uint8) if name == "id" else np.asarray(arrays[name])
            # Exact in double precision: ids and counts are small whole numbers.
            getattr(self, f"{name}_values").append(torch.from_numpy(values.astype(np.float64).ravel()))
            getattr(self, f"{name}_sizes").append(torch.tensor([values.size]))

    def kept(self) -> list[tuple[str, dict[str, np.ndarray]]]:
        """Returns the id and the arrays of each song, in the order in which they were taken in."""
        if not len(self.metric_state["id_sizes"]):
            return []
        columns = {name: self._column(name) for name in self._names}
        ids = [values.astype(np.uint8).tobytes().decode() for values in columns.pop("id")]
        return [(id_, {name: column[i] for name, column in columns.items()}) for i, id_ in enumerate(ids)]

    def ordered(self) -> list[tuple[str, dict[str, np.ndarray]]]:
        """Returns what is kept, sorted by id.

        Raises:
            RequestError: If nothing was taken in.
        """
        songs = sorted(self.kept(), key=lambda song: song[0])
        if not songs:
            raise RequestError(f"{type(self).__name__} was given no songs; call update with at least one first")
        return songs

    def pool(self, name: str, parts: str, wholes: str, *, replicates: int, seed: int) -> dict[str, Tensor]:
        """Returns sum(parts) / sum(wholes) with its interval; nothing if the songs have none of the whole."""
        songs = [arrays for _, arrays in self.ordered() if arrays[wholes].sum() > 0]
        if not songs:
            return {}
        part = np.array([arrays[parts].sum() for arrays in songs])
        whole = np.array([arrays[wholes].sum() for arrays in songs])
        low, high = pooled_interval(part, whole, replicates=replicates, seed=seed)
        return numbers({name: part.sum() / whole.sum(), f"{name}_low": low, f"{name}_high": high})

    def mean(self, name: str, values: Sequence[float], *, replicates: int, seed: int) -> dict[str, Tensor]:
        """Returns the mean of a number of each song with its interval; nothing of no songs."""
        if not len(values):
            return {}
        low, high = pooled_interval(np.asarray(values), np.ones(len(values)), replicates=replicates, seed=seed)
        # The bootstrap sums in another order; equal values would lie a rounding error outside of their interval.
        middle = float(np.clip(np.mean(values), low, high)) if np.ptp(values) == 0 else float(np.mean(values))
        return numbers({name: middle, f"{name}_low": low, f"{name}_high": high})

    def ratios(self, named: Mapping[str, tuple[str, str]]) -> list[dict[str, float | str]]:
        """Returns for each song its `id` and sum(parts) / sum(wholes) by name; what it has none of is left out."""
        return [
            {"id": song}
            | {
                name: float(arrays[parts].sum() / arrays[wholes].sum())
                for name, (parts, wholes) in named.items()
                if arrays[wholes].sum() > 0
            }
            for song, arrays in self.kept()
        ]

    def _column(self, name: str) -> list[np.ndarray]:
        values = dim_zero_cat(getattr(self, f"{name}_values")).cpu().numpy()
        sizes = dim_zero_cat(getattr(self, f"{name}_sizes")).cpu().numpy()
        return np.split(values, np.cumsum(sizes)[:-1])


def numbers(values: Mapping[str, float]) -> dict[str, Tensor]:
    """Returns the values as scalar tensors, as `SongMetric.compute` does."""
    return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in values.items()}


def track_samples(audio: Audio, track: str, index: int) -> np.ndarray:
    """Returns a track of one song of a batch, float32 [C, T], without its padding.

    Raises:
        RequestError: If the batch has no such track.
    """
    if track not in audio.tracks:
        raise RequestError(f"no track '{track}' to judge; the songs have {', '.join(audio.tracks) or 'none'}")
    samples = audio.tracks[track][index, :, : int(audio.lengths[index])]
    return np.asarray(samples.detach().to("cpu", torch.float32).numpy())


def levelled(audio: np.ndarray, level: float, *parts: np.ndarray) -> list[np.ndarray]:
    """Returns parts of a recording (by default the whole) with the gain that gives the recording a level.

    Judges that were made for recordings of a usual level would otherwise hear how loud a song is. Silence stays.

    Args:
        audio: Float samples [C, T].
        level: Root mean square.
        parts: Float samples [C, T] of which the recording is made.
    """
    found = float(np.sqrt(np.square(audio, dtype=np.float64).mean())) if audio.size else 0.0
    gain = np.float32(level / found if found > 1e-5 else 1.0)
    return [gain * part for part in parts or (audio,)]


def check_batch(audio: Audio, songs: Sequence[Song]) -> None:
    """Raises `RequestError` unless there is audio for each of the songs."""
    if len(audio.lengths) != len(songs):
        raise RequestError(f"{len(audio.lengths)} recordings for {len(songs)} songs; expected one for each")
