"""Command line: python -m n2nlib COMMAND. A user's mistake is one message on standard error and exit status 1, never a traceback."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from n2nlib.denoiser import denoise_file
from n2nlib.experiments.pipeline import train_everything
from n2nlib.files import ROOT, UserError, relative
from n2nlib.pairs.noise import assumptions, verdict
from n2nlib.pairs.pair_set import load_pairs
from n2nlib.params import load_params
from n2nlib.report.notebooks import run_notebook
from n2nlib.report.plan import print_plan
from n2nlib.report.readme import write_readme
from n2nlib.report.typeset import write_paper
from n2nlib.report.verify import print_verification


def _check(arguments: argparse.Namespace) -> None:
    params = load_params(arguments.file)
    print(
        f"{relative(Path(arguments.file).resolve()) if arguments.file else 'params.yaml'}: valid, scale {params.scale}"
    )


def _run(arguments: argparse.Namespace) -> None:

    run_notebook(arguments.notebook)


def _scale(arguments: argparse.Namespace) -> None:
    """Make params.yaml that of a scale, photographs included: an edit of params.yaml like any other."""
    from ruamel.yaml import YAML

    path = ROOT / "params" / f"{arguments.name}.yaml"
    names = sorted(one.stem for one in path.parent.glob("*.yaml"))
    if arguments.name not in names:
        raise UserError(f"scale {arguments.name!r}: no file {relative(path)}; allowed: {', '.join(names)}")
    target = ROOT / "params.yaml"
    if arguments.photos:
        yaml = YAML()  # keeps the comments
        yaml.width = 200
        tree = yaml.load(path)
        tree["pairs"]["source"], tree["pairs"]["path"] = (
            "folder",
            relative(Path(os.path.abspath(Path(arguments.photos).expanduser()))),
        )
        with target.open("w", encoding="utf-8") as file:
            yaml.dump(tree, file)
    else:
        shutil.copyfile(path, target)
    load_params()
    print(f"params.yaml is now scale {arguments.name}; undo: git restore params.yaml dvc.lock")


def _train(arguments: argparse.Namespace) -> None:

    results = train_everything(load_params(), arguments.slim)
    print(
        f"all {len(results)} runs of this scale are in data/runs; dvc repro draws its tables and figures from them"
    )


def _plan(arguments: argparse.Namespace) -> None:

    print_plan()


def _noise(arguments: argparse.Namespace) -> None:

    pairs = load_pairs(Path(arguments.folder).resolve() if arguments.folder else load_params().pairs_folder)
    train, validation = (
        {name: tensor.numpy() for name, tensor in split.items()} for split in (pairs.train, pairs.validation)
    )
    measured = assumptions(train, validation)
    for one in measured:
        state = "holds" if one.holds else "BROKEN" if one.needed else "differs"
        print(f"{state:<8}{one.name}{'' if one.needed else ' (not needed)'}: {one.words}")
    print(verdict(measured))
    if any(one.needed and not one.holds for one in measured):
        raise UserError("this pair set breaks an assumption of Noise2Noise")


def _verify(arguments: argparse.Namespace) -> None:

    scale = arguments.scale or load_params().scale
    if not print_verification(scale):
        raise UserError(f"reports/{scale}: not the committed results")


def _readme(arguments: argparse.Namespace) -> None:

    write_readme(arguments.check)


def _denoise(arguments: argparse.Namespace) -> None:

    denoise_file(Path(arguments.image), Path(arguments.output), arguments.model, arguments.pixelate)


def _paper(arguments: argparse.Namespace) -> None:

    write_paper(load_params())


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m n2nlib", description="Rebuild and use the Noise2Noise reproduction."
    )
    commands = top.add_subparsers(dest="command", required=True)

    check = commands.add_parser(
        "check", help="say whether a parameter file is valid, and what is wrong with it"
    )
    check.add_argument("file", nargs="?", help="default: params.yaml")
    check.set_defaults(do=_check)

    run = commands.add_parser(
        "run", help="execute one notebook under params.yaml and make its page (what DVC's stages do)"
    )
    run.add_argument("notebook", help="its name, such as 03_ablation")
    run.set_defaults(do=_run)

    denoise = commands.add_parser("denoise", help="restore an image file of any size with a trained model")
    denoise.add_argument("image", help="the image file")
    denoise.add_argument("-o", "--output", required=True, help="where to write the restored image")
    denoise.add_argument(
        "--model",
        default="final",
        help="final (default) or best, of the scale of params.yaml, or a .safetensors file",
    )
    denoise.add_argument(
        "--pixelate",
        action="store_true",
        help="the image is a clean photograph: make the noisy input from it first, and say what is gained",
    )
    denoise.set_defaults(do=_denoise)

    paper = commands.add_parser(
        "paper", help="typeset reports/<scale>/paper.pdf from the results of params.yaml's scale"
    )
    paper.set_defaults(do=_paper)

    train = commands.add_parser(
        "train",
        help="train all runs of this scale without the notebooks, which find them later; what is on disk is kept",
    )
    train.add_argument(
        "--slim",
        action="store_true",
        help="when all are trained, keep only the models that the notebooks read",
    )
    train.set_defaults(do=_train)

    noise = commands.add_parser(
        "noise",
        help="measure whether a pair set meets Noise2Noise's assumptions; exit status 1 if it does not",
    )
    noise.add_argument("folder", nargs="?", help="default: that of params.yaml")
    noise.set_defaults(do=_noise)

    verify = commands.add_parser(
        "verify", help="compare a fresh rebuild with the committed results; exit status 1 if any cell differs"
    )
    verify.add_argument("--scale", help="default: that of params.yaml")
    verify.set_defaults(do=_verify)

    readme = commands.add_parser("readme", help="write README's result table from the results in reports/")
    readme.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit status 1 if the table is not that of the results",
    )
    readme.set_defaults(do=_readme)

    plan = commands.add_parser(
        "plan",
        help="say what dvc repro would do: stale stages and why, runs, images, minutes on this machine",
    )
    plan.set_defaults(do=_plan)

    scale = commands.add_parser("scale", help="make params.yaml that of a scale")
    scale.add_argument("name", help="a file of params/, such as smoke")
    scale.add_argument("--photos", metavar="FOLDER", help="take the photographs of this folder")
    scale.set_defaults(do=_scale)
    return top


def main() -> int:
    arguments = parser().parse_args()
    try:
        arguments.do(arguments)
    except UserError as error:
        print(f"n2n: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "n2n: interrupted; what is finished is kept, the same command goes on from there", file=sys.stderr
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
