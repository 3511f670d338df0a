"""What a function uses that its own text does not show: module-level names, and values it brings along."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from types import CodeType, FunctionType, ModuleType
from typing import Any


def package_of(this: Any) -> str:
    """The top-level package that a function, class or module belongs to."""
    this = this.func if isinstance(this, partial) else this
    home = this.__name__ if isinstance(this, ModuleType) else getattr(this, "__module__", None)
    return str(home or "").partition(".")[0]


def plain_function(value: Any) -> Any:
    """The function behind one that is cached or otherwise wrapped in an object; anything else as it is."""
    wrapped = getattr(value, "__wrapped__", None)
    return value if wrapped is None or inspect.isfunction(value) else wrapped


def brought(function: Callable[..., Any]) -> dict[str, Any]:
    """The values of enclosing functions and the defaults of a function, by name; of what is not yet bound none."""
    code = getattr(function, "__code__", None)
    found = {}
    for name, cell in zip(code.co_freevars if code else (), getattr(function, "__closure__", None) or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # it is yet to be defined
            continue
    parameters = code.co_varnames[: code.co_argcount] if code else ()
    defaults = getattr(function, "__defaults__", None) or ()
    found |= zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True)
    return found | (getattr(function, "__kwdefaults__", None) or {})


def module_names(function: FunctionType) -> dict[str, Any]:
    """What a function, and those written inside of it, takes from its module, by name; built-ins left out.

    A name behind a module of the same package ("shapes.area") stands for what it is there.

    >>> def area(radius):
    ...     return [package_of(radius) for _ in range(3)]
    >>> list(module_names(area))
    ['package_of']
    """
    home, space = package_of(function), function.__globals__
    found = {}
    for code in _codes(function.__code__):
        for name, attribute in _loaded(code):
            value = space.get(name)
            if isinstance(value, ModuleType) and attribute and package_of(value) == home:
                found[f"{name}.{attribute}"] = getattr(value, attribute, None)
            elif name in space:
                found[name] = value
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of every function, lambda and comprehension in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _loaded(code: CodeType) -> Iterator[tuple[str, str | None]]:
    """The global names that code loads, each with the attribute that is taken of it next, if one is."""
    for this, following in pairwise(dis.get_instructions(code)):
        if this.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield this.argval, following.argval if following.opname in ("LOAD_ATTR", "LOAD_METHOD") else None
