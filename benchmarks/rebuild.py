"""python -m benchmarks.rebuild [--scale laptop]: how long a whole `dvc repro` takes, and what takes it.

The working tree without its results is copied to a temporary folder and rebuilt there from nothing. Read
`seconds`, the same by stage, and `outside_training`, the share of the time in which no sweep trains. A sweep
counts from the line that says what it will train to the line of its last run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from n2nlib.files import ROOT


def breakdown(lines: Iterable[tuple[float, str]], end: float) -> dict[str, object]:
    """Seconds of the whole, of each stage and of training.

    `lines` are those of `dvc repro`, each with the seconds after which it came; `end` is when it ended.
    """
    starts: dict[str, float] = {}
    training, sweep_start = 0.0, None
    for now, line in lines:
        if found := re.match(r"Running stage '(\w+)'", line):
            starts[found[1]] = now
        elif re.search(r"; \d+ to train \(", line):
            sweep_start = now
        elif sweep_start is not None and re.match(r"\[(\d+)/\1\]", line):
            training, sweep_start = training + now - sweep_start, None
    ends = [*starts.values(), end][1:]
    stages = {name: round(stop - start, 1) for (name, start), stop in zip(starts.items(), ends, strict=False)}
    result = {"seconds": round(end, 1), "stages": stages, "training_seconds": round(training, 1)}
    return result | {"outside_training": round(1 - training / end, 4)}


def _copy(folder: Path) -> dict[str, str]:
    """Copy the working tree without results to `folder`, and return the environment to run it in."""
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for name in listed.stdout.splitlines():
        result = name == "dvc.lock" or re.match("reports/.+/", name)
        if (ROOT / name).is_file() and not result:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="laptop")
    scale = parser.parse_args(argv).scale
    lines = []
    with tempfile.TemporaryDirectory(prefix="n2n-benchmark-") as temporary:
        where = {"cwd": temporary, "env": _copy(Path(temporary)), "text": True}
        choose = [sys.executable, "-m", "n2nlib", "scale", scale]
        if subprocess.run(choose, stdout=sys.stderr, **where).returncode:
            raise SystemExit(1)  # the command has said why
        started = time.monotonic()
        repro = [sys.executable, "-m", "dvc", "repro"]
        with subprocess.Popen(repro, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **where) as process:
            for line in process.stdout:
                lines.append((time.monotonic() - started, line))
                print(f"{lines[-1][0]:7.1f} {line}", end="", file=sys.stderr, flush=True)
        end = time.monotonic() - started
        if process.returncode:
            raise SystemExit("dvc repro failed")
    print(json.dumps({"scale": scale} | breakdown(lines, end)))


if __name__ == "__main__":
    main()
