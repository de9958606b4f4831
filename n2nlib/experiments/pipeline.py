"""The experiments of one scale in order: ablation, candidates, curves, choice, fine-tuning, final, studies.

The order exists here and nowhere else: the notebooks, `python -m n2nlib train` and `plan` all go through
`Chain`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import pandas as pd

from n2nlib.denoiser import Denoiser
from n2nlib.experiments import best, beyond, paper_runs, results
from n2nlib.experiments.results import Experiment
from n2nlib.pairs.pair_set import PairSet, ensure_pairs
from n2nlib.params import Params
from n2nlib.train.runs import Planned, Result, forget_model
from n2nlib.train.sweep import client, default_workers, train_all


class Chain:
    """The experiments of `params`. Each attribute trains what it needs and what is not on disk yet.

    `train` has the signature of `sweep.train_all`. Raises `UserError` for what a user can correct.
    """

    def __init__(self, params: Params, train: Callable[..., list[Result]] = train_all) -> None:
        self.params, self._train = params, train

    @cached_property
    def pairs(self) -> PairSet:
        """The pair set of the scale, made if it is not on disk."""
        return ensure_pairs(self.params)

    @cached_property
    def ablation(self) -> Experiment:
        """Table I."""
        return self._experiment("ablation", paper_runs.ablation_runs(self.params))

    @cached_property
    def ours(self) -> pd.DataFrame:
        """Our candidates A, B, C: the best settings of Table I."""
        return paper_runs.top_candidates(self.ablation.table, self.params.curves.candidates)

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """Table II: our candidates and the report's."""
        return paper_runs.candidate_lists(self.ours)

    @cached_property
    def curves(self) -> Experiment:
        """Fig. 2; the table has a row per epoch."""
        planned = paper_runs.curve_runs(self.params, self.candidates)
        return self._experiment("curves", planned, collect=results.collect_curves)

    @cached_property
    def choice(self) -> dict[str, Any]:
        """The candidate of ours that is fine-tuned."""
        epochs = self.params.fine_tuning.epochs
        return paper_runs.choose_candidate(self.curves.table, self.ours, epochs)

    @cached_property
    def fine_tuning(self) -> Experiment:
        """Table III."""
        return self._experiment("fine_tuning", paper_runs.fine_tuning_runs(self.params, self.choice))

    @cached_property
    def finals(self) -> tuple[Experiment, Experiment]:
        """The final model and its twin, which train side by side."""
        planned = paper_runs.final_runs(self.params, self.choice, self.fine_tuning.table)
        twins = [paper_runs.clean_twin(one) for one in planned if "clean" in self.pairs.train]
        both = self._experiment("fine_tuning", [*planned, *twins])
        parts = slice(len(planned)), slice(len(planned), None)
        return tuple(Experiment(both.planned[part], both.finished[part], both.table[part]) for part in parts)

    @property
    def final(self) -> Experiment:
        """The final model, one run for each seed; the first one's network is kept as the final model."""
        return self.finals[0]

    @property
    def twin(self) -> Experiment:
        """The final model trained on clean targets, with every seed; no run if there are none."""
        return self.finals[1]

    @cached_property
    def sets(self) -> dict[str, PairSet]:
        """The pair sets of notebook 07, the scale's own among them."""
        return beyond.ensure_sets(self.params, self.pairs)

    @cached_property
    def studies(self) -> Experiment:
        """The studies of notebook 07."""
        return self._experiment("beyond", beyond.study_runs(self.params), self.sets)

    @cached_property
    def best(self) -> Experiment:
        """The long run of the best model and, if it is asked for, its twin on clean targets."""
        return self._experiment("beyond", best.best_runs(self.params), self.sets)

    @cached_property
    def beyond(self) -> Experiment:
        """All runs of notebook 07 in one sweep, so that the long ones train beside the short ones."""
        planned = [*best.best_runs(self.params), *beyond.study_runs(self.params)]
        return self._experiment("beyond", planned, self.sets)

    def models(self) -> dict[str, list[Denoiser]]:
        """The final and the best model and their twins, one for each seed, as `best.references` expects."""
        found = {best.FINAL: self.final.finished, best.TWIN.format(best.FINAL): self.twin.finished}
        models = {name: [best.denoiser(one, False) for one in runs] for name, runs in found.items() if runs}
        long = zip(self.best.planned, self.best.finished, strict=True)
        flips = self.params.best.flips
        return models | {one.row["model"]: [best.denoiser(result, flips)] for one, result in long}

    def _experiment(
        self,
        stage: str,
        planned: list[Planned],
        pairs: dict[str, PairSet] | None = None,
        collect: Callable[..., pd.DataFrame] = results.collect,
    ) -> Experiment:
        finished = self._train(stage, planned, pairs or self.pairs, self.params) if planned else []
        return Experiment(planned, finished, collect(planned, finished, self.params))


def train_everything(params: Params, slim: bool = False) -> list[Result]:
    """Train all runs of a scale on one cluster.

    With `slim`, only the models that a notebook reads are kept. Raises `UserError`.
    """
    with client(params, default_workers(params)) as cluster:
        sweep = params.sweep.model_copy(update={"scheduler": cluster.scheduler.address})
        chain = Chain(params.model_copy(update={"sweep": sweep}))
        experiments = [chain.ablation, chain.curves, chain.fine_tuning, *chain.finals, chain.beyond]
    finished = {result.folder: result for one in experiments for result in one.finished}
    if slim:
        table1 = chain.ablation.table
        rows = [*results.examples(table1).values(), results.plain_run(table1)]
        kept = [chain.ablation.finished[row] for row in rows]
        kept += [*chain.final.finished, *chain.twin.finished, *chain.best.finished]
        kept += beyond.read_models(chain.studies)
        for folder in finished.keys() - {result.folder for result in kept}:
            forget_model(finished[folder])
    return list(finished.values())
