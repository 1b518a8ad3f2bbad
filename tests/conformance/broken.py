"""Components with one fault each, for the kit to find: small subclasses of the kit's own, which obey every law.

`BROKEN` is filled by the decorator; those of planners and refiners stand in `broken_language`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from songkit.components.transformer import Transformer
from songkit.plugin import Component, ref
from songkit.registry import Entry, PluginRecord
from songkit.testing.standins import ModelConfig, SongsConfig, TinyCodec, TinyConditioner, TinySongs, stand_in
from songkit.types import ArrayTrack, Audio, Codes

EVERYTHING = "everything"
BUILD_SECONDS = 0.3
"""What the kit's limit is lowered to, so that being too slow takes less than a second."""


@dataclass(frozen=True)
class Broken:
    """A component and the check that has to fail."""

    check: str
    entry: Entry
    also: tuple[str, ...]
    """Other checks that this fault breaks, or `EVERYTHING`."""

    def __str__(self) -> str:
        return f"{self.entry.component.kind}-{self.check}-{self.entry.component.name}"


BROKEN: list[Broken] = []


def broken(
    check: str, kind: str = "codec", *also: str, config: Any = None, plugin: str = "local", **changes: Any
) -> Any:
    """Registers what it decorates as the factory of a component that breaks a check."""

    def register(factory: Callable[..., Any]) -> Callable[..., Any]:
        good = stand_in(kind)
        example = config if config is not None else good.example if good is not None else None
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", factory.__name__).lower().replace("_", "-")
        values = {"revision": 1, "config": type(example), "example": example, **changes}
        path = f"{factory.__module__}:{factory.__qualname__}"
        component = Component(kind=kind, name=name, factory=path, **values)
        record = PluginRecord(plugin, plugin, "", components=(component,))
        BROKEN.append(Broken(check, Entry(component, record), also))
        return factory

    return register


# --- every kind ------------------------------------------------------------------------------------------------


@broken("declaration", revision=0)
class NeverRevised(TinyCodec):
    pass


@broken("light-import", plugin="broken")  # the config's module imports torch
class HeavyConfig(TinyCodec):
    pass


@dataclass(kw_only=True)
class PartConfig:
    """A codec with a part."""

    tower: Any = ref("backbone")
    """A backbone."""


@broken("factory", "codec", EVERYTHING, config=PartConfig())
def takes_no_parts(config: PartConfig) -> TinyCodec:
    return TinyCodec(ModelConfig())


@broken("build")
class SlowToBuild(TinyCodec):
    def __init__(self, config):
        super().__init__(config)
        time.sleep(1.2 * BUILD_SECONDS)


@broken("interface", "codec", EVERYTHING)
class NoCodec(nn.Linear):
    def __init__(self, config):
        super().__init__(3, 3)


@broken("interface")
class ListOfTracks(TinyCodec):
    def __init__(self, config):
        super().__init__(config)
        self.tracks = list(self.tracks)


@broken("device")
class TensorLeftBehind(TinyCodec):
    def __init__(self, config):
        super().__init__(config)
        self.window = torch.hann_window(8)


@broken("round-trip")
class WeightsOutsideTheFile(TinyCodec):
    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("scale", torch.rand(1) + 1.0, persistent=False)

    def encode(self, audio):
        louder = {name: track * self.scale for name, track in audio.tracks.items()}
        return super().encode(Audio(louder, audio.lengths, audio.sample_rate))


class _Decodes(TinyCodec):
    """Does something after it has decoded."""

    def decode(self, codes, **options):
        audio = super().decode(codes, **options)
        self.after(audio, codes)
        return audio


@broken("same-seed", "codec", "round-trip", "decoded-alone")
class SeedOfItsOwn(_Decodes):
    def after(self, audio, codes):
        noise = np.random.default_rng().standard_normal()
        audio.tracks = {name: track * (1 + noise) for name, track in audio.tracks.items()}


@broken("random-state")
class DrawsFromTorch(_Decodes):
    def after(self, audio, codes):
        torch.rand(1)


@broken("random-state")
class SeedsNumpy(_Decodes):
    def after(self, audio, codes):
        np.random.seed(0)


@broken("random-state")
class DrawsFromPython(_Decodes):
    def after(self, audio, codes):
        random.random()


@broken("default-dtype", "codec", "same-seed")
class DoublePrecision(_Decodes):
    def after(self, audio, codes):
        torch.set_default_dtype(torch.float64)


@broken("default-dtype")
class GradientsOff(_Decodes):
    def __init__(self, config):
        super().__init__(config)
        torch.set_grad_enabled(False)

    def after(self, audio, codes):
        pass


@broken("threads")
class AllCores(_Decodes):
    def after(self, audio, codes):
        torch.set_num_threads(torch.get_num_threads() + 1)


@broken("environment")
class SetsVariable(_Decodes):
    def after(self, audio, codes):
        os.environ["TOKENIZERS_PARALLELISM"] = str(os.environ.get("TOKENIZERS_PARALLELISM")) + "x"


@broken("environment")
class ChangesFolder(_Decodes):
    def after(self, audio, codes):
        os.chdir("/")


@broken("network")
class PhonesHome(_Decodes):
    def after(self, audio, codes):
        with contextlib.suppress(OSError):  # and says nothing
            socket.create_connection(("192.0.2.1", 80), timeout=0.1)


# --- backbones -------------------------------------------------------------------------------------------------


@broken("shapes", "backbone")
class NotANumberInPadding(Transformer):
    def forward(self, x, mask):
        return super().forward(x, mask).masked_fill(~mask[:, :, None], float("nan"))


@broken("causal", "backbone", "cached", "padding", "repeated")
class SeesTheFuture(Transformer):
    def forward(self, x, mask):
        return super().forward(x + x.mean(1, keepdim=True), mask)


@broken("padding", "backbone", "repeated")
class CountsPadding(Transformer):
    def forward(self, x, mask):
        return super().forward(x, torch.ones_like(mask))

    def start(self, x, mask, capacity):
        return super().start(x, torch.ones_like(mask), capacity)


@broken("repeated", "backbone")
class SwapsTheSongs(Transformer):
    def forward_repeated(self, x, mask, *, prefix, repeats):
        return super().forward_repeated(x, mask, prefix=prefix, repeats=repeats).roll(len(x) // repeats, 0)


@broken("cached", "backbone")
class LosesItsPlace(Transformer):
    def _positions(self, x, live):
        return super()._positions(x, live) + 1


@broken("own-states", "backbone")
class HearsItsNeighbours(Transformer):
    def step(self, x, caches):
        states = super().step(x, caches)
        return states if len(caches) == 1 else states + 1e-4 * x.mean()


# --- tokenizers and codecs -------------------------------------------------------------------------------------


class _Encodes(TinyCodec):
    """Changes the audio before, or the codes after encoding."""

    def before(self, wave, lengths):
        return wave

    def after(self, codes, lengths):
        return codes

    def encode(self, audio):
        changed = {name: self.before(track, audio.lengths) for name, track in audio.tracks.items()}
        return self.after(super().encode(Audio(changed, audio.lengths, audio.sample_rate)), audio.lengths)


@broken("layout", "tokenizer")
class IdsBeyondItsSize(_Encodes):
    def after(self, codes, lengths):
        return Codes(codes.ids * 32, codes.lengths, codes.layout)


@broken("layout", "codec")
class ShortIds(_Encodes):
    def after(self, codes, lengths):
        return Codes(codes.ids.int(), codes.lengths, codes.layout)


@broken("frames", "tokenizer")
class DropsTheLastFrame(_Encodes):
    def after(self, codes, lengths):
        kept = (lengths * self.layout.frame_rate / self.sample_rate).long()
        ids = codes.ids[:, :, : int(kept.max())]
        beyond = torch.arange(ids.shape[2]) >= kept[:, None]
        return Codes(ids.masked_fill(beyond[:, None], 0), kept, codes.layout)


@broken("frames", "codec")
class IdsBeyondTheEnd(_Encodes):
    def after(self, codes, lengths):
        beyond = torch.arange(codes.ids.shape[2]) >= codes.lengths[:, None]
        return Codes(codes.ids.masked_fill(beyond[:, None], 1), codes.lengths, codes.layout)


@broken("batch", "tokenizer")
class AsLoudAsTheLoudest(_Encodes):
    def before(self, wave, lengths):
        return wave / wave.abs().max().clamp(min=1e-3)


@broken("padding", "tokenizer", "batch")
class AverageOverPadding(_Encodes):
    def before(self, wave, lengths):
        return 0.1 * wave / wave.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-3)


@broken("silence", "tokenizer")
class DividesByLoudness(_Encodes):
    def before(self, wave, lengths):
        return 0.1 * wave / (wave.square().sum((1, 2)) / lengths).sqrt()[:, None, None]


@broken("inputs-kept", "tokenizer", "batch", "padding")
class ScalesInPlace(_Encodes):
    def before(self, wave, lengths):
        return wave.mul_(0.5)


@broken("inputs-kept", "codec", "decoded-alone")
class ClearsTheIds(_Decodes):
    def after(self, audio, codes):
        codes.ids.zero_()


@broken("decoded-tracks")
class OneStemOnly(_Decodes):
    def after(self, audio, codes):
        audio.tracks = {name: track for name, track in audio.tracks.items() if name == "vocal"} or audio.tracks


@broken("decoded-tracks")
class PromisesTheMix(TinyCodec):
    def decodes(self, layout):
        return ("mix",)


@broken("decoded-length")
class TrailingFrames(_Decodes):
    def after(self, audio, codes):
        extra = 3 * round(self.sample_rate / self.layout.frame_rate)
        audio.tracks = {name: nn.functional.pad(track, (0, extra)) for name, track in audio.tracks.items()}
        audio.lengths = audio.lengths + extra


@broken("finite", "codec", "decoded-alone", "silence")
class InfiniteAtZero(_Decodes):
    def after(self, audio, codes):
        quiet = (codes.ids[:, -1] == 0).repeat_interleave(audio.sample_rate // round(self.layout.frame_rate), 1)
        audio.tracks = {name: track.masked_fill(quiet[:, None], float("inf")) for name, track in audio.tracks.items()}


@broken("decoded-alone")
class HearsTheBatch(_Decodes):
    def after(self, audio, codes):
        audio.tracks = {name: track * (1 + 0.1 * track.shape[0]) for name, track in audio.tracks.items()}


@broken("decoded-track")
class MixesInTheRest(_Decodes):
    def after(self, audio, codes):
        rest = sum(audio.tracks.values())
        audio.tracks = {name: track + 0.1 * rest for name, track in audio.tracks.items()}


# --- conditioners ----------------------------------------------------------------------------------------------


class _Conditions(TinyConditioner):
    """Changes the conditions."""

    def forward(self, requests, *, null=False, **options):
        return self.after(super().forward(requests, null=null, **options), null)


@broken("shapes", "conditioner", "cursor")
class EndlessTape(_Conditions):
    def after(self, made, null):
        return dataclasses.replace(made, tape_lengths=None)


@broken("mask", "conditioner")
class PaddingBehind(_Conditions):
    def after(self, made, null):
        return dataclasses.replace(made, prefix=made.prefix.flip(1), mask=made.mask.flip(1))


@broken("null-branch", "conditioner")
class NullKnowsTheWords(_Conditions):
    def after(self, made, null):
        return dataclasses.replace(made, null=made if null else None)


@broken("null-branch", "conditioner")
class NullUnasked(_Conditions):
    def after(self, made, null):
        return dataclasses.replace(made, null=made.null or dataclasses.replace(made))


@broken("own-conditions", "conditioner")
class AnotherSongsWords(_Conditions):
    def after(self, made, null):
        return dataclasses.replace(made, prefix=made.prefix.flip(0), mask=made.mask.flip(0))


@broken("hears-words", "conditioner")
class SortsTheLines(TinyConditioner):
    def forward(self, requests, **options):
        requests = [
            dataclasses.replace(
                r, sections=tuple(dataclasses.replace(s, lines=tuple(sorted(s.lines))) for s in r.sections)
            )
            for r in requests
        ]
        return super().forward(requests, **options)


@broken("cursor", "conditioner")
class CursorGoesBack(TinyConditioner):
    def cursor(self, request, alignment, frames, frame_rate):
        return super().cursor(request, alignment, frames, frame_rate)[::-1].copy()


@broken("cursor", "conditioner")
class SectionsTooLate(TinyConditioner):
    def align(self, request, cursor, frame_rate):
        return super().align(request, cursor, frame_rate / 2)


# --- sources ---------------------------------------------------------------------------------------------------


class _Changed(TinySongs):
    def __getitem__(self, index):
        return dataclasses.replace(super().__getitem__(index), **self.change(index))


@broken("songs", "source")
class UnknownTier(_Changed):
    def change(self, index):
        return {"tier": "splendid"}


@broken("unique-ids", "source")
class OneName(_Changed):
    def change(self, index):
        return {"id": "song"}


@broken("same-item", "source")
class CountsItsCalls(_Changed):
    calls = 0

    def change(self, index):
        self.calls += 1
        return {"tempo": float(self.calls)}


@broken("ends", "source")
class BeginsAgain(TinySongs):
    def __getitem__(self, index):
        return super().__getitem__(index % len(self))


@broken("parts-of-tracks", "source")
class ReadsFromTheStart(_Changed):
    def change(self, index):
        class FromTheStart(ArrayTrack):
            def read(self, start=0, stop=None):
                return super().read(0, None if stop is None else stop - start)

        made = TinySongs(SongsConfig())[index].tracks
        return {"tracks": {name: FromTheStart(track.data, track.sample_rate) for name, track in made.items()}}
