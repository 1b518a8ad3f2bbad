"""Songs with ground truth, made on the spot."""

from songkit_synth.configs import SynthSongsConfig

__all__ = ["SynthSongsConfig"]
