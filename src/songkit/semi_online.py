"""`songkit semi-online`: sample with the current policy, judge, mine, update, and again.

    round-NN/mined/        what the policy sang in round NN, and its pairs; see `songkit.pairs`
    round-NN/run/          the training on them, which makes the policy of the next round
    round-NN/round.json    what was found in the round
    rounds.jsonl           the same of all rounds, a line each
    weights/               those of the best policy, when the loop has ended

Every part can be gone on with by itself, so the loop can: it asks for each part in turn, and those that are finished
answer at once. LeVo 2 does this after its offline DPO, with pairs ranked by an aesthetic score alone.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from songkit._lock import locked
from songkit._mine_inputs import check_rounds, directions_of, score_of
from songkit._recipe_edits import with_settings, with_source, with_weights, without_roles
from songkit.atomic import write_atomically
from songkit.collapse import collapsed, health
from songkit.errors import CheckpointError, RecipeError
from songkit.mine import mine
from songkit.pairs import MinedCandidates
from songkit.recipe import Recipe
from songkit.run_folder import check_run, record_run
from songkit.train import train

__all__ = ["Outcome", "semi_online"]

_log = logging.getLogger(__name__)
_TRAINED = ("planner", "conditioner", "refiner")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a loop ended."""

    rounds: tuple[Mapping[str, Any], ...]
    """What was found in each round."""
    best: int
    """The round whose policy is kept; that of round 0 is the one it began with."""
    reason: str
    """Why it stopped."""


def semi_online(recipe: Recipe, out: Path, *, device: str | None = None, progress: bool = False) -> Outcome:
    """Mines and trains in rounds until the rounds are over, the judge finds no gain, or the policy collapses.

    Args:
        recipe: With all that `songkit mine` needs, `mine.limit`, an `objective`, and a `task` that trains on pairs.
        out: The folder of the loop. What is finished there is kept.
        device: Where songs are sung, `generate.device` when `None`; `trainer.accelerator` says where the policy is
            trained.
        progress: Whether to show progress bars.

    Raises:
        RecipeError: The recipe lacks a part, or its requests do not last.
        OutputError: The folder is in use, or holds the loop of another recipe.
        SystemExit: See `songkit.train.train`.
    """
    check_rounds(recipe)
    settings, score, higher = recipe.semi_online, score_of(recipe), _direction(recipe)
    with locked(out, "songkit semi-online"):
        if not (out / "resolved.yaml").is_file():
            record_run(recipe, out)
        rounds: list[dict[str, Any]] = []
        policies: list[dict[str, Path]] = [{}]
        reason = ""
        while not reason:
            number, policy = len(rounds), policies[-1]
            folder = out / f"round-{number:02d}"
            summary = mine(
                with_weights(_mining(recipe, number), policy), folder / "mined", device=device, progress=progress
            )
            found = _judged(MinedCandidates(folder / "mined"), score, higher)
            found |= {"not_ok": sum(summary.not_ok.values()), "pairs": dict(summary.pairs)}
            rounds.append({"round": number, **found})
            reason = _stop(rounds, recipe, higher)
            if not reason and not sum(found["pairs"].values()):
                reason = "no pairs were found"
            if not reason:
                policies.append(_train(with_weights(recipe, policy), folder, rounds[-1], settings.steps, progress))
            _write(folder / "round.json", json.dumps(rounds[-1], indent=2))
            _write(out / "rounds.jsonl", "\n".join(json.dumps(row) for row in rounds))
            _log.info("round %d: %s %.4g%s", number, score, found["score"], f"; {reason}" if reason else "")
        best = _best(rounds, higher)
        _keep(recipe, policies[best], out / "weights")
    return Outcome(rounds=tuple(rounds), best=best, reason=reason)


def _mining(recipe: Recipe, number: int) -> Recipe:
    """Returns the recipe that mines a round: of the next requests."""
    assert recipe.mine.limit is not None
    return with_settings(recipe, "mine", start=recipe.mine.start + number * recipe.mine.limit)


def _judged(mined: MinedCandidates, score: str, higher: bool) -> dict[str, Any]:
    """Returns what the songs of a round are like."""
    known = [row[score] for row in mined.rows if row.get(score) is not None]
    if not known:
        raise RecipeError(f"no song of {mined.root} could be judged by '{score}'; its candidates.parquet says why.")
    # A song that cannot be judged counts as the worst one: a policy that fails more often is not better.
    worst = min(known) if higher else max(known)
    by_request: dict[str, list[float]] = {}
    for row in mined.rows:
        by_request.setdefault(row["request"], []).append(worst if row.get(score) is None else row[score])
    means = np.array([np.mean(values) for values in by_request.values()])
    return {
        "policy": mined.policies[0],
        "candidates": len(mined.rows),
        "score": float(means.mean()),
        "score_error": float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else None,
        **health(mined),
        "collapse": "",
    }


def _stop(rounds: list[dict[str, Any]], recipe: Recipe, higher: bool) -> str:
    """Returns why the loop ends behind the last of the rounds, or an empty string; notes a collapse in it."""
    settings, last = recipe.semi_online, rounds[-1]
    last["collapse"] = collapsed(last, rounds[0], settings)
    if last["collapse"]:
        return f"the policy collapses in round {last['round']}: {last['collapse']}"
    # Rounds since the last one that was better than all before it.
    best, stale, sign = rounds[0]["score"], 0, 1 if higher else -1
    for row in rounds[1:]:
        gained = sign * (row["score"] - best) > settings.least_gain
        best, stale = (row["score"], 0) if gained else (best, stale + 1)
    if stale > settings.patience:
        return f"no gain in {stale} rounds"
    return f"{settings.rounds} rounds are over" if len(rounds) > settings.rounds else ""


def _best(rounds: list[dict[str, Any]], higher: bool) -> int:
    """Returns the number of the round with the best score that shows no collapse."""
    sound = [row for row in rounds if not row["collapse"]]
    found = max(sound, key=lambda row: row["score"]) if higher else min(sound, key=lambda row: row["score"])
    return int(found["round"])


def _train(recipe: Recipe, folder: Path, found: dict[str, Any], steps: int, progress: bool) -> dict[str, Path]:
    """Trains on the pairs of a round, and adds to what was found; returns the weights of the next policy."""
    wanted = {"task", "objective", *_trained(recipe)}
    training = without_roles(recipe, [role for role in recipe.roles if role not in wanted])
    training = with_source(training, "data", "songkit/pairs", root=folder / "mined")
    training = with_settings(training, "trainer", max_steps=steps)
    run = folder / "run"
    if not (folder / "round.json").is_file() or not check_run(training, run, resume=True):
        train(training, run, resume=True, progress=progress)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    logged = {key: value for row in lines for key, value in row.items()}
    # How fast it was is no finding: the same loop gives the same bytes.
    timed = {key for key in logged if key == "seconds" or key.endswith("_per_s")}
    found["training"] = {key: value for key, value in logged.items() if key not in timed}
    weights = {role: run / "weights" / f"{role}.safetensors" for role in _trained(recipe)}
    made = {role: file for role, file in weights.items() if file.is_file()}
    if "planner" not in made:
        raise CheckpointError(f"the training in {run} has made no weights of a planner; use a task that trains one.")
    return made


def _keep(recipe: Recipe, policy: Mapping[str, Path], folder: Path) -> None:
    """Copies the weights of a policy, of all that rounds train; those that it began with where it was never trained."""
    for role in _trained(recipe):
        file = policy.get(role, recipe.roles[role].weights)
        if isinstance(file, Path):
            content = file.read_bytes()
            _write(folder / f"{role}.safetensors", content)


def _trained(recipe: Recipe) -> list[str]:
    """Returns the roles that rounds train, of those that the recipe has."""
    return [role for role in _TRAINED if role in recipe.roles and (role != "refiner" or recipe.semi_online.refiner)]


def _write(path: Path, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else f"{content}\n".encode()
    write_atomically(path, lambda file: file.write(data))


def _direction(recipe: Recipe) -> bool:
    """Returns whether higher is better in the score."""
    return directions_of(recipe, [score_of(recipe)])[score_of(recipe)]
