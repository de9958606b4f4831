"""Executed copies and pages of small notebooks: real papermill, kernels and nbconvert."""

from __future__ import annotations

import base64
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import SMOKE

from n2nlib import params as parameters
from n2nlib.files import ROOT, UserError
from n2nlib.params import load_params
from n2nlib.report import notebooks
from n2nlib.report.notebooks import run_notebook, write_index

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ALT = 'Noise of "one" draw: mean < 1 & spread > 2'
PARAMETERS = "scale = None\nseed = None\nablation = None"
START = "import n2nlib\n\np = n2nlib.notebook_params(globals())\nprint(p.scale, p.ablation.epochs)"
PICTURE = f"from IPython.display import Image\n\nImage({PIXEL!r}, alt={ALT!r})"
TABLE = "import pandas as pd\n\npd.DataFrame([range(60)]).style.hide(axis='index')"
PATHS = "from n2nlib.files import ROOT\n\nprint(ROOT / 'data' / 'runs')"


def _write(root: Path, name: str, title: str, *code: str) -> None:
    opening = f"# {title}\n\n**Question:** does *it* work?\n\n**Produced:** nothing.\n\n"
    cells = [nbformat.v4.new_markdown_cell(f"{opening}| a | b |\n|---|---|\n| 1 | 2 |")]
    cells += [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in (START, *code)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout at scale smoke with three small notebooks."""
    root = tmp_path / "checkout"
    (root / "notebooks").mkdir(parents=True)
    (root / "n2nlib").symlink_to(ROOT / "n2nlib")
    (root / "params.yaml").write_text(SMOKE.read_text())
    _write(root, "01_first", "1. First")
    _write(
        root,
        "02_second",
        "2. Second, <with> & without",
        PICTURE,
        TABLE,
        PATHS,
        "object()",
        "'01_first/x', '02_second/dots'",
    )
    _write(root, "03_third", "3. Third")
    _write(root, "explore", "Explore")
    monkeypatch.setattr(parameters, "ROOT", root)
    monkeypatch.setattr(notebooks, "ROOT", root)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", root / "notebooks")
    parameters.sections_of.cache_clear()
    yield root
    parameters.sections_of.cache_clear()


class _Seen(HTMLParser):
    """What a page loads and shows."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: list[str | None] = []  # the class of the element around each table
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append(self.tags[-1][1].get("class"))
        self.tags.append((tag, dict(attrs)))

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def loaded(self) -> list[str]:
        """Everything that a browser fetches by itself."""
        found = [attributes["src"] for name, attributes in self.tags if attributes.get("src")]
        return found + [attributes["href"] for attributes in self.every("link")]


def test_exactly_the_listed_sections_are_injected(checkout: Path) -> None:
    run_notebook("01_first")
    executed = nbformat.read(checkout / "reports/smoke/01_first/01_first.ipynb", as_version=4)
    nbformat.validate(executed)
    params = load_params()
    expected = json.loads(params.model_dump_json(include={"scale", "seed", "ablation"}))
    assert executed.metadata.papermill.parameters == expected
    injected = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert len(injected) == 1
    given: dict[str, object] = {}
    exec(injected[0].source, given)
    assert {name: given[name] for name in expected} == expected
    assert executed.cells[-1].outputs[0].text == f"smoke {params.ablation.epochs}\n"


def test_an_executed_copy_is_the_same_each_time_and_names_no_machine(checkout: Path) -> None:
    folder = checkout / "reports" / "smoke" / "02_second"
    run_notebook("02_second")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"02_second.ipynb", "02_second.html"}
    run_notebook("02_second")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert not [name for name, content in first.items() if str(checkout.parent).encode() in content]
    assert b"data/runs" in first["02_second.ipynb"]


def test_an_executed_copy_runs_again_from_its_own_folder(checkout: Path, tmp_path: Path) -> None:
    run_notebook("01_first")
    copy = checkout / "reports" / "smoke" / "01_first" / "01_first.ipynb"
    again = papermill.execute_notebook(
        copy, tmp_path / "again.ipynb", {"ablation": {"epochs": 9}}, cwd=copy.parent, progress_bar=False
    )
    assert again.cells[-1].outputs[0].text.startswith("Some parameters differ")
    assert again.cells[-1].outputs[0].text.endswith("smoke 9\n")
    assert again.metadata.kernelspec.name == "python3"


def test_notebooks_run_at_once_and_from_any_folder(checkout: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "n2nlib", "run"]
    running = {
        folder: subprocess.Popen([*command, name], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name, folder in {"01_first": checkout, "03_third": checkout / "notebooks"}.items()
    }
    for process in running.values():
        assert process.wait(120) == 0, process.stderr.read()
    assert len([*(checkout / "reports/smoke").glob("*/*.html")]) == 2
    assert {path.name for path in checkout.iterdir()} == {"n2nlib", "notebooks", "params.yaml", "reports"}


def test_a_kernel_of_the_same_name_elsewhere_is_not_taken(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    argv = ["/nonexistent/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (foreign / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "?", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    run_notebook("01_first")
    assert (checkout / "reports/smoke/01_first/01_first.html").is_file()


def test_a_users_mistake_is_one_message_and_leaves_the_last_copy(
    checkout: Path, capfd: pytest.CaptureFixture
) -> None:
    run_notebook("01_first")
    folder = checkout / "reports" / "smoke" / "01_first"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    _write(checkout, "01_first", "1. First", "raise n2nlib.UserError('data/raw: no photographs')")
    with pytest.raises(UserError, match=r"^data/raw: no photographs$"):
        run_notebook("01_first")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_failure_leaves_a_copy_to_look_at_until_it_succeeds(checkout: Path) -> None:
    folder = checkout / "reports" / "smoke" / "03_third"
    _write(checkout, "03_third", "3. Third", "1 / 0")
    with pytest.raises(papermill.PapermillExecutionError, match="ZeroDivisionError"):
        run_notebook("03_third")
    assert [path.name for path in folder.iterdir()] == ["03_third.failed.ipynb"]
    assert "ZeroDivisionError" in (folder / "03_third.failed.ipynb").read_text()
    _write(checkout, "03_third", "3. Third")
    run_notebook("03_third")
    assert {path.name for path in folder.iterdir()} == {"03_third.ipynb", "03_third.html"}


def test_a_mistake_in_the_parameters_starts_no_kernel(checkout: Path) -> None:
    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(text.replace("\nablation: ", "\nablatoin: "))
    with pytest.raises(UserError, match="did you mean ablation"):
        run_notebook("01_first")
    (checkout / "params.yaml").write_text(text)
    with pytest.raises(UserError, match="01_first"):
        run_notebook("09_nothing")
    assert not (checkout / "reports").exists()


def test_a_page_keeps_alternative_texts_and_needs_no_network(checkout: Path) -> None:
    run_notebook("02_second")
    page = checkout / "reports" / "smoke" / "02_second" / "02_second.html"
    seen = _Seen(page)
    assert [image["alt"] for image in seen.every("img")] == [ALT]
    assert all(source.startswith("data:") for source in seen.loaded())
    assert not re.search(r"https?://|@import|url\(", page.read_text())
    assert seen.tables == ["scroll", "scroll"]
    code = sum(
        cell.cell_type == "code" for cell in nbformat.read(page.with_suffix(".ipynb"), as_version=4).cells
    )
    assert [one["class"] for one in seen.every("details")] == ["code"] * code
    assert not any("open" in one for one in seen.every("details"))
    assert "prefers-color-scheme: dark" in page.read_text()


def test_pages_lead_to_their_neighbours_and_the_index_to_them(checkout: Path) -> None:
    reports = checkout / "reports" / "smoke"
    for name in ("01_first", "02_second", "03_third"):
        run_notebook(name)
    links = {
        name: {
            one["rel"]: one["href"]
            for one in _Seen(reports / name / f"{name}.html").every("a")
            if "rel" in one
        }
        for name in ("01_first", "02_second", "03_third")
    }
    second = "../02_second/02_second.html"
    assert links == {
        "01_first": {"next": second},
        "02_second": {"prev": "../01_first/01_first.html", "next": "../03_third/03_third.html"},
        "03_third": {"prev": second},
    }
    seen = _Seen(reports / "index.html")
    pages = [one["href"] for one in seen.every("a")]
    assert pages == [f"{name}/{name}.html" for name in ("01_first", "02_second", "03_third")]
    assert all((reports / path).is_file() for path in pages)
    text = (reports / "index.html").read_text()
    assert "2. Second, &lt;with&gt; &amp; without" in text
    assert "Does <em>it</em> work?" in text
    assert "Question" not in text


def test_the_index_tells_what_there_is(checkout: Path) -> None:
    params = load_params()
    write_index(params)
    index = params.reports / "index.html"
    assert "No notebook has been run" in index.read_text()
    assert not _Seen(index).every("img")

    for name in ("01_data", "02_second", "03_ablation", "06_discussion", "07_beyond"):
        (params.reports / name).mkdir()
    header = "method,psnr_full,psnr_per_image,psnr_hvs_m,ssim\n"
    (params.reports / "01_data/baselines.csv").write_text(
        f"{header}noisy input,20.031,20,20,0.5\nGaussian blur,23.604,23,21,0.6\nmedian,22,22,21,0.6\n"
    )
    measured = {
        "final_psnr_full": 23.8,
        "final_report_full": 23.1,
        "final_test_full": 23.7,
    }
    (params.reports / "06_discussion/metrics.json").write_text(json.dumps(measured))
    finding = "1. **Sharpening.** It is 5 < 6 dB ([effects.csv](reports/smoke/06_discussion/effects.csv)).\n"
    finding += "\n| change | crops |\n|---|---|\n| ours | 0.1 |\n"
    (params.reports / "06_discussion/readme.md").write_text(finding)
    (params.reports / "06_discussion/effects.csv").touch()
    (params.reports / "07_beyond/best.json").write_text(
        json.dumps({"metrics": {"psnr_full": 24.2, "test_full": float("nan")}})
    )
    for figure in ("03_ablation/fig1_examples", "02_second/dots"):
        (params.reports / f"{figure}.png").write_bytes(PIXEL)
        (params.reports / f"{figure}.svg").write_text(
            f"<dc:description>{ALT.replace('&', '&amp;')}</dc:description>"
        )
    (params.reports / "paper.pdf").touch()
    (params.reports / "02_second/02_second.html").touch()
    write_index(params)
    seen, text = _Seen(index), index.read_text()
    rows = re.findall(
        r"<tr><td>(.*?)</td><td class=\"number\">(.*?)</td><td class=\"number\">(.*?)</td></tr>", text
    )
    assert [tuple(map(html.unescape, row)) for row in rows] == [
        ("noisy input", "20.03", "–"),
        ("final model, with the report's evaluation", "23.10", "–"),
        ("best classical method on validation: Gaussian blur", "23.60", "–"),
        ("final model, as trained", "23.80", "23.70"),
        ("best model", "24.20", "–"),
    ]
    assert "<strong>Sharpening.</strong> It is 5 &lt; 6 dB" in text
    assert text.count('<div class="scroll" tabindex="0"><table>') == text.count("<table>") == 2
    assert "06_discussion/effects.csv" in [one["href"] for one in seen.every("a")]
    assert [image["alt"] for image in seen.every("img")] == [ALT, ALT]
    assert [image["src"] for image in seen.every("img")] == [
        "03_ablation/fig1_examples.png",
        "02_second/dots.png",
    ]
    assert all((params.reports / one["href"]).is_file() for one in seen.every("a"))
    assert not re.search(r"https?://", text)
