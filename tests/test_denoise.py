"""python -m n2nlib denoise: any size and mode, the pixelated input, wrong files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from n2nlib import Denoiser
from n2nlib.denoise import pixelated
from n2nlib.files import ROOT, UserError
from n2nlib.model import Network, save_network


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = Network(4, "upsample", residual=True, normalized=True)
    network.initialize(torch.Generator().manual_seed(3))
    with torch.no_grad():
        network.unet.last.weight.mul_(0.01)  # near the identity, so that outputs are pictures
    path = tmp_path_factory.mktemp("model") / "final.safetensors"
    save_network(network, path, flips=True)
    return path


def _denoise(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "n2nlib", "denoise", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("mode", "size"), [("RGB", (37, 21)), ("RGBA", (5, 1)), ("L", (64, 64)), ("P", (33, 40)), ("I;16", (20, 30))])
def test_any_size_and_mode(model_file: Path, tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3)).astype(np.uint8))
    image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "in.png")
    done = _denoise(tmp_path / "in.png", "-o", tmp_path / "new" / "out.png", "--model", model_file)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "new" / "out.png") as restored:
        assert (restored.size, restored.mode) == (size, "RGB")
        if mode == "RGB":
            expected = Denoiser.load(model_file).predict(np.array(image).transpose(2, 0, 1)[None])[0].round().clip(0, 255)
            assert np.abs(np.asarray(restored).astype(float) - expected.transpose(1, 2, 0)).max() <= 1


def test_pixelate_makes_the_noisy_input(model_file: Path, tmp_path: Path) -> None:
    photo = data.coffee()[:203, :300]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    done = _denoise(tmp_path / "photo.png", "-o", tmp_path / "out.png", "--model", model_file, "--pixelate")
    assert done.returncode == 0, done.stderr
    images = {}
    for name in ("out", "out-noisy", "out-clean"):
        with Image.open(tmp_path / f"{name}.png") as image:
            images[name] = np.asarray(image).astype(int)
    assert {image.shape for image in images.values()} == {(29, 42, 3)}
    block = photo[:7, 7:14].reshape(-1, 3)
    assert images["out-noisy"][0, 1].tolist() in block.tolist()
    assert np.abs(images["out-clean"][0, 1] - block.mean(0)).max() <= 0.5
    psnr = 10 * np.log10(255**2 / ((images["out-noisy"] - images["out-clean"]) ** 2).mean())
    assert f"{psnr:.2f} dB" in done.stdout


def test_pixelated_needs_a_block() -> None:
    with pytest.raises(UserError, match="7 x 7"):
        pixelated(np.zeros((6, 50, 3), np.uint8), 7, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "content", "output", "words"),
    [
        ("absent.png", None, "out.png", "no such file"),
        ("text.png", b"no image", "out.png", "no image that can be read"),
        ("cut.png", "cut", "out.png", "no image that can be read"),
        ("good.png", "good", "out.docx", "allowed: .png"),
        ("good.png", "good", "good.png", "is the image itself"),
    ],
)
def test_wrong_files_get_a_message(model_file: Path, tmp_path: Path, name: str, content: object, output: str, words: str) -> None:
    path = tmp_path / name
    if content is not None:
        Image.fromarray(data.coffee()).save(tmp_path / "whole.png")
        whole = (tmp_path / "whole.png").read_bytes()
        path.write_bytes({"cut": whole[:1000], "good": whole}.get(content, content))
    done = _denoise(path, "-o", tmp_path / output, "--model", model_file)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert output == name or not (tmp_path / output).exists()


def test_a_missing_or_wrong_model_gets_a_message(tmp_path: Path) -> None:
    Image.fromarray(data.coffee()).save(tmp_path / "in.png")
    for model in (tmp_path / "none.safetensors", ROOT / "README.md"):
        done = _denoise(tmp_path / "in.png", "-o", tmp_path / "out.png", "--model", model)
        assert done.returncode == 1
        assert str(model.name) in done.stderr
        assert "allowed:" in done.stderr
        assert "Traceback" not in done.stderr
