"""The keys of the published configurations: each with its home here and what it does, or why it is gone.

`python -m ctdiff.published docs/configuration.md` writes the table of a document again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ctdiff.recipe import tables

__all__ = ["BEGIN", "DATA", "END", "LOSSES", "NETWORKS", "RATES", "ROWS", "SAMPLERS", "Row", "fits", "table", "with_table"]

BEGIN, END = "<!-- generated: the published keys -->", "<!-- end of the published keys -->"
"""The lines of a document between which the table stands."""

Kind = Literal[
    "a text", "an integer", "a number", "True or False", "integers", "an integer, or integers", "a text or none", "any"
]


@dataclass(frozen=True)
class Row:
    """A published key.

    Arguments:
        key: the key. Several names of the same key are separated by commas.
        kind: what its value may be.
        homes: the keys here. `<model>` stands for the network, `<data>` for the data set. None means that the key is gone.
        meaning: what it does here, or why it is gone.
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
    """Whether a value is of a kind."""
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
_EXACT = "Gone: ratios of probabilities are exact here, also where a probability is tiny, so nothing is added to them."
_FOLLOWS = "Gone: it follows from"

ROWS = (
    # The top level
    Row("device", "a text", ("training.device",), "Where to compute."),
    Row("distributed", "True or False", (), f"{_TORCHRUN}. It needs no key."),
    Row("num_gpus", "an integer", (), f"{_TORCHRUN}: `--nproc_per_node` is their number."),
    Row("experiment_name, save_location", "a text", (), "Gone: `ctdiff train --workdir=FOLDER` says where a run is kept."),
    Row("init_model_path", "a text or none", (), "Gone: a training starts from new weights, or continues its own run."),
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
        "The weight of the cross-entropy, a mean over dimensions. It acts with the continuous-time ELBO only.",
    ),
    Row(
        "loss.min_time",
        "a number",
        ("process.t_min",),
        "The smallest time. Training, the sampler and the likelihood share it.",
    ),
    Row(
        "loss.one_forward_pass",
        "True or False",
        ("loss.ct_elbo.one_forward_pass",),
        "Whether the network is called once, at the state after the jump. It acts with the continuous-time ELBO only.",
    ),
    # training
    Row("training.train_step_name", "a text", (), "Gone: there is one training loop. `Standard` is what it does."),
    Row("training.n_iters", "an integer", ("training.steps",), "The number of steps of the optimiser."),
    Row("training.clip_grad", "True or False", ("training.clip",), "False is 0, which does not clip."),
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
        "The steps in which the learning rate grows. It is constant afterwards: `optimizer.schedule.name=constant`.",
    ),
    Row("training.max_t", "a number", ("process.t_max",), "The largest time. Training and the sampler share it."),
    Row("training.resume", "True or False", (), "Gone: the same command continues a run. `--resume` insists on it."),
    # data
    Row(
        "data.name",
        "a text",
        ("data.name",),
        "`DiscreteMNIST` and `BinMNIST` are `mnist`, `DiscreteFashionMNIST` is `fashion_mnist`, and `DiscreteCIFAR10` is "
        "`cifar10`.",
    ),
    Row("data.train", "True or False", (), "Gone: a run reads both sets, one to train and the other to measure."),
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
        "False is no augmentation. For True, choose the largest angle of `data.rotation`, or `data.flip`.",
    ),
    Row("data.random_flips", "True or False", ("data.flip",), "Whether every other image is mirrored in training."),
    Row("data.location, data.root", "a text", ("data.<data>.path",), "The folder of the images."),
    # model: the network
    Row(
        "model.name",
        "a text",
        ("model.name", "process.rates.name"),
        "It joins a rate matrix and a network here: `GaussianLogDiTEMA` is `gaussian_target` with `dit`, `GaussianUViTEMA` "
        "with `uvit`, `GaussianTargetRateImageX0PredEMA` with `unet`. Without `EMA` at the end, `training.ema_decay` is 0.",
    ),
    Row("model.ema_decay", "a number", ("training.ema_decay",), "The share of the moving average that a step keeps."),
    Row("model.patch_size", "an integer", ("model.<model>.patch_size",), "The side of a patch in pixels."),
    Row("model.input_channel, model.input_channels", "an integer", ("data.channels",), "1 is grey, 3 is RGB."),
    Row("model.concat_dim", "an integer", (), f"{_FOLLOWS} `data.channels` and `data.image_size`."),
    Row("model.hidden_dim", "an integer", ("model.<model>.hidden_dim",), "The width of a token."),
    Row(
        "model.depth",
        "an integer",
        ("model.<model>.depth",),
        "The number of transformer blocks. A U-ViT has them without the middle block here, so 13 is 12.",
    ),
    Row("model.num_heads", "an integer", ("model.<model>.num_heads",), "The number of attention heads."),
    Row("model.mlp_ratio", "a number", ("model.<model>.mlp_ratio",), "The width of the MLPs, in widths of a token."),
    Row(
        "model.dropout",
        "a number",
        ("model.unet.dropout", "loss.label_dropout"),
        "Of a U-Net, the dropout of its residual blocks. The published DiT reads it as the share of withheld labels, and the "
        "published U-ViT does not read it. `model.dit.dropout` and `model.uvit.dropout` are dropout inside their blocks.",
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
        "Gone: it avoids an inaccurate formula in the tail of the logistic distribution. The formula here is exact everywhere.",
    ),
    Row("model.data_min_max", "any", (), f"{_FOLLOWS} `data.num_values`: the values are scaled to [-1, 1]."),
    # model: the U-Net
    Row("model.ch", "an integer", ("model.unet.widths",), "The number of channels, times `ch_mult`."),
    Row("model.ch_mult", "integers", ("model.unet.widths",), "The factor of `ch` at each level."),
    Row("model.num_res_blocks", "an integer", ("model.unet.blocks",), "The number of residual blocks of each level."),
    Row("model.num_scales", "an integer", (), f"{_FOLLOWS} `ch_mult`, which has one number for each level."),
    Row(
        "model.scale_count_to_put_attn",
        "an integer",
        ("model.unet.attention_levels",),
        "The level that has attention; 0 is the finest. The middle has attention too.",
    ),
    Row(
        "model.attn_resolutions",
        "integers",
        ("model.unet.attention_levels",),
        "The levels whose maps have this many pixels a side. `scale_count_to_put_attn` is used instead, if it is given.",
    ),
    Row("model.skip_rescale", "True or False", ("model.unet.residual_scale",), "True is sqrt(1/2), False is 1."),
    Row(
        "model.time_embed_dim",
        "an integer",
        ("model.unet.time_features", "model.unet.time_dim"),
        "The number of sinusoids. The embedding is four times as wide.",
    ),
    Row("model.padding", "True or False", (), f"{_FOLLOWS} the sizes: each level has to halve the one before exactly."),
    Row("model.is_img", "True or False", (), "Gone: all data are images."),
    # model: the forward process
    Row("model.rate_sigma", "a number", ("process.rates.gaussian_target.sigma_r",), "The typical distance of a jump."),
    Row("model.Q_sigma", "a number", ("process.rates.gaussian_target.Q",), "The standard deviation of the stationary law."),
    Row(
        "model.time_exp, model.time_exponential",
        "a number",
        ("process.schedule.exponential.b",),
        "b of the schedule `tau = a (b^t - 1)`.",
    ),
    Row("model.time_base", "a number", ("process.schedule.exponential.a",), "a of the same schedule."),
    Row(
        "model.rate_const",
        "a number",
        ("process.rates.uniform.scale",),
        "The rate from one value to another of uniform noise. The scale here is the rate of a uniform draw: S times as much.",
    ),
    Row(
        "model.t_func",
        "a text",
        ("process.schedule.name",),
        "`log_sqr` is `log_square`, `sqrt_cos` is `cosine_root`, `log` is `exponential`.",
    ),
    Row("model.sigma_min", "a number", ("process.schedule.geometric.sigma_min",), "Of birth-death noise."),
    Row("model.sigma_max", "a number", ("process.schedule.geometric.sigma_max",), "Of birth-death noise."),
    # optimizer
    Row(
        "optimizer.name",
        "a text",
        ("optimizer.name",),
        "`Adam`, `AdamW` or `SGD`, with torch's defaults: betas of (0.9, 0.999), and no weight decay except for AdamW.",
    ),
    Row("optimizer.lr", "a number", ("optimizer.lr",), "The learning rate."),
    # saving
    Row("saving.checkpoint_freq", "an integer", ("saving.checkpoint_every",), "Steps between checkpoints."),
    Row("saving.num_checkpoints_to_keep", "an integer", ("saving.keep",), "How many checkpoints stay."),
    Row("saving.sample_plot_path", "a text", (), "Gone: pictures are in the folder `samples` of the run."),
    Row("saving.checkpoint_archive_freq", "an integer", (), "Gone: `saving.keep` says how many checkpoints stay."),
    Row("saving.log_low_freq", "an integer", ("saving.preview_every",), "Steps between pictures of samples."),
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
        "`MidPointTauL` is `midpoint_tau_leaping`. The last step draws x_0 here; the published ones take its mode "
        "(`sampler.argmax`).",
    ),
    Row("sampler.num_steps", "an integer", ("sampler.steps",), "The number of steps."),
    Row("sampler.min_t", "a number", ("sampler.t_min",), "Where the steps end, if it is not `loss.min_time`."),
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
        "The corrector moves after each step. 0 is no corrector, and so is `corrector_entry_time` 0.",
    ),
    Row(
        "sampler.corrector_step_size_multiplier",
        "a number",
        ("sampler.corrector.step_multiplier",),
        "The length of a move, in lengths of a step.",
    ),
    Row("sampler.corrector_entry_time", "a number", ("sampler.corrector.entry_time",), "The time from which it moves."),
    Row(
        "sampler.is_ordinal",
        "True or False",
        ("sampler.tau_leaping.leap.name",),
        "True is `ordinal`: jumps add up. False is `categorical`: a pixel with two jumps stays. The corrector has it too.",
    ),
    Row(
        "sampler.reject_multiple_jumps",
        "True or False",
        ("sampler.tau_leaping.leap.name",),
        "True is `categorical`, False is `ordinal`, if there is no `is_ordinal`.",
    ),
    Row("sampler.sample_freq", "an integer", ("saving.preview_every",), "Steps between pictures of samples."),
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
"""How the name of a published model begins."""
NETWORKS: Mapping[str, str] = {
    **dict.fromkeys(("LogDiT", "DiT"), "dit"),
    **dict.fromkeys(("LogUViT", "UViT"), "uvit"),
    **dict.fromkeys(("ImageX0Pred", "ImageX0PredPaul", "Unet", "UNet"), "unet"),
}
"""How it goes on, before `EMA`."""


def table() -> str:
    """The table of all published keys, as Markdown."""
    lines = ["| published key | home here | what it does here, or why it is gone |", "|---|---|---|"]
    for row in ROWS:
        keys, homes = (", ".join(f"`{name}`" for name in names) for names in (row.names, row.homes))
        lines.append(f"| {keys} | {homes or '-'} | {row.meaning} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """A document with its table written anew.

    Raises:
        ValueError: it has no lines `BEGIN` and `END`.
    """
    return tables.replaced(text, BEGIN, END, f"{table()}\n")
