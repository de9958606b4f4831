"""What identifies a run: its parameters, its pairs and the meaning of the code that trains it."""

from __future__ import annotations

import ast
import io
import random
import shutil
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import a_run
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from n2nlib import metrics
from n2nlib.files import file_digest, read_json, write_json
from n2nlib.meaning import code_identity, meaning
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.train import identity as identities
from n2nlib.train import runs
from n2nlib.train.identity import RunParams, identity, run_name
from n2nlib.train.runs import find
from n2nlib.train.sweep import train_and_store

CPU = torch.device("cpu")
TRAIN = Path(runs.__file__).parent
MODULES = {**identities.TRAINING, **identities.GATED}
SOURCES = {file: (TRAIN / file).read_text() for file in MODULES.values()}
PLAIN = {file: ast.unparse(ast.parse(source)) for file, source in SOURCES.items()}  # without comments
BASE = {file: meaning(source) for file, source in SOURCES.items()}
FULL = a_run(arch="gated", tau_sharp=0.0)  # uses every module that trains


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _edited(monkeypatch: pytest.MonkeyPatch, folder: Path, file: str, edit: Callable[[str], str]) -> None:
    """Let runs be identified by copies of all their modules in `folder`, one of them edited."""
    folder.mkdir(parents=True, exist_ok=True)
    for group in ("TRAINING", "GATED", "MEASURING"):
        copies = {}
        for name, source in getattr(identities, group).items():
            copies[name] = str(folder / f"{name}_moved.py")
            text = (TRAIN / source).read_text()
            changed = edit(text) if source == file else text
            assert (changed != text) == (source == file)
            Path(copies[name]).write_text(changed)
        monkeypatch.setattr(identities, group, copies)


def _replace(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


NO_MEANING = [
    ("network.py", _replace("DEPTH = 5", "# Five poolings.\nDEPTH = (  # halve the image\n    5\n)")),
    ("network.py", _replace('"""The output before sharpening', '"""Another sentence. The output')),
    ("network.py", lambda text: ast.unparse(ast.parse(text))),  # without comments, in another format
    ("network.py", _replace("import math\n", "import itertools\nimport math\n")),
    ("network.py", _replace("-> Tensor", "-> torch.Tensor | None")),
    ("loop.py", _replace("damaged checkpoint (", "a broken checkpoint (")),
    ("loop.py", _replace("from torch import Tensor\n", "")),
    ("loop.py", _replace("order: torch.Generator", "order: object")),
    ("loop.py", _replace("options: dict[str, object] = {", "options = {")),
    ("augment.py", _replace("how: str", 'how: Literal["image", "batch", "none"]')),
    ("cuda_graph.py", _replace("import threading\n", "import threading as _unused\nimport threading\n")),
    ("gated.py", _replace('"""x + mix(a * b)', '"""What a block computes: x + mix(a * b)')),
]
MEANING = [
    ("network.py", _replace("DEPTH = 5", "DEPTH = 4")),
    ("network.py", _replace("F.max_pool2d(", "F.avg_pool2d(")),
    ("network.py", _replace("nn.LeakyReLU(0.1, ", "nn.LeakyReLU(0.2, ")),
    ("network.py", _replace("return x - F.relu(x - PEAK)", "return x + F.relu(x - PEAK)")),
    ("network.py", _replace("            nn.init.zeros_(layer.bias)\n", "")),
    ("loop.py", _replace("delta=32.0", "delta=31.0")),
    ("loop.py", _replace("        loss.backward()\n", "")),
    ("loop.py", _replace("@torch.no_grad()\n    def _update", "def _update")),
    ("loop.py", _replace("0.1 **", "0.5 **")),
    ("loop.py", _replace("(step + 1) /", "(step + 2) /")),
    ("augment.py", _replace("TRIES = 10", "TRIES = 9")),
    ("augment.py", _replace(" < 0.5\n", " <= 0.5\n")),
    ("cuda_graph.py", _replace("cudnn.allow_tf32 = False", "cudnn.allow_tf32 = True")),
    ("gated.py", _replace("BLOCKS = (2, 2, 4)", "BLOCKS = (2, 2, 2)")),
]


@pytest.mark.parametrize(("file", "edit"), NO_MEANING)
def test_what_computes_nothing_changes_no_runs_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, edit: Callable[[str], str]
) -> None:
    """The copies also lie in another folder, under other names."""
    before = run_name(FULL, "pairs")
    _edited(monkeypatch, tmp_path, file, edit)
    assert run_name(FULL, "pairs") == before


@pytest.mark.parametrize(("file", "edit"), MEANING)
def test_what_computes_changes_the_name_of_every_run_that_uses_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, edit: Callable[[str], str]
) -> None:
    before = {run: run_name(run, "pairs") for run in (a_run(), a_run(arch="tconv"), FULL)}
    _edited(monkeypatch, tmp_path, file, edit)
    changed = [run.arch for run, name in before.items() if run_name(run, "pairs") != name]
    assert changed == (["gated"] if file == "gated.py" else ["upsample", "tconv", "gated"])


@pytest.mark.parametrize("file", identities.MEASURING.values())
def test_measuring_is_no_part_of_a_runs_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str
) -> None:
    before, measured_by = run_name(FULL, "pairs"), identities.measuring_code()
    _edited(monkeypatch, tmp_path, file, lambda text: text + "\nMORE = 1\n")
    assert run_name(FULL, "pairs") == before
    assert identities.measuring_code() != measured_by


def test_every_module_that_training_imports_identifies_runs() -> None:
    known = {Path(file).stem for file in (*MODULES.values(), *identities.MEASURING.values())} | {"identity"}
    for file, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("n2nlib.train"):
                room = node.module == "n2nlib.train"
                names = {one.name for one in node.names} if room else {node.module.split(".")[2]}
                assert names <= known, f"{file} imports {names}"


def test_code_is_compared_under_logical_names(tmp_path: Path) -> None:
    original = code_identity(tuple(identities.TRAINING.items()), folder=TRAIN)
    moved = {}
    for name, file in identities.TRAINING.items():
        moved[name] = f"rooms/of/{name}s.py"
        target = tmp_path / moved[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TRAIN / file, target)
    assert code_identity(tuple(moved.items()), folder=tmp_path) == original
    assert code_identity(tuple(reversed(moved.items())), folder=tmp_path) == original
    swapped = moved | {"loop": moved["network"], "network": moved["loop"]}
    assert code_identity(tuple(swapped.items()), folder=tmp_path) != original


EQUAL = [
    ("x = 3", "x: int = 3"),
    ("self.x = f()", "self.x: nn.Module = f()"),
    ("def f(a, *b, c=1, **d): return a", "def f(a: int, *b: str, c: float = 1, **d: T) -> int: return a"),
    ("class A:\n    x: int", "class A:\n    x: float"),
    ("class A:\n    x: int = field(default=1)", 'class A:\n    x: "float" = field(default=1)'),
    ("x = 1", '"""Docstring."""\nx = 1'),
    ("def f():\n    return 1", 'def f():\n    """Docstring."""\n    return 1'),
    ("class A:\n    x = 1", 'class A:\n    """Docstring."""\n    x = 1'),
    ("x = 1", "import os\nfrom a.b import c as d\nx = 1"),
    ("def f():\n    return g()", "def f():\n    from m import g\n    return g()"),
    ("f()", "print('training', f'{x:.2f}', flush=True)\nf()"),
    ("if a:\n    print('b')\n    f()", "if a:\n    f()"),
    ("raise UserError(f'{path}: no')", "raise UserError(f'{path}: never', 2)"),
    ("x = [1, 2]", "x = [\n    1,\n    2,\n]  # two"),
    ("x = 'a'", 'x = "a"'),
    ("def f():\n    x = 1\n    return x", "def f():\n    x: int\n    x = 1\n    return x"),
]
DIFFERENT = [
    ("x = 3", "x = 4"),
    ("x = 3", "x = 3.0"),
    ("x = True", "x = 1"),
    ("x = None", "x = 0"),
    ("x = 'a'", "x = 'b'"),
    ("x = 'a'", "x = b'a'"),
    ("x = -1", "x = 1"),
    ("x = a + b", "x = a - b"),
    ("x = a + b", "x = b + a"),
    ("x += a", "x -= a"),
    ("x = a < b", "x = a <= b"),
    ("x = a and b", "x = a or b"),
    ("f(x)", "g(x)"),
    ("f(x)", "f(x, 1)"),
    ("f(a=x)", "f(b=x)"),
    ("f(x)", "x"),
    ("x.f()", "x.g()"),
    ("x = a[0]", "x = a[1]"),
    ("x = a[1:]", "x = a[:1]"),
    ("x = f'{a:.2f}'", "x = f'{a:.3f}'"),
    ("a()\nb()", "b()\na()"),
    ("a()\nb()", "a()"),
    ("def f(a, b=1): return a", "def f(a, b=2): return a"),
    ("def f(a, b): return a", "def f(a, *, b): return a"),
    ("@no_grad()\ndef f(): return 1", "def f(): return 1"),
    ("class A(B):\n    x = 1", "class A(C):\n    x = 1"),
    ("class A:\n    x: int", "class A:\n    y: int"),
    ("class A:\n    x: int\n    y: int", "class A:\n    y: int\n    x: int"),
    ("class A:\n    x: int", "class A:\n    x: int = 1"),
    ("if a:\n    f()", "if not a:\n    f()"),
    ("if a:\n    f()\ng()", "if a:\n    f()\n    g()"),
    ("for a in b:\n    f()", "while b:\n    f()"),
    ("raise UserError('a')", "raise ValueError('a')"),
    ("if a:\n    raise ValueError('b')\nf()", "f()"),
    ("x = print", "x = log"),
    ("x = lambda a: a", "x = lambda a: -a"),
    ("x = 1 if a else 2", "x = 2 if a else 1"),
    ("x = [a for a in b]", "x = {a for a in b}"),
    ("x = [a for a in b if a]", "x = [a for a in b]"),
    ("return_ = 1", "return_ = yield_"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_these_mean_the_same(one: str, other: str) -> None:
    assert meaning(one) == meaning(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_these_mean_something_else(one: str, other: str) -> None:
    assert meaning(one) != meaning(other)


def test_the_meaning_does_not_depend_on_the_version_of_python() -> None:
    """Versions differ in their empty fields: 3.12 adds one to functions, 3.13 shows none of them."""
    found = meaning("def f(x):\n    return g(x, None)\nclass A:\n    pass\n")
    assert "[]" not in found
    assert "type_params" not in found
    assert meaning("x = None") != meaning("x = ''")


@settings(max_examples=30, deadline=None)
@given(file=st.sampled_from(sorted(SOURCES)), data=st.data())
def test_comments_and_blank_lines_anywhere_mean_nothing(file: str, data: st.DataObject) -> None:
    lines = SOURCES[file].splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(SOURCES[file]).readline)
    ends = sorted({token.start[0] for token in tokens if token.type == tokenize.NEWLINE})
    for line in data.draw(st.lists(st.sampled_from(ends), min_size=1, max_size=10, unique=True)):
        lines[line - 1] += "  # a comment" + data.draw(st.sampled_from(["", "\n", "\n\n# another\n"]))
    assert meaning("\n".join(lines)) == meaning(SOURCES[file])


@settings(max_examples=20, deadline=None)
@given(file=st.sampled_from(sorted(SOURCES)), seed=st.integers(0, 2**32))
def test_other_hints_docstrings_and_imports_mean_nothing(file: str, seed: int) -> None:
    tree, rng = ast.parse(SOURCES[file]), random.Random(seed)
    hint = ast.Name("Hint", ast.Load())
    for node in ast.walk(tree):
        if rng.random() < 0.5:
            continue
        if isinstance(node, ast.arg) and node.annotation:
            node.annotation = rng.choice([None, hint])
        elif isinstance(node, ast.AnnAssign):
            node.annotation = hint
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if isinstance(node, ast.FunctionDef):
                node.returns = rng.choice([None, hint])
            has_docstring = ast.get_docstring(node) is not None
            body = node.body[has_docstring:]
            body.insert(rng.randrange(1, len(body) + 1), ast.Import([ast.alias("os")]))
            node.body = [ast.Expr(ast.Constant("Another docstring.")), *body]
    changed = ast.unparse(ast.fix_missing_locations(tree))
    assert meaning(changed) == meaning(SOURCES[file])


def _computing(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node` that compute something."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "ctx"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Import | ast.ImportFrom):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.Expr) and ast.unparse(child).startswith("print("):
                continue
            if isinstance(child, ast.Raise):
                continue
            yield from _computing(child)


OTHER = {ast.Add: ast.Sub, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.Lt: ast.GtE}


def _mutate(node: ast.AST) -> bool:
    """Change what `node` computes; False if it is of a kind that this does not know."""
    if isinstance(node, ast.Constant):
        kinds = {bool: lambda x: not x, int: lambda x: x + 1, float: lambda x: 2 * x + 1}
        node.value = kinds.get(type(node.value), lambda x: f"not {x}")(node.value)
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = OTHER.get(type(node.op), ast.Mod)()
    elif isinstance(node, ast.Compare):
        node.ops[0] = OTHER.get(type(node.ops[0]), ast.Lt)()
    elif isinstance(node, ast.Name):
        node.id += "_"
    elif isinstance(node, ast.Attribute):
        node.attr += "_"
    elif isinstance(node, ast.keyword | ast.arg):
        node.arg = f"{node.arg}_" if node.arg else "given"
    elif isinstance(node, ast.Call):
        node.args.append(ast.Constant(7))
    elif isinstance(node, ast.FunctionDef):
        del node.body[-1]
        node.body.append(ast.Pass())
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    else:
        return False
    return True


@pytest.mark.parametrize("file", sorted(SOURCES))
def test_comments_and_format_mean_nothing(file: str) -> None:
    assert meaning(PLAIN[file]) == BASE[file]


@settings(max_examples=120, deadline=None)
@given(file=st.sampled_from(sorted(SOURCES)), data=st.data())
def test_a_change_to_whatever_computes_is_another_meaning(file: str, data: st.DataObject) -> None:
    tree = ast.parse(SOURCES[file])
    nodes = list(_computing(tree))
    node = nodes[data.draw(st.integers(0, len(nodes) - 1))]
    if not _mutate(node):
        return
    after = ast.unparse(ast.fix_missing_locations(tree))
    assert after != PLAIN[file]
    assert meaning(after) != BASE[file]


def test_identity_follows_every_parameter_the_pairs_and_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    base = identity(a_run(), "pairs")
    others = {
        "seed": 1,
        "width": 6,
        "arch": "tconv",
        "init": "fan_in",
        "residual": True,
        "normalized": True,
        "tau_sharp": 0.0,
        "target": "clean",
        "loss": "l1",
        "optimizer": "sgd",
        "learning_rate": 2e-3,
        "schedule": "one_cycle",
        "warmup": 0.05,
        "annealing_steps": 0,
        "averaging": 0.9,
        "epochs": 4,
        "batch_size": 8,
        "sigma_n": 0.0,
        "flips": "none",
        "shared_noise": True,
        "resample": True,
        "crops": ((0.7, 1.0),),
        "precision": "bfloat16",
        "validate_every_epoch": False,
    }
    assert set(others) == set(RunParams.model_fields)
    found = {name: identity(a_run(**{name: value}), "pairs") for name, value in others.items()}
    assert len({base, *found.values()}) == len(others) + 1
    assert identity(a_run(), "other pairs") != base
    assert identity(a_run(crops=((0.7, 1.0), (0.05, 0.4))), "pairs") != found["crops"]
    monkeypatch.setattr(metrics, "PEAK", 1.0)
    assert identity(a_run(), "pairs") != base


def _refuse(state: object) -> None:
    raise AssertionError("this run is on disk and must not be trained")


@pytest.mark.parametrize("file", identities.MEASURING.values())
def test_another_metric_measures_again_and_trains_nothing(
    pair_set: PairSet,
    params: Params,
    runs_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
) -> None:
    run, stage = a_run(epochs=2), runs_folder / "t"
    result = train_and_store(stage, run, pair_set, CPU)
    kept = {name: (result.folder / name).stat().st_mtime_ns for name in result.about["files"]}
    measured = result.folder / "measured.safetensors"
    # What the code before the edit is said to have measured.
    save_file({name: values + 1 for name, values in load_file(measured).items()}, measured)
    about = read_json(result.folder / "run.json")
    about["measured"]["sha256"] = file_digest(measured)
    write_json(result.folder / "run.json", about)
    old = train_and_store(stage, run, pair_set, CPU, _refuse)
    assert old.errors["ssim"] == pytest.approx(result.errors["ssim"] + 1)

    _edited(monkeypatch, tmp_path / "code", file, lambda text: text + "\nMORE = 1\n")
    assert find(stage, run, pair_set.hash) is None
    again = train_and_store(stage, run, pair_set, CPU, _refuse)
    assert again.name == result.name
    for name, values in result.errors.items():
        assert again.errors[name] == pytest.approx(values), name
    assert again.metrics(params) == pytest.approx(result.metrics(params))
    assert again.about["measured"]["code"] != result.about["measured"]["code"]
    differences = {key for key in again.about if again.about[key] != result.about[key]}
    assert differences == {"measured"}
    assert {name: (again.folder / name).stat().st_mtime_ns for name in kept} == kept
    assert find(stage, run, pair_set.hash) is not None


def test_a_sentence_in_a_metric_measures_nothing(
    pair_set: PairSet, runs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stage = a_run(epochs=1), runs_folder / "t"
    before = train_and_store(stage, run, pair_set, CPU).folder / "measured.safetensors"
    written = before.stat().st_mtime_ns
    _edited(monkeypatch, tmp_path / "code", "../metrics.py", lambda text: text + "\n# A sentence.\n")
    train_and_store(stage, run, pair_set, CPU, _refuse)
    assert before.stat().st_mtime_ns == written


def test_without_its_model_a_run_cannot_be_measured_again(
    pair_set: PairSet, runs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stage = a_run(epochs=1), runs_folder / "t"
    runs.forget_model(train_and_store(stage, run, pair_set, CPU))
    _edited(monkeypatch, tmp_path / "code", "../metrics.py", lambda text: text + "\nMORE = 1\n")
    trained = []
    again = train_and_store(stage, run, pair_set, CPU, trained.append)
    assert len(trained) == 1
    assert again.model.is_file()


def test_other_training_code_trains_again_beside_the_old_run(
    pair_set: PairSet, runs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stage = a_run(epochs=1), runs_folder / "t"
    before = train_and_store(stage, run, pair_set, CPU)
    _edited(monkeypatch, tmp_path / "code", "loop.py", _replace("delta=32.0", "delta=16.0"))
    trained = []
    after = train_and_store(stage, run, pair_set, CPU, trained.append)
    assert len(trained) == 1
    assert after.folder != before.folder
    assert before.folder.is_dir()
