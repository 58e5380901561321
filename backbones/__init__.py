"""Networks: float images in, float images out, one real number an example, an optional label; and heads for integers."""

from backbones.attention import ImageAttention, TokenAttention
from backbones.base import Backbone
from backbones.distributions import Categorical, Distribution, Mixture, inverse_cdf
from backbones.embeddings import ClassEmbedding, SinusoidalEmbedding, TimeEmbedding
from backbones.heads import (
    CategoricalHead,
    EmbeddedInput,
    Head,
    LogisticMixtureHead,
    OneHotInput,
    OrdinalInput,
    PixelInput,
    PixelLogits,
    TruncatedLogisticHead,
    bin_centres,
)
from backbones.logistic import TruncatedLogistic
from backbones.unet import UNet
from backbones.uvit import UViT

__all__ = [
    "Backbone",
    "Categorical",
    "CategoricalHead",
    "ClassEmbedding",
    "Distribution",
    "EmbeddedInput",
    "Head",
    "ImageAttention",
    "LogisticMixtureHead",
    "Mixture",
    "OneHotInput",
    "OrdinalInput",
    "PixelInput",
    "PixelLogits",
    "SinusoidalEmbedding",
    "TimeEmbedding",
    "TokenAttention",
    "TruncatedLogistic",
    "TruncatedLogisticHead",
    "UNet",
    "UViT",
    "bin_centres",
    "inverse_cdf",
]
