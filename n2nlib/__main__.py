"""Command line: python -m n2nlib COMMAND.

A user's mistake gives one message on standard error and exit status 1, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from n2nlib.files import ROOT, UserError, relative, replacing
from n2nlib.params import load_params


def _check(arguments: argparse.Namespace) -> None:
    params = load_params(arguments.file)
    name = relative(arguments.file.resolve()) if arguments.file else "params.yaml"
    print(f"{name}: valid, scale {params.scale}")


def _run(arguments: argparse.Namespace) -> None:
    from n2nlib.report.notebooks import run_notebook

    run_notebook(arguments.notebook)


def _scale(arguments: argparse.Namespace) -> None:
    """Make params.yaml that of a scale, with other photographs if they are given."""
    from ruamel.yaml import YAML

    path = ROOT / "params" / f"{arguments.name}.yaml"
    names = sorted(one.stem for one in path.parent.glob("*.yaml"))
    if arguments.name not in names:
        raise UserError(f"scale {arguments.name!r}: no file {relative(path)}; allowed: {', '.join(names)}")
    photographs = {}
    if arguments.photos:
        photos = Path(os.path.abspath(os.path.expanduser(arguments.photos)))
        if not photos.is_dir():
            raise UserError(f"--photos {arguments.photos}: no such folder; allowed: a folder of photographs")
        photographs = {"source": "folder", "path": relative(photos)}
    load_params(path, {"pairs": photographs})  # complains about a wrong file before params.yaml is replaced
    yaml = YAML()  # keeps the comments
    yaml.width = 200
    tree = yaml.load(path)
    tree["pairs"] |= photographs
    with replacing(ROOT / "params.yaml") as temporary:
        yaml.dump(tree, temporary)
    print(
        f"params.yaml is now scale {arguments.name}. The committed parameters come back with: "
        "git restore params.yaml dvc.lock reports/metrics.json"
    )


def _train(arguments: argparse.Namespace) -> None:
    from n2nlib.experiments.pipeline import train_everything

    results = train_everything(load_params(), arguments.slim)
    print(
        f"All {len(results)} runs of this scale are in data/runs; dvc repro draws their tables and figures."
    )


def _plan(arguments: argparse.Namespace) -> None:
    from n2nlib.report.plan import print_plan

    print_plan()


def _noise(arguments: argparse.Namespace) -> None:
    from n2nlib.pairs.noise import assumptions, verdict
    from n2nlib.pairs.pair_set import load_pairs

    pairs = load_pairs(arguments.folder.resolve() if arguments.folder else load_params().pairs_folder)
    splits = (
        {name: tensor.numpy() for name, tensor in split.items()} for split in (pairs.train, pairs.validation)
    )
    measured = assumptions(*splits)
    for one in measured:
        state = "BROKEN" if one.broken else {True: "holds", False: "differs", None: "unknown"}[one.holds]
        print(f"{state:<8}{one.name}{'' if one.needed else ' (not needed)'}: {one.words}")
    print(verdict(measured))
    if any(one.broken for one in measured):
        raise UserError(f"{relative(pairs.folder)}: this pair set breaks an assumption of Noise2Noise")


def _verify(arguments: argparse.Namespace) -> None:
    from n2nlib.report.verify import print_verification

    scale = arguments.scale or load_params().scale
    if not print_verification(scale):
        raise UserError(f"reports/{scale}: differs from the committed results")


def _readme(arguments: argparse.Namespace) -> None:
    from n2nlib.report.readme import bundle_model, write_readme

    write_readme(arguments.check)
    bundle_model(arguments.check)


def _denoise(arguments: argparse.Namespace) -> None:
    from n2nlib.denoiser import denoise_files

    failed = denoise_files(arguments.images, arguments.output, arguments.model, arguments.pixelate)
    if failed:
        raise UserError("\n".join(f"{path.name}: {reason}" for path, reason in failed.items()))


def _paper(arguments: argparse.Namespace) -> None:
    from n2nlib.report.typeset import write_paper

    write_paper(load_params())


def _report_weights(arguments: argparse.Namespace) -> None:
    from n2nlib.experiments import authors
    from n2nlib.pairs.pair_set import ensure_pairs

    output = arguments.output
    if output and output.is_dir():
        raise UserError(f"{relative(output)}: is a folder; allowed: the CSV file to write")
    params = load_params()
    pairs = ensure_pairs(params)
    table = authors.evaluate_networks(arguments.folder, pairs)
    print(table.round(2).to_string(index=False))
    noisy = pairs.card["noisy_psnr_db"]["validation"]["global"]
    print(
        f"Measured on the {pairs.card['counts']['validation']:,} validation pairs of scale {params.scale} "
        f"(source {params.pairs.source}, noisy input {noisy:.2f} dB)."
    )
    if output:
        authors.write_networks(table, output)
        print(f"{relative(output)} now holds this table.")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m n2nlib", description="Rebuild and use this reproduction.")
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, do: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about)
        made.set_defaults(do=do)
        return made

    check = command("check", _check, "say whether a parameter file is valid, and what is wrong with it")
    check.add_argument("file", type=Path, nargs="?", help="default: params.yaml")

    scale = command("scale", _scale, "replace params.yaml with the parameters of a scale")
    scale.add_argument("name", help="a file of params/, such as smoke")
    scale.add_argument("--photos", type=Path, metavar="FOLDER", help="take the photographs of this folder")

    command("plan", _plan, "say what dvc repro would do: stale stages, runs, images, minutes")

    run = command("run", _run, "execute one notebook and make its page, as the stages of DVC do")
    run.add_argument("notebook", help="its name, such as 03_ablation")

    train = command("train", _train, "train all runs of this scale without the notebooks")
    slim = "then keep only the models that the notebooks read"
    train.add_argument("--slim", action="store_true", help=slim)

    command("paper", _paper, "typeset reports/<scale>/paper.pdf from the results")

    readme = "put results of reports/ into README.md, and the best model into the package"
    differs = "write nothing; exit status 1 if anything differs"
    command("readme", _readme, readme).add_argument("--check", action="store_true", help=differs)

    verify = command("verify", _verify, "compare a rebuild with the committed results")
    verify.add_argument("--scale", help="default: that of params.yaml")

    noise = command("noise", _noise, "test a pair set against the assumptions of Noise2Noise")
    noise.add_argument("folder", type=Path, nargs="?", help="default: that of params.yaml")

    published = "evaluate the networks that the report's authors published"
    weights = command("report-weights", _report_weights, published)
    weights.add_argument("folder", type=Path, help="the folder of their .pth files")
    weights.add_argument("-o", "--output", type=Path, help="also write the table to this CSV file")

    denoise = command("denoise", _denoise, "denoise image files or folders of any size")
    denoise.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    where = (
        "the file to write, or a folder; default: <name>-denoised.png beside the image, or for several "
        "images the folder denoised"
    )
    denoise.add_argument("-o", "--output", type=Path, help=where)
    denoise.add_argument("--model", type=Path, help="a .safetensors file; default: the bundled model")
    clean = "the images are clean: make noisy inputs from them first"
    denoise.add_argument("--pixelate", action="store_true", help=clean)
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
            "n2n: interrupted; what is finished is kept, and the same command resumes the rest",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
