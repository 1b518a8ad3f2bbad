"""Songs of any source, labelled with the musicality tier that the reward hears."""

from __future__ import annotations

import dataclasses

from songkit.interfaces import DataSource
from songkit.types import Song
from songkit_judges.configs import TieredConfig
from songkit_judges.features import stems
from songkit_judges.reward import load_reward

__all__ = ["TieredSongs"]


class TieredSongs:
    """A `DataSource` that sets the tier of another's songs; `songkit prepare` writes what pre-training reads."""

    def __init__(self, config: TieredConfig, *, songs: DataSource) -> None:
        self.songs = songs
        self.reward = load_reward(config.model)

    def __len__(self) -> int:
        """Number of songs."""
        return len(self.songs)

    def __getitem__(self, index: int) -> Song:
        """Returns a song with its tier; its score is in the provenance.

        Raises:
            RequestError: If the song has no vocal or no accompaniment.
        """
        song = self.songs[index]
        score = self.reward.score(stems(song), [song])[:, 0]
        heard = {"musicality": round(float(score), 6), "tier_of_source": song.tier}
        return dataclasses.replace(
            song, tier=self.reward.tiers(score)[0], provenance={**song.provenance, "judged": heard}
        )
