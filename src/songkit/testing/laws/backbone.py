"""The laws of backbones."""

from __future__ import annotations

import torch

from songkit.interfaces import Backbone
from songkit.testing import samples
from songkit.testing.checks import law, require
from songkit.testing.lively import lively
from songkit.testing.subject import Subject

__all__: list[str] = []

STEPS = 9
CLOSE = 1e-4
"""Largest difference of states that are the same but for rounding."""


@law("shapes", "backbone")
def shapes(subject: Subject) -> None:
    """Sequences [B, S, D] give states [B, S, D], all finite, where padding stands as well."""
    built: Backbone = lively(subject.build())
    made = samples.conditions(built.width, (STEPS, 4))
    with torch.no_grad():
        states = built(made.prefix, made.mask)
    require(states.shape == made.prefix.shape, f"{list(made.prefix.shape)} gave {list(states.shape)}")
    require(bool(torch.isfinite(states).all()), "some states are not finite")


@law("causal", "backbone")
def causal(subject: Subject) -> None:
    """A state depends on its own and earlier positions only."""
    built: Backbone = lively(subject.build())
    made = samples.conditions(built.width, (STEPS, STEPS))
    other = made.prefix.clone()
    other[:, 5:] = other[:, 5:].flip(0) + 1
    with torch.no_grad():
        one, two = built(made.prefix, made.mask), built(other, made.mask)
    error = float((one[:, :5] - two[:, :5]).abs().max())
    require(error < CLOSE, f"a change at position 5 moves earlier states by {error:.2g}")
    require(float((one[:, 5:] - two[:, 5:]).abs().max()) > CLOSE, "a change at position 5 moves no state at all")


@law("padding", "backbone")
def padding(subject: Subject) -> None:
    """Positions that do not count change no state of those that do."""
    built: Backbone = lively(subject.build())
    made = samples.conditions(built.width, (STEPS, 4))
    filled = torch.where(made.mask[:, :, None], made.prefix, 3.0)
    with torch.no_grad():
        padded, alone = built(filled, made.mask)[1, -4:], built(made.prefix[1:, -4:], made.mask[1:, -4:])[0]
    error = float((padded - alone).abs().max())
    require(error < CLOSE, f"padding in front of a song moves its states by {error:.2g}")


@law("repeated", "backbone")
def repeated(subject: Subject) -> None:
    """`forward_repeated` gives the states that `forward` gives, where padding stands as well."""
    built: Backbone = lively(subject.build())
    one, other = (samples.conditions(built.width, (STEPS, 6), seed=seed) for seed in range(2))
    x, mask = torch.cat([one.prefix, other.prefix]), torch.cat([one.mask, one.mask])
    x[2:, :5] = x[:2, :5]
    with torch.no_grad():
        apart, shared = built(x, mask), built.forward_repeated(x, mask, prefix=5, repeats=2)
    error = float((shared - apart)[mask].abs().max())
    require(error < CLOSE, f"states of songs that begin alike are off by {error:.2g}")


@law("cached", "backbone")
def cached(subject: Subject) -> None:
    """`start` and then `step` give the states that `forward` gives for the whole sequence."""
    built: Backbone = lively(subject.build())
    made = samples.conditions(built.width, (STEPS, 6))
    with torch.no_grad():
        whole = built(made.prefix, made.mask)
        first, cache = built.start(made.prefix[:, :5], made.mask[:, :5], STEPS)
        parts = [first, *(built.step(made.prefix[:, s], [cache])[:, None] for s in range(5, STEPS))]
    error = float((torch.cat(parts, 1) - whole)[made.mask].abs().max())
    require(error < CLOSE, f"states made step by step are off by {error:.2g}")


@law("own-states", "backbone")
def own_states(subject: Subject) -> None:
    """A song's states are the same to the last bit, whichever songs are in its block."""
    built: Backbone = lively(subject.build())
    results = []
    for others in ((), (1,), (1, 2)):
        caches, rows = [], torch.zeros(4, built.width)
        for place in range(4):
            made = samples.conditions(built.width, (4,), seed=place)
            rows[place] = made.prefix[0, -1] if place in (0, *others) else 0.0
            present = place == 0 or place in others
            caches.append(built.start(made.prefix, made.mask, 3)[1] if present else None)
        with torch.no_grad():
            results.append(torch.stack([built.step(rows, caches)[0] for _ in range(3)]))
    for other in results[1:]:
        error = float((results[0] - other).abs().max())
        require(torch.equal(results[0], other), f"a song's states move by {error:.2g} when others are in its block")
