"""Planners, refiners, metrics and tasks with one fault each; see `broken`."""

from __future__ import annotations

import dataclasses

import torch
from conformance.broken import broken
from torch import Tensor

from songkit.components.configs import TrainPlannerConfig
from songkit.interfaces.metric import MetricInfo, SongMetric
from songkit.patterns import parallel
from songkit.tasks.planner import TrainPlanner
from songkit.testing.standins import ModelConfig
from songkit.testing.tiny_language import TinyPlanner, TinyPlans, TinyRefiner, TinyTracks
from songkit.types import Codes

# --- planners and refiners: what a model is taught -------------------------------------------------------------


class _Taught:
    """Changes what goes into and comes out of a taught pass; works for both kinds."""

    def given(self, codes, conditions):
        return codes, conditions

    def found(self, plan):
        return plan

    def forward(self, *given):
        *plan, codes, conditions = given
        return self.found(super().forward(*plan, *self.given(codes, conditions)))


class _NotANumber(_Taught):
    def found(self, plan):
        return dataclasses.replace(plan, losses={"extra": torch.tensor(float("nan"))})


class _SeesItself(_Taught):
    def given(self, codes, conditions):
        return Codes(codes.ids.roll(-1, 2), codes.lengths, codes.layout), conditions


class _CountsPadding(_Taught):
    def given(self, codes, conditions):
        return codes, dataclasses.replace(conditions, mask=torch.ones_like(conditions.mask))


class _ScoresBackwards(_Taught):
    def score(self, *given):
        plan = super().score(*given)
        found = plan.scores
        return dataclasses.replace(
            plan, scores=dataclasses.replace(found, log_probabilities=found.log_probabilities.flip(2))
        )


class _LearnsBackwards(_Taught):
    def found(self, plan):
        return dataclasses.replace(plan, logits=plan.logits.flip(-1))


# --- planners and refiners: what a model draws -----------------------------------------------------------------


class _Whole:
    """Draws whole songs only, in ways of its own."""

    def drawing(self, **_):
        return None


class _Drawn(_Whole):
    """Changes how songs are drawn; works for both kinds."""

    def settings(self, seeds, sampling, conditions):
        return seeds, sampling, conditions

    def generate(self, *given, sampling, seeds, **options):
        *plan, conditions = given
        seeds, sampling, conditions = self.settings(seeds, sampling, conditions)
        return super().generate(*plan, conditions, sampling=sampling, seeds=seeds, **options)


class _AlwaysGuided(_Drawn):
    def settings(self, seeds, sampling, conditions):
        return seeds, sampling if conditions.null is None else dataclasses.replace(sampling, guidance=1.5), conditions


class _SeedsByPlace(_Drawn):
    def settings(self, seeds, sampling, conditions):
        return [seed + 100 * place for place, seed in enumerate(seeds)], sampling, conditions


class _OneSeed(_Drawn):
    def settings(self, seeds, sampling, conditions):
        return [0] * len(seeds), sampling, conditions


def _deaf(conditions):
    return dataclasses.replace(conditions, prefix=torch.zeros_like(conditions.prefix))


class _Deaf(_Taught, _Drawn):
    def given(self, codes, conditions):
        return codes, _deaf(conditions)

    def settings(self, seeds, sampling, conditions):
        return seeds, sampling, _deaf(conditions)


FAULTS = {
    _NotANumber: ("shapes",),
    _SeesItself: ("causal", "generated", "padding", "scores"),
    _CountsPadding: ("padding",),
    _LearnsBackwards: ("generated",),
    _ScoresBackwards: ("scores",),
    _Deaf: ("conditioned", "guidance"),
    _AlwaysGuided: ("guidance",),
    _SeedsByPlace: ("own-codes",),
    _OneSeed: ("seeds",),
}
for fault, checks in FAULTS.items():
    for kind, good in (("planner", TinyPlanner), ("refiner", TinyRefiner)):
        name = f"{kind.capitalize()}{fault.__name__.lstrip('_')}"
        globals()[name] = type(name, (fault, good), {"__module__": __name__})
        broken(checks[0], kind, *checks[1:])(globals()[name])


# --- planners alone --------------------------------------------------------------------------------------------


class _Plans(_Whole, TinyPlanner):
    """Changes the plans that are drawn."""

    def generate(self, conditions, **options):
        return self.after(super().generate(conditions, **options))


@broken("generated", "planner")
class StatesOfAnotherPass(_Plans):
    def after(self, plan):
        return dataclasses.replace(plan, hidden=2 * plan.hidden)


@broken("inside-layout", "planner")
class IdsBehindTheEnd(_Plans):
    def after(self, plan):
        beyond = torch.arange(plan.codes.ids.shape[2]) >= plan.codes.lengths[:, None]
        codes = Codes(plan.codes.ids.masked_fill(beyond[:, None], 3), plan.codes.lengths, plan.codes.layout)
        return dataclasses.replace(plan, codes=codes)


@broken("max-frames", "planner")
class GoesOn(_Whole, TinyPlanner):
    def generate(self, conditions, *, max_frames, **options):
        return super().generate(conditions, max_frames=max_frames + 2, **options)


@broken("max-frames", "planner", "stops")
class NeverFinished(_Plans):
    def after(self, plan):
        return dataclasses.replace(plan, finished=torch.zeros_like(plan.finished))


@broken("stops", "planner")
class CannotEnd(TinyPlanner):
    def __init__(self, config):
        super().__init__(config)
        self.tower.heads[0].bias.data[-1] = -60.0


class _Follows(TinyPlanner):
    """Changes what draws its songs step by step, and leaves `generate` as it is."""

    plans = TinyPlans

    def drawing(self, *, sampling, max_frames):
        return self.plans(self, sampling, max_frames)


@broken("drawing", "planner")
class DrawsByPlace(_Follows):
    class plans(TinyPlans):
        def add(self, conditions, index, seed):
            return super().add(conditions, index, seed + len(self.songs))


@broken("drawing", "planner")
class ForgetsThePrefix(_Follows):
    class plans(TinyPlans):
        def started(self, song, states):
            pass


@broken("told", "planner")
class WholeTooSoon(_Follows):
    class plans(TinyPlans):
        def advance(self, songs, states):
            for index in songs:
                self.songs[index].whole = self.songs[index].drawn == 1  # and not any more a step later
            return super().advance(songs, states)

        def done(self, song):
            return self.songs[song].frames is not None


# --- refiners alone --------------------------------------------------------------------------------------------


@broken("inside-layout", "refiner", "generated")
class IdsOfThePlan(_Whole, TinyRefiner):
    def generate(self, plan, conditions, **options):
        codes = super().generate(plan, conditions, **options)
        return Codes(codes.ids + 32, codes.lengths, codes.layout)


@broken("conditioned", "refiner")
class IgnoresThePlan(TinyRefiner):
    def __init__(self, config):
        super().__init__(config)
        self.bridge.register_forward_pre_hook(lambda module, given: torch.zeros_like(given[0]))


@broken("lengths", "refiner", "generated")
class LosesAFrame(_Whole, TinyRefiner):
    def generate(self, plan, conditions, **options):
        codes = super().generate(plan, conditions, **options)
        lengths = (codes.lengths - 1).clamp(min=0)
        beyond = torch.arange(codes.ids.shape[2] - 1) >= lengths[:, None]
        return Codes(codes.ids[:, :, :-1].masked_fill(beyond[:, None], 0), lengths, codes.layout)


@broken("source", "refiner")
class OtherFrames(TinyRefiner):
    def __init__(self, config):
        super().__init__(config)
        self.source = dataclasses.replace(self.source, frame_rate=50.0)


@broken("source", "refiner")
class OtherSteps(TinyRefiner):
    @property
    def source_pattern(self):
        return parallel(3)


class _FollowsPlans(TinyRefiner):
    """Changes what draws its tracks step by step, and leaves `generate` as it is."""

    tracks = TinyTracks

    def drawing(self, *, sampling):
        return self.tracks(self, sampling)


@broken("drawing", "refiner", "waits")
class OneSeedForAll(_FollowsPlans):
    class tracks(TinyTracks):
        def add(self, source, conditions, index, seed):
            return super().add(source, conditions, index, 0)


@broken("waits", "refiner")
class GuessesThePlan(_FollowsPlans):
    class tracks(TinyTracks):
        def ready(self, song):
            return True


# --- metrics ---------------------------------------------------------------------------------------------------


class Loudness(SongMetric):
    """Mean power of the vocal: the good metric that the broken ones are made of."""

    full_state_update = False
    info = MetricInfo(needs=frozenset({"vocal"}), unit="power", higher_is_better=True, per_song=True)

    def __init__(self, config):
        super().__init__()
        self.add_state("power", torch.zeros(0, dtype=torch.float64), dist_reduce_fx="cat")
        self.names: list[str] = []

    def update(self, generated, songs, reference=None):
        for i, song in enumerate(songs):
            part = generated.tracks["vocal"][i, :, : int(generated.lengths[i])].double()
            self.power = torch.cat([self.power, part.square().mean()[None]])
            self.names.append(song.id)

    def compute(self):
        return {"loudness": self.power.mean()}

    def per_song(self):
        return [{"id": name, "loudness": float(p)} for name, p in zip(self.names, self.power, strict=True)]

    def reset(self):
        super().reset()
        self.names = []


def metric(check, *also):
    return broken(check, "metric", *also, config=ModelConfig())


@metric("info")
class NoUnit(Loudness):
    info = dataclasses.replace(Loudness.info, unit=" ")


@metric("info")
class UnknownNeed(Loudness):
    info = dataclasses.replace(Loudness.info, needs=frozenset({"vocal", "feeling"}))


@metric("needs")
class ReadsTheAlignment(Loudness):
    def update(self, generated, songs, reference=None):
        assert all(song.alignment.lines for song in songs)
        super().update(generated, songs)


@metric("bounds")
class TurnsAnUnknownNumberRound(Loudness):
    info = dataclasses.replace(Loudness.info, opposite=frozenset({"quietness"}))


@metric("bounds")
class OutsideItsInterval(Loudness):
    def compute(self):
        value = super().compute()["loudness"]
        return {"loudness": value, "loudness_low": value + 0.1, "loudness_high": value + 0.2}


@metric("merged")
class MeanOfMeans(Loudness):
    def __init__(self, config):
        super().__init__(config)
        self.add_state("mean", torch.zeros((), dtype=torch.float64), dist_reduce_fx="mean")

    def update(self, generated, songs, reference=None):
        super().update(generated, songs)
        self.mean = self.power.mean()

    def compute(self):
        return {"loudness": self.mean}


@metric("batch")
class AveragesPadding(Loudness):
    def update(self, generated, songs, reference=None):
        whole = torch.full_like(generated.lengths, generated.tracks["vocal"].shape[2])
        super().update(dataclasses.replace(generated, lengths=whole), songs)


@metric("reset")
class Remembers(Loudness):
    def reset(self):
        pass


@metric("per-song")
class RowsBackwards(Loudness):
    def per_song(self):
        return super().per_song()[::-1]


@metric("inputs-kept")
class CentresInPlace(Loudness):
    def update(self, generated, songs, reference=None):
        generated.tracks["vocal"] -= generated.tracks["vocal"].mean()
        super().update(generated, songs)


# --- tasks -----------------------------------------------------------------------------------------------------


def task(check, *also):
    return broken(check, "task", *also, config=TrainPlannerConfig(max_seconds=5.0))


@task("two-steps")
class LogsNoNumber(TrainPlanner):
    def losses(self, batch, generator) -> dict[str, Tensor]:
        return {**super().losses(batch, generator), "_speed": torch.tensor(float("inf"))}


@task("two-steps")
class TrainsTheFrozen(TrainPlanner):
    def trainable(self):
        return self.planner.parameters()

    def losses(self, batch, generator):
        with torch.no_grad():
            self.conditioner.byte.weight.mul_(0.9)
        return super().losses(batch, generator)


@task("batches")
class GoesThroughItsData(TrainPlanner):
    calls = 0

    def batch(self, step):
        self.calls += 1
        return super().batch(self.calls)


@task("exports")
class ForgetsTheConditioner(TrainPlanner):
    def exports(self):
        return {"planner": self.planner}
