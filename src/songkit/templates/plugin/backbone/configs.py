"""Options of the backbone. Listings import this file: no torch here."""

from dataclasses import dataclass

__all__ = ["BackboneConfig"]


@dataclass(kw_only=True)
class BackboneConfig:
    """Layers of decaying averages: a model whose step costs the same however long the song is."""

    dim: int = 16
    """Width."""
    layers: int = 2
    """Layers."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        wrong = [name for name in ("dim", "layers") if getattr(self, name) < 1]
        return [f"{name} is {getattr(self, name)}, expected 1 or more" for name in wrong]
