"""One abstract base or protocol for every kind of component. See `songkit.types` for the axis letters.

Metrics stand in `songkit.interfaces.metric`, which imports torchmetrics; generating a song does not need it.
"""

from songkit.interfaces.backbone import Backbone, Cache
from songkit.interfaces.conditioner import Conditioner
from songkit.interfaces.objective import PairLogProbabilities, PreferenceLoss, PreferenceObjective, Preferences
from songkit.interfaces.planner import Planner, Sampling
from songkit.interfaces.refiner import TrackRefiner
from songkit.interfaces.reward import RewardModel
from songkit.interfaces.source import DataSource
from songkit.interfaces.tokenizer import Codec, Tokenizer

__all__ = [
    "Backbone",
    "Cache",
    "Codec",
    "Conditioner",
    "DataSource",
    "PairLogProbabilities",
    "Planner",
    "PreferenceLoss",
    "PreferenceObjective",
    "Preferences",
    "RewardModel",
    "Sampling",
    "Tokenizer",
    "TrackRefiner",
]
