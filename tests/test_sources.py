"""The sources ee559 and imagenette, the assumptions about the noise, fresh draws, classical methods."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import pickle
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMOKE, a_run
from PIL import Image
from scipy.ndimage import correlate

from n2nlib.files import UserError
from n2nlib.metrics import mse_per_image
from n2nlib.pairs import baselines, imagenette, noise
from n2nlib.pairs.pair_set import PairSet, build_pairs, load_pairs
from n2nlib.params import Params, load_params
from n2nlib.train import augment, loop


def _quiet(text: str) -> None:
    pass


# ee559


def _course_params(folder: Path, **pairs: object) -> Params:
    chosen = {"source": "ee559", "path": str(folder), "train": 12, "validation": 8, "test": 0}
    return load_params(SMOKE, {"pairs": chosen | pairs})


@pytest.fixture
def course(pair_set: PairSet, tmp_path: Path) -> Path:
    """The course's two files, with our images in them."""
    folder = tmp_path / "ee559"
    folder.mkdir()
    train, validation = pair_set.train, pair_set.validation
    torch.save((train["noisy_1"].clone(), train["noisy_2"].clone()), folder / "train_data.pkl")
    torch.save([validation["noisy_1"].clone(), validation["clean"].clone()], folder / "val_data.pkl")
    return folder


def test_course_files_are_used_as_they_are(course: Path, pair_set: PairSet, tmp_path: Path) -> None:
    card = build_pairs(_course_params(course), tmp_path / "set", say=_quiet)
    pairs = load_pairs(tmp_path / "set")
    assert torch.equal(pairs.train["noisy_1"], pair_set.train["noisy_1"][:12])
    assert torch.equal(pairs.train["noisy_2"], pair_set.train["noisy_2"][:12])
    assert torch.equal(pairs.validation["noisy_1"], pair_set.validation["noisy_1"][:8])
    assert torch.equal(pairs.validation["clean"], pair_set.validation["clean"][:8])
    assert card["counts"] == {"train": 12, "validation": 8}
    assert card["noisy_psnr_db"]["train"] is None
    assert pairs.test == {}
    with pytest.raises(UserError, match="no clean training images"):
        pairs.target("clean")


class _RunsCode:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/n2n-test-was-here",)


def test_a_pickle_that_would_run_code_is_refused(course: Path) -> None:
    (course / "train_data.pkl").write_bytes(pickle.dumps(_RunsCode()))
    with pytest.raises(UserError, match=r"train_data\.pkl: refused"):
        build_pairs(_course_params(course), course / "set")
    torch.save((_RunsCode(), torch.zeros(3)), course / "train_data.pkl")
    with pytest.raises(UserError, match=r"train_data\.pkl: refused"):
        build_pairs(_course_params(course), course / "set")
    assert not Path("/tmp/n2n-test-was-here").exists()


def _images(count: int = 12, size: int = 32, kind: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.zeros(count, 3, size, size, dtype=kind)


@pytest.mark.parametrize("name", ["train_data.pkl", "val_data.pkl"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ((_images(), _images(11)), "12 and 11 images"),
        ((_images(), _images(size=64)), "tensor 2 has shape"),
        ((_images(kind=torch.float32), _images()), "float32 in [0, 1]"),
        ((_images(), _images(kind=torch.int64)), "int64"),
        ((_images(),), "a tuple of 1"),
        ({"noisy": _images()}, "a dict of 1"),
        (_images(), "a Tensor"),
        ((_images().permute(0, 2, 3, 1), _images()), "tensor 1 has shape (12, 32, 32, 3)"),
        (b"nothing that torch wrote", "no file of torch.save"),
        (None, "missing"),
    ],
)
def test_wrong_course_files_are_named(course: Path, name: str, content: object, words: str) -> None:
    path = course / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError) as caught:
        build_pairs(_course_params(course), course / "set")
    assert name in str(caught.value)
    assert any(word in str(caught.value) for word in words.split("|"))


def test_swapped_course_files_and_too_many_pairs(course: Path, params: Params) -> None:
    held = rf"train_data\.pkl holds {params.pairs.train} pairs"
    with pytest.raises(UserError, match=rf"pairs\.train = 4000: .*{held}"):
        build_pairs(_course_params(course, train=4000), course / "set")
    (course / "train_data.pkl").rename(course / "other")
    (course / "val_data.pkl").rename(course / "train_data.pkl")
    (course / "other").rename(course / "val_data.pkl")
    with pytest.raises(UserError, match="swapped"):
        build_pairs(_course_params(course), course / "set")


def test_course_files_with_a_clean_training_image_or_a_swapped_validation_pair(course: Path) -> None:
    noisy, clean = torch.load(course / "val_data.pkl", weights_only=True)
    torch.save((clean, noisy), course / "val_data.pkl")
    with pytest.raises(UserError, match=r"val_data\.pkl: its second tensor is not smoother"):
        build_pairs(_course_params(course), course / "set")
    torch.save((noisy, noisy), course / "val_data.pkl")
    with pytest.raises(UserError, match=r"val_data\.pkl: its second tensor is not smoother"):
        build_pairs(_course_params(course), course / "set")
    torch.save((noisy, clean), course / "val_data.pkl")
    torch.save((clean, noisy), course / "train_data.pkl")
    with pytest.raises(UserError, match=r"train_data\.pkl: one of its tensors is smoother"):
        build_pairs(_course_params(course, train=8), course / "set")


@pytest.mark.parametrize(("key", "value", "words"), [("resample", True, "true"), ("test", 4, "4")])
def test_the_course_files_have_neither_blocks_nor_test_images(
    course: Path, key: str, value: object, words: str
) -> None:
    with pytest.raises(UserError, match=rf"pairs\.{key} = {words}"):
        _course_params(course, **{key: value})


# imagenette


def _archive(names: list[str], folder: str = imagenette.FOLDER) -> bytes:
    """A gzipped tar of small JPEGs under the given names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for number, name in enumerate(names):
            image = io.BytesIO()
            noise_image = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(noise_image).save(image, "JPEG")
            entry = tarfile.TarInfo(name.replace("@", folder))
            entry.size = image.tell()
            tar.addfile(entry, io.BytesIO(image.getvalue()))
    return buffer.getvalue()


FOLDERS = [f"@/{side}/n0{kind}" for side in ("train", "val") for kind in (1, 2)]
GOOD = [f"{folder}/{number}.JPEG" for folder in FOLDERS for number in range(3)]


class _Server:
    """An HTTP server on loopback that serves `content`; the first `cuts` answers break off in the middle."""

    def __init__(self) -> None:
        self.content, self.cuts, self.asked = b"", 0, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.content)))
                self.end_headers()
                whole = outer.asked > outer.cuts
                self.wfile.write(outer.content if whole else outer.content[: len(outer.content) // 2])

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/imagenette2-320.tgz"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[_Server]:
    made = _Server()
    made.content = _archive(GOOD)
    monkeypatch.setattr(imagenette, "URL", made.url)
    monkeypatch.setattr(imagenette, "MD5", hashlib.md5(made.content).hexdigest())
    monkeypatch.setenv("N2N_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)  # between its attempts
    yield made
    made.server.shutdown()


def test_imagenette_is_fetched_once_and_used(server: _Server, tmp_path: Path) -> None:
    chosen = {"source": "imagenette", "train": 12, "validation": 8, "test": 4}
    params = load_params(SMOKE, {"pairs": chosen})
    said: list[str] = []
    card = build_pairs(params, tmp_path / "set", say=said.append)
    assert card["photographs"] == {"train": 6, "validation": 4, "test": 2}
    assert any("MB" in line for line in said)
    assert server.asked == 1
    assert imagenette.imagenette(_quiet) == tmp_path / "cache" / imagenette.FOLDER
    assert server.asked == 1
    shutil.rmtree(tmp_path / "cache" / imagenette.FOLDER)
    imagenette.imagenette(_quiet)  # unpacked again from the archive that is there
    assert server.asked == 1


def test_a_broken_transfer_starts_again(server: _Server, tmp_path: Path) -> None:
    server.cuts = 2
    assert (imagenette.imagenette(_quiet) / "val").is_dir()
    assert server.asked == 3


def test_a_transfer_that_never_ends_well_is_a_message(server: _Server, tmp_path: Path) -> None:
    server.cuts = 99
    with pytest.raises(UserError, match=r"the transfer failed|is not the file"):
        imagenette.imagenette(_quiet)
    assert server.asked == 3
    assert not (tmp_path / "cache" / imagenette.FOLDER).exists()


def test_a_wrong_checksum_is_refused_before_unpacking(server: _Server, tmp_path: Path) -> None:
    server.content = _archive(GOOD[:-1])
    with pytest.raises(UserError, match="MD5"):
        imagenette.imagenette(_quiet)
    assert list((tmp_path / "cache").glob("*")) == []


@pytest.mark.parametrize("hostile", ["../outside.JPEG", "@/../../outside.JPEG", "/tmp/n2n-outside.JPEG"])
def test_a_hostile_archive_stays_inside(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: str
) -> None:
    server.content = _archive([*GOOD, hostile])
    monkeypatch.setattr(imagenette, "MD5", hashlib.md5(server.content).hexdigest())
    if hostile.startswith("/"):  # the leading slash is taken away, so that it lands inside
        imagenette.imagenette(_quiet)
    else:
        with pytest.raises(UserError, match="safely"):
            imagenette.imagenette(_quiet)
        assert not (tmp_path / "cache" / imagenette.FOLDER).exists()
    assert not list(tmp_path.rglob("outside.JPEG"))
    assert not Path("/tmp/n2n-outside.JPEG").exists()


def test_an_archive_of_something_else_is_refused(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = _archive(GOOD, folder="other")
    monkeypatch.setattr(imagenette, "MD5", hashlib.md5(server.content).hexdigest())
    with pytest.raises(UserError, match="holds no imagenette2-320/train"):
        imagenette.imagenette(_quiet)
    assert not (tmp_path / "cache" / imagenette.FOLDER).exists()
    assert not list((tmp_path / "cache").glob(".unpacking*"))


# assumptions


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """A training and a validation set large enough to measure."""
    folder = tmp_path_factory.mktemp("larger")
    build_pairs(load_params(SMOKE, {"pairs": {"train": 300, "validation": 300}}), folder, say=_quiet)
    pairs = load_pairs(folder)
    splits = (pairs.train, pairs.validation)
    return tuple({name: tensor.numpy() for name, tensor in split.items()} for split in splits)


def _state(measured: list[noise.Assumption]) -> dict[str, bool | None]:
    return {one.name: one.holds for one in measured}


MEAN, MEDIAN = (f"{centre} zero at every grey level" for centre in ("mean", "median"))


def test_our_pairs_meet_every_assumption_but_that_of_l1(arrays: tuple[dict, dict]) -> None:
    measured = noise.assumptions(*arrays)
    state = _state(measured)
    assert not state.pop(MEDIAN)  # the noise is skewed: MSE and L1 have different targets
    assert all(state.values()), measured
    assert [one.name for one in measured if one.needed] == [MEAN, "independent between the versions"]
    assert "Both assumptions of Noise2Noise hold" in noise.verdict(measured)
    assert "L1 aims at a different image" in noise.verdict(measured)
    without_clean = {name: images for name, images in arrays[0].items() if name != "clean"}
    assert _state(noise.assumptions(without_clean, arrays[1]))["independent between the versions"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 0], 0.0),
        ([-1, 0, 0, 1], 0.0),
        ([-3, -1, -1, 0, 0, 0, 9, 9], -0.5 + 1 / 3),  # a third of the zeros lies below the median
        ([0.2, -0.4, 5.0], 0.25),  # two of three values in [-1/2, 1/2], of which three quarters lie below
    ],
)
def test_the_median_of_small_integers(values: list[float], expected: float) -> None:
    assert noise.grouped_median(np.array(values, float)) == pytest.approx(expected)


def test_skewed_noise_has_its_mean_and_its_median_in_their_places(
    arrays: tuple[dict, dict], rng: np.random.Generator
) -> None:
    train, validation = arrays
    shape, sigma = validation["clean"].shape, 20.0
    skewed = validation["clean"] + sigma * (rng.exponential(1, shape) - 1)
    levels = noise.by_level(skewed, validation["clean"])
    assert (levels["mean"].abs() < 5 * levels["error"]).all()
    np.testing.assert_allclose(levels["median"], sigma * (np.log(2) - 1), atol=1.5)
    np.testing.assert_allclose(levels["balance"], 2 / np.e - 1, atol=0.03)  # P(noise > 0) = 1 / e
    measured = noise.assumptions(train, validation | {"noisy_1": skewed})
    assert _state(measured)[MEAN]
    assert not _state(measured)[MEDIAN]
    assert "the same minimum as with clean targets" in noise.verdict(measured)
    symmetric = validation["clean"] + rng.laplace(0, sigma, shape)
    measured = noise.assumptions(train, validation | {"noisy_1": symmetric})
    assert _state(measured)[MEDIAN]
    assert "L1 aims at the same image" in noise.verdict(measured)


def test_the_spread_of_the_noise_by_contrast(arrays: tuple[dict, dict], rng: np.random.Generator) -> None:
    clean = arrays[1]["clean"].astype(float)
    flat = noise.by_contrast(clean + rng.normal(0, 10, clean.shape), clean)
    assert list(flat.columns) == ["contrast", "std"]
    assert flat["contrast"].is_monotonic_increasing
    np.testing.assert_allclose(flat["std"], 10, rtol=0.03)


@pytest.mark.parametrize("with_clean", [True, False])
def test_shared_noise_is_called_out(arrays: tuple[dict, dict], with_clean: bool) -> None:
    train = arrays[0] | {"noisy_2": arrays[0]["noisy_1"]}
    if not with_clean:
        del train["clean"]
    measured = noise.assumptions(train, arrays[1])
    assert not _state(measured)["independent between the versions"]
    assert "share noise" in noise.verdict(measured)
    assert noise.version_correlation(train, arrays[1]) == pytest.approx(1, abs=1e-6)


def test_clipped_and_coloured_noise_are_called_out(
    arrays: tuple[dict, dict], rng: np.random.Generator
) -> None:
    train, validation = arrays
    gaussian = rng.normal(0, 40, validation["clean"].shape)
    clipped = np.clip(np.rint(validation["clean"] + gaussian), 0, 255).astype(np.uint8)
    measured = noise.assumptions(train, validation | {"noisy_1": clipped})
    assert not _state(measured)[MEAN]
    assert "clipped" in noise.verdict(measured)
    assert not _state(measured)["correlated across channels"]
    smooth = (gaussian + np.roll(gaussian, 1, 3)) / 2
    measured = noise.assumptions(train, validation | {"noisy_1": validation["clean"].astype(float) + smooth})
    assert not _state(measured)["spatially white"]
    assert "hold" in noise.verdict(measured)  # whiteness is not needed


def test_too_few_images_tell_nothing(arrays: tuple[dict, dict]) -> None:
    few = [{name: images[:4] for name, images in split.items()} for split in arrays]
    measured = noise.assumptions(*few)
    assert _state(measured)[MEAN] is None
    assert _state(measured)[MEDIAN] is None
    assert noise.verdict(measured).startswith("There are too few images to tell")
    few[0]["noisy_2"] = few[0]["noisy_1"]  # shared noise shows in few images, too
    assert "BROKEN" in noise.verdict(noise.assumptions(*few))


def test_a_broken_set_is_not_accepted_in_silence(course: Path, pair_set: PairSet, tmp_path: Path) -> None:
    shared = pair_set.train["noisy_1"].clone()
    torch.save((shared, shared), course / "train_data.pkl")
    said: list[str] = []
    card = build_pairs(_course_params(course), tmp_path / "set", say=said.append)
    assert any("BROKEN" in line for line in said)
    assert "BROKEN" in card["verdict"]


# fresh draws, baselines


@pytest.fixture(scope="module")
def with_blocks(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    folder = tmp_path_factory.mktemp("blocks")
    build_pairs(load_params(SMOKE, {"pairs": {"resample": True}}), folder, say=_quiet)
    return load_pairs(folder)


def test_blocks_are_those_of_the_pairs(with_blocks: PairSet, pair_set: PairSet) -> None:
    blocks = with_blocks.blocks()
    assert blocks.dtype == torch.uint8
    assert blocks.shape == (len(with_blocks.train["clean"]), 49, 3, 32, 32)
    assert with_blocks.hash == pair_set.hash  # keeping blocks changes no pair
    mean = blocks.float().mean(1)
    assert (mean - with_blocks.train["clean"]).abs().max() <= 0.5 + 1e-4
    drawn = augment.redraw(blocks, torch.Generator().manual_seed(0))
    assert (blocks == drawn[:, None]).all(2).any(1).all()  # one pixel of the block, its channels together
    other = augment.redraw(blocks, torch.Generator().manual_seed(1))
    assert (drawn != other).float().mean() > 0.3
    with pytest.raises(UserError, match="resample"):
        pair_set.blocks()


def test_fresh_draws_train_differently_and_repeat(with_blocks: PairSet, tmp_path: Path) -> None:
    device = torch.device("cpu")
    losses = []
    for number, changes in enumerate([{}, {"resample": True}, {"resample": True}]):
        state = loop.train(a_run(**changes), with_blocks, device, tmp_path / str(number))
        losses.append([row["train_loss"] for row in state.history])
    assert losses[0] != losses[1]
    assert losses[1] == losses[2]


@pytest.fixture(scope="module")
def denoised(pair_set: PairSet) -> dict[str, np.ndarray]:
    noisy = pair_set.validation["noisy_1"].numpy()
    return {name: method(noisy) for name, method in baselines.tuned(pair_set).items()}


def test_baselines_are_what_they_say(pair_set: PairSet) -> None:
    table = baselines.baselines(baselines.tuned(pair_set), pair_set.validation)
    assert list(table.columns) == ["method", "psnr_full", "psnr_per_image", "psnr_hvs_m", "ssim"]
    assert table["method"].iloc[0] == "noisy input"
    noisy, clean = pair_set.validation["noisy_1"].numpy(), pair_set.validation["clean"].numpy()
    expected = 10 * np.log10(255**2 / mse_per_image(noisy, clean).mean())
    assert table["psnr_full"].iloc[0] == pytest.approx(expected)
    assert table["psnr_full"].iloc[1] > table["psnr_full"].iloc[0] + 2  # a blur removes much of this noise
    assert baselines.best(table)[1] == table["psnr_full"].iloc[1:].max()
    assert table["ssim"].between(0, 1).all()


def test_baselines_of_the_test_set_are_measured_there(pair_set: PairSet) -> None:
    methods = baselines.tuned(pair_set)
    images = pair_set.validation, pair_set.test
    validation, test = (baselines.baselines(methods, split) for split in images)
    assert list(test["method"]) == list(methods)
    expected = pair_set.card["noisy_psnr_db"]["test"]["global"]
    assert test["psnr_full"].iloc[0] == pytest.approx(expected, abs=1e-4)
    assert not np.allclose(test["psnr_full"], validation["psnr_full"])


def test_predictions_are_images(denoised: dict[str, np.ndarray], pair_set: PairSet) -> None:
    assert len(denoised) == 6
    for images in denoised.values():
        assert images.dtype == np.float32
        assert images.shape == pair_set.validation["clean"].shape
        assert images.min() >= 0
        assert images.max() <= 255 + 1e-3
    np.testing.assert_array_equal(denoised["noisy input"], pair_set.validation["noisy_1"].numpy())


def test_parameters_are_chosen_without_clean_validation_or_test_images(
    denoised: dict[str, np.ndarray], pair_set: PairSet
) -> None:
    noisy = {name: tensor for name, tensor in pair_set.train.items() if name != "clean"}
    without = PairSet(pair_set.folder, pair_set.card, noisy, {}, {})
    chosen = [baselines.choose(method, values, without) for method, values in baselines.METHODS.values()]
    for value, (name, (_, values)) in zip(chosen, baselines.METHODS.items(), strict=True):
        assert value in values
        assert any(key.startswith(name) and f" {value:g})" in key for key in denoised)


def test_the_search_finds_the_best_of_the_whole_grid(pair_set: PairSet) -> None:
    first, second = (pair_set.train[name].numpy() for name in ("noisy_1", "noisy_2"))
    for method, values in baselines.METHODS.values():
        errors = [mse_per_image(method(first, value), second).mean() for value in values]
        best = values[int(np.argmin(errors))]
        assert baselines.choose(method, values, pair_set) == best
        assert best not in (values[0], values[-1])  # the grid reaches far enough


def test_grids_are_equally_fine() -> None:
    for name, (_, values) in baselines.METHODS.items():
        if name != "median":
            ratios = np.divide(values[1:], values[:-1])
            assert len(values) == 33
            assert ratios.min() > 1
            assert ratios.max() < 1.15


def test_every_radius_of_the_median_gives_another_disc() -> None:
    point = np.zeros((1, 3, 11, 11), np.float32)
    rows, columns = np.mgrid[-5:6, -5:6]
    sizes = []
    for radius in baselines.METHODS["median"][1]:
        disc = rows**2 + columns**2 <= radius**2
        sizes.append(int(disc.sum()))
        enough = point + np.where(disc, 100, 0)  # the centre has only bright pixels in its disc
        assert baselines.median(enough, radius)[0, 0, 5, 5] == 100
    assert sizes == [1, 5, 9, 13, 21, 25]


def test_a_linear_filter_is_recovered_exactly(rng: np.random.Generator) -> None:
    known = rng.normal(size=(5, 5))
    first = rng.integers(0, 256, (30, 3, 12, 12), np.uint8)  # borders are a third of such small images
    second = correlate(first.astype(float), known[None, None], mode="mirror")
    np.testing.assert_allclose(baselines.fit_linear(first, second), known, atol=1e-9)
    limited = baselines.linear(first, known)
    np.testing.assert_allclose(limited, second.clip(0, 255), rtol=1e-4, atol=1e-2)


def test_the_linear_filter_learns_from_noisy_pairs_what_wiener_knew(rng: np.random.Generator) -> None:
    signal = rng.normal(0, 30, (300, 3, 16, 16))  # white, so that no neighbour helps
    first, second = (signal + rng.normal(0, 15, signal.shape) for _ in range(2))
    wiener = np.zeros((5, 5))
    wiener[2, 2] = 30**2 / (30**2 + 15**2)
    np.testing.assert_allclose(baselines.fit_linear(first, second), wiener, atol=0.01)


def test_the_linear_filter_is_the_best_linear_filter_of_its_pairs(pair_set: PairSet) -> None:
    first, second = (pair_set.train[name].numpy() for name in ("noisy_1", "noisy_2"))
    weights = baselines.fit_linear(first, second)

    def error(filter_: np.ndarray) -> float:
        made = correlate(first.astype(float), filter_[None, None], mode="mirror")
        return ((made - second) ** 2).mean()

    impulse = np.zeros((5, 5))
    impulse[2, 2] = 1
    sigma = baselines.choose(*baselines.METHODS["Gaussian blur"], pair_set)
    blur = baselines.blur(impulse[None, None], sigma)[0, 0]
    assert error(weights) < error(blur) < error(impulse)
    for row, column in ((2, 2), (0, 4), (1, 2)):
        for change in (-0.01, 0.01):
            other = weights.copy()
            other[row, column] += change
            assert error(other) > error(weights)
