"""Source `imagenette`: fetched once, checked, unpacked safely.

Imagenette (fast.ai, https://github.com/fastai/imagenette) is a subset of ImageNet: 9,469 training and 3,925 validation photographs.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pooch
import requests

from n2nlib.files import ROOT, UserError

URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz"


MD5 = "3df6f0d01a2c9592104656642f5e78a3"


FOLDER = "imagenette2-320"  # what the archive holds


class _Lines:
    """pooch's progress bar as a line every tenth, readable in a log."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.total, self.done, self.told, self.say, self.started = 0, 0, 0, say, time.monotonic()

    def update(self, count: int) -> None:
        self.done = min(self.done + count, self.total or self.done + count)
        if self.total and self.done >= self.told + self.total / 10:
            self.told = self.done
            left = (time.monotonic() - self.started) * (self.total - self.done) / self.done
            self.say(
                f"imagenette: {self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB, about {left:.0f} s left"
            )

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass


def imagenette(say: Callable[[str], None] = print) -> Path:
    """The folder of Imagenette's photographs (train/ and val/), in data/raw/ or in the folder that N2N_CACHE names.

    Downloaded at most once: a transfer that broke is started again (three tries, and the next call), the checksum is tested before anything
    is unpacked, and the folder appears whole or not at all. Raises `UserError`.
    """
    cache = Path(os.environ.get("N2N_CACHE") or ROOT / "data" / "raw").expanduser()
    folder = cache / FOLDER
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("ERROR")
    downloader = pooch.HTTPDownloader(progressbar=_Lines(say), timeout=60, headers={"User-Agent": "n2n"})
    name = URL.rsplit("/", 1)[-1]
    say(f"imagenette: {URL} -> {cache}")
    for attempt in (1, 2, 3):
        try:
            archive = Path(pooch.retrieve(URL, f"md5:{MD5}", fname=name, path=cache, downloader=downloader))
            break
        except requests.RequestException as error:
            broken = f"the transfer failed ({error})"
        except ValueError:  # pooch's word for a checksum that does not match
            broken = f"what came is not the file (its MD5 is not {MD5})"
        if attempt == 3:
            raise UserError(f"{URL}: {broken}; start again, or put the unpacked folder at {folder}")
        say(f"imagenette: {broken}; trying again")
    _unpack(archive, folder)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack `archive`, refusing whatever would land outside of the temporary folder, and move its one folder to `folder`."""
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as temporary:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(
                f"{archive}: cannot be unpacked safely ({error}); remove it and start again"
            ) from error
        inside = Path(temporary) / FOLDER
        if not (inside / "train").is_dir() or not (inside / "val").is_dir():
            raise UserError(f"{archive}: holds no {FOLDER}/train and {FOLDER}/val; remove it and start again")
        shutil.move(inside, folder)
