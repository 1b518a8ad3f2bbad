"""Whether parts can work together: what would otherwise go wrong at step 4,000 is refused when they are built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from songkit.errors import LayoutError
from songkit.interfaces import Codec, Conditioner, Planner, TrackRefiner
from songkit.types import TokenLayout

__all__ = ["check_decodes", "check_fit", "layout_reasons", "prompt_reasons"]


def check_fit(parts: Mapping[str, Any]) -> None:
    """Checks that built components can work together.

    The planner plans streams of the tokenizer (else of the codec), the refiner refines what the planner plans, on the
    same steps, and makes streams of the codec; audio prompts are of the codec, too; and widths agree where one part
    reads another's states.

    Args:
        parts: Built components by role; roles that are absent are not checked.

    Raises:
        LayoutError: With every reason why they do not fit.
    """
    codec, planner, refiner = (parts.get(role) for role in ("codec", "planner", "refiner"))
    tokenizer, conditioner = parts.get("tokenizer", codec), parts.get("conditioner")
    reasons: list[str] = []
    name = "tokenizer" if "tokenizer" in parts else "codec"
    if planner is not None and tokenizer is not None:
        reasons += layout_reasons("planner", planner.layout, name, tokenizer.layout)
        reasons += [
            f"tracks: the planner learns to predict {track} beside what it plans; the {name} has {tokenizer.layout}"
            for track in planner.auxiliary
            if track not in tokenizer.layout.tracks
        ]
    if refiner is not None and codec is not None:
        reasons += layout_reasons("refiner", refiner.layout, "codec", codec.layout)
    if refiner is not None and planner is not None:
        reasons += _plan_reasons(planner, refiner)
    if conditioner is not None and tokenizer is not None:
        reasons += prompt_reasons(conditioner, name, tokenizer.layout)
    for name, part in (("planner", planner), ("refiner", refiner)):
        width = getattr(part, "width", None)
        if conditioner is not None and width is not None:
            reasons += _width_reasons(name, width, "conditioner", conditioner.width)
    if reasons:
        listed = "\n".join(f"- {reason}" for reason in dict.fromkeys(reasons))
        raise LayoutError(
            f"the parts do not fit together:\n{listed}\nGive them the same values in the recipe, or choose other parts."
        )


def check_decodes(codec: Codec, planner: Planner, refiner: TrackRefiner | None) -> tuple[str, ...]:
    """Checks that a codec makes audio of what planner and refiner give it.

    Returns:
        The tracks that it makes.

    Raises:
        LayoutError: With the reason why it does not.
    """
    name, layout = ("planner", planner.layout) if refiner is None else ("refiner", refiner.layout)
    reasons = []
    for track in layout.tracks:
        own, needed = ({s.level for s in x.streams if s.track == track} for x in (layout, codec.layout))
        if needed - own:
            reasons.append(
                f"levels: the {name} gives levels {_listed(own)} of {track}, the codec decodes {_listed(needed)} "
                "together"
            )
    try:
        made = codec.decodes(layout)
    except LayoutError as error:
        reasons.append(str(error))
        made = ()
    if reasons:
        listed = "\n".join(f"- {reason}" for reason in reasons)
        raise LayoutError(
            f"the codec cannot decode what the {name} gives:\n{listed}\nAdd a refiner that makes what is missing, or "
            "choose another planner or codec."
        )
    return made


def layout_reasons(part: str, layout: TokenLayout, whole: str, offered: TokenLayout) -> list[str]:
    """Returns every reason why a part's streams are not all among those that are offered."""
    reasons = []
    if not math.isclose(layout.frame_rate, offered.frame_rate, rel_tol=1e-6):  # some are written as decimals
        reasons.append(
            f"frame rate: the {part} has {layout.frame_rate:g} frames a second, the {whole} {offered.frame_rate:g}"
        )
    sizes = {(stream.track, stream.level): stream.size for stream in offered.streams}
    for stream in layout.streams:
        size = sizes.get((stream.track, stream.level))
        name = f"{stream.track}, level {stream.level}"
        if stream.track not in offered.tracks:
            reasons.append(f"tracks: the {part} has a stream ({name}); the {whole} has {offered}")
        elif size is None:
            levels = {s.level for s in offered.streams if s.track == stream.track}
            reasons.append(f"levels: the {part} has a stream ({name}); the {whole} has levels {_listed(levels)} of it")
        elif size != stream.size:
            reasons.append(f"vocabulary: the {part} has {stream.size} ids in ({name}), the {whole} {size}")
    return reasons


def prompt_reasons(conditioner: Conditioner, whole: str, offered: TokenLayout) -> list[str]:
    """Returns every reason why a conditioner cannot read audio prompts; streams that are not offered do not matter."""
    wanted = conditioner.prompts_layout
    if wanted is None:
        return []
    there = {(stream.track, stream.level) for stream in offered.streams}
    known = tuple(stream for stream in wanted.streams if (stream.track, stream.level) in there)
    return layout_reasons("conditioner's prompts", TokenLayout(wanted.frame_rate, known), whole, offered)


def _plan_reasons(planner: Planner, refiner: TrackRefiner) -> list[str]:
    reasons = layout_reasons("refiner's source", refiner.source, "planner", planner.layout)
    reasons += layout_reasons("planner", planner.layout, "refiner's source", refiner.source)
    if not reasons and planner.pattern != refiner.source_pattern:
        ours, theirs = planner.pattern, refiner.source_pattern
        reasons.append(
            f"delay: the planner takes {ours.stride} steps a frame with offsets {list(ours.offsets)}, the refiner's "
            f"source {theirs.stride} with {list(theirs.offsets)}"
        )
    if refiner.source_tail != planner.tail:
        reasons.append(
            f"tail: the refiner reads states of {refiner.source_tail} steps after a song, the planner gives those of "
            f"{planner.tail}"
        )
    return reasons + _width_reasons("refiner's source_width", refiner.source_width, "planner", planner.width)


def _width_reasons(part: str, width: int, other: str, offered: int) -> list[str]:
    return [] if width == offered else [f"width: the {part} is {width}, the {other} {offered}"]


def _listed(levels: set[int]) -> str:
    return ", ".join(map(str, sorted(levels)))
