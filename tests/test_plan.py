"""The plan: what is stale and why, which runs are missing, and that planning changes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Project, a_run

from n2nlib.experiments import beyond
from n2nlib.params import Params
from n2nlib.report import plan, speed


@pytest.fixture
def nowhere(params: Params, runs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Scale smoke without runs and without pair sets."""
    monkeypatch.setattr(beyond, "set_folder", lambda params, name: tmp_path / "pairs" / name)
    return params


def test_from_nothing_every_run_is_missing(nowhere: Params, tmp_path: Path) -> None:
    works = plan.runs_to_train(nowhere)
    ablation, grid = nowhere.ablation, nowhere.fine_tuning
    factors = ("loss", "optimizer", "sharpen", "crops", "arch", "seeds")
    settings = [len(getattr(ablation, name)) for name in factors]
    expected = torch.tensor(settings).prod().item()
    assert len(works["03_ablation"].missing) == len(works["03_ablation"].names) == expected
    share = expected // len(ablation.crops) * nowhere.pairs.train
    whole, cropped = share * ablation.epochs, 2 * share * ablation.crops_epochs
    assert works["03_ablation"].images == whole + cropped  # an epoch of crops has two images of each pair
    fine = len(grid.sigma_n) * len(grid.tau_sharp) * len(grid.annealing_steps) * len(grid.seeds)
    rates = {len(grid.learning_rate.adam), len(grid.learning_rate.sgd)}
    longer = grid.final_epochs != grid.epochs  # else the final model is a run of the grid
    twin = 1  # of the final model, on clean targets
    assert len(works["05_fine_tuning"].names) in {fine * count + longer + twin for count in rates}
    missing = [name for work in works.values() for name in work.missing]
    assert len(missing) == len(set(missing))  # a run of two notebooks is trained once
    assert set(missing) == {name for work in works.values() for name in work.names}
    assert not list(tmp_path.iterdir())  # planning made nothing


def test_the_time_is_that_of_steps_and_predictions(params: Params) -> None:
    pairs = params.pairs.model_copy(update={"train": 100, "validation": 30})
    of = params.model_copy(update={"pairs": pairs})
    runs = {"a": a_run(epochs=10), "b": a_run(epochs=10, validate_every_epoch=False)}
    work = plan.Work(set(runs), {name: (run, of) for name, run in runs.items()})
    assert work.images == 2000
    rates = {("upsample", 4, "float32", 16, False, pairs.size): 50.0}
    seconds = plan.seconds_of(work, torch.device("cpu"), rates)
    assert seconds == pytest.approx((1000 + 10 * 30 / 3) / 50 + (1000 + 30 / 3) / 50)


def test_a_rate_is_that_of_whole_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(speed, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(speed.loop, "train_epoch", lambda step: now.__setitem__(0, now[0] + 0.4))
    step = SimpleNamespace(items=30)
    assert speed.epoch_rate(step, 1.0) == pytest.approx(3 * 30 / 1.2)
    assert speed.epoch_rate(step, 0.0) == pytest.approx(30 / 0.4)  # at least one epoch


def _rows(output: str) -> dict[str, str]:
    """Stage -> its line."""
    return {line.split()[0]: line for line in output.splitlines() if re.match(r"[a-z_]+ ", line)}


def test_a_rebuild_leaves_nothing_to_plan_and_a_seed_adds_its_runs(smoke_project: Project) -> None:
    try:
        smoke_project.edit("params.yaml", "fine_tuning:", "fine_tuning:\n  # edited")  # no change
        output = smoke_project.n2n("plan")
        assert "0 runs to train" in output
        rows = _rows(output)
        assert all(line.endswith(" up to date") for name, line in rows.items() if name != "stage")
        assert {"data", "ablation", "paper"} < set(rows)
        text = (smoke_project.folder / "params.yaml").read_text()
        changed = re.sub(r"(ablation:.*?seeds: )\[0\]", r"\g<1>[0, 7]", text, count=1, flags=re.DOTALL)
        assert changed != text
        (smoke_project.folder / "params.yaml").write_text(changed)
        rows = _rows(smoke_project.n2n("plan"))
    finally:
        smoke_project.git("checkout", "params.yaml")
    line = next(line for line in rows.values() if "32/64" in line)
    assert "params.yaml: ablation" in line
    assert "follows" in rows["paper"]
