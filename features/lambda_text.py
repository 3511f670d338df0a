"""The text of one lambda, however many stand on its line; and a stand-in for functions without a text."""

from __future__ import annotations

import ast
import hashlib
import inspect
from functools import cache
from types import CodeType, FunctionType


def lambda_text(function: FunctionType) -> str | None:
    """The source of a lambda alone, without layout; None where its file cannot be read.

    >>> one, two = lambda x: x + 1, lambda x: x + 2
    >>> lambda_text(one), lambda_text(two)
    ('lambda x: x + 1', 'lambda x: x + 2')
    """
    try:
        lines, _ = inspect.findsource(function)
    except (OSError, TypeError):
        return None
    found = [node for node in _lambdas("".join(lines)) if _holds(node, function.__code__)]
    # Of a lambda and those around it the smallest that holds all of the code is the one.
    return ast.unparse(min(found, key=_extent)) if found else None


def code_text(function: FunctionType) -> str:
    """A function without source (typed at a prompt, say) told by what it does: its name and compiled code."""
    return f"{function.__qualname__} {hashlib.sha256(repr(_parts(function.__code__)).encode()).hexdigest()}"


@cache
def _lambdas(text: str) -> list[ast.Lambda]:
    try:
        return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Lambda)]
    except SyntaxError:
        return []


def _holds(node: ast.Lambda, code: CodeType) -> bool:
    """Whether the lambda's body has every position of the code, and begins where the code does."""
    body = node.body
    first, last = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
    spans = [
        ((line, start), (end_line, end))
        for line, end_line, start, end in code.co_positions()
        if line is not None and end_line is not None and start is not None and end is not None and end > 0
    ]
    inside = all(first <= start and end <= last for start, end in spans)
    return node.lineno == code.co_firstlineno and inside and bool(spans)


def _extent(node: ast.Lambda) -> tuple[int, int]:
    return (node.end_lineno or 0) - node.lineno, (node.end_col_offset or 0) - node.col_offset


def _parts(code: CodeType) -> tuple[object, ...]:
    constants = [_parts(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames
