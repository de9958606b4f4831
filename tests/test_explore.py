"""What notebooks/explore.ipynb does behind its widgets, and the notebook itself in a real kernel."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from conftest import Project, a_run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from n2nlib import params as parameters
from n2nlib.denoiser import FIELD, Denoiser
from n2nlib.experiments.paper_runs import ablation_runs
from n2nlib.files import ROOT, UserError, write_json
from n2nlib.metrics import mse_per_image, psnr_full
from n2nlib.pairs.corruption import squashed_blocks
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.report import diagrams, explore, explore_figures, figures
from n2nlib.report.explore import Record
from n2nlib.train import loop, runs
from n2nlib.train.identity import RunParams
from n2nlib.train.network import Network, save_network

EMPTY = pd.DataFrame()
Pair = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    return explore.photographs()


@pytest.fixture(scope="module")
def pair(photos: dict[str, np.ndarray]) -> Pair:
    return explore.make_pair(photos["coffee"], seed=3)


@pytest.fixture(scope="module")
def few_pairs() -> Iterator[None]:
    """Two squares of each training photograph instead of twenty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(explore.LIVE_PAIRS, "train", 12)
        explore.small_pairs.cache_clear()
        yield
    explore.small_pairs.cache_clear()


def _model(**options: object) -> Denoiser:
    network = Network(**({"width": 4} | options))
    network.initialize(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():  # the blocks of the gated network start as the identity
        if not parameter.any():
            parameter.data = 0.01 * torch.randn(parameter.shape, generator=generator)
    return Denoiser(network)


def test_noisy_pixels_are_pixels_of_their_blocks(photos: dict[str, np.ndarray], pair: Pair) -> None:
    blocks = squashed_blocks(photos["coffee"], 32, 7)
    noisy_1, noisy_2, clean = (pair[version][0].transpose(1, 2, 0) for version in pair)
    for noisy in (noisy_1, noisy_2):
        assert (blocks == noisy[:, :, None]).all(axis=-1).any(axis=2).all()
    assert np.abs(blocks.mean(axis=2) - clean).max() <= 0.5
    assert (noisy_1 != noisy_2).any()


def test_the_drawn_pair_is_the_one_that_is_denoised(photos: dict[str, np.ndarray], pair: Pair) -> None:
    figure = diagrams.noise(photos["coffee"], seed=3)
    drawn = {axis.get_title(): axis.images[0].get_array() for axis in figure.axes}
    plt.close(figure)
    for title, version in (("noisy 1: one pixel", "noisy_1"), ("noisy 2: one pixel", "noisy_2")):
        assert np.array_equal(drawn[title], pair[version][0].transpose(1, 2, 0))


def test_squares_are_parts_of_the_photograph(photos: dict[str, np.ndarray]) -> None:
    photo = photos["chelsea"]
    assert np.array_equal(explore.square(photo, 0), photo)
    first, again, other = (explore.square(photo, number) for number in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape[0] == first.shape[1]
    assert not np.array_equal(first, other)
    windows = np.lib.stride_tricks.sliding_window_view(photo, first.shape)
    assert (windows[..., 0, 0, :] == first[0, 0]).all(axis=-1).any()


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_own_photographs_come_first(rng: np.random.Generator, tmp_path: Path) -> None:
    known = {"bundled": np.zeros((40, 40, 3), np.uint8)}
    one, two = rng.integers(0, 256, (2, 50, 60, 3), np.uint8)
    uploaded = [{"name": "one.png", "content": memoryview(_png(one))}]
    assert explore.add_photographs(known, uploaded) == ["one", "bundled"]
    (tmp_path / "two.png").write_bytes(_png(two))
    assert explore.add_photographs(known, uploaded, str(tmp_path / "two.png")) == ["two", "one", "bundled"]
    assert np.array_equal(known["one"], one)
    assert np.array_equal(known["two"], two)
    for bad in ([{"name": "bad.png", "content": b"no image"}], []):
        with pytest.raises(UserError, match=r"(bad|missing).png: not a readable image"):
            explore.add_photographs(known, bad, str(tmp_path / "missing.png"))
    with pytest.raises(UserError, match=r"^~nobody_here/one.png: not a readable image"):
        explore.add_photographs(known, path="~nobody_here/one.png")
    assert list(known) == ["bundled", "one", "two"]


def test_a_file_that_is_no_image_does_not_keep_others_out(rng: np.random.Generator, tmp_path: Path) -> None:
    one, other = rng.integers(0, 256, (2, 50, 60, 3), np.uint8)
    known = {"one": one, "bundled": np.zeros((40, 40, 3), np.uint8)}
    (tmp_path / "one.png").write_bytes(_png(other))
    bad = [{"name": "bad.png", "content": b"no image"}]
    with pytest.raises(UserError, match=r"^bad.png: not a readable image \(UnidentifiedImageError\)$"):
        explore.add_photographs(known, bad, str(tmp_path / "one.png"))
    assert np.array_equal(known["one"], one)
    assert np.array_equal(known["one (2)"], other)
    again = [{"name": "one.png", "content": memoryview(_png(one))}]
    assert explore.add_photographs(known, again) == ["one", "one (2)", "bundled"]


def test_models_are_compared_on_one_noisy_image(pair: Pair) -> None:
    model = _model(tau_sharp=0.0)
    noisy, clean = pair["noisy_1"], pair["clean"]
    plain = explore.compare_models({"mine": model}, pair)
    assert np.array_equal(plain["noisy"], noisy)
    assert np.array_equal(plain["mine"], model.predict(noisy))
    before, blurred = (psnr_full(mse_per_image(plain[name], clean)) for name in ("noisy", "Gaussian blur"))
    assert blurred > before + 1

    sharpened = explore.compare_models({"mine": model}, pair, tau=2.0)["mine"]
    expected = Denoiser(model.network).network
    with torch.no_grad():
        image = torch.from_numpy(noisy).float()
        assert np.allclose(sharpened, expected.finish(expected.plain(image), 2.0), atol=1e-3)
    assert model.network.tau_sharp == 0.0

    added = explore.compare_models({}, pair, sigma_n=20.0, seed=1)["noisy"] - noisy
    assert added.std() == pytest.approx(20, rel=0.05)
    assert not np.array_equal(added, explore.compare_models({}, pair, sigma_n=20.0, seed=2)["noisy"] - noisy)


def test_committed_models_beat_the_noisy_image(params: Params, photos: dict[str, np.ndarray]) -> None:
    """Scale smoke commits no model, so this is the best model of all."""
    found = explore.models(params)
    assert len(found) == 1
    pair = explore.make_pair(photos["flower"])
    images = explore.compare_models(found, pair)
    noisy, *_, denoised = (psnr_full(mse_per_image(image, pair["clean"])) for image in images.values())
    assert denoised > noisy + 3


def test_filters_show_the_weights() -> None:
    model = _model()
    weights = next(model.network.unet.encoder[0].parameters())
    with torch.no_grad():
        weights[0] = 0
        weights[0, 1, 2, 0] = -3
    shown = explore.filters(model)
    assert shown.shape == (4, 3, 3, 3)
    assert shown[0, 1, 2, 0] == 0
    assert (np.delete(shown[0].ravel(), 9 + 6) == 127.5).all()
    assert shown.min() >= 0
    assert shown.max() <= 255


@pytest.mark.parametrize("arch", ["tconv", "upsample", "gated"])
def test_features_are_the_outputs_of_the_levels(arch: str, pair: Pair) -> None:
    model = _model(arch=arch)
    noisy = pair["noisy_1"]
    before = model.predict(noisy)
    found = explore.features(model, noisy[0])
    assert len(found) == {"gated": 5}.get(arch, 11)
    assert found["down 1"].shape[1:] == found[list(found)[-1]].shape[1:] == (32, 32)
    if arch != "gated":
        image = torch.from_numpy(noisy.copy()).float()
        assert np.allclose(found["down 1"], model.network.unet.encoder[0](image)[0].detach(), atol=1e-3)
        assert found["bottom"].shape[1:] == (1, 1)
    assert np.array_equal(model.predict(noisy), before)
    assert not any(module._forward_hooks for module in model.network.modules())


@pytest.mark.parametrize(("arch", "bound"), [("upsample", 144), ("tconv", 144), ("gated", 32)])
def test_the_receptive_field_is_bounded(arch: str, bound: int, rng: np.random.Generator) -> None:
    """`bound` in pixels follows from the layers; nothing beyond it can change the output in the centre."""
    model, side = _model(width=2, arch=arch), 320
    image = rng.integers(0, 256, (3, side, side)).astype(np.uint8)
    gradient = explore.receptive_field(model, image)
    centre = side // 2
    support = np.argwhere(gradient > 0) - centre
    assert np.abs(support).max() <= bound < FIELD
    assert np.abs(support).max() > 16
    assert gradient[centre - 8 : centre + 8, centre - 8 : centre + 8].mean() > 10 * gradient.mean()

    def output(changed: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return model.network.unet(torch.from_numpy(changed[None]).float())[0, :, centre, centre]

    outside = image.copy()
    outside[:, : centre - bound] = 255 - outside[:, : centre - bound]
    assert torch.allclose(output(outside), output(image), rtol=1e-5)
    inside = image.copy()
    y, x = np.unravel_index(gradient.argmax(), gradient.shape)
    inside[:, y, x] = 255 - inside[:, y, x]
    assert not torch.allclose(output(inside), output(image), rtol=1e-3)


def test_training_lowers_the_loss(few_pairs: None) -> None:
    *_, (history, denoiser) = explore.train_one(seconds=60, epochs=12, learning_rate=2e-3)
    assert list(history["images"]) == [12 * epoch for epoch in range(13)]
    assert history["train_loss"][12] < history["train_loss"][1] / 2
    assert history["psnr_full"][12] > history["psnr_full"][0] + 3
    assert set(history["run"]) == {"epochs 12, learning_rate 0.002"}
    noisy, clean = (explore.small_pairs()[0].validation[version].numpy() for version in ("noisy_1", "clean"))
    error = mse_per_image(denoiser.predict(noisy), clean)
    assert psnr_full(error) == pytest.approx(history["psnr_full"][12], abs=1e-3)


def test_training_ends_in_time_and_shows_its_progress(
    few_pairs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, epoch = [0.0], loop.train_epoch

    def timed(step: loop.Step) -> float:
        now[0] += 0.4
        return epoch(step)

    monkeypatch.setattr(explore, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(explore.loop, "train_epoch", timed)
    histories = [history for history, _ in explore.train_one(seconds=2.5, epochs=10_000)]
    assert [len(history) for history in histories] == [1, 4, 7, 8]  # after 0, 1.2, 2.4 and 2.8 s


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": True, "crops": ((0.7, 1.0), (0.05, 0.4))},
        {"arch": "gated", "averaging": 0.99, "tau_sharp": 1.0},
        {"target": "clean", "optimizer": "sgd", "learning_rate": 1e-6, "schedule": "one_cycle"},
        {"loss": "huber", "residual": True, "normalized": True, "shared_noise": True, "batch_size": 1},
    ],
)
def test_any_parameter_can_be_changed(few_pairs: None, changes: dict[str, object]) -> None:
    *_, (history, _) = explore.train_one(seconds=60, epochs=1, **changes)
    assert history["images"].iloc[-1] == 12 * max(1, len(changes.get("crops", ())))
    assert np.isfinite(history["train_loss"].iloc[-1])


def test_choices_are_allowed_and_hold_the_start() -> None:
    choices = explore.choices()
    assert set(choices) | explore.NO_EFFECT == set(RunParams.model_fields)
    for name, values in choices.items():
        values = [value[1] for value in values] if name == "crops" else values
        assert getattr(explore.LIVE_RUN, name) in values
        for value in values:
            RunParams(**(explore.LIVE_RUN.model_dump() | {name: value}))


def test_a_misspelt_parameter_is_named() -> None:
    with pytest.raises(UserError, match=r"widht = 4: .*parameters: seed, width, "):
        explore.train_one(widht=4)
    with pytest.raises(UserError, match=r"loss = 'l3': .*'l1'"):
        explore.train_one(loss="l3")


def test_curves_of_earlier_trainings_stay(few_pairs: None) -> None:
    earlier: dict[str, pd.DataFrame] = {}
    for changes in ({}, {"width": 4}):
        *_, (figure, example) = explore_figures.training(explore.train_one(60, epochs=2, **changes), earlier)
    lines = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert lines[:2] == list(earlier) == ["epochs 2", "epochs 2, width 4"]
    assert lines[2].startswith("noisy input: ")
    assert [axis.get_title() for axis in example.axes] == ["noisy", "output", "clean"]
    plt.close("all")


VALUES = {"seed": 1, "width": 8, "loss": "l1", "tau_sharp": 2.0, "crops": [[0.7, 1.0]], "epochs": 7}


@given(st.sets(st.sampled_from(sorted(VALUES))))
def test_exactly_the_differing_parameters_are_listed(names: set[str]) -> None:
    before = a_run().model_dump(mode="json")
    after = before | {name: VALUES[name] for name in names}
    found = explore.compare_runs(Record(before, 20.0, EMPTY, None), Record(after, 21.0, EMPTY, None))
    rows = found.set_index("Parameter")
    assert set(rows.index) == names
    assert all(rows["First"][name] == str(before[name]) for name in names)
    assert all(rows["Second"][name] == str(after[name]) for name in names)


@pytest.fixture
def checkout(tmp_path: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with params.yaml alone."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.setattr(parameters, "ROOT", tmp_path)
    runs_folder.mkdir()
    return tmp_path


def test_runs_of_this_scale_are_found_on_disk(
    checkout: Path, runs_folder: Path, params: Params, pair_set: PairSet, pair: Pair
) -> None:
    cpu, stage = torch.device("cpu"), runs_folder / "ablation"
    for changes in ({}, {"loss": "l1"}):
        run = a_run(epochs=2, **changes)
        state = loop.train(run, pair_set, cpu, runs_folder / "checkpoint")
        (runs_folder / "checkpoint").unlink()
        runs.store(stage, run, pair_set, state, cpu)
    with pytest.raises(UserError, match="03_ablation"):
        explore.records(params)
    write_json(params.pairs_folder / "card.json", pair_set.card)
    records = explore.records(params)
    assert len(records) == 2
    first, second = (records[name] for name in sorted(records))
    assert list(explore.compare_runs(first, second)["Parameter"]) == ["loss"]
    count = len(pair_set.train["noisy_1"])
    assert [list(one.curve["images"]) for one in (first, second)] == 2 * [[count, 2 * count]]
    table, curves, pictures = explore_figures.runs(first, second, pair)
    assert "loss" in table.to_html()
    assert f"first run, {first.psnr_full:.2f} dB" in curves.get_label()
    titles = [axis.get_title() for axis in pictures.axes]
    assert titles[:5] == ["noisy", "Gaussian blur", "first run", "second run", "clean"]
    plt.close("all")


def test_without_runs_the_committed_tables_are_shown(checkout: Path, params: Params, pair: Pair) -> None:
    planned = ablation_runs(params)
    table = pd.DataFrame([one.row | {"psnr_full": 20.0 + number} for number, one in enumerate(planned)])
    folder = params.reports / "03_ablation"
    folder.mkdir(parents=True)
    table.to_csv(folder / "table1_ablation.csv", index=False)
    progress = [
        one.row | {"epoch": 1, "images": 10, "psnr_full": number} for number, one in enumerate(planned)
    ]
    pd.DataFrame(progress).to_csv(folder / "progress.csv", index=False)
    records = explore.records(params)
    assert [record.parameters for record in records.values()] == [
        one.run.model_dump(mode="json") for one in planned
    ]
    assert [record.psnr_full for record in records.values()] == list(table["psnr_full"])
    assert [record.curve["psnr_full"].item() for record in records.values()] == list(range(len(planned)))
    first, second, *_ = records.values()
    differing = [name for name in first.parameters if first.parameters[name] != second.parameters[name]]
    assert sorted(explore.compare_runs(first, second)["Parameter"]) == sorted(differing)
    assert len(explore_figures.runs(first, second, pair)) == 2
    save_network(Network(4), params.reports / "05_fine_tuning" / "final.safetensors")
    about = {"run": "r", "parameters": first.parameters, "metrics": {"psnr_full": 21.5}}
    write_json(params.reports / "05_fine_tuning" / "final.json", about)
    final = explore.records(params)["final model: r"]
    assert (final.psnr_full, final.model.name) == (21.5, "final.safetensors")
    assert len(explore_figures.runs(final, first, pair)) == 3  # now with pictures
    plt.close("all")


def test_widgets_show_figures_mistakes_and_steps() -> None:
    def function(x: int) -> object:
        if x == 1:
            raise UserError("one <is> too few")
        return [figures.nothing('"nothing" here'), f"x < {x}"]

    slider = ipywidgets.IntSlider(2)
    box = explore_figures.live(function, x=slider)
    view = box.children[-1]
    assert slider.description == "x"
    assert 'alt="&quot;nothing&quot; here"' in view.value
    assert "x &lt; 2" in view.value
    slider.value = 1
    assert view.value == "<p>one &lt;is&gt; too few</p>"
    slider.value = 5
    assert "x &lt; 5" in view.value
    assert not plt.get_fignums()

    calls, number = [], ipywidgets.IntSlider(3)
    box = explore_figures.live(
        lambda n: (calls.append(n) or str(step) for step in range(n)), button="Go", n=number
    )
    number.value = 4
    assert len(calls) == 3
    box.children[0].children[-1].click()
    assert len(calls) == 7
    assert box.children[-1].value == "<p>3</p>"


def test_the_notebook_runs_on_a_fresh_clone_and_writes_nothing(tmp_path: Path) -> None:
    copy, out = Project.copy_of_the_tree(tmp_path / "copy"), tmp_path / "out.ipynb"
    notebook = copy.folder / "notebooks" / "explore.ipynb"
    papermill.execute_notebook(
        notebook, out, {"seconds": 1}, cwd=notebook.parent, progress_bar=False, execution_timeout=240
    )
    executed = nbformat.read(out, as_version=4)
    widgets = executed.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    views = [one["state"]["value"] for one in widgets if one["model_name"] == "HTMLModel"]
    assert sum("<img" in view for view in views) == 7
    assert sum(not view for view in views) == 1  # no photograph was added yet
    assert copy.git("status", "--porcelain", "--ignored") == ""
