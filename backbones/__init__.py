"""Networks that map float images to float images, given a time and an optional label, and heads for integer images."""

from backbones.attention import CrossAttention, TokenAttention
from backbones.base import Backbone
from backbones.convnext import ConvNeXtBlock
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
from backbones.image_attention import ChannelAttention, ClassAttention, ImageAttention, LinearAttention, UNetAttention
from backbones.known import KnownChannels
from backbones.resampling import Downsample, NearestConv, ResidualDown, ResidualUp, ShuffledConv, StridedConv, Upsample
from backbones.resblocks import ResBlock, UNetBlock
from backbones.ssm import SSM, SSM_SIZES
from backbones.unet import UNET_SIZES, UNet
from backbones.uvit import UVIT_SIZES, UViT

__all__ = [
    "DIFFIT_SIZES",
    "DIT_SIZES",
    "SSM",
    "SSM_SIZES",
    "UNET_SIZES",
    "UVIT_SIZES",
    "AdaLNBlock",
    "AdaLNZeroBlock",
    "Backbone",
    "CategoricalHead",
    "ChannelAttention",
    "ClassAttention",
    "ClassEmbedding",
    "ConvNeXtBlock",
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
    "KnownChannels",
    "LatentDiffiT",
    "LinearAttention",
    "LogisticMixtureHead",
    "NearestConv",
    "OneHotInput",
    "OrdinalInput",
    "PixelInput",
    "PixelLogits",
    "ResBlock",
    "ResidualDown",
    "ResidualUp",
    "ShuffledConv",
    "SinusoidalEmbedding",
    "StridedConv",
    "TimeEmbedding",
    "TokenAttention",
    "TruncatedLogisticHead",
    "UNet",
    "UNetAttention",
    "UNetBlock",
    "UViT",
    "Upsample",
    "bin_centres",
]
