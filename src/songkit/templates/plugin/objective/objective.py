"""DPO with an offset (arXiv 2402.10571): songs that a judge finds much worse have to become much less likely."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from songkit.errors import LayoutError
from songkit.interfaces import PairLogProbabilities, PreferenceLoss, Preferences

from .configs import ObjectiveConfig

__all__ = ["OffsetObjective"]


class OffsetObjective:
    """-log sigmoid(reward of the preferred song - reward of the rejected one - offset)."""

    reference_free = False

    def __init__(self, config: ObjectiveConfig) -> None:
        self.config = config

    def __call__(self, given: Preferences) -> PreferenceLoss:
        """Returns the losses of B pairs.

        Raises:
            LayoutError: If there is no reference, or no such judge.
        """
        if given.reference is None:
            raise LayoutError("this objective compares with a reference policy and was given none")
        chosen, rejected = self._rewards(given.policy, given.reference)
        losses = -logsigmoid(chosen - rejected - self._offset(given))
        return PreferenceLoss(losses=losses, chosen_rewards=chosen.detach(), rejected_rewards=rejected.detach())

    def _rewards(
        self, policy: PairLogProbabilities, reference: PairLogProbabilities
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns beta times the log-ratio [B] of both songs, all streams together."""
        chosen = (policy.chosen - reference.chosen).sum(1)
        rejected = (policy.rejected - reference.rejected).sum(1)
        return self.config.beta * chosen, self.config.beta * rejected

    def _offset(self, given: Preferences) -> torch.Tensor | float:
        """Returns the margin [B] that is asked for; none where the judge was silent, or found the other song better."""
        if not self.config.judge:
            return 0.0
        if self.config.judge not in given.aspects:
            told = ", ".join(given.aspects) or "none"
            raise LayoutError(f"no judge '{self.config.judge}' was asked about these pairs; there are {told}")
        return self.config.offset * given.aspects[self.config.judge].nan_to_num().clamp(min=0)
