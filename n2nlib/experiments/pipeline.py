"""All runs of a scale without its notebooks, for a GPU machine that has no Jupyter: the notebooks, run elsewhere, find them in data/runs.

What depends on nothing trains beside what is waited for, all on one Dask cluster: the studies of notebook 07 beside the curves and Table III.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from n2nlib.experiments import best, beyond, paper_runs, results
from n2nlib.pairs.pair_set import PairSet, ensure_pairs
from n2nlib.params import Params
from n2nlib.train.runs import Result, forget_model
from n2nlib.train.sweep import client, default_workers, train_all


def train_everything(params: Params, slim: bool = False) -> list[Result]:
    """Train what is missing of all stages; returns all results. `slim`: of the models only those are kept that a notebook reads.

    Raises `UserError`.
    """
    pairs = ensure_pairs(params)
    with client(params, default_workers(params)) as cluster, ThreadPoolExecutor(1) as beside:
        sets = beside.submit(beyond.ensure_sets, params, pairs)
        shared = params.model_copy(
            update={"sweep": params.sweep.model_copy(update={"scheduler": cluster.scheduler.address})}
        )
        ablation = paper_runs.ablation_runs(params)
        of_ablation = train_all("ablation", ablation, pairs, shared)
        table1 = results.rounded(results.collect(ablation, of_ablation, params))
        studied = beside.submit(_studies, params, shared, pairs, sets.result())
        candidates = paper_runs.top_candidates(table1, params.curves.candidates)
        curves = paper_runs.curve_runs(params, candidates)
        of_curves = train_all("curves", curves, pairs, shared)
        curve_table = results.rounded(results.collect_curves(curves, of_curves, params))
        chosen = paper_runs.choose_candidate(curve_table, candidates, params.fine_tuning.epochs)
        fine = paper_runs.fine_tuning_runs(params, chosen)
        of_fine = train_all("fine_tuning", fine, pairs, shared)
        final = paper_runs.final_run(params, chosen, results.rounded(results.collect(fine, of_fine, params)))
        of_final = train_all("fine_tuning", [final], pairs, shared)
        of_twin = train_all("beyond", paper_runs.twin(final, pairs), pairs, shared)
        of_studies, read = studied.result()
    everything = [*of_ablation, *of_curves, *of_fine, *of_final, *of_twin, *of_studies]
    if slim:
        kept = {
            result.folder for result in [*results.examples(table1, of_ablation).values(), *of_final, *read]
        }
        for result in {result.folder: result for result in everything}.values():
            if result.folder not in kept:
                forget_model(result)
    return everything


def _studies(
    params: Params, shared: Params, pairs: PairSet, sets: dict[str, PairSet]
) -> tuple[list[Result], list[Result]]:
    """All of notebook 07 but the final model's twin: every result, and those whose models the notebook reads."""
    planned = beyond.study_runs(params)
    results = train_all("beyond", planned, sets, shared)
    table = beyond.collect(planned, results, params)
    recipe = beyond.best_variant(table, "recipe")
    table = pd.concat([table, best.flipped(planned, results, params, pairs, recipe)], ignore_index=True)
    best_run, _ = best.best_run(params, table)
    of_best = train_all("beyond", [best_run], pairs, shared)
    read = [result for _, result in beyond.of_variant(planned, results, "recipe", recipe)]
    return [*results, *of_best], [*read, *of_best]
