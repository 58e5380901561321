"""Time transformer backbones in units of a stack of timm's ViT blocks of equal width and depth.

Forward and backward in float32, and under bfloat16 autocast where a training here would use it, batch 8,
32 x 32 x 4 latents, 256 patches of 2 x 2. The stack takes random tokens of the same number (those of time and
class included) and passes a gradient back to them, as it would to an embedding; what else a backbone has, such as
patches, conditioning, long skips and the last layer, is its own cost. The figure is the median of interleaved ratios.

    python benchmarks/backbones.py                 # every row
    python benchmarks/backbones.py --pairs 15      # more pairs

The presets of equal size are counted, and measured in milliseconds an image of a batch of 64, medians of
interleaved rounds. "forward" is an evaluation without gradients, as a sampler makes it; "forward and backward"
ends with the gradient of every parameter. Only the backbone counts, without noising, head and optimiser, and in
the precision of a training here: bfloat16 on a CPU with units for it (AMX), else float32.

    python benchmarks/backbones.py --sizes         # the table of docs/backbones.md, needs no timm
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

from backbones import DIT_SIZES, UVIT_SIZES, Backbone, DiT, PixelLogits, UViT
from backbones.dit import AdaLNBlock, CrossAttentionBlock, InContextBlock
from ctdiff import config as configuration
from ctdiff import recipe, summary
from ctdiff.memory import keep_freed_memory
from ctdiff.training.precision import resolved_precision

BATCH, SIZE, CHANNELS, CLASSES = 8, 32, 4, 1000
PATCHES = (SIZE // 2) ** 2
PRESETS = ("mnist_unet", "mnist_uvit", "mnist_dit", "mnist_diffit", "mnist_ssm", "mnist_convnext")
PRESET_BATCH = 64
Work = Callable[[], object]


def backbone_work(backbone: Backbone, half: bool) -> Work:
    """Forward and backward of a backbone."""
    x, c, y = torch.randn(BATCH, CHANNELS, SIZE, SIZE), torch.rand(BATCH), torch.randint(CLASSES, (BATCH,))

    def work() -> None:
        backbone.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = backbone(x, c, y=y)
        out.float().square().mean().backward()

    return work


def stack_work(half: bool, width: int, num_heads: int, depth: int, tokens: int) -> Work:
    """Forward and backward of a stack of timm's ViT blocks."""
    from timm.models.vision_transformer import Block

    stack = torch.nn.Sequential(*(Block(width, num_heads) for _ in range(depth)))
    z = torch.randn(BATCH, tokens, width, requires_grad=True)

    def work() -> None:
        stack.zero_grad(set_to_none=True)
        z.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = stack(z)
        out.float().square().mean().backward()

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


def preset_work(network: PixelLogits, event: tuple[int, int, int]) -> tuple[Work, Work]:
    """Forward, and forward and backward, of a preset's backbone on random images."""
    integers = torch.randint(network.num_values, (PRESET_BATCH, *event))
    x, c = network.inputs(integers, network.num_values), torch.rand(PRESET_BATCH)

    def forward() -> None:
        with torch.no_grad():
            network.backbone(x, c)

    def both() -> None:
        network.zero_grad(set_to_none=True)
        network.backbone(x, c).square().mean().backward()

    return forward, both


def print_sizes(rounds: int, only: str) -> None:
    """Parameters, arithmetic and time of the presets, a row of a Markdown table each."""
    works: dict[str, tuple[Work, Work]] = {}
    counts: dict[str, str] = {}
    for name in (preset for preset in PRESETS if only in preset):
        config = configuration.load(name)
        network, event = recipe.build_network(config), recipe.event_shape(config)
        assert isinstance(network, PixelLogits)  # the presets are of the discrete engine
        counted = summary(network, event, runs=0)
        counts[name] = f"{counted.parameters:,} | {counted.multiply_accumulates / 1e6:.1f} M"
        works[name] = preset_work(network, event)
    taken: dict[str, list[list[float]]] = {name: [] for name in works}
    for _ in range(rounds + 1):  # the first round allocates and chooses kernels: it does not count
        for name, pair in works.items():
            taken[name].append([1000 * seconds(work) / PRESET_BATCH for work in pair])
    precision = resolved_precision("auto", "cpu")
    print(f"{precision}, batch {PRESET_BATCH}, medians of {rounds} rounds (smallest to largest), ms an image\n")
    print("| preset | parameters | multiply-accumulates | forward | forward and backward |")
    print("|---|---|---|---|---|")
    for name, times in taken.items():
        cells = [f"{statistics.median(t):.2f} ({min(t):.2f} to {max(t):.2f})" for t in zip(*times[1:], strict=True)]
        print(f"| `{name}` | {counts[name]} | {' | '.join(cells)} |")


def print_ratios(pairs: int, only: str) -> None:
    """Time of the published small models in units of a stack of timm's blocks."""
    if importlib.util.find_spec("timm") is None:
        sys.exit("timm is not installed, and its blocks are the unit (pip install timm)")
    for name, (make, peer) in ROWS.items():
        if only not in name:
            continue
        for precision in dict.fromkeys(("float32", resolved_precision("auto", "cpu"))):
            half = precision == "bfloat16"
            ours, theirs = backbone_work(make(), half), stack_work(half, *peer)
            ours(), theirs()
            ratios = []
            for _ in range(pairs):
                unit = seconds(theirs)
                ratios.append(seconds(ours) / unit)
            spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{f'{name}, {precision}':48s} {statistics.median(ratios):6.2f}   {spread}", flush=True)


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=11, help="interleaved pairs per row, or rounds of --sizes")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--sizes", action="store_true", help="the four presets of equal size instead of the ratios")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, {arguments.pairs} pairs")
    (print_sizes if arguments.sizes else print_ratios)(arguments.pairs, arguments.only)


if __name__ == "__main__":
    main()
