"""params.yaml as frozen, typed, validated objects; the only way in which any part of the project reads a parameter.

Both ways in end here: DVC reads params.yaml, `papermill -f my_params.yaml` injects variables into a notebook, which hands them to
`notebook_params`. An unknown key, a wrong type or a value out of range is a `UserError` that names file, key, value and what is allowed.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from n2nlib.files import ROOT, UserError, digest, relative
from n2nlib.sections import Ablation, Beyond, Curves, Evaluation, FineTuning, Model, Pairs, Section, Seed, Sweep, Training


class Params(Section):
    """All parameters of one rebuild."""

    scale: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]  # names reports/<scale> and data/pairs/<scale>
    seed: Seed  # of pairs and of evaluation subsets; the runs' seeds stand in their sections
    device: Literal["auto", "cpu", "cuda"]
    pairs: Pairs
    model: Model
    training: Training
    ablation: Ablation
    curves: Curves
    fine_tuning: FineTuning
    beyond: Beyond
    evaluation: Evaluation
    sweep: Sweep

    @model_validator(mode="after")
    def _check(self) -> Params:
        if self.evaluation.subset > self.pairs.validation:
            raise ValueError(
                f"evaluation.subset = {self.evaluation.subset}: larger than the validation set; allowed: 1 to pairs.validation = {self.pairs.validation}"
            )
        return self

    @property
    def reports(self) -> Path:
        """The folder that a rebuild of this scale leaves behind."""
        return ROOT / "reports" / self.scale

    @property
    def pairs_folder(self) -> Path:
        return ROOT / "data" / "pairs" / self.scale

    @property
    def hash(self) -> str:
        """SHA-256 of every parameter that can change a number: all but where the work is done."""
        return digest(self.model_dump(mode="json", exclude={"sweep", "device"}))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{relative(path)}: cannot be read ({error})") from error
    try:
        value = YAML(typ="safe", pure=True).load(text)  # YAML 1.2, refuses a key that stands twice
    except YAMLError as error:
        raise UserError(f"{relative(path)}: not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{relative(path)}: holds no parameters; allowed: the keys of params.yaml")
    return value


def _merged(base: Any, over: Any) -> Any:
    """`over` on top of `base`, dictionaries key by key, anything else replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: _merged(base.get(key), value) for key, value in over.items()}


def _has(tree: Any, keys: tuple) -> bool:
    for key in keys:
        if isinstance(key, int):  # an element of a list, which is given whole
            return True
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


def _section(keys: tuple) -> type[BaseModel]:
    """The section that holds the key at the end of `keys`."""
    section: type[BaseModel] = Params
    for key in keys[:-1]:
        section = section.model_fields[key].annotation  # sections nest in sections alone
    return section


def _message(error: Any, source: str, overrides: dict[str, Any]) -> str:
    """One problem that pydantic found, for a person: file, key, value, what is allowed."""
    keys = tuple(error["loc"])
    named = ".".join(map(str, keys))
    where = "the given parameters" if _has(overrides, keys[:1] if error["type"] == "missing" else keys) else source
    if error["type"] == "extra_forbidden":
        allowed = list(_section(keys).model_fields)
        near = difflib.get_close_matches(str(keys[-1]), allowed, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{where}: {named} = {error['input']!r}: unknown key; {hint}allowed: {', '.join(allowed)}"
    if error["type"] == "missing":
        return f"{where}: {named}: missing; every key must have a value"
    if error["type"] == "value_error" and "=" in str(error["ctx"]["error"]):  # raised by a section's own check, which names its key
        return f"{'the given parameters over ' if overrides else ''}{source}: {error['ctx']['error']}"
    allowed = error["msg"].removeprefix("Value error, ").replace("Input should be", "allowed:")
    return f"{where}: {named} = {error['input']!r}: {allowed}"


def load_params(path: Path | str | None = None, overrides: dict[str, Any] | None = None) -> Params:
    """The parameters of `path` (default: params.yaml), with `overrides` (a tree of any part of them) on top.

    Raises `UserError` with a line a problem: file, key, value and what is allowed.
    """
    path = Path(path) if path is not None else ROOT / "params.yaml"
    overrides = overrides or {}
    tree = _merged(_read_yaml(path), overrides)
    try:
        return Params.model_validate_json(json.dumps(tree, default=str))  # strict JSON: lists become tuples, nothing else is bent
    except ValidationError as error:
        raise UserError("\n".join(_message(one, relative(path), overrides) for one in error.errors())) from None


_first_call = True


def notebook_params(namespace: dict[str, Any]) -> Params:
    """The parameters that papermill injected into a notebook (`globals()`); what it left out comes from params.yaml.

    The first call in a kernel, before anything else is defined, also refuses names that are no parameter: misspelt keys.
    Raises `UserError`.
    """
    global _first_call
    given = {key: namespace[key] for key in Params.model_fields if namespace.get(key) is not None}
    if _first_call:
        plain = (bool, int, float, str, list, dict)
        hidden = {"In", "Out"} | set(Params.model_fields)
        given |= {key: value for key, value in namespace.items() if isinstance(value, plain) and key not in hidden and not key.startswith("_")}
        _first_call = False
    params = load_params(overrides=given)
    if given and params != load_params():
        print(f"Parameters given to this notebook differ from params.yaml; results go to {relative(params.reports)}.")
    return params
