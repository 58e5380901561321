"""Codecs convert between the integer pixels of a data set and the clean data x_0 of a process.

`States` is the codec of the discrete engine. The codec of the Gaussian engine is `continuous_diffusion.PixelScale`. It is part
of that engine, because the likelihood of pixels depends on it.
"""

from ctdiff.codecs.base import Codec
from ctdiff.codecs.states import States

__all__ = ["Codec", "States"]
