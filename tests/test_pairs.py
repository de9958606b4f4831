"""Photographs and pairs: the noise's mean, determinism, what is read and what is skipped, what is never shared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from n2nlib.files import UserError
from n2nlib.pairs import block_mean, build_pairs, cells, draw, ensure_pairs, load_pairs, random_square
from n2nlib.params import Params, load_params
from n2nlib.photos import Photo, find_photos


def _folder_params(folder: Path | str, **pairs: object) -> Params:
    smoke = Path(__file__).parents[1] / "params" / "smoke.yaml"
    given_pairs = {"source": "folder", "path": str(folder), "train": 12, "validation": 8} | pairs
    return load_params(smoke, {"pairs": given_pairs})


def _photo(path: Path, seed: int, size: tuple[int, int] = (80, 60), mode: str = "RGB") -> Path:
    """A smooth picture of its own for each seed, saved by its suffix."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_clean_is_the_rounded_block_mean_and_noisy_one_pixel_of_the_block(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (4 * block, 4 * block, 3), np.uint8)
    blocks = cells(pixels, 4, block)
    for row in range(4):
        for column in range(4):
            cell = pixels[row * block : (row + 1) * block, column * block : (column + 1) * block].reshape(-1, 3)
            np.testing.assert_array_equal(block_mean(blocks)[row, column], np.floor(cell.astype(float).mean(0) + 0.5))
            assert (draw(blocks, rng)[row, column] == cell).all(axis=1).any()  # three channels of one pixel


def test_the_noise_has_the_block_mean_as_its_mean_and_draws_are_independent(rng: np.random.Generator) -> None:
    blocks = cells(rng.integers(0, 256, (28, 28, 3), np.uint8), 4, 7)
    draws = np.stack([draw(blocks, rng) for _ in range(4000)]).astype(float)
    expected = blocks.astype(float).mean(axis=2)
    error = blocks.astype(float).std(axis=2) / np.sqrt(4000)
    assert (np.abs(draws.mean(0) - expected) < 5 * error).all()
    first, second = (draws[:2000] - expected).ravel(), (draws[2000:] - expected).ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_random_squares_stay_inside_and_above_the_smallest_side(rng: np.random.Generator) -> None:
    pixels = np.arange(50 * 90 * 3).reshape(50, 90, 3)
    sides = set()
    for _ in range(500):
        square = random_square(pixels, 0.6, rng)
        assert square.shape[0] == square.shape[1]
        sides.add(square.shape[0])
    assert (min(sides), max(sides)) == (30, 50)


def test_bundled_photographs_are_eight_and_split_whole(params: Params) -> None:
    photos = find_photos(params)
    training, validation = ({photo.path for photo in side} for side in (photos.training, photos.validation))
    assert len(training) + len(validation) == 8
    assert not training & validation
    for photo in photos.training + photos.validation:
        assert photo.read().shape[2] == 3
        assert min(photo.read().shape[:2]) >= 224


def test_a_pair_set_repeats_byte_for_byte_and_follows_its_seed(params: Params, tmp_path: Path) -> None:
    cards = [build_pairs(params, tmp_path / name) for name in "ab"]
    assert cards[0] == cards[1]
    assert (tmp_path / "a" / "train.safetensors").read_bytes() == (tmp_path / "b" / "train.safetensors").read_bytes()
    other = build_pairs(params.model_copy(update={"seed": 1}), tmp_path / "c")
    assert other["hash"] != cards[0]["hash"]


def test_the_card_and_the_tensors_agree(params: Params, tmp_path: Path) -> None:
    card = build_pairs(params, tmp_path)
    pairs = load_pairs(tmp_path)
    for split, tensors in (("train", pairs.train), ("validation", pairs.validation)):
        assert set(tensors) == {"noisy_1", "noisy_2", "clean"}
        for tensor in tensors.values():
            assert tensor.shape == (card["counts"][split], 3, 32, 32)
            assert str(tensor.dtype) == "torch.uint8"
    noisy, clean = (pairs.validation[name].numpy().astype(float) for name in ("noisy_1", "clean"))
    expected = 10 * np.log10(255**2 / ((noisy - clean) ** 2).mean())
    assert card["noisy_psnr_db"]["validation"]["global"] == pytest.approx(expected, abs=1e-4)
    assert (pairs.train["noisy_1"] != pairs.train["noisy_2"]).float().mean() > 0.3


def test_a_folder_of_many_kinds_with_bad_files_among_them(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    kinds = [
        ("a.jpg", "RGB"),
        ("b.png", "RGBA"),
        ("sub/c.webp", "RGB"),
        ("sub/d.tiff", "CMYK"),
        ("e.bmp", "RGB"),
        ("f.png", "P"),
        ("g.PNG", "L"),
        ("h.png", "LA"),
    ]
    for number, (name, mode) in enumerate(kinds):
        _photo(folder / name, number, mode=mode)
    grey = np.linspace(0, 65535, 80 * 60).reshape(60, 80).astype(np.uint16)
    Image.fromarray(grey).save(folder / "sixteen.png")
    _photo(folder / "small.png", 20, size=(40, 20))
    (folder / "fake.jpg").write_text("no photograph")
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("not counted")
    _photo(folder / "again.png", 2).unlink()
    Image.open(folder / "e.bmp").save(folder / "again.png")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    photos = find_photos(_folder_params(folder))
    assert len(photos.training) + len(photos.validation) == 9
    assert len(photos.validation) == 2  # a fifth of nine
    reasons = {Path(name).name: reason for name, reason in photos.skipped.items()}
    assert set(reasons) == {"small.png", "fake.jpg", "cut.jpg", "e.bmp"}
    assert "too small: 40 x 20" in reasons["small.png"]
    assert "the same photograph as" in reasons["e.bmp"]
    sixteen = next(photo for photo in photos.training + photos.validation if photo.path.name == "sixteen.png")
    assert 120 < sixteen.read().mean() < 135
    card = build_pairs(_folder_params(folder), tmp_path / "set")
    assert card["photographs_left_out"]["count"] == 4


def test_transparency_is_white_and_rotation_is_honoured(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (40, 50), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (Photo(tmp_path / "clear.png", "clear").read() == 255).all()
    turned = Image.new("RGB", (40, 50))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert Photo(tmp_path / "turned.jpg", "turned").read().shape == (40, 50, 3)


def test_own_validation_folders_and_a_photograph_in_both(tmp_path: Path) -> None:
    for number in range(6):
        _photo(tmp_path / "set" / ("train" if number < 4 else "val") / f"{number}.png", number)
    _photo(tmp_path / "set" / "train" / "both.png", 5)
    photos = find_photos(_folder_params(tmp_path / "set"))
    assert sorted(photo.path.name for photo in photos.validation) == ["4.png", "5.png"]
    assert sorted(photo.path.name for photo in photos.training) == ["0.png", "1.png", "2.png", "3.png"]
    photos = find_photos(_folder_params(tmp_path / "set" / "val", validation_path=str(tmp_path / "set" / "train")))
    assert sorted(photo.path.name for photo in photos.training) == ["4.png"]


def test_more_pairs_than_photographs_are_draws_of_their_own(tmp_path: Path) -> None:
    for number in range(3):
        _photo(tmp_path / "set" / f"{number}.png", number, size=(224, 224))
    build_pairs(_folder_params(tmp_path / "set", train_crop="whole", train=8), tmp_path / "pairs")
    train = load_pairs(tmp_path / "pairs").train
    clean = {image.numpy().tobytes() for image in train["clean"]}
    noisy = {image.numpy().tobytes() for name in ("noisy_1", "noisy_2") for image in train[name]}
    assert (len(clean), len(noisy)) == (2, 16)


@pytest.mark.parametrize("kind", ["missing", "empty", "only one", "all bad"])
def test_folders_that_cannot_serve(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "photos"
    if kind != "missing":
        folder.mkdir()
    if kind == "only one":
        _photo(folder / "one.png", 0)
    if kind == "all bad":
        (folder / "bad.png").write_text("bad")
    with pytest.raises(UserError, match="photos"):
        build_pairs(_folder_params(folder), tmp_path / "pairs")
    assert not (tmp_path / "pairs" / "card.json").exists()


def test_damaged_pair_sets_are_named(params: Params, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="notebook 01"):
        load_pairs(tmp_path)
    build_pairs(params, tmp_path)
    path = tmp_path / "train.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"train\.safetensors: damaged"):
        load_pairs(tmp_path)


def test_pairs_are_made_again_when_their_parameters_change(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Params, "pairs_folder", property(lambda self: tmp_path))
    first = ensure_pairs(params).hash
    assert ensure_pairs(params).hash == first
    assert ensure_pairs(params.model_copy(update={"seed": 3})).hash != first
    assert json.loads((tmp_path / "card.json").read_text())["parameters"]["seed"] == 3
