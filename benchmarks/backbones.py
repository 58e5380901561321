"""Time transformer backbones in units of a stack of timm's ViT blocks of equal width and depth.

Forward and backward in float32, batch 8, 32 x 32 x 4 latents, 256 patches of 2 x 2. The stack
takes random tokens of the same number (those of time and class included) and passes a gradient back
to them, as it would to an embedding; what else a backbone has, such as patches, conditioning,
long skips and the last layer, is its own cost. The figure is the median of interleaved ratios.

    python benchmarks/backbones.py                 # every row
    python benchmarks/backbones.py --pairs 15      # more pairs
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backbones import DIT_SIZES, UVIT_SIZES, Backbone, DiT, UViT
from backbones.dit import AdaLNBlock, CrossAttentionBlock, InContextBlock
from ctdiff.memory import keep_freed_memory

BATCH, SIZE, CHANNELS, CLASSES = 8, 32, 4, 1000
PATCHES = (SIZE // 2) ** 2
Work = Callable[[], object]


def backbone_work(backbone: Backbone) -> Work:
    """Forward and backward of a backbone."""
    x, c, y = torch.randn(BATCH, CHANNELS, SIZE, SIZE), torch.rand(BATCH), torch.randint(CLASSES, (BATCH,))

    def work() -> None:
        backbone.zero_grad(set_to_none=True)
        backbone(x, c, y).square().mean().backward()

    return work


def stack_work(width: int, num_heads: int, depth: int, tokens: int) -> Work:
    """Forward and backward of a stack of timm's ViT blocks."""
    from timm.models.vision_transformer import Block

    stack = torch.nn.Sequential(*(Block(width, num_heads) for _ in range(depth)))
    z = torch.randn(BATCH, tokens, width, requires_grad=True)

    def work() -> None:
        stack.zero_grad(set_to_none=True)
        z.grad = None
        stack(z).square().mean().backward()

    return work


def dit(**settings: object) -> Backbone:
    """DiT-S/2 with 1000 classes and a learned variance."""
    arguments = {**DIT_SIZES["S/2"], "num_classes": CLASSES, "out_channels": 2 * CHANNELS, **settings}
    return DiT(SIZE, CHANNELS, **arguments)


def uvit() -> Backbone:
    """U-ViT-S/2 with 1000 classes, and no final convolution, as published for latents."""
    return UViT(SIZE, CHANNELS, 2, **UVIT_SIZES["S"], num_classes=CLASSES, final_conv=False)


ROWS: dict[str, tuple[Callable[[], Backbone], tuple[int, int, int, int]]] = {
    "DiT-S/2, adaLN-Zero": (dit, (384, 6, 12, PATCHES)),
    "DiT-S/2, adaLN": (lambda: dit(conditioning=AdaLNBlock), (384, 6, 12, PATCHES)),
    "DiT-S/2, in context": (lambda: dit(conditioning=InContextBlock), (384, 6, 12, PATCHES + 2)),
    "DiT-S/2, cross-attention": (lambda: dit(conditioning=CrossAttentionBlock), (384, 6, 12, PATCHES)),
    "U-ViT-S/2": (uvit, (512, 8, 13, PATCHES + 2)),
}
"""What is measured: a backbone, and the width, heads, depth and tokens of its stack."""


def seconds(work: Work) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=11, help="interleaved pairs per row")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    arguments = parser.parse_args()
    if importlib.util.find_spec("timm") is None:
        sys.exit("timm is not installed, and its blocks are the unit (pip install timm)")
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, {arguments.pairs} pairs")
    for name, (build, peer) in ROWS.items():
        if arguments.only not in name:
            continue
        ours, theirs = backbone_work(build()), stack_work(*peer)
        ours(), theirs()
        ratios = []
        for _ in range(arguments.pairs):
            unit = seconds(theirs)
            ratios.append(seconds(ours) / unit)
        print(f"{name:48s} {statistics.median(ratios):6.2f}   ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    main()
