"""python -m benchmarks.sweep [--runs 8] [--rounds 2]: what a second worker is worth.

The same runs are trained through a cluster of one worker and a cluster of two, in turns, and stored as a
sweep stores them. Read `ratio`, images per second with two workers over those with one: 2 is ideal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.training import default_run
from n2nlib.files import ROOT
from n2nlib.pairs.pair_set import build_pairs, load_pairs
from n2nlib.params import load_params
from n2nlib.train import sweep
from n2nlib.train.identity import images_of
from n2nlib.train.runs import Planned

WORKERS = (1, 2)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8, help="of each cluster in each round")
    parser.add_argument("--rounds", type=int, default=2, help="the best round is reported")
    parser.add_argument("--pairs", type=int, default=400)
    arguments = parser.parse_args(argv)
    changes = {"device": "cpu", "pairs": {"train": arguments.pairs, "validation": 200, "test": 0}}
    params = load_params(ROOT / "params" / "laptop.yaml", changes)
    runs = [default_run(params, epochs=2, seed=seed) for seed in range(arguments.runs)]
    seconds: dict[int, list[float]] = {count: [] for count in WORKERS}
    with (
        contextlib.redirect_stdout(sys.stderr),
        tempfile.TemporaryDirectory(prefix="n2n-benchmark-") as temporary,
        contextlib.ExitStack() as clusters,
    ):
        folder = Path(temporary)
        build_pairs(params, folder / "pairs")
        pairs = load_pairs(folder / "pairs")
        through = {}
        for count in WORKERS:
            local = params.sweep.model_copy(update={"workers": count})
            client = clusters.enter_context(
                sweep.client(params.model_copy(update={"sweep": local}), len(runs))
            )
            given = local.model_copy(update={"scheduler": client.scheduler.address})
            through[count] = params.model_copy(update={"sweep": given})
        for number in range(arguments.rounds + 1):  # round 0 warms the workers up
            planned = [Planned({}, run) for run in (runs if number else runs[:2])]
            for count in WORKERS:
                stage = folder / f"{number}-{count}" / "sweep"  # of its own, so nothing is found there
                started = time.monotonic()
                sweep.train_all(str(stage), planned, pairs, through[count])
                if number:
                    seconds[count].append(time.monotonic() - started)
    images = sum(images_of(run, arguments.pairs) for run in runs)
    one, two = (images / min(seconds[count]) for count in WORKERS)
    result = {"images_per_s_1": round(one, 1), "images_per_s_2": round(two, 1)}
    print(json.dumps(result | {"ratio": round(two / one, 3)}))


if __name__ == "__main__":
    main()
