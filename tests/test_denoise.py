"""The denoiser and `python -m n2nlib denoise`: sizes, modes, tiles, flips, folders, the default model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Main
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from n2nlib import Denoiser, UserError, denoiser
from n2nlib.denoiser import default_model, denoise_files
from n2nlib.files import ROOT
from n2nlib.train.network import Network, save_network


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _saved(path: Path, seed: int = 3, flips: bool = False) -> Path:
    """A model near the identity, so that its outputs are pictures."""
    network = Network(4, "upsample", residual=True, normalized=True)
    network.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        network.unet.last.weight.mul_(0.01)
    save_network(network, path, flips)
    return path


@pytest.fixture(scope="module")
def picture_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(tmp_path_factory.mktemp("pictures") / "final.safetensors", flips=True)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = Network(4, "tconv", tau_sharp=1.0)
    network.initialize(torch.Generator().manual_seed(3))
    path = tmp_path_factory.mktemp("model") / "final.safetensors"
    save_network(network, path)
    return path


def _picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 33)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@settings(max_examples=25)
@given(
    n=st.integers(0, 5),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    kind=st.sampled_from(["uint8", "float32", "float64", "float16"]),
)
def test_the_denoiser_takes_any_size_and_type(
    model_file: Path, n: int, height: int, width: int, kind: str
) -> None:
    images = np.random.default_rng(n).integers(0, 256, (n, 3, height, width)).astype(kind)
    output = Denoiser.load(model_file).predict(images)
    assert isinstance(output, np.ndarray)
    assert output.shape == images.shape
    assert output.dtype == np.float32
    assert output.size == 0 or (output.min() >= 0 and output.max() <= 255)


def test_the_denoiser_is_the_network_and_does_not_depend_on_its_batches(model_file: Path) -> None:
    images = torch.rand(7, 3, 64, 32, generator=torch.Generator().manual_seed(1)) * 255
    given_model = Denoiser.load(str(model_file))
    with torch.no_grad():
        expected = given_model.network(images)
    for batch_pixels in (2**20, 3 * 64 * 32, 1):
        found = given_model.predict(images, batch_pixels)
        assert isinstance(found, torch.Tensor)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


def test_padding_repeats_the_border(model_file: Path) -> None:
    image = torch.rand(1, 3, 40, 33, generator=torch.Generator().manual_seed(1)) * 255
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 0), (0, 24), (0, 31)), mode="edge"))
    network = Denoiser.load(model_file)
    expected = network.predict(padded)[:, :, :40, :33]
    torch.testing.assert_close(network.predict(image), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("arch", ["tconv", "upsample", "gated"])
def test_tiles_of_a_large_image_are_the_whole(arch: str) -> None:
    network = Network(2, arch, tau_sharp=1.0)
    network.initialize(torch.Generator().manual_seed(5))
    images = torch.rand(1, 3, 600, 801, generator=torch.Generator().manual_seed(1)) * 255
    one = Denoiser(network)
    sizes = []
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[2:]))
    whole = one.predict(images, batch_pixels=10**9)
    assert sizes == [(608, 832)]
    torch.testing.assert_close(one.predict(images, batch_pixels=640**2), whole, rtol=1e-4, atol=1e-2)
    assert len(sizes) > 10
    assert max(height * width for height, width in sizes[1:]) <= 640**2


def test_flips_average_the_four_flipped_predictions(model_file: Path, tmp_path: Path) -> None:
    plain = Denoiser.load(model_file)
    save_network(plain.network, tmp_path / "flips.safetensors", flips=True)
    images = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(2)) * 255
    expected = sum(plain.predict(images.flip(way)).flip(way) for way in ([], [2], [3], [2, 3])) / 4
    found = Denoiser.load(tmp_path / "flips.safetensors").predict(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)
    assert (found - plain.predict(images)).abs().max() > 1


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 32, 32, 3)])
def test_the_denoiser_refuses_other_shapes(model_file: Path, shape: tuple) -> None:
    with pytest.raises(ValueError, match="allowed: N x 3 x H x W"):
        Denoiser.load(model_file).predict(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("content", [None, b"", b"not a model", "truncated"])
def test_the_denoiser_refuses_other_files(model_file: Path, tmp_path: Path, content: object) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(model_file.read_bytes()[:-100] if content == "truncated" else content)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Denoiser.load(path)


MODES = [("RGB", (37, 21)), ("RGBA", (5, 1)), ("L", (64, 64)), ("P", (33, 40)), ("I;16", (20, 30))]


@pytest.mark.parametrize(("mode", "size"), MODES)
def test_any_size_and_mode(
    picture_model: Path, tmp_path: Path, main: Main, mode: str, size: tuple[int, int]
) -> None:
    image = Image.open(_picture(tmp_path / "source.png", size=size))
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    image = Image.fromarray(grey * 257) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "in.png")
    target = tmp_path / "new" / "out.png"
    status, _, errors = main("denoise", tmp_path / "in.png", "-o", target, "--model", picture_model)
    assert status == 0, errors
    with Image.open(target) as restored:
        assert (restored.size, restored.mode) == (size, "RGB")
    if mode == "RGB":
        pixels = np.array(image).transpose(2, 0, 1)[None]
        expected = Denoiser.load(picture_model).predict(pixels)[0].round().clip(0, 255)
        assert np.abs(_read(target) - expected.transpose(1, 2, 0)).max() <= 1


def test_the_command_in_a_process_of_its_own(picture_model: Path, tmp_path: Path) -> None:
    _picture(tmp_path / "in.png")
    command = [sys.executable, "-m", "n2nlib", "denoise", "in.png", "-o", "out.png", "--model"]
    done = subprocess.run(
        [*command, str(picture_model)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "in.png, 40 x 33 pixels: out.png" in done.stdout
    assert _read(tmp_path / "out.png").shape == (33, 40, 3)


@pytest.mark.parametrize(
    ("suffix", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("tiff", "TIFF"), ("bmp", "BMP")]
)
def test_the_output_has_the_format_of_its_suffix(
    picture_model: Path, tmp_path: Path, main: Main, suffix: str, kind: str
) -> None:
    target = tmp_path / f"out.{suffix}"
    source = _picture(tmp_path / "in.png")
    status, _, errors = main("denoise", source, "-o", target, "--model", picture_model)
    assert status == 0, errors
    with Image.open(target) as image:
        assert (image.format, image.size) == (kind, (40, 33))


def test_a_network_that_diverged_still_gives_images() -> None:
    network = Network(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    assert (Denoiser(network).predict(np.full((1, 3, 32, 32), 9, np.uint8)) == 0).all()


def test_pixelate_makes_the_noisy_input(picture_model: Path, tmp_path: Path, main: Main) -> None:
    photo = data.coffee()[:203, :300]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    command = ["denoise", tmp_path / "photo.png", "-o", tmp_path / "out.png", "--model", picture_model]
    status, output, errors = main(*command, "--pixelate")
    assert status == 0, errors
    images = {name: _read(tmp_path / f"{name}.png") for name in ("out", "out-noisy", "out-clean")}
    assert {image.shape for image in images.values()} == {(29, 42, 3)}
    block = photo[:7, 7:14].reshape(-1, 3)
    assert images["out-noisy"][0, 1].tolist() in block.tolist()
    assert np.abs(images["out-clean"][0, 1] - block.mean(0)).max() <= 0.5
    for name in ("out-noisy", "out"):
        psnr = 10 * np.log10(255**2 / ((images[name] - images["out-clean"]) ** 2).mean())
        assert f"{psnr:.2f} dB" in output


def test_pixelate_never_writes_over_a_source(picture_model: Path, tmp_path: Path, main: Main) -> None:
    single = _picture(tmp_path / "a-clean.png", 5)
    before = single.read_bytes()
    command = ["denoise", single, "-o", tmp_path / "a.png", "--model", picture_model, "--pixelate"]
    status, _, errors = main(*command)
    assert status == 1
    assert "a-clean.png: is itself an image to denoise" in errors
    (tmp_path / "folder").mkdir()
    for name in ("b.png", "b-noisy.png"):
        _picture(tmp_path / "folder" / name, 6)
    command = ["denoise", tmp_path / "folder", "-o", tmp_path / "out", "--model", picture_model, "--pixelate"]
    status, _, errors = main(*command)
    assert status == 1
    assert "both would become" in errors
    assert single.read_bytes() == before


def test_pixelate_needs_a_block(main: Main, tmp_path: Path, picture_model: Path) -> None:
    Image.fromarray(np.zeros((6, 50, 3), np.uint8)).save(tmp_path / "flat.png")
    status, _, errors = main("denoise", tmp_path / "flat.png", "--model", picture_model, "--pixelate")
    assert status == 1
    assert "flat.png: the photograph has 50 x 6 pixels" in errors
    assert "7 x 7" in errors


@pytest.mark.parametrize(
    ("name", "content", "output", "words"),
    [
        ("absent.png", None, "out.png", "no such file"),
        ("text.png", b"no image", "out.png", "not a readable image"),
        ("cut.png", "cut", "out.png", "not a readable image"),
        ("good.png", "good", "out.docx", "allowed: .png"),
        ("good.png", "good", "good.png", "is itself an image to denoise"),
        ("good.png", "good", "folder.png/../good.png", "is itself an image to denoise"),
    ],
)
def test_wrong_files_get_a_message(
    picture_model: Path, tmp_path: Path, main: Main, name: str, content: object, output: str, words: str
) -> None:
    path = tmp_path / name
    (tmp_path / "folder.png").mkdir()
    if content is not None:
        Image.fromarray(data.coffee()).save(tmp_path / "whole.png")
        whole = (tmp_path / "whole.png").read_bytes()
        path.write_bytes({"cut": whole[:1000], "good": whole}.get(content, content))
    before = path.read_bytes() if content is not None else None
    status, _, errors = main("denoise", path, "-o", tmp_path / output, "--model", picture_model)
    assert status == 1
    assert words in errors
    assert len(errors.splitlines()) == 1
    assert before is None or path.read_bytes() == before
    assert output.endswith(name) or not (tmp_path / output).exists()


def test_a_missing_or_wrong_model_gets_a_message(tmp_path: Path, main: Main) -> None:
    _picture(tmp_path / "in.png")
    for model in (tmp_path / "none.safetensors", ROOT / "README.md"):
        status, _, errors = main("denoise", tmp_path / "in.png", "-o", tmp_path / "out.png", "--model", model)
        assert status == 1
        assert model.name in errors
        assert "allowed:" in errors


def test_folders_and_files_one_of_which_fails(picture_model: Path, tmp_path: Path, main: Main) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    for number, name in enumerate(("one.png", "two.JPG", "three.webp", "nested/four.png")):
        _picture(folder / name, number)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    single = _picture(tmp_path / "five.tiff", 5)
    status, output, errors = main("denoise", folder, single, "-o", out, "--model", picture_model)
    assert status == 1
    assert "broken.png" in errors
    assert "not a readable image" in errors
    assert "notes.txt" not in output + errors
    assert sorted(path.name for path in out.iterdir()) == ["five.png", "one.png", "three.png", "two.png"]
    expected = Denoiser.load(picture_model).predict(_read(single).transpose(2, 0, 1)[None].astype(np.uint8))
    assert np.abs(_read(out / "five.png") - expected[0].transpose(1, 2, 0)).max() <= 1
    failed = denoise_files([folder], tmp_path / "again", picture_model)
    ((path, reason),) = failed.items()
    assert path.name == "broken.png"
    assert reason.startswith("not a readable image")  # the command names the file


def test_a_folder_of_one_image_goes_to_a_folder(picture_model: Path, tmp_path: Path) -> None:
    _picture(tmp_path / "photos" / "one.png")
    (tmp_path / "photos" / "more.png").mkdir()  # a folder is no image, whatever its name
    assert denoise_files([tmp_path / "photos"], tmp_path / "out", picture_model) == {}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["one.png"]


def test_a_folder_without_images_is_refused(picture_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no image; allowed: \.png"):
        denoise_files([tmp_path], tmp_path / "out", picture_model)


def test_several_images_do_not_overwrite_their_sources_or_each_other(
    picture_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    one, other = _picture(folder / "one.png", 1), _picture(folder / "two.png", 2)
    before = one.read_bytes(), other.read_bytes()
    with pytest.raises(UserError):
        denoise_files([folder], folder, picture_model)
    assert (one.read_bytes(), other.read_bytes()) == before
    twin = _picture(tmp_path / "others" / "one.png", 3)
    with pytest.raises(UserError, match="both would become"):
        denoise_files([one, twin], tmp_path / "out", picture_model)
    assert not (tmp_path / "out").exists()


def test_images_of_one_name_but_different_kinds_keep_their_suffix(
    picture_model: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(("one.png", "one.jpg", "two.png")):
        _picture(tmp_path / "photos" / name, number)
    again = tmp_path / "photos" / ".." / "photos" / "two.png"
    assert denoise_files([tmp_path / "photos", again], tmp_path / "out", picture_model) == {}
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["one.jpg.png", "one.png.png", "two.png"]


def test_without_an_output_results_lie_beside_the_image_or_in_a_folder(
    picture_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = _picture(tmp_path / "photos" / "one.jpg"), _picture(tmp_path / "photos" / "two.png")
    assert denoise_files([one], model=picture_model) == {}
    assert (tmp_path / "photos" / "one-denoised.png").is_file()
    assert denoise_files([one, two], model=picture_model) == {}
    assert sorted(path.name for path in Path("denoised").iterdir()) == ["one.png", "two.png"]
    (tmp_path / "there").mkdir()
    assert denoise_files([one], tmp_path / "there", picture_model) == {}
    assert (tmp_path / "there" / "one.png").is_file()


def test_a_result_that_cannot_be_written_gets_a_message(
    picture_model: Path, tmp_path: Path, main: Main
) -> None:
    source, taken = _picture(tmp_path / "in.png"), tmp_path / "taken"
    taken.write_text("a file where a folder is needed")
    status, _, errors = main("denoise", source, "-o", taken / "out.png", "--model", picture_model)
    assert status == 1
    assert "out.png: cannot be written" in errors


def test_a_model_beside_a_foreign_json_file_is_used(picture_model: Path, tmp_path: Path, main: Main) -> None:
    source, model = _picture(tmp_path / "in.png"), tmp_path / "other.safetensors"
    model.write_bytes(picture_model.read_bytes())
    model.with_suffix(".json").write_text('{"learning_rate": 1}')
    status, output, errors = main("denoise", source, "-o", tmp_path / "out.png", "--model", model)
    assert status == 0, errors
    assert "other.safetensors" in output


def test_several_images_need_a_folder(picture_model: Path, tmp_path: Path, main: Main) -> None:
    sources = [_picture(tmp_path / f"{name}.png") for name in ("one", "two")]
    (tmp_path / "taken").write_text("a file")
    status, _, errors = main("denoise", *sources, "-o", tmp_path / "taken", "--model", picture_model)
    assert status == 1
    assert "taken" in errors
    assert (tmp_path / "taken").read_text() == "a file"


def test_without_any_model_there_is_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(denoiser, "BUNDLED_MODEL", tmp_path / "best.safetensors")
    with pytest.raises(UserError, match="missing; install n2nlib again"):
        default_model()


def test_the_default_model_is_named_and_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, main: Main
) -> None:
    monkeypatch.setattr(denoiser, "BUNDLED_MODEL", _saved(tmp_path / "models" / "best.safetensors"))
    denoiser.BUNDLED_MODEL.with_suffix(".json").write_text(json.dumps({"scale": "paper", "images": 1000}))
    source = _picture(tmp_path / "in.png")
    status, output, errors = main("denoise", source, "-o", tmp_path / "out.png")
    assert status == 0, errors
    assert "models/best.safetensors" in output
    assert "scale paper, 1,000 training images" in output
    expected = Denoiser.load().predict(_read(source).transpose(2, 0, 1)[None].astype(np.uint8))[0]
    assert np.abs(_read(tmp_path / "out.png") - expected.transpose(1, 2, 0)).max() <= 1
