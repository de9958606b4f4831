"""Tidy frames -> CSV with fixed columns, rendered tables for people, and the provenance beside each."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd

from n2nlib.experiments import published
from n2nlib.experiments.paper_runs import ABLATION, FINE_TUNING
from n2nlib.experiments.results import means, rounded
from n2nlib.files import ROOT, UserError, read_json, relative, replacing, write_json, write_text
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.report.wording import ARCH, LOSS, MARK, OPTIMIZER

RESULTS = ["psnr_mean", "psnr_std", "psnr_full", "psnr_per_image"]  # dB


COLUMNS = {
    "table1_ablation": ["loss", "optimizer", "sharpen", "crops", "arch", "seed", *RESULTS, "run"],
    "table2_candidates": ["candidate", "arch", "loss", "optimizer", "sharpen", "crops"],
    "table3_fine_tuning": ["sigma_n", "tau_sharp", "lr0", "annealing_steps", "seed", *RESULTS, "run"],
    "baselines": ["method", "psnr_full", "psnr_per_image", "psnr_hvs_m", "ssim"],
    "claims": ["claim", "statement", "published", "ours", "ci_low", "ci_high", "verdict"],
    "curves": ["candidate", "epoch", "psnr_mean", "psnr_std", "train_loss"],
}


def provenance(params: Params, runs: list[str]) -> dict[str, object]:
    """What a table or figure came from: scale, hash of the parameters, commit, runs."""
    return {"scale": params.scale, "parameters": params.hash, "commit": commit(), "runs": sorted(set(runs))}


def commit() -> str:
    """The commit of the code, with " (modified)" if the tree differs from it in more than results and parameters; "unknown" outside of git.

    The parameters have a hash of their own beside it.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = [
            *git,
            "status",
            "--porcelain",
            "--",
            ".",
            ":(exclude,glob)reports/*/**",
            ":!params.yaml",
            ":!dvc.lock",
            ":!README.md",
        ]
        changed = subprocess.run(changes, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} (modified)" if changed else head


def save(
    frame: pd.DataFrame, name: str, params: Params, runs: list[str], rendered: pd.DataFrame | None = None
) -> Path:
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
    stage = next(
        (notebook for notebook, parts in written_by.items() if name.endswith(parts)), "04_candidate_curves"
    )
    if not path.is_file():
        raise UserError(f"{relative(path)}: missing; run notebook {stage} first (or everything: dvc repro)")
    return pd.read_csv(path)


def _value(mean: float, std: float, bold: bool, diverged: bool) -> str:
    text = f"{mean:.2f} ± {std:.2f}"
    return (f"**{text}**" if bold else text) + (" diverged" if diverged else "")


def render_wide(
    frame: pd.DataFrame, keys: list[str], wide: str, names: dict, theirs: pd.DataFrame
) -> pd.DataFrame:
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
            row[f"{label} published"] = (
                _value(*match.iloc[0][["psnr_mean", "psnr_std", "rank"]].pipe(_ranked)) if len(match) else "–"
            )
        rows.append(row)
    return pd.DataFrame(rows)


def _ranked(row: pd.Series) -> tuple[float, float, bool, bool]:
    return row["psnr_mean"], row["psnr_std"], row["rank"] <= 3, False


def render_table1(table1: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """Table I beside the published one, and below it what needs no training, on the full validation set."""
    wide = render_wide(table1, [key for key in ABLATION if key != "arch"], "arch", ARCH, published.table1())
    wide = wide.assign(
        loss=wide.loss.map(LOSS),
        optimizer=wide.optimizer.map(OPTIMIZER),
        sharpen=wide.sharpen.map(MARK),
        crops=wide.crops.map(MARK),
    )
    wide = wide.rename(columns={"loss": "Loss", "optimizer": "Optim", "sharpen": "Sharp", "crops": "Crop"})
    group = pd.DataFrame(
        {"Loss": baselines["method"], wide.columns[4]: baselines["psnr_full"].map("{:.2f}".format)}
    )
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


def final_psnr(params: Params) -> float:
    """Global PSNR (dB) of this scale's final model on the full validation set."""
    return final_metrics(params)["psnr_full"]


def final_metrics(params: Params) -> dict[str, float]:
    """The four PSNR columns, psnr_hvs_m (dB) and ssim of this scale's final model. Raises `UserError` if there is none."""
    return read_json(params.reports / "model" / "final.json")["metrics"]


def headline(
    params: Params, pairs: PairSet, table1: pd.DataFrame, table3: pd.DataFrame
) -> dict[str, float | int]:
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
