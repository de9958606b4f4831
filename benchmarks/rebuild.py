"""python -m benchmarks.rebuild [--scale laptop]: seconds of a whole `dvc repro` by stage, and the share spent outside training.

A copy of the tracked files is rebuilt in a temporary folder, from nothing. Training is counted from the line that says what a sweep will
train to the line of its last run.
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
from pathlib import Path

from n2nlib.files import ROOT


def _copy(folder: Path) -> dict[str, str]:
    """Copy the tracked files to `folder`, and return the environment to run them in."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("reports/") and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="laptop")
    arguments = parser.parse_args()
    stages: dict[str, float] = {}
    training, sweep_started = 0.0, None
    with tempfile.TemporaryDirectory(prefix="n2n-benchmark-") as temporary:
        environment = _copy(Path(temporary))
        subprocess.run([sys.executable, "-m", "n2nlib", "scale", arguments.scale], cwd=temporary, env=environment, check=True, stdout=sys.stderr)
        started = time.monotonic()
        process = subprocess.Popen(["dvc", "repro"], cwd=temporary, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        stage, stage_started = None, started
        for line in process.stdout:
            now = time.monotonic()
            print(f"{now - started:7.1f} {line}", end="", file=sys.stderr, flush=True)
            if found := re.match(r"Running stage '(\w+)'", line):
                if stage:
                    stages[stage] = now - stage_started
                stage, stage_started = found[1], now
            elif re.search(r"; \d+ to train \(", line):
                sweep_started = now
            elif (found := re.match(r"\[ *(\d+)/(\d+)\]", line)) and found[1] == found[2] and sweep_started:
                training += now - sweep_started
                sweep_started = None
        whole = time.monotonic() - started
        stages[stage] = time.monotonic() - stage_started
        if process.wait():
            raise SystemExit("dvc repro failed")
    result = {
        "scale": arguments.scale,
        "seconds": round(whole, 1),
        "stages": {name: round(seconds, 1) for name, seconds in stages.items()},
        "training_seconds": round(training, 1),
        "outside_training": round(1 - training / whole, 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
