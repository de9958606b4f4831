"""The benchmarks run at a tiny size, and what they compute from their measurements is right.

No test looks at a speed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import gpu, pairs, precision, predict, rates, rebuild, recipe, sweep, training
from n2nlib.files import ROOT, UserError
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params, load_params
from n2nlib.train.network import Network, save_network


@pytest.fixture(autouse=True)
def threads():
    """Benchmarks set the number of threads of their process."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def printed(capsys: pytest.CaptureFixture) -> dict:
    """The one JSON object on standard output."""
    return json.loads(capsys.readouterr().out)


@pytest.mark.long
def test_training_reports_ratios_of_each_width_and_batch(capsys):
    training.main(["--widths", "2", "--batches", "1", "3", "--seconds", "0.01", "--rounds", "1"])
    result = printed(capsys)
    width = result["widths"]["2"]
    assert list(width["batches"]) == ["1", "3"]
    for batch in width["batches"].values():
        expected = batch["images_per_s"] / width["loop_images_per_s"]
        assert batch["ratio"] == pytest.approx(expected, rel=0.01, abs=2e-3)


def test_the_default_run_takes_rate_and_augmentation_from_the_parameters(params: Params):
    run = training.default_run(params, width=5, batch_size=3, seed=2)
    assert (run.width, run.batch_size, run.seed) == (5, 3, 2)
    assert run.learning_rate == params.ablation.learning_rates.adam.mse
    assert run.sigma_n == params.training.sigma_n


@pytest.mark.long
def test_sweep_trains_everything_through_both_clusters(capsys):
    sweep.main(["--runs", "2", "--rounds", "1", "--pairs", "8"])
    result = printed(capsys)
    expected = result["images_per_s_2"] / result["images_per_s_1"]
    assert result["ratio"] == pytest.approx(expected, rel=0.05)


def test_pairs_counts_all_that_were_made(capsys):
    pairs.main(["--photos", "12", "--pairs", "20"])
    laptop = load_params(ROOT / "params" / "laptop.yaml")
    assert printed(capsys)["pairs"] == 20 + 200 + laptop.pairs.test


def test_gpu_measures_the_device_at_hand(capsys):
    gpu.main(["--seconds", "0.01", "--width", "2", "--batches", "2", "--at-once", "2"])
    result = printed(capsys)
    assert result["best"] in result["images_per_s"]
    assert result["limits"].keys() == {"matmul_float32_tflops", "matmul_bfloat16_tflops", "copy_gb_s"}


def test_predict_compares_the_same_images(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predict, "has_compiler", lambda: False)  # compiling takes most of a minute
    network = Network(width=2)
    network.initialize(torch.Generator().manual_seed(0))
    save_network(network, tmp_path / "model.safetensors", flips=True)
    model = str(tmp_path / "model.safetensors")
    predict.main(["--model", model, "--pixels", "2048", "--seconds", "0.001", "--rounds", "1"])
    result = printed(capsys)["sizes"]
    assert {size: one["images"] for size, one in result.items()} == {"32": 2, "256": 1}
    for one in result.values():
        assert one["settings"]["compiled"] is None
        assert one["ratio"].keys() < one["megapixels_per_s"].keys()


def test_what_is_compared_denoises_alike(rng: np.random.Generator):
    network = Network(width=2)
    network.initialize(torch.Generator().manual_seed(0))
    denoiser = predict.Denoiser(network)
    images = rng.integers(0, 256, (2, 3, 32, 32), np.uint8)
    expected = denoiser.predict(images)
    ways = predict.settings(denoiser, images) | {"compiled": None, "bfloat16": None}
    for name, work in ways.items():
        made = work() if work else None
        if made is not None:
            made = made.detach().numpy() if isinstance(made, torch.Tensor) else made
            np.testing.assert_allclose(made, expected, atol=1e-2, err_msg=name)


def test_the_noisy_images_differ_and_are_noisy():
    images = predict.noisy_images(32, 3 * 32 * 32)
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 3


def test_rebuild_counts_stages_and_training():
    lines = [
        (1.0, "Running stage 'data':\n"),
        (3.0, "Running stage 'ablation':\n"),
        (4.0, "ablation: 12 runs, 10 on disk; 2 to train (400 images) on 2 processes.\n"),
        (5.0, "[11/12] tconv-l1-adam | 20 images/s, 3 s left\n"),
        (7.0, "[12/12] tconv-l1-sgd | 20 images/s, done\n"),
        (8.0, "[12/12] not of a sweep\n"),
        (9.0, "Running stage 'paper':\n"),
    ]
    result = rebuild.breakdown(lines, 10.0)
    assert result["stages"] == {"data": 2.0, "ablation": 6.0, "paper": 1.0}
    assert result["training_seconds"] == 3.0
    assert result["outside_training"] == pytest.approx(0.7)


def test_precision_compares_means_over_seeds():
    about = dict(zip(precision.KEYS, precision.SETTINGS[0], strict=True))
    psnr = {"float32": (20.0, 21.0, 22.0), "bfloat16": (20.5, 21.5, 22.5)}
    table = pd.DataFrame(
        [about | {"precision": name, "psnr_mean": value} for name in psnr for value in psnr[name]]
    )
    row = precision.compare(table).iloc[0]
    assert (row["float32"], row["bfloat16"], row["difference"]) == pytest.approx((21, 21.5, 0.5))
    assert row["seed_std"] == pytest.approx(1.0)


def test_precision_plans_each_setting_in_both_precisions(params: Params):
    planned = precision.precision_runs(params, 2)
    expected = {(seed, kind) for seed in precision.SEEDS for kind in ("float32", "bfloat16")}
    for setting in precision.SETTINGS:
        of_setting = [one.run for one in planned if tuple(one.row[key] for key in precision.KEYS) == setting]
        assert {(run.seed, run.precision) for run in of_setting} == expected
        assert all((run.tau_sharp > 0) == setting[2] for run in of_setting)


def test_precision_needs_a_processor_with_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["precision"])
    with pytest.raises(UserError, match="no bfloat16"):
        precision.main()


def _short(learning_rate: float, *psnr: float, loss: str = "l1") -> list[dict[str, object]]:
    about = {"schedule": "short", "batch_size": 4, "optimizer": "adam", "loss": loss}
    return [
        about | {"learning_rate": learning_rate, "psnr_full": one, "seconds": 1.0, "seed": 0} for one in psnr
    ]


def test_a_rate_is_scored_by_its_worst_run_and_out_if_one_fails():
    l1 = [*_short(1e-3, 23.0, 22.0), *_short(2e-3, 25.0, 21.9), *_short(4e-3, 26.0, 19.0)]
    table = pd.DataFrame([*l1, *_short(1e-3, 23.5, 23.5, loss="mse")])
    scored = rates.scores(table, noisy_db=20.0).set_index(["loss", "learning_rate"])
    assert scored["worst"]["l1"].tolist() == [22.0, 21.9, 19.0]
    assert scored["failed"]["l1"].tolist() == [0, 0, 1]
    order = rates.ranked(scored.reset_index())
    assert order == [(4, "adam", "mse", 1e-3), (4, "adam", "l1", 1e-3), (4, "adam", "l1", 2e-3)]
    assert set(rates.first_of_each(order)) == set(order[:2])


def test_the_score_of_a_rate_reads_the_runs_that_were_trained(
    params: Params, pair_set: PairSet, runs_folder: Path
) -> None:
    planned = rates.search_runs(params, "short", 1, [(16, "adam", "mse", 1e-3)], (0,), rates.SETTINGS[:1])
    table = rates.trained(planned, pair_set, params)
    (row,) = rates.scores(table, noisy_db=0.0).itertuples()
    assert row.worst == row.mean == table["psnr_full"][0]
    assert (row.runs, row.failed) == (1, 0)
    assert row.seconds > 0


def test_rates_are_tried_on_every_setting_with_as_many_steps(params: Params):
    planned = rates.search_runs(params, "short", 4, [(2, "sgd", "mse", 1e-6)], (0, 1), rates.SETTINGS)
    assert len(planned) == 8
    for one in planned:
        run = one.run
        assert (run.batch_size, run.optimizer, run.loss, run.learning_rate) == (2, "sgd", "mse", 1e-6)
        assert run.epochs * max(1, len(run.crops)) == 4
        assert run.annealing_steps == 1
    (long,) = rates.search_runs(params, "long", 4, [(2, "sgd", "mse", 1e-6)], (0,), rates.SETTINGS[:1])
    assert long.run.annealing_steps == 0


def test_a_variant_of_the_recipe_changes_one_thing(params: Params):
    planned = recipe.recipe_runs(params, list(recipe.SHORT), recipe.PAIRS)
    start, *others = (one.run.model_dump() for one in planned)
    for one, run in zip(planned[1:], others, strict=True):
        changed = {key for key in start if run[key] != start[key]}
        assert changed == set(recipe.SHORT[one.row["variant"]]), one.row
