"""What `dvc repro` would do: stale stages and why, runs to train, and about how long that takes here."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pandas as pd
import torch
from dvc.exceptions import DvcException
from dvc.repo import Repo

from n2nlib.experiments import beyond
from n2nlib.experiments.pipeline import Chain
from n2nlib.experiments.results import Experiment
from n2nlib.files import ROOT, UserError
from n2nlib.pairs.pair_set import is_current, read_card
from n2nlib.params import Params, load_params
from n2nlib.report.speed import images_per_second
from n2nlib.train import runs, sweep
from n2nlib.train.identity import RunParams, images_of
from n2nlib.train.runs import Planned, Result

# The experiments of `Chain` in order, and the notebook that trains each.
TRAINED_BY = {
    "ablation": "03_ablation",
    "curves": "04_candidate_curves",
    "fine_tuning": "05_fine_tuning",
    "finals": "05_fine_tuning",
    "studies": "07_beyond",
    "best": "07_beyond",
}


@dataclass
class Work:
    """The runs of one notebook, and those of them to train, with the parameters of their pairs."""

    names: set[str] = field(default_factory=set)
    missing: dict[str, tuple[RunParams, Params]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return sum(images_of(run, of.pairs.train) for run, of in self.missing.values())


class _Unknown(Exception):
    """Results are not on disk. The arguments are the runs (`Planned`) of the experiment."""


def stale_stages() -> dict[str, tuple[str, list[str]]]:
    """Stage of dvc.yaml -> (its command, why it is stale: [] if it is not), in the order of a rebuild.

    Raises `UserError` if DVC cannot tell.
    """
    try:
        with Repo(str(ROOT)) as repo:
            changed, stages = repo.status(), repo.index.stages
            before = {one.addressing: repo.stage.collect(one.addressing, with_deps=True) for one in stages}
    except DvcException as error:
        raise UserError(f"dvc status: {error}") from error
    found = {}
    for stage in stages:
        reasons = [words for entry in changed.get(stage.addressing, []) for words in _words(entry)]
        above = sorted({one.addressing for one in before[stage.addressing]} - {stage.addressing})
        reasons += [f"follows {name}" for name in above if name in changed]
        found[stage.addressing] = str(stage.cmd), reasons
    return found


def _words(entry: str | dict[str, dict[str, str | dict]]) -> list[str]:
    """A change that `dvc status` tells of, such as "n2nlib/train modified" or "params.yaml: ablation"."""
    if isinstance(entry, str):
        return [entry]
    return [
        f"{path} {change}" if isinstance(change, str) else f"{path}: {', '.join(change)}"
        for changes in entry.values()
        for path, change in changes.items()
    ]


def runs_to_train(params: Params) -> dict[str, Work]:
    """Notebook -> its runs, from the chain of experiments; nothing is trained and no pair is made.

    Until the results of an experiment are on disk, what follows from it is planned as if its first setting
    were best: that costs about the same.
    """
    options = {"": params} | beyond.set_options(params)
    sets = {name: _pairs(one, name, params) for name, one in options.items()}
    works = {notebook: Work() for notebook in TRAINED_BY.values()}

    def look(stage: str, planned: list[Planned], _: object, __: Params) -> list[Result]:
        found = []
        for one in planned:
            pairs = sets[one.pairs]
            name = runs.run_name(one.run, pairs.hash)
            work.names.add(name)
            seen = any(name in other.missing for other in works.values())
            if not seen and not any(runs.RUNS.glob(f"[!.]*/{name}")):
                work.missing[name] = one.run, pairs.params
            found.append(runs.find(runs.RUNS / stage, one.run, pairs.hash))
        if None in found:
            raise _Unknown(*planned)
        return found

    chain = Chain(params, look)
    vars(chain).update(pairs=sets[""], sets=sets)  # as they are on disk
    for experiment, notebook in TRAINED_BY.items():
        work = works[notebook]
        try:
            getattr(chain, experiment)
        except _Unknown as unknown:
            table = pd.DataFrame([one.row for one in unknown.args]).assign(psnr_mean=0.0, epoch=1)
            vars(chain)[experiment] = Experiment([*unknown.args], [], table)
    return works


def _pairs(options: Params, name: str, params: Params) -> SimpleNamespace:
    """What the chain asks of a pair set: its hash ("" if it is not made yet), and if it has clean images."""
    card = read_card(beyond.set_folder(params, name))
    known = card["hash"] if is_current(card, options) else ""
    clean = {} if options.pairs.source == "ee559" else {"clean": None}
    return SimpleNamespace(hash=known, params=options, train=clean)


def seconds_of(work: Work, device: torch.device, rates: dict[tuple, float]) -> float:
    """Seconds of one process for `work`; `rates` keeps what was measured, by kind of run.

    A prediction costs about a third of a training step.
    """
    total = 0.0
    for run, of in work.missing.values():
        kind = run.arch, run.width, run.precision, run.batch_size, bool(run.crops), of.pairs.size
        if kind not in rates:
            rates[kind] = images_per_second(run, of.pairs.size, device)
        predicted = of.pairs.validation * (run.epochs if run.validate_every_epoch else 1)
        total += (images_of(run, of.pairs.train) + predicted / 3) / rates[kind]
    return total


def print_plan() -> None:
    """Print a line for each stage and the sum. Raises `UserError` if DVC or a parameter file is at fault."""
    params = load_params()
    stages, works = stale_stages(), runs_to_train(params)
    device, rates, total = sweep.pick_device(params.device), {}, 0.0
    # Runs that share a GPU share its time, too, so only the number of GPUs counts.
    at_once = torch.cuda.device_count() if device.type == "cuda" else sweep.default_workers(params)
    print(f"Scale {params.scale}\n\n{'stage':<13}{'runs':>9}{'images':>13}{'training':>14}  why")
    for name, (command, reasons) in stages.items():
        work = next((one for notebook, one in works.items() if f" {notebook}" in command), Work())
        cells = [""] * 3
        if work.missing:
            # A run takes one process, so fewer runs than processes do not keep them all busy.
            took = seconds_of(work, device, rates) / min(at_once, len(work.missing))
            total += took
            cells = [f"{len(work.missing)}/{len(work.names)}", f"{work.images:,}", sweep.duration(took)]
        why = "; ".join([*reasons[:3], *[f"{len(reasons) - 3} more"] * (len(reasons) > 3)])
        print(f"{name:<13}{cells[0]:>9}{cells[1]:>13}{cells[2]:>14}  {why or 'up to date'}")
    missing = sum(len(one.missing) for one in works.values())
    images = sum(one.images for one in works.values())
    took = sweep.duration(total)
    print(f"\n{missing} runs to train, {images:,} images: about {took} here, besides the notebooks.")
