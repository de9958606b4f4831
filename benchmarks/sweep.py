"""python -m benchmarks.sweep: the same runs through one worker and through two, in images/s, interleaved."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.training import published_like
from n2nlib import runs, sweep
from n2nlib.files import ROOT
from n2nlib.pairs import build_pairs
from n2nlib.params import load_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8, help="of each side and round")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    changes = {"device": "cpu", "sweep": {"workers": 2}, "pairs": {"train": 400, "validation": 200}}
    params = load_params(ROOT / "params" / "laptop.yaml", changes)
    wall = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="n2n-benchmark-") as temporary, sweep.client(params, 2) as client:
        folder = Path(temporary)
        card = build_pairs(params, folder / "pairs", say=lambda text: None)
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        base = published_like(params, params.model.width).model_copy(update={"epochs": 2})
        for number in range(arguments.rounds + 1):  # the first round warms the workers up
            for count in (1, 2):
                stage = folder / f"round{number}" / f"workers{count}"
                several = [base.model_copy(update={"seed": seed}) for seed in range(arguments.runs if number else 2)]
                started = time.monotonic()
                futures = [
                    client.submit(sweep.train_on_worker, stage, run, str(folder / "pairs"), card["hash"], params, 1, workers=workers[:count], pure=False)
                    for run in several
                ]
                client.gather(futures)
                if number:
                    wall[count].append(time.monotonic() - started)
    images = arguments.runs * runs.images_of(base, params.pairs.train)
    rate = {count: images / min(seconds) for count, seconds in wall.items()}
    result = {"images_per_s_1": round(rate[1], 1), "images_per_s_2": round(rate[2], 1), "ratio": round(rate[2] / rate[1], 3)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
