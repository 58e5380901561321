"""The one place where the names of a configuration meet classes.

Every kind of part has a table from names to builders and a function `build_*`. To name a new
class in configurations, add a line to its table (and its arguments to `configs.defaults`):

    sources     where images come from                       build_data, build_batches
    processes   rate matrices, schedules, readings           build_process, build_denoiser, build_pixels
    networks    backbones, heads, inputs                     build_network
    objectives  losses, training times, optimisers           build_objective, build_optimizer, build_scheduler
    samplers    samplers, grids of times, guidance           build_sampler, build_grid, build_guidance

What may be chosen for each key is `choices`; what would be chosen in vain, `idle`; rates that the schedule
does not fit, `misfit`.
"""

from ctdiff.build.idle import idle
from ctdiff.build.names import choices
from ctdiff.build.networks import BACKBONES, CLASSES, HEADS, IMAGE_SIZED, INPUTS, build_network
from ctdiff.build.objectives import (
    CHAIN_LOSSES,
    DISTANCES,
    FACTORS,
    GAUSSIAN_LOSSES,
    GAUSSIAN_TIMES,
    LOSSES,
    OPTIMIZERS,
    TIMES,
    WEIGHTS,
    build_loss,
    build_objective,
    build_optimizer,
    build_scheduler,
    build_times,
    build_validation_times,
)
from ctdiff.build.processes import (
    DENOISERS,
    GAUSSIAN,
    GAUSSIAN_DENOISERS,
    GAUSSIAN_SCHEDULES,
    RATES,
    SCALED_RATES,
    SCHEDULES,
    TRAINING_SCHEDULES,
    States,
    build_denoiser,
    build_gaussian_schedule,
    build_pixels,
    build_process,
    is_gaussian,
    misfit,
    with_evidence_floor,
)
from ctdiff.build.samplers import (
    GAUSSIAN_GRIDS,
    GAUSSIAN_SAMPLERS,
    GRIDS,
    GUIDANCE,
    LEAPS,
    RATE_SAMPLERS,
    SAMPLERS,
    SCALES,
    VARIANCES,
    build_grid,
    build_guidance,
    build_sampler,
)
from ctdiff.build.shapes import event_shape
from ctdiff.build.sources import PATH_SOURCES, SOURCES, EncodedBatches, build_batches, build_data, data_path

__all__ = [
    "BACKBONES",
    "CHAIN_LOSSES",
    "CLASSES",
    "DENOISERS",
    "DISTANCES",
    "FACTORS",
    "GAUSSIAN",
    "GAUSSIAN_DENOISERS",
    "GAUSSIAN_GRIDS",
    "GAUSSIAN_LOSSES",
    "GAUSSIAN_SAMPLERS",
    "GAUSSIAN_SCHEDULES",
    "GAUSSIAN_TIMES",
    "GRIDS",
    "GUIDANCE",
    "HEADS",
    "IMAGE_SIZED",
    "INPUTS",
    "LEAPS",
    "LOSSES",
    "OPTIMIZERS",
    "PATH_SOURCES",
    "RATES",
    "RATE_SAMPLERS",
    "SAMPLERS",
    "SCALED_RATES",
    "SCALES",
    "SCHEDULES",
    "SOURCES",
    "TIMES",
    "TRAINING_SCHEDULES",
    "VARIANCES",
    "WEIGHTS",
    "EncodedBatches",
    "States",
    "build_batches",
    "build_data",
    "build_denoiser",
    "build_gaussian_schedule",
    "build_grid",
    "build_guidance",
    "build_loss",
    "build_network",
    "build_objective",
    "build_optimizer",
    "build_pixels",
    "build_process",
    "build_sampler",
    "build_scheduler",
    "build_times",
    "build_validation_times",
    "choices",
    "data_path",
    "event_shape",
    "idle",
    "is_gaussian",
    "misfit",
    "with_evidence_floor",
]
