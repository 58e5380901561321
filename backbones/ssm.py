"""SSM: a bidirectional selective state-space model on patches, with the conditioning of DiT.

The image is cut into patches. Each patch becomes a token with a fixed sin-cos position, and `depth` blocks of the same
kind follow. A block scans the tokens row by row, once from the first to the last and once from the last to the first:

    x, r = linear(modulate(z))                     expand * hidden_dim features each
    for both directions:
        x' = SiLU(causal depthwise convolution of x)
        dt, b, c = linear(x'),    dt = softplus(dt + bias)
        h_t = exp(-a dt_t) h_{t-1} + dt_t b_t x'_t^T,    y_t = h_t^T c_t + D x'_t
    z = z + gate * linear((y_forward + y_backward) SiLU(r))

The state h has N numbers for each feature. The step dt and the weights b and c depend on the token. So the scan can
select which tokens change the state, and which parts of the state enter the output: it is a selective scan. Its cost is
linear in the number of tokens. The cost of attention is quadratic.

Shift, scale and gate of a block are linear in SiLU(e_t + e_y), where e_t and e_y are the embeddings of time and class.
They are 0 at initialisation (adaLN-Zero), so a new block is the identity and a new network returns 0.

The papers differ from each other. This network is built as follows:

- The decay is the factor exp(-a dt) by which the state is multiplied at each token. In Mamba each feature has a state
  of N numbers, and each of these numbers has its own decay. In Mamba-2 all numbers of a head share one decay. We use
  the decays of Mamba-2. With them, a group (chunk) of consecutive tokens can be computed with matrix products instead
  of a loop over the tokens: see `scan.py`.
- Mamba computes dt, b and c after the convolution, and Mamba-2 computes them before it. We compute them after it.
- As in Vim, both directions are added before the gate, and each has its own convolution, dt, b, c, a and D. Instead of
  Vim's class token and learned positions, we use adaLN-Zero and the positions of DiT.
- Mamba-2 has a norm before the last linear layer of a block. Like Mamba and Vim, we have none.

References:
    Mamba: linear-time sequence modeling with selective state spaces (Gu & Dao, 2023) | https://arxiv.org/abs/2312.00752
    Transformers are SSMs (Dao & Gu, 2024) | https://arxiv.org/abs/2405.21060
    Vision Mamba: efficient visual representation learning with bidirectional state space model (Zhu et al., 2024) |
        https://arxiv.org/abs/2401.09417
    Scalable diffusion models with transformers (Peebles & Xie, 2023) | https://arxiv.org/abs/2212.09748
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from backbones.adaln import AdaLNFinalLayer, conditions, modulate
from backbones.attention import TokenLinear, check_heads
from backbones.base import Backbone, normal, xavier, zeroed
from backbones.embeddings import (
    ClassEmbedding,
    ImageSize,
    TimeEmbedding,
    image_size,
    patchify,
    sincos_positions,
    unpatchify,
)
from backbones.scan import selective_scan
from diffusion_core.ranges import Count, CountOrZero, Finite, Range, check_arguments

__all__ = ["SSM", "SSM_SIZES", "SSMBlock", "SelectiveSSM"]

SSM_SIZES: dict[str, dict[str, Any]] = {
    f"{name}/{patch_size}": {"patch_size": patch_size, "depth": 24, "hidden_dim": hidden_dim, "num_heads": num_heads}
    for name, hidden_dim, num_heads in (("Ti", 192, 12), ("S", 384, 24))
    for patch_size in (2, 4, 8)
}
"""The depth and width of the two published sizes of Vim, with heads of 32 features. The keys are "Ti/2" to "S/8"."""

_STEPS = 1e-3, 1e-1  # dt of a new network, log-uniform, as in Mamba
_RATES = 1.0, 16.0  # a of a new network, uniform, as in Mamba-2


class SelectiveSSM(nn.Module):
    """A selective state-space layer in one direction: (B, N, width) -> (B, N, width).

    The output at position i depends only on the inputs at positions up to i.

    Arguments:
        width: the number of features.
        num_heads: the number of heads, which must divide width. The features of a head share one decay, the factor
            exp(-a dt) by which the state is multiplied at each token.
        state_dim: the number N of state variables of each feature.
        kernel_size: the number of tokens in the window of the convolution.

    Raises:
        ValueError: num_heads does not divide width.
    """

    def __init__(self, width: int, num_heads: int, state_dim: int, kernel_size: int) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.state_dim = state_dim
        self.conv = nn.Conv1d(width, width, kernel_size, groups=width, padding=kernel_size - 1)
        self.select = nn.Linear(width, num_heads + 2 * state_dim, bias=False)
        low, high = map(math.log, _STEPS)
        steps = torch.empty(num_heads).uniform_(low, high).exp()
        self.dt_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # softplus(dt_bias) = steps
        self.log_a = nn.Parameter(torch.empty(num_heads).uniform_(*_RATES).log())
        self.D = nn.Parameter(torch.ones(num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """Scan the tokens x (B, N, width) from the first to the last."""
        x = F.silu(self.conv(x.mT)[..., : x.shape[1]].mT)
        dt, b, c = self.select(x).split([self.num_heads, self.state_dim, self.state_dim], dim=-1)
        wide = torch.promote_types(dt.dtype, torch.float32)
        dt = F.softplus(dt.to(wide) + self.dt_bias.to(wide))  # (B, N, heads)
        x = rearrange(x, "b n (heads p) -> b n heads p", heads=self.num_heads)
        y = selective_scan((x * dt.unsqueeze(-1)).to(x.dtype), -dt * self.log_a.to(wide).exp(), b, c)
        return rearrange(y + x * self.D.to(x.dtype).unsqueeze(-1), "b n heads p -> b n (heads p)")


class SSMBlock(nn.Module):
    """A bidirectional state-space block with adaLN-Zero: (B, N, dim) -> (B, N, dim). A new block is the identity.

    Arguments:
        dim: the width of a token.
        num_heads: the number of heads, which must divide expand * dim.
        state_dim: the number N of state variables of each feature.
        expand: the width of the state-space layers, in units of dim.
        kernel_size: the number of tokens in the window of the convolution.
    """

    def __init__(self, dim: int, num_heads: int, state_dim: int, expand: int, kernel_size: int) -> None:
        super().__init__()
        width = expand * dim
        self.enter = xavier(TokenLinear(dim, 2 * width, bias=False))
        self.first_to_last = SelectiveSSM(width, num_heads, state_dim, kernel_size)
        self.last_to_first = SelectiveSSM(width, num_heads, state_dim, kernel_size)
        self.proj = xavier(TokenLinear(width, dim, bias=False))
        self.modulation = zeroed(nn.Linear(dim, 3 * dim))

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """Evaluate the block on the tokens z with the condition e (B, dim)."""
        shift, scale, gate = conditions(self.modulation, e, z, 3)
        x, r = self.enter(modulate(z, shift, scale)).chunk(2, dim=-1)
        y = self.first_to_last(x) + self.last_to_first(x.flip(1)).flip(1)
        return torch.addcmul(z, gate, self.proj(y * F.silu(r)))


class SSM(Backbone):
    """SSM, a bidirectional selective state-space model on patches (Mamba, Vim), with the conditioning of DiT.

    Its cost is linear in the number of patches. `SSM_SIZES` has the sizes of Vim.

    Arguments:
        img_size: (height, width) of the images in pixels, or one number for both.
        in_channels: the number of input channels.
        patch_size: the side of a patch in pixels, which must divide height and width. Each patch is one token.
        depth: the number of state-space blocks.
        hidden_dim: the width of a token; a multiple of 4.
        num_heads: the number of heads of a state-space layer, which must divide expand * hidden_dim. The features of a
            head share one decay: the factor exp(-a dt) by which the state is multiplied at each token.
        state_dim: the number N of state variables of each feature. The state is the memory of the scan.
        expand: the width of the state-space layers, in units of hidden_dim.
        kernel_size: the number of tokens in the window of the convolution before each scan.
        num_classes: the number of classes of the labels; 0 means a network without labels.
        use_checkpoint: recompute activations in the backward pass instead of storing them. Training then needs less
            memory and more time.
        out_channels: the number of output channels; None means as many as in the input.
        time_features: the number of sinusoids in the embedding of the time.
        time_scale: the factor that the time is multiplied by before it is embedded; 1000 suits times in [0, 1].

    Raises:
        ValueError: a setting is out of its range, patch_size does not divide the image, hidden_dim is not a multiple of 4,
            or num_heads does not divide expand * hidden_dim.
    """

    name: ClassVar[str] = "ssm"

    positions: Tensor

    def __init__(
        self,
        img_size: ImageSize = 28,
        in_channels: Count = 1,
        patch_size: Count = 4,
        depth: CountOrZero = 7,
        hidden_dim: Count = 160,
        num_heads: Count = 10,
        state_dim: Count = 16,
        expand: Count = 2,
        kernel_size: Count = 4,
        num_classes: CountOrZero = 0,
        use_checkpoint: bool = False,
        out_channels: Count | None = None,
        time_features: Annotated[int, Range(least=2)] = 256,
        time_scale: Finite = 1000.0,
    ) -> None:
        check_arguments(SSM, locals())
        height, width = size = image_size(img_size, patch_size)
        super().__init__(in_channels, out_channels, num_classes, use_checkpoint=use_checkpoint, img_size=size)
        self.patch_size = patch_size
        grid = height // patch_size, width // patch_size
        self.register_buffer("positions", sincos_positions(grid, hidden_dim), persistent=False)
        self.embed = xavier(nn.Linear(patch_size**2 * in_channels, hidden_dim))
        self.time = normal(TimeEmbedding(time_features, hidden_dim, time_scale), std=0.02)
        self.classes = ClassEmbedding(num_classes, hidden_dim) if num_classes else None
        self.blocks = nn.ModuleList([SSMBlock(hidden_dim, num_heads, state_dim, expand, kernel_size) for _ in range(depth)])
        self.final = AdaLNFinalLayer(hidden_dim, patch_size**2 * self.out_channels)

    def predict(self, x: Tensor, c: Tensor, **cond: Tensor) -> Tensor:
        z = self.embed(patchify(x, self.patch_size)) + self.positions  # (B, N, d)
        e = self.time(c) if self.classes is None else self.time(c) + self.classes(cond["y"])
        e = F.silu(e)
        for block in self.blocks:
            z = self.run(block, z, e)
        return unpatchify(self.final(z, e), self.patch_size, (x.shape[2], x.shape[3]))
