"""What is proven of each sampler, in a sentence, and the tests that prove it.

A comparison shows measurements: how good a network's samples looked. What holds exactly is another matter, and is
known before anything is trained: whether a sampler draws the law that its formulas state, and how fast that law comes
to the data's when the network is the exact posterior. Here it is said once, for every name that a configuration can
choose. A test holds this table to the names, and each sentence to tests that exist.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BOUNDS", "CORRECTOR", "GUIDANCE", "SAMPLERS", "Statement", "of_bound", "of_sampler"]


@dataclass(frozen=True)
class Statement:
    """What is proven, and where.

    Arguments:
        text: the sentence.
        tests: the tests it rests on, `folder/file.py::function`, within `tests`.
    """

    text: str
    tests: tuple[str, ...]


_DISCRETE, _GAUSSIAN = "discrete_diffusion/test_samplers.py", "continuous_diffusion/test_samplers.py"
_LAW, _ORDER = f"{_DISCRETE}::test_runs_agree_with_the_exact_law", f"{_DISCRETE}::test_first_order_in_total_variation"
_FIGURES = f"{_DISCRETE}::test_divergences_of_the_toy_are_the_known_ones"
_GAUSSIAN_ORDER = f"{_GAUSSIAN}::test_order_on_a_gaussian"
_LEAPS = f"{_DISCRETE}::test_both_leaps_converge"


def _of_chain(figure: str) -> str:
    return (
        "Its exact law after N steps is computed without a random number, on chains small enough to list every state, under "
        "five kinds of rates: with the exact posterior it comes to the true law at first order, and 20,000 draws agree "
        f"with it (chi-square). On a toy, 128 steps end {figure} nats from the data."
    )


SAMPLERS: dict[str, dict[str, Statement]] = {
    "discrete": {
        "ancestral": Statement(_of_chain("4.54e-5"), (_LAW, _ORDER, _FIGURES)),
        "euler": Statement(_of_chain("6.06e-5"), (_LAW, _ORDER, _FIGURES)),
        "tau_leaping": Statement(
            f"{_of_chain('2.76e-4')} That is with one jump of a pixel a step (categorical); where jumps add up (ordinal), "
            "order and draws are tested under birth-death and Gaussian-target rates.",
            (_LAW, _ORDER, _FIGURES, _LEAPS),
        ),
    },
    "gaussian": {
        "ancestral": Statement(
            "Whole trajectories equal those of diffusers' DDPM for the same network and noise, to 1e-10 in double precision. "
            "With the exact posterior its law comes to the true one at first order, on a Gaussian and on a mixture of them.",
            (
                "continuous_diffusion/test_against_diffusers.py::test_ddpm",
                _GAUSSIAN_ORDER,
                f"{_GAUSSIAN}::test_ancestral_is_first_order_on_a_mixture",
            ),
        ),
        "ddim": Statement(
            "Whole trajectories equal those of diffusers' DDIM for the same network and noise (eta 0, 0.5 and 1), to 1e-10 in "
            "double precision. With the exact posterior its law comes to the true one at first order, on a Gaussian and, "
            "without noise, on a mixture of them.",
            (
                "continuous_diffusion/test_against_diffusers.py::test_ddim",
                _GAUSSIAN_ORDER,
                f"{_GAUSSIAN}::test_order_of_deterministic_maps_on_a_mixture",
            ),
        ),
        "heun": Statement(
            "Steps equal the trapezoidal rule, written a second time another way, to 1e-9. With the exact posterior its law "
            "comes to the true one at second order, on a Gaussian and on a mixture of them. No other library is compared with.",
            (
                f"{_GAUSSIAN}::TestTextbook::test_heun",
                _GAUSSIAN_ORDER,
                f"{_GAUSSIAN}::test_order_of_deterministic_maps_on_a_mixture",
            ),
        ),
    },
}
"""Of each engine's samplers, by the engine's name and theirs."""

CORRECTOR = Statement(
    "Correctors: their rates leave the exact marginal where it is (to 1e-12), and the defect of a leap falls with the square "
    "of its length; 20,000 draws agree with the exact law of predictor and correctors together.",
    (
        f"{_DISCRETE}::test_forward_and_backward_rates_keep_the_marginal",
        f"{_DISCRETE}::test_corrector_keeps_the_marginal",
        _LAW,
        _ORDER,
    ),
)
"""What is added where a sampler has corrector leaps."""

GUIDANCE = {
    "discrete": Statement(
        "Guided chains draw the law that enumeration gives; it is not the tilted law that guidance aims at, and how far from "
        "it is tabulated.",
        (
            "discrete_diffusion/test_guidance.py::test_runs_agree_with_the_exact_law",
            "discrete_diffusion/test_guidance.py::test_documented_distances_are_those_of_the_benchmark",
        ),
    ),
    "gaussian": Statement(
        "The law of guided samplers is integrated on mixtures; it is not the tilted law that guidance aims at, and how far "
        "from it is tabulated.",
        ("continuous_diffusion/test_guidance.py::test_documented_distances_are_those_of_the_benchmark",),
    ),
}
"""What is added where the guidance is another than 1, by the engine's name."""

BOUNDS = {
    "discrete": Statement(
        "With the exact posterior of an enumerated chain the expected bound is the entropy of the data plus its known gaps, to "
        "1e-6 nats, under five kinds of rates; the estimate agrees with it within its error.",
        (
            "discrete_diffusion/test_likelihood.py::test_bound_of_the_exact_posterior_is_the_entropy_and_its_known_gaps",
            "discrete_diffusion/test_likelihood.py::test_bits_per_dim_agrees_with_the_enumerated_bound",
        ),
    ),
    "gaussian": Statement(
        "With the exact posterior of a mixture the expected bound falls to the entropy of the data as 1 / T; the estimate "
        "agrees with it within its error, and pixels are integers with a probability, not reals with a density.",
        (
            "continuous_diffusion/test_likelihood.py::test_the_exact_bound_falls_to_the_entropy",
            "continuous_diffusion/test_likelihood.py::test_the_estimate_is_the_expected_bound",
            "continuous_diffusion/test_likelihood.py::test_pixels_with_a_known_law",
        ),
    ),
}
"""Bits per dimension, by the engine's name."""

_NOTHING = Statement("Nothing: no statement was written for it.", ())


def of_sampler(engine: str, name: str, guided: bool = False) -> Statement:
    """What is proven of a sampler.

    Arguments:
        engine: the name of its engine.
        name: its name, `NAME+K` with K corrector leaps.
        guided: whether its guidance is another than 1.
    """
    base, plus, _ = name.partition("+")
    parts = [SAMPLERS.get(engine, {}).get(base, _NOTHING)]
    parts += [CORRECTOR] if plus else []
    parts += [GUIDANCE.get(engine, _NOTHING)] if guided else []
    tests = dict.fromkeys(test for part in parts for test in part.tests)
    return Statement(" ".join(part.text for part in parts), tuple(tests))


def of_bound(engine: str) -> Statement:
    """What is proven of the bits per dimension of an engine, by its name."""
    return BOUNDS.get(engine, _NOTHING)
