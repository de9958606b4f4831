"""Habits of the repository: stripped and short notebooks, dependencies that agree, files that are what they claim."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from n2nlib import published
from n2nlib.files import ROOT, UserError
from n2nlib.params import Params
from n2nlib.readme import table1_alone, write_readme

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stripped_short_and_run_anywhere(path: Path) -> None:
    assert subprocess.run(["nbstripout", "--verify", str(path)], capture_output=True, check=False).returncode == 0
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 15
            assert not re.search(r"^\s*(def|class) ", cell.source, re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_parameters_cell_names_every_section(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    assert set(re.findall(r"^(\w+) = None$", cells[0].source, re.M)) == set(Params.model_fields)


def _pinned() -> dict[str, Version]:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    assert all(len(one.specifier) == 1 and str(one.specifier).startswith("==") for one in requirements)
    return {_name(one.name): Version(str(one.specifier)[2:]) for one in requirements}


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_dependencies_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = _pinned()
    for line in project["dependencies"] + project["optional-dependencies"]["test"]:
        requirement = Requirement(line)
        assert _name(requirement.name) in pinned, line
        assert pinned[_name(requirement.name)] in requirement.specifier
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert "python=3.11" in environment["dependencies"]
    assert project["requires-python"].startswith(">=3.11")
    assert environment["dependencies"][-1]["pip"] == ["-r requirements.txt", "-e ."]


def test_what_the_library_imports_is_declared() -> None:
    declared = {_name(Requirement(line).name) for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]}
    packages = {"PIL": "pillow", "ruamel": "ruamel-yaml", "distributed": "dask", "sklearn": "scikit-learn", "skimage": "scikit-image"}
    ours_or_standard = {"n2nlib", "__future__"} | set(sys.stdlib_module_names)
    comes_along = {"traitlets", "IPython", "nbformat"}  # with ipykernel and nbconvert
    for path in (ROOT / "n2nlib").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        for module in {name.split(".")[0] for name in modules} - ours_or_standard - comes_along:
            assert _name(packages.get(module, module)) in declared, f"{path.name} imports {module}"


def test_every_stage_depends_on_its_notebook_and_on_the_code_that_trains() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for path in NOTEBOOKS:
        stage = next(stage for stage in stages.values() if stage["cmd"].endswith(path.stem))
        assert f"notebooks/{path.name}" in stage["deps"]
        source = path.read_text()
        if "train_all" in source:
            assert {"n2nlib/augment.py", "n2nlib/graphs.py", "n2nlib/model.py", "n2nlib/training.py"} <= set(stage["deps"])
            assert any("data/runs/" in str(out) and "persist" in str(out) for out in stage["outs"])


def test_citation_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == "MIT"
    assert len(citation["references"]) == 2
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_the_readmes_result_table_is_that_of_the_committed_results(tmp_path: Path) -> None:
    """Of the last commit: a rebuild on another machine may have left slightly other numbers in the working tree."""
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD", "README.md", "reports"], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        tar.extractall(tmp_path, filter="data")
    write_readme(check=True, root=tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text(readme.read_text().replace("| noisy input | ", "| noisy input | 9"))
    with pytest.raises(UserError, match="result table"):
        write_readme(check=True, root=tmp_path)


def test_readme_tells_of_a_published_table1_that_stands_alone(tmp_path: Path) -> None:
    assert table1_alone("paper", tmp_path) == ""
    tables = tmp_path / "reports" / "paper" / "tables"
    tables.mkdir(parents=True)
    ours = published.table1()  # as if ours had come out as the paper's
    ours.assign(psnr_full=ours["psnr_mean"]).to_csv(tables / "table1_ablation.csv", index=False)
    pd.DataFrame({"method": ["noisy input", "blur"], "psnr_full": [20.0, 23.6]}).to_csv(tables / "baselines.csv", index=False)
    text = table1_alone("paper", tmp_path)
    assert "Upsample MSE Adam sharp, reaches 23.76 dB, and 4 of 32 runs beat the blur at 23.60 dB" in text
    assert "MSE − L1 in 14 of 16, Adam − SGD in 11 of 16, crops in 5 of 16" in text
    assert "seeds" not in text
    one = ours.assign(psnr_full=ours["psnr_mean"])
    two = pd.concat([one.assign(seed=0), one.assign(seed=1, psnr_mean=one["psnr_mean"] + 0.1)])
    two.to_csv(tables / "table1_ablation.csv", index=False)
    text = table1_alone("paper", tmp_path)
    assert "reaches 23.81 dB" in text  # the mean of both
    assert "Between seeds a setting spreads by 0.07 dB (median of the 32; 0.07 dB for nine in ten)." in text  # 0.1 / sqrt(2)
    (tmp_path / "reports" / "paper" / "metrics.json").touch()
    assert table1_alone("paper", tmp_path) == ""


def test_the_committed_parameters_are_scale_laptop() -> None:
    committed = subprocess.run(["git", "-C", str(ROOT), "show", "HEAD:params.yaml"], capture_output=True, text=True, check=True)
    assert committed.stdout == (ROOT / "params" / "laptop.yaml").read_text()
