"""The places of both engines: what can be chosen where, and every key of the trees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ctdiff.recipe.engine import engines, tree
from ctdiff.recipe.schema import Place, Setting, alternatives

__all__ = ["CHOICES", "TREES", "choices"]

BOTH = {
    "data": "array cifar10 embedded_mnist fashion_mnist folder idx mnist",
    "model": "diffit dit latent_diffit ssm unet uvit",
    "loss.times": "importance piecewise stratified uniform",
    "optimizer": "adam adamw muon sgd",
    "optimizer.schedule": "constant cosine",
    "model.known": "none half prefix random_pixels rectangle",
    "sampler.grid": "cosine custom quadratic uniform",
    "sampler.guidance": "constant interval power_cosine",
}
CHOICES = {
    "discrete": {
        **BOTH,
        "model.parameterisation": "absorbing leave_one_out score x0",
        "model.head": "categorical logistic_mixture truncated_logistic",
        "model.inputs": "embedded one_hot ordinal",
        "process.rates": "absorbing birth_death gaussian_target uniform",
        "process.schedule": (
            "constant cosine cosine_amplitude cosine_root exponential geometric linear log_linear log_square polynomial"
        ),
        "loss": "cross_entropy ct_elbo elbo elbo_and_cross_entropy",
        "sampler": "ancestral euler midpoint_tau_leaping tau_leaping",
        "sampler.tau_leaping.leap": "none bernoulli categorical ordinal",
        "sampler.tau_leaping.initial": "none gaussian uniform",
        "sampler.corrector": "none forward_backward",
        "sampler.corrector.forward_backward.leap": "none bernoulli categorical ordinal",
        "sampler.guidance_form": "posterior rate",
    },
    "gaussian": {
        **BOTH,
        "model.parameterisation": "epsilon flow karras v x0",
        "process.schedule": "cauchy cosine laplace linear quadratic rectified shifted_cosine sigmoid",
        "loss": "elbo epsilon flow_matching hybrid reconstruction v vlb x0",
        **{f"loss.{name}.distance": "l1 l2 smooth_l1" for name in ("epsilon", "x0", "v", "flow_matching", "hybrid.simple")},
        **{f"loss.{name}.weight": "min_snr unweighted" for name in ("epsilon", "x0", "v", "flow_matching", "hybrid.simple")},
        "loss.hybrid.simple": "epsilon flow_matching v x0",
        "loss.times": f"{BOTH['loss.times']} grid log_snr",
        "loss.times.log_snr.density": "cauchy cosine laplace linear quadratic rectified shifted_cosine sigmoid",
        "sampler": "ancestral ddim heun",
        "sampler.ancestral.variance": "fixed_large fixed_small learned_range",
        "sampler.ddim.variance": "fixed_large fixed_small learned_range",
        "sampler.grid": f"{BOTH['sampler.grid']} bounded_log_snr log_snr respaced",
    },
}


def walk(place: Place, path: str = "") -> Iterator[tuple[str, Place | Setting]]:
    """Every place and every setting below a place, of all alternatives, by key."""
    yield path, place
    found = [None] if place.base is None else alternatives(place.base, place.wired).values()
    for name, member in {name: member for cls in found for name, member in place.around(cls).items()}.items():
        key = f"{path}.{name}" if path else name
        if isinstance(member, Place):
            yield from walk(member, key)
        else:
            yield key, member


TREES = {engine: dict(walk(tree(engine))) for engine in engines()}
"""The places and settings of each engine, by key."""


def choices(place: Place, path: str = "", given: Mapping[str, str] = {}) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Every choice below a place: its key, its name, and all that has to be chosen for it."""
    for name, member in place.fields.items():
        if isinstance(member, Place):
            yield from choices(member, f"{path}.{name}" if path else name, given)
    for chosen in place.choices():
        now = {**given, f"{path}.name": chosen}
        yield path, chosen, now
        cls = None if chosen == "none" else alternatives(place.base or object, place.wired)[chosen]
        for name, member in place.around(cls).items():
            if isinstance(member, Place) and name not in place.fields:
                yield from choices(member, f"{path}.{name}", now)
