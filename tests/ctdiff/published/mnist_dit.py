"""A configuration of the published family: MNIST, a discrete DiT, cross-entropy."""

from __future__ import annotations

import os

import ml_collections


def get_config():
    folder = "SavedModels/MNIST/"

    config = ml_collections.ConfigDict()
    config.device = "cpu"
    config.distributed = False
    config.num_gpus = 0

    config.loss = loss = ml_collections.ConfigDict()
    loss.name = "NLL"
    loss.eps_ratio = 1e-9
    loss.nll_weight = 0
    loss.min_time = 0.02
    loss.one_forward_pass = True

    config.training = training = ml_collections.ConfigDict()
    training.train_step_name = "Standard"
    training.n_iters = 3 * 10**5
    training.clip_grad = True
    training.grad_norm = 2
    training.warmup = 0
    training.max_t = 0.999

    config.data = data = ml_collections.ConfigDict()
    data.name = "DiscreteMNIST"
    data.train = True
    data.download = True
    data.S = 256
    data.batch_size = 32
    data.shuffle = True
    data.image_size = 28
    data.shape = [1, data.image_size, data.image_size]
    data.use_augm = False
    data.location = "lib/datasets/"

    model = config.model = ml_collections.ConfigDict()
    config.model.name = "GaussianLogDiTEMA"
    model.ema_decay = 0.9999
    model.patch_size = 4
    model.input_channel = 1
    model.concat_dim = model.input_channel * data.image_size * data.image_size
    model.hidden_dim = 512
    model.depth = 7
    model.num_heads = 8
    model.mlp_ratio = 4.0
    model.dropout = 0.2
    model.time_scale_factor = 1000
    model.model_output = "logistic_pars"
    model.fix_logistic = False
    model.data_min_max = (0, data.S - 1)
    model.rate_sigma = 5.5
    model.Q_sigma = 500.0
    model.time_exp = 90.0
    model.time_base = 2.5

    config.optimizer = ml_collections.ConfigDict({"name": "Adam", "lr": 2e-4})

    config.saving = saving = ml_collections.ConfigDict()
    saving.checkpoint_freq = 1000
    saving.sample_plot_path = os.path.join(folder, "PNGs")

    config.sampler = sampler = ml_collections.ConfigDict()
    sampler.name = "TauL"
    sampler.num_steps = 500
    sampler.min_t = loss.min_time
    sampler.eps_ratio = 1e-9
    sampler.initial_dist = "gaussian"
    sampler.num_corrector_steps = 0
    sampler.corrector_step_size_multiplier = 1.5
    sampler.corrector_entry_time = 0.0
    sampler.is_ordinal = True
    sampler.sample_freq = 1500

    return config
