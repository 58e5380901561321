"""Drawing the images of a run: which states are kept, and that a stop leaves out the rest."""

from __future__ import annotations

import pytest
import torch

from ctdiff import recipe
from ctdiff.sampling import chosen_labels, draw_frames

from .small import small


@pytest.fixture(scope="module")
def config():
    return small("mnist")


@pytest.fixture(scope="module")
def sampler(config):
    torch.manual_seed(0)
    process, network = recipe.build_process(config), recipe.build_network(config)
    return recipe.build_sampler(config, recipe.build_denoiser(config, process, network).eval(), steps=7)


@pytest.mark.parametrize(("count", "kept"), [(1, [8]), (2, [0, 8]), (3, [0, 4, 8]), (9, range(9)), (50, range(9))])
def test_kept_states_are_evenly_spaced_and_end_with_the_clean_one(config, sampler, count, kept):
    """Seven steps have nine states: before the first step, after each one, and after the last draw."""
    cond = chosen_labels(config, None, 3)
    states = list(sampler.trajectory(3, seeds=[5, 6, 7], **cond))
    drawn = draw_frames(sampler, [5, 6, 7], cond, lambda x: x + 1, count=count)
    assert len(states) == 9
    assert [image.tolist() for image in drawn.images] == [(states[i].x + 1).tolist() for i in kept]
    assert (drawn.last.nfe, drawn.last.x.tolist()) == (states[-1].nfe, states[-1].x.tolist())


def test_a_stop_leaves_out_the_remaining_steps(config, sampler):
    answers = iter([True, True, False])
    drawn = draw_frames(sampler, [0], chosen_labels(config, None, 1), lambda x: x, count=9, go_on=lambda: next(answers))
    assert len(drawn.images) == 2
    assert next(answers, None) is None, "no step was made after the stop"
    assert float(drawn.last.t) == pytest.approx(sampler.grid.times()[2])
