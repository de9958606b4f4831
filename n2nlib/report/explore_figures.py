"""What notebooks/explore.ipynb shows: drawings of what `explore` finds, and widgets that redraw them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from skimage.util import montage

from n2nlib.denoiser import Denoiser
from n2nlib.files import UserError
from n2nlib.pairs.baselines import NOISY
from n2nlib.report import explore, figures, marks, tables
from n2nlib.report.explore import Record

SHOWN = 12  # pictures in a row
INCH = 120  # pixels on the screen for an inch of a figure: a little larger than printed


def live(function: Callable[..., object], button: str = "", **controls: Any) -> Any:
    """Widgets, and below them what `function` makes of their values: once now and after every change.

    `controls` are the widgets by parameter of `function`, which returns what `rendered` takes, or yields it
    step by step. With the words of a `button`, changes wait until it is pressed. A `UserError` is shown.
    """
    view, press = widgets.HTML(), widgets.Button(description=button)

    def update(_: object = None) -> None:
        press.disabled = True  # until the work of this press is done
        try:
            made = function(**{name: control.value for name, control in controls.items()})
            for step in made if isinstance(made, Iterator) else [made]:
                view.value = rendered(step)
        except UserError as error:
            view.value = rendered(str(error))
        finally:
            press.disabled = False

    for name, control in controls.items():
        control.description = control.description or name
        if hasattr(control.style, "description_width"):
            control.style.description_width = "118px"
        if not button:
            control.observe(update, "value")
    press.on_click(update)
    update()
    above = [*controls.values(), *[press] * bool(button)]
    return widgets.VBox([widgets.Box(above, layout=widgets.Layout(flex_flow="row wrap")), view])


def add_to_menu(menu: Any, known: dict[str, np.ndarray], uploaded: Any, path: str) -> None:
    """`explore.add_photographs` for the widget `menu` of their names; those that are images are added."""
    try:
        explore.add_photographs(known, uploaded, path)
    finally:
        menu.options = explore.add_photographs(known)


def rendered(shown: object) -> str:
    """HTML of a figure (which is closed), a table, plain text, nothing, or a list of them."""
    if isinstance(shown, Figure):
        buffer = io.BytesIO()
        shown.savefig(buffer, format="png")
        plt.close(shown)
        png, alt = base64.b64encode(buffer.getvalue()).decode(), html.escape(shown.get_label())
        style = f"width: {INCH * shown.get_figwidth():.0f}px; max-width: 100%"
        return f'<img src="data:image/png;base64,{png}" style="{style}" alt="{alt}">'
    if isinstance(shown, list):
        return "".join(map(rendered, shown))
    if isinstance(shown, Styler):
        return shown.to_html()
    return f"<p>{html.escape(str(shown))}</p>" if shown else ""


def models(models: Mapping[str, Denoiser], pair: Mapping[str, np.ndarray], **options: Any) -> Figure:
    """The results of `explore.compare_models` with their PSNR, above maps of their errors."""
    columns = explore.compare_models(models, pair, **options)
    return figures.image_grid(columns | {"clean": pair["clean"]}, pair["clean"], errors=True)


def _tiles(pictures: np.ndarray, rows: int, fill: object) -> np.ndarray:
    """Square pictures, N x S x S (x 3), side by side in `rows` rows, all enlarged to the same size."""
    times = max(1, 96 // pictures.shape[1])
    enlarged = pictures.repeat(times, 1).repeat(times, 2)
    axis = 3 if pictures.ndim == 4 else None
    return montage(enlarged, fill=fill, padding_width=6, grid_shape=(rows, SHOWN), channel_axis=axis)


def filters(denoiser: Denoiser) -> Figure:
    """The filters of the first layer, in rows."""
    pictures = explore.filters(denoiser).transpose(0, 2, 3, 1) / 255
    rows = -(-len(pictures) // SHOWN)
    figure, axis = plt.subplots(figsize=(figures.PAGE, figures.PAGE / SHOWN * rows))
    figures.show_picture(axis, _tiles(pictures, rows, [1.0] * 3))
    count = f"The {len(pictures)} filters of the first layer"
    return figures.described(figure, f"{count}, 3 × 3 weights of three channels each.")


def features(denoiser: Denoiser, image: np.ndarray) -> Figure:
    """The feature maps of each level that vary most for an image (3 x S x S), each on a scale of its own."""
    levels = explore.features(denoiser, image)
    names = [f"{name}\n{maps.shape[1]} × {maps.shape[2]}" for name, maps in levels.items()]
    size = (figures.PAGE, figures.PAGE / (SHOWN + 1) * len(levels))
    figure, axes = plt.subplots(len(levels), 1, figsize=size)
    for axis, name, maps in zip(axes, names, levels.values(), strict=True):
        chosen = maps[np.sort(np.argsort(-maps.std(axis=(1, 2)))[:SHOWN])]
        low, high = (end(chosen, axis=(1, 2), keepdims=True) for end in (np.min, np.max))
        figures.show_picture(axis, _tiles((chosen - low) / np.maximum(high - low, 1e-9), 1, np.nan), reach=1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    said = ", ".join(name.replace("\n", ": ") for name in names)
    return figures.described(figure, f"Feature maps of each level, dark for low values: {said} pixels.")


def field(denoiser: Denoiser, image: np.ndarray) -> Figure:
    """An image (3 x S x S) with its centre marked, and which of its pixels move the output there."""
    gradient = explore.receptive_field(denoiser, image)
    middle = np.array(gradient.shape) // 2
    distance = np.hypot(*(np.indices(gradient.shape) - middle[:, None, None]))
    reach = np.quantile(distance, 0.9, weights=gradient, method="inverted_cdf")
    figure, (left, right) = plt.subplots(1, 2, figsize=(figures.PAGE / 1.5, 2.3))
    figures.show_picture(left, figures.to_picture(image), "the output pixel in the centre ...")
    left.plot(*middle[::-1], marker="+", ms=9, color="white")
    below = f"90 % of the gradient within {reach:.0f} pixels"
    figures.show_picture(right, gradient, "... depends on these pixels", below)
    right.images[0].set_norm(LogNorm(gradient.max() / 1e5, gradient.max(), clip=True))
    figure.colorbar(right.images[0], ax=right, label="gradient")
    return figures.described(
        figure,
        f"The gradient of the centre of the output with respect to each input pixel, logarithmic: {below}.",
    )


def curves(known: Collection[pd.DataFrame], noisy: float | None = None) -> Figure:
    """PSNR against the images seen: a line for each frame (run, images, psnr_full in dB).

    `noisy` is the PSNR (dB) of the noisy input.
    """
    if not known:
        return figures.nothing("There is no curve of these runs: PSNR was measured at their end only.")
    frame = pd.concat(known)
    figure, axis = plt.subplots(figsize=(figures.PAGE, 2.2))
    sns.lineplot(frame, x="images", y="psnr_full", hue="run", marker="o", ax=axis)
    if noisy is not None:
        marks.levels(axis.axhline, {f"{NOISY}: {noisy:.2f} dB": noisy})
    axis.legend(loc="lower right")
    axis.set(xlabel="images seen", ylabel="validation PSNR (dB, global)")
    ends = frame.groupby("run", sort=False)["psnr_full"].last()
    said = "; ".join(f"{name}: {value:.2f} dB" for name, value in ends.items())
    return figures.described(figure, f"PSNR against the images seen. At the end: {said}.")


def training(
    steps: Iterable[tuple[pd.DataFrame, Denoiser]], earlier: dict[str, pd.DataFrame]
) -> Iterator[list[Figure]]:
    """For each step of `explore.train_one` the curves, and an example: noisy, output, clean.

    The curves are those of the `earlier` trainings by name, which this one joins at its end, and its own.
    """
    pairs, _ = explore.small_pairs()
    noisy, clean = (pairs.validation[version][:1].numpy() for version in ("noisy_1", "clean"))
    level = pairs.card["noisy_psnr_db"]["validation"]["global"]
    for history, denoiser in steps:
        shown = {"noisy": noisy, "output": denoiser.predict(noisy), "clean": clean}
        known = earlier | {history["run"][0]: history}
        yield [curves(known.values(), level), figures.image_grid(shown, clean, figures.COLUMN)]
    earlier.update(known)


def runs(first: Record, second: Record, pair: Mapping[str, np.ndarray]) -> list[object]:
    """Two runs to compare: what differs, the curves, and what their networks make of a noisy image."""
    both = {"first run": first, "second run": second}
    table = tables.show(explore.compare_runs(first, second)).set_table_attributes('cellpadding="5"')
    known = [
        one.curve.assign(run=f"{name}, {one.psnr_full:.2f} dB at its end")
        for name, one in both.items()
        if len(one.curve)
    ]
    networks = {name: Denoiser.load(one.model) for name, one in both.items() if one.model}
    return [table, curves(known), *([models(networks, pair)] if networks else [])]
