"""What a rebuild would do, before anything runs: stale stages and why, runs to train, images, minutes on this machine."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pandas as pd
import torch
from ruamel.yaml import YAML

from n2nlib.experiments import best, beyond, paper_runs, published
from n2nlib.files import ROOT, UserError
from n2nlib.pairs.pair_set import read_card
from n2nlib.params import Params, load_params
from n2nlib.report import tables
from n2nlib.train import loop, runs, sweep
from n2nlib.train.runs import Planned, RunParams

MEASURED = 3.0  # seconds of training, of each kind of network


@dataclass
class Stage:
    """A stage of dvc.yaml: why it would run (empty: it would not), and what it would train."""

    name: str
    reasons: list[str] = field(default_factory=list)
    missing: list[tuple[RunParams, Params]] = field(
        default_factory=list
    )  # with the parameters of the pairs that it trains on
    of: int = 0
    images: int = 0
    seconds: float = 0.0


def stale_stages(params: Params) -> dict[str, Stage]:
    """Every stage in dvc.yaml's order with the reasons that DVC gives, and those that follow from another stage's run.

    Raises `UserError` if DVC cannot tell.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"dvc status: {done.stderr.strip() or done.stdout.strip()}")
    status = json.loads(done.stdout[done.stdout.index("{") :])
    described = YAML(typ="safe").load(
        (ROOT / "dvc.yaml").read_text(encoding="utf-8").replace("${scale}", params.scale)
    )["stages"]
    stages, made_by = {}, {}
    for name, stage in described.items():
        reasons = [reason for entry in status.get(name, []) for reason in _reasons(entry)]
        stale_above = sorted(
            {made_by[path] for path in stage["deps"] if path in made_by and stages[made_by[path]].reasons}
        )
        if not reasons and stale_above:
            reasons = [f"follows {', '.join(stale_above)}"]
        stages[name] = Stage(name, reasons)
        outs = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
        made_by |= {path if isinstance(path, str) else next(iter(path)): name for path in outs}
    return stages


def _reasons(entry: object) -> list[str]:
    """One of the forms in which `dvc status` tells a change, as short words."""
    if isinstance(entry, str):
        return [entry]
    words = []
    for kind, changes in entry.items():
        for path, change in changes.items():
            what = change if isinstance(change, str) else ", ".join(sorted(map(str, change)))
            words.append(
                f"{'params' if path == 'params.yaml' and not isinstance(change, str) else path.removeprefix('n2nlib/')} {what}"
            )
        if kind == "changed outs" and len(words) > 3:
            words = [f"{len(changes)} results missing or changed"]
    return words


def planned_runs(params: Params, stages: dict[str, Stage]) -> dict[str, list[Planned]]:
    """The runs of each training stage. Candidates that are not known yet stand as the paper's, which cost the same."""
    candidates, chosen = published.table2().head(params.curves.candidates), None
    candidates = pd.concat([candidates] * -(-params.curves.candidates // len(candidates))).head(
        params.curves.candidates
    )
    candidates["candidate"] = range(1, len(candidates) + 1)
    try:
        if not stages["ablation"].reasons:
            candidates = paper_runs.top_candidates(
                tables.load("table1_ablation", params), params.curves.candidates
            )
            if not stages["curves"].reasons:
                chosen = paper_runs.choose_candidate(
                    tables.load("curves", params), candidates, params.fine_tuning.epochs
                )
    except UserError:
        pass
    fine = paper_runs.fine_tuning_runs(params, candidates.iloc[0] if chosen is None else chosen)
    final = Planned({}, fine[0].run.model_copy(update={"epochs": params.fine_tuning.final_epochs}))
    best_model = Planned({}, beyond.network(params, params.beyond.seeds[0], epochs=params.beyond.best_epochs))
    with contextlib.suppress(
        UserError, KeyError, ValueError
    ):  # what an earlier rebuild found, perhaps of other studies, is the best guess
        if chosen is not None:
            final = paper_runs.final_run(params, chosen, tables.load("table3_fine_tuning", params))
        best_model, _ = best.best_run(params, tables.load("beyond", params))
    of_beyond = [*beyond.study_runs(params), best_model]
    if params.pairs.source != "ee559":  # the course's files hold no clean targets for the final model's twin
        of_beyond += [Planned({}, final.run.model_copy(update={"target": "clean"}))]
    fine += [final]
    return {
        "ablation": paper_runs.ablation_runs(params),
        "curves": paper_runs.curve_runs(params, candidates),
        "fine_tuning": fine,
        "beyond": of_beyond,
    }


def measure_on_worker(run: RunParams, size: int, device: str, seconds: float) -> tuple[float, float]:
    """(training images/s, validation images/s) of this worker, from `seconds` of real training steps on noise."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    where = sweep.pick_device(device)
    count = max(run.batch_size * 4, 64)
    rates = []
    with sweep.stream(where):
        images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, device=where)
        state = loop.begin(run, where)
        step = loop.Step(run, state, images, images)
        loop.train_epoch(step)
        for work in (lambda: loop.train_epoch(step), lambda: loop.predict(run, state.product, images)):
            started, seen = time.monotonic(), 0
            while time.monotonic() - started < seconds:
                work()
                seen += count
            rates.append(seen / (time.monotonic() - started))
            seconds /= 3
    return rates[0] * max(1, len(run.crops)), rates[1]


def make_plan(params: Params) -> tuple[list[Stage], int]:
    """All stages with what they would train and how long it would take here, and the number of workers."""
    stages = stale_stages(params)
    options = {"": params} | beyond.set_options(params)
    cards = {
        name: None if stages["data"].reasons else read_card(beyond.set_folder(params, name))
        for name in options
    }
    for name, planned in planned_runs(params, stages).items():
        stage = stages[name]
        unique = {(one.pairs, json.dumps(one.run.model_dump(mode="json"))): one for one in planned}
        stage.of = len(unique)
        if stage.reasons:
            missing = [
                one
                for one in unique.values()
                if (card := cards[one.pairs]) is None
                or runs.find(runs.RUNS / name, one.run, card["hash"]) is None
            ]
            stage.missing = [(one.run, options[one.pairs]) for one in missing]
            stage.images = sum(runs.images_of(run, of.pairs.train) for run, of in stage.missing)
    workers = sweep.default_workers(params)
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import n2nlib.sweep, n2nlib.figures"], cwd=ROOT, check=True)
    notebook = 2.5 * (
        time.monotonic() - started
    )  # a notebook starts a kernel, imports, draws and is made a page
    for stage in stages.values():
        stage.seconds = notebook if stage.reasons and stage.name != "check" else 0.0
    if any(stage.missing for stage in stages.values()):
        _add_training(params, stages, workers)
    return list(stages.values()), workers


def _add_training(params: Params, stages: dict[str, Stage], workers: int) -> None:
    """Add the seconds of training, from a measurement on as many workers as will train."""
    missing = [run for stage in stages.values() for run, _ in stage.missing]
    rates: dict[tuple, tuple[float, float]] = {}
    started = time.monotonic()
    with sweep.client(params, workers) as client:
        addresses = [
            address
            for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()
            for _ in range(worker["nthreads"])
        ]
        workers = len(addresses)
        cluster_start = time.monotonic() - started
        for run in {_kind(run): run for run in missing}.values():
            futures = [
                client.submit(
                    measure_on_worker,
                    run,
                    params.pairs.size,
                    params.device,
                    MEASURED,
                    workers=[at],
                    pure=False,
                )
                for at in addresses
            ]
            measured = client.gather(futures)
            rates[_kind(run)] = tuple(sum(values) / workers for values in zip(*measured, strict=True))
    for stage in stages.values():
        costs = []
        for run, of in stage.missing:
            train_rate, predict_rate = rates[_kind(run)]
            area = (of.pairs.size / params.pairs.size) ** 2
            costs.append(
                area
                * (
                    runs.images_of(run, of.pairs.train) / train_rate
                    + run.epochs * of.pairs.validation / predict_rate
                )
            )
        if costs:
            stage.seconds += cluster_start + _makespan(costs, workers)


def _kind(run: RunParams) -> tuple:
    """Runs of one kind cost the same an image, near enough."""
    return run.width, run.arch, run.batch_size, bool(run.crops)


def _makespan(costs: list[float], workers: int) -> float:
    """Seconds until the last of `workers` is done when each takes the longest run that is left, as the sweep does."""
    busy = [0.0] * workers
    for cost in sorted(costs, reverse=True):
        busy[busy.index(min(busy))] += cost
    return max(busy)


def print_plan() -> None:
    params = load_params()
    stages, workers = make_plan(params)
    print(f"Scale {params.scale}, {workers} {'run' if workers == 1 else 'runs'} at a time.\n")
    print(f"{'stage':<13}{'runs':>9}{'images':>12}{'time':>14}  why")
    for stage in stages:
        trained = f"{len(stage.missing)}/{stage.of}" if stage.of and stage.reasons else ""
        images = f"{stage.images:,}" if stage.missing else ""
        why = "; ".join(stage.reasons[:4]) + (
            f"; {len(stage.reasons) - 4} more" if len(stage.reasons) > 4 else ""
        )
        print(
            f"{stage.name:<13}{trained:>9}{images:>12}{sweep.duration(stage.seconds) if stage.reasons else '':>14}  {why or 'up to date'}"
        )
    total = sum(stage.seconds for stage in stages)
    count = sum(len(stage.missing) for stage in stages)
    images = sum(stage.images for stage in stages)
    print(f"\nIn all {count} runs to train, {images:,} images, about {sweep.duration(total)}.")
