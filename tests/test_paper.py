"""Our paper: no result is typed into its prose, and its sentences and tables follow the results."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import typst
import yaml
from conftest import Project
from pypdf import PdfReader

from n2nlib.experiments import claims, published
from n2nlib.files import ROOT, UserError
from n2nlib.params import Params, load_params
from n2nlib.report import paper_tables, paper_text, tables, typeset, wording
from n2nlib.report.typeset import FONTS

LAYOUT = r"\d+(?:\.\d+)?(?:pt|em|cm|fr)\b|\w+: \d+%"  # lengths and shares, not results
UNITS = (
    r"dB|%|pixels?|grey levels?|epochs?|runs?|images?|pairs?|seeds?|claims?|photographs?|seconds?|minutes?|"
    r"hours?|s|min|h|MB|GB"
)
PLACEHOLDER = "https://example.org/n2nlib"  # to be replaced in CITATION.cff once the project has an address
VERDICTS = ("reproduced", "not reproduced", "too small to matter", "inconclusive", "not tested")


# The template


def _prose() -> str:
    text = (ROOT / "reports" / "paper.typ").read_text(encoding="utf-8")
    _, prose = re.split(r"^// -+ prose$", text, flags=re.MULTILINE)
    return re.sub(LAYOUT, "", re.sub(r"^//.*$", "", prose, flags=re.MULTILINE))


def _typed_numbers(prose: str) -> list[str]:
    """Digits with a decimal point, or with a unit after them."""
    return re.findall(rf"(?<![\w.#])\d+\.\d+|(?<![\w.#])\d+[\s~]*(?:{UNITS})(?!\w)", prose)


def test_no_number_is_typed_into_the_prose() -> None:
    assert _typed_numbers(_prose()) == []
    for typed in ("reaches 23.5", "by 3 dB", "over 12~runs", "95 % of", "a gain of 0.5"):
        assert _typed_numbers(_prose() + f"\nIt {typed}.\n")


def test_every_reference_can_be_found_and_is_cited() -> None:
    entries = re.split(r"^@", (ROOT / "reports" / "references.bib").read_text("utf-8"), flags=re.MULTILINE)[
        1:
    ]
    for entry in entries:
        name = re.match(r"\w+\{(\w+),", entry)[1]
        assert f"@{name}" in _prose()
        assert "year = " in entry
        fields = set(re.findall(r"^  (\w+) = ", entry, re.MULTILINE))
        if name in ("report", "repository"):  # by the same students, who published them at one address
            assert "url" in fields
        elif name == "davies":
            assert {"publisher", "isbn"} <= fields
        else:
            assert {"pages"} <= fields
            assert fields & {"booktitle", "journal"}
            assert "doi" in fields or name == "hvsm"  # a workshop without DOIs


def test_the_citation_agrees_with_project_and_bibliography() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["repository-code"] == citation["url"] == PLACEHOLDER
    assert {"abstract", "authors", "keywords", "license", "message", "title", "type"} <= set(citation)
    assert str(citation["date-released"])
    assert citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert citation["version"] == project["version"]
    report, noise2noise = citation["references"]
    bibliography = (ROOT / "reports" / "references.bib").read_text("utf-8")
    for one, name in ((report, "report"), (noise2noise, "lehtinen")):
        entry = bibliography.split(f"{{{name},", 1)[1].split("\n}", 1)[0].replace("{", "").replace("}", "")
        assert f"title = {one['title']}," in entry
        authors = [f"{author['family-names']}, {author['given-names']}" for author in one["authors"]]
        assert f"author = {' and '.join(authors)}," in entry
        assert f"year = {one['year']}," in entry
    assert noise2noise["doi"] in bibliography
    assert f"{noise2noise['start']}--{noise2noise['end']}" in bibliography


# What paper.json is made of


def test_numbers_are_written_for_print() -> None:
    assert paper_text.decibels(23.567) == "23.57\xa0dB"
    assert paper_text.change(0.314, -0.001, 0.5) == "+0.31\xa0dB [0.00,\xa0+0.50]"
    assert paper_text.change(-1.5, unit="") == "−1.50"
    assert paper_text.change(float("nan")) == "–"


def _settings(params: Params) -> dict[str, str]:
    found = paper_tables.settings(params)
    assert found["setting"].is_unique
    return found.set_index("setting")["ours"].to_dict()


def _differing(params: Params) -> set[str]:
    return {name for name, ours in _settings(params).items() if re.fullmatch(r"\*[^*]+\*", ours)}


def test_departures_follow_the_parameters() -> None:
    paper = load_params(ROOT / "params" / "paper.yaml")
    changes = {
        "pairs": {"source": "ee559", "path": None, "test": 0, "train": 50_000},
        "training": {"warmup": 0.0, "flips": "batch", "shared_noise": True},
        "ablation": {
            "seeds": [0],
            "learning_rates": {"adam": {"l1": 1e-4, "mse": 1e-5}, "sgd": {"l1": 1e-5, "mse": 1e-6}},
        },
        "fine_tuning": {"tau_sharp": [1.0, 2.0]},
    }
    as_published = load_params(ROOT / "params" / "paper.yaml", changes)
    # Of these the report and its code have several, or do not say.
    always = {"Batch", "Epochs, Table I", "Epochs, Fig. 2", "Precision", "Evaluation"}
    assert _differing(as_published) == always
    assert published.is_published_experiment(as_published)
    for section, shorter in (("fine_tuning", {"final_epochs": 19}), ("curves", {"crops_epochs": 99})):
        over = changes | {section: changes.get(section, {}) | shorter}
        assert not published.is_published_training(load_params(ROOT / "params" / "paper.yaml", over))
    for section, changed in (
        ("training", {"warmup": 0.1}),
        ("training", {"local_crop": [0.1, 0.4]}),
        ("pairs", {"train": 40_000}),
        ("ablation", {"annealing_steps": 2}),
        ("fine_tuning", {"tau_sharp": [1.0]}),
    ):
        over = changes | {section: changes[section] | changed}
        assert len(_differing(load_params(ROOT / "params" / "paper.yaml", over)) - always) == 1
    assert {"Photographs", "Part of a photograph", "Test pairs", "Warm-up"} < _differing(paper)
    rates = {"learning_rates": {"adam": {"l1": 2.5e-4, "mse": 1e-3}}}
    adam = _settings(load_params(ROOT / "params" / "paper.yaml", {"ablation": rates}))
    assert adam["Adam: rate for L1, MSE"] == "*2.5\xa0×\xa010⁻⁴, 10⁻³*"


@pytest.fixture
def longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results of scale paper in a checkout with nothing else: a Table I at the published length.

    It is the report's own, as if it were ours, without the columns of the report's evaluation.
    """
    shutil.copytree(ROOT / "params", tmp_path / "params")
    for module in ("n2nlib.report.paper_text", "n2nlib.params"):
        monkeypatch.setattr(f"{module}.ROOT", tmp_path)
    folder = tmp_path / "reports" / "paper"
    (folder / "03_ablation").mkdir(parents=True)
    table = published.table1().assign(seed=0, psnr_full=lambda frame: frame["psnr_mean"], run="a")
    table.to_csv(folder / "03_ablation" / "table1_ablation.csv", index=False)
    table.assign(epoch=20, images=1_000_000).to_csv(folder / "03_ablation" / "progress.csv", index=False)
    (folder / "01_data").mkdir()
    classical = pd.DataFrame({"method": ["noisy input"], "psnr_full": [published.NOISY_PSNR]})
    classical.to_csv(folder / "01_data" / "baselines.csv", index=False)
    return folder


def test_the_published_length_needs_no_second_evaluation(longer: Path, params: Params) -> None:
    found = paper_text.published_length(params)
    verdicts = found.set_index("claim")["verdict"]
    assert verdicts["sharpening_better"] == "reproduced"
    assert verdicts["adam_faster"] == "not tested"
    assert verdicts["high_rates_fail"] == "reproduced"  # by the committed search for rates of scale paper
    assert paper_text.published_length(params.model_copy(update={"scale": "paper"})) is None
    rows, head = paper_tables.verdicts(found, found)
    assert rows.iloc[:, -1].tolist() == verdicts.tolist()
    assert len(head) == rows.shape[1]


def test_the_claims_of_scale_paper_are_preferred_to_its_table(longer: Path, params: Params) -> None:
    (longer / "06_discussion").mkdir()
    found = pd.DataFrame({"claim": ["adam_faster"], "verdict": ["reproduced"]})
    found.to_csv(longer / "06_discussion" / "claims.csv", index=False)
    assert paper_text.published_length(params)["verdict"].tolist() == ["reproduced"]


def test_a_shorter_training_is_not_called_the_published_length(longer: Path, params: Params) -> None:
    path = longer / "03_ablation" / "progress.csv"
    table = pd.read_csv(path)
    table.loc[3, "images"] = 10_000  # one run diverged
    table.to_csv(path, index=False)
    assert paper_text.published_length(params) is not None
    table.assign(images=999_999).to_csv(path, index=False)  # what trained counts, not params/paper.yaml
    assert paper_text.published_length(params) is None
    path.unlink()
    assert paper_text.published_length(params) is None


def test_settings_at_the_published_length_are_those_that_trained(longer: Path, params: Params) -> None:
    def column() -> dict[str, str] | None:
        frame, head = paper_tables.beside_the_report(params, longer=True)
        assert len(head) == frame.shape[1]
        return frame.set_index("setting")["longer"].to_dict() if "longer" in frame else None

    assert column() is None  # there is no provenance
    provenance = longer / "03_ablation" / "provenance.json"
    provenance.write_text('{"scale": "paper"}')
    assert column() is None
    used = load_params(ROOT / "params" / "paper.yaml").used(["pairs", "model", "training", "ablation"])
    used["training"]["batch_size"] = 77
    used["ablation"]["seeds"] = [0]
    provenance.write_text(json.dumps({"parameters": used}))
    found = column()
    assert (found["Batch"], found["Seeds, Table I"], found["Channels"]) == ("*77*", "1", "48")
    assert found["Evaluation"] == "*as trained*"
    untrained = {name for name, cell in found.items() if cell == "not trained"}
    assert untrained == {name for name in found if re.search("Fig. 2|Table III|final model", name)}
    (longer / "04_candidate_curves").mkdir()
    assert column()["Epochs, Fig. 2"] == "*200*"
    provenance.write_text(json.dumps({"parameters": {"training": {"unknown": 1}}}))
    assert column() is None


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty result folder."""
    monkeypatch.setattr(Params, "reports", property(lambda self: tmp_path))
    for name in ("01_data", "03_ablation", "04_candidate_curves", "07_beyond"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_several_seeds_have_intervals_and_failures_are_counted(reports: Path, params: Params) -> None:
    def write(name: str, **columns: list) -> None:
        pd.DataFrame(columns).to_csv(reports / f"{name}.csv", index=False)

    setting = {"loss": "mse", "optimizer": "sgd", "sharpen": True, "crops": False, "arch": "tconv"}
    psnr = {"psnr_mean": [23.0, 24.0, 9.0], "psnr_full": [23.0, 24.0, 9.0], "psnr_std": [0.1] * 3}
    write("03_ablation/table1_ablation", **{name: [value] * 3 for name, value in setting.items()}, **psnr)
    write("01_data/baselines", method=["noisy input", "median (radius 1)"], psnr_full=[20.0, 22.0])
    write(
        "04_candidate_curves/table2_candidates",
        candidate=["A", "3"],
        **{k: [v] * 2 for k, v in setting.items()},
    )
    frame, head = paper_tables.ablation(params)
    ours, report = (head.index(f"TConv|{name}") for name in ("as trained", "the report"))
    assert frame.iloc[0, ours] == "*23.50 ± 0.10 (1 of 3)*"
    assert frame.iloc[0, report] == "*23.62 ± 0.11*"

    write(
        "07_beyond/beyond_effects",
        study=["crops", "targets", "targets, as published"],
        what=["70–100 % − none", "clean − noisy", "clean − noisy"],
        estimate=[-0.2, 0.1, 0.3],
        low=[-0.3, -0.1, 0.2],
        high=[-0.1, 0.3, 0.4],
    )
    assert paper_text.studies(params) == {
        "crops": "−0.20\xa0dB [−0.30,\xa0−0.10] (70–100 %)",
        "targets": "+0.10\xa0dB [−0.10,\xa0+0.30] (clean); "
        "+0.30\xa0dB [+0.20,\xa0+0.40] (clean, as published)",
    }
    models = ["final model", "best model", "best model, trained on clean targets"]
    write(
        "07_beyond/differences",
        what=[f"{name} − median (radius 1)" for name in models] + [f"{models[1]} − {models[2]}"],
        estimate=[-1.0, 1.0, 1.1, -0.1],
        low=[float("nan"), 0.8, 0.9, -0.3],
        high=[float("nan"), 1.2, 1.3, 0.1],
        seeds=[1, 3, 3, 1],
    )
    found = paper_text.model_differences(params)
    unknown = "−1.00\xa0dB (no interval: too few photographs)"
    assert found["final model"] == {"name": "median (radius 1)", "classical": unknown}
    assert found["best model"] == {
        "name": "median (radius 1)",
        "classical": "+1.00\xa0dB [+0.80,\xa0+1.20] (better; 3 seeds)",
        "twin": "−0.10\xa0dB [−0.30,\xa0+0.10] (inconclusive; one seed)",
    }


# The typeset paper, over the results of scale smoke


@pytest.fixture(scope="module")
def project(smoke_project: Project) -> Iterator[Project]:
    """The rebuilt copy; what the tests change is put back."""
    reports = smoke_project.reports()
    before = {path: path.read_bytes() for path in reports.rglob("*") if path.is_file()}
    yield smoke_project
    for path, content in before.items():
        path.write_bytes(content)


def _pages(project: Project) -> list[str]:
    return _read_pages((project.reports() / "paper.pdf").read_bytes())


@cache
def _read_pages(pdf: bytes) -> list[str]:
    return [" ".join(page.extract_text().split()) for page in PdfReader(io.BytesIO(pdf)).pages]


def _paper(project: Project) -> dict:
    return json.loads((project.reports() / "paper.json").read_text("utf-8"))


def _table(project: Project, name: str) -> pd.DataFrame:
    return pd.read_csv(project.reports() / f"{name}.csv")


def test_the_paper_has_its_parts_in_order(project: Project) -> None:
    pages, paper = _pages(project), _paper(project)
    assert 5 <= len(pages) <= 8
    text = " ".join(pages)
    about, citation = paper["about"], yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (about["title"], about["version"]) == (citation["title"], citation["version"])
    assert about["authors"] == [
        one.get("name") or f"{one['given-names']} {one['family-names']}" for one in citation["authors"]
    ]
    front = [about["title"], *about["authors"], "Abstract.", "1 Introduction", "2 Related work", "3 Method"]
    later = ["Limitations", "Reproducibility", "References"]
    places = [text.index(part) for part in front] + [text.rindex(part) for part in later]
    assert places == sorted(places)
    assert all(f"({number})" in text for number in (1, 2, 3))  # the equations
    assert about["commit"].split()[0] in text
    assert about["machines"] in text
    assert f"We train {about['reproducing']} networks to reproduce the report" in pages[0]
    assert int(about["reproducing"]) + int(about["further"]) == int(about["runs"])
    assert int(about["runs"]) == len({name.split("/")[1] for name in project.stored_runs()})
    hidden = paper["facts"]["failed"] == "0"  # then there is nothing to see in the figure of failures
    for kind, count in (("Figure", len(paper["figures"]) - hidden), ("Table", len(paper["tables"]))):
        captions = [
            next(page for page, said in enumerate(pages) if re.search(rf"{kind} {number}: ", said))
            for number in range(1, count + 1)
        ]
        assert captions == sorted(captions)


def test_the_prose_has_no_code_in_it(project: Project) -> None:
    text = " ".join(_pages(project)).replace("deeplearning_project", "")
    assert re.findall(r"\b[a-z]+_[a-z_]+\b|\bn2nlib\b|\bTrue\b|\bnan\b|\bNone\b", text) == []


def test_the_tables_are_those_of_the_results(project: Project) -> None:
    found = _paper(project)["tables"]
    claims, references = _table(project, "06_discussion/claims"), _table(project, "07_beyond/references")
    verdicts = found["verdicts"]
    assert [row[4] for row in verdicts["rows"]] == claims["verdict"].tolist()
    statements = [f"{row[0]}: {row[1]}" for row in verdicts["rows"]]
    assert statements == claims["statement"].tolist()
    assert [row[:2] for row in found["models"]["rows"]] == [
        [row.method, f"{row.psnr_full:.2f}".replace("-", "−")] for row in references.itertuples()
    ]
    table1 = _table(project, "03_ablation/table1_ablation")
    noisy = _table(project, "01_data/baselines")["psnr_full"][0]
    cells = [cell.strip("*") for row in found["ablation"]["rows"] for cell in row]
    assert cells.count("failed") >= (table1["psnr_full"] < noisy).sum()  # one seed: a cell is a run
    printed = {f"{row.psnr_mean:.2f} ± {row.psnr_std:.2f}" for row in published.table1().itertuples()}
    assert printed <= set(cells)
    for sheet in found.values():
        assert all(len(row) == len(sheet["head"]) for row in sheet["rows"])
        assert sum(span for _, span in sheet["groups"]) in (0, len(sheet["head"]))


def test_cells_of_table_i_are_the_runs() -> None:
    laptop = load_params(ROOT / "params" / "laptop.yaml")  # its runs do not fail, and it has one seed
    table1 = tables.load("03_ablation/table1_ablation", laptop)
    alive = table1[table1["psnr_full"] >= tables.load("01_data/baselines", laptop)["psnr_full"][0]]
    cells = {str(cell).strip("*") for cell in paper_tables.ablation(laptop)[0].to_numpy().ravel()}
    assert len(alive) > 10
    assert {f"{row.psnr_mean:.2f} ± {row.psnr_std:.2f}" for row in alive.itertuples()} <= cells


def test_sentences_follow_the_verdicts(project: Project, tmp_path: Path) -> None:
    known = _paper(project)["claims"]

    def text(trained: str, evaluated: str) -> str:
        verdicts = {"verdict": trained, "verdict_evaluated": evaluated}
        verdicts |= {"ours": "–"} if trained == "not tested" else {"ours": "+0.10 dB"}
        claims = {name: claim | verdicts for name, claim in known.items()}
        gain = wording.where_the_gain_is(trained, evaluated)
        return _variant(project, tmp_path, claims, sharpening=gain)

    texts = {verdict: text(verdict, verdict) for verdict in VERDICTS}
    sentences = {  # two each, because a column may end within one
        "reproduced": ("TConv is worse here, too.", "Adam is better, as the report says."),
        "not reproduced": ("That TConv is worse by 0.12", "That Adam is better by 0.12"),
        "too small to matter": (
            "At this length of training the difference is too",
            "The optimisers differ too little to matter.",
        ),
        "inconclusive": ("Whether TConv is worse stays open.", "Which of them is better stays open."),
        "not tested": ("This scale does not train the report’s candidates.", "is not tested at this scale"),
    }
    for verdict, said in sentences.items():
        holds = [name for name, found in texts.items() if any(sentence in found for sentence in said)]
        assert holds == [verdict], said
    main = {
        "Our networks show the gain in both evaluations": ["reproduced"],
        "Our networks show this gain in neither evaluation": ["not reproduced", "too small to matter"],
        "This scale leaves open where the gain comes from": ["inconclusive", "not tested"],
    }
    for sentence, verdicts in main.items():
        assert [name for name, said in texts.items() if sentence in said] == verdicts
    finding = "So the gain comes from the way in which networks are evaluated."
    assert finding in text("too small to matter", "reproduced")
    assert not any(finding in said for said in texts.values())


def _variant(project: Project, folder: Path, claims: dict | None = None, **facts: object) -> str:
    """The text of the paper with other claims and facts than scale smoke has; divided words are whole."""
    paper = _paper(project)
    paper["facts"] |= facts
    paper["claims"] = claims or paper["claims"]
    source = project.folder / "reports" / "variant" / "paper.json"
    source.parent.mkdir(exist_ok=True)
    for figure in paper["figures"].values():  # only text is read, and outlines take long to read past
        drawn = (project.folder / figure["path"].lstrip("/")).read_text("utf-8")
        blank = source.parent / Path(figure["path"]).name
        blank.write_text(f"{re.search(r'<svg[^>]*>', drawn)[0]}</svg>", "utf-8")
        figure["path"] = f"/reports/variant/{blank.name}"
    source.write_text(json.dumps(paper), "utf-8")
    typst.compile(
        str(project.folder / "reports" / "paper.typ"),
        output=str(folder / "paper.pdf"),
        root=str(project.folder),
        font_paths=[str(FONTS)],
        ignore_system_fonts=True,
        sys_inputs={"scale": "variant"},
    )
    text = " ".join(page.extract_text() for page in PdfReader(folder / "paper.pdf").pages)
    return " ".join(text.replace("-\n", "").split())


def test_the_training_is_called_published_as_far_as_it_is(project: Project, tmp_path: Path) -> None:
    sentences = {
        (False, False): "The training is shorter than the report’s",
        (True, False): "The training is as long as the report’s, but the photographs are others",
        (True, True): "The images and the length of training are the report’s",
    }
    for (training, images), sentence in sentences.items():
        text = _variant(project, tmp_path, published_training=training, published_images=images)
        assert [said for said in sentences.values() if said in text] == [sentence]
        assert "published experiment" not in text  # batch, rates and crops differ in any case


def test_without_test_images_the_paper_says_what_its_numbers_are_read_on(
    project: Project, tmp_path: Path
) -> None:
    sentences = (
        "There are no test images, so every",  # a column may end behind it
        "validation images, on which settings were chosen, the final model reaches",
        "There is no test set, so all numbers are measured on these images",
    )
    without = _variant(project, tmp_path, test=False)
    assert [said for said in sentences if said in without] == list(sentences)
    assert "measured on the test images, too" not in without
    assert not any(said in _variant(project, tmp_path, test=True) for said in sentences)


def test_no_rate_of_wrong_verdicts_is_claimed_below_three_seeds(project: Project, tmp_path: Path) -> None:
    rated = _variant(project, tmp_path, rated=7, chance_errors="0.2")
    assert "of the 7 verdicts that rest on three seeds or more, we expect at most 0.2 to be wrong" in rated
    assert "rests on three seeds, so we state no error rate" in _variant(project, tmp_path, rated=0)


READ = """
import json, sys
opened = set()
sys.addaudithook(lambda event, given: opened.add(str(given[0])) if event == "open" else None)
from n2nlib.params import load_params
from n2nlib.report import typeset
figures = typeset.contents(load_params())["figures"].values()
print(json.dumps(sorted(opened | {typeset.ROOT.as_posix() + one["path"] for one in figures})))
"""


def test_the_stage_depends_on_every_file_that_is_read(project: Project) -> None:
    opened = json.loads(project.succeed(sys.executable, "-c", READ).splitlines()[-1])
    inside = {Path(path) for path in opened if path.startswith(f"{project.folder}/")}
    read = {
        path.relative_to(project.folder).as_posix() for path in inside if path.suffix not in (".py", ".pyc")
    }
    read = {
        path for path in read if not path.startswith((".git/", "data/runs/"))
    }  # runs are named in results
    assert {"reports/smoke/06_discussion/claims.csv", "reports/smoke/07_beyond/studies.svg"} <= read
    stage = yaml.safe_load((project.folder / "dvc.yaml").read_text("utf-8"))["stages"]["paper"]
    deps = [path.replace("${scale}", "smoke") for path in stage["deps"]]
    assert {"reports/paper.typ", "reports/references.bib"} <= set(deps)  # typst reads them
    read -= {"params.yaml"}  # its sections are the params of the stage
    assert [path for path in sorted(read) if not path.startswith(tuple(deps))] == []


def test_a_changed_number_changes_the_text(project: Project) -> None:
    path = project.reports() / "07_beyond" / "references.csv"
    before = path.read_bytes()
    table = pd.read_csv(path)
    table.loc[table["method"] == "final model", "psnr_full"] = 98.7654
    table.to_csv(path, index=False)
    project.n2n("paper")
    first = PdfReader(project.reports() / "paper.pdf").pages[0].extract_text()
    assert "the final model reaches 98.77 dB" in " ".join(first.split())
    path.write_bytes(before)


MISSING = """
import json, sys
from n2nlib.files import UserError
from n2nlib.params import load_params
from n2nlib.report import typeset
params, said = load_params(), {}
for name in sys.argv[1:]:
    path = params.reports / name
    content = path.read_bytes()
    path.unlink()
    try:
        typeset.write_paper(params)
    except UserError as error:
        said[name] = str(error)
    finally:
        path.write_bytes(content)
print(json.dumps(said))
"""


def test_a_missing_result_is_a_message_that_names_its_notebook(project: Project) -> None:
    names = ["07_beyond/references.csv", "06_discussion/effects.csv", "03_ablation/failures.svg"]
    paper = project.reports() / "paper.pdf"
    before = paper.read_bytes()
    said = json.loads(project.succeed(sys.executable, "-c", MISSING, *names).splitlines()[-1])
    assert list(said) == names
    for name, message in said.items():
        assert f"{name}: missing; run notebook {name.split('/')[0]} first" in message
        assert len(message.splitlines()) == 1
    assert paper.read_bytes() == before


def test_a_template_that_does_not_compile_is_a_message(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Params
) -> None:
    broken = tmp_path / "reports" / "paper.typ"
    broken.parent.mkdir()
    broken.write_text("#unknown-function()", "utf-8")
    monkeypatch.setattr(typeset, "ROOT", tmp_path)
    monkeypatch.setattr(typeset, "SOURCE", broken)
    monkeypatch.setattr(typeset, "contents", lambda params: {})
    monkeypatch.setattr(Params, "reports", property(lambda self: tmp_path / "reports" / "smoke"))
    with pytest.raises(UserError, match=r"does not compile.*unknown-function"):
        typeset.write_paper(params)
    assert not (tmp_path / "reports" / "smoke" / "paper.pdf").exists()


def test_groups_established_pairs_and_high_rates_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ["arch", "optimizer", "loss", "crops", "seed"]
    rows = pd.DataFrame(
        product(["tconv", "upsample"], ["adam", "sgd"], ["l1", "mse"], [False, True], [0, 1, 2]), columns=keys
    )
    sign = rows["optimizer"].map({"adam": 1, "sgd": -1})
    gain = 0.5 * sign * (rows["loss"] == "mse") + 0.3 * sign * rows["crops"]
    table = rows.assign(sharpen=False, psnr_mean=23 + gain + 0.001 * rows["seed"])
    assert paper_text._by_group(table, "loss", ["optimizer"]) == (
        "+0.50\xa0dB [+0.50,\xa0+0.50] (Adam); −0.50\xa0dB [−0.50,\xa0−0.50] (SGD)"
    )
    assert paper_text._by_group(table[table["loss"] == "l1"], "loss", ["optimizer"]) == ""
    told = "4 of 8 pairs have an established gain and 4 a loss"
    assert paper_text._established(table) == told
    assert paper_text._established(table[table["seed"] < 2]) == ""

    search = pd.DataFrame(
        {
            "schedule": ["short", "long", "short", "long", "long"],
            "optimizer": ["adam"] * 4 + ["sgd"],
            "learning_rate": [0.002, 0.002, 0.001, 0.001, 0.004],
            "psnr_full": [23.0, 5.6, 23.0, 5.6, 5.6],
            "noisy_psnr_full": 20.0,
            "images": [10, 2000, 10, 2000, 2000],
        }
    )
    params = load_params(ROOT / "params" / "smoke.yaml")
    monkeypatch.setattr(paper_text, "search_record", lambda *_: search)
    assert (
        paper_text._high_rates(params)
        == "1 of 1 runs of up to 2,000 images and 0 of 1 runs of up to 10 images"
    )
    monkeypatch.setattr(paper_text, "search_record", lambda *_: None)
    assert paper_text._high_rates(params) == ""


def test_a_dagger_marks_what_the_reports_own_tables_do_not_support() -> None:
    frame, _ = paper_tables.verdicts(claims.weigh(claims.the_report()), None)
    own = claims.on_its_own_tables()
    marked = {claim for claim, text in frame["published"].items() if text.endswith("†")}
    assert marked == {claim for claim, verdict in own.items() if verdict != "reproduced"}
    assert marked
    assert marked != set(own)
