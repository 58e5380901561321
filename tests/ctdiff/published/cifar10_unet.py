"""A configuration of the published family: CIFAR-10, a U-Net, the continuous-time ELBO."""

from __future__ import annotations

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment_name = "cifar10"
    config.save_location = "out"
    config.init_model_path = None
    config.device = "cpu"
    config.distributed = False
    config.num_gpus = 0

    config.loss = loss = ml_collections.ConfigDict()
    loss.name = "GenericAux"
    loss.eps_ratio = 1e-9
    loss.nll_weight = 0.001
    loss.min_time = 0.01
    loss.one_forward_pass = True

    config.training = training = ml_collections.ConfigDict()
    training.train_step_name = "Standard"
    training.n_iters = 2_000_000
    training.clip_grad = True
    training.warmup = 5000

    config.data = data = ml_collections.ConfigDict()
    data.name = "DiscreteCIFAR10"
    data.root = "datasets"
    data.train = True
    data.download = True
    data.S = 256
    data.batch_size = 128
    data.shuffle = True
    data.shape = [3, 32, 32]
    data.random_flips = True

    config.model = model = ml_collections.ConfigDict()
    model.name = "GaussianTargetRateImageX0PredEMA"
    model.ema_decay = 0.9999
    model.ch = 128
    model.num_res_blocks = 2
    model.num_scales = 4
    model.ch_mult = [1, 2, 2, 2]
    model.input_channels = 3
    model.scale_count_to_put_attn = 1
    model.data_min_max = [0, 255]
    model.dropout = 0.1
    model.skip_rescale = True
    model.time_embed_dim = model.ch
    model.time_scale_factor = 1000
    model.fix_logistic = False
    model.rate_sigma = 6.0
    model.Q_sigma = 512.0
    model.time_exponential = 100.0
    model.time_base = 3.0

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "Adam"
    optimizer.lr = 2e-4

    config.saving = saving = ml_collections.ConfigDict()
    saving.enable_preemption_recovery = False
    saving.checkpoint_freq = 1000
    saving.num_checkpoints_to_keep = 2
    saving.log_low_freq = 10000
    saving.low_freq_loggers = ["denoisingImages"]

    return config
