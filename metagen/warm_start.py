"""A run that begins with what another one has learned."""

from __future__ import annotations

from dataclasses import replace

from metagen.checkpoint import Checkpoint
from metagen.state import MetaState, initial_state
from metagen.tasks.imageset import ImageSet
from metagen.tasks.pixels import MIDDLE, border_level
from metagen.work import Parts


def polarity_note(saved: Checkpoint, images: ImageSet) -> str:
    """What to say where a run of ``images`` begins with a generator that draws the other way round; else nothing."""
    if saved.config.data.polarity_of_others == "keep" or border_level(images.images) <= MIDDLE:
        return ""
    return (
        f"{images.name}: dark ink on a bright ground, and the run begins with a generator of bright ink on a dark one: "
        "data.polarity=auto turns the images"
    )


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
