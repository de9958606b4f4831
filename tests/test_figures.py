"""Figures fit their page and say what they show; failed runs stretch no axis; drawings match the code."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import a_run
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from n2nlib.denoiser import Denoiser
from n2nlib.experiments import effects, published, results
from n2nlib.metrics import mse_per_image
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.report import diagrams, figures, marks, plots, training_plots
from n2nlib.report.wording import EVALUATED, REPORT, TRAINED
from n2nlib.train.network import Network

REFERENCES = {"noisy input": 20.0, "Gaussian blur": 23.7}
LABELS = {
    "A": "TConv, MSE, Adam",
    "B": "Upsample, MSE, Adam",
    "1": "Upsample, MSE, Adam",
    "2": "TConv, MSE, SGD",
}


def evaluated(runs: pd.DataFrame) -> pd.DataFrame:
    """Every third run fails at 5 to 10 dB; with the report's evaluation, runs are 1 dB worse."""
    random = np.random.default_rng(1).random(len(runs))
    runs["psnr_full"] = np.where(np.arange(len(runs)) % 3, 22 + 2 * random, 5 + 5 * random)
    return runs.assign(psnr_mean=runs["psnr_full"], psnr_std=0.1, report_mean=runs["psnr_full"] - 1)


def table1(seeds: int = 2) -> pd.DataFrame:
    levels = [
        ("l1", "mse"),
        ("adam", "sgd"),
        (False, True),
        (False, True),
        ("tconv", "upsample"),
        range(seeds),
    ]
    columns = ["loss", "optimizer", "sharpen", "crops", "arch", "seed"]
    return evaluated(pd.DataFrame(product(*levels), columns=columns))


def table3() -> pd.DataFrame:
    levels = [(1.0, 5.0, 10.0), (0.0, 1.0, 2.0), (1e-4, 5e-4, 1e-3), (0, 1), (0, 1)]
    columns = ["sigma_n", "tau_sharp", "lr0", "annealing_steps", "seed"]
    return evaluated(pd.DataFrame(product(*levels), columns=columns))


def curves() -> pd.DataFrame:
    frame = pd.DataFrame(product(LABELS, (0, 1), range(1, 21)), columns=["candidate", "seed", "epoch"])
    frame = frame.assign(psnr_mean=24 - 4 / frame["epoch"], psnr_std=0.1)
    failed = (frame["candidate"] == "2") & (frame["seed"] == 1) & (frame["epoch"] > 3)
    return frame.assign(psnr_mean=frame["psnr_mean"].mask(failed, 5.0))


def measures() -> pd.DataFrame:
    psnr = pd.Series([24.0, 23.0, 22.0, 6.0, 7.0])
    frame = pd.DataFrame({"psnr_full": psnr, "psnr_hvs_m": psnr + 3, "ssim": psnr / 30, "failed": psnr < 20})
    return pd.concat([frame.assign(kind=kind) for kind in ("Table I", "Table III", "studies")])


def intervals(**columns: list) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    estimate = np.linspace(-0.5, 1.5, len(frame))
    return frame.assign(estimate=estimate, low=estimate - 0.3, high=estimate + 0.3, basis="seeds")


def effects_of(seeds: int) -> pd.DataFrame:
    return effects.effects_table(table1(seeds), table3())


def length() -> pd.DataFrame:
    rows = product(effects.TABLE1, (TRAINED, EVALUATED), ("laptop", "paper"), (0.5, 1.0))
    frame = pd.DataFrame(rows, columns=["factor", "source", "scale", "images"])
    frame["images"] *= frame["scale"].map({"laptop": 10_000, "paper": 1_000_000})
    return intervals(**frame.to_dict("list"))


def pictures(count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)


def photograph() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (224, 224, 3)).astype(np.uint8)


def sharpening() -> Figure:
    spectra = pd.DataFrame(product(figures.SPECTRA, (0.1, 0.3, 0.5)), columns=["which", "frequency"])
    return figures.sharpening(*pictures(3), spectra.assign(power=1 / spectra["frequency"]))


def noise_structure() -> Figure:
    by_level = pd.DataFrame({"level": [50, 150], "mean": [0.1, -0.2], "error": [0.1, 0.1], "median": [1, -1]})
    return figures.noise_structure(by_level, pd.DataFrame({"contrast": [1, 9], "std": [3, 20]}))


def budget() -> pd.DataFrame:
    names = ["the report's network", "with a residual connection and scaled values", "with a one-cycle rate"]
    frame = intervals(model=names).rename(columns={"estimate": "gain"})
    frame.loc[0, ["gain", "low", "high"]] = np.nan
    return frame.assign(psnr_full=[22.5, 23.5, 24.5], images=4800.0)


def search() -> pd.DataFrame:
    variants = ["start", "batch 8", "U-Net"]
    frame = pd.DataFrame(product(("short", "long"), variants), columns=["schedule", "variant"])
    gain = [0.0, 0.2, -0.5, 0.0, 0.1, -18.0]
    frame = frame.assign(gain=gain, low=np.array(gain) - 0.05, high=np.array(gain) + 0.05, seconds=600.0)
    return frame.assign(
        psnr_full=24 + frame["gain"], noisy_psnr_full=20.0, images=[22_500] * 3 + [112_500] * 3
    )


def studies() -> Figure:
    recipes = ["one cycle − annealing step", "one cycle, averaged weights − annealing step"]
    fan_in = ["TConv, right fan-in − TConv", "Upsample − TConv", "TConv, right fan-in − Upsample"]
    study = ["recipe"] * 2 + ["initialisation, L1 and SGD"] * 3 + ["targets"]
    return training_plots.studies(intervals(study=study, what=[*recipes, *fan_in, "clean − noisy"]))


def fig1(pair_set: PairSet) -> tuple[Figure, dict[str, Denoiser]]:
    """Fig. 1 with networks that were not trained."""
    titles = {name: figures.titled(name, a_run(arch="tconv")) for name in ("baseline", "candidate 1")}
    titles["our best"] = figures.titled("our best", a_run(tau_sharp=0.0, crops=((0.7, 1.0),)), flips=True)
    shown = {title: Denoiser(Network(4, "tconv"), name == "our best") for name, title in titles.items()}
    return figures.examples(shown, pair_set), shown


FIGURES: dict[str, Callable[[], Figure]] = {
    "image_grid": lambda: figures.image_grid(
        {"noisy": pictures(), "clean": pictures()}, width=figures.COLUMN
    ),
    "sharpening": sharpening,
    "noise_distribution": lambda: figures.noise_distribution(pictures(), pictures()[::-1]),
    "noise_structure": noise_structure,
    "table1": lambda: plots.table1(table1(), published.table1(), REFERENCES),
    "report_evaluation": lambda: plots.report_evaluation(table1(), published.table1(), REFERENCES),
    "effects": lambda: plots.effects(effects_of(3)),
    "effects, one seed": lambda: plots.effects(effects_of(1)),
    "failures": lambda: plots.failures(effects.failures(table1(), 20.0)),
    "interactions": lambda: plots.interactions(table1(), published.table1()),
    "training_length": lambda: training_plots.training_length(length()),
    "curves": lambda: training_plots.curves(curves(), LABELS, REFERENCES),
    "fine_tuning": lambda: training_plots.fine_tuning(table3(), published.table3(), 20.0),
    "measures": lambda: training_plots.measures(measures()),
    "studies": studies,
    "budget": lambda: training_plots.budget(budget()),
    "recipe": lambda: training_plots.recipe(search()),
    "architecture": lambda: diagrams.architecture(48),
    "noise": lambda: diagrams.noise(photograph()),
    "output_layers": lambda: diagrams.output_layers(pictures()[0]),
}


@pytest.fixture(autouse=True)
def _close() -> None:
    yield
    plt.close("all")


def limits(figure: Figure, along: str = "x") -> tuple[float, float]:
    """The widest limits of the panels, insets aside."""
    found = np.array([axis.get_xlim() if along == "x" else axis.get_ylim() for axis in figure.axes])
    return found.min(), found.max()


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_described_fits_its_page_and_names_units(name: str) -> None:
    _check(FIGURES[name]())


def _check(figure: Figure) -> None:
    assert len(figure.get_label()) > 30
    assert figure.get_figwidth() in (figures.COLUMN, figures.PAGE)
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.01  # inches
    words = [word for axis in figure.axes for word in (axis.get_xlabel(), axis.get_ylabel())]
    quantities = ("PSNR", "effect", "power", "noise", "frequency", "convolution")
    assert all("(" in word for word in words if any(quantity in word for quantity in quantities)), words


def test_examples_name_settings_and_show_the_error_of_each(pair_set: PairSet) -> None:
    figure, shown = fig1(pair_set)
    _check(figure)
    columns = len(shown) + 3  # noisy, blurred, clean
    titles = [" ".join(axis.get_title().split()) for axis in figure.axes[:columns]]
    assert titles[:2] + titles[-1:] == ["noisy", "Gaussian blur", "clean"]
    assert titles[2] == "baseline TConv, MSE, Adam, sharpened"
    assert titles[4] == "our best Upsample, MSE, Adam, crops, four flips"
    images, clean = results.pictures({}, pair_set, 2)
    noisy, clean = images["noisy"][:1], clean[:1]
    for axis, denoiser in zip(figure.axes[2 * columns + 2 :], shown.values(), strict=False):
        drawn = axis.images[0].get_array()
        assert np.allclose(drawn, figures.error_map(denoiser.predict(noisy)[0], clean[0]), atol=1e-3)


def test_a_variant_that_is_compared_twice_has_two_rows() -> None:
    axis, *_ = studies().axes  # the study with most rows comes first
    assert axis.get_title(loc="right") == "initialisation, L1 and SGD\nagainst TConv"
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["TConv, right fan-in", "Upsample", "TConv, right fan-in\nagainst Upsample"]


def test_the_best_variant_of_the_search_comes_first() -> None:
    figure = training_plots.recipe(search())
    short, long, *_ = figure.axes
    assert [label.get_text() for label in short.get_yticklabels()] == ["batch 8", "start", "U-Net"]
    assert (short.get_title(), long.get_title()) == (
        "short run, 22,500 images",
        "long run, 112,500 images",
    )
    dots = [line for line in short.lines if line.get_marker() == "o"]
    marked = [point for line in dots for point in line.get_xydata().tolist()]
    assert [0.2, 0] in marked
    assert [0.0, 1] not in marked  # the start has no gain over itself
    assert "short, batch 8: 24.20 dB, 10 min" in figure.get_label()
    assert "long, U-Net: failed, 10 min" in figure.get_label()
    assert long.get_xlim()[0] > -1  # the axis is that of the runs that did not fail


def test_failed_runs_are_crosses_in_the_margin() -> None:
    table = table1()
    failed = int((table["psnr_full"] < 20).sum())
    figure = plots.table1(table, published.table1(), REFERENCES)
    *ours, report = figure.axes
    figure.draw_without_rendering()
    for axis in ours:
        assert sum(text.get_text().count("×") for text in axis.texts) == failed
        for text in axis.texts:
            box = text.get_window_extent().transformed(axis.transData.inverted())
            assert axis.get_xlim()[0] <= box.x0 < box.x1 < 20
    assert not report.texts
    assert f"{failed} of our {len(table)} runs fail" in figure.get_label()


def test_a_mark_of_table1_is_the_mean_over_seeds_and_its_line_their_range() -> None:
    table = table1(3).assign(psnr_full=22.0)
    table["psnr_mean"] = 22.0 + table["seed"] ** 2  # 22, 23, 26
    axis = plots.table1(table, published.table1(), REFERENCES).axes[0]
    lines = [np.round(line.get_xdata(), 6).tolist() for line in axis.lines]
    assert lines.count([22.0, 26.0]) == 32
    dots = [value for line in lines if len(line) == 16 for value in line]
    assert dots == 32 * [pytest.approx(71 / 3)]


def test_our_references_are_not_drawn_over_the_report() -> None:
    ours, again, report = plots.table1(table1(), published.table1(), REFERENCES).axes
    dashed = [
        sum(line.get_linestyle() in ("--", ":") for line in axis.lines) for axis in (ours, again, report)
    ]
    assert dashed == [2, 2, 0]


@pytest.mark.parametrize("draw_table", [plots.table1, plots.report_evaluation])
def test_failed_runs_stretch_no_axis_of_table1(draw_table: Callable[..., Figure]) -> None:
    table = table1()
    alive = draw_table(
        table.assign(psnr_full=22.0, psnr_mean=22.0, report_mean=21.0), published.table1(), REFERENCES
    )
    assert limits(draw_table(table, published.table1(), REFERENCES))[0] > limits(alive)[0] - 2


def test_failed_runs_stretch_no_other_axis() -> None:
    assert min(axis.get_ylim()[0] for axis in training_plots.curves(curves(), LABELS, REFERENCES).axes) > 19
    apart, alive, *_ = training_plots.measures(measures()).axes
    assert apart.get_xlim()[1] < 8 < 19 < alive.get_xlim()[0]
    assert apart.get_title() == "6 failed"
    outlier = length()
    early = outlier["images"] == 5_000
    outlier.loc[early, ["images", "estimate"]] = 4_000, 13.0  # in the first half of a training
    assert limits(training_plots.training_length(outlier), "y")[1] < 5


def test_a_long_interval_ends_in_an_arrowhead_at_the_edge() -> None:
    frame = intervals(what=["crops", "MSE − L1"], source=[TRAINED, REPORT])
    frame.loc[1, ["low", "high"]] = -40, 0.5 + frame.loc[1, "estimate"]
    (axis,) = plots.effects(frame).axes
    heads = [line for line in axis.lines if line.get_marker() in ("<", ">")]
    assert [line.get_marker() for line in heads] == ["<"]
    assert heads[0].get_color() == marks.SOURCE_COLORS[REPORT]
    low, high = axis.get_xlim()
    assert -5 < low < heads[0].get_xdata()[0]
    assert high > frame["high"].max()


def test_intervals_that_are_known_are_drawn_as_they_are() -> None:
    frame = pd.DataFrame(
        {"what": ["a", "b"], "estimate": [1.0, 2.0], "low": [0.5, np.nan], "high": [3.0, np.nan]}
    )
    _, axis = plt.subplots()
    marks.points(axis, frame, y="what")
    bars = sorted(tuple(line.get_xdata()) for line in axis.lines if len(line.get_xdata()) == 2)
    assert (0.5, 3.0) in bars
    assert [1.0, 2.0] in [list(line.get_xdata()) for line in axis.lines]
    assert all(low == high == 2.0 for low, high in bars if (low, high) not in ((0.5, 3.0), (1.0, 2.0)))


def test_marks_without_an_interval_over_seeds_are_hollow() -> None:
    frame = intervals(what=["a", "b"]).assign(basis=["seeds", "one seed"])
    _, axis = plt.subplots()
    marks.points(axis, frame, ["a", "b"], y="what")
    faces = {line.get_markerfacecolor() for line in axis.lines if line.get_marker() == "o"}
    assert "white" in faces
    assert len(faces) == 2
    for basis, entries in (("one seed", 1), ("seeds", 0)):
        figure = plt.figure()
        marks.legend(figure, frame.assign(basis=basis))
        assert len(figure.legends) == entries


@pytest.mark.parametrize(
    ("what", "sides"),
    [
        ("TConv − Upsample", ("Upsample better", "TConv better")),
        ("crops", ("no crops better", "crops better")),
        ("annealing − none", ("no annealing better", "annealing better")),
        ("highest − lowest rate", ("lowest rate better", "highest rate better")),
    ],
)
def test_both_directions_of_an_effect_are_named(what: str, sides: tuple[str, str]) -> None:
    assert plots.sides(what) == sides


def test_nothing_to_show_is_said() -> None:
    plain = table1()[lambda runs: ~runs["sharpen"] & ~runs["crops"] & (runs["loss"] == "mse")]
    for figure in (
        plots.interactions(plain, published.table1()),
        training_plots.training_length(length()[:0]),
        training_plots.recipe(None),
    ):
        assert figure.texts[0].get_text() == figure.get_label() != ""


def test_the_best_cell_of_table3_has_the_frame() -> None:
    table = table3().assign(psnr_full=22.0, psnr_mean=22.0)
    best = (
        (table["sigma_n"] == 5)
        & (table["tau_sharp"] == 1)
        & (table["lr0"] == 1e-3)
        & (table["annealing_steps"] == 1)
    )
    figure = training_plots.fine_tuning(table.assign(psnr_mean=22 + best), published.table3(), 20.0)
    frames = [
        patch
        for patch in figure.axes[0].patches
        if patch.get_edgecolor()[:3] == pytest.approx((0.835, 0.369, 0), abs=1e-2)
    ]
    assert [patch.get_xy() for patch in frames] == [(4, 5)]  # rows: factor, rate; columns: steps, noise
    assert "the report: best 24.46 dB" in figure.get_label()
    assert "2 failed" in figure.get_label().split("the report: ")[1]


def test_error_maps_and_pictures_in_closed_form() -> None:
    clean = np.full((3, 4, 5), 100, np.uint8)
    assert not figures.error_map(clean, clean).any()
    one = clean.astype(float)
    one[0] -= 30  # the mean over channels is a third
    assert np.array_equal(figures.error_map(one, clean), np.full((4, 5), 10.0))
    image = (
        figures.image_grid({"a": one[None], "clean": clean[None]}, clean[None], errors=True).axes[2].images[0]
    )
    assert image.get_clim() == (0, figures.LARGEST_ERROR)
    assert figures.to_picture(np.array([[[-3.0, 300.0, 1.6]]] * 3)).tolist() == [
        [[0] * 3, [255] * 3, [2] * 3]
    ]


def test_the_network_is_drawn_as_it_computes() -> None:
    assert list(diagrams.costs(48)["parameters"]) == [1_148_307, 991_203]  # tconv, upsample
    for arch in ("upsample", "tconv"):
        steps = diagrams.trace(48, arch)
        convolutions = [step.channels for step in steps if step.kind == "convolution"]
        assert convolutions == [48] * 7 + [96] * 8 + [64, 32, 3]
        joined = [step for step in steps if step.kind == "concatenation"]
        assert [step.channels for step in joined] == [96, 144, 144, 144, 99]
        skips = [steps[step.sources[1]] for step in joined]
        assert [(skip.kind, skip.side) for skip in skips] == [
            *(("pooling", side) for side in (2, 4, 8, 16)),
            ("image", 32),
        ]
        assert all(steps[step.sources[0]].kind == "upsampling" for step in joined)
    numbers = [text.get_text() for text in diagrams.architecture(48).axes[0].texts]
    assert numbers.count("144") == 3
    assert numbers.count("99") == 1


def test_the_schematic_outlines_the_pixels_that_were_drawn() -> None:
    _, block, *images = diagrams.noise(photograph()).axes
    frames = [patch for patch in block.patches if isinstance(patch, Rectangle)]
    shown = block.images[0].get_array()
    for frame in frames:
        x, y = (int(value + 0.5) for value in frame.get_xy())
        (image,) = [axis for axis in images if axis.patches[0].get_edgecolor() == frame.get_edgecolor()]
        column, row = (int(value + 0.5) for value in image.patches[0].get_xy())
        assert (image.images[0].get_array()[row, column] == shown[y, x]).all()
    assert len(frames) == 2


def test_saved_figures_have_the_same_bytes_and_an_alternative_text(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Params, "reports", property(lambda self: tmp_path))
    written = []
    for _ in range(2):
        image = figures.save_figure(
            plots.effects(effects_of(1).iloc[:2]), "06_discussion/effects", params, []
        )
        written.append([(tmp_path / f"06_discussion/effects.{kind}").read_bytes() for kind in ("svg", "png")])
    assert written[0] == written[1]
    assert image.alt.startswith("Effect of each factor")
    assert image.width == round(96 * figures.PAGE)
    assert not plt.get_fignums()
    with pytest.raises(ValueError, match="no description"):
        figures.save_figure(plt.figure(), "06_discussion/effects", params, [])


def test_a_saved_picture_keeps_its_colours(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Params, "reports", property(lambda self: tmp_path))
    colours = np.arange(3 * 32 * 32).reshape(3, 32, 32) * 7 % 251
    figure, axes = plt.subplots()
    figures.show_picture(axes, figures.to_picture(colours))
    figures.save_figure(figures.described(figure, "colours"), "01_data/picture", params, [])
    with Image.open(tmp_path / "01_data/picture.png") as image:
        found = {colour for _, colour in image.getcolors(2**20)}
    assert {tuple(colour) for colour in colours.reshape(3, -1).T} <= found


def test_examples_are_of_typical_noise(pair_set: PairSet) -> None:
    images, clean = results.pictures({}, pair_set, 3)
    noise = np.sort(mse_per_image(*(pair_set.validation[name].numpy() for name in ("noisy_1", "clean"))))
    shown = mse_per_image(images["noisy"], clean)
    assert np.allclose(shown, noise[[len(noise) // 4, len(noise) // 2, 3 * len(noise) // 4]])


def test_examples_name_our_best_run_once_and_the_plain_one_is_not_sharpened() -> None:
    table = published.table1().assign(seed=0, psnr_full=lambda frame: frame["psnr_mean"])
    shown = results.examples(table)  # the best setting is the report's candidate 1
    assert list(shown) == ["baseline", "candidate 2", "candidate 3", "candidate 1, our best"]
    assert table.loc[shown["candidate 1, our best"], "psnr_mean"] == 23.76
    assert list(results.examples(table[~table["sharpen"]])) == ["baseline", "our best"]
    plain = table.loc[results.plain_run(table), ["loss", "optimizer", "sharpen", "arch"]]
    assert plain.tolist() == ["mse", "sgd", False, "upsample"]
