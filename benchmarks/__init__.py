"""Measurements of speed and of training recipes; each module is a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import pandas as pd

from n2nlib.experiments import paper_runs
from n2nlib.files import ROOT, UserError, replacing
from n2nlib.params import Params, load_params
from n2nlib.train.identity import RunParams

RECORDS = ROOT / "benchmarks" / "records"  # what the searches found; their runs are in data/runs


def scale_parser(
    about: str | None, default: str, scales: Collection[str] | None = None
) -> argparse.ArgumentParser:
    """The options of a command that trains at one of `scales` (None: any); see `scale_params`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--scale", default=default, choices=scales)
    parser.add_argument("--photos", help="folder of photographs with train/ and val/")
    parser.add_argument("--workers", type=int, help="trainings at a time")
    return parser


def scale_params(options: argparse.Namespace) -> Params:
    """The parameters that the options of `scale_parser` ask for."""
    changes: dict[str, dict[str, object]] = {"sweep": {"workers": options.workers}}
    if options.photos:
        changes["pairs"] = {"source": "folder", "path": str(Path(options.photos).resolve())}
    return load_params(ROOT / "params" / f"{options.scale}.yaml", changes)


def run_without_crops(params: Params, setting: dict[str, object], **changes: object) -> RunParams:
    """The run that Table I has for a setting (arch, loss, optimizer, sharpen), with `changes`; seed 0."""
    setting = setting | {"crops": False}
    schedule = paper_runs.schedule_of(params.ablation, setting) | {"seed": 0}
    return paper_runs.run_params(params, setting, **(schedule | changes))


def command(main: Callable[[], None]) -> None:
    """Run `main`. A user's mistake gives one message on standard error and exit status 1, no traceback."""
    try:
        main()
    except UserError as error:
        sys.exit(f"n2n: {error}")


def write_record(table: pd.DataFrame, name: str) -> None:
    """Write benchmarks/records/<name>.csv, whole or not at all."""
    with replacing(RECORDS / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
