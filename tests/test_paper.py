"""The paper: no result is typed into its prose, its sentences follow the numbers, and it has the pages of a paper."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import Project
from pypdf import PdfReader

from n2nlib.files import ROOT

LENGTH = r"\d+(?:\.\d+)?(?:pt|em|cm|fr)\b"  # layout, not results
UNITS = r"dB|%|pixels?|grey levels?|epochs?|runs?|images?|pairs?|seeds?|claims?|photographs?|seconds?|minutes?|hours?|s|min|h|MB|GB"


def _prose() -> str:
    text = (ROOT / "reports" / "paper.typ").read_text()
    _, prose = re.split(r"^// -+ prose$", text, flags=re.M)
    return re.sub(LENGTH, "", re.sub(r"^//.*$", "", prose, flags=re.M))


def _typed_numbers(prose: str) -> list[str]:
    """Digits with a decimal point, or with a unit after them."""
    return re.findall(rf"(?<![\w.#])\d+\.\d+|(?<![\w.#])\d+[\s~]*(?:{UNITS})(?!\w)", prose)


def test_no_number_is_typed_into_the_prose() -> None:
    assert _typed_numbers(_prose()) == []
    for typed in ("reaches 23.5", "by 3 dB", "over 12~runs", "95 % of", "a gain of 0.5"):
        assert _typed_numbers(_prose() + f"\nIt {typed}.\n")


@pytest.fixture(scope="module")
def project(smoke_project: Project) -> Project:
    return smoke_project


def _text(project: Project) -> str:
    pages = PdfReader(project.folder / "reports" / "smoke" / "paper.pdf").pages
    return " ".join(" ".join(page.extract_text() for page in pages).split())


def test_the_paper_has_its_parts(project: Project) -> None:
    reports = project.folder / "reports" / "smoke"
    assert 3 <= len(PdfReader(reports / "paper.pdf").pages) <= 5
    text = _text(project)
    for part in ("Abstract.", "Introduction", "Method", "Results", "Discussion", "Conclusion", "Appendix", "References", "How this was made."):
        assert part in text
    for name in ("Table I:", "Table II:", "Table III:", "Figure 1:", "Figure 2:"):
        assert name in text
    facts = json.loads((reports / "facts.json").read_text())
    assert f"commit {facts['commit'].split()[0]}" in text
    assert f"{json.loads((reports / 'metrics.json').read_text())['final_psnr_full']:.2f} dB" in text
    assert facts["runs"] == len({name.split("/")[1] for name in project.stored_runs()})  # one training can stand in two stages
    assert 'href="paper.pdf"' in (reports / "index.html").read_text()


def test_numbers_and_sentences_follow_the_results(project: Project) -> None:
    """A changed result changes the sentence around it; the copies are put back for the tests that follow."""
    reports = project.folder / "reports" / "smoke"
    changed = [reports / "metrics.json", reports / "tables" / "claims.csv"]
    before = {path: path.read_bytes() for path in [*changed, reports / "paper.pdf", reports / "facts.json"]}
    texts = {}
    for verdict in ("reproduced", "not reproduced", "inconclusive", "not tested at this scale"):
        claims = pd.read_csv(changed[1])
        claims["verdict"] = verdict
        claims.to_csv(changed[1], index=False)
        changed[0].write_text(re.sub(r'"final_psnr_full": [-\d.]+', '"final_psnr_full": 98.76', changed[0].read_text()))
        done = project.run(sys.executable, "-m", "n2nlib", "paper")
        assert done.returncode == 0, done.stderr
        texts[verdict] = _text(project)
    for path, content in before.items():
        path.write_bytes(content)
    assert all("98.76 dB" in text for text in texts.values())
    assert "it helps, as reported" in texts["reproduced"]
    assert "it hurts" in texts["not reproduced"]
    assert "the interval holds zero" in texts["inconclusive"]
    assert "These do not:" in texts["not reproduced"]
    assert "These do not:" not in texts["reproduced"]


def test_a_missing_result_is_a_message(project: Project) -> None:
    table: Path = project.folder / "reports" / "smoke" / "tables" / "references.csv"
    content = table.read_bytes()
    table.unlink()
    done = project.run(sys.executable, "-m", "n2nlib", "paper")
    table.write_bytes(content)
    assert done.returncode == 1
    assert "references.csv: missing" in done.stderr
    assert "Traceback" not in done.stderr
