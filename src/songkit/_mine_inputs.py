"""What a mining reads: its recipe checked, what decides its numbers, and the requests that are sung."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from songkit._recipe_edits import with_settings
from songkit._resolved import leaves_of
from songkit.atomic import write_atomically
from songkit.errors import RecipeError, RequestError, did_you_mean
from songkit.lineage import inputs_of
from songkit.output import request_from_record, request_record
from songkit.recipe import Recipe
from songkit.request import SongRequest, read_requests

if TYPE_CHECKING:
    from songkit.interfaces import DataSource

__all__ = [
    "check_aspects",
    "check_recipe",
    "check_rounds",
    "count_requests",
    "directions_of",
    "identity_of",
    "none_left",
    "policy_of",
    "requests_of",
    "score_of",
]

_MODEL = ("conditioner", "planner", "refiner", "codec")
_POLICY = ("conditioner", "planner", "refiner")


def check_recipe(recipe: Recipe) -> None:
    """Raises `RecipeError` with everything that a recipe lacks to be mined."""
    mining, problems = recipe.mine, []
    problems += [f"it has no {role}" for role in ("conditioner", "planner", "codec") if role not in recipe.roles]
    judges = {*recipe.metrics, *(("reward",) if "reward" in recipe.roles else ())}
    if not judges:
        problems.append("it has no judge: give it `metrics`, or a `reward`")
    if mining.requests is None and "data" not in recipe.roles:
        problems.append("nothing says what to sing: give it `data`, or a file in `mine.requests`")
    problems += [
        f"mine.strategies.{name} reads '{score}', and no judge is called '{score.partition('.')[0]}' (there are "
        f"{', '.join(sorted(judges)) or 'none'})"
        for name, strategy in mining.strategies.items()
        for score in (strategy.score, *strategy.not_worse)
        if score.partition(".")[0] not in judges
    ]
    if problems:
        raise RecipeError([f"the recipe '{recipe.name}' cannot be mined: {problem}." for problem in problems])


def score_of(recipe: Recipe) -> str:
    """Returns the score whose mean is to get better in rounds."""
    return recipe.semi_online.score or next(iter(recipe.mine.strategies.values())).score


def check_aspects(recipe: Recipe, aspects: Sequence[str]) -> None:
    """Raises `RecipeError` with every score of the reward model that is read and that it does not give."""
    read = {f"mine.strategies.{name}": [s.score, *s.not_worse] for name, s in recipe.mine.strategies.items()}
    read["semi_online.score"] = [recipe.semi_online.score]
    problems = []
    for where, scores in read.items():
        for judge, _, aspect in (score.partition(".") for score in scores):
            if judge == "reward" and aspect not in aspects:
                hint = f"{did_you_mean(aspect, aspects)} There are: {', '.join(aspects)}."
                problems.append(f"{where}: the reward model has no aspect '{aspect}'.{hint}")
    if problems:
        raise RecipeError(problems)


def none_left(recipe: Recipe) -> str:
    """Returns what to say where no request is left to sing."""
    return f"no request is left to sing (mine.start is {recipe.mine.start}). Give more, or start earlier."


def directions_of(recipe: Recipe, scores: Iterable[str]) -> dict[str, bool]:
    """Returns for each score whether higher is better: as a strategy for it says, else as its judge does."""
    from songkit.evaluate import build_metrics

    infos = {name: metric.info for name, metric in build_metrics(recipe.metrics).items()}
    said = {strategy.score: strategy.higher_is_better for strategy in recipe.mine.strategies.values()}
    found = {}
    for score in scores:
        judge, _, number = score.partition(".")
        own = said.get(score)
        found[score] = own if own is not None else judge == "reward" or infos[judge].higher(number)
    return found


def check_rounds(recipe: Recipe) -> None:
    """Raises `RecipeError` with everything that a recipe lacks to be mined and trained in rounds."""
    check_recipe(recipe)
    problems = [f"it has no {role}" for role in ("task", "objective") if role not in recipe.roles]
    if not recipe.mine.strategies:
        problems.append("it says not which pairs to make: give it `mine.strategies`")
    elif score_of(recipe).partition(".")[0] not in {*recipe.metrics, *(["reward"] if "reward" in recipe.roles else [])}:
        problems.append(f"no judge gives semi_online.score '{score_of(recipe)}'")
    if recipe.mine.limit is None:
        problems.append("it says not how many requests a round takes: give it `mine.limit`")
    if recipe.semi_online.refiner and "refiner" not in recipe.roles:
        problems.append("semi_online.refiner is true, and it has no refiner that could be trained")
    if problems:
        raise RecipeError([f"the recipe '{recipe.name}' cannot be trained in rounds: {p}." for p in problems])
    assert recipe.mine.limit is not None
    needed = (recipe.semi_online.rounds + 1) * recipe.mine.limit
    whole = with_settings(recipe, "mine", limit=None)
    if count_requests(whole) < needed:
        raise RecipeError(
            f"the recipe '{recipe.name}' has {count_requests(whole)} requests from mine.start on; {needed} are needed, "
            f"mine.limit ({recipe.mine.limit}) for each of {recipe.semi_online.rounds} rounds and the last judgement. "
            "Give it more, or take fewer in a round."
        )


def identity_of(recipe: Recipe) -> dict[str, Any]:
    """Returns all that decides the candidates and their scores, by key path; files by the digest of their content."""
    roles = [role for role in (*_MODEL, "reward", "data") if role in recipe.roles]
    wanted = {key: recipe.resolved[key] for key in ("seed", "generate", *roles)}
    wanted["metrics"] = recipe.resolved.get("metrics", {})
    wanted["mine"] = {key: getattr(recipe.mine, key) for key in ("start", "limit", "max_sections", "candidates")}
    values = dict(leaves_of(wanted, ""))
    values.pop("generate.device")  # a mining can go on elsewhere, as one with another --device
    for path, component in recipe.resolved["_components"].items():
        if path.partition(".")[0] in (*roles, "metrics"):
            values[f"{path} (revision)"] = component["revision"]
    digests = {source.key: f"sha256:{source.sha256}" for source in inputs_of(recipe)}
    return values | {key: digest for key, digest in digests.items() if key in values or key == "mine.requests"}


def policy_of(identity: Mapping[str, Any]) -> str:
    """Returns the digest of the weights that sing: of conditioner, planner and refiner."""
    own = {key: value for key, value in identity.items() if key.partition(".")[0] in _POLICY and ".weights" in key}
    own["seed"] = identity["seed"] if "random" in own.values() else None
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]


def requests_of(recipe: Recipe, path: Path, *, again: bool, progress: bool) -> list[SongRequest]:
    """Returns what is sung, as it is written in a file; written there first, since some sources take long.

    Args:
        recipe: With `mine.requests` or `data`.
        path: The file, a request a line.
        again: Whether the file, where it is there, is of this recipe.
        progress: Whether to show a progress bar.

    Raises:
        RequestError: If a request is wrong, or none is left.
    """
    settings = recipe.mine
    if not again or not path.is_file():
        if settings.requests is not None:
            found = read_requests(Path(settings.requests))[settings.start :][: settings.limit]
        else:
            source = _source(recipe)
            numbers = range(len(source))[settings.start :][: settings.limit]
            bar = tqdm(numbers, desc="requests", unit="song", disable=not progress)
            found = [SongRequest.of(source[i]) for i in bar]
        requests = [_as_sung(request, settings.max_sections) for request in found]
        _check_requests(requests, recipe)
        lines = [json.dumps(request_record(request), ensure_ascii=False) for request in requests]
        write_atomically(path, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))
    return [request_from_record(json.loads(line), path) for line in path.read_text("utf-8").splitlines()]


def count_requests(recipe: Recipe) -> int:
    """Returns how many requests there are to sing."""
    settings = recipe.mine
    total = len(read_requests(Path(settings.requests)) if settings.requests is not None else _source(recipe))
    return len(range(total)[settings.start :][: settings.limit])


def _source(recipe: Recipe) -> DataSource:
    node = recipe.roles["data"]
    if not node.children and node.weights is None:
        source: DataSource = node.load_factory()(node.config)  # most sources are only a config: spares torch's import
        return source
    from songkit.build import build

    built: DataSource = build(node, seed=recipe.seed)
    return built


def _as_sung(request: SongRequest, most: int | None) -> SongRequest:
    """Returns a request without the sections that are too many, and with the absolute path of its audio prompt."""
    prompt = None if request.prompt_audio is None else request.prompt_audio.resolve()
    first = next((i for i, section in enumerate(request.sections) if section.lines), 0)
    stop = None if most is None else max(most, first + 1)
    return dataclasses.replace(request, prompt_audio=prompt, sections=request.sections[:stop])


def _check_requests(requests: Sequence[SongRequest], recipe: Recipe) -> None:
    problems = [f"request '{request.id}': {problem}" for request in requests for problem in request.validate()]
    counts = collections.Counter(request.id for request in requests)
    problems += [
        f"{count} requests have the id '{name}'. Give each its own." for name, count in counts.items() if count > 1
    ]
    if not requests:
        problems.append(none_left(recipe))
    if problems:
        raise RequestError("\n".join(problems))
