"""The digits by a large U-ViT and a thousand tau-leaping steps: hours on a graphics card, not minutes on a CPU."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import defaults

__all__ = ["get_config"]


def get_config() -> ConfigDict:
    """S = 256, Gaussian target rates on the published schedule, the leave-one-out reading, ELBO with a little cross-entropy."""
    config = defaults.get_config()
    config.model.update(name="uvit", parameterisation="leave_one_out")
    config.model.uvit.update(patch_size=2, depth=14, hidden_dim=512, num_heads=16, mlp_ratio=4.0)
    config.loss.update(name="elbo_and_cross_entropy", cross_entropy_weight=0.001)
    config.training.update(steps=300_000, batch_size=128, ema_decay=0.9999)
    # As published with the U-ViT for images of this size.
    config.optimizer.update(lr=2e-4, betas=(0.99, 0.999), weight_decay=0.03, schedule="constant", warmup=2500)
    config.sampler.update(name="tau_leaping", steps=1000)
    config.saving.update(checkpoint_every=5000, validate_every=5000, validation_images=2000, preview_every=10_000)
    return config
