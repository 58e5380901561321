"""CIFAR-10 by the Gaussian engine and DDPM's U-Net of 35.7 million parameters: days on a graphics card."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import defaults

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """DDPM's network and training, sampled by 100 steps of DDIM.

    The images are those of `data/cifar-10-binary.tar.gz`: `--config.data.download` fetches it, `--config.data.path`
    says where it is.
    """
    config = defaults.get_config()
    config.data.update(name="cifar10", image_size=(32, 32), channels=3, flip=True)
    config.model.parameterisation = "epsilon"
    config.model.unet.update(
        widths=(128, 256, 256, 256),
        blocks=(2, 2, 2, 2),
        patch_size=1,
        attention_levels=(1,),  # 16 px
        num_heads=1,
        groups=32,
        scale_shift=False,
        dropout=0.1,
        time_features=128,
        time_dim=512,
        skip_every_map=True,
        upsample="nearest_conv",
        xavier=True,
    )
    config.process.update(name="gaussian", schedule="linear", t_min=1e-3)
    config.loss.update(name="epsilon", times="uniform")
    config.training.update(steps=800_000, batch_size=128, ema_decay=0.9999)
    config.optimizer.update(name="adam", lr=2e-4, betas=(0.9, 0.999), weight_decay=0.0, schedule="constant", warmup=5000)
    config.sampler.update(name="ddim", steps=100)
    config.saving.update(checkpoint_every=5000, validate_every=5000, validation_images=2000, preview_every=10_000)
    return config
