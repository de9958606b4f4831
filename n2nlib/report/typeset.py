"""reports/<scale>/paper.pdf: the template reports/paper.typ typeset over the results of one scale.

`contents` gathers what the paper shows into reports/<scale>/paper.json, as finished text. The template
chooses between sentences and lays them out; it calculates and formats nothing.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib
from ruamel.yaml import YAML

from n2nlib.files import ROOT, UserError, git, read_json, relative, replacing, write_json
from n2nlib.params import Params, load_params
from n2nlib.report import paper_tables, paper_text, tables
from n2nlib.report.notebooks import description, write_index
from n2nlib.train.sweep import duration

SOURCE = ROOT / "reports" / "paper.typ"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # those of the figures


def write_paper(params: Params) -> None:
    """Gather paper.json, typeset paper.pdf, and write the index again.

    Raises `UserError` if a result is missing or if the template does not compile.
    """
    import typst

    write_json(params.reports / "paper.json", contents(params))
    target = params.reports / "paper.pdf"
    try:
        with replacing(target) as temporary:
            typst.compile(
                str(SOURCE),
                output=str(temporary),
                root=str(ROOT),
                format="pdf",
                font_paths=[str(FONTS)],
                ignore_system_fonts=True,
                sys_inputs={"scale": params.scale},
            )
    except typst.TypstError as error:
        problem = f"does not compile over {relative(params.reports)}: {error}"
        raise UserError(f"{relative(SOURCE)}: {problem}") from error
    write_index(params)
    print(f"{relative(target)}: typeset from the results of scale {params.scale}", flush=True)


def contents(params: Params) -> dict[str, Any]:
    """What paper.json holds. Raises `UserError` that names the notebook to run if a result is missing."""
    weighed = tables.load("06_discussion/claims", params)
    longer = paper_text.published_length(params)
    names = re.findall(r'picture\("(\w+/\w+)"', SOURCE.read_text("utf-8"))
    figures = {name: tables.existing(params.reports / f"{name}.svg") for name in names}
    return {
        "about": _about(params),
        "figures": {
            name: {"path": f"/{path.relative_to(ROOT).as_posix()}", "alt": description(path)}
            for name, path in figures.items()
        },
        "facts": paper_text.facts(params, weighed, longer),
        "claims": paper_text.claims_in_words(weighed).to_dict("index"),
        "effects": paper_text.effects_in_words(params),
        "studies": paper_text.studies(params),
        "differences": paper_text.model_differences(params),
        "tables": paper_tables.all_tables(params, weighed, longer),
    }


def _command(params: Params) -> str:
    """What rebuilds these results: `make paper` with a scale of params/, or with params.yaml as it stands."""
    path, pairs = ROOT / "params" / f"{params.scale}.yaml", params.pairs
    own = {"source": "folder", "path": pairs.path} if pairs.source == "folder" else {}
    if not path.is_file() or load_params(path, {"pairs": own}).hash() != params.hash():
        return "make paper"
    return f"make paper SCALE={params.scale}{' PHOTOS=<folder>' * bool(own)}"


def _about(params: Params) -> dict[str, Any]:
    """Title and authors, and what trained and how to rebuild, from the provenance of the result folders."""
    citation = YAML(typ="safe", pure=True).load((ROOT / "CITATION.cff").read_text("utf-8"))
    found = {path.parent.name: read_json(path) for path in sorted(params.reports.glob("*/provenance.json"))}
    if not found:
        raise UserError(f"{relative(params.reports)}: no provenance.json; run the notebooks (dvc repro)")
    runs_of = {notebook: set().union(*one["files"].values()) for notebook, one in found.items()}
    names = set().union(*runs_of.values())
    # Notebooks from 06 on reproduce nothing of the report.
    reproducing = set().union(*(these for notebook, these in runs_of.items() if notebook < "06"))
    seconds = {name: value for one in found.values() for name, value in one.get("seconds", {}).items()}
    committed = git("show", "-s", "--format=%cs", "HEAD").strip()  # "" outside of git
    return {
        "title": citation["title"],
        "authors": [
            one.get("name") or f"{one['given-names']} {one['family-names']}" for one in citation["authors"]
        ],
        "version": str(citation["version"]),
        "date": f"{date.fromisoformat(committed):%d %B %Y}".lstrip("0") if committed else "",
        "scale": params.scale,
        "runs": f"{len(names):,}",
        "reproducing": f"{len(reproducing):,}",
        "further": f"{len(names - reproducing):,}",
        "time": duration(sum(seconds[name] for name in names)) if names <= set(seconds) else "",
        "machines": "; ".join(sorted({machine for one in found.values() for machine in one["machines"]})),
        "versions": ", ".join(
            f"{name} {version}" for name, version in list(found.values())[-1]["versions"].items()
        ),
        "parameters": params.hash()[:12],
        "commit": tables.commit(),
        "command": _command(params),
    }
