"""Results on disk and in words: CSV files, what each file came from, and tables for people."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from n2nlib.experiments import effects, published
from n2nlib.experiments.paper_runs import ABLATION, CANDIDATE, FINE_TUNING, has_setting
from n2nlib.files import UserError, git, read_json, relative, replacing, write_json
from n2nlib.pairs import baselines
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import MACHINE, Params, sections_of
from n2nlib.report import wording
from n2nlib.report.wording import COLUMNS, EVALUATED, REPORT, TRAINED
from n2nlib.train import runs as run_folders

PSNR = ["psnr_mean", "psnr_std", "psnr_full", "psnr_per_image", "report_mean", "report_std"]
# Files whose columns are a contract; of other frames every column is written.
CONTRACT = {
    "baselines": ["method", "psnr_full", "psnr_per_image", "psnr_hvs_m", "ssim"],
    "table1_ablation": [*ABLATION, "seed", *PSNR, "run"],
    "table2_candidates": ["candidate", *CANDIDATE],
    "curves": ["candidate", "seed", "epoch", "psnr_mean", "psnr_std", "train_loss"],
    "table3_fine_tuning": [*FINE_TUNING, "seed", *PSNR, "run"],
}
HEADLINES = {  # in words -> the keys of metrics.json: global PSNR on validation, on test
    "noisy input": ("noisy_psnr_full", "noisy_test_full"),
    "final model, as trained": ("final_psnr_full", "final_test_full"),
    "final model, with the report's evaluation": ("final_report_full", "final_test_report_full"),
}
PACKAGES = ("torch", "numpy", "pandas", "scipy", "scikit-image", "seaborn")
OUTPUTS = ("reports/*/*", "reports/metrics.json", "params.yaml", "dvc.lock", "README.md")


def save(frame: pd.DataFrame, name: str, params: Params, runs: Iterable[str]) -> None:
    """Write reports/<scale>/<name>.csv and record that it came from `runs` (names of run folders).

    `name` is "<notebook>/<table>". What was measured is written to four decimals, settings exactly.
    """
    path = params.reports / f"{name}.csv"
    frame = frame[CONTRACT.get(path.stem, list(frame.columns))]
    exact = {column for column in frame if column in COLUMNS and COLUMNS[column].role == "setting"}
    measured = [column for column in frame.select_dtypes("floating") if column not in exact]
    with replacing(path) as temporary:
        frame.round(dict.fromkeys(measured, 4)).to_csv(temporary, index=False, lineterminator="\n")
    record(path, params, runs)


def record(path: Path, params: Params, runs: Iterable[str]) -> None:
    """Add a result file to provenance.json of its folder, which is named after the notebook that writes it.

    The seconds that each run took stand there and in no table, because no rebuild repeats them. The files of
    an earlier rebuild, from other parameters, packages or another commit, are left out of it.
    """
    target, names = path.parent / "provenance.json", sorted(set(runs))
    sections = [name for name in sections_of(path.parent.name) if name not in MACHINE]
    parameters = params.used(sections)
    pairs = parameters.get("pairs", {})
    for name in ("path", "validation_path"):  # an absolute path would name a person's machine
        value = pairs.get(name) or ""
        if value.startswith("~") or Path(value).is_absolute():
            pairs[name] = Path(value).name
    about = {
        "scale": params.scale,
        "parameters": parameters,
        "parameters_sha256": params.hash(sections),
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }
    old = read_json(target) if target.is_file() else {}
    if {key: old.get(key) for key in about} != about:
        old = {}
    files = old.get("files", {}) | {path.name: names}
    paths = {name: next(run_folders.RUNS.glob(f"*/{name}/run.json"), None) for name in names}
    trained = {name: read_json(path) for name, path in paths.items() if path}
    machines = {*old.get("machines", []), *(one["machine"] for one in trained.values())}
    seconds = old.get("seconds", {}) | {name: one["seconds"] for name, one in trained.items()}
    listed = set().union(*files.values())  # an earlier run may have been replaced
    seconds = {name: seconds[name] for name in sorted(listed & set(seconds))}
    about |= {"machines": sorted(machines), "seconds": seconds}
    write_json(target, about | {"files": dict(sorted(files.items()))})


@cache
def commit() -> str:
    """The commit of the code, or "unknown" outside of git.

    " (modified)" follows if the tree differs from it in more than results, parameters and README.
    """
    head = git("rev-parse", "--short=12", "HEAD").strip()
    changes = git("status", "--porcelain", "--", ".", *(f":!{path}" for path in OUTPUTS)).strip()
    return f"{head} (modified)" if changes else head or "unknown"


def load(name: str, params: Params) -> pd.DataFrame:
    """The table reports/<scale>/<name>.csv. Raises `UserError` if it is missing, see `existing`."""
    return pd.read_csv(existing(params.reports / f"{name}.csv"), dtype={"candidate": str})


def existing(path: Path) -> Path:
    """`path`, a result file. Raises `UserError`, which names the notebook to run, if it is missing."""
    if not path.is_file():
        notebook = path.parent.name
        raise UserError(f"{relative(path)}: missing; run notebook {notebook} first (or all: dvc repro)")
    return path


def classical(params: Params, pairs: PairSet) -> pd.DataFrame:
    """The classical denoisers on the validation images, with the columns of baselines.csv.

    Measured here if notebook 01 was not run on this pair set, so that papermill can run any notebook alone.
    """
    if (params.reports / "01_data" / "baselines.csv").is_file():
        table = load("01_data/baselines", params)
        noisy_db = pairs.card["noisy_psnr_db"]["validation"]["global"]
        if abs(table["psnr_full"][0] - noisy_db) < 2e-4:  # both are rounded to four decimals
            return table
    return baselines.baselines(baselines.tuned(pairs), pairs.validation)


def show(frame: pd.DataFrame) -> Styler:
    """`frame` for a notebook: in words, rounded, without its index."""
    shown = frame if isinstance(frame.columns, pd.MultiIndex) else wording.readable(frame)
    return shown.reset_index(drop=True).style.hide(axis="index")


def render_table1(table1: pd.DataFrame, without_training: pd.DataFrame) -> pd.DataFrame:
    """Table I as the report prints it: a row for each setting, groups of columns for TConv and Upsample.

    Each cell is the mean over subsets ± their standard deviation in dB, averaged over the seeds. Runs that
    end below the noisy input are marked as failed and not averaged. The last two rows are the noisy input and
    the best method of `without_training` (baselines.csv).
    """
    noisy = float(without_training["psnr_full"].iloc[0])
    keys = ["loss", "optimizer", "sharpen", "crops"]
    rows = _beside_report(table1, keys, "arch", wording.ARCH, published.table1(), noisy)
    name, best_db = baselines.best(without_training)
    extra = []
    for label, here, there in (("noisy input", noisy, f"{published.NOISY_PSNR:.2f}"), (name, best_db, "–")):
        values = {TRAINED: f"{here:.2f}", EVALUATED: "–", REPORT: there}
        known = {column: values[column[1].removesuffix(" (dB)")] for column in rows.columns if column[0]}
        extra.append({rows.columns[0]: label} | known)
    return pd.concat([rows, pd.DataFrame(extra, columns=rows.columns)], ignore_index=True).fillna("")


def render_table3(table3: pd.DataFrame, noisy: float) -> pd.DataFrame:
    """Table III: a row for each setting, groups of columns for the annealing steps; cells as of Table I.

    `noisy` is the PSNR (dB) of the noisy validation images.
    """
    steps = sorted(map(int, table3["annealing_steps"].unique()))
    names = {step: wording.annealing(step) for step in steps}
    keys = ["sigma_n", "tau_sharp", "lr0"]
    return _beside_report(table3, keys, "annealing_steps", names, published.table3(), noisy)


def _beside_report(
    ours: pd.DataFrame, keys: list[str], across: str, names: dict, report: pd.DataFrame, noisy: float
) -> pd.DataFrame:
    """A row for each setting of `keys`; for each value of `across` both evaluations and the report."""
    ours = ours.assign(failed=effects.failed(ours, noisy))
    report = report.assign(failed=effects.failed(report, published.NOISY_PSNR))
    settings = ours[keys].drop_duplicates()
    words = wording.readable(settings)
    table = {("", header): words[header] for header in words}
    for value, name in names.items():
        if value not in set(ours[across]):
            continue
        for source, (rows, mean) in effects.by_source(ours, report).items():
            of_value = rows[rows[across] == value]
            found = (of_value[has_setting(of_value, setting)] for setting in settings.to_dict("records"))
            table[name, f"{source} (dB)"] = [_cell(runs, mean) for runs in found]
    return pd.DataFrame(table)


def _cell(runs: pd.DataFrame, mean: str) -> str:
    """Mean ± standard deviation over subsets of the runs of a setting that did not fail."""
    if runs.empty or mean not in runs:
        return "–"
    alive = runs[~runs["failed"]]
    failed = len(runs) - len(alive)
    if alive.empty:
        return "failed"
    std = mean.replace("_mean", "_std")
    text = f"{alive[mean].mean():.2f} ± {alive[std].mean():.2f}"
    return f"{text} ({failed} of {len(runs)} failed)" if failed else text


def render_table2(candidates: pd.DataFrame) -> pd.DataFrame:
    """Table II: our candidates A, B, C and the report's 1, 2, 3."""
    words = wording.readable(candidates[["candidate", *CANDIDATE]])
    words.insert(1, "Whose", ["ours" if name.isalpha() else REPORT for name in candidates["candidate"]])
    return words


def pair_sets(pairs: PairSet) -> pd.DataFrame:
    """A row per set: split, Photographs, Images (pairs made), psnr_full and psnr_per_image (dB, noisy)."""
    card, rows = pairs.card, []
    for split, count in card["counts"].items():
        noisy = card["noisy_psnr_db"][split] or {"global": float("nan"), "per_image": float("nan")}
        row = {"split": split, "Photographs": card["photographs"][split], "Images": count}
        rows.append(row | {"psnr_full": noisy["global"], "psnr_per_image": noisy["per_image"]})
    return pd.DataFrame(rows)


def noise_properties(pairs: PairSet) -> pd.DataFrame:
    """A row for each property of the noise that was tested, in words."""
    frame = pd.DataFrame(pairs.card["assumptions"])[["name", "needed", "holds", "words"]]
    return frame.set_axis(["Property", "Needed by Noise2Noise", "As expected", "Found"], axis=1)


def headline(params: Params, pairs: PairSet, table1: pd.DataFrame, table3: pd.DataFrame) -> dict[str, float]:
    """Write 06_discussion/metrics.json, the numbers that `dvc metrics show` prints, and return them.

    PSNR in dB; the best setting's is its mean over seeds. Raises `UserError` without final.json of
    notebook 05.
    """
    path = params.reports / "06_discussion" / "metrics.json"
    noisy = pairs.card["noisy_psnr_db"]
    about = read_json(params.reports / "05_fine_tuning" / "final.json")
    final = about["metrics"]
    names = {"global": "full", "per_image": "per_image"}
    metrics: dict[str, float] = {
        f"noisy_{name}_{names[kind]}": value
        for split, name in (("validation", "psnr"), ("test", "test"))
        for kind, value in (noisy.get(split) or {}).items()
    }
    for name, table, keys in (("table1", table1, ABLATION), ("table3", table3, FINE_TUNING)):
        metrics[f"{name}_best_psnr_mean"] = round(float(table.groupby(keys)["psnr_mean"].mean().max()), 4)
        metrics[f"{name}_failed_runs"] = int(effects.failed(table, noisy["validation"]["global"]).sum())
    kept = (*PSNR, "report_full", "test_full", "test_per_image", "test_report_full")
    metrics |= {f"final_{name}": final[name] for name in kept if pd.notna(final.get(name))}
    write_json(path, metrics)
    record(path, params, [*table1["run"], *table3["run"], about["run"]])
    return metrics


def render_headline(metrics: dict[str, float]) -> pd.DataFrame:
    """The numbers of `headline` for people: noisy input and final model, on validation and test (dB)."""
    values = [[name, *(metrics.get(key, float("nan")) for key in keys)] for name, keys in HEADLINES.items()]
    return pd.DataFrame(values, columns=["Images", "Validation (dB)", "Test (dB)"])
