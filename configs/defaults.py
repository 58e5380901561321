"""Every key of a configuration, with its reason; a preset starts from these and changes a few.

What a name chooses is described under that name: `model.name = "unet"` is built from
`model.unet`, and the other sections of its kind are ignored. So one flag, such as
`--config.model.name=uvit`, is a complete change.

This is not a preset itself: a preset is a file like `configs/mnist.py`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """All sections with their defaults."""
    return ConfigDict(
        {
            "data": _data(),
            "model": _model(),
            "process": _process(),
            "loss": _loss(),
            "training": _training(),
            "optimizer": _optimizer(),
            "sampler": _sampler(),
            "saving": _saving(),
        }
    )


def _data() -> ConfigDict:
    return ConfigDict(
        {
            "name": "embedded_mnist",  # 10,000 genuine digits that ship with the package: nothing to download
            "path": "",  # the folder or file of every other source
            "download": False,  # the network is only touched on request
            "image_size": (28, 28),  # height and width; images of another size are resized, with antialiasing
            "channels": 1,  # 1 is grey, 3 is RGB
            "ground": 255,  # the grey level behind transparent pixels of a folder's images: white, as paper
            "skip_damaged": False,  # True leaves out images of a folder that cannot be read, and says which
            "num_values": 256,  # S: how many values a pixel has
            "quantise": True,  # 256 levels are quantised to S; False takes the values as they are
            "rotation": 0.0,  # the largest random rotation in degrees; a few degrees help where images are few
            "flip": False,  # mirror every other image in training: for photographs, not for digits
            "fraction": 1.0,  # the share of the training set that is used, for studies with little data
            "test_fraction": 0.1,  # the share that becomes the test set, where a source has none
        }
    )


def _model() -> ConfigDict:
    return ConfigDict(
        {
            "name": "unet",
            # What the output means: x0, leave_one_out or absorbing; of a Gaussian process epsilon, x0, v, karras.
            "parameterisation": "x0",
            "learned_variance": False,  # True doubles a Gaussian network's outputs: it predicts the noise of its steps too
            "karras_std": 0.5,  # of the data, where karras scales inputs and targets by it
            "head": "truncated_logistic",  # 2 numbers a pixel instead of S logits: neighbouring levels share what is learnt
            "components": 2,  # of logistic_mixture, which also has a component of its own for the background
            "inputs": "ordinal",  # grey levels are ordered, so one number says it all; one_hot or embedded where they are not
            "embedding": 8,  # numbers a value is embedded in, where inputs are embedded
            "num_classes": 0,  # 0 ignores the labels
            "unet": {
                "widths": (64, 128),  # of the levels, the finest first
                "blocks": (1, 3),  # residual blocks of each level: most of them where they are cheap
                "patch_size": 2,  # pixels folded into channels: a quarter of the work, and nothing is lost
                "attention_levels": (-1,),  # the lowest level, where attention is cheap
                "num_heads": 4,
                "head_width": 0,  # of an attention head, in place of num_heads; 0 is none
                "groups": 8,  # of the norms
                "scale_shift": True,  # blocks see the time as shift and scale of a norm; False adds it
                "dropout": 0.0,  # minutes of training do not overfit
                "time_features": 64,
                "time_dim": 128,
                "skip_every_map": False,  # True is the published wiring: a skip connection from every map
                "downsample": "strided_conv",  # or residual: BigGAN's blocks
                "upsample": "shuffled_conv",  # nearest_conv as published, residual
                "residual_scale": 1.0,  # sqrt(1/2) keeps the variance of a sum of equal parts
                "xavier": False,  # True begins with DDPM's weights instead of torch's
                "use_checkpoint": False,  # True recomputes activations: less memory, more time
            },
            # The transformers' defaults have 2 million parameters each, like preset mnist_unet.
            "uvit": {
                "patch_size": 4,  # 49 tokens of a 28x28 image
                "depth": 4,
                "hidden_dim": 192,
                "num_heads": 6,
                "mlp_ratio": 3.0,
                "dropout": 0.0,
                "dropout_attention": 0.0,
                "qkv_bias": False,
                "time_mlp": False,  # the time token is the sinusoids themselves
                "final_conv": True,  # smooths the borders of patches; costly with S logits a pixel
                "use_checkpoint": False,
            },
            "dit": {
                "patch_size": 4,
                "depth": 4,
                "hidden_dim": 160,
                "num_heads": 5,
                "mlp_ratio": 4.0,
                "dropout": 0.0,
                "dropout_attention": 0.0,
                "conditioning": "adaln_zero",  # the paper's best; adaln, in_context, cross_attention
                "use_checkpoint": False,
            },
            "diffit": {
                "widths": (64, 128),  # of the levels, the finest first
                "blocks": (1, 4),  # of each level, on the way down and again on the way up; the lowest level is passed once
                "windows": (7, 0),  # the side of each level's windows in its pixels; 0 is the whole level
                "num_heads": 4,
                "mlp_ratio": 4.0,
                "patch_size": 2,  # as of unet
                "groups": 8,
                "dropout": 0.0,
                "dropout_attention": 0.0,
                "time_features": 64,
                "time_dim": 144,
                "use_checkpoint": False,
            },
            "latent_diffit": {  # DiffiT as a plain stack: the published model of latents, here on pixels
                "patch_size": 4,  # 49 tokens of a 28x28 image, all in one window
                "depth": 4,  # blocks
                "hidden_dim": 176,  # of a token and of the embedding of the time
                "num_heads": 4,
                "mlp_ratio": 4.0,  # the hidden layer of the perceptrons, in units of hidden_dim
                "dropout": 0.0,  # of the branches' outputs
                "dropout_attention": 0.0,  # of the attention weights
                "time_features": 256,  # sinusoids of the time, as published
                "use_checkpoint": False,  # as of unet
            },
        }
    )


def _process() -> ConfigDict:
    return ConfigDict(
        {
            "name": "gaussian_target",  # small jumps between similar grey levels, like Gaussian noise but on integers
            "schedule": "exponential",  # constant, geometric, linear, log_linear, polynomial, cosine, cosine_amplitude
            "scale": 1.0,  # of all jump rates; a birth-death chain, whose jumps are of one level, needs about S^2 / 10
            "t_min": 0.01,  # noise below this time is invisible, and is neither trained on nor sampled through
            "t_max": 1.0,  # where training ends and sampling begins: all is noise
            "gaussian_target": {
                "sigma_r": 6.0,  # the width of a jump in grey levels
                "Q": 512.0,  # the width of the stationary law: close to uniform
            },
            "constant": {"rate": 4.0},  # tau(1) = 4: 98 % of the way to noise
            "exponential": {"a": 3.0, "b": 100.0},  # most of the noise late, as published with the Gaussian target
            "geometric": {"sigma_min": 0.1, "sigma_max": 3.0},
            "log_linear": {"eps": 1e-3},  # what survives to t = 1
            "polynomial": {"power": 2.0},  # survival 1 - t^power
            "gaussian": {"T": 1000},  # linear, cosine and quadratic are published as tables of so many values
            "sigmoid": {"log_snr_max": 10.0, "log_snr_min": -10.0},  # the ends of a straight line of log-SNR
            "shifted_cosine": {"side": 64.0},  # of the images: larger ones need more noise
            "laplace": {"mu": 0.0, "b": 0.5},  # a density over log-SNR, for training: sample on the grid log_snr
            "cauchy": {"mu": 0.0, "g": 1.0},
        }
    )


def _loss() -> ConfigDict:
    return ConfigDict(
        {
            # The best pictures in minutes; elbo is a likelihood. Of a Gaussian process epsilon, x0, v, hybrid, vlb, elbo.
            "name": "cross_entropy",
            "cross_entropy_weight": 0.001,  # of the cross-entropy in elbo_and_cross_entropy, as published
            "distance": "l2",  # of the Gaussian regressions, as are the next: l1, smooth_l1
            "smooth_l1": {"beta": 1.0},  # the error at which the parabola becomes a line
            "weight": "none",  # of noise levels; min_snr bounds that of nearly clean data
            "min_snr": {"gamma": 5.0},
            "hybrid": {"weight": 0.001},  # of the bound that teaches the variance
            "times": "stratified",  # one in each stratum: less variance than uniform; importance learns; Gaussian: log_snr
            "importance": {"bins": 100},  # published with a bin for each of T steps: most of a short run to fill them
            "log_snr": {"mu": 0.0, "b": 4.0},  # the Laplace density of log-SNR that times are drawn with
            "label_dropout": 0.1,  # the share of labels withheld, so that a conditional network can do without one
        }
    )


def _training() -> ConfigDict:
    return ConfigDict(
        {
            "steps": 1500,
            "batch_size": 64,
            "accumulation": 1,  # parts a batch is divided in: less memory, the same gradient
            "clip": 1.0,  # of the gradient's norm, against rare large steps; 0 does not clip
            "ema_decay": 0.998,  # an average over about 500 steps
            "seed": 0,  # keys initialisation, data order and noise, and seeds the generators of Python, numpy and torch
            "precision": "auto",  # of the backbone: bfloat16 on a CPU with units for it (AMX), elsewhere float32
            "device": "cpu",
        }
    )


def _optimizer() -> ConfigDict:
    return ConfigDict(
        {
            "name": "adamw",
            "lr": 1e-3,
            "betas": (0.9, 0.99),  # a shorter memory than 0.999: a run has few thousand steps
            "momentum": 0.9,  # of sgd
            "weight_decay": 0.01,  # of matrices and kernels only
            "schedule": "cosine",
            "warmup": 100,  # steps until Adam's second moments can be trusted
            "final": 0.0,  # the learning rate at the end, as a share of lr
        }
    )


def _sampler() -> ConfigDict:
    return ConfigDict(
        {
            "name": "ancestral",
            "steps": 100,
            "grid": "uniform",  # quadratic, cosine; Gaussian: respaced as published, log_snr for schedules of training
            "log_snr_max": 9.0,  # where the grid log_snr ends: sigma = 0.011
            "log_snr_min": -9.0,  # and where it begins: alpha = 0.011
            "t_min": 0.0,  # where the steps end; 0 is process.t_min, and where that is 0 too a Gaussian chain's 1 / T
            # Where they begin; 0 is process.t_max, but for euler and tau_leaping at most 0.999 if the schedule's rate there
            # is infinite or above 1e6: they step by rates. (A mask's reverse rates stay finite: it begins at process.t_max.)
            "t_max": 0.0,
            "num_samples": 64,  # an 8x8 grid
            "sub_batch": 16,  # how many samples the network sees at once; a sample depends on it in the last bits
            # Of x0: values that led to x_t with less than this share of the largest probability count less.
            "evidence_floor": 0.1,
            "argmax": False,  # the last step draws; its mode is sharper and biased
            "leap": "ordinal",  # tau_leaping and the corrector: grey levels add up; categorical where values have no order
            "corrector_steps": 0,  # leaps that follow each step; a network call each
            "corrector_multiplier": 0.25,  # their length, in steps: short ones mend, long ones add errors of their own
            "corrector_entry_time": 1.0,  # they begin below this time
            "variance": "small",  # of the noise of a Gaussian step; large, or learned where the network learned it
            "eta": 0.0,  # ddim: 0 is deterministic, 1 as noisy as ancestral
            "guidance": 1.0,  # towards the label: 0 ignores it, 1 is the conditional model, more leans further
            "guidance_scale": "constant",  # in time; interval, power_cosine
            "guidance_interval": (0.2, 0.8),  # the times of interval
            "guidance_power": 4.0,  # of power_cosine: how late guidance rises
            "guidance_form": "posterior",  # of the discrete engine; rate, for samplers with rates
            "clip": 1.0,  # bounds a Gaussian prediction to the range of pixels; 0 does not
        }
    )


def _saving() -> ConfigDict:
    return ConfigDict(
        {
            "checkpoint_every": 250,  # steps that an interrupted machine may lose
            "keep": 2,  # checkpoints that stay
            "validate_every": 250,
            "validation_images": 500,  # of the test set, with the same noise every time
            "preview_every": 500,  # steps between grids of samples
            "preview_samples": 16,
            "preview_steps": 50,  # of the sampler, to keep previews quick
        }
    )
