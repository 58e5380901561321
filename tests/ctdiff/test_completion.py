"""Runs that complete images: training, resuming, and `ctdiff sample --given --mask`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import KnownChannels
from ctdiff import config as configuration
from ctdiff import load_run, recipe, train
from ctdiff.cli import main
from ctdiff.comparison import compare_runs
from ctdiff.completion import Completion, completion_of, mask_image
from ctdiff.evaluation import evaluate_run
from diffusion_core import HalfMask, PerSampleRandomness

from .small import flags, small
from .tiny_runs import images, pixels, tiny_run

UPPER = HalfMask()((1, 1, 8, 8))[0]
MASKS = ["half", "rectangle", "random_pixels", "prefix"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", params=["mnist_completion", "mnist_ddpm"])
def run(request, folder):
    """A run of each engine on images of 8 x 8 pixels: 8 values in the discrete one, 256 in the Gaussian one."""
    more = {} if request.param == "mnist_completion" else {"model__known__name": "half", "data__num_values": 256}
    return tiny_run(folder, request.param, request.param, **more)


def arrays(run, *arguments):
    """What `ctdiff sample` writes."""
    base = run.parent / "drawn"
    assert main(["sample", str(run), f"--out={base}", *arguments]) == 0
    with Image.open(base.with_suffix(".png")) as picture:
        sheet = np.asarray(picture.convert("L"))
    with np.load(base.with_suffix(".npz")) as file:
        return {**file}, sheet


def test_images_from(folder):
    """The held-out images that runs complete."""
    assert len(recipe.build_data(small("mnist_completion", **images(folder))).test) == 24


def shown(sheet, row, column):
    """An image of a picture, at its own size: 8 x 8 pixels are magnified by 7, with 2 pixels between."""
    top, left = 2 + 58 * row, 2 + 58 * column
    return sheet[top : top + 56 : 7, left : left + 56 : 7]


def test_test_images_are_completed_in_turn(run):
    drawn, sheet = arrays(run, "--given=test:3,1", "--num_samples=6")
    config = load_run(run).config
    test, values = recipe.build_data(config).test.images, config.data.num_values
    expected = test[[3, 1, 3, 1, 3, 1]].numpy()
    assert np.array_equal(drawn["given"], expected)
    assert np.array_equal(drawn["known"], UPPER.expand(6, 1, 8, 8).numpy())
    assert np.array_equal(drawn["images"][drawn["known"]], expected[drawn["known"]])
    assert (drawn["images"] != expected)[~drawn["known"]].any()
    # Two groups of an image and its three completions, in a row.
    assert sheet.shape == (60, 8 * 58 + 2)
    grey = np.where(UPPER[0], test[3, 0].numpy().astype(float), values // 2)
    assert np.array_equal(shown(sheet, 0, 0), np.round(grey * 255 / (values - 1)))
    for column, i in ((1, 0), (2, 2), (3, 4), (5, 1)):
        assert np.array_equal(shown(sheet, 0, column), np.round(drawn["images"][i, 0] * 255.0 / (values - 1)))


def test_a_sample_depends_on_its_seed_and_its_image(run):
    both, _ = arrays(run, "--given=test:3,1", "--seeds=5,9")
    alone, _ = arrays(run, "--given=test:1", "--seeds=9")
    assert np.array_equal(both["images"][1:], alone["images"])


def test_without_given_the_first_test_images_are_completed(run):
    drawn, _ = arrays(run, "--num_samples=9")
    test = recipe.build_data(load_run(run).config).test.images.numpy()
    assert np.array_equal(drawn["given"], test[[0, 1, 2, 3, 4, 5, 6, 7, 0]])


def test_a_file_and_a_mask(run, tmp_path):
    pixels, known = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, np.zeros((8, 8), dtype=np.uint8)
    known[2:5, 1:] = 255
    Image.fromarray(pixels).save(tmp_path / "given.png")
    Image.fromarray(known).convert("1").save(tmp_path / "mask.png")
    drawn, sheet = arrays(
        run, f"--given={tmp_path / 'given.png'}", f"--mask={tmp_path / 'mask.png'}", "--num_samples=3", "--gif"
    )
    values = load_run(run).config.data.num_values
    assert np.array_equal(drawn["known"], np.broadcast_to(known > 0, (3, 1, 8, 8)))
    expected = np.broadcast_to(pixels.astype(int) * values // 256, (3, 1, 8, 8))
    assert np.array_equal(drawn["images"][drawn["known"]], expected[drawn["known"]])
    assert sheet.shape == (2 * 58 + 2, 2 * 58 + 2)
    with Image.open(run.parent / "drawn.gif") as animation:
        assert np.array_equal(shown(np.asarray(animation.convert("L")), 0, 0), shown(sheet, 0, 0))


def test_python_draws_the_same(run):
    drawn, _ = arrays(run, "--given=test:0-3", "--num_samples=4")
    loaded = load_run(run)
    completion = completion_of(loaded, range(4), None)
    x = loaded.sampler().sample(4, seeds=range(4), **completion.conditions(loaded.config, 4))
    assert np.array_equal(loaded.images(x).numpy(), drawn["images"])


def refused(capsys, *arguments):
    assert main(list(map(str, arguments))) != 0
    return capsys.readouterr().err


def test_what_does_not_fit_is_refused(run, folder, tmp_path, capsys):
    def put(name, array):
        Image.fromarray(np.asarray(array, dtype=np.uint8)).save(tmp_path / name)
        return tmp_path / name

    image, ramp = put("image.png", np.zeros((8, 8))), put("ramp.png", np.full((8, 8), 100))
    wide, white = put("wide.png", np.zeros((8, 10))), put("white.png", np.full((8, 8), 255))
    (tmp_path / "text.png").write_text("no image")
    for arguments, message in (
        (
            [f"--given={wide}"],
            f"given = '{wide}' has 8 x 10 pixels (height x width), expected 8 x 8: the size of the run's images",
        ),
        ([f"--given={image}", f"--mask={wide}"], f"mask = '{wide}' has 8 x 10 pixels"),
        ([f"--given={image}", f"--mask={ramp}"], "has the grey level 100, expected 0 (unknown) and 255 (known) only"),
        ([f"--given={image}", f"--mask={white}"], "is white, expected black where pixels are unknown"),
        ([f"--given={tmp_path / 'none.png'}"], "none.png': there is no such file"),
        ([f"--given={tmp_path / 'text.png'}"], "text.png is damaged or not an image"),
        (["--given=test:7,24"], "given = [7, 24]: there is no test image 24, expected numbers of test images in 0 .. 23"),
        (["--given=test:a"], "given = 'a', expected non-negative integers and ascending ranges"),
    ):
        assert message in refused(capsys, "sample", run, *arguments)
    plain = tiny_run(folder, "plain", "mnist") if not (folder / "plain").exists() else folder / "plain"
    for flag, value in (("given", image), ("mask", white)):
        told = refused(capsys, "sample", plain, f"--{flag}={value}")
        assert f"{flag} = '{value}', expected none: config.model.known.name = 'none', so {plain} was trained without" in told


def test_levels_that_are_taken_as_they_are(folder, tmp_path):
    run = tiny_run(folder, "states", "mnist_completion", process__rates__name="uniform")
    few = load_run(run)
    few.config.data.quantise = False
    Image.fromarray(np.full((8, 8), 9, dtype=np.uint8)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=r"images have the value 9, expected 0 \.\. 7 \(config\.data\.num_values = 8 and"):
        completion_of(few, tmp_path / "image.png", None)


def test_measurements_refuse_runs_that_complete(run, tmp_path):
    for verb, measure in (
        ("evaluate", lambda: evaluate_run(run, pixels(), num_samples=9)),
        ("compare", lambda: compare_runs([run], pixels(), calls=[4], out=tmp_path)),
    ):
        with pytest.raises(ValueError, match=rf"config\.model\.known\.name = 'half', expected none.*ctdiff {verb} measures"):
            measure()


@pytest.mark.parametrize("kind", MASKS)
def test_a_resumed_run_is_the_uninterrupted_one(kind, folder, tmp_path):
    """Bit for bit: weights and pictures."""
    config = small("mnist_completion", **images(folder), model__known__name=kind)
    first = configuration.changed(config, {"training.steps": 2, "optimizer.schedule.name": "constant"})
    train(configuration.changed(config, {"optimizer.schedule.name": "constant"}), tmp_path / "constant")
    train(first, tmp_path / "parts")
    train(configuration.changed(first, {"training.steps": 4}), tmp_path / "parts", resume=True)
    one, two = (load_run(tmp_path / name).denoiser.state_dict() for name in ("constant", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    final = [(tmp_path / name / "samples" / "final.png").read_bytes() for name in ("constant", "parts")]
    assert final[0] == final[1]
    train(configuration.changed(first, {"training.steps": 4}), tmp_path / "parts")  # finished: only new pictures
    assert (tmp_path / "parts" / "samples" / "final.png").read_bytes() == final[0]


@pytest.mark.parametrize("model", ["unet", "uvit", "dit", "diffit", "latent_diffit"])
@pytest.mark.parametrize("preset", ["mnist", "mnist_ddpm"])
def test_all_backbones_are_told_what_is_known(preset, model):
    settings = flags(preset, model__name=model, model__known__name="random_pixels", model__num_classes=10)
    config = configuration.load(preset, settings)
    network = recipe.build_network(config)
    (wrapped,) = [module for module in network.modules() if isinstance(module, KnownChannels)]
    with torch.no_grad():
        for parameter in network.parameters():  # some output layers begin at zero
            parameter.add_(0.1 * torch.randn_like(parameter))
    encoded = recipe.build_pixels(config).encode(torch.randint(config.data.num_values, (3, *recipe.event_shape(config))))
    known, c, y = torch.rand(encoded.shape) < 0.5, torch.rand(3), torch.tensor([0, 5, 10])
    assert [*wrapped.conditions] == ["y", "known"]
    told = network(encoded, c, y=y, known=known)
    assert not torch.allclose(told, network(encoded, c, y=y))
    assert torch.equal(network(encoded, c, y=y, known=torch.zeros_like(known)), network(encoded, c, y=y))
    assert not torch.allclose(told, network(encoded, c, known=known))
    plain = recipe.build_network(configuration.changed(config, {"model.known.name": "none"}))
    assert not any(isinstance(module, KnownChannels) for module in plain.modules())
    assert {name.replace("backbone.backbone.", "backbone.").removeprefix("backbone.") for name in network.state_dict()} == {
        name.removeprefix("backbone.") for name in plain.state_dict()
    }


def test_labels_and_guidance_go_with_known_pixels(folder):
    """The labels of test images are those of their completions, unless others are asked for."""
    guided = {"model__num_classes": 10, "sampler__guidance__g": 2.0}
    run = tiny_run(folder, "guided", "mnist_completion", **guided)
    drawn, _ = arrays(run, "--given=test:0-3", "--num_samples=8")
    labels = recipe.build_data(load_run(run).config).test.labels
    assert drawn["labels"].tolist() == labels[[0, 1, 2, 3] * 2].tolist()
    assert np.array_equal(drawn["images"][drawn["known"]], drawn["given"][drawn["known"]])
    other, _ = arrays(run, "--given=test:0-3", "--num_samples=8", "--label=7")
    assert set(other["labels"]) == {7}


def test_masks_of_test_images_depend_on_their_number(folder):
    run = tiny_run(folder, "holes", "mnist_completion", model__known__name="rectangle")
    one, two = (arrays(run, f"--given=test:{which}", "--num_samples=2")[0]["known"] for which in ("4,6", "6,9"))
    assert np.array_equal(one[1], two[0])
    assert not np.array_equal(one[0], one[1])


def test_pictures_have_groups():
    known = UPPER.expand(3, 1, 8, 8)
    completion = Completion(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), known)
    drawn = torch.ones(7, 1, 8, 8, dtype=torch.int64)
    cells, columns = completion.laid_out(drawn, 8)
    assert (len(cells), columns) == (12, 12)
    assert [int(cell[0, 7, 7]) for cell in cells] == [4, 1, 1, 1, 4, 1, 1, 7, 4, 1, 1, 7]  # grey, drawn, white
    assert len(completion.laid_out(drawn[:2], 8)[0]) == 4
    assert completion.rows(5).tolist() == [0, 1, 2, 0, 1]


def test_a_mask_of_colour_images(tmp_path):
    Image.fromarray(np.asarray([[0, 255]], dtype=np.uint8)).save(tmp_path / "mask.png")
    assert mask_image(tmp_path / "mask.png", (3, 1, 2)).tolist() == [[[False, True]]] * 3


def test_the_kind_of_mask_of_the_configuration():
    config = small("mnist_completion", model__known__name="half", model__known__half__side="left")
    assert recipe.build_known(config) == HalfMask("left")
    assert recipe.build_known(small("mnist")) is None
    denoiser = recipe.build_denoiser(config, recipe.build_process(config), recipe.build_network(config))
    objective = recipe.build_objective(config, denoiser)
    _, cond = objective.draw(torch.zeros(2, 1, 8, 8, dtype=torch.int64), PerSampleRandomness([0, 1]))
    assert torch.equal(cond["known"], HalfMask("left")((2, 1, 8, 8)))
    with pytest.raises(configuration.ConfigError, match=r"config\.model\.known\.half\.side = 'top', expected"):
        small("mnist_completion", model__known__half__side="top")
