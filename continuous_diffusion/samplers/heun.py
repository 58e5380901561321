"""Heun's method for the probability-flow equation.

The marginals q_t are also those of a deterministic motion, along the score without noise. With the
angle `phi = atan(sigma / alpha)` as time, from 0 at clean data to pi/2 at pure noise, it reads

    x = cos(phi) x0hat + sin(phi) epshat,        dx / dphi = v = -sin(phi) x0hat + cos(phi) epshat

and nothing in it is infinite at either end. If the two predictions did not change, x would turn about the
origin by the angle of the step, `delta = phi_t - phi_s`, and arrive where DDIM with eta = 0 does:

    x' = alpha_s x0hat + sigma_s epshat

Heun's method looks again there. At the beginning of the step the velocity is the turning's; at
its end it has come to differ from it by

    w = v(x', s) - (-sigma_s x0hat + alpha_s epshat) = -(x0hat(x', s) - x0hat(x_t, t)) / sigma_s

(both pairs make up the same x'), and the trapezoidal rule adds the mean of 0 and w along the step:

    x_s = x' - delta w / 2 = x' + delta / (2 sigma_s) (x0hat(x', s) - x0hat(x_t, t))
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from continuous_diffusion.samplers.base import Sampler
from diffusion_core import State

__all__ = ["Heun"]


class Heun(Sampler):
    """The second-order solver of the probability-flow equation: deterministic, two network calls a step.

    References:
        Score-based generative modeling through stochastic differential equations (Song et al., 2021) | https://arxiv.org/abs/2011.13456
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    """

    def step(self, state: State, t: float, s: float, **cond: Tensor) -> State:
        """DDIM's step, corrected by what x0hat has become at its end."""
        step, x_t = self.numbers(t, s), state.x
        if s == 0:
            raise ValueError("a step to s = 0, expected s > 0: the second evaluation needs some noise to look at")
        c_t = step.sigma_s / step.sigma_t
        first, state = self.evaluate(state, t, **cond)
        x = self.mixed(first.mean, step.alpha_s - c_t * step.alpha_t, x_t, c_t)
        second, state = self.evaluate(replace(state, x=x), s, **cond)
        sine = step.sigma_t * step.alpha_s - step.alpha_t * step.sigma_s
        cosine = step.alpha_t * step.alpha_s + step.sigma_t * step.sigma_s
        delta = math.atan2(sine, cosine)
        change = self.clipped(second.mean) - self.clipped(first.mean)
        return replace(state, x=x.add(change, alpha=delta / (2 * step.sigma_s)), t=s)
