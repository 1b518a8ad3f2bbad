"""Points between two models, sung and judged, and their trade-off as a picture."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from songkit._recipe_edits import with_settings, with_weights
from songkit.atomic import write_atomically
from songkit.errors import RecipeError, did_you_mean
from songkit.merge import merge_point
from songkit.mine import mine
from songkit.pairs import CANDIDATE_COLUMNS, read_table
from songkit.recipe import Recipe

__all__ = ["draw_trade_off", "sweep"]

_REPLICATES = 2000


def sweep(recipe: Recipe, out: Path, *, progress: bool = False) -> list[dict[str, Any]]:
    """Merges, sings and judges each point, and draws the two scores against each other.

    Args:
        recipe: With `merge.sweep`, a model, requests and judges; `mine.strategies` are not used. Songs are sung on its
            `generate.device`.
        out: Gets `points/NUMBER` for each, `sweep.json` and `sweep.png`. An interrupted sweep is gone on with.
        progress: Whether to show progress bars.

    Returns:
        A row for each point: its coefficients, and mean and 95 % interval of each score over the songs.
    """
    settings = recipe.merge.sweep
    shares = recipe.merge.coefficients()
    first, second = settings.between
    both = shares[first] + shares[second]
    rows = []
    for number in range(settings.points):
        part = number / (settings.points - 1)
        coefficients = {**shares, first: both * (1 - part), second: both * part}
        folder = out / "points" / f"{number:02d}"
        weights = merge_point(recipe, coefficients, folder)
        policy = with_weights(with_settings(recipe, "mine", strategies={}), weights)
        mine(policy, folder / "songs", progress=progress)
        table = read_table(folder / "songs" / "candidates.parquet", CANDIDATE_COLUMNS)
        rows.append({"coefficients": coefficients, "scores": {name: _mean(table, name) for name in settings.scores}})
    text = json.dumps({"between": list(settings.between), "points": rows}, indent=2) + "\n"
    write_atomically(out / "sweep.json", lambda file: file.write(text.encode()))
    picture = draw_trade_off(rows, settings.scores, f"{first} to {second}", second)
    write_atomically(out / "sweep.png", lambda file: file.write(picture))
    return rows


def draw_trade_off(rows: Sequence[dict[str, Any]], scores: tuple[str, str], title: str, varied: str) -> bytes:
    """Returns a PNG of two scores against each other, a point for each row, with 95 % intervals.

    Args:
        rows: As `sweep` returns them.
        scores: Of the two axes.
        title: What is swept.
        varied: The model whose coefficient stands beside each point.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    middle, low, high = (np.array([[row["scores"][s][k] for s in scores] for row in rows]) for k in range(3))
    axes.plot(middle[:, 0], middle[:, 1], color="#b5b8c0", linewidth=1.2, zorder=1)
    axes.errorbar(
        middle[:, 0],
        middle[:, 1],
        xerr=np.stack([middle[:, 0] - low[:, 0], high[:, 0] - middle[:, 0]]),
        yerr=np.stack([middle[:, 1] - low[:, 1], high[:, 1] - middle[:, 1]]),
        fmt="o",
        color="#1f2430",
        ecolor="#e07a3f",
        elinewidth=1.0,
        zorder=2,
    )
    for row, (x, y) in zip(rows, middle, strict=True):
        label = f"{row['coefficients'][varied]:.2g}"
        axes.annotate(label, (x, y), textcoords="offset points", xytext=(6, 6), fontsize=8)
    axes.set_xlabel(scores[0], fontsize=9)
    axes.set_ylabel(scores[1], fontsize=9)
    axes.set_title(f"{title}; beside each point the coefficient of {varied}", fontsize=9, parse_math=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _mean(table: Sequence[dict[str, Any]], score: str) -> tuple[float, float, float]:
    """Returns the mean of a score and its 95 % interval by bootstrap over requests, whose songs stay together."""
    known = sorted({name for row in table for name in row if name not in CANDIDATE_COLUMNS})
    if score not in known:
        hint = did_you_mean(score, known)
        raise RecipeError(f"merge.sweep.scores: no song has the score '{score}'.{hint} There are: {', '.join(known)}.")
    by_request: dict[str, list[float]] = {}
    for row in table:
        if row[score] is not None:
            by_request.setdefault(row["request"], []).append(row[score])
    if not by_request:
        raise RecipeError(f"merge.sweep.scores: no song could be judged by '{score}'; candidates.parquet says why.")
    means = np.array([np.mean(values) for values in by_request.values()])
    drawn = np.random.default_rng(0).integers(len(means), size=(_REPLICATES, len(means)))
    low, high = np.quantile(means[drawn].mean(1), [0.025, 0.975])
    return float(means.mean()), float(low), float(high)
