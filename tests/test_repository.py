"""Habits of the repository: imports, notebooks, stages and dependencies agree; files are what they claim."""

from __future__ import annotations

import ast
import graphlib
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
from conftest import NOTEBOOKS
from packaging.requirements import Requirement
from packaging.version import Version

from n2nlib.files import ROOT, UserError
from n2nlib.params import Params, sections_of
from n2nlib.report.readme import bundle_model, write_readme

SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
CARD = {"torch", "jupyter", "papermill", "nbconvert", "seaborn", "pandas", "dvc"}
FLOORS = ["files meaning metrics params", "pairs", "train", "denoiser", "experiments", "report", "__main__"]
IDLE = {"device", "sweep"}  # sections that change no number


def _modules() -> dict[str, Path]:
    """Every module and package of n2nlib by its dotted name."""
    found = {}
    for path in (ROOT / "n2nlib").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(source: str) -> set[str]:
    """Dotted names that a source imports, inside functions too; `from a import b` gives a.b."""
    nodes = list(ast.walk(ast.parse(source)))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return found | {f"{node.module}.{alias.name}" for node in froms for alias in node.names}


def _ours(source: str) -> set[str]:
    """The modules of n2nlib that a source imports."""
    modules = _modules()
    found = set()
    for name in _imports(source):
        while name and name not in modules:  # a.b.name -> a.b
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", "n2nlib"}


def _floor(module: str) -> int:
    room = module.split(".")[1]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms.split())


def test_imports_point_downwards_and_never_in_a_circle() -> None:
    graph = {name: _ours(path.read_text()) - {name} for name, path in _modules().items() if name != "n2nlib"}
    for module, imported in graph.items():
        for other in imported:
            same_room = module.split(".")[1] == other.split(".")[1]
            both_low = _floor(module) == _floor(other) == 0
            assert same_room or both_low or _floor(other) < _floor(module), f"{module} imports {other}"
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_library_imports_neither_tests_nor_benchmarks() -> None:
    for path in _modules().values():
        assert not {name.split(".")[0] for name in _imports(path.read_text())} & {"tests", "benchmarks"}


def test_notebooks_are_stripped() -> None:
    verify = [sys.executable, "-m", "nbstripout", "--verify", *map(str, SOURCES)]
    done = subprocess.run(verify, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_notebooks_are_short_and_run_anywhere(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 15
            assert not re.search(r"^\s*(def|class) ", cell.source, re.M)
        else:
            assert not re.search(r"\$[^$]+\$", cell.source), (
                "the pages show no TeX: it would need the network"
            )


def _stages() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def _stage_of(notebook: str) -> dict:
    commands = {
        name: [stage["cmd"]] if isinstance(stage["cmd"], str) else stage["cmd"]
        for name, stage in _stages().items()
    }
    return next(
        _stages()[name] for name, found in commands.items() if f"python -m n2nlib run {notebook}" in found
    )


def _outs(stage: dict) -> dict[str, dict]:
    return {path: options for out in stage["outs"] for path, options in out.items()}


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_stage_names_what_its_notebook_uses(notebook: str) -> None:
    stage = _stage_of(notebook)
    assert stage["params"] == [name for name in sections_of(notebook) if name not in IDLE]
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    named = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(named) == 1
    assert all(re.match(r"\w+ = None\b", line) for line in named[0].source.splitlines() if line[0] != "#")

    needed = {f"notebooks/{notebook}.ipynb"}
    for module in _ours(code):
        room = ROOT / "n2nlib" / module.split(".")[1]
        needed.add(f"n2nlib/{room.name}" if room.is_dir() else f"n2nlib/{room.name}.py")
    needed -= {"n2nlib/files.py", "n2nlib/params.py"}  # they change no number
    read = {name for name in re.findall(r'"(\d\d_\w+)/', code) if name != notebook}
    needed |= {f"reports/${{scale}}/{name}" for name in read}
    assert needed <= set(stage["deps"]), needed - set(stage["deps"])
    assert _outs(stage)[f"reports/${{scale}}/{notebook}"] == {"cache": False}


def test_stages_that_train_depend_on_what_trains_and_keep_their_runs() -> None:
    for name, stage in _stages().items():
        runs = {path: options for path, options in _outs(stage).items() if path.startswith("data/runs/")}
        assert bool(runs) == (name in {"ablation", "curves", "fine_tuning", "beyond"})
        if runs:
            assert {"n2nlib/train", "n2nlib/experiments", "n2nlib/metrics.py"} <= set(stage["deps"])
        assert all(options == {"cache": False, "persist": True} for options in runs.values())


def test_the_paper_depends_on_every_result_that_it_reads() -> None:
    sources = [ROOT / "n2nlib" / "report" / "typeset.py", ROOT / "reports" / "paper.typ"]
    read = {name for path in sources for name in re.findall(r'"(\d\d_\w+)/', path.read_text())}
    deps = set(_stages()["paper"]["deps"])
    assert read
    assert {f"reports/${{scale}}/{name}" for name in read} <= deps
    assert {"reports/paper.typ", "reports/references.bib"} <= deps


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pinned() -> dict[str, Version]:
    lines = [
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")
    ]
    requirements = [Requirement(line) for line in lines]
    assert all(len(one.specifier) == 1 and str(one.specifier).startswith("==") for one in requirements)
    return {_name(one.name): Version(str(one.specifier)[2:]) for one in requirements}


def test_dependencies_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = _pinned()
    for line in project["dependencies"] + project["optional-dependencies"]["test"]:
        requirement = Requirement(line)
        assert _name(requirement.name) in pinned, line
        assert pinned[_name(requirement.name)] in requirement.specifier
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    *named, pins, package = environment[-1]["pip"]
    assert set(named) == CARD
    assert {_name(Requirement(line).name) for line in project["dependencies"]} >= CARD
    assert set(pinned) >= CARD
    assert (pins, package) == ("-r requirements.txt", "-e .")
    assert f"python{project['requires-python']}" in environment


def test_the_pins_are_complete_for_every_python() -> None:
    """What the installed packages need under each Python, and nothing else, is pinned."""
    from importlib.metadata import distribution

    from packaging.markers import default_environment

    pinned = _pinned()
    for python in ("3.11", "3.12", "3.13"):
        environment = default_environment() | {
            "python_version": python,
            "python_full_version": f"{python}.9",
            "extra": "",
        }
        for name in pinned:
            for line in distribution(name).requires or []:
                requirement = Requirement(line)
                if requirement.marker is None or requirement.marker.evaluate(environment):
                    on_gpu = re.match(
                        r"nvidia-|cuda-|triton$", _name(requirement.name)
                    )  # come with torch's wheel
                    assert on_gpu or _name(requirement.name) in pinned, f"{name} needs {requirement}"


def test_the_pythons_agree() -> None:
    minors = ["3.11", "3.12", "3.13"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == minors
    supported = Requirement(
        "n2nlib" + tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    )
    assert all(f"{minor}.9" in supported.specifier for minor in minors)
    assert "3.11.3" not in supported.specifier
    assert "3.14.0" not in supported.specifier


def test_what_the_library_imports_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {_name(Requirement(line).name) for line in project["dependencies"]}
    packages = {"PIL": "pillow", "distributed": "dask", "ruamel": "ruamel-yaml"}
    packages |= {"sklearn": "scikit-learn", "skimage": "scikit-image"}
    sources = [path.read_text() for path in _modules().values()]
    sources += [
        cell.source
        for path in SOURCES
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    ]
    names = {name.split(".")[0] for source in sources for name in _imports(source)}
    names -= {"n2nlib", "__future__"} | set(sys.stdlib_module_names)
    assert {_name(packages.get(name, name)) for name in names} <= declared


def _committed(name: str) -> bytes:
    """A file of the last commit: a rebuild on another machine may leave other numbers in the working tree."""
    return subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True, check=True).stdout


def test_the_readmes_results_are_the_committed_ones(tmp_path: Path) -> None:
    archive = ["git", "archive", "HEAD", "README.md", "reports", "n2nlib/models"]
    packed = subprocess.run(archive, cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        tar.extractall(tmp_path, filter="data")
    write_readme(check=True, root=tmp_path)
    package = tmp_path / "n2nlib" / "models" / "best.safetensors"
    bundle_model(check=True, root=tmp_path, package=package)
    assert package.stat().st_size < 6e6
    readme = tmp_path / "README.md"
    readme.write_text(readme.read_text().replace("<!-- /results -->", "9.99 dB\n<!-- /results -->"))
    with pytest.raises(UserError, match="results"):
        write_readme(check=True, root=tmp_path)


def test_scales_that_are_compared_have_the_results_of_their_own_folders() -> None:
    """Else a scale was rebuilt, and what other scales say of it is old."""
    keys, values = ["scale", "images", "factor", "source"], ["estimate", "low", "high"]
    tables = {
        path.parts[-3]: pd.read_csv(io.BytesIO(_committed(path.relative_to(ROOT).as_posix()))).set_index(keys)
        for path in ROOT.glob("reports/*/06_discussion/training_length.csv")
    }
    for scale, table in tables.items():
        for other, own in tables.items():
            rows = table[table.index.get_level_values("scale") == other][values]
            known = own[own.index.get_level_values("scale") == other][values]
            pd.testing.assert_frame_equal(rows, known, atol=2e-4, rtol=0, obj=f"{scale} of {other}")


def test_notebooks_leave_their_parameters_alone() -> None:
    """A reader may run the first cells again, which read the parameters."""
    for path in (path for path in SOURCES if path.stem in NOTEBOOKS):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
                names = {node.id for node in ast.walk(ast.parse(cell.source)) if _is_assigned(node)}
                assert not names & set(Params.model_fields), path.name


def _is_assigned(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def test_what_is_committed_is_scale_laptop() -> None:
    assert _committed("params.yaml") == _committed("params/laptop.yaml")
    assert _committed("reports/metrics.json") == _committed("reports/laptop/06_discussion/metrics.json")
