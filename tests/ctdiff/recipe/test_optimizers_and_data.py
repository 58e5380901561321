"""A configuration builds its optimiser, and loads its data."""

from __future__ import annotations

import pytest
import torch

from ctdiff import config as configuration
from ctdiff import recipe

from ..small import small
from .parts import step


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_optimisers(name, schedule):
    config = small(
        "mnist", optimizer__name=name, optimizer__schedule__name=schedule, optimizer__lr=0.01, optimizer__weight_decay=0.3
    )
    network = recipe.build_network(config)
    optimizer = recipe.part(config, "optimizer")(network.parameters())
    factor = recipe.part(config, "optimizer.schedule", steps=config.training.steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    assert type(optimizer) is {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == sum(
        p.numel() for p in network.parameters()
    )
    rates_seen = []
    for _ in range(5):
        rates_seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates_seen[0] == pytest.approx(0.005)
    assert rates_seen[-1] == pytest.approx(0.0 if schedule == "cosine" else 0.01)


def test_settings_of_optimisers_arrive():
    weights = [torch.nn.Parameter(torch.ones(2, 2))]
    adam = small("mnist", optimizer__name="adam", optimizer__adam__betas=(0.8, 0.95))
    assert recipe.part(adam, "optimizer")(weights).param_groups[0]["betas"] == (0.8, 0.95)
    sgd = small("mnist", optimizer__name="sgd", optimizer__sgd__momentum=0.7)
    assert recipe.part(sgd, "optimizer")(weights).param_groups[0]["momentum"] == 0.7


# Data


def test_data_sources(tmp_path):
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    own = {"data__array__path": tmp_path / "images.npy", "data__array__test_fraction": 0.25}
    options = {"data__name": "array", "data__fraction": 1.0, **own}
    splits = recipe.build_data(small("mnist", **options, data__channels=3))
    assert (len(splits.train), len(splits.test), splits.train.shape, splits.train.num_values) == (9, 3, (3, 8, 8), 8)
    with pytest.raises(ValueError, match=r"the images have 3 channels, config\.data\.channels = 1"):
        recipe.build_data(small("mnist", **options))
    with pytest.raises(ValueError, match=r"expected 0 \.\. 7"):
        recipe.build_data(small("mnist", **options, data__channels=3, data__quantise=False))
    with pytest.raises(FileNotFoundError):
        recipe.build_data(small("mnist", data__name="idx", data__idx__path=tmp_path / "absent"))
    for name in ("mnist", "fashion_mnist"):
        with pytest.raises(FileNotFoundError, match="allow the download"):
            recipe.build_data(small("mnist", data__name=name, **{f"data__{name}__path": tmp_path}))
    for preset in ("mnist", "mnist_ddpm"):
        step(small(preset, data__channels=3, data__rotation=10.0))
    assert recipe.event_shape(small("mnist", data__image_size=(9,))) == (1, 9, 9)


@pytest.mark.parametrize("values", [2, 3, 16])
def test_images_that_are_states_already_are_not_quantised_to_black(values, tmp_path):
    import numpy as np

    images = np.random.default_rng(0).integers(0, values, (12, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "states.npy", images)
    path = {"data__array__path": tmp_path / "states.npy"}
    options = {"data__name": "array", "data__fraction": 1.0, "data__num_values": values, **path}
    with pytest.raises(ValueError, match=rf"every pixel .* is 0 of config\.data\.num_values = {values} .*quantise = False"):
        recipe.build_data(small("mnist_absorbing", **options))
    splits = recipe.build_data(small("mnist_absorbing", **options, data__quantise=False))
    assert sorted(image.numpy().tobytes() for part in (splits.train, splits.test) for image in part.images) == sorted(
        image.tobytes() for image in images
    )


def test_a_folder_of_images(tmp_path):
    from PIL import Image

    for i in range(6):
        Image.new("RGB", (12, 9), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    own = {"data__folder__path": tmp_path, "data__fraction": 1.0, "data__channels": 3}
    assert recipe.build_data(small("mnist", data__name="folder", **own)).train.shape == (3, 8, 8)


def test_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small("mnist", data__name="folder", data__folder__path="here")
    recipe.set_absolute_path(config)
    assert config.data.folder.path == str(tmp_path / "here")
    config = small("mnist")
    recipe.set_absolute_path(config)
    assert configuration.differences(config, small("mnist")) == {}
