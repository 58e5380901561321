"""Draws samples from a run and writes them to files: the function behind `ctdiff sample`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor

from ctdiff import config as configuration
from ctdiff.completion import Completion, completion_of
from ctdiff.files import expanded
from ctdiff.hashes import weights_hash
from ctdiff.progress import tracked
from ctdiff.recipe.errors import closest, one_of
from ctdiff.runs import Run, load_run
from ctdiff.sample_files import Format, SampleSet, check_writable, file_paths, name_of_file, samples_name, write
from diffusion_core import Sampler, State
from diffusion_core.ranges import Count, CountOrZero

__all__ = [
    "Drawn",
    "Frames",
    "chain_conditions",
    "chosen_labels",
    "chosen_seeds",
    "class_numbers",
    "draw_frames",
    "numbers",
    "sample_run",
    "spans",
]

_FRAMES = 50  # the number of frames of an animation, including the first and the last state


@dataclass(frozen=True, eq=False)
class Frames:
    """Images at some times of the reverse process.

    Arguments:
        images: the images at each time, int64 (N, C, H, W) on the CPU. The first are noise, the last are clean.
        last: the last state of the sampler.
    """

    images: list[Tensor]
    last: State


@dataclass(frozen=True)
class Drawn:
    """The samples that `sample_run` has drawn.

    Arguments:
        files: the paths of the files. With the format grid, they are the PNG, the .npz and, with `gif`, the GIF. With the
            format png, there is a path for each sample.
        seeds: the seed of each sample.
        labels: the class of each sample; None if the network has no classes.
    """

    files: tuple[Path, ...]
    seeds: list[int]
    labels: list[int] | None


def draw_frames(
    sampler: Sampler[object],
    seeds: Sequence[int],
    cond: Mapping[str, Tensor],
    decode: Callable[[Tensor], Tensor],
    *,
    count: int = 1,
    go_on: Callable[[], bool] = lambda: True,
    progress: bool = False,
) -> Frames:
    """Draw a sample for each seed, and keep the images at some times of the reverse process.

    Arguments:
        sampler: the sampler.
        seeds: one seed for each of the N samples.
        cond: a dictionary of the conditions of the network, tensors with N rows. To complete images, it also has the tensors
            `given` and `known`.
        decode: a function that converts the x of a state to images.
        count: the largest number of states to keep. They are evenly spaced in steps, and the last one is the clean state.
        go_on: a function that is called after each of the `sampler.grid.steps + 2` states. If it returns False, the remaining
            steps are not made.
        progress: whether to show a progress bar.
    """
    final = sampler.grid.steps + 1  # of the states before the first step, after each step, and after the last draw
    kept = {final, *(round(i * final / (count - 1)) for i in range(count - 1))}
    images = []
    states = sampler.trajectory(len(seeds), generator=None, seeds=seeds, progress=False, **cond)
    for i, state in enumerate(tracked(states, "sampling", final + 1) if progress else states):
        if not go_on():
            break
        if i in kept:
            images.append(decode(state.x).cpu())
    return Frames(images, state)


def numbers(text: str | Sequence[int], name: str = "numbers") -> list[int]:
    """Parse a text such as "0-63", "1,5,7" or "0-3,9" as integers. Integers are returned unchanged.

    Raises:
        ValueError: the text has another form.
    """
    if not isinstance(text, str):
        return list(text)
    result: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (1, 0)
        if first > last:
            raise ValueError(f"{name} = {text!r}, expected non-negative integers and ascending ranges, such as 0-63 or 1,5,7")
        result += range(first, last + 1)
    return result


def chosen_seeds(run: Run, num_samples: int | None, seeds: str | Sequence[int] | None) -> list[int]:
    """Return the given seeds, or the seeds 0, 1, ..., N - 1 if there are none.

    N is `num_samples`. If it is None, N is the number of samples in the configuration.

    Raises:
        ValueError: the numbers of seeds and of samples differ.
    """
    if seeds is None:
        return list(range(run.config.sampler.num_samples if num_samples is None else num_samples))
    chosen = numbers(seeds, "seeds")
    if num_samples not in (None, len(chosen)):
        raise ValueError(f"num_samples = {num_samples} and {len(chosen)} seeds, expected as many seeds as samples")
    return chosen


def class_numbers(run: Run, labels: str | Sequence[int | str] | None) -> list[int] | None:
    """Convert labels to numbers. A name becomes its place in the class names of the run.

    Arguments:
        run: the run.
        labels: numbers and names; a text such as "0-9" or "cat,dog" is divided at its commas.

    Raises:
        ValueError: no class has this name, or a text of numbers has another form.
    """
    if labels is None:
        return None
    if isinstance(labels, str) and re.fullmatch(r"[\d\s,-]*", labels):
        labels = numbers(labels, "labels")
    elif isinstance(labels, str):
        labels = [int(part) if part.isdecimal() else part for part in map(str.strip, labels.split(","))]
    names = run.class_names
    if unknown := [label for label in labels if isinstance(label, str) and label not in names]:
        known = f"a number or one of {', '.join(names)}" if names else "a number: the classes of this run have no names"
        raise ValueError(f"label {unknown[0]!r}, expected {known}{closest(unknown[0], names)}")
    return [names.index(label) if isinstance(label, str) else label for label in labels]


def chosen_labels(config: ConfigDict, labels: Sequence[int] | None, count: int) -> dict[str, Tensor]:
    """Return the condition y (count,). The list of labels is repeated until there are `count` labels.

    If no labels are given, all classes are used. If the network has no classes, the result is empty.

    Raises:
        ValueError: a label is not a class of the network.
    """
    classes = config.model.num_classes
    if labels is not None and (wrong := [label for label in labels if label > classes or classes == 0]):
        expected = f"0 .. {classes - 1}, or {classes} for no class" if classes else "none: the network has no classes"
        raise ValueError(f"label {wrong[0]}, expected {expected}")
    if not classes:
        return {}
    return {"y": torch.tensor(list(labels or range(classes))).repeat(count)[:count].to(config.training.device)}


def spans(numbers: Sequence[int]) -> str:
    """Return integers in the form that `numbers` parses: 0, 1, 2, 5 -> "0-2,5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def chain_conditions(
    config: ConfigDict, labels: Sequence[int] | None, completion: Completion | None, count: int
) -> dict[str, Tensor]:
    """Return the labels and the images to complete, as arguments of `Sampler.trajectory`.

    Arguments:
        config: the configuration.
        labels: classes; the list is repeated until there are `count`. None means the classes of the images to complete, or
            all classes.
        completion: the images to complete. None if the model was trained without known pixels.
        count: the number of samples.

    Raises:
        ValueError: a label is not a class of the network.
    """
    if completion is None:
        return chosen_labels(config, labels, count)
    own = None if completion.labels is None or not config.model.num_classes else completion.labels.tolist()
    return {**chosen_labels(config, own if labels is None else labels, count), **completion.conditions(config, count)}


def _given(given: str | Path | None) -> Path | list[int] | None:
    """Return the images to complete: the path of an image, or the numbers of test images, written as `test:0-7`."""
    if given is None:
        return None
    chosen = str(given).removeprefix("test:")
    return expanded(given) if chosen == str(given) else numbers(chosen, "given")


def sample_run(
    path: str | Path,
    *,
    num_samples: Count | None = None,
    seeds: str | Sequence[int] | None = None,
    labels: str | Sequence[int | str] | None = None,
    steps: Count | None = None,
    sampler: str | None = None,
    checkpoint: CountOrZero | None = None,
    ema: bool = True,
    device: str = "cpu",
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    format: Format = "grid",
    gif: bool = False,
    given: str | Path | None = None,
    mask: str | Path | None = None,
) -> Drawn:
    """Draw samples from a run. Write them as a PNG picture and as integers in an .npz file, or as a PNG file for each image.

    If there are several classes, each class has a row of the picture.

    Some runs are trained to complete images (`config.model.known`): the network gets some pixels of an image, the known ones,
    and draws the others. Such a run completes the images of `given`. The picture shows each given image before its completions.
    In a given image, the unknown pixels are grey.

    Arguments:
        path: the folder of the run, or a model as for `ctdiff.pretrained`.
        num_samples: the number of images to draw. None means one for each of the seeds, or the number in the configuration of
            the run if there are no seeds.
        seeds: the random seeds, one for each image, as integers or as a text such as 0-63 or 1,5,7. A seed always gives the
            same image; other seeds do not change it. None means 0, 1, 2 and so on.
        labels: the classes to draw, as a list of numbers or names or as a text such as 0-9 or cat,dog. The first image gets the
            first class, the second image the second class, and so on. After the last class, the list starts again. Only
            for a run that was trained with classes. None means all classes.
        steps: the number of steps from noise to image. More steps take longer, and the images usually look better. None means
            the number in the configuration of the run.
        sampler: the method that turns noise into images; `ctdiff --help` lists the names. None means the sampler of the run's
            configuration.
        checkpoint: the training step of the checkpoint to use. None means the last checkpoint.
        ema: use the moving average of the weights, which usually draws better images, instead of the last weights.
        device: the device that computes, such as cpu, cuda, cuda:1 or mps.
        out: the path of the files, with or without a suffix, or a folder. None means the folder RUN/samples. In a folder, the
            name of a file has the sampler and the number of steps, for example `ancestral_100.png`. If you choose seeds,
            labels, a checkpoint or settings, they are added to the name. With the format png, it is the folder of the images,
            and its name always has the seeds and the checkpoint.
        overrides: flags that change the configuration, for example "--config.sampler.grid.name=cosine".
        format: grid or png. grid writes a picture of all images in a grid (.png), and their integers and seeds (.npz). png
            writes a file for each image in its own size, such as seed_000007.png, or seed_000007_class_3.png if there are
            classes, and a record of the samples (samples.json). Existing files of the same names are replaced. A folder with
            images of another record is refused.
        gif: with the format grid, also write an animation (.gif) of the reverse process, from noise to images.
        given: the images to complete, as the path of one image or as numbers of test images of the run's data, such as
            test:0-7. The first sample completes the first image, the second sample the second image, and so on. After the last
            image, the list starts again. Only for a run that is trained to complete images. None means the first eight test
            images.
        mask: a picture of the known pixels of the given images. White is known, black is unknown. None means that the known
            pixels are chosen at random, in the same way as in the training of the run.

    Returns:
        The paths of the files, the seeds and the labels.

    Raises:
        RunError, CheckpointError: the run or its checkpoint cannot be used.
        ConfigError: an override cannot be used, or this machine does not have the device.
        ValueError: another argument cannot be used.
    """
    if format not in (known := get_args(Format)):
        raise ValueError(f"format = {format!r}, expected {one_of(known)}")
    run = load_run(path, checkpoint, ema, device)
    named = [] if sampler is None else [f"--config.sampler.name={sampler}"]
    configuration.override(run.config, [*overrides, *named], sections=("sampler",))
    chosen = chosen_seeds(run, num_samples, seeds)
    classes = class_numbers(run, labels)
    completion = completion_of(run, _given(given), mask)
    cond = chain_conditions(run.config, classes, completion, len(chosen))
    y = cond.get("y")
    walker = run.sampler(steps)
    single = format == "png"  # a folder has samples of one record, so its name says more
    pictures = {name: value and name_of_file(value) for name, value in (("given", given), ("mask", mask))}
    details = {
        "seeds": spans(chosen) if single or chosen != list(range(len(chosen))) else None,
        "labels": None if classes is None else spans(classes),
        "checkpoint": run.step if single else checkpoint,
        "ema": None if ema else False,
        **pictures,
    }
    name = samples_name(run.config.sampler.name, walker.grid.steps, details, overrides)
    drawn_labels = None if y is None else y.tolist()
    files = file_paths(format, out, run.path / "samples" / name, chosen, drawn_labels, gif)
    record = {
        "step": run.step,
        "weights": weights_hash(run.denoiser),
        "sampler": {**run.config.sampler.to_dict(), "steps": walker.grid.steps, "num_samples": len(chosen)},
        "seeds": spans(chosen),
        "labels": drawn_labels,
        **pictures,
    }
    check_writable(format, files, out, record)
    with run.named():
        drawn = draw_frames(walker, chosen, cond, run.images, count=_FRAMES if gif else 1, progress=True)
    arrays = {
        "seeds": np.array(chosen),
        "step": np.array(run.step),
        "network_calls": np.array(drawn.last.nfe),
        **{name: drawn.last.count(name).cpu().numpy() for name in ("rejected", "clamped", *drawn.last.counts)},
    }
    write(format, files, SampleSet(drawn.images, run.config.data.num_values, y, completion, arrays, record))
    return Drawn(files, chosen, drawn_labels)
