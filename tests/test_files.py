"""Files are written whole or not at all, and mistakes name them."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import pytest
from safetensors import SafetensorError

from n2nlib import files
from n2nlib.files import UserError

FULL = {
    "full": OSError(errno.ENOSPC, "no space"),
    "quota": OSError(errno.EDQUOT, "quota"),
    "safetensors": SafetensorError("I/O error: No space left on device (os error 28)"),
}


def _fail(path: Path, error: Exception) -> None:
    with files.replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("kind", FULL)
def test_a_full_disk_is_a_message_and_the_old_file_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(UserError, match=r"table\.csv: the disk is full"):
        _fail(path, FULL[kind])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), KeyError("other")])
def test_another_failure_is_raised_as_it_is(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        _fail(tmp_path / "table.csv", error)
    assert not list(tmp_path.iterdir())


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "metrics.json", {"psnr": math.nan})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, '{"a": 1'])
def test_missing_and_damaged_json_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "final.json"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=r"final\.json: missing or damaged"):
        files.read_json(path)


def test_the_checkout_is_the_one_around_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("n2nlib/params.py", "notebooks/x", "params.yaml"):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).touch()
    monkeypatch.chdir(tmp_path / "checkout" / "notebooks")
    assert files._find_root() == tmp_path / "checkout"
    monkeypatch.chdir(tmp_path)
    assert files._find_root() == Path(files.__file__).resolve().parents[1]


def test_a_disk_that_is_full_from_the_start_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(files.tempfile, "mkstemp", full)
    with pytest.raises(UserError, match="the disk is full"):
        files.write_text(tmp_path / "a.txt", "text")
