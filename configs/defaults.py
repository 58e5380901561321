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
            "num_values": 256,  # S: how many values a pixel has
            "quantise": True,  # 256 levels are quantised to S; False takes the values as they are
            "rotation": 0.0,  # the largest random rotation in degrees; a few degrees help where images are few
            "fraction": 1.0,  # the share of the training set that is used, for studies with little data
            "test_fraction": 0.1,  # the share that becomes the test set, where a source has none
        }
    )


def _model() -> ConfigDict:
    return ConfigDict(
        {
            "name": "unet",
            "parameterisation": "x0",  # what the output means: x0, leave_one_out or absorbing; epsilon for a Gaussian process
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
                "dropout": 0.0,  # minutes of training do not overfit
                "use_checkpoint": False,  # True recomputes activations: less memory, more time
            },
            "uvit": {
                "patch_size": 4,  # 49 tokens of a 28x28 image
                "depth": 8,
                "hidden_dim": 192,
                "num_heads": 6,
                "mlp_ratio": 4.0,
                "dropout": 0.0,
                "dropout_attention": 0.0,
                "final_conv": True,  # smooths the borders of patches; costly with S logits a pixel
                "use_checkpoint": False,
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
            "gaussian": {"T": 1000},  # the published schedules are tables of so many values
        }
    )


def _loss() -> ConfigDict:
    return ConfigDict(
        {
            "name": "cross_entropy",  # the best pictures in minutes; elbo is a likelihood; epsilon is the Gaussian process's
            "cross_entropy_weight": 0.001,  # of the cross-entropy in elbo_and_cross_entropy, as published
            "times": "stratified",  # one time in each stratum: less variance than uniform
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
            "seed": 0,  # keys initialisation, data order and noise
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
            "grid": "uniform",
            "t_min": 0.0,  # where the steps end; 0 is process.t_min
            # Where they begin; 0 is process.t_max, but for euler and tau_leaping at most 0.999 if the schedule's rate there
            # is infinite or above 1e6: they step by rates. (A mask's reverse rates stay finite: it begins at process.t_max.)
            "t_max": 0.0,
            "num_samples": 64,  # an 8x8 grid
            "sub_batch": 16,  # how many samples the network sees at once; a sample depends on it in the last bits
            "argmax": False,  # the last step draws; its mode is sharper and biased
            "leap": "ordinal",  # tau_leaping and the corrector: grey levels add up; categorical where values have no order
            "corrector_steps": 0,  # leaps that follow each step; a network call each
            "corrector_multiplier": 1.0,  # their length, in steps
            "corrector_entry_time": 1.0,  # they begin below this time
            "variance": "small",  # of a Gaussian ancestral step
            "eta": 0.0,  # ddim: 0 is deterministic, 1 as noisy as ancestral
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
