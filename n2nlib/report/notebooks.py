"""Executed copies of the notebooks: papermill runs one, nbconvert makes a page of it; a user's mistake ends in one message."""

from __future__ import annotations

import html
import json
import logging
import re
import sys
from pathlib import Path

from n2nlib.files import ROOT, UserError, read_json, relative, write_json, write_text
from n2nlib.params import Params, load_params

NOTEBOOKS = ROOT / "notebooks"


TEMPLATE, INDEX = (Path(__file__).with_name(name) for name in ("page.html.j2", "index.html"))


def run_notebook(name: str) -> None:
    """Execute notebooks/<name>.ipynb under params.yaml; leave reports/<scale>/notebooks/<name>.ipynb and .html.

    What the notebook prints appears as it is printed. Raises `UserError` if the parameters or the notebook's work end in one, or if there
    is no such notebook; any other failure leaves <name>.failed.ipynb to look at.
    """
    params = load_params()  # a mistake in it ends here, before a kernel is started
    source = NOTEBOOKS / f"{name}.ipynb"
    if not source.is_file():
        names = ", ".join(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
        raise UserError(f"{name}: no such notebook; allowed: {names}")
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    target = params.reports / "notebooks" / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    running = target.with_name(f".{name}.running.ipynb")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    print(f"== {relative(source)} (scale {params.scale})", flush=True)
    try:
        papermill.execute_notebook(
            source,
            running,
            kernel_name="python3",
            progress_bar=False,
            cwd=ROOT,
            config=Config(
                {"KernelManager": {"transport": "ipc"}}
            ),  # no open ports, and no warning about them
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        if error.ename == "UserError":
            raise UserError(error.evalue) from None
        running.replace(target.with_suffix(".failed.ipynb"))
        raise
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # the interrupted cell is no news
        raise
    finally:
        if sys.exc_info()[0] is not None:
            running.unlink(missing_ok=True)
    executed = read_json(running)
    executed["metadata"]["papermill"] |= {
        "input_path": relative(source),
        "output_path": relative(target),
    }  # else paths of this machine
    write_json(running, executed)
    running.replace(target)
    target.with_suffix(".failed.ipynb").unlink(missing_ok=True)  # of an earlier try
    export_html(target, params)
    write_index(params)


def export_html(executed: Path, params: Params) -> None:
    """An executed notebook as one page beside it that needs no network; code is folded away."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(raw_template=TEMPLATE.read_text(encoding="utf-8"))
    exporter.register_preprocessor("nbconvert.preprocessors.TagRemovePreprocessor", enabled=True)
    exporter.embed_images = True
    page, _ = exporter.from_filename(str(executed), resources={"scale": params.scale})
    write_text(executed.with_suffix(".html"), page)


def write_index(params: Params) -> None:
    """reports/<scale>/index.html: the notebooks in reading order that have a page, each with its question and its first figure."""
    entries = []
    for source in sorted(NOTEBOOKS.glob("*.ipynb")):
        page = Path("notebooks") / f"{source.stem}.html"
        if not (params.reports / page).is_file():
            continue
        cells = [
            ("".join(cell["source"]), cell["cell_type"])
            for cell in json.loads(source.read_text(encoding="utf-8"))["cells"]
        ]
        title = cells[0][0].splitlines()[0].lstrip("# ")
        question = re.search(r"\*\*Asked:\*\*(.*?)\n\n", cells[0][0], re.DOTALL)
        figure = re.search(
            r'figures\.save\(figure, "(\w+)"', "\n".join(text for text, kind in cells if kind == "code")
        )
        picture = f'<img src="figures/{figure[1]}.png" alt="">' if figure else ""
        sentence = html.escape(" ".join(question[1].split())) if question else ""
        entries.append(
            f'<li><a href="{page}">{picture}<h2>{html.escape(title)}</h2></a><p>{sentence}</p></li>'
        )
    paper = (
        '<p><a href="paper.pdf">The paper (PDF)</a></p>' if (params.reports / "paper.pdf").is_file() else ""
    )
    text = (
        INDEX.read_text(encoding="utf-8")
        .replace("SCALE", params.scale)
        .replace("PAPER", paper)
        .replace("ENTRIES", "\n".join(entries))
    )
    write_text(params.reports / "index.html", text)
