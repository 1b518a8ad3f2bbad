"""Draws docs/assets/pattern-*.svg, the token pattern of each baseline, from its recipe; `--check` only compares.

Run it in an environment where every plugin of this repository is installed: `python docs/draw_patterns.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from songkit.patterns import Pattern
from songkit.recipe import load
from songkit.registry import Registry
from songkit.types import TokenLayout

ASSETS = Path(__file__).parent / "assets"
FRAMES, CELL, LEFT, TOP = 4, 34, 130, 26
COLOURS = {"mix": ("#c5cae9", "#7986cb"), "vocal": ("#ffe0b2", "#ffb74d"), "accompaniment": ("#c8e6c9", "#81c784")}
"""Fill and stroke of each track, as in levo2.svg."""
GAP, TEXT = ("#f2f2f2", "#cccccc"), "#333333"


def main() -> int:
    """Writes or checks all pictures; returns the exit status."""
    outdated = []
    for name, text in pictures().items():
        path = ASSETS / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            outdated.append(str(path))
    if outdated:
        print(f"out of date: {', '.join(outdated)}. Run `python docs/draw_patterns.py` and commit the result")
    return 1 if outdated else 0


def pictures() -> dict[str, str]:
    """Returns every picture by its file name."""
    from songkit_planners.planner import layout_of, pattern_of

    registry, drawn = Registry.discover(), {}
    for name in registry.recipes():
        if name.startswith("baselines/") and "/_" not in name:
            recipe = load(name, registry=registry, allow_missing=True)
            config = recipe.roles["planner"].config if "planner" in recipe.roles else None
            if config is not None and not config.auxiliary:  # auxiliary tracks have no steps
                short = name.split("/")[1]
                drawn[f"pattern-{short}.svg"] = picture(short, layout_of(config), pattern_of(config))
    return drawn


def picture(name: str, layout: TokenLayout, pattern: Pattern) -> str:
    """Returns the steps of a few frames as SVG: a row for each stream, a column for each step, frames as numbers."""
    steps, several = pattern.steps(FRAMES), len(layout) > len(layout.tracks)
    width, height = LEFT + CELL * steps + 8, TOP + CELL * len(layout) + 8
    parts = [f'<rect width="{width}" height="{height}" fill="#ffffff"/>', _text(LEFT - 10, TOP - 9, "step", "end")]
    parts += [_text(LEFT + CELL * (step + 0.5), TOP - 9, str(step)) for step in range(steps)]
    for row, stream in enumerate(layout.streams):
        y, label = TOP + CELL * row, f"{stream.track} {stream.level}" if several else stream.track
        parts.append(_text(LEFT - 10, y + CELL / 2 + 5, label, "end"))
        for step in range(steps):
            x, frame = LEFT + CELL * step, dict(pattern.at(step)).get(row, FRAMES)
            fill, stroke = COLOURS[stream.track] if frame < FRAMES else GAP
            parts.append(
                f'<rect x="{x + 2}" y="{y + 2}" width="{CELL - 4}" height="{CELL - 4}" rx="4" fill="{fill}" '
                f'stroke="{stroke}"/>'
            )
            if frame < FRAMES:
                parts.append(_text(x + CELL / 2, y + CELL / 2 + 5, str(frame)))
    told = f"{name}: on which step the id of each stream and frame stands, for {FRAMES} frames"
    lines = "\n".join(f"  {part}" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="14" role="img" aria-label="{told}">\n{lines}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{TEXT}">{text}</text>'


if __name__ == "__main__":
    sys.exit(main())
