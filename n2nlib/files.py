"""Where things are on disk, and how files are written: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open


class UserError(Exception):
    """A mistake that its user can correct. It is shown as one message, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # the hook that IPython looks for
        return [f"{type(self).__name__}: {self}"]


def _find_root() -> Path:
    """The checkout that holds the current folder; outside of any, the one that this package lies in."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file() and (folder / "n2nlib" / "params.py").is_file():
            return folder
    return Path(__file__).resolve().parents[1]


ROOT = _find_root()


def relative(path: Path) -> str:
    """`path` as a person in the checkout would write it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def git(*arguments: str) -> str:
    """What a git command prints in the checkout; "" if it fails or there is no git."""
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any failure it is removed.

    Raises `UserError` if the disk is full.
    """
    with full_disk_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)  # mkstemp's files are their owner's alone
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """Raise a `UserError` in place of an error that says that the disk is full as `path` is written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors is written in Rust: its errors have no errno, only a text such as "os error 28".
        numbers = (errno.ENOSPC, errno.EDQUOT)
        if getattr(error, "errno", None) not in numbers and not any(
            f"os error {number}" in str(error) for number in numbers
        ):
            raise
        message = "the disk is full; free some space and start again, nothing finished is lost"
        raise UserError(f"{relative(path)}: {message}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all. Raises `UserError` if the disk is full."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write a JSON value. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """The JSON value in a file, an object in all of ours. Raises `UserError` if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{relative(path)}: missing or damaged ({error}); restore it, or rebuild it (dvc repro)"
        ) from error


def digest(value: object) -> str:
    """SHA-256 (hex) of a JSON value in canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_safetensors(path: Path) -> tuple[dict, dict[str, str]]:
    """(name -> memory-mapped tensor, metadata) of a safetensors file. Raises OSError or SafetensorError."""
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
