"""Parameters: what is refused, with what words, and that both ways in agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from n2nlib import params as module
from n2nlib.files import ROOT, UserError
from n2nlib.params import load_params, notebook_params

LAPTOP = ROOT / "params" / "laptop.yaml"
SCALES = sorted((ROOT / "params").glob("*.yaml"))


def _keys(tree: object, prefix: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return {prefix}
    return set().union(*(_keys(value, f"{prefix}.{key}") for key, value in tree.items()))


@pytest.mark.parametrize("path", SCALES, ids=lambda path: path.stem)
def test_every_scale_is_valid_complete_and_named_like_its_file(path: Path) -> None:
    assert load_params(path).scale == path.stem
    assert _keys(YAML(typ="safe").load(path)) == _keys(YAML(typ="safe").load(LAPTOP))


def test_the_committed_scales() -> None:
    assert [path.stem for path in SCALES] == ["laptop", "paper", "smoke", "workstation"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"ablatoin": {"epochs": 3}}, ["ablatoin", "did you mean ablation"]),
        ({"ablation": {"epoch": 3}}, ["ablation.epoch", "3", "did you mean epochs"]),
        ({"ablation": {"epochs": 0}}, ["ablation.epochs", "0", "greater than or equal to 1"]),
        ({"ablation": {"epochs": "three"}}, ["ablation.epochs", "'three'", "integer"]),
        ({"ablation": {"epochs": 2.5}}, ["ablation.epochs", "2.5"]),
        ({"ablation": {"epochs": True}}, ["ablation.epochs", "True"]),
        ({"ablation": {"loss": ["l2"]}}, ["ablation.loss", "'l2'", "'l1' or 'mse'"]),
        ({"ablation": {"seeds": [0, 0]}}, ["ablation.seeds", "[0, 0]"]),
        ({"ablation": {"seeds": []}}, ["ablation.seeds"]),
        ({"ablation": 5}, ["ablation", "5"]),
        ({"training": {"sigma_n": -1}}, ["training.sigma_n", "-1", "greater than or equal to 0"]),
        ({"training": {"shared_noise": "false"}}, ["training.shared_noise", "'false'"]),
        ({"training": {"local_crop": [0.4, 0.05]}}, ["training.local_crop", "0.4", "smallest < largest"]),
        ({"pairs": {"size": 33}}, ["pairs.size", "33", "multiples of 32"]),
        ({"pairs": {"source": "flickr"}}, ["pairs.source", "'flickr'", "'bundled'"]),
        ({"pairs": {"source": "folder"}}, ["pairs.path"]),
        ({"evaluation": {"subset": 10_000}}, ["evaluation.subset", "10000", "pairs.validation"]),
        ({"scale": "../elsewhere"}, ["scale", "'../elsewhere'"]),
        ({"device": "gpu"}, ["device", "'gpu'", "'cuda'"]),
        ({"sweep": {"workers": 0}}, ["sweep.workers", "0"]),
    ],
)
def test_mistakes_are_named(overrides: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_params(LAPTOP, overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(LAPTOP.read_text().replace("batch_size: 8", "batch_size: -8"))
    with pytest.raises(UserError, match=r"mine\.yaml: training\.batch_size = -8"):
        load_params(path)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "seed: 1\nseed: 2\n", ""])
def test_what_is_no_parameter_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        load_params(path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(re.sub(r"\n  batch_size:.*", "", LAPTOP.read_text()))
    with pytest.raises(UserError, match=r"training\.batch_size: missing"):
        load_params(path)


@given(st.floats(min_value=1e-12, max_value=1e6, allow_nan=False))
def test_a_number_that_yaml_reads_as_text_is_the_number(value: float) -> None:
    text = yaml.safe_load(f"x: {value:.0e}".replace(".0", ""))["x"]  # YAML 1.1: 1e-3 is text, as papermill would pass it on
    loaded = load_params(LAPTOP, {"ablation": {"learning_rates": {"adam": {"l1": text}}}})
    assert loaded.ablation.learning_rates.adam.l1 == float(f"{value:.0e}")


def test_a_notebook_takes_what_is_given_and_the_rest_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_first_call", True)
    given_params = notebook_params({"ablation": {"epochs": 7}, "scale": "mine", "pairs": None})
    expected = load_params()
    assert given_params.ablation.epochs == 7
    assert given_params.scale == "mine"
    assert given_params.ablation.loss == expected.ablation.loss
    assert given_params.pairs == expected.pairs


def test_a_notebook_refuses_a_misspelt_name_and_ignores_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_first_call", True)
    with pytest.raises(UserError, match="ablatoin"):
        notebook_params({"ablatoin": {"epochs": 7}})
    notebook_params({"some_result": 3.5})  # run again in the same kernel: by now the notebook has variables of its own


def test_the_hash_follows_what_can_change_a_number() -> None:
    base = load_params(LAPTOP)
    assert load_params(LAPTOP, {"seed": base.seed + 1}).hash != base.hash
    assert load_params(LAPTOP, {"device": "cpu", "sweep": {"workers": 1}}).hash == base.hash
