"""Notebook 07: equal work within a study, effects by hand, the best model's pairs, budget and model card."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMOKE
from scipy import stats

import benchmarks
from n2nlib.experiments import best, beyond, paper_runs, results
from n2nlib.experiments.effects import FEWEST_PHOTOGRAPHS
from n2nlib.experiments.pipeline import Experiment
from n2nlib.files import UserError, write_json
from n2nlib.metrics import mse_per_image, psnr_full
from n2nlib.pairs import baselines
from n2nlib.pairs.pair_set import PairSet, ensure_pairs
from n2nlib.params import Params, load_params
from n2nlib.train.identity import images_of
from n2nlib.train.runs import Planned
from n2nlib.train.sweep import train_and_store

CHANGES = {  # what the variants of a study may differ in
    "connection": {"residual", "normalized"},
    "sharpening": {"tau_sharp"},
    "crops": {"crops", "epochs"},
    "recipe": {"schedule", "learning_rate", "annealing_steps", "warmup", "averaging"},
    "network": {"arch", "width"},
    "augmentation noise, sigma 25": {"shared_noise"},
    "noise draws": {"resample"},
    "targets": {"target"},
    "targets, as published": {"target"},
    "initialisation, L1 and SGD": {"arch", "init"},
    "initialisation, MSE and Adam": {"arch", "init"},
    "image size 32": {"tau_sharp"},
    "image size 64": {"tau_sharp"},
}


def _course(params: Params) -> Params:
    return params.model_copy(update={"pairs": params.pairs.model_copy(update={"source": "ee559"})})


def test_variants_differ_in_one_thing_and_see_the_same_images(params: Params) -> None:
    planned = pd.DataFrame([one.row | {"planned": one} for one in beyond.study_runs(params)])
    assert set(planned["study"]) == set(CHANGES)
    for (study, _), part in planned.groupby(["study", "seed"]):
        runs = [one.run.model_dump() for one in part["planned"]]
        changed = {name for name in runs[0] if any(run[name] != runs[0][name] for run in runs)}
        assert changed <= CHANGES[study], study
        assert len({str(run) for run in runs}) == len(runs), study
        assert len({images_of(one.run, 24) for one in part["planned"]}) == 1, study
    for study, one in zip(planned["study"], planned["planned"], strict=True):
        assert one.run.validate_every_epoch == study.startswith("initialisation"), study  # as in Table I
    assert {one.pairs for one in planned["planned"]} == {"", "fresh", "32px", "64px"}


def test_what_is_not_asked_for_is_not_trained(params: Params) -> None:
    none = {"averaging": 0.0, "sigma_n": (), "crops": (), "epochs": 1}
    fewer = params.model_copy(
        update={
            "beyond": params.beyond.model_copy(update=none),
            "best": params.best.model_copy(update={"arch": "tconv", "width": params.model.width}),
        }
    )
    asked, left = beyond.variants(params), beyond.variants(fewer)
    gone = {"crops", "network", "augmentation noise, sigma 25", "noise draws"}
    assert set(asked) - set(left) == gone
    assert list(left["recipe"]) == [beyond.ANNEALED, beyond.ONE_CYCLE]
    assert not any(one.run.averaging for one in beyond.study_runs(fewer))


@pytest.mark.parametrize("permuted", [False, True])
def test_only_the_pairs_of_the_best_model_have_permuted_channels(params: Params, permuted: bool) -> None:
    best = params.best.model_copy(update={"permute_channels": permuted})
    sets = beyond.set_options(params.model_copy(update={"best": best}))
    chosen = {name for name, one in sets.items() if one.pairs.permute_channels}
    assert chosen == ({"best"} if permuted else set())


def test_crops_that_do_not_divide_the_epochs_are_refused() -> None:
    with pytest.raises(UserError, match=r"beyond\.crops\.0 = .* do not divide beyond\.epochs = 2"):
        load_params(SMOKE, {"beyond": {"crops": [[[0.7, 1.0], [0.5, 0.6], [0.1, 0.2]]]}})


def test_the_course_has_no_sizes_no_new_noise_no_clean_targets_and_no_set_of_the_best_model(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Params, "pairs_folder", property(lambda self: tmp_path / self.scale))
    course, own = _course(params), PairSet(tmp_path, {}, {}, {}, {})
    assert beyond.ensure_sets(course, own) == {"": own}
    assert (tmp_path / "smoke-beyond").is_dir()  # an output of the notebook, if an empty one
    runs = [*beyond.study_runs(course), *best.best_runs(course)]
    assert {one.pairs for one in runs} == {""}
    assert {one.run.target for one in runs} == {"noisy"}
    assert not any(one.run.resample for one in runs)
    assert best.best_runs(course)[0].run.epochs == round(course.best.images / course.pairs.train)


def test_initialisation_is_about_table_1_and_the_right_fan_in(params: Params) -> None:
    runs = beyond.initialisation_runs(params)
    table1 = [one.run for one in paper_runs.ablation_runs(params)]
    assert len(runs) == 2 * 3 * len(params.ablation.seeds)
    for one in runs:
        assert (one.run in table1) == (one.row["variant"] != "TConv, right fan-in")
    one_arch = params.model_copy(update={"ablation": params.ablation.model_copy(update={"arch": ("tconv",)})})
    assert beyond.initialisation_runs(one_arch) == []


def test_the_twin_differs_in_its_target_alone(params: Params) -> None:
    model, twin = best.best_runs(params)
    assert twin.run == model.run.model_copy(update={"target": "clean"})
    assert (model.run.target, model.pairs, twin.pairs) == ("noisy", "best", "best")
    assert model.run.learning_rate == params.best.learning_rate
    assert (model.run.schedule, model.run.warmup) == ("one_cycle", 0)
    alone = params.model_copy(update={"best": params.best.model_copy(update={"twin": False})})
    assert best.best_runs(alone) == [model]


@pytest.mark.parametrize(("images", "epochs"), [(1, 1), (35, 1), (37, 2), (240, 10)])
def test_the_budget_is_rounded_to_whole_epochs(params: Params, images: int, epochs: int) -> None:
    options = params.best.model_copy(update={"images": images, "train": 24})
    assert best.best_runs(params.model_copy(update={"best": options}))[0].run.epochs == epochs


def _table(values: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    rows = [
        {"study": study, "variant": variant, "seed": seed, "psnr_mean": psnr}
        for (study, variant), found in values.items()
        for seed, psnr in enumerate(found)
    ]
    return pd.DataFrame(rows)


def test_effects_by_hand() -> None:
    table = _table({("crops", "none"): [20, 21, 22], ("crops", "local"): [21, 21.5, 24]})
    (row,) = beyond.study_effects(table).to_dict("records")
    by_hand = stats.ttest_1samp([1, 0.5, 2], 0).confidence_interval(0.95)
    assert (row["what"], row["seeds"], row["basis"]) == ("local − none", 3, "seeds")
    assert row["estimate"] == pytest.approx(3.5 / 3)
    assert (row["low"], row["high"]) == pytest.approx(tuple(by_hand))


def test_one_seed_has_no_interval_and_every_study_its_own_first_variant() -> None:
    table = _table({("a", "x"): [20], ("a", "y"): [21], ("a", "z"): [19], ("b", "y"): [30], ("b", "x"): [32]})
    found = beyond.study_effects(table)
    assert found["what"].tolist() == ["y − x", "z − x", "x − y"]
    assert found["estimate"].tolist() == [1, -1, 2]
    assert found["low"].isna().all()
    assert found["high"].isna().all()
    assert beyond.of_studies(found, "b")["what"].tolist() == ["x − y"]
    assert beyond.of_studies(found, "a", "b")["what"].tolist() == ["a: y − x", "a: z − x", "b: x − y"]


def _initialisation(library: list[float], fan_in: list[float], upsample: list[float]) -> pd.DataFrame:
    study = "initialisation, L1 and SGD"
    values = {beyond.LIBRARY: library, beyond.FAN_IN: fan_in, beyond.UPSAMPLE: upsample}
    return beyond.study_effects(_table({(study, variant): found for variant, found in values.items()}))


def test_initialisation_compares_the_right_fan_in_with_both() -> None:
    found = _initialisation([20, 21, 22], [21, 21.5, 24], [22, 22, 25]).set_index("what")
    assert found["estimate"].to_dict() == pytest.approx(
        {
            "TConv, right fan-in − TConv": 3.5 / 3,
            "Upsample − TConv": 2,
            "TConv, right fan-in − Upsample": -2.5 / 3,
        }
    )
    by_hand = stats.ttest_1samp([-1, -0.5, -1], 0).confidence_interval(0.95)
    assert tuple(found.iloc[2][["low", "high"]]) == pytest.approx(tuple(by_hand))


@pytest.mark.parametrize(
    ("fan_in", "upsample", "answer"),
    [
        ([23.0, 24.0, 25.0], [23.02, 24.01, 25.03], "the initialisation explains"),
        ([23.0, 24.0, 25.0], [22.0, 24.5, 25.9], "may explain .* no difference that matters"),
        ([23.0, 24.0, 25.0], [23.06, 24.09, 25.13], "may explain .* no difference that matters"),
        ([21.0, 22.0, 23.0], [23.1, 24.2, 25.3], "explains a part"),
        ([20.1, 20.9, 22.0], [23.1, 24.2, 25.3], "does not explain .* same sign"),
        ([24.0, 25.0, 26.1], [23.1, 24.2, 25.3], "reverses"),
        ([19.0, 20.0, 21.0], [16.9, 18.0, 18.8], "explains a part"),
        ([20.1, 20.9, 22.0], [16.9, 18.0, 18.8], "does not explain .* same sign"),
        ([23.0, 24.0, 25.0], [19.0, 21.5, 22.0], "no relevant difference between TConv and Upsample"),
        ([20.04, 21.05, 22.03], [20.05, 21.04, 22.05], "no relevant difference between TConv and Upsample"),
        ([23.0], [24.0], "one seed cannot tell"),
        ([23.0, 24.0], [24.0, 25.1], "two seeds cannot tell"),
    ],
)
def test_what_the_right_fan_in_says_about_tconv(
    fan_in: list[float], upsample: list[float], answer: str
) -> None:
    library = [20.0, 21.0, 22.0][: len(fan_in)]
    found = _initialisation(library, fan_in, upsample)
    assert re.fullmatch(f"With L1 and SGD, .*{answer}.*\\.", beyond.initialisation_answer(found))
    assert beyond.initialisation_answer(found[:0]) == ""


def test_the_recorded_search_for_the_recipe_is_read_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks, "RECORDS", tmp_path / "benchmarks" / "records")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    benchmarks.RECORDS.mkdir(parents=True)
    assert results.search_record("recipe", "workstation") is None
    found = {"variant": ["start"], "schedule": ["short"], "psnr_full": [24.5], "gain": [0.0], "low": [-0.1]}
    written = pd.DataFrame(found | {"high": [0.1], "images": [22_500], "seconds": [60.5]})
    benchmarks.write_record(written, "recipe_workstation")
    pd.testing.assert_frame_equal(results.search_record("recipe", "workstation"), written)
    assert results.search_record("recipe", "laptop") is None


def test_what_another_measure_would_have_chosen() -> None:
    table = pd.DataFrame(
        {"psnr_full": [20, 21, 22, 23.5], "psnr_hvs_m": [1, 2, 4, 3], "ssim": [0.1, 0.2, 0.3, 0.4]}
    )
    hvs, ssim = best.selection({"these": table}).to_dict("records")
    assert (hvs["measure"], ssim["measure"], hvs["runs"]) == ("psnr_hvs_m", "ssim", 4)
    assert hvs["tau"] == pytest.approx(4 / 6)  # five pairs agree, one does not
    assert hvs["low"] <= hvs["tau"] <= hvs["high"]
    assert (hvs["cost"], ssim["cost"]) == (1.5, 0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """Scale smoke with two seeds of the studies and a small network, in folders of its own."""
    folder = tmp_path_factory.mktemp("small")
    changes = {"beyond": {"seeds": [0, 1]}, "best": {"arch": "upsample", "width": 6}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Params, "pairs_folder", property(lambda self: folder / "pairs" / self.scale))
        patch.setattr(Params, "reports", property(lambda self: folder / "reports" / self.scale))
        yield load_params(SMOKE, changes)


@pytest.fixture(scope="module")
def sets(small: Params) -> dict[str, PairSet]:
    return beyond.ensure_sets(small, ensure_pairs(small))


def test_the_set_of_the_best_model_shares_validation_and_test_with_the_scale(
    sets: dict[str, PairSet], small: Params
) -> None:
    own, of_best, fresh = sets[""], sets["best"], sets["fresh"]
    for split in ("validation", "test"):
        for version, images in getattr(own, split).items():
            assert torch.equal(images, getattr(of_best, split)[version]), (split, version)
            assert torch.equal(images, getattr(fresh, split)[version]), (split, version)
    assert len(of_best.train["clean"]) == len(of_best.blocks()) == small.best.train
    assert not torch.equal(own.train["clean"], of_best.train["clean"])  # squares against whole photographs
    assert torch.equal(own.train["noisy_1"], fresh.train["noisy_1"])
    assert own.folder != of_best.folder
    assert (sets["64px"].train["clean"].shape[-1], len(sets["64px"].validation["clean"])) == (64, 6)


def _train(planned: list[Planned], sets: dict[str, PairSet], params: Params, folder: Path) -> Experiment:
    cpu = torch.device("cpu")
    finished = [train_and_store(folder / "stage", one.run, sets[one.pairs], cpu) for one in planned]
    return Experiment(planned, finished, results.collect(planned, finished, params))


@pytest.fixture(scope="module")
def studies(small: Params, sets: dict[str, PairSet], tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    asked = {"as published", "both", beyond.ONE_CYCLE, beyond.BEST_NETWORK}
    planned = [
        one
        for one in beyond.study_runs(small)
        if one.row["variant"] in asked or (one.row["study"], one.row["seed"]) == ("image size 64", 0)
    ]
    return _train(planned, sets, small, tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def trained(small: Params, sets: dict[str, PairSet], tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return _train(best.best_runs(small), sets, small, tmp_path_factory.mktemp("best"))


def test_the_budget_adds_up(
    studies: Experiment, trained: Experiment, sets: dict[str, PairSet], small: Params
) -> None:
    card = sets[""].card | {"photographs": {"validation": FEWEST_PHOTOGRAPHS}}
    table = best.budget(studies, trained, replace(sets[""], card=card), small)
    assert best.budget(studies, trained, sets[""], small)["low"].isna().all()  # too few photographs
    steps = ["the report's", "residual", "one-cycle", "network of the best", "four flips", "long run"]
    assert all(step in model for step, model in zip(steps, table["model"], strict=True))
    assert np.allclose(table["gain"][1:], table["psnr_full"].diff()[1:])
    assert (table["low"][1:] < table["gain"][1:]).all()
    assert (table["gain"][1:] < table["high"][1:]).all()
    assert table["passes"].tolist() == [1, 1, 1, 1, 4, 4]
    assert table["basis"].tolist() == ["two seeds"] * 5 + ["one seed"]
    first = studies.table[studies.table["variant"] == "as published"]
    for measure in ("psnr_mean", "psnr_full", "psnr_per_image"):
        assert table[measure][0] == pytest.approx(first[measure].mean()), measure
    assert table["images"].iloc[-1] == trained.finished[0].about["images"]
    read = {result.name for result in beyond.read_models(studies)}
    assert read == {result.name for result in beyond.of_variant(studies, "network", beyond.BEST_NETWORK)}
    assert len(read) == 2


def test_the_best_model_is_evaluated_with_and_without_flips(
    trained: Experiment, sets: dict[str, PairSet], small: Params
) -> None:
    table = best.evaluations(trained, sets[""], small)
    assert table["passes"].tolist() == [1, 4, 1, 4]
    plain = table[table["passes"] == 1]
    for name in ("psnr_mean", "psnr_full", "ssim", "test_full", "test_per_image"):
        expected = trained.table[name].to_numpy()  # the trained run was measured by other code
        assert np.allclose(plain[name], expected, atol=1e-3), name
    model, images = best.denoiser(trained.finished[0], False), sets[""].test["noisy_1"].float()
    by_hand = sum(model.predict(images.flip(way)).flip(way) for way in ((), (2,), (3,), (2, 3))) / 4
    psnr = psnr_full(mse_per_image(by_hand.numpy(), sets[""].test["clean"].numpy()))
    assert table["test_full"][1] == pytest.approx(psnr, abs=1e-4)
    without = PairSet(sets[""].folder, {}, {}, sets[""].validation, {})
    assert math.isnan(best.evaluate_model(trained.finished[0], without, small, False)["test_full"])


def test_references_are_read_on_the_test_set(trained: Experiment, sets: dict[str, PairSet]) -> None:
    models = {
        one.row["model"]: [best.denoiser(result, False)]
        for one, result in zip(trained.planned, trained.finished, strict=True)
    }
    tuned = baselines.tuned(sets[""])
    classical, _ = baselines.best(baselines.baselines(tuned, sets[""].validation))
    table, differences = best.references(sets[""], models, classical)
    assert set(table["split"]) == {"test"}
    psnr = table.set_index("method")["psnr_full"]
    assert psnr[best.BEST] == pytest.approx(trained.table["test_full"][0], abs=1e-3)
    twin = best.TWIN.format(best.BEST)
    pairs_compared = [(best.BEST, classical), (best.BEST, twin), (twin, classical)]
    assert differences["what"].tolist() == [f"{one} − {other}" for one, other in pairs_compared]
    expected = [psnr[one] - psnr[other] for one, other in pairs_compared]
    assert differences["estimate"].tolist() == pytest.approx(expected)
    without = PairSet(sets[""].folder, sets[""].card, sets[""].train, sets[""].validation, {})
    assert set(best.references(without, {}, classical)[0]["split"]) == {"validation"}


@pytest.mark.parametrize("photographs", [FEWEST_PHOTOGRAPHS - 1, FEWEST_PHOTOGRAPHS])
def test_images_of_a_few_photographs_have_no_interval(
    trained: Experiment, sets: dict[str, PairSet], photographs: int
) -> None:
    of_few = replace(sets[""], card={"photographs": {"test": photographs}})
    models = {best.BEST: [best.denoiser(result, False) for result in trained.finished]}
    classical, _ = baselines.best(baselines.baselines(baselines.tuned(of_few), of_few.validation))
    table, differences = best.references(of_few, models, classical)
    row = differences.iloc[0]
    assert row["photographs"] == photographs
    assert (row["low"] < row["estimate"] < row["high"]) == (photographs == FEWEST_PHOTOGRAPHS)
    assert np.isnan(row["low"]) == (photographs < FEWEST_PHOTOGRAPHS)
    assert table.set_index("method")["seeds"][best.BEST] == len(trained.finished)
    assert row["estimate"] == pytest.approx(
        trained.table["test_full"].mean() - table.set_index("method")["psnr_full"][classical],
        abs=2e-3,
    )


def test_sizes_have_the_pixels_of_their_pairs(studies: Experiment, sets: dict[str, PairSet]) -> None:
    table = beyond.sizes(studies, {name: sets[name] for name in ("", "best", "64px")})
    assert table["size"].tolist() == [64] * 4
    noisy = table[table["method"] == "noisy input"].set_index("size")["psnr_full"]
    assert noisy[64] == pytest.approx(sets["64px"].card["noisy_psnr_db"]["validation"]["global"], abs=1e-3)
    runs = studies.table[studies.table["study"] == "image size 64"].query("variant == @beyond.PLAIN")
    network = table[table["method"] == f"network, {beyond.PLAIN}"]
    assert network["psnr_full"].item() == pytest.approx(runs["psnr_full"].mean())
    blurred = table[table["method"] == "Gaussian blur"]["sharpness"]
    assert (blurred.to_numpy() < table[table["method"] == "noisy input"]["sharpness"].to_numpy()).all()
    assert beyond.sizes(studies, {"": sets[""]}).empty
    own = beyond.own_size(studies.table)
    assert own["run"].is_unique
    assert not own["study"].str.contains("size").any()


def test_the_model_card_says_what_the_result_files_say(
    trained: Experiment, sets: dict[str, PairSet], small: Params
) -> None:
    with pytest.raises(UserError, match=r"best\.json"):
        best.write_card(small, sets["best"])
    metrics = best.evaluate_model(trained.finished[0], sets[""], small, True)
    arguments = trained.planned[0].row, trained.finished[0], small
    about = paper_runs.save_model("07_beyond/best", *arguments, metrics, flips=True)
    table, _ = best.references(sets[""], {best.BEST: [best.denoiser(trained.finished[0], True)]}, "")
    table.to_csv(small.reports / "07_beyond" / "references.csv", index=False)
    card = best.write_card(small, sets["best"]).read_text("utf-8")
    assert f"| {best.BEST} | {about['metrics']['test_full']:.2f} |" in card
    assert "MIT" in card
    assert "four passes" in card
    assert "24 pairs of 32 x 32" in card
    assert best.PHOTOGRAPHS["bundled"] in card
    named = small.pairs.model_copy(update={"photographs": "photographs of gardens"})
    own = best.write_card(small.model_copy(update={"pairs": named}), sets["best"]).read_text("utf-8")
    assert own == card.replace(best.PHOTOGRAPHS["bundled"], "photographs of gardens")
    write_json(small.reports / "07_beyond" / "best.json", about | {"flips": False})
    assert "four passes" not in best.write_card(small, sets["best"]).read_text("utf-8")
