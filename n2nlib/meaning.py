"""The meaning of source code: what it computes, without comments, docstrings, imports, hints and messages.

Runs and pair sets are made again if the meaning of the code behind them changes, and only then.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

from n2nlib.files import digest


class _Meaning(ast.NodeTransformer):
    """Drop what computes nothing: docstrings, imports, type hints, printed text and the text of errors."""

    def visit_Import(self, node: ast.AST) -> None:
        return None

    visit_ImportFrom = visit_Import

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant):
            return None
        if isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "print":
            return None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for number, one in enumerate(node.body):
            if isinstance(one, ast.AnnAssign) and one.value is None:  # a field of a dataclass
                node.body[number] = ast.Expr(one.target)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return self.generic_visit(ast.Assign([node.target], node.value))


def meaning(source: str) -> str:
    """The parsed source, as text, without comments, docstrings, imports, type hints and messages.

    Messages are what is printed by `print` and what is raised; text that another function gets has a meaning.
    Raises SyntaxError.
    """
    return repr(_plain(_Meaning().visit(ast.parse(source))))


def _plain(node: Any) -> Any:
    """A syntax tree as tuples, without empty fields, since versions of Python differ in these."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return type(node).__name__, *((name, _plain(value)) for name, value in fields)
    return [_plain(one) for one in node] if isinstance(node, list) else node


@cache
def code_identity(files: tuple[tuple[str, str], ...], folder: Path) -> str:
    """SHA-256 (hex) of the meaning of modules, given as (logical name, file in `folder`).

    It is computed once in a process, so later edits of the files go unnoticed there, as their code does.
    """
    return digest({name: meaning((folder / file).read_text("utf-8")) for name, file in files})
