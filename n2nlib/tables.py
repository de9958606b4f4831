"""Tidy frames -> CSV with fixed columns, rendered tables for people, and the provenance beside each."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd

from n2nlib import published
from n2nlib.evaluation import subset_psnr
from n2nlib.experiments import ABLATION, FINE_TUNING, Planned
from n2nlib.files import ROOT, UserError, read_json, relative, replacing, write_json, write_text
from n2nlib.pairs import PairSet
from n2nlib.params import Params
from n2nlib.runs import Result

RESULTS = ["psnr_mean", "psnr_std", "psnr_full", "psnr_per_image"]  # dB
COLUMNS = {
    "table1_ablation": ["loss", "optimizer", "sharpen", "crops", "arch", "seed", *RESULTS, "run"],
    "table2_candidates": ["candidate", "arch", "loss", "optimizer", "sharpen", "crops"],
    "table3_fine_tuning": ["sigma_n", "tau_sharp", "lr0", "annealing_steps", "seed", *RESULTS, "run"],
    "baselines": ["method", "psnr_full", "psnr_per_image", "psnr_hvs_m", "ssim"],
    "claims": ["claim", "statement", "published", "ours", "ci_low", "ci_high", "verdict"],
    "curves": ["candidate", "epoch", "psnr_mean", "psnr_std", "train_loss"],
}
EXACT = {"sigma_n", "tau_sharp", "lr0", "learning_rate"}  # what was asked for, not measured
MARK = {True: "✓", False: "✗"}
LOSS = {"l1": "L1", "mse": "MSE"}
OPTIMIZER = {"adam": "Adam", "sgd": "SGD"}
TWIN = "the same network, trained on clean targets"
ARCH = {"tconv": "TConv", "upsample": "Upsample"}


def collect(planned: list[Planned], results: list[Result], params: Params) -> pd.DataFrame:
    """A row a run: what describes it, its four PSNR columns (dB), its name, and whether it diverged."""
    rows = [one.row | result.metrics(params) | {"run": result.about["run"], "diverged": result.diverged} for one, result in zip(planned, results, strict=True)]
    return pd.DataFrame(rows)


def collect_curves(planned: list[Planned], results: list[Result], params: Params) -> pd.DataFrame:
    """A row a candidate, seed and epoch: psnr_mean and psnr_std (dB) of the validation after it, and the training loss."""
    rows = []
    for one, result in zip(planned, results, strict=True):
        for mse, epoch in zip(result.validation["mse"], result.history.to_dict("records"), strict=True):
            mean, std = subset_psnr(mse, params.evaluation, params.seed)
            rows.append(one.row | {"epoch": int(epoch["epoch"]), "psnr_mean": mean, "psnr_std": std, "train_loss": epoch["train_loss"]})
    return pd.DataFrame(rows)


def collect_measures(results: list[Result], params: Params) -> pd.DataFrame:
    """A row a run, each run once: psnr_full, psnr_per_image, psnr_hvs_m (dB), ssim, all of the whole validation set after the last epoch."""
    rows = []
    for result in {result.about["run"]: result for result in results}.values():
        psnr = result.metrics(params)
        rows.append({"run": result.about["run"]} | {name: psnr[name] for name in ("psnr_full", "psnr_per_image")} | result.measures)
    return pd.DataFrame(rows)


def collect_references(baselines: pd.DataFrame, final: dict[str, float], twin: list[Result], params: Params) -> pd.DataFrame:
    """What a result is to be read against: the classical methods, the final model, and its twin on clean targets; columns of baselines.csv."""
    rows = [{"method": "final model"} | final]
    rows += [{"method": TWIN} | result.metrics(params) | result.measures for result in twin]
    return pd.concat([baselines, pd.DataFrame(rows)[list(baselines.columns)]], ignore_index=True)


def provenance(params: Params, runs: list[str]) -> dict[str, object]:
    """What a table or figure came from: scale, hash of the parameters, commit, runs."""
    return {"scale": params.scale, "parameters": params.hash, "commit": commit(), "runs": sorted(set(runs))}


def commit() -> str:
    """The commit of the code, with " (modified)" if the tree differs from it in more than results and parameters; "unknown" outside of git.

    The parameters have a hash of their own beside it.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = [*git, "status", "--porcelain", "--", ".", ":(exclude,glob)reports/*/**", ":!params.yaml", ":!dvc.lock", ":!README.md"]
        changed = subprocess.run(changes, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} (modified)" if changed else head


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` as a file of it reads: what was measured to 4 decimals."""
    return frame.round({column: 4 for column in frame.select_dtypes("floating").columns if column not in EXACT})


def save(frame: pd.DataFrame, name: str, params: Params, runs: list[str], rendered: pd.DataFrame | None = None) -> Path:
    """Write reports/<scale>/tables/<name>.csv (what was measured to 4 decimals), <name>.json (provenance) and, if given, the rendered <name>.md."""
    path = params.reports / "tables" / f"{name}.csv"
    columns = COLUMNS.get(name, list(frame.columns))
    extra = ["seed"] if name == "curves" and "seed" in frame and frame["seed"].nunique() > 1 else []
    frame = rounded(frame[columns + extra])
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    sidecar = provenance(params, runs)
    write_json(path.with_suffix(".json"), {"table": path.name} | sidecar)
    if rendered is not None:
        footer = f"Scale {params.scale}; parameters {params.hash[:12]}; commit {sidecar['commit']}; {len(sidecar['runs'])} runs in {name}.json."
        write_text(path.with_suffix(".md"), f"{rendered.to_markdown(index=False)}\n\n{footer}\n")
    return path


def load(name: str, params: Params) -> pd.DataFrame:
    """A table of this scale. Raises `UserError` that names the notebook to run if it is missing."""
    path = params.reports / "tables" / f"{name}.csv"
    written_by = {
        "02_architecture": ("network_costs",),
        "03_ablation": ("ablation",),
        "05_fine_tuning": ("fine_tuning",),
        "06_discussion": ("section4", "interactions", "claims", "claims_without_dead"),
        "07_beyond": ("beyond", "references"),
    }
    stage = next((notebook for notebook, parts in written_by.items() if name.endswith(parts)), "04_candidate_curves")
    if not path.is_file():
        raise UserError(f"{relative(path)}: missing; run notebook {stage} first (or everything: dvc repro)")
    return pd.read_csv(path)


def _value(mean: float, std: float, bold: bool, diverged: bool) -> str:
    text = f"{mean:.2f} ± {std:.2f}"
    return (f"**{text}**" if bold else text) + (" diverged" if diverged else "")


def means(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row a setting: PSNR and evaluation spread averaged over seeds, the spread between seeds, the rank (1 is best)."""
    frame = frame.assign(diverged=frame.get("diverged", False))
    groups = frame.groupby(keys, sort=False)
    means = groups.agg(psnr_mean=("psnr_mean", "mean"), psnr_std=("psnr_std", "mean"), diverged=("diverged", "any"))
    if "seed" in frame and frame["seed"].nunique() > 1:
        means["seed_std"] = groups["psnr_mean"].std(ddof=1)
    means["rank"] = means["psnr_mean"].rank(ascending=False, method="first")
    return means.reset_index()


def render_wide(frame: pd.DataFrame, keys: list[str], wide: str, names: dict, theirs: pd.DataFrame) -> pd.DataFrame:
    """A table as the paper prints it: a row for each setting of `keys`, a column for each value of `wide`, ours beside the published.

    Values are "mean ± evaluation spread" in dB, the three best bold; with several seeds a column shows the spread between them.
    """
    ours, paper = means(frame, [*keys, wide]), means(theirs, [*keys, wide])
    rows = []
    for key, group in ours.groupby(keys, sort=False):
        key = key if isinstance(key, tuple) else (key,)
        row = dict(zip(keys, key, strict=True))
        for value, label in names.items():
            own = group[group[wide] == value]
            if len(own):
                one = own.iloc[0]
                row[f"{label} (dB)"] = _value(one.psnr_mean, one.psnr_std, one["rank"] <= 3, one.diverged)
                if "seed_std" in ours:
                    row[f"{label} seeds"] = f"± {one.seed_std:.2f}"
            match = paper[(paper[keys] == list(key)).all(axis=1) & (paper[wide] == value)]
            row[f"{label} published"] = _value(*match.iloc[0][["psnr_mean", "psnr_std", "rank"]].pipe(_ranked)) if len(match) else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def _ranked(row: pd.Series) -> tuple[float, float, bool, bool]:
    return row["psnr_mean"], row["psnr_std"], row["rank"] <= 3, False


def render_table1(table1: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """Table I beside the published one, and below it what needs no training, on the full validation set."""
    wide = render_wide(table1, [key for key in ABLATION if key != "arch"], "arch", ARCH, published.table1())
    wide = wide.assign(loss=wide.loss.map(LOSS), optimizer=wide.optimizer.map(OPTIMIZER), sharpen=wide.sharpen.map(MARK), crops=wide.crops.map(MARK))
    wide = wide.rename(columns={"loss": "Loss", "optimizer": "Optim", "sharpen": "Sharp", "crops": "Crop"})
    group = pd.DataFrame({"Loss": baselines["method"], wide.columns[4]: baselines["psnr_full"].map("{:.2f}".format)})
    return pd.concat([wide, group], ignore_index=True).fillna("")


def render_table2(candidates: pd.DataFrame) -> pd.DataFrame:
    """Table II in words."""
    return pd.DataFrame(
        {
            "Notation": [f"Candidate {number}" for number in candidates["candidate"]],
            "Arch": candidates["arch"].map(ARCH),
            "Loss": candidates["loss"].map(LOSS),
            "Optim": candidates["optimizer"].map(OPTIMIZER),
            "Sharp": candidates["sharpen"].map(MARK),
            "Crop": candidates["crops"].map(MARK),
        }
    )


def render_table3(table3: pd.DataFrame) -> pd.DataFrame:
    """Table III beside the published one."""
    steps = sorted(table3["annealing_steps"].unique())
    names = {step: {0: "no annealing", 1: "1 step"}.get(step, f"{step} steps") for step in steps}
    wide = render_wide(table3, ["sigma_n", "tau_sharp", "lr0"], "annealing_steps", names, published.table3())
    return wide.rename(columns={"sigma_n": "σ_n", "tau_sharp": "τ_sharp", "lr0": "lr₀"})


def shared_by(rows: pd.DataFrame) -> str:
    """What all of some runs of Table I have in common, "all Upsample, L1, SGD"; "nothing in common" where that is so."""
    names = {"arch": ARCH, "loss": LOSS, "optimizer": OPTIMIZER}
    shared = [words[rows[key].iloc[0]] for key, words in names.items() if rows[key].nunique() == 1]
    return f"all {', '.join(shared)}" if shared else "nothing in common"


def candidate_labels(candidates: pd.DataFrame) -> list[str]:
    """ "1: Upsample, MSE, Adam, sharp" for each row of Table II."""
    labels = []
    for row in candidates.itertuples():
        words = [ARCH[row.arch], LOSS[row.loss], OPTIMIZER[row.optimizer]] + ["sharp"] * bool(row.sharpen) + ["crops"] * bool(row.crops)
        labels.append(f"{row.candidate}: {', '.join(words)}")
    return labels


def final_psnr(params: Params) -> float:
    """Global PSNR (dB) of this scale's final model on the full validation set."""
    return final_metrics(params)["psnr_full"]


def final_metrics(params: Params) -> dict[str, float]:
    """The four PSNR columns, psnr_hvs_m (dB) and ssim of this scale's final model. Raises `UserError` if there is none."""
    return read_json(params.reports / "model" / "final.json")["metrics"]


def headline(params: Params, pairs: PairSet, table1: pd.DataFrame, table3: pd.DataFrame) -> dict[str, float | int]:
    """Write reports/<scale>/metrics.json, the numbers that `dvc metrics show` prints (dB; the best setting's is its mean over seeds), and return them."""
    noisy = pairs.card["noisy_psnr_db"]["validation"]
    final = final_metrics(params)
    metrics = {
        "noisy_psnr_full": noisy["global"],
        "noisy_psnr_per_image": noisy["per_image"],
        "table1_best_psnr_mean": round(float(means(table1, ABLATION)["psnr_mean"].max()), 4),
        "table1_runs_below_noisy": int((table1["psnr_full"] < noisy["global"]).sum()),
        "table3_best_psnr_mean": round(float(means(table3, FINE_TUNING)["psnr_mean"].max()), 4),
        "final_psnr_mean": final["psnr_mean"],
        "final_psnr_std": final["psnr_std"],
        "final_psnr_full": final["psnr_full"],
        "final_psnr_per_image": final["psnr_per_image"],
    }
    write_json(params.reports / "metrics.json", metrics)
    return metrics
