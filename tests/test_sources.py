"""Sources ee559 and imagenette, the noise's assumptions, fresh draws, classical baselines."""

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

from n2nlib import augment, baselines, download, noise, training
from n2nlib.evaluation import mse_per_image
from n2nlib.files import UserError
from n2nlib.pairs import PairSet, build_pairs, load_pairs
from n2nlib.params import Params, load_params


def _quiet(text: str) -> None:
    pass


# ---------------------------------------------------------------------------------------------------------------------------------- ee559


def _course_params(folder: Path, **pairs: object) -> Params:
    return load_params(SMOKE, {"pairs": {"source": "ee559", "path": str(folder), "train": 12, "validation": 8} | pairs})


@pytest.fixture
def course(pair_set: PairSet, tmp_path: Path) -> Path:
    """The course's two files, with our images in them."""
    folder = tmp_path / "ee559"
    folder.mkdir()
    torch.save((pair_set.train["noisy_1"].clone(), pair_set.train["noisy_2"].clone()), folder / "train_data.pkl")
    torch.save([pair_set.validation["noisy_1"].clone(), pair_set.validation["clean"].clone()], folder / "val_data.pkl")
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
        (b"nothing that torch wrote", "refused|not a file"),
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


def test_swapped_course_files_and_too_many_pairs(course: Path) -> None:
    with pytest.raises(UserError, match=r"pairs\.train = 4000: .*train_data\.pkl holds 48 pairs"):
        build_pairs(_course_params(course, train=4000), course / "set")
    (course / "train_data.pkl").rename(course / "other")
    (course / "val_data.pkl").rename(course / "train_data.pkl")
    (course / "other").rename(course / "val_data.pkl")
    with pytest.raises(UserError, match="swapped"):
        build_pairs(_course_params(course), course / "set")


def test_the_courses_files_have_no_blocks(course: Path) -> None:
    with pytest.raises(UserError, match=r"pairs\.resample = true"):
        _course_params(course, resample=True)


# ----------------------------------------------------------------------------------------------------------------------------- imagenette


def _archive(names: list[str], folder: str = download.FOLDER) -> bytes:
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


GOOD = [f"@/{side}/n0{kind}/{number}.JPEG" for side in ("train", "val") for kind in (1, 2) for number in range(3)]


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
                self.wfile.write(outer.content[: len(outer.content) // 2] if outer.asked <= outer.cuts else outer.content)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/imagenette2-320.tgz"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[_Server]:
    made = _Server()
    made.content = _archive(GOOD)
    monkeypatch.setattr(download, "URL", made.url)
    monkeypatch.setattr(download, "MD5", hashlib.md5(made.content).hexdigest())
    monkeypatch.setenv("N2N_CACHE", str(tmp_path / "cache"))
    yield made
    made.server.shutdown()


def test_imagenette_is_fetched_once_and_used(server: _Server, tmp_path: Path) -> None:
    params = load_params(SMOKE, {"pairs": {"source": "imagenette", "train": 12, "validation": 8}})
    said: list[str] = []
    card = build_pairs(params, tmp_path / "set", say=said.append)
    assert card["photographs"] == {"train": 6, "validation": 6}
    assert any("MB" in line for line in said)
    assert server.asked == 1
    assert download.imagenette(_quiet) == tmp_path / "cache" / download.FOLDER
    assert server.asked == 1
    shutil.rmtree(tmp_path / "cache" / download.FOLDER)
    download.imagenette(_quiet)  # unpacked again from the archive that is there
    assert server.asked == 1


def test_a_broken_transfer_starts_again(server: _Server, tmp_path: Path) -> None:
    server.cuts = 2
    assert (download.imagenette(_quiet) / "val").is_dir()
    assert server.asked == 3


def test_a_transfer_that_never_ends_well_is_a_message(server: _Server, tmp_path: Path) -> None:
    server.cuts = 99
    with pytest.raises(UserError, match=r"the transfer failed|is not the file"):
        download.imagenette(_quiet)
    assert not (tmp_path / "cache" / download.FOLDER).exists()


def test_a_wrong_checksum_is_refused_before_unpacking(server: _Server, tmp_path: Path) -> None:
    server.content = _archive(GOOD[:-1])
    with pytest.raises(UserError, match="MD5"):
        download.imagenette(_quiet)
    assert list((tmp_path / "cache").glob("*")) == []


@pytest.mark.parametrize("hostile", ["../outside.JPEG", "@/../../outside.JPEG", "/tmp/n2n-outside.JPEG"])
def test_a_hostile_archive_stays_inside(server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: str) -> None:
    server.content = _archive([*GOOD, hostile])
    monkeypatch.setattr(download, "MD5", hashlib.md5(server.content).hexdigest())
    if hostile.startswith("/"):  # the leading slash is taken away, so that it lands inside
        download.imagenette(_quiet)
    else:
        with pytest.raises(UserError, match="safely"):
            download.imagenette(_quiet)
        assert not (tmp_path / "cache" / download.FOLDER).exists()
    assert not list(tmp_path.rglob("outside.JPEG"))
    assert not Path("/tmp/n2n-outside.JPEG").exists()


def test_an_archive_of_something_else_is_refused(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.content = _archive(GOOD, folder="other")
    monkeypatch.setattr(download, "MD5", hashlib.md5(server.content).hexdigest())
    with pytest.raises(UserError, match="holds no imagenette2-320/train"):
        download.imagenette(_quiet)


# ---------------------------------------------------------------------------------------------------------------------------- assumptions


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """A pair set large enough to measure."""
    folder = tmp_path_factory.mktemp("larger")
    build_pairs(load_params(SMOKE, {"pairs": {"train": 300, "validation": 300}}), folder, say=_quiet)
    pairs = load_pairs(folder)
    return tuple({name: tensor.numpy() for name, tensor in split.items()} for split in (pairs.train, pairs.validation))


def _state(measured: list[noise.Assumption]) -> dict[str, bool]:
    return {one.name: one.holds for one in measured}


def test_our_pairs_meet_every_assumption(arrays: tuple[dict, dict]) -> None:
    measured = noise.assumptions(*arrays)
    assert all(_state(measured).values()), measured
    assert "hold" in noise.verdict(measured)
    without_clean = {name: images for name, images in arrays[0].items() if name != "clean"}
    assert _state(noise.assumptions(without_clean, arrays[1]))["independent between the versions"]


@pytest.mark.parametrize("with_clean", [True, False])
def test_shared_noise_is_called_out(arrays: tuple[dict, dict], with_clean: bool) -> None:
    train = arrays[0] | {"noisy_2": arrays[0]["noisy_1"]}
    if not with_clean:
        del train["clean"]
    measured = noise.assumptions(train, arrays[1])
    assert not _state(measured)["independent between the versions"]
    assert "share noise" in noise.verdict(measured)
    assert noise.version_correlation(train, arrays[1]) == pytest.approx(1, abs=1e-6)


def test_clipped_and_coloured_noise_are_called_out(arrays: tuple[dict, dict], rng: np.random.Generator) -> None:
    train, validation = arrays
    gaussian = rng.normal(0, 40, validation["clean"].shape)
    clipped = np.clip(np.rint(validation["clean"] + gaussian), 0, 255).astype(np.uint8)
    measured = noise.assumptions(train, validation | {"noisy_1": clipped})
    assert not _state(measured)["mean zero at every grey level"]
    assert "clipped" in noise.verdict(measured)
    assert not _state(measured)["correlated across channels"]
    smooth = (gaussian + np.roll(gaussian, 1, 3)) / 2
    measured = noise.assumptions(train, validation | {"noisy_1": validation["clean"].astype(float) + smooth})
    assert not _state(measured)["spatially white"]
    assert "hold" in noise.verdict(measured)  # whiteness is not needed


def test_a_broken_set_is_not_accepted_in_silence(course: Path, pair_set: PairSet, tmp_path: Path) -> None:
    torch.save((pair_set.train["noisy_1"].clone(), pair_set.train["noisy_1"].clone()), course / "train_data.pkl")
    said: list[str] = []
    card = build_pairs(_course_params(course), tmp_path / "set", say=said.append)
    assert any("BROKEN" in line for line in said)
    assert "BROKEN" in card["verdict"]


# ---------------------------------------------------------------------------------------------------------------- fresh draws, baselines


@pytest.fixture(scope="module")
def with_blocks(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    folder = tmp_path_factory.mktemp("blocks")
    build_pairs(load_params(SMOKE, {"pairs": {"resample": True}}), folder, say=_quiet)
    return load_pairs(folder)


def test_blocks_are_those_of_the_pairs(with_blocks: PairSet, pair_set: PairSet) -> None:
    blocks = with_blocks.blocks()
    assert blocks.dtype == torch.uint8
    assert blocks.shape == (48, 49, 3, 32, 32)
    assert with_blocks.hash == pair_set.hash  # keeping blocks changes no pair
    mean = blocks.float().mean(1)
    assert (mean - with_blocks.train["clean"]).abs().max() <= 0.5 + 1e-4
    drawn = augment.redraw(blocks, torch.Generator().manual_seed(0))
    assert (blocks == drawn[:, None]).all(2).any(1).all()  # every pixel is one pixel of its block, its channels together
    other = augment.redraw(blocks, torch.Generator().manual_seed(1))
    assert (drawn != other).float().mean() > 0.3
    with pytest.raises(UserError, match="resample"):
        pair_set.blocks()


def test_fresh_draws_train_differently_and_repeat(with_blocks: PairSet, tmp_path: Path) -> None:
    device = torch.device("cpu")
    losses = []
    for number, changes in enumerate([{}, {"resample": True}, {"resample": True}]):
        state = training.train(a_run(**changes), with_blocks, device, tmp_path / str(number))
        losses.append([row["train_loss"] for row in state.history])
    assert losses[0] != losses[1]
    assert losses[1] == losses[2]


def test_baselines_are_what_they_say(pair_set: PairSet) -> None:
    table = baselines.baselines(pair_set)
    assert list(table.columns) == ["method", "psnr_full", "psnr_per_image", "psnr_hvs_m", "ssim"]
    assert table["method"].iloc[0] == "noisy input"
    noisy, clean = pair_set.validation["noisy_1"].numpy(), pair_set.validation["clean"].numpy()
    assert table["psnr_full"].iloc[0] == pytest.approx(10 * np.log10(255**2 / mse_per_image(noisy, clean).mean()))
    assert table["psnr_full"].iloc[1] > table["psnr_full"].iloc[0] + 2  # a blur removes much of this noise
    assert baselines.best(table)[1] == table["psnr_full"].iloc[1:].max()
    assert table["ssim"].between(0, 1).all()


def test_a_baselines_parameter_is_chosen_without_clean_images(pair_set: PairSet) -> None:
    without = PairSet(pair_set.folder, pair_set.card, {k: v for k, v in pair_set.train.items() if k != "clean"}, pair_set.validation)
    for method, values in baselines.METHODS.values():
        assert baselines.choose(method, values, without) in values
