"""The networks that the report's authors published, evaluated with this library, and how our Table I agrees.

Their public repository holds the weights of the networks of Table I as state dicts. They are read with
`weights_only`, so that no code in a file can run, and mapped onto `Network`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from n2nlib.experiments import effects, published
from n2nlib.experiments.effects import SOURCES
from n2nlib.experiments.paper_runs import ABLATION
from n2nlib.files import UserError, relative
from n2nlib.metrics import psnr_full, summarize
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Evaluation
from n2nlib.train.evaluate import errors
from n2nlib.train.network import Network

NAME = re.compile(r"(L1|MSE)_(Adam|SGD)_(yes|no)_sharp_(yes|no)_crops_(\d+)epochs")
TAU = 1.0  # the factor of the report's networks that sharpen
PROTOCOL = Evaluation(repeats=100)  # of section III-A


def layers(arch: str) -> dict[str, str]:
    """Layer of the authors' network -> layer of `Network`, each with a weight and a bias."""
    found = {"enc_conv0": "encoder.0.0.0", "enc_conv1": "encoder.0.1.0"}
    found |= {f"enc_conv{level + 1}": f"encoder.{level}.0" for level in range(1, 5)}
    found |= {"enc_conv6": "bottom.0", "dec_conv1": "last"}
    for level in range(5):
        found |= {f"dec_conv{5 - level}{half}": f"decoder.{level}.{i}.0" for i, half in enumerate("ab")}
        if arch == "tconv":
            found[f"upsample{5 - level}"] = f"up.{level}"
    return {theirs: f"unet.{ours}" for theirs, ours in found.items()}


def read_network(path: Path, sharpen: bool) -> Network:
    """The network of a state dict of the authors; whether it upsamples with TConv shows in its layers.

    Raises `UserError` naming the file if it is damaged or holds anything but these weights.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make the reader raise nearly anything
        reason = str(error).split("\n")[0]
        raise UserError(f"{relative(path)}: not a PyTorch file of weights alone ({reason})") from error
    named = isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())
    if not named:
        raise UserError(f"{relative(path)}: holds no state dict; allowed: tensors by name")
    arch = "tconv" if "upsample5.weight" in state else "upsample"
    network = Network(published.WIDTH, arch, TAU if sharpen else 0.0)
    renamed = {}
    for theirs, ours in layers(arch).items():
        for part in ("weight", "bias"):
            renamed[f"{ours}.{part}"] = state.pop(f"{theirs}.{part}", torch.empty(0))
    wanted = network.state_dict()
    wrong = [name for name, tensor in renamed.items() if tensor.shape != wanted[name].shape]
    if wrong or state:
        some = ", ".join(map(str, [*wrong, *state][:3]))
        raise UserError(f"{relative(path)}: its layers are not those of the report's network ({some})")
    if not all(torch.isfinite(tensor).all() for tensor in renamed.values()):
        raise UserError(f"{relative(path)}: holds weights that are not finite")
    network.load_state_dict(renamed)
    return network.eval().to(memory_format=torch.channels_last)


def read_setting(path: Path) -> dict[str, object] | None:
    """Setting of Table I and epochs, from the name of a file or of its folder; None if neither names one."""
    found = NAME.fullmatch(path.stem) or NAME.fullmatch(path.parent.name)
    if found is None:
        return None
    loss, optimizer, sharpen, crops, epochs = found.groups()
    setting = {"loss": loss.lower(), "optimizer": optimizer.lower()}
    return setting | {"sharpen": sharpen == "yes", "crops": crops == "yes", "epochs": int(epochs)}


def evaluate(folder: Path | str, pairs: PairSet) -> pd.DataFrame:
    """Evaluate the authors' networks in `folder` and below, as trained and as the report evaluated (dB).

    A file is named like L1_Adam_no_sharp_no_crops_20epochs.pth, or lies in a folder of that name, as in their
    repository. A row for each network and split ("validation" and, if there is one, "test"): loss, optimizer,
    sharpen, crops, arch, epochs, split, psnr_mean, psnr_std, psnr_full, psnr_per_image, report_mean,
    report_std, report_full. Raises `UserError` if there is no such file, or naming a file that is not such a
    network.
    """
    folder = Path(folder)
    settings = {path: read_setting(path) for path in sorted(folder.rglob("*.pth"))}
    settings = {path: setting for path, setting in settings.items() if setting is not None}
    if not settings:
        raise UserError(
            f"{relative(folder)}: no file named like L1_Adam_no_sharp_no_crops_20epochs.pth in it or below"
        )
    splits = {"validation": pairs.validation} | ({"test": pairs.test} if pairs.test else {})
    rows = []
    for path, setting in settings.items():
        network = read_network(path, setting["sharpen"])
        for split, versions in splits.items():
            found = errors(network, versions["noisy_1"], versions["clean"].numpy())
            row = setting | {"arch": network.config["arch"], "split": split}
            row |= summarize(found["mse"], PROTOCOL, 0)
            as_report = summarize(found["mse_report"], PROTOCOL, 0)
            row |= {"report_mean": as_report["psnr_mean"], "report_std": as_report["psnr_std"]}
            rows.append(row | {"report_full": psnr_full(found["mse_report"])})
    first = [*ABLATION, "epochs", "split"]
    table = pd.DataFrame(rows)
    return table[[*first, *table.columns.difference(first, sort=False)]]


def references() -> dict[str, pd.DataFrame]:
    """What Table I can be compared with: name -> setting and `psnr` (dB) of up to 32 networks."""
    evaluated, networks = (
        table[table["epochs"] == published.EPOCHS["ablation"]]
        for table in (published.authors_evaluations(), published.authors_networks())
    )
    columns = {
        "the report's Table I": (published.table1(), "psnr_mean"),
        "the authors, 2022-04-20, as trained": (evaluated, "psnr_2022_04_20"),
        "the authors, 2022-04-27, as trained": (evaluated, "psnr_2022_04_27"),
        "the authors, 2022-05-11, as the report evaluated": (evaluated, "psnr_2022_05_11"),
        "the authors' networks by us, as trained": (networks, "psnr_full"),
        "the authors' networks by us, as the report evaluated": (networks, "report_full"),
    }
    return {
        name: table[[*ABLATION, value]].rename(columns={value: "psnr"}).dropna()
        for name, (table, value) in columns.items()
    }


def agreement(table1: pd.DataFrame) -> pd.DataFrame:
    """How our Table I, by both evaluations, agrees with each of `references`, in all cells and for each arch.

    A setting is represented by its median over seeds, so a failed run moves it little. Columns: reference,
    source (which evaluation of ours), arch ("all", "tconv", "upsample"), cells (settings that both have), tau
    (Kendall's) with its bootstrap interval low and high, and mean_abs_diff (dB). NaN: fewer than three cells.
    """
    rows = []
    for source, value in SOURCES.items():
        if value not in table1:
            continue
        ours = table1.groupby(ABLATION, as_index=False)[value].median()
        for reference, theirs in references().items():
            both = ours.merge(theirs, on=ABLATION)
            for arch in ("all", "tconv", "upsample"):
                cells = both if arch == "all" else both[both["arch"] == arch]
                row = {"reference": reference, "source": source, "arch": arch, "cells": len(cells)}
                if len(cells) > 2:
                    limits = effects.rank_agreement(cells[value], cells["psnr"])
                    row |= dict(zip(("tau", "low", "high"), limits, strict=True))
                    row["mean_abs_diff"] = float((cells[value] - cells["psnr"]).abs().mean())
                rows.append(row)
    columns = ["reference", "source", "arch", "cells", "tau", "low", "high", "mean_abs_diff"]
    return pd.DataFrame(rows, columns=columns)
