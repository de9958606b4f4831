"""Tidy frames -> CSV with fixed columns, rendered tables for people, and the provenance beside each."""

from __future__ import annotations

import pandas as pd

from n2nlib.experiments.effects import PERCENT

MARK = {True: "✓", False: "✗"}


LOSS = {"l1": "L1", "mse": "MSE"}


OPTIMIZER = {"adam": "Adam", "sgd": "SGD"}


ARCH = {"tconv": "TConv", "upsample": "Upsample"}


def shared_by(rows: pd.DataFrame) -> str:
    """What all of some runs of Table I have in common, "all Upsample, L1, SGD"; "nothing in common" where that is so."""
    names = {"arch": ARCH, "loss": LOSS, "optimizer": OPTIMIZER}
    shared = [words[rows[key].iloc[0]] for key, words in names.items() if rows[key].nunique() == 1]
    return f"all {', '.join(shared)}" if shared else "nothing in common"


def candidate_labels(candidates: pd.DataFrame) -> list[str]:
    """ "1: Upsample, MSE, Adam, sharp" for each row of Table II."""
    labels = []
    for row in candidates.itertuples():
        words = (
            [ARCH[row.arch], LOSS[row.loss], OPTIMIZER[row.optimizer]]
            + ["sharp"] * bool(row.sharpen)
            + ["crops"] * bool(row.crops)
        )
        labels.append(f"{row.candidate}: {', '.join(words)}")
    return labels


def signed(value: float) -> str:
    """ "+0.12", "−0.12", "0.00"."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def one_sentence(effects: pd.DataFrame) -> str:
    """What the intervals of some effects (columns what, mean, low, high, pairs) establish, and what not."""
    if effects.empty:
        return "Left out at this scale."
    if (effects["pairs"] == 1).all():
        return "One seed: no interval, so no verdict."
    kinds = {
        "Better": effects[effects["low"] > 0],
        "Worse": effects[effects["high"] < 0],
        "No difference established": effects[~((effects["low"] > 0) | (effects["high"] < 0))],
    }
    parts = [
        f"{kind}: " + ", ".join(f"{row.what} ({signed(row.mean)} dB)" for row in rows.itertuples())
        for kind, rows in kinds.items()
        if len(rows)
    ]
    return "**" + ". ".join(parts) + ".**"


def sentences(effects: pd.DataFrame) -> list[str]:
    """A line of Markdown an effect (columns what, source, and those of `Effect`): whether the interval leaves out zero; none for a single pair."""
    lines = []
    for what, rows in effects.groupby("what", sort=False):
        parts = []
        for row in rows.itertuples():
            verdict = "better" if row.low > 0 else "worse" if row.high < 0 else "no difference established"
            interval = f"{PERCENT} [{signed(row.low)}, {signed(row.high)}], {row.same_sign} of {row.pairs} pairs agree"
            if row.pairs == 1:
                verdict, interval = "one pair, so no interval", "no verdict"
            error = f" ± {row.standard_error:.2f}" if row.pairs > 1 else ""
            parts.append(f"{row.source} {signed(row.mean)}{error} dB, {verdict} ({interval})".strip())
        lines.append(f"- **{what}**: " + "; ".join(parts) + ".")
    return lines


def selection_sentence(chosen: pd.DataFrame) -> str:
    """What `selection` found, in a sentence a set of runs."""
    lines = []
    for row in chosen.itertuples():
        costs = [
            f"{name} {f'chooses another run, {cost:.2f} dB lower' if cost > 0 else 'chooses the same run'}"
            for name, cost in (("PSNR-HVS-M", row.psnr_hvs_m_costs), ("SSIM", row.ssim_costs))
        ]
        lines.append(
            f"- **{row.runs}** ({row.count} runs): {costs[0]}, {costs[1]}; it ranks them with τ = {row.psnr_hvs_m_tau:.2f} "
            f"[{row.psnr_hvs_m_low:.2f}, {row.psnr_hvs_m_high:.2f}] (PSNR-HVS-M) and {row.ssim_tau:.2f} [{row.ssim_low:.2f}, {row.ssim_high:.2f}] (SSIM)."
        )
    return "\n".join(lines)


def changes(weighed: pd.DataFrame, alive: pd.DataFrame, dead: int) -> str:
    """Which verdicts of `weighed` are others in `alive`, the same without the `dead` runs of Table I, in a sentence; "" where none died."""
    if not dead:
        return ""
    both = weighed.merge(alive[["claim", "verdict"]], on="claim", suffixes=("", "_alive"))
    changed = both[both["verdict"] != both["verdict_alive"]]
    runs = f"Without the {dead} run{'s' if dead > 1 else ''} of Table I whose output died"
    if changed.empty:
        return f"{runs} no verdict changes."
    listed = "; ".join(
        f"{row.claim.replace('_', ' ')}: {row.verdict_alive} instead of {row.verdict}"
        for row in changed.itertuples()
    )
    return f"{runs} {len(changed)} verdict{'s change' if len(changed) > 1 else ' changes'}: {listed}."
