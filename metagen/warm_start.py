"""A run that begins with what another one has learned."""

from __future__ import annotations

from dataclasses import replace

from metagen.checkpoint import Checkpoint
from metagen.state import MetaState, initial_state
from metagen.work import Parts


def begun_with(saved: Checkpoint, parts: Parts) -> MetaState:
    """The state before the first step of a run of ``parts``, with the generator of ``saved``.

    Its weights are the running mean, which evaluation takes as well. The policy goes along where both configs have the
    same one and sort tasks into the same categories; else it begins as its options say. Moments and counts begin anew.
    Raises ``UserError`` if the networks differ.
    """
    layout = parts.problem.network.layout
    saved.fits(layout)
    state = initial_state(saved.state.mean, parts.policy, layout)
    theirs, mine = ((config.policy, config.categories) for config in (saved.config, parts.config))
    return replace(state, policy=saved.state.policy) if theirs == mine else state
