"""python -m benchmarks.pairs [--photos 2000] [--pairs 10000]: how fast photographs become pairs.

The photographs are JPEG files of 224 x 224 pixels, made for the purpose. Read `pairs_per_s`, with all cores
and from reading the files to writing the pair set, and `peak_mib`, the largest memory of the process.
"""

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
from n2nlib.pairs.pair_set import build_pairs
from n2nlib.params import load_params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=10_000)
    arguments = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="n2n-benchmark-") as temporary:
        photos = Path(temporary) / "photos"
        photos.mkdir()
        for number in range(arguments.photos):
            small = Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8))
            small.resize((224, 224), Image.Resampling.BICUBIC).save(photos / f"{number:05}.jpg", quality=85)
        pairs = {"source": "folder", "path": str(photos), "train": arguments.pairs, "validation": 200}
        params = load_params(ROOT / "params" / "laptop.yaml", {"pairs": pairs})
        started = time.monotonic()
        card = build_pairs(params, Path(temporary) / "pairs", say=lambda text: None)
        seconds = time.monotonic() - started
    made = sum(card["counts"].values())
    result = {"photos": arguments.photos, "pairs": made, "seconds": round(seconds, 2)}
    result["pairs_per_s"] = round(made / seconds, 1)
    result["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
