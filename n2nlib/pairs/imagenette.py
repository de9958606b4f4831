"""The source `imagenette`: photographs of ImageNet that fast.ai publishes.

The archive (https://github.com/fastai/imagenette) holds 9,469 photographs for training and 3,925 for
validation; their shorter side has 320 pixels.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pooch

from n2nlib.files import ROOT, UserError

URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz"
MD5 = "3df6f0d01a2c9592104656642f5e78a3"
FOLDER = "imagenette2-320"  # the one folder in the archive


def imagenette(say: Callable[[str], None] = print) -> Path:
    """The folder of the photographs (train/ and val/), in data/raw/ or in the folder that N2N_CACHE names.

    The archive is downloaded once, with three attempts. Its checksum is tested before anything is unpacked,
    and the folder appears whole or not at all. Raises `UserError`.
    """
    cache = Path(os.path.expanduser(os.environ.get("N2N_CACHE") or ROOT / "data" / "raw"))
    folder = cache / FOLDER
    if folder.is_dir():
        return folder
    base, name = URL.rsplit("/", 1)
    store = pooch.create(cache, f"{base}/", registry={name: f"md5:{MD5}"}, retry_if_failed=2)
    say(f"imagenette: downloading {URL} (342 MB) to {cache}")
    try:
        store.fetch(name, _unpack, pooch.HTTPDownloader(progressbar=True, timeout=60))
    except (OSError, ValueError) as error:  # pooch reports a wrong checksum as a ValueError
        broken = isinstance(error, OSError)  # that of requests, or of a folder that cannot be written
        problem = f"the transfer failed ({error})" if broken else f"the file that came is not of MD5 {MD5}"
        raise UserError(f"{URL}: {problem}; try again, or put the unpacked folder at {folder}") from error
    return folder


def _unpack(archive: str, action: str, store: pooch.Pooch) -> None:
    """Processor for pooch: unpack into a temporary folder, refusing what points outside, and rename it."""
    cure = "remove it and try again"
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=store.abspath) as temporary:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{archive}: cannot be unpacked safely ({error}); {cure}") from error
        inside = Path(temporary) / FOLDER
        if not (inside / "train").is_dir() or not (inside / "val").is_dir():
            raise UserError(f"{archive}: holds no {FOLDER}/train and {FOLDER}/val; {cure}")
        inside.rename(store.abspath / FOLDER)
