"""Words that turn with the numbers, rendered tables, provenance, and README's results."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2nlib.experiments import effects, published
from n2nlib.files import ROOT, UserError
from n2nlib.params import Params
from n2nlib.report import readme, tables, wording
from n2nlib.report.wording import EVALUATED, REPORT, TRAINED

SETTING = {"loss": "mse", "optimizer": "adam", "sharpen": True, "crops": False, "arch": "tconv"}
BASELINES = pd.DataFrame({"method": ["noisy input", "median (radius 1)"], "psnr_full": [20.0, 22.5]})


def _effect(source: str, factor: str, estimate: float, reach: float) -> dict[str, object]:
    limits = {"estimate": estimate, "low": estimate - reach, "high": estimate + reach}
    what = effects.TABLE1[factor][0]
    pairs = {"smallest": estimate - 2 * reach, "largest": estimate + 2 * reach}
    return {"source": source, "factor": factor, "what": what, "seeds": 3, "basis": "seeds"} | limits | pairs


def _sharpening(trained: float, evaluated: float) -> pd.DataFrame:
    pairs = ((TRAINED, trained), (EVALUATED, evaluated))
    return pd.DataFrame([_effect(source, "sharpen", value, 0.1) for source, value in pairs])


def test_the_main_finding_turns_with_its_evidence() -> None:
    found = wording.main_finding(_sharpening(-0.02, 1.2))
    assert "+1.18 dB from sharpening, comes from the way in which it was measured" in found
    assert "−0.02 dB [−0.12, +0.08]" in found
    assert "+1.20 dB [+1.10, +1.30] (3 seeds)" in found
    assert "does not depend on how our networks are evaluated" in wording.main_finding(_sharpening(1.0, 1.3))
    assert "Our networks do not show" in wording.main_finding(_sharpening(-0.02, -0.05))
    for trained, evaluated in ((0.05, 0.1), (0.1, 1.2), (1.2, -0.02)):
        assert "leave open where it comes from" in wording.main_finding(_sharpening(trained, evaluated))
    assert "does not compare" in wording.main_finding(_sharpening(0, 1).head(1))


def test_other_factors_are_reported_with_the_verdicts_on_the_reports_claims() -> None:
    claim = {"ours": -0.4, "ci_low": -0.7, "ci_high": -0.1, "basis": "one seed"}
    verdicts = {
        "crops_mixed": "not reproduced",
        "adam_better": "not tested",
        "sharpening_better": "reproduced",
    }
    rows = [claim | {"claim": name, "verdict": verdict} for name, verdict in verdicts.items()]
    rows[1] |= dict.fromkeys(("ours", "ci_low", "ci_high"), float("nan"))
    effects_found = pd.DataFrame([_effect(TRAINED, "crops", -0.4, 0.3), _effect(EVALUATED, "crops", 1, 0)])
    found = wording.lasting_finding(pd.DataFrame(rows), effects_found)
    assert "(one seed), these choices change the PSNR: training on crops −0.40 dB [−0.70, −0.10]" in found
    judged = "the report: mixed results; our verdict: not reproduced; single pairs: −1.00 to +0.20 dB"
    assert f"[−0.70, −0.10] ({judged})" in found
    assert "Adam" not in found  # not tested
    assert "sharpening" not in found
    assert "compares nothing else" in wording.lasting_finding(pd.DataFrame(rows[1:]), effects_found)
    for weaker in ({"ci_high": 0.1}, {"ours": -0.1, "ci_low": -0.11, "ci_high": -0.09}):
        found = wording.lasting_finding(pd.DataFrame([rows[0] | weaker]), effects_found)
        assert (
            "no choice matters clearly. The median effect is below 0.12 dB or uncertain for training on crops"
            in found
        )


def _at(images: int, estimate: float, scale: str = "s", factor: str = "arch") -> dict[str, object]:
    return _effect(TRAINED, factor, estimate, 0.1) | {"images": images, "scale": scale}


def test_an_effect_depends_on_length_if_its_intervals_part() -> None:
    def said(*rows: dict[str, object]) -> str:
        return wording.length_finding(pd.DataFrame(rows), "s")

    changed = said(_at(10, 2.0), _at(5000, 0.1))
    assert changed == (
        "On all validation images, between 10 and 5,000 images seen these effects change: "
        "TConv − Upsample from +2.00 dB [+1.90, +2.10] to +0.10 dB [0.00, +0.20] (both lengths come from the "
        "same runs, whose learning rate may drop in between)."
    )
    crops = [_at(10, 0.3, factor="crops"), _at(5000, 0.2, factor="crops")]
    both = said(_at(10, 2.0), _at(5000, 0.1), *crops)
    assert "[0.00, +0.20]; the other effects of Table I do not change clearly (both lengths" in both
    small = said(_at(10, 0.21), _at(5000, 0.1))
    assert "no effect of Table I changes clearly" in small
    same = said(_at(10, 0.2), _at(5000, 0.1))
    assert "between 10 and 5,000 images seen no effect of Table I changes clearly (both" in same
    longer = said(_at(10, 0.2), _at(5000, 0.1), _at(90_000, 3.0, "other"))
    assert longer.startswith(same)  # another scale differs in more than its length
    assert "between 5,000 and 90,000 images seen these effects change: TConv − Upsample from +0.10" in longer
    assert longer.endswith("(at scale other, which differs in more than length).")
    few = said(_at(5000, 0.1), _at(90_000, 3.0, "other") | {"seeds": 1})
    assert few == (
        "Whether the effects differ at 90,000 images (scale other) cannot be tested, because scale other "
        "has one seed."
    )
    shorter = said(_at(10, 3.0, "other"), _at(5000, 0.1))
    assert shorter == "There is one length of training, 5,000 images."
    assert said(_at(10, 3.0, "other")).startswith("This scale has no two settings")


def test_effects_of_every_source_stand_below_each_other() -> None:
    found = pd.DataFrame([_effect(REPORT, "arch", -0.3, 0.1), _effect(TRAINED, "arch", 0.1, 0.1)])
    length = pd.DataFrame([_at(10, 0.1), _at(50, 9.0, "other"), _at(90_000, 3.0, "other")])
    table = wording.effects_markdown(found, length, "s").splitlines()
    assert table[0].startswith("| change in PSNR (dB) | TConv − Upsample | sharpening |")
    gaps = " –" + " | –" * 3 + " |"
    assert table[2] == f"| ours, as trained (scale s: 10 images, 3 seeds) | +0.10 [0.00, +0.20] |{gaps}"
    assert (
        table[3] == f"| ours, as trained (scale other: 90,000 images, 3 seeds) | +3.00 [+2.90, +3.10] |{gaps}"
    )
    assert table[4] == f"| the report | −0.30 [−0.40, −0.20] |{gaps}"


def test_curves_say_who_is_ahead_first_and_last() -> None:
    rows = [(10, "A", 23.0), (10, "1", 22.0), (10, "B", 22.95), (20, "1", 24.0), (20, "A", 23.0)]
    rows += [(20, "B", 23.5), (15, "B", 30.0)]
    curves = pd.DataFrame(rows, columns=["images", "candidate", "psnr_mean"]).assign(seed=0)
    assert wording.curves_sentence(curves) == (
        "After 10 images candidate A is ahead at 23.00 dB; less than 0.12 dB behind: B. "
        "After 20 images candidate 1 is ahead at 24.00 dB."
    )
    diverged = pd.DataFrame([{"images": 10, "candidate": "1", "psnr_mean": 6.0, "seed": 1}])
    assert wording.curves_sentence(pd.concat([curves, diverged])).endswith(
        "After 20 images candidate B is ahead at 23.50 dB."
    )


def test_failures_in_a_sentence() -> None:
    rows = [("arch", "tconv", 1, 4, 0.006, 0.806), ("arch", "upsample", 0, 4, 0.0, 0.602)]
    table = pd.DataFrame(rows, columns=["factor", "level", "failed", "runs", "low", "high"])
    assert wording.failure_sentence(table) == (
        "1 of 4 runs with TConv (1 to 81 %, 95 % interval) and 0 of 4 runs with Upsample (0 to 60 %, 95 % "
        "interval) fail."
    )
    assert wording.failure_sentence(table.assign(failed=0)) == "No run of Table I fails."


def test_a_dependence_needs_evidence_and_size() -> None:
    row = {"source": TRAINED, "what": "crops: more", "estimate": -0.3, "low": -0.5, "high": -0.1}
    said = "Choices depend on one another (crops: more: −0.30 dB [−0.50, −0.10])."
    assert wording.dependence_finding(pd.DataFrame([row])) == said
    for weaker in ({"high": 0.1}, {"estimate": -0.11}, {"source": EVALUATED}):
        assert wording.dependence_finding(pd.DataFrame([row | weaker])) == ""


def test_studies_in_a_sentence() -> None:
    rows = [("a − b", 0.3, 0.2, 0.4, 3), ("c − b", 0.01, -0.02, 0.04, 3), ("d − b", 0.2, 0.1, 0.3, 3)]
    table = pd.DataFrame(rows, columns=["what", "estimate", "low", "high", "seeds"])
    said = "**Better: a − b (+0.30 dB), d − b (+0.20 dB). Too small to matter: c − b (+0.01 dB).**"
    assert wording.study_sentence(table) == said
    few = table.assign(low=float("nan"), seeds=1)
    assert wording.study_sentence(few).endswith("there is no verdict with one seed.")
    assert wording.study_sentence(table[:0]) == "This study is not run at this scale."


def test_agreement_in_a_sentence_or_none() -> None:
    report, april = "the report's Table I", "the authors, 2022-04-27, as trained"
    rows = [(report, EVALUATED, "all", 0.5), (report, TRAINED, "all", 1.25)]
    rows += [(april, TRAINED, "tconv", 0.3), (april, TRAINED, "upsample", 0.4)]
    table = pd.DataFrame(rows, columns=["reference", "source", "arch", "mean_abs_diff"])
    said = wording.agreement_sentence(table)
    assert "0.50 dB when evaluated as the report did, and by 1.25 dB as trained" in said
    assert "TConv networks differ from those values by 0.30 dB and our Upsample networks by 0.40 dB" in said
    assert wording.agreement_sentence(table[1:]) == ""


def test_readme_says_if_the_reports_network_loses_to_a_classical_method(tmp_path: Path) -> None:
    folder = tmp_path / "laptop"
    for name in ("01_data", "07_beyond"):
        (folder / name).mkdir(parents=True)
    BASELINES.to_csv(folder / "01_data" / "baselines.csv", index=False)
    table = _references()
    for final, said in ((24.1, False), (21.0, True)):
        table.loc[table["method"] == "final model", "psnr_full"] = final
        table.to_csv(folder / "07_beyond" / "references.csv", index=False)
        assert ("does not reach the best classical method" in readme.result_table(folder)) == said


def test_verdicts_are_counted_in_one_order() -> None:
    table = pd.DataFrame({"verdict": ["inconclusive", "reproduced", "not tested", "reproduced"]})
    assert wording.verdict_counts(table) == "2 reproduced, 1 inconclusive, 1 not tested"


def test_without_a_test_set_numbers_are_said_to_be_measured_where_choices_were_made() -> None:
    assert "on which the settings were chosen" in wording.sets_sentence(test=False)
    assert "on which the settings were chosen" not in wording.sets_sentence(test=True)
    differences = pd.DataFrame([_effect(TRAINED, "loss", 0.3, 0.1)])
    on_test = wording.reference_sentence(_references(), differences)
    assert on_test.startswith("On the test images the highest PSNR is 24.70 dB, that of the best model.")
    on_validation = wording.reference_sentence(_references().assign(split="validation"), differences)
    assert on_validation.endswith(wording.NO_TEST)
    assert wording.NO_TEST not in on_test


def test_verdicts_on_one_seed_have_no_rate_of_errors() -> None:
    row = {"claim": "adam_better", "verdict": "reproduced", "verdict_report_evaluation": None}
    weighed = pd.DataFrame([row])
    rated = wording.claims_sentence(weighed, {}, 0.3)
    assert "at most 0.3 verdicts are expected to be wrong by chance" in rated
    assert "how many are wrong by chance is not known" in wording.claims_sentence(weighed, {}, 0.0)


def test_an_interval_that_is_missing_is_no_verdict() -> None:
    row = _effect(TRAINED, "loss", 0.3, float("nan"))
    assert wording.outcome(row) == "not tested"
    assert wording.interval(row) == "(no interval)"


@given(st.floats(-100, 100, allow_subnormal=False))
def test_signed_numbers_read_back(value: float) -> None:
    text = wording.signed(value)
    assert float(text.replace("−", "-")) == pytest.approx(value, abs=0.0051)
    assert text[0] in "+−" or text == "0.00"


def test_headers_are_distinct_and_cells_are_words() -> None:
    assert len(set(wording.HEADERS.values())) == len(wording.HEADERS)
    row = SETTING | {"lr0": 0.0005, "psnr_full": -1.234, "ssim": 0.81234, "images": 9600, "low": float("nan")}
    shown = wording.readable(pd.DataFrame([row])).iloc[0].tolist()
    assert shown == ["MSE", "Adam", "yes", "no", "TConv", "0.0005", "−1.23", "0.812", "9,600", "–"]
    assert wording.setting(SETTING) == "TConv, MSE, Adam, sharpened"


def _table1() -> pd.DataFrame:
    runs = [(0, 23.0, 23.0), (1, 23.5, 23.5), (2, 5.0, 5.0)]
    rows = [SETTING | {"seed": seed, "psnr_mean": mean, "psnr_full": full} for seed, mean, full in runs]
    rows += [
        SETTING | {"arch": "upsample", "seed": seed, "psnr_mean": 9.0, "psnr_full": 9.0} for seed in range(3)
    ]
    return pd.DataFrame(rows).assign(
        psnr_std=0.1, report_mean=22.0, report_std=0.2, psnr_per_image=24.0, run="r"
    )


def test_failed_runs_are_marked_and_not_averaged() -> None:
    row = tables.render_table1(_table1(), BASELINES).iloc[0]
    assert row["TConv", f"{TRAINED} (dB)"] == "23.25 ± 0.10 (1 of 3 failed)"
    assert row["TConv", f"{EVALUATED} (dB)"] == "22.00 ± 0.20 (1 of 3 failed)"
    assert row["Upsample", f"{TRAINED} (dB)"] == "failed"
    printed = published.table1().merge(pd.DataFrame([SETTING]))["psnr_mean"].item()
    assert row["TConv", f"{REPORT} (dB)"].startswith(f"{printed:.2f} ± ")


def test_our_candidates_and_the_reports_are_told_apart() -> None:
    rendered = tables.render_table2(pd.DataFrame([SETTING | {"candidate": name} for name in ("A", "1")]))
    assert rendered["Whose"].tolist() == ["ours", "the report"]


@pytest.fixture
def elsewhere(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Scale smoke with the results in a temporary folder and photographs of a person."""
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.setattr("n2nlib.params.ROOT", tmp_path)
    changes = {"source": "folder", "path": "/home/somebody/Pictures", "validation_path": "~nobody_here/Later"}
    pairs = params.pairs.model_copy(update=changes | {"photographs": "~500 photographs of a garden/park"})
    return params.model_copy(update={"pairs": pairs})


def test_tables_keep_their_columns_and_say_where_they_came_from(elsewhere: Params, runs_folder: Path) -> None:
    for name, machine in (("r", "a GPU"), ("s", "a processor")):
        folder = runs_folder / "ablation" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"run": name, "machine": machine, "seconds": 1.5}))
    table = _table1().assign(psnr_mean=23.123456, extra=1)
    tables.save(table, "03_ablation/table1_ablation", elsewhere, ["r", "r"])
    path = elsewhere.reports / "03_ablation" / "table1_ablation.csv"
    assert path.read_text().splitlines()[0] == ",".join(tables.CONTRACT["table1_ablation"])
    assert tables.load("03_ablation/table1_ablation", elsewhere)["psnr_mean"].eq(23.1235).all()
    tables.save(pd.DataFrame({"tau_sharp": [0.123456]}), "03_ablation/exact", elsewhere, ["s"])
    assert tables.load("03_ablation/exact", elsewhere)["tau_sharp"].item() == 0.123456
    text = (path.parent / "provenance.json").read_text()
    about = json.loads(text)
    assert about["files"] == {"exact.csv": ["s"], "table1_ablation.csv": ["r"]}
    assert about["machines"] == ["a GPU", "a processor"]
    assert about["seconds"] == {"r": 1.5, "s": 1.5}
    assert "beyond" not in about["parameters"]  # notebook 03 does not use it
    recorded = about["parameters"]["pairs"]
    assert (recorded["path"], recorded["validation_path"]) == ("Pictures", "Later")
    assert recorded["photographs"] == "~500 photographs of a garden/park"  # words, not a folder
    assert "/home" not in text
    tables.record(path, elsewhere, ["r"])
    assert (path.parent / "provenance.json").read_text() == text
    tables.record(path.with_name("exact.csv"), elsewhere, ["r"])  # what came from s is replaced
    assert json.loads((path.parent / "provenance.json").read_text())["seconds"] == {"r": 1.5}
    tables.record(
        path, elsewhere.model_copy(update={"seed": 5}), ["r"]
    )  # the other file is an earlier rebuild's
    assert list(json.loads((path.parent / "provenance.json").read_text())["files"]) == ["table1_ablation.csv"]


def test_a_missing_table_names_its_notebook(elsewhere: Params) -> None:
    with pytest.raises(UserError, match="missing; run notebook 05_fine_tuning first"):
        tables.load("05_fine_tuning/table3_fine_tuning", elsewhere)


def _references() -> pd.DataFrame:
    rows = [("noisy input", 20.0), ("median (radius 1)", 22.5), ("linear filter (5 x 5)", 23.9)]
    rows += [("final model", 24.1), ("final model, trained on clean targets", 24.2), ("best model", 24.7)]
    frame = pd.DataFrame(rows, columns=["method", "psnr_full"])
    return frame.assign(split="test", psnr_per_image=frame["psnr_full"] + 0.9)


def test_readme_takes_its_results_from_files(elsewhere: Params, tmp_path: Path) -> None:
    laptop = elsewhere.model_copy(update={"scale": "laptop"})
    (tmp_path / "README.md").write_text(f"Title\n{readme.BEGIN}\n{readme.END}\nEnd\n")
    with pytest.raises(UserError, match="no scale has it"):
        readme.write_readme(check=False, root=tmp_path)
    with pytest.raises(UserError, match=r"effects\.csv: missing; run notebook 06_discussion"):
        readme.write_results(laptop)
    folder = laptop.reports / "06_discussion"
    folder.mkdir(parents=True)
    _sharpening(-0.02, 1.2).to_csv(folder / "effects.csv", index=False)
    columns = ["reference", "source", "arch", "mean_abs_diff"]
    pd.DataFrame(columns=columns).to_csv(folder / "agreement.csv", index=False)
    claim = {"claim": "crops_mixed", "ours": -0.4, "ci_low": -0.7, "ci_high": -0.1, "verdict": "reproduced"}
    pd.DataFrame([claim | {"basis": "one seed"}]).to_csv(folder / "claims.csv", index=False)
    pd.DataFrame([_effect(TRAINED, "crops", -0.4, 0.1)]).to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame([_at(10, 0.1)]).to_csv(folder / "training_length.csv", index=False)
    readme.write_results(laptop)
    readme.write_readme(check=False, root=tmp_path)
    assert "result table is not available" in (tmp_path / "README.md").read_text()
    (laptop.reports / "07_beyond").mkdir()
    (laptop.reports / "01_data").mkdir()
    on_validation = pd.DataFrame({"method": ["noisy input", "median (radius 1)"], "psnr_full": [20.0, 23.0]})
    on_validation.loc[2] = ["linear filter (5 x 5)", 22.9]
    on_validation.to_csv(laptop.reports / "01_data" / "baselines.csv", index=False)
    _references().to_csv(laptop.reports / "07_beyond" / "references.csv", index=False)
    readme.write_results(laptop)
    with pytest.raises(UserError, match="are not those in reports/"):
        readme.write_readme(check=True, root=tmp_path)
    readme.write_readme(check=False, root=tmp_path)
    readme.write_readme(check=True, root=tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("Title\n")
    assert text.endswith("\nEnd\n")
    assert "comes from the way in which it was measured" in text
    assert "| median (radius 1) | 22.50 | 23.40 |" in text  # the best one on validation, not on test
    assert "linear filter" not in text
    assert "| best model | 24.70 | 25.60 |" in text


MODELS = {"laptop": 24.9, "workstation": 24.4, "paper": 24.6}  # scale -> PSNR on test images (dB)


@pytest.mark.parametrize(
    ("scales", "chosen"), [(["laptop", "workstation", "paper"], "paper"), (["workstation"], "workstation")]
)
def test_the_package_holds_the_best_model(tmp_path: Path, scales: list[str], chosen: str) -> None:
    package = tmp_path / "package" / "best.safetensors"
    package.parent.mkdir()
    readme.bundle_model(check=True, root=tmp_path, package=package)  # no scale has a model
    for scale in scales:
        folder = tmp_path / "reports" / scale / "07_beyond"
        folder.mkdir(parents=True)
        (folder / "best.safetensors").write_text(scale)
        (folder / "best.md").write_text(f"card of {scale}")
        (folder / "best.json").write_text(json.dumps({"metrics": {"psnr_full": MODELS[scale]}}))
    final = tmp_path / "reports" / "workstation" / "05_fine_tuning" / "final.safetensors"
    final.parent.mkdir(parents=True, exist_ok=True)
    final.with_suffix(".json").write_text(json.dumps({"metrics": {"psnr_full": 24.3}}))  # below the best one
    with pytest.raises(UserError, match="run python -m n2nlib readme"):
        readme.bundle_model(check=True, root=tmp_path, package=package)
    readme.bundle_model(check=False, root=tmp_path, package=package)
    readme.bundle_model(check=True, root=tmp_path, package=package)
    assert package.read_text() == chosen
    assert package.with_suffix(".md").read_text() == f"card of {chosen}"
    final.write_text("final")
    final.with_suffix(".json").write_text(json.dumps({"metrics": {"psnr_full": 24.8}}))
    readme.bundle_model(check=False, root=tmp_path, package=package)
    assert package.read_text() == "final"
    assert not package.with_suffix(".md").exists()
