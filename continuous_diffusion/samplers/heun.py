"""Heun's method for the probability-flow equation, for any (alpha, sigma).

The marginals q_t are also those of a deterministic motion, along the score without noise:
`dx/dt = alpha' x0hat + sigma' epshat` with `x = alpha x0hat + sigma epshat`. Divided by `r = sqrt(alpha^2 + sigma^2)`, which
is 1 where variance is preserved, and with the angle `phi = atan2(sigma, alpha)` as time, from 0 at clean data to pi/2 at
pure noise, it reads

    x / r = cos(phi) x0hat + sin(phi) epshat,        d(x / r) / dphi = v = -sin(phi) x0hat + cos(phi) epshat

and nothing in it is infinite at either end. If the two predictions did not change, x / r would turn about the
origin by the angle of the step, `delta = phi_t - phi_s`, and x would arrive where DDIM with eta = 0 does:

    x' = alpha_s x0hat + sigma_s epshat

Heun's method looks again there. At the beginning of the step the velocity is the turning's; at
its end it has come to differ from it by

    w = v(x', s) - (-sin(phi_s) x0hat + cos(phi_s) epshat) = -(x0hat(x', s) - x0hat(x_t, t)) / sin(phi_s)

(both pairs make up the same x'), and the trapezoidal rule adds the mean of 0 and w along the step. With
`sin(phi_s) = sigma_s / r_s`,

    x_s = x' - r_s delta w / 2 = x' + r_s^2 delta / (2 sigma_s) (x0hat(x', s) - x0hat(x_t, t))
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from continuous_diffusion.samplers.base import Sampler, check_step
from diffusion_core import State
from diffusion_core.values import ANYTHING, ends

__all__ = ["Heun"]


class Heun(Sampler):
    """The second-order solver of the probability-flow equation: deterministic, two network calls a step.

    References:
        Score-based generative modeling through stochastic differential equations (Song et al., 2021) | https://arxiv.org/abs/2011.13456
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022) | https://arxiv.org/abs/2206.00364
    """

    def step(self, state: State, t: Tensor, s: Tensor, **cond: Tensor) -> State:
        """DDIM's step, corrected by what x0hat has become at its end."""
        check_step(t, s)
        if ends(s, ANYTHING)[1] == 0:
            raise ValueError("a step to s = 0, expected s > 0: the second evaluation needs some noise to look at")
        first, state = self.evaluate(state, t, **cond)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.process.schedule(t), self.process.schedule(s)
        c = sigma_s / sigma_t
        x = self.mixed(first.mean, alpha_s - c * alpha_t, state.x, c)
        second, state = self.evaluate(replace(state, x=x, t=s), s, **cond)
        delta = torch.atan2(sigma_t, alpha_t) - torch.atan2(sigma_s, alpha_s)
        change = self.clipped(second.mean) - self.clipped(first.mean)
        return replace(state, x=x.addcmul(change, (alpha_s**2 + sigma_s**2) * delta / (2 * sigma_s)))
