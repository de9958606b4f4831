"""Photographs and pairs: the mean of the noise, determinism, what is read, skipped and never shared."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMOKE
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from n2nlib.files import UserError
from n2nlib.meaning import code_identity
from n2nlib.pairs import pair_set as pair_set_module
from n2nlib.pairs.corruption import block_mean, draw, random_square, squashed_blocks
from n2nlib.pairs.pair_set import PairSet, build_pairs, ensure_pairs, load_pairs, read_card
from n2nlib.pairs.photos import Photo, divide, find_photos
from n2nlib.params import Params, load_params

VERSIONS = ("noisy_1", "noisy_2", "clean")


def _folder_params(folder: Path | str, **pairs: object) -> Params:
    chosen = {"source": "folder", "path": str(folder), "train": 12, "validation": 8, "test": 0}
    chosen |= {"permute_channels": False}
    return load_params(SMOKE, {"pairs": chosen | pairs})


def _photo(path: Path, seed: int, size: tuple[int, int] = (80, 60), mode: str = "RGB") -> Path:
    """A smooth picture, different for each seed, in the format of its suffix."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


def _names(photos: list[Photo]) -> list[str]:
    return sorted(photo.path.name for photo in photos)


def _built(params: Params, folder: Path) -> PairSet:
    build_pairs(params, folder, say=lambda text: None)
    return load_pairs(folder)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_clean_is_the_rounded_block_mean_and_noisy_one_pixel_of_the_block(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (4 * block, 4 * block, 3), np.uint8)
    blocks = squashed_blocks(pixels, 4, block)
    for row in range(4):
        for column in range(4):
            cell = pixels[row * block : (row + 1) * block, column * block : (column + 1) * block]
            cell = cell.reshape(-1, 3)
            expected = np.floor(cell.astype(float).mean(0) + 0.5)
            np.testing.assert_array_equal(block_mean(blocks)[row, column], expected)
            assert (draw(blocks, rng)[row, column] == cell).all(axis=1).any()  # three channels of one pixel


def test_the_noise_has_mean_zero_and_draws_are_independent(rng: np.random.Generator) -> None:
    blocks = squashed_blocks(rng.integers(0, 256, (28, 28, 3), np.uint8), 4, 7)
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


def test_bundled_photographs_are_ten_in_three_disjoint_sets(params: Params) -> None:
    photos = find_photos(params)
    sets = [photos.training, photos.validation, photos.test]
    assert [len(one) for one in sets] == [6, 2, 2]
    together = [photo for one in sets for photo in one]
    assert len({photo.path for photo in together}) == 10
    assert len({photo.read().tobytes() for photo in together}) == 10
    for photo in together:
        height, width, channels = photo.read().shape
        assert channels == 3
        assert min(height, width) >= 224
    assert _names(photos.validation) == ["china.jpg", "coffee.png"]


def test_a_pair_set_repeats_byte_for_byte_and_follows_its_seed(params: Params, tmp_path: Path) -> None:
    cards = [build_pairs(params, tmp_path / name) for name in "ab"]
    assert cards[0] == cards[1]
    for split in ("train", "validation", "test"):
        first, second = ((tmp_path / name / f"{split}.safetensors").read_bytes() for name in "ab")
        assert first == second
    other = build_pairs(params.model_copy(update={"seed": 1}), tmp_path / "c")
    assert other["hash"] != cards[0]["hash"]


def test_channels_are_permuted_in_training_pairs_alone_and_in_all_versions_alike(
    params: Params, tmp_path: Path
) -> None:
    made = {}
    for permute in (False, True):
        changes = {"permute_channels": permute, "resample": True}
        pairs = params.pairs.model_copy(update=changes)
        made[permute] = _built(params.model_copy(update={"pairs": pairs}), tmp_path / str(permute))
    before, after = made[False], made[True]
    for split in ("validation", "test"):
        for version, tensor in getattr(before, split).items():
            assert tensor.equal(getattr(after, split)[version])
    orders = set()
    blocks = zip(before.blocks(), after.blocks(), *after.train.values(), strict=True)
    for original, changed, *versions in blocks:
        (order,) = (order for order in permutations(range(3)) if original[:, order].equal(changed))
        orders.add(order)
        for version in versions:  # a noisy pixel is a pixel of its cell, so that it lies in the cell's range
            assert ((version >= changed.amin(0)) & (version <= changed.amax(0))).all()
    assert len(orders) == 6


def test_the_number_of_threads_changes_no_byte(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = set()
    for number, cores in enumerate((1, 2, 16)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        hashes.add(build_pairs(params, tmp_path / str(number))["hash"])
    monkeypatch.setattr(pair_set_module, "_map", map)
    hashes.add(build_pairs(params, tmp_path / "serial")["hash"])
    assert len(hashes) == 1


def test_the_hash_covers_every_split(params: Params, tmp_path: Path) -> None:
    pairs = params.pairs
    changes = ({}, {"test": 6}, {"validation": 12}, {"train": 20})
    changed = [params.model_copy(update={"pairs": pairs.model_copy(update=change)}) for change in changes]
    assert len({build_pairs(one, tmp_path)["hash"] for one in changed}) == 4


def test_the_card_and_the_tensors_agree(params: Params, tmp_path: Path) -> None:
    card = build_pairs(params, tmp_path)
    pairs = load_pairs(tmp_path)
    assert list(card["counts"]) == ["train", "validation", "test"]
    for split, count in card["counts"].items():
        tensors = getattr(pairs, split)
        assert set(tensors) == set(VERSIONS)
        for tensor in tensors.values():
            assert tensor.shape == (count, 3, 32, 32)
            assert str(tensor.dtype) == "torch.uint8"
        noisy, clean = (tensors[name].numpy().astype(float) for name in ("noisy_1", "clean"))
        expected = 10 * np.log10(255**2 / ((noisy - clean) ** 2).mean())
        assert card["noisy_psnr_db"][split]["global"] == pytest.approx(expected, abs=1e-4)
        assert (tensors["noisy_1"] != tensors["noisy_2"]).float().mean() > 0.3


def test_without_test_pairs_there_is_no_test_set(params: Params, tmp_path: Path) -> None:
    build_pairs(params, tmp_path)
    assert (tmp_path / "test.safetensors").exists()
    without = params.model_copy(update={"pairs": params.pairs.model_copy(update={"test": 0})})
    assert find_photos(without).test == []
    pairs = _built(without, tmp_path)
    assert pairs.test == {}
    assert set(pairs.card["counts"]) == {"train", "validation"}
    assert not (tmp_path / "test.safetensors").exists()


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 400), st.integers(2, 200), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_validation_and_test_photographs_are_disjoint(
    count: int, validation: int, test: int, seed: int
) -> None:
    photos = [Photo(Path(str(number)), str(number)) for number in range(count)]
    parts = divide(photos, validation, test, seed)
    assert sorted(parts[0] + parts[1], key=photos.index) == photos
    assert not set(parts[0]) & set(parts[1])
    assert parts == divide(photos, validation, test, seed)
    if not test:
        assert parts == (photos, [])
        return
    assert min(map(len, parts)) >= 1
    if count >= validation + test:  # each pair can come from a photograph of its own
        assert len(parts[0]) >= validation
        assert len(parts[1]) >= test
    share = count * validation / (validation + test)
    assert abs(len(parts[0]) - share) <= 1


@pytest.mark.parametrize("own_validation", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_photograph_is_in_two_sets(tmp_path: Path, own_validation: bool, seed: int) -> None:
    for number in range(30):
        folder = ("train", "val")[number % 5 > 1] if own_validation else "photos"
        _photo(tmp_path / "set" / folder / f"{number}.png", number)
    _photo(tmp_path / "set" / ("train" if own_validation else "other") / "copy.png", 2)
    options = {"test": 6, "validation": 12, "train": 12, "holdout": 0.6}
    crops = {"train_crop": "whole", "validation_crop": "whole"}
    params = _folder_params(tmp_path / "set", **options, **crops).model_copy(update={"seed": seed})
    photos = find_photos(params)
    assert [len(one) for one in (photos.training, photos.validation, photos.test)] == [12, 12, 6]
    pixels = [
        photo.read().tobytes() for one in (photos.training, photos.validation, photos.test) for photo in one
    ]
    assert len(set(pixels)) == 30
    pairs = _built(params, tmp_path / "pairs")
    clean = [
        image.numpy().tobytes()
        for split in (pairs.train, pairs.validation, pairs.test)
        for image in split["clean"]
    ]
    assert len(set(clean)) == 30  # as many photographs as pairs: each pair shows one of its own


def test_too_few_photographs_for_validation_and_test_are_refused(tmp_path: Path) -> None:
    for number in range(3):
        _photo(tmp_path / "set" / ("train" if number else "val") / f"{number}.png", number)
    with pytest.raises(
        UserError, match=r"val: photographs left for validation and test .*: 1; allowed: at least 2"
    ):
        find_photos(_folder_params(tmp_path / "set", test=4))
    assert find_photos(_folder_params(tmp_path / "set")).test == []
    with pytest.raises(UserError, match="photographs left for validation and test"):
        find_photos(_folder_params(tmp_path / "set" / "train", test=4))
    three = find_photos(_folder_params(tmp_path / "set" / "train", test=0))
    assert (len(three.training), len(three.validation)) == (1, 1)


def test_three_photographs_are_enough_for_three_sets(tmp_path: Path) -> None:
    for number in range(3):
        _photo(tmp_path / "set" / f"{number}.png", number)
    photos = find_photos(_folder_params(tmp_path / "set", test=4))
    assert [len(one) for one in (photos.training, photos.validation, photos.test)] == [1, 1, 1]


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
    assert _names(photos.validation) == ["4.png", "5.png"]
    assert _names(photos.training) == ["0.png", "1.png", "2.png", "3.png"]
    other = _folder_params(tmp_path / "set" / "val", validation_path=str(tmp_path / "set" / "train"))
    assert _names(find_photos(other).training) == ["4.png"]


def test_more_pairs_than_photographs_are_draws_of_their_own(tmp_path: Path) -> None:
    for number in range(3):
        _photo(tmp_path / "set" / f"{number}.png", number, size=(224, 224))
    train = _built(_folder_params(tmp_path / "set", train_crop="whole", train=8), tmp_path / "pairs").train
    clean = {image.numpy().tobytes() for image in train["clean"]}
    noisy = {image.numpy().tobytes() for name in ("noisy_1", "noisy_2") for image in train[name]}
    assert (len(clean), len(noisy)) == (2, 16)
    assert train["clean"][::2].eq(train["clean"][0]).all()  # dealt in turn, see `effects.compare`
    assert train["clean"][1::2].eq(train["clean"][1]).all()


def test_mixed_crops_show_each_photograph_whole_once_and_then_squares(tmp_path: Path) -> None:
    for number in range(5):
        _photo(tmp_path / "set" / f"{number}.png", number)
    train = {
        crop: _built(_folder_params(tmp_path / "set", train_crop=crop, train=10), tmp_path / crop).train
        for crop in ("whole", "square", "mixed")
    }
    for version in VERSIONS:
        whole, square, mixed = (train[crop][version] for crop in ("whole", "square", "mixed"))
        assert mixed[:4].equal(whole[:4])  # four of the five photographs train
        assert mixed[4:].equal(square[4:])
        assert not mixed.equal(whole)
        assert not mixed.equal(square)
    assert len({image.numpy().tobytes() for image in train["mixed"]["clean"][:4]}) == 4


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


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_damaged_pair_sets_are_named(params: Params, tmp_path: Path, split: str) -> None:
    with pytest.raises(UserError, match="notebook 01"):
        load_pairs(tmp_path)
    build_pairs(params, tmp_path)
    path = tmp_path / f"{split}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{split}\.safetensors: damaged"):
        load_pairs(tmp_path)


def test_pairs_are_made_again_when_their_parameters_change(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Params, "pairs_folder", property(lambda self: tmp_path))
    first = ensure_pairs(params).hash
    written = (tmp_path / "card.json").stat().st_mtime_ns
    named = params.pairs.model_copy(update={"photographs": "photographs of gardens"})
    for same in (params, params.model_copy(update={"pairs": named})):
        assert ensure_pairs(same).hash == first
        assert (tmp_path / "card.json").stat().st_mtime_ns == written
    assert ensure_pairs(params.model_copy(update={"seed": 3})).hash != first
    assert json.loads((tmp_path / "card.json").read_text())["made_from"]["parameters"]["seed"] == 3


def test_pairs_are_made_again_when_the_code_that_makes_them_changes(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_pairs(params, tmp_path / "set")
    card = read_card(tmp_path / "set")
    assert pair_set_module.is_current(card, params)
    here = Path(pair_set_module.__file__).parent
    for name in pair_set_module.MAKING:
        (tmp_path / f"{name}.py").write_text((here / f"{name}.py").read_text())
    monkeypatch.setattr(pair_set_module, "__file__", str(tmp_path / "pair_set.py"))
    for edit, same in (("# A remark.\n", True), ("HELD = 3\n", False)):
        (tmp_path / "corruption.py").write_text((here / "corruption.py").read_text() + edit)
        code_identity.cache_clear()
        assert pair_set_module.is_current(card, params) == same


def test_each_photograph_is_decoded_once_to_check_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        _photo(tmp_path / "set" / f"{number}.png", number)
    read, decoded = Photo.read, Counter()
    monkeypatch.setattr(Photo, "read", lambda photo: (decoded.update([photo.path.name]), read(photo))[1])
    find_photos(_folder_params(tmp_path / "set"))
    assert decoded == {f"{number}.png": 1 for number in range(4)}


def test_float_and_palette_photographs(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-5.0, 100.4], [255.0, 300.0]], np.float32)).save(tmp_path / "float.tiff")
    assert Photo(tmp_path / "float.tiff", "").read()[..., 0].tolist() == [[0, 100], [255, 255]]
    palette = Image.new("P", (4, 3), 0)
    palette.putpalette([200, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (Photo(tmp_path / "palette.png", "").read() == 255).all()


def test_a_validation_folder_inside_the_training_folder_is_not_trained_on(tmp_path: Path) -> None:
    for number in range(5):
        _photo(tmp_path / "set" / ("held" if number < 2 else "more") / f"{number}.png", number)
    photos = find_photos(_folder_params(tmp_path / "set", validation_path=str(tmp_path / "set" / "held")))
    assert _names(photos.validation) == ["0.png", "1.png"]
    assert _names(photos.training) == ["2.png", "3.png", "4.png"]
    assert not photos.skipped


def test_a_card_of_another_pair_set_is_noticed(pair_set: PairSet, tmp_path: Path) -> None:
    shutil.copytree(pair_set.folder, tmp_path / "set")
    card = pair_set.card | {"counts": pair_set.card["counts"] | {"train": 7}}
    (tmp_path / "set" / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"not the file that card\.json describes"):
        load_pairs(tmp_path / "set")


def test_blocks_that_do_not_fit_the_disk_are_a_message(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    pairs = params.pairs.model_copy(update={"resample": True})
    with pytest.raises(UserError, match=r"train_blocks\.npy: the disk is full"):
        build_pairs(params.model_copy(update={"pairs": pairs}), tmp_path / "set")


@pytest.mark.parametrize("card", ['{"a": 1}', "[1]"])
def test_a_card_of_something_else_is_no_pair_set(tmp_path: Path, card: str) -> None:
    (tmp_path / "card.json").write_text(card)
    with pytest.raises(UserError, match="no pair set here"):
        load_pairs(tmp_path)


def test_blocks_that_are_made_anew_leave_those_that_are_mapped(params: Params, tmp_path: Path) -> None:
    pairs = params.pairs.model_copy(update={"resample": True})
    build_pairs(params.model_copy(update={"pairs": pairs}), tmp_path / "set")
    mapped = load_pairs(tmp_path / "set").blocks()
    before = mapped.clone()
    build_pairs(params.model_copy(update={"pairs": pairs, "seed": 9}), tmp_path / "set")
    assert torch.equal(mapped, before)
    assert not torch.equal(load_pairs(tmp_path / "set").blocks(), before)
