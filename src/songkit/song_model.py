"""The components that make a song together, ready for inference."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from songkit.build import build_roles
from songkit.devices import device_of, find_device
from songkit.errors import RecipeError, RequestError
from songkit.fit import check_decodes
from songkit.interfaces import Codec, Conditioner, Planner, TrackRefiner
from songkit.kernels import Precision, pack
from songkit.recipe import Recipe
from songkit.settings import GenerateSettings
from songkit.types import TRACKS

__all__ = ["SongModel"]

_NEEDED = ("conditioner", "planner", "codec")


@dataclass(frozen=True)
class SongModel:
    """The components that make a song together, ready for inference."""

    conditioner: Conditioner
    planner: Planner
    refiner: TrackRefiner | None
    """`None` where the planner plans what the codec decodes."""
    codec: Codec
    recipe: Recipe | None = None
    """Where it was loaded from, with the precision that was loaded; goes into song.json."""

    @classmethod
    def load(cls, recipe: Recipe, *, precision: Precision | None = None, device: str | None = None) -> SongModel:
        """Builds the model of a recipe, with its weights.

        Args:
            recipe: With conditioner, planner and codec.
            precision: Of the weights of planner and refiner, which are packed for decoding and cannot be trained any
                more; by default what the recipe's `generate.precision` says. Below fp32 the codec is lightened, too.
            device: Where it computes, a name that `find_device` knows; `generate.device` when `None`. The same seed
                gives the same noise on all, and the same song but for what rounding changes.

        Raises:
            RecipeError: If the recipe lacks conditioner, planner or codec.
            RequestError: If the device is not there, or has no such precision.
            LayoutError: If its components do not fit together.
            CheckpointError: If weights are missing or damaged.
        """
        missing = [role for role in _NEEDED if role not in recipe.roles]
        if missing:
            raise RecipeError(
                f"the recipe '{recipe.name}' cannot generate: it has no {', '.join(missing)}. "
                f"Choose a --model with {', '.join(_NEEDED)}, such as 'mini/song'."
            )
        place, precision = find_device(device or recipe.generate.device), precision or recipe.generate.precision
        if place.type != "cpu" and precision == "int8":
            raise RequestError(f"the precision int8 is for the CPU alone. Choose bf16 or fp32 on {place}.")
        roles = [*_NEEDED, *(["refiner"] if "refiner" in recipe.roles else [])]
        built = build_roles(recipe, roles, require_weights=True)
        for module in built.values():
            module.eval().requires_grad_(False)
        check_decodes(built["codec"], built["planner"], built.get("refiner"))
        for role in {"planner", "refiner"} & set(built):
            if place.type == "cpu":
                pack(built[role], precision)
            elif precision == "bf16":
                pack(built[role], "bf16", "plain")  # bf16 weights; norms, sums and what layers pass on stay fp32
        if precision != "fp32":
            built["codec"].lighten()
        for module in built.values():
            module.to(place)
        recipe = replace(recipe, generate=replace(recipe.generate, precision=precision))
        return cls(**{"refiner": None, **built}, recipe=recipe)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return device_of(self.planner)

    @property
    def frame_rate(self) -> float:
        """Frames of the plan per second."""
        return self.planner.layout.frame_rate

    def settings(self) -> GenerateSettings:
        """Returns how its recipe wants it to be sampled."""
        return GenerateSettings() if self.recipe is None else self.recipe.generate

    def tracks(self) -> tuple[str, ...]:
        """Returns the tracks it can write: those the codec decodes, and the mix of vocal and accompaniment."""
        decoded = set(check_decodes(self.codec, self.planner, self.refiner))
        if decoded >= {"vocal", "accompaniment"}:
            decoded.add("mix")
        return tuple(track for track in TRACKS if track in decoded)
