"""The laws of rewards: what is scored, and that a score is a song's own."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor

from songkit.testing.checks import law, require
from songkit.testing.judging import whole_songs
from songkit.testing.subject import Subject
from songkit.types import Audio, Song

__all__: list[str] = []


@law("aspects", "reward")
def aspects(subject: Subject) -> None:
    """The aspects are named, each once, and every song has one finite score for each, as floats [B, aspects]."""
    reward = subject.build()
    named = reward.aspects
    require(bool(named), "aspects is empty; name what is scored, such as ('musicality',)")
    require(all(isinstance(name, str) and name.strip() for name in named), f"aspects are {named!r}; expected names")
    require(len(set(named)) == len(named), f"aspects are {named!r}; two of them have one name")
    scores = _score(reward, [0, 1, 2])
    shape = (3, len(named))
    require(tuple(scores.shape) == shape, f"three songs got scores of the shape {tuple(scores.shape)}, not {shape}")
    require(scores.is_floating_point(), f"the scores are {scores.dtype}; expected floats")
    require(bool(torch.isfinite(scores).all()), f"the scores are {scores.tolist()}; expected finite numbers")


@law("own-score", "reward")
def own_score(subject: Subject) -> None:
    """A song's scores are its own: the same alone, in a batch with longer songs, and in another order."""
    reward = subject.build()
    alone = torch.cat([_score(reward, [number]) for number in (0, 1, 2)])
    _same(alone, _score(reward, [0, 1, 2]), "in a batch, padded to one length")
    _same(alone.flip(0), _score(reward, [2, 1, 0]), "in another order")


@law("padding", "reward")
def padding(subject: Subject) -> None:
    """What stands behind a song's end is not heard."""
    reward = subject.build()
    audio, songs = whole_songs([0])
    noise = torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(7))
    longer = {name: torch.cat([track, noise], 2) for name, track in audio.tracks.items()}
    found = _scored(reward, dataclasses.replace(audio, tracks=longer), songs)
    _same(_scored(reward, audio, songs), found, "with noise behind the song's end")


@law("tells-apart", "reward")
def tells_apart(subject: Subject) -> None:
    """Every aspect scores a song, another song, and silence not all alike: else it cannot choose."""
    reward = subject.build()
    audio, songs = whole_songs([0, 1])
    silent = {name: torch.zeros_like(track) for name, track in audio.tracks.items()}
    scores = [_scored(reward, audio, songs)]
    try:
        scores.append(_scored(reward, dataclasses.replace(audio, tracks=silent), songs))
    except Exception as error:
        error.add_note("the songs were silent; a generated song can be, and has to get a score")
        raise
    values = torch.cat(scores)
    for name, column in zip(reward.aspects, values.T, strict=True):
        require(bool((column != column[0]).any()), f"'{name}' is {float(column[0]):g} for all of them")


@law("inputs-kept", "reward")
def inputs_kept(subject: Subject) -> None:
    """Scoring leaves the audio as it was: other judges read it as well."""
    reward = subject.build()
    audio, songs = whole_songs([0, 1])
    before = copy.deepcopy(audio)
    _scored(reward, audio, songs)
    for name, track in before.tracks.items():
        require(torch.equal(track, audio.tracks[name]), f"the {name} track was changed in place")


def _score(reward: object, numbers: list[int]) -> Tensor:
    return _scored(reward, *whole_songs(numbers))


def _scored(reward: object, audio: Audio, songs: list[Song]) -> Tensor:
    with torch.no_grad():
        scores: Tensor = reward.score(audio, songs)  # type: ignore[attr-defined]
    return scores


def _same(one: Tensor, other: Tensor, when: str) -> None:
    close = one.shape == other.shape and torch.allclose(one.double(), other.double(), rtol=1e-5, atol=1e-6)
    require(close, f"the scores are {other.tolist()} {when}, and {one.tolist()} otherwise")
