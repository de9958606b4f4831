"""The command line: messages without tracebacks, and the commands that no other file tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import SMOKE, Main

from n2nlib import __main__
from n2nlib.files import ROOT
from n2nlib.pairs.pair_set import PairSet, write_pairs
from n2nlib.params import Params, load_params


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run 09_nothing", "01_data"),
        ("scale enormous", "workstation"),
        ("check nothing.yaml", "nothing.yaml"),
    ],
)
def test_a_users_mistake_is_one_message(main: Main, command: str, words: str) -> None:
    status, _, errors = main(*command.split())
    assert status == 1
    assert words in errors
    assert len(errors.splitlines()) == 1


def test_noise_refuses_a_pair_set_that_shares_noise(
    main: Main, pair_set: PairSet, params: Params, tmp_path: Path
) -> None:
    status, output, _ = main("noise", pair_set.folder)
    assert status == 0
    assert "holds   independent between the versions" in output
    splits = {split: getattr(pair_set, split) for split in ("train", "validation", "test")}
    arrays = {split: {name: x.numpy() for name, x in of.items()} for split, of in splits.items()}
    arrays["train"]["noisy_2"] = arrays["train"]["noisy_1"]
    write_pairs(tmp_path, arrays, params.pairs, 0, dict.fromkeys(arrays, 1), {}, say=lambda text: None)
    status, output, errors = main("noise", tmp_path)
    assert status == 1
    assert "BROKEN  independent between the versions" in output
    assert "breaks an assumption" in errors


def test_scale_takes_photographs_and_keeps_comments(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.setattr(__main__, "ROOT", tmp_path)
    for folder in (tmp_path / "my photos", "~nobody_here/photos"):
        status, _, errors = main("scale", "smoke", "--photos", folder)
        assert status == 1
        assert "no such folder" in errors
    (tmp_path / "my photos").mkdir()
    status, _, errors = main("scale", "smoke", "--photos", tmp_path / "my photos")
    assert (status, errors) == (0, "")
    pairs = {"source": "folder", "path": str(tmp_path / "my photos")}
    assert load_params(tmp_path / "params.yaml") == load_params(SMOKE, {"pairs": pairs})
    assert "# names reports/<scale>" in (tmp_path / "params.yaml").read_text()


def test_an_interruption_is_one_message(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "_check", interrupted)
    status, _, errors = main("check")
    assert status == 130
    assert "the same command resumes the rest" in errors
