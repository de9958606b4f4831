"""The networks that the report's authors published, evaluated with this library, and how our Table I agrees.

Their public repository holds the weights of the networks of Table I as state dicts. They are read with
`weights_only`, so that no code in a file can run, and mapped onto `Network`.
"""

from __future__ import annotations

import re
import zipfile
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from n2nlib.experiments import effects, published
from n2nlib.experiments.effects import AS_REPORT, AS_TRAINED, EVALUATIONS
from n2nlib.experiments.paper_runs import ABLATION
from n2nlib.files import UserError, relative, replacing
from n2nlib.metrics import psnr_full
from n2nlib.pairs.pair_set import PairSet
from n2nlib.train.evaluate import REPORT_TAU, errors
from n2nlib.train.network import Network

NAME = re.compile(r"(L1|MSE)_(Adam|SGD)_(yes|no)_sharp_(yes|no)_crops_(\d+)epochs")
REFERENCES = {  # column of `published_networks` -> what it is, in words
    "printed": "the report's Table I",
    "psnr_2022_04_20": "the authors, 2022-04-20, as trained",
    "psnr_2022_04_27": "the authors, 2022-04-27, as trained",
    "psnr_2022_05_11": "the authors, 2022-05-11, with the report's evaluation",
    "psnr_full": "the authors' networks, evaluated by us, as trained",
    "report_full": "the authors' networks, evaluated by us, with the report's evaluation",
}
BESIDE = {  # the columns of `published_networks` that `side_by_side` shows, and their names there
    "printed": "printed",  # mean over subsets
    "psnr_2022_04_27": "authors_trained",  # all validation images
    "psnr_2022_05_11": "authors_report",  # the same weights, mean over subsets
    "psnr_full": "theirs_trained",  # these weights on the validation pairs that `published` describes
    "report_full": "theirs_report",
}


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
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if broken := archive.testzip():  # torch compares no checksums
                    raise ValueError(f"its part {broken} is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not all(tensor.is_floating_point() for tensor in state.values()):
            raise ValueError("its weights are no floating-point numbers")  # torch would convert them
        arch = "tconv" if "upsample5.weight" in state else "upsample"
        network = Network(published.WIDTH, arch, REPORT_TAU if sharpen else 0.0)
        names = {f"{a}.{part}": f"{b}.{part}" for a, b in layers(arch).items() for part in ("weight", "bias")}
        network.load_state_dict({names.get(name, name): tensor for name, tensor in state.items()})
    except Exception as error:  # a foreign file can make the reader raise nearly anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{relative(path)}: not the weights of a network of the report ({reason})") from error
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
        raise UserError(f"{relative(path)}: holds weights that are not finite")
    return network.eval().to(memory_format=torch.channels_last)


def read_setting(path: Path) -> dict[str, object] | None:
    """Setting of Table I and epochs, from the name of a file or of its folder; None if neither names one."""
    found = NAME.fullmatch(path.stem) or NAME.fullmatch(path.parent.name)
    if found is None:
        return None
    loss, optimizer, sharpen, crops, epochs = found.groups()
    setting = {"loss": loss.lower(), "optimizer": optimizer.lower()}
    return setting | {"sharpen": sharpen == "yes", "crops": crops == "yes", "epochs": int(epochs)}


def evaluate_networks(folder: Path, pairs: PairSet) -> pd.DataFrame:
    """Evaluate the authors' networks in `folder` and below on the validation pairs.

    A file is named like L1_Adam_no_sharp_no_crops_20epochs.pth, or lies in a folder of that name, as in their
    repository. The columns are those of `published.authors_networks`. Raises `UserError` if there is no such
    file, or naming a file that is not such a network.
    """
    settings = {path: setting for path in sorted(folder.rglob("*.pth")) if (setting := read_setting(path))}
    if not settings:
        raise UserError(
            f"{relative(folder)}: no file named like L1_Adam_no_sharp_no_crops_20epochs.pth in it or below"
        )
    noisy, clean = pairs.validation["noisy_1"], pairs.validation["clean"].numpy()
    rows = []
    for path, setting in settings.items():
        network = read_network(path, setting["sharpen"])
        found = errors(network, noisy, clean)
        measured = {"psnr_full": psnr_full(found["mse"]), "report_full": psnr_full(found["mse_report"])}
        rows.append(setting | {"arch": network.config["arch"]} | measured)
    keys = [*ABLATION, "epochs"]
    return pd.DataFrame(rows)[[*keys, "psnr_full", "report_full"]].sort_values(keys, ignore_index=True)


def write_networks(table: pd.DataFrame, path: Path) -> None:
    """Write a table of `evaluate_networks` as authors_networks.csv is written; dB to four decimals."""
    lower = {name: table[name].map({True: "true", False: "false"}) for name in ("sharpen", "crops")}
    with replacing(path) as temporary:
        table.round(4).assign(**lower).to_csv(temporary, index=False, lineterminator="\n")


def published_networks() -> pd.DataFrame:
    """What is published about the networks of Table I, and our evaluation of them: a row for each setting.

    Columns: `ABLATION`, and those of `REFERENCES` in dB, NaN where a value or the weights are not published.
    """
    evaluated, networks = (
        table[table["epochs"] == published.EPOCHS["ablation"]]
        for table in (published.authors_evaluations(), published.authors_networks())
    )
    printed = published.table1().rename(columns={"psnr_mean": "printed"})
    tables = [table.set_index(ABLATION) for table in (printed, evaluated, networks)]
    return pd.concat(tables, axis=1)[list(REFERENCES)].sort_index().reset_index()


def side_by_side(table1: pd.DataFrame) -> pd.DataFrame:
    """authors.csv: what the report prints, the authors' networks by them and by us, and our own networks.

    A row for each setting of the report's Table I: `ABLATION`, and global PSNRs in dB: those of `BESIDE`, and
    ours_trained and ours_report, means over subsets and seeds of `table1` (a row for each run), failed runs
    included. NaN: not published, or not trained at this scale.
    """
    ours = table1.groupby(ABLATION)[[AS_TRAINED, AS_REPORT]].mean()
    ours.columns = ["ours_trained", "ours_report"]
    theirs = published_networks()[[*ABLATION, *BESIDE]].rename(columns=BESIDE)
    return theirs.merge(ours, "left", ABLATION)


def agreement(table1: pd.DataFrame) -> pd.DataFrame:
    """How our Table I, by both evaluations, agrees with each of `REFERENCES`.

    A setting is represented by its median over seeds, so a failed run moves it little. Columns: reference,
    source (which evaluation of ours), arch ("all", "tconv", "upsample"), cells (settings that both have), tau
    (Kendall's) with its bootstrap interval low and high, and mean_abs_diff (dB). NaN: fewer than three cells.
    """
    rows = []
    for source, value in EVALUATIONS.items():
        ours = table1.groupby(ABLATION, as_index=False)[value].median()
        both = ours.merge(published_networks(), on=ABLATION)
        for (column, reference), arch in product(REFERENCES.items(), ("all", "tconv", "upsample")):
            cells = both[both[column].notna() & ((both["arch"] == arch) | (arch == "all"))]
            row = {"reference": reference, "source": source, "arch": arch, "cells": len(cells)}
            if len(cells) > 2:
                limits = effects.rank_agreement(cells[value], cells[column])
                row |= dict(zip(("tau", "low", "high"), limits, strict=True))
                row["mean_abs_diff"] = float((cells[value] - cells[column]).abs().mean())
            rows.append(row)
    columns = ["reference", "source", "arch", "cells", "tau", "low", "high", "mean_abs_diff"]
    return pd.DataFrame(rows, columns=columns)
