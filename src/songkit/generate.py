"""Requests to songs on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from songkit.devices import describe_device
from songkit.errors import LayoutError
from songkit.output import check_folders, song_folder, write_song
from songkit.progress import Progress
from songkit.request import SongRequest
from songkit.settings import GenerateSettings
from songkit.singing import SongModel, SungSong, sing

__all__ = ["SongModel", "generate"]


def generate(
    model: SongModel,
    requests: Sequence[SongRequest],
    *,
    out: Path,
    seed: int = 0,
    settings: GenerateSettings | None = None,
    tracks: Sequence[str] | None = None,
    batch: int = 4,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[tuple[Path, SungSong]]:
    """Sings requests and writes each song to `out/<id>` as soon as it is complete.

    Args:
        model: What sings.
        requests: What to sing; ids are distinct.
        out: Folder for the songs' folders; made when it does not exist.
        seed: Same seed, same bytes of every file, alone or among other requests.
        settings: How to sample; those of the model's recipe by default.
        tracks: Which tracks are written; all that the model makes by default. Others are not decoded, unless the mix
            is made of them. Those that are decoded are turned down together where one of them, or the mix, would clip;
            so a stem that is written alone may be louder than beside the mix.
        batch: Songs that are sung together.
        progress: Told how far a batch is.

    Yields:
        Each song's folder and the song, in the order of the requests.

    Raises:
        RequestError: If the model cannot sing a request; all faults of all requests at once, before any work.
        OutputError: If a folder is occupied or cannot be written, before any work; or if the disk fills up.
    """
    # What counts is the precision that was loaded, whatever the settings say.
    settings = dataclasses.replace(settings or model.settings(), precision=model.settings().precision)
    tracks = model.tracks() if tracks is None else tracks
    unknown = [track for track in tracks if track not in model.tracks()]
    if unknown or not tracks:
        raise LayoutError(
            f"the model makes {', '.join(model.tracks())}, not {', '.join(unknown) or 'nothing'}. Choose among them "
            "with --tracks."
        )
    check_folders(out, [request.id for request in requests])
    # The audio prompt's place is written down, so that it is found from wherever song.json is read.
    requests = [_with_absolute_prompt(request) for request in requests]
    for song in sing(model, requests, seed=seed, settings=settings, tracks=tracks, batch=batch, progress=progress):
        with song_folder(out, song.request.id) as folder:
            write_song(
                folder,
                song,
                model.recipe,
                seed=seed,
                settings=settings,
                tracks=tracks,
                threads=torch.get_num_threads(),
                device=describe_device(model.device),
            )
        yield out / song.request.id, song


def _with_absolute_prompt(request: SongRequest) -> SongRequest:
    if request.prompt_audio is None:
        return request
    return dataclasses.replace(request, prompt_audio=request.prompt_audio.resolve())
