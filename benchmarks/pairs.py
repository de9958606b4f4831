"""python -m benchmarks.pairs [--photos 2000] [--pairs 10000]: pairs prepared a second, from JPEGs of 224 x 224 made for the purpose."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from n2nlib.files import ROOT
from n2nlib.pairs import build_pairs
from n2nlib.params import load_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=10_000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="n2n-benchmark-") as temporary:
        photos = Path(temporary) / "photos"
        photos.mkdir()
        for number in range(arguments.photos):
            small = Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8))
            small.resize((224, 224), Image.Resampling.BICUBIC).save(photos / f"{number:05}.jpg", quality=85)
        changes = {"pairs": {"source": "folder", "path": str(photos), "train": arguments.pairs, "validation": 200}}
        params = load_params(ROOT / "params" / "laptop.yaml", changes)
        started = time.monotonic()
        build_pairs(params, Path(temporary) / "pairs", say=lambda text: None)
        seconds = time.monotonic() - started
    usage = [resource.getrusage(who).ru_maxrss / 2**10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    result = {
        "photos": arguments.photos,
        "pairs": arguments.pairs,
        "seconds": round(seconds, 2),
        "pairs_per_s": round(arguments.pairs / seconds, 1),
        "peak_mib": round(usage[0], 1),
        "largest_worker_mib": round(usage[1], 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
