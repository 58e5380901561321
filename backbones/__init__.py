"""Networks: float images in, float images out, one real number an example, an optional label; and heads for integers."""

from backbones.attention import CrossAttention, ImageAttention, TokenAttention
from backbones.base import Backbone
from backbones.diffit import DIFFIT_SIZES, DiffiT, LatentDiffiT
from backbones.dit import DIT_SIZES, AdaLNBlock, AdaLNZeroBlock, CrossAttentionBlock, DiT, DiTBlock, InContextBlock
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
from backbones.resblocks import Downsample, NearestConv, ResidualDown, ResidualUp, ShuffledConv, StridedConv, Upsample
from backbones.unet import UNET_SIZES, UNet
from backbones.uvit import UVIT_SIZES, UViT

__all__ = [
    "DIFFIT_SIZES",
    "DIT_SIZES",
    "UNET_SIZES",
    "UVIT_SIZES",
    "AdaLNBlock",
    "AdaLNZeroBlock",
    "Backbone",
    "CategoricalHead",
    "ClassEmbedding",
    "CrossAttention",
    "CrossAttentionBlock",
    "DiT",
    "DiTBlock",
    "DiffiT",
    "Downsample",
    "EmbeddedInput",
    "Head",
    "ImageAttention",
    "InContextBlock",
    "LatentDiffiT",
    "LogisticMixtureHead",
    "NearestConv",
    "OneHotInput",
    "OrdinalInput",
    "PixelInput",
    "PixelLogits",
    "ResidualDown",
    "ResidualUp",
    "ShuffledConv",
    "SinusoidalEmbedding",
    "StridedConv",
    "TimeEmbedding",
    "TokenAttention",
    "TruncatedLogisticHead",
    "UNet",
    "UViT",
    "Upsample",
    "bin_centres",
]
