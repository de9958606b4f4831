"""Parameters: what is refused and in which words, and that a file and a notebook give the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from n2nlib import params as module
from n2nlib.files import ROOT, UserError
from n2nlib.params import Params, load_params, notebook_params, sections_of

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


MISTAKES: list[tuple[dict, list[str]]] = [
    ({"ablatoin": {"epochs": 3}}, ["ablatoin", "did you mean ablation"]),
    ({"ablation": {"epoch": 3}}, ["ablation.epoch", "3", "did you mean epochs"]),
    ({"ablation": {"epochs": 0}}, ["ablation.epochs", "0", "greater than or equal to 1"]),
    ({"ablation": {"epochs": "three"}}, ["ablation.epochs", "'three'", "integer"]),
    ({"ablation": {"epochs": 2.5}}, ["ablation.epochs", "2.5"]),
    ({"ablation": {"epochs": True}}, ["ablation.epochs", "True"]),
    ({"ablation": {"loss": ["l2"]}}, ["ablation.loss", "'l2'", "'l1' or 'mse'"]),
    ({"ablation": {"loss": ["huber"]}}, ["ablation.loss", "'huber'", "'l1' or 'mse'"]),
    ({"ablation": {"arch": ["gated"]}}, ["ablation.arch", "'gated'", "'tconv' or 'upsample'"]),
    ({"ablation": {"seeds": [0, 0]}}, ["ablation.seeds", "[0, 0]"]),
    ({"ablation": {"seeds": []}}, ["ablation.seeds"]),
    ({"ablation": 5}, ["ablation", "5"]),
    ({"curves": {"seeds": []}}, ["curves.seeds"]),
    ({"pairs": {"block": 1}}, ["pairs.block", "1"]),
    ({"ablation": {"arch": ["theirs"]}}, ["ablation.arch", "'theirs'", "'tconv' or 'upsample'"]),
    ({"curves": {"candidates": 27}}, ["curves.candidates", "27", "26"]),
    ({"fine_tuning": {"tau_sharp": [-1.0]}}, ["fine_tuning.tau_sharp", "-1", "greater than or equal to 0"]),
    ({"training": {"sigma_n": -1}}, ["training.sigma_n", "-1", "greater than or equal to 0"]),
    ({"training": {"sigma_n": float("nan")}}, ["training.sigma_n", "finite number"]),
    ({"training": {"warmup": 1.0}}, ["training.warmup", "1.0", "less than 1"]),
    ({"training": {"tau_sharp": 0}}, ["training.tau_sharp", "0", "greater than 0"]),
    ({"training": {"shared_noise": "false"}}, ["training.shared_noise", "'false'"]),
    ({"training": {"local_crop": [0.4, 0.05]}}, ["training.local_crop", "0.4", "smallest < largest"]),
    ({"training": {"global_crop": [0.7, 1.1]}}, ["training.global_crop", "1.1", "largest <= 1"]),
    ({"pairs": {"size": 33}}, ["pairs.size", "33", "multiple of 32"]),
    ({"pairs": {"source": "flickr"}}, ["pairs.source", "'flickr'", "'bundled'"]),
    ({"pairs": {"source": "folder"}}, ["pairs.path"]),
    ({"pairs": {"source": "ee559", "test": 5}}, ["pairs.test = 5", "course", "allowed: 0"]),
    (
        {"pairs": {"source": "ee559", "test": 0, "resample": True}},
        ["pairs.resample = true", "allowed: false"],
    ),
    ({"pairs": {"train_crop": "round"}}, ["pairs.train_crop", "'whole', 'square' or 'mixed'"]),
    ({"pairs": {"test": -1}}, ["pairs.test", "-1"]),
    ({"beyond": {"crops": [[[0.4, 0.05]]]}}, ["beyond.crops.0", "smallest < largest"]),
    ({"beyond": {"epochs": 3, "crops": [[[0.7, 1.0], [0.05, 0.4]]]}}, ["beyond.crops.0", "2 crops", "3"]),
    ({"best": {"arch": "unet"}}, ["best.arch", "'unet'", "'gated'"]),
    ({"best": {"averaging": 1}}, ["best.averaging", "less than 1"]),
    ({"evaluation": {"subset": 500}}, ["evaluation.subset", "500", "unknown key", "allowed: repeats"]),
    ({"evaluation": {"repeats": 1}}, ["evaluation.repeats", "1", "greater than or equal to 2"]),
    ({"scale": "../elsewhere"}, ["scale", "'../elsewhere'"]),
    ({"device": "gpu"}, ["device", "'gpu'", "'cuda'"]),
    ({"sweep": {"workers": 0}}, ["sweep.workers", "0"]),
]


@pytest.mark.parametrize(("overrides", "words"), MISTAKES)
def test_mistakes_are_named(overrides: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_params(LAPTOP, overrides)
    for word in words:
        assert word in str(caught.value)


def test_every_mistake_has_a_line() -> None:
    with pytest.raises(UserError) as caught:
        load_params(LAPTOP, {"device": "gpu", "ablation": {"epochs": 0, "epoch": 3, "arch": ["gated"]}})
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for word in ("device", "ablation.epochs", "ablation.epoch ", "ablation.arch"):
        assert sum(word in line for line in lines) == 1


def _mine(folder: Path, pattern: str, line: str) -> Path:
    """mine.yaml: scale laptop with `line` in place of the first line that matches `pattern`."""
    path = folder / "mine.yaml"
    text, found = re.subn(f"^{pattern}$", line, LAPTOP.read_text(), count=1, flags=re.MULTILINE)
    assert found
    path.write_text(text)
    return path


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = _mine(tmp_path, "  batch_size:.*", "  batch_size: -8")
    with pytest.raises(UserError, match=r"mine\.yaml: training\.batch_size = -8"):
        load_params(path)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "seed: 1\nseed: 2\n", ""])
def test_what_holds_no_parameters_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        load_params(path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = _mine(tmp_path, "  batch_size:.*", "")
    with pytest.raises(UserError, match=r"training\.batch_size: missing"):
        load_params(path)


@given(st.floats(min_value=1e-12, max_value=1e6, allow_nan=False))
def test_a_number_that_yaml_reads_as_text_is_the_number(value: float) -> None:
    # YAML 1.1 reads 1e-3 as text, and papermill would pass it on as such.
    text = yaml.safe_load(f"x: {value:.0e}".replace(".0", ""))["x"]
    loaded = load_params(LAPTOP, {"ablation": {"learning_rates": {"adam": {"l1": text}}}})
    assert loaded.ablation.learning_rates.adam.l1 == float(f"{value:.0e}")


@pytest.mark.parametrize("line", ["scale: 2022-13-45", "2022-11-24: 3", "? [1, 2]\n: 3"])
def test_what_looks_like_a_date_or_a_list_is_named(tmp_path: Path, line: str) -> None:
    path = _mine(tmp_path, "scale:.*", line)
    with pytest.raises(UserError, match=r"mine\.yaml: "):
        load_params(path)


def test_a_key_that_the_file_lacks_is_missing_there_whatever_else_is_given(tmp_path: Path) -> None:
    path = _mine(tmp_path, "  size:.*", "")
    with pytest.raises(UserError, match=r"mine\.yaml: pairs\.size"):
        load_params(path, {"pairs": {"train": 12}})


def _cells(*sources: str, injected: str = "") -> dict:
    """The globals of a notebook whose cells ran, the one that papermill injected among them."""
    namespace: dict = {}
    cells = ["seed = None\nablation = None\n", *([f"# Parameters\n{injected}"] if injected else []), *sources]
    for cell in cells:
        exec(cell, namespace)
    return namespace | {"In": ["", *cells, "p = n2nlib.notebook_params(globals())"]}


def test_a_notebook_takes_what_is_given_and_the_rest_from_the_file() -> None:
    injected = 'ablation = {"epochs": 7}\nscale = "mine"\npairs = None\n'
    given_params = notebook_params(_cells(injected=injected))
    expected = load_params()
    assert given_params.ablation.epochs == 7
    assert given_params.scale == "mine"
    assert given_params.ablation.loss == expected.ablation.loss
    assert given_params.pairs == expected.pairs
    assert notebook_params(_cells()) == expected


def test_a_notebook_says_when_its_parameters_are_others(capsys: pytest.CaptureFixture) -> None:
    notebook_params(_cells())
    assert capsys.readouterr().out == ""
    notebook_params(_cells(injected='scale = "mine"\n'))
    assert "differ from params.yaml" in capsys.readouterr().out


def test_a_notebook_takes_what_its_reader_writes_into_the_parameters_cell() -> None:
    assert notebook_params(_cells('ablation = {"epochs": 7}')).ablation.epochs == 7


def test_a_misspelt_injected_key_is_refused() -> None:
    with pytest.raises(UserError, match=r"ablatoin.*did you mean ablation"):
        notebook_params(_cells(injected='ablatoin = {"epochs": 7}\n'))
    with pytest.raises(UserError, match=r"the given parameters: ablation\.epoch = 7.*did you mean epochs"):
        notebook_params(_cells(injected='ablation = {"epoch": 7}\n'))


@pytest.mark.parametrize("injected", ["", "seed = 5\n"])
def test_a_readers_own_variables_are_left_alone(injected: str) -> None:
    """Also when the first cells run again in the same kernel: the notebook then has variables of its own."""
    own = (
        "some_result = 3.5\nablatoin = {'epochs': 7}\nmodel = pairs = object()\ndef best(x):\n    return x\n"
    )
    assert notebook_params(_cells(own, injected=injected)) == notebook_params(_cells(injected=injected))


def test_a_cell_that_a_reader_calls_parameters_is_left_alone() -> None:
    own = "# Parameters\nwindow = 5\n"
    assert notebook_params(_cells("import n2nlib", own)) == load_params()
    with pytest.raises(UserError, match="wnidow"):
        notebook_params(_cells("import n2nlib", own, injected="wnidow = 5\n"))


def test_outside_of_a_notebook_there_are_no_cells() -> None:
    assert notebook_params({"some_result": 3.5}) == load_params()


def test_the_sections_of_a_notebook_are_what_its_parameters_cell_assigns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [
        {"metadata": {}, "cell_type": "code", "source": ["wrong = 1\n"]},
        {"metadata": {"tags": ["parameters"]}, "source": ["# Names.\n", "scale = None\n", "best = None\n"]},
    ]
    for name, kept in (("good_for_test", cells), ("bad_for_test", cells[:1])):
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"cells": kept}))
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert sections_of("good_for_test") == ["scale", "best"]
    with pytest.raises(UserError, match=r"bad_for_test\.ipynb: has no cell with the tag parameters"):
        sections_of("bad_for_test")
    with pytest.raises(UserError, match=r"absent_for_test\.ipynb: missing"):
        sections_of("absent_for_test")


def test_the_parameters_cells_of_the_notebooks_list_sections() -> None:
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        assert set(sections_of(path.stem)) <= set(Params.model_fields), path


CHANGES = {
    "seed": {"seed": 12345},
    "pairs": {"pairs": {"holdout": 0.123}},
    "training": {"training": {"sigma_n": 1.25}},
    "best": {"best": {"images": 123}},
}


@pytest.mark.parametrize("section", CHANGES)
def test_the_hash_follows_what_can_change_a_number(section: str) -> None:
    base, changed = load_params(LAPTOP), load_params(LAPTOP, CHANGES[section])
    assert changed.hash() != base.hash()
    for one in CHANGES:
        assert (changed.hash([one]) != base.hash([one])) == (one == section)
    assert base.hash(["pairs", "seed"]) == base.hash(["seed", "pairs"])


def test_the_hash_ignores_where_runs_are_trained() -> None:
    base = load_params(LAPTOP)
    elsewhere = load_params(LAPTOP, {"device": "cpu", "sweep": {"workers": 1}})
    assert elsewhere.hash() == base.hash()
    assert elsewhere.hash(["seed", "sweep", "device"]) == base.hash(["seed", "sweep", "device"])


def test_used_is_the_values_of_some_sections() -> None:
    params = load_params(LAPTOP)
    used = params.used(["seed", "training"])
    assert list(used) == ["seed", "training"]
    assert used["training"]["global_crop"] == list(params.training.global_crop)
    json.dumps(used)
