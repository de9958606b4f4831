"""Executed copies of the notebooks: papermill runs one, nbconvert makes a page of it; a user's mistake ends in one message."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from n2nlib.files import ROOT, UserError, relative, write_text
from n2nlib.params import Params, load_params

NOTEBOOKS = ROOT / "notebooks"
TEMPLATE = Path(__file__).with_name("page.html.j2")


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
            config=Config({"KernelManager": {"transport": "ipc"}}),  # no open ports, and no warning about them
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
    running.replace(target)
    export_html(target, params)


def export_html(executed: Path, params: Params) -> None:
    """An executed notebook as one page beside it that needs no network; code is folded away."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(raw_template=TEMPLATE.read_text(encoding="utf-8"))
    exporter.register_preprocessor("nbconvert.preprocessors.TagRemovePreprocessor", enabled=True)
    exporter.embed_images = True
    page, _ = exporter.from_filename(str(executed), resources={"scale": params.scale})
    write_text(executed.with_suffix(".html"), page)
