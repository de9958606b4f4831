"""One run and its folder: schedules, steps, losses, same seed same bytes, resume, divergence, damage."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import a_run

from n2nlib import Denoiser, metrics
from n2nlib.files import UserError
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.train import evaluate, loop, runs
from n2nlib.train.identity import RunParams, images_of, run_name
from n2nlib.train.loop import LOSSES, Step, TrainingState, begin, learning_rate, train_epoch
from n2nlib.train.network import load_network
from n2nlib.train.runs import find
from n2nlib.train.sweep import stream, train_and_store

CPU = torch.device("cpu")
GLOBAL, LOCAL = (0.7, 1.0), (0.05, 0.4)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _files(folder: Path) -> dict[str, object]:
    """The bytes of a run's folder, without the seconds that it took."""
    files: dict[str, object] = {path.name: path.read_bytes() for path in folder.iterdir()}
    about = json.loads(files.pop("run.json"))
    return files | {"run.json": {key: value for key, value in about.items() if key != "seconds"}}


def _step(run: RunParams, pairs: PairSet) -> Step:
    return Step(run, begin(run, CPU), pairs.train["noisy_1"], pairs.target(run.target))


def _refuse(state: TrainingState) -> None:
    raise AssertionError("this run is on disk and must not be trained")


def test_annealing_as_in_the_reports_example() -> None:
    run = a_run(learning_rate=5e-2, annealing_steps=3)
    for per_epoch in (1, 7):
        steps = 20 * per_epoch
        rates = [learning_rate(run, epoch * per_epoch, steps) for epoch in range(20)]
        assert rates == pytest.approx([5e-2] * 5 + [5e-3] * 5 + [5e-4] * 5 + [5e-5] * 5)
        last = [learning_rate(run, (epoch + 1) * per_epoch - 1, steps) for epoch in range(20)]
        assert last == pytest.approx(rates)  # the rate changes between epochs if they divide
    run = a_run(learning_rate=1.0, annealing_steps=1)
    assert [learning_rate(run, step, 20) for step in (0, 9, 10, 19)] == pytest.approx([1, 1, 0.1, 0.1])
    assert {learning_rate(a_run(annealing_steps=0), step, 7) for step in range(7)} == {1e-3}
    assert learning_rate(a_run(annealing_steps=1), 0, 1) == 1e-3


def test_one_cycle_is_torchs() -> None:
    run, steps = a_run(schedule="one_cycle", learning_rate=0.3), 200
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=steps + 1, cycle_momentum=False)
    for step in range(steps):
        # torch puts the peak on step 0.3 * total - 1
        expected = theirs.get_last_lr()[0]
        assert learning_rate(run, step, steps) == pytest.approx(expected, abs=0.3 / 40)
        optimizer.step()
        theirs.step()
    assert learning_rate(run, 0, steps) == pytest.approx(0.3 / 25)
    assert learning_rate(run, 60, steps) == pytest.approx(0.3)
    assert learning_rate(run, 30, steps) == pytest.approx((0.3 / 25 + 0.3) / 2)
    assert learning_rate(run, 130, steps) == pytest.approx((0.3 + 0.3 / 25e4) / 2)
    assert learning_rate(run, steps - 1, steps) < 0.3 / 1000


@pytest.mark.parametrize("schedule", ["steps", "one_cycle"])
@pytest.mark.parametrize(("warmup", "steps"), [(0.05, 200), (0.1, 55), (0.05, 10), (0.5, 8)])
def test_warmup_is_linear_over_its_share_of_the_steps(schedule: str, warmup: float, steps: int) -> None:
    with_warmup = a_run(schedule=schedule, warmup=warmup, learning_rate=2.0)
    without = a_run(schedule=schedule, learning_rate=2.0)
    long = warmup * steps
    for step in range(steps):
        share = learning_rate(with_warmup, step, steps) / learning_rate(without, step, steps)
        assert share == pytest.approx(min(1, (step + 1) / long))
    if schedule == "steps" and long >= 2:
        assert learning_rate(with_warmup, 0, steps) == pytest.approx(2 / long)
        assert learning_rate(with_warmup, math.ceil(long) - 1, steps) == pytest.approx(2)


@pytest.mark.parametrize("changes", [{"warmup": 0.5}, {"crops": (GLOBAL, LOCAL), "warmup": 0.1}])
@pytest.mark.parametrize("batch_size", [5, 8, 48])
def test_every_step_has_the_rate_of_the_whole_schedule(
    pair_set: PairSet, changes: dict, batch_size: int
) -> None:
    run = a_run(epochs=4, annealing_steps=3, batch_size=batch_size, **changes)
    step, rates = _step(run, pair_set), []
    step.take = lambda items: rates.append(step.state.optimizer.param_groups[0]["lr"])
    for _ in range(run.epochs):
        train_epoch(step)
        step.state.history.append({})
    per_epoch = math.ceil(24 * max(1, len(run.crops)) / batch_size)
    assert len(rates) == 4 * per_epoch
    assert rates == pytest.approx([learning_rate(run, number, len(rates)) for number in range(len(rates))])


def _items(run: RunParams, pairs: PairSet) -> list[list[int]]:
    """The items of each batch of an epoch."""
    step, batches = _step(run, pairs), []
    step.take = lambda items: batches.append(items.tolist())
    train_epoch(step)
    return batches


@pytest.mark.parametrize("batch_size", [1, 8, 16])
def test_crops_change_neither_the_images_a_batch_nor_the_steps(pair_set: PairSet, batch_size: int) -> None:
    without = a_run(batch_size=batch_size, epochs=4)
    crops = a_run(batch_size=batch_size, epochs=2, crops=(GLOBAL, LOCAL))
    count = len(pair_set.train["noisy_1"])
    one, two = _items(without, pair_set), _items(crops, pair_set)
    assert sorted(chain(*one)) == list(range(count))
    assert sorted(chain(*two)) == list(range(2 * count))  # each kind of crop of each pair once
    assert {len(batch) for batch in two[:-1]} | {batch_size} == {batch_size}
    assert images_of(crops, count) == images_of(without, count) == 4 * count
    assert sum(map(len, two)) * crops.epochs == images_of(crops, count)
    if count % batch_size == 0:
        assert len(two) * crops.epochs == len(one) * without.epochs


def test_an_epoch_holds_one_crop_of_each_kind_of_every_pair(pair_set: PairSet) -> None:
    """Images that say which pair they are, and whose slopes say how large a part of them was taken."""
    count, along = 24, torch.arange(32.0)
    images = torch.empty(count, 3, 32, 32, dtype=torch.uint8)
    images[:, 0] = torch.arange(count)[:, None, None]
    images[:, 1], images[:, 2] = 4 * along, 4 * along[:, None]
    run = a_run(crops=(GLOBAL, LOCAL), sigma_n=0.0, batch_size=7)
    step = Step(run, begin(run, CPU), images, images)
    seen = []
    for items in torch.randperm(2 * count).split(7):
        noisy, target = step.images(items)
        assert noisy.shape == (len(items), 3, 32, 32)
        assert torch.equal(noisy, target)
        slopes = noisy.flatten(2)
        width, height = ((slopes[:, c].amax(1) - slopes[:, c].amin(1)) / 4 + 1 for c in (1, 2))
        area = width * height / 32**2
        kinds = items // count
        for kind, (low, high) in enumerate((GLOBAL, LOCAL)):
            assert (area[kinds == kind] >= low - 0.05).all()
            assert (area[kinds == kind] <= high + 0.05).all()
        found = slopes[:, 0].mean(1).round().int().tolist()
        seen += zip(found, kinds.tolist(), strict=True)
    assert sorted(seen) == sorted((pair, kind) for pair in range(count) for kind in (0, 1))


def test_losses_in_closed_form() -> None:
    errors = torch.tensor([0.0, 1.0, -31.0, 32.0, -33.0, 200.0])
    target = torch.full_like(errors, 20.0)
    size = errors.abs()
    huber = torch.where(size <= 32, size**2 / 2, 32 * (size - 16))
    expected = {"l1": size, "mse": size**2, "huber": huber}
    assert set(LOSSES) == set(expected)
    for name, values in expected.items():
        assert LOSSES[name](target + errors, target).item() == pytest.approx(values.mean().item())


def test_averaged_weights_follow_their_recursion(pair_set: PairSet) -> None:
    run = a_run(averaging=0.9, batch_size=48, sigma_n=0.0)
    step, expected = _step(run, pair_set), None
    for _ in range(3):
        train_epoch(step)  # one step an epoch
        weights = [parameter.detach().clone() for parameter in step.state.network.parameters()]
        both = zip(expected or weights, weights, strict=True)
        expected = [0.9 * old + 0.1 * new for old, new in both]
    for found, wanted in zip(step.state.evaluation_network.parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("averaging", [0.0, 0.5])
def test_what_is_measured_is_the_stored_model(pair_set: PairSet, runs_folder: Path, averaging: float) -> None:
    run = a_run(epochs=2, averaging=averaging, tau_sharp=2.0)
    result = train_and_store(runs_folder / "test", run, pair_set, CPU)
    for split, prefix in (("validation", ""), ("test", "test_")):
        images = getattr(pair_set, split)
        clean, noisy = images["clean"].numpy().astype(float), images["noisy_1"].numpy()
        denoised = Denoiser.load(result.model).predict(noisy)
        mse = ((denoised - clean) ** 2).mean(axis=(1, 2, 3))
        assert result.errors[f"{prefix}mse"] == pytest.approx(mse, rel=1e-4)
        network, _ = load_network(result.model)
        network.tau_sharp = 1.0  # with the report's evaluation
        mse = ((Denoiser(network).predict(noisy) - clean) ** 2).mean(axis=(1, 2, 3))
        assert result.errors[f"{prefix}mse_report"] == pytest.approx(mse, rel=1e-4)
    for name in ("mse", "mse_report"):
        assert result.curve[2][name] == pytest.approx(result.errors[name])


def test_each_metric_is_that_of_the_errors_it_names(
    pair_set: PairSet, params: Params, runs_folder: Path
) -> None:
    result = train_and_store(runs_folder / "test", a_run(epochs=1), pair_set, CPU)
    found, errors = result.metrics(params), result.errors
    mean, std = metrics.subset_psnr(errors["mse"], params.evaluation, params.seed)
    report_mean, report_std = metrics.subset_psnr(errors["mse_report"], params.evaluation, params.seed)
    expected = {
        "psnr_mean": mean,
        "psnr_std": std,
        "psnr_full": metrics.psnr_full(errors["mse"]),
        "psnr_per_image": metrics.psnr_per_image(errors["mse"]),
        "report_mean": report_mean,
        "report_std": report_std,
        "report_full": metrics.psnr_full(errors["mse_report"]),
        "peak_change": metrics.peak_change(errors["highest_report"], params.evaluation, params.seed),
        "psnr_hvs_m": errors["psnr_hvs_m"].mean(),
        "ssim": errors["ssim"].mean(),
        "test_full": metrics.psnr_full(errors["test_mse"]),
        "test_per_image": metrics.psnr_per_image(errors["test_mse"]),
        "test_report_full": metrics.psnr_full(errors["test_mse_report"]),
    }
    assert found == pytest.approx(expected)


def test_metrics_follow_the_evaluation_without_training(
    pair_set: PairSet, params: Params, runs_folder: Path
) -> None:
    result = train_and_store(runs_folder / "one", a_run(epochs=1), pair_set, CPU)
    protocol = params.evaluation.model_copy(update={"repeats": 37})
    other = params.model_copy(update={"evaluation": protocol})
    again = train_and_store(runs_folder / "one", a_run(epochs=1), pair_set, CPU, _refuse)
    expected = metrics.subset_psnr(result.errors["mse"], protocol, params.seed)
    found = again.metrics(other)
    assert (found["psnr_mean"], found["psnr_std"]) == pytest.approx(expected)
    assert found["psnr_mean"] != result.metrics(params)["psnr_mean"]


def test_without_a_test_set_its_metrics_are_nan(pair_set: PairSet, params: Params, runs_folder: Path) -> None:
    without = dataclasses.replace(pair_set, test={})
    result = train_and_store(runs_folder / "test", a_run(epochs=1), without, CPU)
    found = result.metrics(params)
    names = {"test_full", "test_per_image", "test_report_full"}
    assert {name for name, value in found.items() if math.isnan(value)} == names
    assert not {name for name in result.errors if name.startswith("test_")}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_step_is_the_optimisers_rule(pair_set: PairSet, optimizer: str) -> None:
    run = a_run(
        optimizer=optimizer,
        batch_size=48,
        epochs=1,
        sigma_n=0.0,
        flips="none",
        learning_rate=1e-4,
        loss="l1",
        annealing_steps=0,
    )
    step = _step(run, pair_set)
    network = step.state.network
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    loss = (network(step.inputs.float()) - step.targets.float()).abs().mean()
    gradients = dict(zip(before, torch.autograd.grad(loss, list(network.parameters())), strict=True))
    assert train_epoch(step) == pytest.approx(loss.item(), rel=1e-4)
    for name, parameter in network.named_parameters():
        gradient = gradients[name]
        change = gradient if optimizer == "sgd" else gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter, before[name] - 1e-4 * change, rtol=1e-3, atol=2e-5)


def test_a_clean_target_gets_no_noise(pair_set: PairSet) -> None:
    step = _step(a_run(target="clean", flips="none"), pair_set)
    noisy, target = step.images(torch.arange(4))
    assert torch.equal(target, pair_set.train["clean"][:4].float())
    assert (noisy - step.inputs[:4].float()).std().item() == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("shared", [True, False])
def test_input_and_target_get_their_noise(pair_set: PairSet, shared: bool) -> None:
    step = _step(a_run(flips="none", shared_noise=shared), pair_set)
    images = step.images(torch.arange(24))
    noise = [image - given.float() for image, given in zip(images, (step.inputs, step.targets), strict=True)]
    assert torch.allclose(*noise, atol=1e-3) == shared
    assert noise[1].std().item() == pytest.approx(5, rel=0.02)


@pytest.mark.parametrize("every", [True, False])
def test_the_curve_has_the_validated_epochs(pair_set: PairSet, runs_folder: Path, every: bool) -> None:
    run = a_run(epochs=3, validate_every_epoch=every, crops=(GLOBAL, LOCAL), warmup=0.5)
    result = train_and_store(runs_folder / "test", run, pair_set, CPU)
    history = result.history
    assert list(history["epoch"]) == [1, 2, 3]
    assert list(history["images"]) == [48, 96, 144]
    assert result.about["images"] == 144
    steps = 3 * math.ceil(48 / 16)
    rates = [learning_rate(run, first, steps) for first in range(0, steps, steps // 3)]
    assert list(history["learning_rate"]) == pytest.approx(rates)
    validated = [1, 2, 3] if every else [3]
    assert list(result.curve) == validated
    for column, errors in (("psnr_full", "mse"), ("report_full", "mse_report")):
        found = history.set_index("epoch")[column].dropna()
        expected = {epoch: metrics.psnr_full(result.curve[epoch][errors]) for epoch in validated}
        assert found.to_dict() == pytest.approx(expected)


CHANGES = [
    {},
    {"crops": (GLOBAL, LOCAL), "warmup": 0.3, "loss": "huber"},
    {"averaging": 0.9, "schedule": "one_cycle"},
    {"arch": "tconv", "init": "fan_in", "optimizer": "sgd", "learning_rate": 1e-7},
    {"arch": "gated", "tau_sharp": 0.0},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_same_seed_same_bytes_other_seed_other_bytes(
    pair_set: PairSet, runs_folder: Path, changes: dict
) -> None:
    def trained(folder: str, **more: object) -> dict[str, object]:
        run = a_run(**(changes | more))
        return _files(train_and_store(runs_folder / folder / "t", run, pair_set, CPU).folder)

    first, again, other = trained("one"), trained("two"), trained("one", seed=1)
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]
    assert not list((runs_folder / "one" / ".checkpoints").iterdir())


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}, {"averaging": 0.9, "schedule": "one_cycle"}])
@pytest.mark.parametrize("epochs_done", [1, 2, 3])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    pair_set: PairSet, runs_folder: Path, epochs_done: int, changes: dict
) -> None:
    run = a_run(crops=(GLOBAL,), learning_rate=1e-6, warmup=0.5, **changes)
    whole = _files(train_and_store(runs_folder / "whole" / "t", run, pair_set, CPU).folder)
    seen = []

    def interrupt(state: TrainingState) -> None:
        seen.append(len(state.history))
        if len(state.history) == epochs_done and len(seen) == epochs_done:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_and_store(runs_folder / "parts" / "t", run, pair_set, CPU, interrupt)
    assert find(runs_folder / "parts" / "t", run, pair_set.hash) is None
    resumed = train_and_store(runs_folder / "parts" / "t", run, pair_set, CPU, interrupt)
    assert _files(resumed.folder) == whole
    assert seen == [1, 2, 3]  # no epoch twice


@pytest.mark.parametrize("damage", ["truncated", "empty", "other"])
def test_a_damaged_checkpoint_starts_the_run_again(
    pair_set: PairSet, runs_folder: Path, damage: str, capsys: pytest.CaptureFixture
) -> None:
    run = a_run()
    whole = _files(train_and_store(runs_folder / "whole" / "t", run, pair_set, CPU).folder)
    checkpoint = runs.checkpoint_of(runs_folder / "again" / "t", run, pair_set.hash)
    loop.train(a_run(epochs=1), pair_set, CPU, checkpoint)
    if damage == "other":
        loop.train(a_run(width=6, epochs=1), pair_set, CPU, runs_folder / "other")
        shutil.move(runs_folder / "other", checkpoint)
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-50] if damage == "truncated" else b"")
    assert _files(train_and_store(runs_folder / "again" / "t", run, pair_set, CPU).folder) == whole
    assert "damaged checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["run.json", "history.csv", "curve.safetensors", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_run_is_trained_again(pair_set: PairSet, runs_folder: Path, name: str, damage: str) -> None:
    run = a_run(epochs=1)
    result = train_and_store(runs_folder / "one", run, pair_set, CPU)
    whole = _files(result.folder)
    path = result.folder / name
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-3])
    assert find(runs_folder / "one", run, pair_set.hash) is None
    assert _files(train_and_store(runs_folder / "one", run, pair_set, CPU).folder) == whole


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_measurements_are_measured_again_and_nothing_is_trained(
    pair_set: PairSet, runs_folder: Path, damage: str
) -> None:
    run = a_run(epochs=1, averaging=0.5)
    result = train_and_store(runs_folder / "one", run, pair_set, CPU)
    whole, path = _files(result.folder), result.folder / "measured.safetensors"
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-3])
    assert find(runs_folder / "one", run, pair_set.hash) is None
    again = train_and_store(runs_folder / "one", run, pair_set, CPU, _refuse)
    assert _files(again.folder) == whole


def test_a_run_that_another_stage_trained_is_not_trained_again(
    pair_set: PairSet, params: Params, runs_folder: Path
) -> None:
    run = a_run(epochs=1)
    one = train_and_store(runs_folder / "one", run, pair_set, CPU)
    assert train_and_store(runs_folder / "two", run, pair_set, CPU, _refuse).folder == one.folder
    (one.folder / "measured.safetensors").unlink()
    again = train_and_store(runs_folder / "two", run, pair_set, CPU, _refuse)
    assert again.metrics(params) == one.metrics(params)
    (one.folder / "model.safetensors").unlink()
    own = train_and_store(runs_folder / "two", run, pair_set, CPU)
    assert own.folder.parent.name == "two"


def test_another_runs_folder_under_this_name_is_not_this_run(pair_set: PairSet, runs_folder: Path) -> None:
    run, stage = a_run(epochs=1), runs_folder / "one"
    other = train_and_store(stage, a_run(epochs=1, seed=1), pair_set, CPU)
    other.folder.rename(stage / run_name(run, pair_set.hash))
    assert find(stage, run, pair_set.hash) is None
    result = train_and_store(stage, run, pair_set, CPU)
    assert result.about["parameters"]["seed"] == 0


def test_a_run_without_its_model_is_whole_and_says_so(
    pair_set: PairSet, params: Params, runs_folder: Path
) -> None:
    run = a_run(epochs=1)
    result = train_and_store(runs_folder / "one", run, pair_set, CPU)
    runs.forget_model(result)
    slim = train_and_store(runs_folder / "one", run, pair_set, CPU, _refuse)
    assert slim.metrics(params) == result.metrics(params)
    assert not (slim.folder / "model.safetensors").exists()
    with pytest.raises(UserError, match="was not kept"):
        _ = slim.model
    (slim.folder / "history.csv").unlink()
    assert find(runs_folder / "one", run, pair_set.hash) is None


def test_a_run_says_what_trained_it(pair_set: PairSet, runs_folder: Path) -> None:
    run = a_run(epochs=1)
    about = train_and_store(runs_folder / "one", run, pair_set, CPU).about
    assert about["run"] == run_name(run, pair_set.hash)
    assert about["run"].endswith(about["identity"][:12])
    assert about["parameters"] == run.model_dump(mode="json")
    assert about["pairs"] == pair_set.hash
    assert about["versions"]["torch"] == torch.__version__
    assert about["seconds"] > 0


def test_the_machine_is_recorded_by_its_name(pair_set: PairSet, runs_folder: Path) -> None:
    about = train_and_store(runs_folder / "one", a_run(epochs=1), pair_set, CPU).about
    name, cores = about["machine"].rsplit(", ", 1)
    assert int(cores.removesuffix(" cores")) >= 1
    cpus = Path("/proc/cpuinfo")
    if not cpus.is_file() or "model name" not in cpus.read_text():
        pytest.skip("this system does not say what its processor is called")
    assert name in cpus.read_text()
    assert name != platform.machine()


def test_a_diverged_run_is_recorded_with_its_psnr(
    pair_set: PairSet, params: Params, runs_folder: Path
) -> None:
    run = a_run(optimizer="sgd", learning_rate=1e12, epochs=3)
    result = train_and_store(runs_folder / "one", run, pair_set, CPU)
    assert result.diverged
    history = result.history
    assert len(history) < 3 or not np.isfinite(history["train_loss"].iloc[-1])
    assert max(result.curve) == len(history)  # validated although training ended early
    assert result.about["images"] == history["images"].iloc[-1]
    assert all(math.isfinite(value) for value in result.metrics(params).values())
    assert 0 < result.metrics(params)["psnr_full"] < 15
    assert train_and_store(runs_folder / "one", run, pair_set, CPU, _refuse).diverged


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@needs_gpu
@pytest.mark.parametrize("changes", CHANGES)
def test_a_replayed_step_is_the_step(pair_set: PairSet, changes: dict) -> None:
    device = torch.device("cuda")
    run = a_run(**({"batch_size": 5, "precision": "bfloat16"} | changes))  # the last batch is smaller
    weights = []
    for replayed in (True, False):
        with stream(device):
            state = begin(run, device)
            images = (pair_set.train[name].to(device) for name in ("noisy_1", "noisy_2"))
            step = Step(run, state, *images)
            step.take = step.take if replayed else step
            losses = [train_epoch(step) for _ in range(2)]
        trained = [parameter.detach().cpu() for parameter in state.evaluation_network.parameters()]
        weights.append([torch.tensor(losses), *trained])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@needs_gpu
def test_a_gpu_learns_what_the_cpu_learns(pair_set: PairSet, tmp_path: Path) -> None:
    run = a_run(sigma_n=0.0, flips="none", epochs=2)
    states = [loop.train(run, pair_set, torch.device(name), tmp_path / name) for name in ("cpu", "cuda")]
    losses = [[row["train_loss"] for row in state.history] for state in states]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    noisy = pair_set.validation["noisy_1"]
    found = [
        evaluate.predict(state.network, noisy.to(name))
        for state, name in zip(states, ("cpu", "cuda"), strict=True)
    ]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=5)
