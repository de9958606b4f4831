"""Executed notebooks and pages: papermill runs a notebook, nbconvert makes its page, jinja2 the index."""

from __future__ import annotations

import html
import json
import logging
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd

from n2nlib.files import ROOT, UserError, read_json, relative, write_text
from n2nlib.pairs import baselines
from n2nlib.params import Params, load_params, sections_of
from n2nlib.report.tables import HEADLINES

NOTEBOOKS = ROOT / "notebooks"
TEMPLATES = Path(__file__).parent
STYLE = (TEMPLATES / "page.css").read_text("utf-8")


def run_notebook(name: str) -> None:
    """Execute notebooks/<name>.ipynb under params.yaml into reports/<scale>/<name>/<name>.ipynb and .html.

    papermill injects the sections of params.yaml that the parameters cell lists. What the notebook prints
    appears as it is printed. Raises `UserError` if params.yaml is not valid, if there is no such notebook or
    if its work ends in one; any other failure leaves <name>.failed.ipynb to look at.
    """
    params = load_params()  # a mistake in it ends here, before a kernel is started
    source = NOTEBOOKS / f"{name}.ipynb"
    if not source.is_file():
        names = ", ".join(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
        raise UserError(f"{name}: no such notebook; allowed: {names}")
    print(f"== {relative(source)} (scale {params.scale})", flush=True)
    target = params.reports / name / source.name
    with tempfile.TemporaryDirectory(prefix="n2n-notebook-") as scratch:
        running = Path(scratch) / source.name
        try:
            _execute(source, running, params.used(sections_of(name)))
        except Exception as error:
            if getattr(error, "ename", "") == "UserError":  # papermill's error says what a cell raised
                raise UserError(error.evalue) from None
            if running.is_file():
                write_text(target.with_suffix(".failed.ipynb"), _settled(running, source, target))
            raise
        executed = _settled(running, source, target)
    write_text(target, executed)
    target.with_suffix(".failed.ipynb").unlink(missing_ok=True)  # of an earlier try
    write_page(target, params)
    write_index(params)


def _execute(source: Path, running: Path, parameters: dict[str, Any]) -> None:
    """Run `source` with papermill and the kernel of this environment."""
    import papermill
    from traitlets.config import Config

    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # not a kernel of the same name in the user's home
    sockets = {"transport": "ipc", "ip": str(running.with_name("kernel"))}  # files, so no ports are opened
    quiet = "__import__('logging').getLogger('tornado.general').setLevel(50)"  # a harmless race at shutdown
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        papermill.execute_notebook(
            source,
            running,
            parameters,
            kernel_name="python3",
            progress_bar=False,
            cwd=ROOT,
            config=Config({"KernelManager": sockets}),
            extra_arguments=[f"--IPKernelApp.exec_lines={quiet}"],
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # that the kernel was interrupted is no news
        raise


def _settled(running: Path, source: Path, target: Path) -> str:
    """The executed notebook without times, random names and this machine's paths.

    The same results give the same bytes, so that nothing after a notebook repeats for a new time stamp.
    """
    notebook = nbformat.read(running, as_version=4)
    about = notebook.metadata.papermill
    kept = {name: about[name] for name in ("default_parameters", "parameters", "version")}
    notebook.metadata.papermill = kept | {"input_path": relative(source), "output_path": relative(target)}
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
    text = nbformat.writes(notebook).replace(json.dumps(f"{ROOT}{os.sep}")[1:-1], "") + "\n"
    text = re.sub(r" at 0x[0-9a-f]+>", ">", text)
    for number, name in enumerate(dict.fromkeys(re.findall(r'id=\\"(T_[0-9a-f]{5})\\"', text))):
        text = text.replace(name, f"T_{number:05x}")  # pandas names styled tables at random
    return text


@dataclass(frozen=True)
class Page:
    """What the index and the links between pages say about one notebook."""

    name: str
    title: str
    question: str  # HTML

    @property
    def path(self) -> str:
        """Its page, from reports/<scale>/."""
        return f"{self.name}/{self.name}.html"

    def picture(self, params: Params) -> dict[str, str] | None:
        """The first figure that the notebook saves, as path from reports/<scale>/ and alternative text."""
        code = "\n".join(cell.source for cell in _cells(self.name) if cell.cell_type == "code")
        for name in re.findall(rf"['\"]({self.name}/\w+)['\"]", code):
            if (params.reports / f"{name}.png").is_file():
                return {"path": f"{name}.png", "alt": description(params.reports / f"{name}.svg")}
        return None


def _cells(name: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells


def pages() -> Iterator[Page]:
    """The numbered notebooks in reading order. Title and question are the first two paragraphs of each."""
    from nbconvert.filters import markdown2html

    for source in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        title, question, *_ = [*_cells(source.stem)[0].source.split("\n\n"), ""]
        question = re.sub(r"^\*\*\w+:\*\* *", "", question)  # **Question:**
        yield Page(source.stem, title.lstrip("# "), markdown2html(question[:1].upper() + question[1:]))


def description(svg: Path) -> str:
    """The description that `figures.save_figure` writes into a figure; "" without one."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", svg.read_text("utf-8"), re.DOTALL)
    return html.unescape(found[1]) if found else ""


def write_page(executed: Path, params: Params) -> None:
    """The page of an executed notebook, beside it. It needs no network, and its code is folded."""
    from nbconvert import HTMLExporter

    neighbours = list(pairwise(pages()))
    resources = {
        "name": executed.stem,
        "scale": params.scale,
        "style": STYLE,
        "previous": {after.name: before for before, after in neighbours}.get(executed.stem),
        "next": {before.name: after for before, after in neighbours}.get(executed.stem),
    }
    template = (TEMPLATES / "page.html.j2").read_text("utf-8")
    exporter = HTMLExporter(raw_template=template, embed_images=True, filters={"boxed": _boxed})
    exporter.register_preprocessor("nbconvert.preprocessors.CoalesceStreamsPreprocessor", enabled=True)
    page, _ = exporter.from_notebook_node(nbformat.read(executed, as_version=4), resources)
    write_text(executed.with_suffix(".html"), page)


def _boxed(text: str) -> str:
    """HTML in which every table scrolls in a box of its own, so that a wide one does not move the page."""
    box = '<div class="scroll" tabindex="0">'
    return text.replace("<table", f"{box}<table").replace("</table>", "</table></div>")


def write_index(params: Params) -> None:
    """reports/<scale>/index.html: the result first, then the pages that there are, in reading order."""
    from nbconvert.filters import markdown2html

    folder = params.reports
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    figure, findings = folder / "03_ablation" / "fig1_examples.svg", folder / "06_discussion" / "readme.md"
    found = findings.read_text("utf-8") if findings.is_file() else ""
    found = found.replace(f"](reports/{params.scale}/", "](")
    listed, effects = (_boxed(markdown2html(part)) for part in found.partition("\n\n")[::2])
    links = {"Our paper (PDF)": "paper.pdf", "Headline numbers (JSON)": "06_discussion/metrics.json"}
    there = [page for page in pages() if (folder / page.path).is_file()]
    text = environment.get_template("index.html.j2").render(
        scale=params.scale,
        style=STYLE,
        headlines=_headlines(folder),
        figure=description(figure) if figure.is_file() else None,
        links={words: path for words, path in links.items() if (folder / path).is_file()},
        findings=listed,
        effects=effects,
        pages=[(page, page.picture(params)) for page in there],
    )
    write_text(folder / "index.html", text)


def _headlines(folder: Path) -> list[tuple[str, list[str]]]:
    """(images or model, [global PSNR on validation, on test]) in dB, of what the stages have left so far."""

    def read(name: str) -> dict[str, Any]:
        return read_json(folder / name) if (folder / name).is_file() else {}

    metrics, best = read("06_discussion/metrics.json"), read("07_beyond/best.json").get("metrics", {})
    metrics |= {f"best_{name}": value for name, value in best.items()}
    rows = HEADLINES | {"best model": ("best_psnr_full", "best_test_full")}
    values = {name: [metrics.get(key, math.nan) for key in keys] for name, keys in rows.items()}
    paths = [folder / "01_data" / f"{name}.csv" for name in ("baselines", "baselines_test")]
    if paths[0].is_file():
        validation, test = (pd.read_csv(path) if path.is_file() else pd.DataFrame() for path in paths)
        noisy = [float(one["psnr_full"][0]) if len(one) else math.nan for one in (validation, test)]
        values["noisy input"] = noisy
        name, db = baselines.best(validation)
        test_db = float(test.set_index("method")["psnr_full"][name]) if len(test) else math.nan
        values[f"best classical method on validation: {name}"] = [db, test_db]
    found = {name: two for name, two in values.items() if not all(map(math.isnan, two))}
    lowest_first = sorted(found.items(), key=lambda item: (item[0] != "noisy input", item[1][0]))
    return [(name, ["–" if math.isnan(one) else f"{one:.2f}" for one in two]) for name, two in lowest_first]
