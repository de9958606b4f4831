"""Notebook 07: equal work within a study, effects worked by hand, the best model as found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SMOKE, a_run

from n2nlib import best, studies
from n2nlib.experiments import clean_twin
from n2nlib.files import UserError, write_json
from n2nlib.pairs import PairSet
from n2nlib.params import Params, load_params
from n2nlib.runs import images_of
from n2nlib.statistics import one_sentence


def test_variants_differ_in_one_thing_and_see_the_same_images(params: Params) -> None:
    for study, changes in studies.variants(params).items():
        work = {name: images_of(studies.network(params, 0, **change), 100) for name, change in changes.items()}
        assert len(set(work.values())) == 1, study
        runs = [studies.network(params, 0, **change) for change in changes.values()]
        assert len({run.model_dump_json() for run in runs}) == len(runs), study
    planned = studies.study_runs(params)
    assert {one.row["seed"] for one in planned} == set(params.beyond.seeds)
    first = {one.row["study"]: one.run for one in planned[::-1]}
    assert (first["targets"].residual, first["targets, as published"].residual) == (True, False)


def test_what_is_not_asked_for_is_not_trained(params: Params) -> None:
    asked = studies.variants(params)
    assert any(run.run.averaging for run in studies.study_runs(params))
    fewer = params.model_copy(update={"beyond": params.beyond.model_copy(update={"averaging": 0.0, "sigma_n": (), "crops": ()})})
    left = studies.variants(fewer)
    assert list(left["recipe"]) == [studies.STEPS, studies.ONE_CYCLE]
    assert not any(run.run.averaging for run in studies.study_runs(fewer))
    assert {study for study in asked if study.startswith("augmentation noise")} == set(asked) - set(left)
    assert list(left["crops"]) == ["none"]


def test_the_courses_files_have_no_sizes_no_fresh_noise_and_no_clean_targets(
    params: Params, pair_set: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = params.model_copy(update={"pairs": params.pairs.model_copy(update={"source": "ee559"})})
    assert studies.set_options(course) == {}
    names = {one.row["study"] for one in studies.study_runs(course)}
    assert not {name for name in names if name.startswith(("size", "targets", "noise draws"))}
    assert "crops" in names
    monkeypatch.setattr(Params, "pairs_folder", property(lambda self: tmp_path / "smoke"))
    assert studies.ensure_sets(course, pair_set) == {"": pair_set}
    assert (tmp_path / "smoke-beyond").is_dir()  # an output of the stage, if an empty one
    assert list(studies.sizes([], [], {"": pair_set}).columns) == ["size"]


def test_crops_that_do_not_divide_the_epochs_are_refused() -> None:
    with pytest.raises(UserError, match=r"beyond\.crops\.0 = .* 3 crops an image do not divide beyond\.epochs = 2"):
        load_params(SMOKE, {"beyond": {"crops": [[[0.7, 1.0], [0.5, 0.6], [0.1, 0.2]]]}})
    with pytest.raises(UserError, match=r"beyond\.crops\.1"):
        load_params(SMOKE, {"beyond": {"crops": [[[0.5, 0.7]], [[0.7, 0.5]]]}})


def _table_of(values: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    rows = [
        {"study": study, "variant": variant, "seed": seed, "psnr_mean": psnr, "psnr_std": 0.1}
        for (study, variant), psnrs in values.items()
        for seed, psnr in enumerate(psnrs)
    ]
    return pd.DataFrame(rows)


def test_effects_by_hand() -> None:
    found = studies.effects(_table_of({("crops", "none"): [20, 21, 22], ("crops", "local"): [21, 21.5, 24]}))
    (row,) = found.to_dict("records")
    assert row["what"] == "local − none"
    assert row["mean"] == pytest.approx(3.5 / 3)  # of 1, 0.5 and 2
    error = np.std([1, 0.5, 2], ddof=1) / np.sqrt(3)
    assert row["standard_error"] == pytest.approx(error)
    assert row["high"] - row["mean"] == pytest.approx(4.3027 * error, rel=1e-4)  # Student's t, two degrees of freedom
    assert (row["pairs"], row["same_sign"]) == (3, 3)


def test_one_sentence_says_what_intervals_establish() -> None:
    rows = [("a", 0.5, 0.1, 0.9, 3), ("b", -0.5, -0.9, -0.1, 3), ("c", 0.1, -0.3, 0.5, 3)]
    effects = pd.DataFrame(rows, columns=["what", "mean", "low", "high", "pairs"])
    assert one_sentence(effects) == "**Better: a (+0.50 dB). Worse: b (−0.50 dB). No difference established: c (+0.10 dB).**"
    assert "no verdict" in one_sentence(effects.assign(pairs=1))
    assert "Left out" in one_sentence(effects.head(0))


def test_the_best_model_is_the_best_found(params: Params) -> None:
    table = _table_of(
        {
            ("recipe", studies.STEPS): [20, 21],
            ("recipe", studies.ONE_CYCLE): [22, 22],
            ("sharpening", "none"): [22, 22],
            ("sharpening", "unsharp masking"): [21, 22],
            ("prediction", "one prediction"): [22, 22],
            ("prediction", best.FLIPS): [22, 22.1],
        }
    )
    chosen, flips = best.best_run(params, table)
    assert (chosen.run.schedule, chosen.run.tau_sharp, chosen.run.epochs, flips) == ("one_cycle", 0.0, params.beyond.best_epochs, True)
    assert chosen.run.learning_rate == params.beyond.best_learning_rate
    table.loc[table["variant"] == "unsharp masking", "psnr_mean"] = 25
    table.loc[table["variant"] == best.FLIPS, "psnr_mean"] = 20
    chosen, flips = best.best_run(params, table)
    assert (chosen.run.tau_sharp, flips) == (params.training.tau_sharp, False)


def test_what_another_measure_would_have_chosen() -> None:
    table = pd.DataFrame({"run": list("abcd"), "psnr_full": [20, 21, 22, 23.5], "psnr_hvs_m": [1, 2, 4, 3], "ssim": [0.1, 0.2, 0.3, 0.4]})
    row = best.selection(table, "these")
    assert row["psnr_hvs_m_tau"] == pytest.approx(4 / 6)  # five pairs agree, one does not
    assert row["psnr_hvs_m_costs"] == pytest.approx(1.5)
    assert (row["ssim_tau"], row["ssim_costs"]) == (pytest.approx(1), 0)
    assert row["psnr_hvs_m_low"] <= row["psnr_hvs_m_tau"] <= row["psnr_hvs_m_high"]
    sentence = best.selection_sentence(pd.DataFrame([row]))
    assert "PSNR-HVS-M chooses another run, 1.50 dB lower" in sentence
    assert "SSIM chooses the same run" in sentence


def test_a_clean_twin_needs_clean_images(params: Params, pair_set: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Params, "reports", property(lambda self: tmp_path))
    with pytest.raises(UserError, match=r"final\.json: missing"):
        clean_twin(params, pair_set)
    run = a_run(epochs=7, crops=((0.7, 1.0),))
    write_json(tmp_path / "model" / "final.json", {"setting": {}, "parameters": run.model_dump(mode="json")})
    (twin,) = clean_twin(params, pair_set)
    assert twin.run == run.model_copy(update={"target": "clean"})
    without = PairSet(pair_set.folder, pair_set.card, {name: t for name, t in pair_set.train.items() if name != "clean"}, pair_set.validation)
    assert clean_twin(params, without) == []
