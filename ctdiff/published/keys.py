"""The table of published keys. A home is a key of ctdiff with the same meaning. A key without a home is gone.

`python -m ctdiff.published docs/configuration.md` updates the table in a document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ctdiff.recipe import tables

__all__ = ["BEGIN", "DATA", "END", "LOSSES", "NETWORKS", "RATES", "ROWS", "SAMPLERS", "Row", "fits", "table", "with_table"]

BEGIN, END = "<!-- generated: the published keys -->", "<!-- end of the published keys -->"
"""The lines before and after the table in a document."""

Kind = Literal[
    "a text", "an integer", "a number", "True or False", "integers", "an integer, or integers", "a text or none", "any"
]


@dataclass(frozen=True)
class Row:
    """A published key.

    Arguments:
        key: the key. Several names of the same key are separated by commas.
        kind: the kind of its value.
        homes: the keys of ctdiff with the same meaning. `<model>` stands for the network, `<data>` for the data set. The tuple
            is empty if the key is gone.
        meaning: what the key does, or why it is gone.
    """

    key: str
    kind: Kind
    homes: tuple[str, ...]
    meaning: str

    @property
    def names(self) -> list[str]:
        """The names of the key, such as `data.location` and `data.root`."""
        return self.key.split(", ")


def fits(value: Any, kind: Kind) -> bool:
    """Return whether a value is of a kind."""
    if kind == "any":
        return True
    integer = isinstance(value, int) and not isinstance(value, bool)
    integers = isinstance(value, list | tuple) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    return {
        "a text": isinstance(value, str),
        "an integer": integer or (isinstance(value, float) and value.is_integer()),
        "a number": integer or isinstance(value, float),
        "True or False": isinstance(value, bool),
        "integers": integers,
        "an integer, or integers": integer or integers,
        "a text or none": value is None or isinstance(value, str),
    }[kind]


_TORCHRUN = "Gone: training on several devices comes with `torchrun`, which starts a process for each device"
_EXACT = "Gone: it is a number that is added to small probabilities. Here, their ratios are computed exactly."
_FOLLOWS = "Gone: it follows from"

ROWS = (
    # The top level
    Row("device", "a text", ("training.device",), "Where to compute."),
    Row("distributed", "True or False", (), f"{_TORCHRUN}. It needs no key."),
    Row("num_gpus", "an integer", (), f"{_TORCHRUN}: `--nproc_per_node` is their number."),
    Row("experiment_name, save_location", "a text", (), "Gone: `ctdiff train --workdir=FOLDER` chooses the folder of a run."),
    Row("init_model_path", "a text or none", (), "Gone: a training starts with new weights, or continues its own run."),
    # loss
    Row(
        "loss.name",
        "a text",
        ("loss.name",),
        "`CTElbo` and `GenericAux` are the published continuous-time ELBO, `NLL` is the cross-entropy.",
    ),
    Row("loss.eps_ratio", "a number", (), _EXACT),
    Row(
        "loss.nll_weight",
        "a number",
        ("loss.ct_elbo.nll_weight",),
        "The weight of the cross-entropy, a mean over dimensions. Only the continuous-time ELBO uses it.",
    ),
    Row("loss.min_time", "a number", ("process.t_min",), "The smallest time of training, the sampler and the likelihood."),
    Row(
        "loss.one_forward_pass",
        "True or False",
        ("loss.ct_elbo.one_forward_pass",),
        "Whether the network is called once, at the state after the jump. Only the continuous-time ELBO uses it.",
    ),
    # training
    Row("training.train_step_name", "a text", (), "Gone: there is only one training loop, which is equal to `Standard`."),
    Row("training.n_iters", "an integer", ("training.steps",), "The number of steps of the optimiser."),
    Row("training.clip_grad", "True or False", ("training.clip",), "Whether gradients are clipped. False becomes 0."),
    Row(
        "training.grad_norm",
        "a number",
        ("training.clip",),
        "The largest norm of the gradient, if `clip_grad` is True. Without this key it is 1.",
    ),
    Row(
        "training.warmup",
        "an integer",
        ("optimizer.schedule.warmup",),
        "The number of steps in which the learning rate grows. Then it is constant: `optimizer.schedule.name=constant`.",
    ),
    Row("training.max_t", "a number", ("process.t_max",), "The largest time of training and of the sampler."),
    Row("training.resume", "True or False", (), "Gone: the same command continues a run. `--resume` fails without a run."),
    # data
    Row(
        "data.name",
        "a text",
        ("data.name",),
        "`DiscreteMNIST` and `BinMNIST` are `mnist`, `DiscreteFashionMNIST` is `fashion_mnist`, and `DiscreteCIFAR10` is "
        "`cifar10`.",
    ),
    Row("data.train", "True or False", (), "Gone: a run uses both sets, one for training and the other for measurements."),
    Row("data.download", "True or False", ("data.<data>.download",), "Whether to download missing files."),
    Row("data.S", "an integer", ("data.num_values",), "The number of values of a pixel."),
    Row("data.batch_size", "an integer", ("training.batch_size",), "The number of images of a training step."),
    Row("data.shuffle", "True or False", (), "Gone: every epoch has a new order, which depends on `training.seed`."),
    Row("data.image_size", "an integer, or integers", ("data.image_size",), "Height and width."),
    Row("data.shape", "integers", ("data.channels", "data.image_size"), "Channels, height and width."),
    Row(
        "data.use_augm",
        "True or False",
        ("data.rotation",),
        "Whether images are augmented. False becomes 0. For True, choose the angle `data.rotation`, or `data.flip`.",
    ),
    Row("data.random_flips", "True or False", ("data.flip",), "Whether each training image is mirrored with probability 1/2."),
    Row("data.location, data.root", "a text", ("data.<data>.path",), "The folder of the images."),
    # model: the network
    Row(
        "model.name",
        "a text",
        ("model.name", "process.rates.name"),
        "It chooses a rate matrix and a network: `GaussianLogDiTEMA` is `gaussian_target` with `dit`, `GaussianUViTEMA` with "
        "`uvit`, and `GaussianTargetRateImageX0PredEMA` with `unet`. Without `EMA` at the end, `training.ema_decay` is 0.",
    ),
    Row("model.ema_decay", "a number", ("training.ema_decay",), "The share of the moving average that is kept in each step."),
    Row("model.patch_size", "an integer", ("model.<model>.patch_size",), "The side of a patch in pixels."),
    Row("model.input_channel, model.input_channels", "an integer", ("data.channels",), "1 is grey, 3 is RGB."),
    Row("model.concat_dim", "an integer", (), f"{_FOLLOWS} `data.channels` and `data.image_size`."),
    Row("model.hidden_dim", "an integer", ("model.<model>.hidden_dim",), "The width of a token."),
    Row(
        "model.depth",
        "an integer",
        ("model.<model>.depth",),
        "The number of transformer blocks. For a U-ViT, the middle block is not counted, so 13 becomes 12.",
    ),
    Row("model.num_heads", "an integer", ("model.<model>.num_heads",), "The number of attention heads."),
    Row("model.mlp_ratio", "a number", ("model.<model>.mlp_ratio",), "The width of the MLPs, divided by the width of a token."),
    Row(
        "model.dropout",
        "a number",
        ("model.unet.dropout", "loss.label_dropout"),
        "For a U-Net, the dropout of its residual blocks. The published DiT uses it as the share of withheld labels, and the "
        "published U-ViT does not use it. `model.dit.dropout` and `model.uvit.dropout` are dropout inside their blocks.",
    ),
    Row("model.time_scale_factor", "a number", ("model.<model>.time_scale",), "The factor of the time in its embedding."),
    Row(
        "model.model_output",
        "a text",
        ("model.head.name",),
        "`logistic_pars` is `truncated_logistic`, `logits` is `categorical`.",
    ),
    Row(
        "model.fix_logistic",
        "True or False",
        (),
        "Gone: it avoids an inaccurate formula in the tails of the logistic distribution. Here, the formula is accurate.",
    ),
    Row("model.data_min_max", "any", (), f"{_FOLLOWS} `data.num_values`: the values are scaled to [-1, 1]."),
    # model: the U-Net
    Row("model.ch", "an integer", ("model.unet.widths",), "The number of channels. It is multiplied by `ch_mult`."),
    Row("model.ch_mult", "integers", ("model.unet.widths",), "The factor of `ch` at each level."),
    Row("model.num_res_blocks", "an integer", ("model.unet.blocks",), "The number of residual blocks of each level."),
    Row("model.num_scales", "an integer", (), f"{_FOLLOWS} `ch_mult`, which has one number for each level."),
    Row(
        "model.scale_count_to_put_attn",
        "an integer",
        ("model.unet.attention_levels",),
        "The level that has attention. Level 0 has the largest maps. The middle has attention too.",
    ),
    Row(
        "model.attn_resolutions",
        "integers",
        ("model.unet.attention_levels",),
        "The side in pixels of the maps that have attention. `scale_count_to_put_attn` is used instead, if it is given.",
    ),
    Row("model.skip_rescale", "True or False", ("model.unet.residual_scale",), "True is sqrt(1/2), False is 1."),
    Row(
        "model.time_embed_dim",
        "an integer",
        ("model.unet.time_features", "model.unet.time_dim"),
        "The number of sinusoidal features. The embedding is four times as wide.",
    ),
    Row("model.padding", "True or False", (), f"{_FOLLOWS} the sizes: each side is exactly half of that of the level before."),
    Row("model.is_img", "True or False", (), "Gone: all data are images."),
    # model: the forward process
    Row("model.rate_sigma", "a number", ("process.rates.gaussian_target.sigma_r",), "The typical distance of a jump."),
    Row("model.Q_sigma", "a number", ("process.rates.gaussian_target.Q",), "The standard deviation of the stationary law."),
    Row(
        "model.time_exp, model.time_exponential",
        "a number",
        ("process.schedule.exponential.b",),
        "The number b of the schedule `tau = a (b^t - 1)`.",
    ),
    Row(
        "model.time_base", "a number", ("process.schedule.exponential.a",), "The number a of the schedule `tau = a (b^t - 1)`."
    ),
    Row(
        "model.rate_const",
        "a number",
        ("process.rates.uniform.scale",),
        "The rate from one value to another one, for uniform noise. The scale is S times this rate: the rate of uniform draws.",
    ),
    Row(
        "model.t_func",
        "a text",
        ("process.schedule.name",),
        "`log_sqr` is `log_square`, `sqrt_cos` is `cosine_root`, `log` is `exponential`.",
    ),
    Row("model.sigma_min", "a number", ("process.schedule.geometric.sigma_min",), "The smallest sigma of birth-death noise."),
    Row("model.sigma_max", "a number", ("process.schedule.geometric.sigma_max",), "The largest sigma of birth-death noise."),
    # optimizer
    Row(
        "optimizer.name",
        "a text",
        ("optimizer.name",),
        "`Adam`, `AdamW` or `SGD`, with torch's defaults: betas of (0.9, 0.999), and no weight decay except for AdamW.",
    ),
    Row("optimizer.lr", "a number", ("optimizer.lr",), "The learning rate."),
    # saving
    Row("saving.checkpoint_freq", "an integer", ("saving.checkpoint_every",), "The number of steps between checkpoints."),
    Row("saving.num_checkpoints_to_keep", "an integer", ("saving.keep",), "The number of checkpoints that are kept."),
    Row("saving.sample_plot_path", "a text", (), "Gone: pictures are in the folder `samples` of the run."),
    Row("saving.checkpoint_archive_freq", "an integer", (), "Gone: `saving.keep` is the number of checkpoints that are kept."),
    Row("saving.log_low_freq", "an integer", ("saving.preview_every",), "The number of steps between pictures of samples."),
    Row("saving.low_freq_loggers", "any", (), "Gone: pictures of samples and the loss of test images are always recorded."),
    Row(
        "saving.enable_preemption_recovery, saving.preemption_start_day_YYYYhyphenMMhyphenDD, "
        "saving.prepare_to_resume_after_timeout",
        "any",
        (),
        "Gone: SIGTERM saves a checkpoint, and the same command continues the run.",
    ),
    # sampler
    Row(
        "sampler.name",
        "a text",
        ("sampler.name", "sampler.corrector.name"),
        "`TauL`, `TauLeaping`, `ElboTauL` and `PCTauLeaping` are `tau_leaping`, `LBJF` and `ElboLBJF` are `euler`, "
        "`MidPointTauL` is `midpoint_tau_leaping`. The last step draws x_0. The last step of the published samplers takes the "
        "most probable x_0 (`sampler.argmax`).",
    ),
    Row("sampler.num_steps", "an integer", ("sampler.steps",), "The number of steps."),
    Row("sampler.min_t", "a number", ("sampler.t_min",), "The time at which the steps end, if it is not `loss.min_time`."),
    Row("sampler.eps_ratio", "a number", (), f"{_EXACT} `sampler.evidence_floor` limits rates of the parameterisation x0."),
    Row(
        "sampler.initial_dist",
        "a text",
        ("sampler.tau_leaping.initial.name",),
        "The law of the first sample. Without this key it is the stationary law of the rates, which is `gaussian` for "
        "Gaussian target rates and `uniform` for the others.",
    ),
    Row(
        "sampler.num_corrector_steps",
        "an integer",
        ("sampler.corrector.corrector_steps",),
        "The number of corrector moves after each step. If this or `corrector_entry_time` is 0, there is no corrector.",
    ),
    Row(
        "sampler.corrector_step_size_multiplier",
        "a number",
        ("sampler.corrector.step_multiplier",),
        "The length of a corrector move, as a multiple of the length of a step.",
    ),
    Row(
        "sampler.corrector_entry_time",
        "a number",
        ("sampler.corrector.entry_time",),
        "The largest time with corrector moves.",
    ),
    Row(
        "sampler.is_ordinal",
        "True or False",
        ("sampler.tau_leaping.leap.name",),
        "True is `ordinal`: the jumps of a pixel add up. False is `categorical`: a pixel with two jumps stays. The corrector "
        "uses it too.",
    ),
    Row(
        "sampler.reject_multiple_jumps",
        "True or False",
        ("sampler.tau_leaping.leap.name",),
        "True is `categorical`, False is `ordinal`. `is_ordinal` is used instead, if it is given.",
    ),
    Row("sampler.sample_freq", "an integer", ("saving.preview_every",), "The number of steps between pictures of samples."),
)

DATA: Mapping[str, str] = {
    "DiscreteMNIST": "mnist",
    "BinMNIST": "mnist",
    "DiscreteFashionMNIST": "fashion_mnist",
    "DiscreteCIFAR10": "cifar10",
}
LOSSES: Mapping[str, str] = {"CTElbo": "ct_elbo", "GenericAux": "ct_elbo", "NLL": "cross_entropy"}
SAMPLERS: Mapping[str, str] = {
    **dict.fromkeys(("TauL", "TauLeaping", "ElboTauL", "PCTauL", "PCTauLeaping"), "tau_leaping"),
    **dict.fromkeys(("LBJF", "ElboLBJF"), "euler"),
    **dict.fromkeys(("MidPointTauL", "ElboMidPointTauL", "MidPointTauLeaping"), "midpoint_tau_leaping"),
}
RATES: Mapping[str, str] = {
    "GaussianTargetRate": "gaussian_target",
    "Gaussian": "gaussian_target",
    "UniformRate": "uniform",
    "Uniform": "uniform",
    "UniVar": "uniform",
    "BirthDeathRate": "birth_death",
    "BirthDeath": "birth_death",
}
"""The rates by the first part of the name of a published model."""
NETWORKS: Mapping[str, str] = {
    **dict.fromkeys(("LogDiT", "DiT"), "dit"),
    **dict.fromkeys(("LogUViT", "UViT"), "uvit"),
    **dict.fromkeys(("ImageX0Pred", "ImageX0PredPaul", "Unet", "UNet"), "unet"),
}
"""The network by the second part of the name, before `EMA`."""


def table() -> str:
    """Return the table of all published keys, as Markdown."""
    lines = ["| published key | key of ctdiff | what it does, or why ctdiff does not have it |", "|---|---|---|"]
    for row in ROWS:
        keys, homes = (", ".join(f"`{name}`" for name in names) for names in (row.names, row.homes))
        lines.append(f"| {keys} | {homes or '-'} | {row.meaning} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """Return a document with the present table.

    Raises:
        ValueError: the document does not have the lines `BEGIN` and `END`.
    """
    return tables.replaced(text, BEGIN, END, f"{table()}\n")
