"""One run and its folder: annealing, same seed same bytes, resume, divergence, identity, damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import a_run
from skimage.metrics import structural_similarity

from n2nlib import Denoiser, runs, training
from n2nlib.experiments import dead_channels
from n2nlib.files import UserError
from n2nlib.pairs import PairSet
from n2nlib.params import Params
from n2nlib.runs import Result, find, identity, train_and_store
from n2nlib.sections import RunParams
from n2nlib.sweep import stream

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _files(folder: Path) -> dict[str, bytes]:
    """The bytes of a run's folder, without the seconds that it took."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}
    about = json.loads((folder / "run.json").read_text())
    return files | {"run.json": {key: value for key, value in about.items() if key != "seconds"}}


def test_annealing_as_in_the_papers_example() -> None:
    run = a_run(learning_rate=5e-2, annealing_steps=3, epochs=20)
    rates = [training.learning_rate(run, epoch) for epoch in range(20)]
    assert rates == pytest.approx([5e-2] * 5 + [5e-3] * 5 + [5e-4] * 5 + [5e-5] * 5)
    run = a_run(learning_rate=1.0, annealing_steps=1, epochs=20)
    assert [training.learning_rate(run, epoch) for epoch in (0, 9, 10, 19)] == pytest.approx([1, 1, 0.1, 0.1])
    assert {training.learning_rate(a_run(annealing_steps=0, epochs=7), epoch) for epoch in range(7)} == {1e-3}
    assert training.learning_rate(a_run(annealing_steps=1, epochs=1), 0) == 1e-3


def test_one_cycle_is_torchs(pair_set: PairSet) -> None:
    run, steps = a_run(schedule="one_cycle", learning_rate=0.3, epochs=5), 40
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=5 * steps + 1, cycle_momentum=False)
    for step in range(5 * steps):
        # torch puts the peak on step 0.3 * total - 1
        ours = training.learning_rate(run, step // steps, step % steps / steps)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=0.3 / steps)
        optimizer.step()
        theirs.step()
    assert training.learning_rate(run, 0) == pytest.approx(0.3 / 25)
    assert training.learning_rate(run, 1, 0.5) == pytest.approx(0.3)


def test_averaged_weights_follow_their_recursion(pair_set: PairSet) -> None:
    run = a_run(averaging=0.9, batch_size=48, sigma_n=0.0)
    state = training.begin(run, CPU)
    step, expected = training.Step(run, state, pair_set.train["noisy_1"], pair_set.train["noisy_2"]), None
    for _ in range(3):
        training.train_epoch(step)  # one step an epoch
        weights = [parameter.detach().clone() for parameter in state.network.parameters()]
        expected = weights if expected is None else [0.9 * old + 0.1 * new for old, new in zip(expected, weights, strict=True)]
    for found, wanted in zip(state.product.parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_measures_are_of_the_stored_model(pair_set: PairSet, params: Params, tmp_path: Path) -> None:
    result = runs.train_and_store(tmp_path / "runs" / "test", a_run(epochs=1, averaging=0.5), pair_set, params, CPU)
    clean = pair_set.validation["clean"].numpy()
    denoised = Denoiser.load(result.model).predict(pair_set.validation["noisy_1"].numpy())
    one = structural_similarity(denoised[0], clean[0].astype(np.float32), channel_axis=0, data_range=255, gaussian_weights=True, use_sample_covariance=False)
    assert result.validation["ssim"][0] == pytest.approx(one, abs=1e-4)
    assert result.measures["ssim"] == pytest.approx(result.validation["ssim"].mean())
    assert result.validation["mse"][-1] == pytest.approx(((denoised - clean.astype(float)) ** 2).mean(axis=(1, 2, 3)), rel=1e-4)
    assert json.loads((result.folder / "metrics.json").read_text())["psnr_hvs_m"] == pytest.approx(result.measures["psnr_hvs_m"])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_step_is_the_optimisers_rule(pair_set: PairSet, optimizer: str) -> None:
    run = a_run(optimizer=optimizer, batch_size=48, epochs=1, sigma_n=0.0, flips="none", learning_rate=1e-4, loss="l1", annealing_steps=0)
    state = training.begin(run, CPU)
    before = {name: tensor.clone() for name, tensor in state.network.named_parameters()}
    inputs, targets = pair_set.train["noisy_1"], pair_set.train["noisy_2"]
    loss = (state.network(inputs.float()) - targets.float()).abs().mean()
    gradients = dict(zip(before, torch.autograd.grad(loss, list(state.network.parameters())), strict=True))
    assert training.train_epoch(training.Step(run, state, inputs, targets)) == pytest.approx(loss.item(), rel=1e-4)
    for name, parameter in state.network.named_parameters():
        step = gradients[name] if optimizer == "sgd" else gradients[name] / (gradients[name].abs() + 1e-8)
        expected = before[name] - 1e-4 * step
        torch.testing.assert_close(parameter, expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    "changes",
    [{}, {"crops": ((0.7, 1.0), (0.05, 0.4))}, {"averaging": 0.9, "schedule": "one_cycle"}, {"arch": "tconv", "optimizer": "sgd", "learning_rate": 1e-7}],
)
def test_same_seed_same_bytes_other_seed_other_bytes(pair_set: PairSet, params: Params, runs_folder: Path, changes: dict) -> None:
    first = _files(train_and_store(runs_folder / "one", a_run(**changes), pair_set, params, CPU).folder)
    again = _files(train_and_store(runs_folder / "two", a_run(**changes), pair_set, params, CPU).folder)
    other = _files(train_and_store(runs_folder / "one", a_run(**changes, seed=1), pair_set, params, CPU).folder)
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]
    assert not list((runs_folder / ".checkpoints").iterdir())


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}, {"averaging": 0.9, "schedule": "one_cycle"}])
@pytest.mark.parametrize("epochs_done", [1, 2, 3])
def test_an_interrupted_run_continues_to_the_same_bytes(pair_set: PairSet, params: Params, runs_folder: Path, epochs_done: int, changes: dict) -> None:
    run = a_run(crops=((0.7, 1.0),), learning_rate=1e-6, **changes)
    whole = _files(train_and_store(runs_folder / "whole", run, pair_set, params, CPU).folder)
    seen = []

    def interrupt(state: training.Trained) -> None:
        seen.append(len(state.history))
        if len(state.history) == epochs_done and len(seen) == epochs_done:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_and_store(runs_folder / "parts", run, pair_set, params, CPU, interrupt)
    assert find(runs_folder / "parts", run, pair_set.hash) is None
    resumed = _files(train_and_store(runs_folder / "parts", run, pair_set, params, CPU, interrupt).folder)
    assert resumed == whole
    assert seen == [1, 2, 3]  # no epoch twice


@pytest.mark.parametrize("damage", ["truncated", "empty", "other"])
def test_a_damaged_checkpoint_starts_the_run_again(pair_set: PairSet, params: Params, runs_folder: Path, damage: str, capsys) -> None:
    run = a_run()
    whole = _files(train_and_store(runs_folder / "whole", run, pair_set, params, CPU).folder)
    checkpoint = runs_folder / ".checkpoints" / f"{runs.run_name(run, pair_set.hash)}.safetensors"
    training.train(a_run(epochs=1), pair_set, CPU, checkpoint)
    if damage == "other":
        training.train(a_run(width=6, epochs=1), pair_set, CPU, runs_folder / "other")
        shutil.move(runs_folder / "other", checkpoint)
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-50] if damage == "truncated" else b"")
    assert _files(train_and_store(runs_folder / "again", run, pair_set, params, CPU).folder) == whole
    assert "damaged checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["run.json", "history.csv", "validation.safetensors", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_run_is_trained_again(pair_set: PairSet, params: Params, runs_folder: Path, name: str, damage: str) -> None:
    run = a_run(epochs=1)
    result = train_and_store(runs_folder / "one", run, pair_set, params, CPU)
    whole = _files(result.folder)
    path = result.folder / name
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-3])
    assert find(runs_folder / "one", run, pair_set.hash) is None
    assert _files(train_and_store(runs_folder / "one", run, pair_set, params, CPU).folder) == whole


def test_a_run_without_its_model_is_whole_and_says_so(pair_set: PairSet, params: Params, runs_folder: Path) -> None:
    run = a_run(epochs=1)
    result = train_and_store(runs_folder / "one", run, pair_set, params, CPU)
    runs.forget_model(result)
    slim = find(runs_folder / "one", run, pair_set.hash)
    assert slim.metrics(params) == result.metrics(params)
    assert not (slim.folder / "model.safetensors").exists()
    with pytest.raises(UserError, match="was not kept"):
        _ = slim.model
    (slim.folder / "history.csv").unlink()
    assert find(runs_folder / "one", run, pair_set.hash) is None


def test_a_dead_channel_is_counted(pair_set: PairSet, params: Params, runs_folder: Path) -> None:
    run = a_run(epochs=1, tau_sharp=0.0)
    alive = train_and_store(runs_folder / "one", run, pair_set, params, CPU)
    state = training.begin(run, CPU)
    with torch.no_grad():
        state.network.unet.last.bias[1] = -1e6  # its ReLU passes nothing
    outputs = training.predict(run, state.network, pair_set.validation["noisy_1"])
    dead = Result(alive.folder, alive.about, alive.validation | runs._measured(run, state, pair_set, CPU))
    assert (outputs[:, 1] == 0).all()
    assert dead.validation["zeros"][1] == 1
    assert dead_channels([dead]) == [sum((outputs[:, channel] == 0).mean() > 0.5 for channel in range(3))]


def test_a_diverged_run_is_recorded_with_its_psnr(pair_set: PairSet, params: Params, runs_folder: Path) -> None:
    run = a_run(optimizer="sgd", learning_rate=1e12, epochs=3)
    result = train_and_store(runs_folder / "one", run, pair_set, params, CPU)
    assert result.diverged
    assert len(result.history) < 3 or not np.isfinite(result.history["train_loss"].iloc[-1])
    assert 0 < result.metrics(params)["psnr_full"] < 15
    assert find(runs_folder / "one", run, pair_set.hash).diverged


def test_metrics_follow_the_evaluation_without_training(pair_set: PairSet, params: Params, runs_folder: Path) -> None:
    result = train_and_store(runs_folder / "one", a_run(epochs=1), pair_set, params, CPU)
    other = params.model_copy(update={"evaluation": params.evaluation.model_copy(update={"subset": 16})})
    assert result.metrics(other)["psnr_mean"] == pytest.approx(result.metrics(params)["psnr_full"])
    assert json.loads((result.folder / "metrics.json").read_text()) == pytest.approx(result.metrics(params) | result.measures)


def test_identity_follows_every_parameter_the_pairs_and_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    base = identity(a_run(), "pairs")
    others = {"seed": 1, "width": 6, "arch": "tconv", "residual": True, "normalized": True, "tau_sharp": 0.0, "target": "clean", "loss": "l1"}
    others |= {"optimizer": "sgd", "learning_rate": 2e-3, "annealing_steps": 0, "epochs": 4, "batch_size": 8, "sigma_n": 0.0, "flips": "none"}
    others |= {"schedule": "one_cycle", "averaging": 0.9, "shared_noise": True, "resample": True, "crops": ((0.7, 1.0),), "precision": "bfloat16"}
    assert set(others) == set(RunParams.model_fields)
    assert len({identity(a_run(**{name: value}), "pairs") for name, value in others.items()} | {base}) == len(others) + 1
    assert identity(a_run(), "other pairs") != base
    monkeypatch.setattr(runs, "code_hash", lambda: "edited")
    assert identity(a_run(), "pairs") != base


def test_the_code_behind_a_run_is_what_trains_and_nothing_that_draws() -> None:
    assert set(runs.TRAINING_MODULES) == {"augment.py", "graphs.py", "model.py", "training.py"}


def test_a_clean_target_gets_no_noise(pair_set: PairSet) -> None:
    images = pair_set.train["noisy_1"][:4].float(), pair_set.train["clean"][:4].float()
    noisy, target = training.augmented(a_run(target="clean", flips="none"), images, torch.Generator().manual_seed(0))
    assert torch.equal(target, images[1])
    assert not torch.equal(noisy, images[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    "changes", [{}, {"tau_sharp": 0.0, "arch": "tconv"}, {"crops": ((0.7, 1.0), (0.05, 0.4))}, {"averaging": 0.9, "optimizer": "sgd", "learning_rate": 1e-7}]
)
def test_a_replayed_step_is_the_step(pair_set: PairSet, changes: dict) -> None:
    device = torch.device("cuda")
    run = a_run(batch_size=5, precision="bfloat16", **changes)  # the last batch is smaller
    weights = []
    for replayed in (True, False):
        with stream(device):
            state = training.begin(run, device)
            step = training.Step(run, state, pair_set.train["noisy_1"].to(device), pair_set.train["noisy_2"].to(device))
            step.take = step.take if replayed else step
            losses = [training.train_epoch(step) for _ in range(2)]
        weights.append([torch.tensor(losses), *(parameter.detach().cpu() for parameter in state.product.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_learns_what_the_cpu_learns(pair_set: PairSet, tmp_path: Path) -> None:
    run = a_run(sigma_n=0.0, flips="none", epochs=2)
    states = [training.train(run, pair_set, torch.device(name), tmp_path / name) for name in ("cpu", "cuda")]
    losses = [[row["train_loss"] for row in state.history] for state in states]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
