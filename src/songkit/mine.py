"""`songkit mine`: requests × candidates × judges → preference pairs.

`songkit.pairs` describes the folder. It is begun by mining.json, which says what decides its numbers, and finished by
pairs.parquet; in between, whatever is there is gone on with. Imports torch only when songs are to be sung.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songkit._lock import locked
from songkit._mine_inputs import (
    check_aspects,
    check_recipe,
    count_requests,
    directions_of,
    identity_of,
    none_left,
    policy_of,
    requests_of,
)
from songkit._mine_journal import Journal, read_rows
from songkit._prepare_audio import progress_bar
from songkit.atomic import write_atomically
from songkit.errors import LayoutError, OutputError, RecipeError, RequestError
from songkit.pairing import Paired, lacking_scores, make_pairs
from songkit.pairs import CANDIDATE_COLUMNS, PAIR_COLUMNS, read_table, write_table
from songkit.recipe import Recipe
from songkit.request import SongRequest
from songkit.run_folder import record_run

__all__ = ["MinePlan", "MineSummary", "mine", "plan"]

_log = logging.getLogger(__name__)
_RECORD = "mining.json"
FORMAT = 1
"""Version of mining.json."""


@dataclass(frozen=True, kw_only=True)
class MinePlan:
    """What a mining is going to make."""

    requests: int
    candidates: int
    """Songs to sing for all requests."""
    done: int
    """Songs that are there already."""
    most_seconds: float
    """Of audio that is still to be sung, if every song is cut at its longest."""
    judges: tuple[str, ...]
    strategies: tuple[str, ...]
    policy: str
    """Digest of the weights that sing."""
    finished: bool


@dataclass(frozen=True, kw_only=True)
class MineSummary:
    """What a mined folder holds."""

    requests: int
    candidates: int
    seconds: float
    """Of audio that was sung."""
    not_ok: Mapping[str, int]
    """How many candidates were not sung or not judged, by reason."""
    pairs: Mapping[str, int]
    """By strategy."""
    without: Mapping[str, Mapping[str, int]]
    """By strategy: how many requests gave no pair, by reason."""

    @property
    def complete(self) -> bool:
        """Whether every candidate was sung and judged and every strategy found pairs."""
        return not self.not_ok and all(self.pairs.values())


def mine(
    recipe: Recipe, out: Path, *, workers: int | None = None, device: str | None = None, progress: bool = False
) -> MineSummary:
    """Sings, judges and pairs, or does what is missing of it.

    Args:
        recipe: With a model (`conditioner`, `planner`, `codec`), `metrics` or a `reward`, `mine.strategies`, and
            `data` or `mine.requests`.
        out: The mined folder. Nothing is done when it is finished.
        workers: Processes that sing; `mine.workers` when `None`. The result does not depend on it.
        device: Where songs are sung, as `SongModel.load` takes it; `generate.device` when `None`. Another one rounds
            otherwise.
        progress: Whether to show progress bars.

    Raises:
        RecipeError: The recipe lacks a part, or a strategy names a score that no judge gives.
        RequestError: A request cannot be sung, or the device is not there.
        OutputError: The folder cannot be written, is in use, or holds a mining of another recipe or policy.
    """
    root = Path(out)
    check_recipe(recipe)
    identity = identity_of(recipe)
    with locked(root, "songkit mine"):
        begun = _begun(root, identity, recipe)
        if begun and (root / "pairs.parquet").is_file():
            return _summary(root)
        requests = requests_of(recipe, root / "requests.jsonl", again=begun, progress=progress)
        _write_json(root / _RECORD, {"format": FORMAT, "identity": identity})
        record_run(recipe, root)
        if not (root / "codes").is_dir():
            _make_candidates(recipe, root, requests, workers or recipe.mine.workers, device, progress)
        (root / "codes" / "rows.jsonl").unlink(missing_ok=True)  # left if killed right before the journal removed it
        return _make_pairs(recipe, root, identity)


def plan(recipe: Recipe, out: Path) -> MinePlan:
    """Returns what `mine` would do, without torch and without touching the folder.

    Raises:
        RecipeError: The recipe lacks a part.
        RequestError: No request is left to sing.
        OutputError: The folder holds a mining of another recipe or policy.
    """
    check_recipe(recipe)
    root, identity = Path(out), identity_of(recipe)
    finished = _begun(root, identity, recipe) and (root / "pairs.parquet").is_file()
    requests = count_requests(recipe)
    if not requests:
        raise RequestError(none_left(recipe))
    candidates = requests * recipe.mine.candidates
    done = candidates if finished or (root / "codes").is_dir() else len(read_rows(root))
    return MinePlan(
        requests=requests,
        candidates=candidates,
        done=done,
        most_seconds=(candidates - done) * recipe.generate.max_seconds,
        judges=(*recipe.metrics, *(("reward",) if "reward" in recipe.roles else ())),
        strategies=tuple(recipe.mine.strategies),
        policy=policy_of(identity),
        finished=finished,
    )


def _make_candidates(
    recipe: Recipe, root: Path, requests: Sequence[SongRequest], workers: int, device: str | None, progress: bool
) -> None:
    from songkit._mine_candidates import Singer, sing_candidates

    singer = Singer(recipe, policy_of(identity_of(recipe)), device)
    singer.check(requests)
    check_aspects(recipe, singer.reward.aspects if singer.reward is not None else ())
    items = [(request, number) for request in requests for number in range(recipe.mine.candidates)]
    with Journal(root, singer.layout) as journal:
        left = items[len(journal.rows) :]
        if journal.rows:
            _log.info("%s: %d of %d candidates are there already", root, len(journal.rows), len(items))
        batches = [left[i : i + recipe.mine.batch] for i in range(0, len(left), recipe.mine.batch)]
        with progress_bar("candidates", len(items), len(journal.rows), progress) as bar:
            began, seconds = time.monotonic(), 0.0
            for number, made in enumerate(sing_candidates(singer, batches, workers=workers)):
                for one in made:
                    journal.append(one.row, one.ids, one.cursor)
                    seconds += one.row["seconds"]
                if number == 0:
                    _check_scores(journal.rows, recipe)
                bar.set_postfix_str(f"{seconds / (time.monotonic() - began):.1f} x real time", refresh=False)
                bar.update(len(made))
        write_table(root / "candidates.parquet", journal.rows, CANDIDATE_COLUMNS)
        journal.finish()


def _check_scores(rows: Sequence[Mapping[str, Any]], recipe: Recipe) -> None:
    """Tells which scores the first songs lack; for a misspelled one no more are sung, and those that are there stay."""
    problems = lacking_scores(rows, recipe.mine.strategies)
    misspelled = [problem for problem, is_mistake in problems.items() if is_mistake]
    if misspelled:
        raise RecipeError(misspelled)
    for problem in problems:
        _log.warning("%s None of the first %d songs has it.", problem, len(rows))


def _make_pairs(recipe: Recipe, root: Path, identity: Mapping[str, Any]) -> MineSummary:
    rows = read_table(root / "candidates.parquet", CANDIDATE_COLUMNS)
    strategies = recipe.mine.strategies
    read = {score for strategy in strategies.values() for score in (strategy.score, *strategy.not_worse)}
    paired: dict[str, Paired] = make_pairs(rows, strategies, directions=directions_of(recipe, read))
    summary = MineSummary(
        requests=len({row["request"] for row in rows}),
        candidates=len(rows),
        seconds=round(sum(row["seconds"] for row in rows), 3),
        not_ok=dict(collections.Counter(row["reason"] for row in rows if row["status"] != "ok")),
        pairs={name: len(found.pairs) for name, found in paired.items()},
        without={name: found.without for name, found in paired.items()},
    )
    for name, count in summary.pairs.items():
        if not count:
            _log.warning("the strategy '%s' found no pair: %s", name, summary.without[name])
    asked = {name: dataclasses.asdict(strategy) for name, strategy in strategies.items()}
    values = {"format": FORMAT, "identity": identity, "strategies": asked, "made": dataclasses.asdict(summary)}
    _write_json(root / _RECORD, values)
    # Written last: a folder that has it is finished.
    write_table(root / "pairs.parquet", [pair for found in paired.values() for pair in found.pairs], PAIR_COLUMNS)
    return summary


# --- what a folder holds ---------------------------------------------------------------------------------------


def _begun(root: Path, identity: Mapping[str, Any], recipe: Recipe) -> bool:
    """Returns whether a mining of this recipe has been begun in a folder; refuses one of another recipe."""
    record = root / _RECORD
    if not record.is_file():
        known = {".lock", "requests.jsonl", f".{_RECORD}"}
        foreign = [path.name for path in root.iterdir() if path.name not in known] if root.is_dir() else []
        foreign = [name for name in foreign if not name.endswith(".partial")]
        if foreign:
            raise OutputError(
                f"{root} already holds {', '.join(sorted(foreign)[:3])} and is no mined folder. Choose another --out."
            )
        return False
    before = _read_json(record)
    was = before["identity"]
    differing = [
        f"{key} was {was.get(key)!r}, is {identity.get(key)!r}"
        for key in sorted({*was, *identity})
        if was.get(key) != identity.get(key)
    ]
    if differing:
        more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise OutputError(
            f"the mining in {root} was begun with another recipe or policy: {'; '.join(differing[:5])}{more}. Put that "
            "back to go on with it, or choose another --out."
        )
    strategies = {name: dataclasses.asdict(strategy) for name, strategy in recipe.mine.strategies.items()}
    if (root / "pairs.parquet").is_file() and before.get("strategies") != strategies:
        raise OutputError(
            f"the pairs in {root} were made with other strategies. Delete {root / 'pairs.parquet'} to make them anew "
            "from the same candidates, or choose another --out."
        )
    return True


def _summary(root: Path) -> MineSummary:
    return MineSummary(**_read_json(root / _RECORD)["made"])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
        assert isinstance(values["identity"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise LayoutError(
            f"{path} cannot be read ({error!r}): the folder is damaged. Mine into another one."
        ) from error
    if values.get("format") != FORMAT:
        raise LayoutError(f"{path} has format {values.get('format')!r}; this songkit reads {FORMAT}. Mine again.")
    return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
