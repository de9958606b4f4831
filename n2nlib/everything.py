"""All runs of a scale without its notebooks, for a GPU machine that has no Jupyter: the notebooks, run elsewhere, find them in data/runs.

What depends on nothing trains beside what is waited for, all on one Dask cluster: the studies of notebook 07 beside the curves and Table III.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from n2nlib import best, experiments, studies, tables
from n2nlib.pairs import PairSet, ensure_pairs
from n2nlib.params import Params
from n2nlib.runs import Result, forget_model
from n2nlib.sweep import client, default_workers, train_all


def train_everything(params: Params, slim: bool = False) -> list[Result]:
    """Train what is missing of all stages; returns all results. `slim`: of the models only those are kept that a notebook reads.

    Raises `UserError`.
    """
    pairs = ensure_pairs(params)
    with client(params, default_workers(params)) as cluster, ThreadPoolExecutor(1) as beside:
        sets = beside.submit(studies.ensure_sets, params, pairs)
        shared = params.model_copy(update={"sweep": params.sweep.model_copy(update={"scheduler": cluster.scheduler.address})})
        ablation = experiments.ablation_runs(params)
        of_ablation = train_all("ablation", ablation, pairs, shared)
        table1 = tables.rounded(tables.collect(ablation, of_ablation, params))
        studied = beside.submit(_studies, params, shared, pairs, sets.result())
        candidates = experiments.top_candidates(table1, params.curves.candidates)
        curves = experiments.curve_runs(params, candidates)
        of_curves = train_all("curves", curves, pairs, shared)
        curve_table = tables.rounded(tables.collect_curves(curves, of_curves, params))
        chosen = experiments.choose_candidate(curve_table, candidates, params.fine_tuning.epochs)
        fine = experiments.fine_tuning_runs(params, chosen)
        of_fine = train_all("fine_tuning", fine, pairs, shared)
        final = experiments.final_run(params, chosen, tables.rounded(tables.collect(fine, of_fine, params)))
        of_final = train_all("fine_tuning", [final], pairs, shared)
        of_twin = train_all("beyond", experiments.twin(final, pairs), pairs, shared)
        of_studies, read = studied.result()
    everything = [*of_ablation, *of_curves, *of_fine, *of_final, *of_twin, *of_studies]
    if slim:
        kept = {result.folder for result in [*experiments.examples(table1, of_ablation).values(), *of_final, *read]}
        for result in {result.folder: result for result in everything}.values():
            if result.folder not in kept:
                forget_model(result)
    return everything


def _studies(params: Params, shared: Params, pairs: PairSet, sets: dict[str, PairSet]) -> tuple[list[Result], list[Result]]:
    """All of notebook 07 but the final model's twin: every result, and those whose models the notebook reads."""
    planned = studies.study_runs(params)
    results = train_all("beyond", planned, sets, shared)
    table = studies.collect(planned, results, params)
    recipe = studies.best_variant(table, "recipe")
    table = pd.concat([table, best.flipped(planned, results, params, pairs, recipe)], ignore_index=True)
    best_run, _ = best.best_run(params, table)
    of_best = train_all("beyond", [best_run], pairs, shared)
    read = [result for _, result in studies.of_variant(planned, results, "recipe", recipe)]
    return [*results, *of_best], [*read, *of_best]
