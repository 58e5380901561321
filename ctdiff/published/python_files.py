"""Finds the values that a Python configuration file assigns, without executing it.

Assignments in `get_config()` are understood if they have literals, sections (`ml_collections.ConfigDict()`), arithmetic of
numbers, references to earlier values, `int`, `float`, `tuple`, `list` and `os.path.join`. All other lines are listed.
"""

from __future__ import annotations

import ast
import builtins
import operator
import posixpath
from collections.abc import Callable, Sequence
from typing import Any

from ctdiff.published.contents import OPAQUE, Leaf, Published, PublishedError, Section, Skipped, flat

__all__ = ["read_python"]

_LONGEST_TEXT = 10_000
_LARGEST_INTEGER = 2**64
_SCALARS = (str, int, float, bool, type(None))


class _NotUnderstoodError(Exception):
    """An expression that cannot be evaluated without executing the file."""


def read_python(text: str, source: str) -> Published:
    """Read the configuration from the text of a Python file.

    Raises:
        PublishedError: the text is not Python, or its `get_config()` returns no configuration.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise PublishedError(f"{source}, line {error.lineno}: not Python: {error.msg}") from error
    except ValueError as error:  # a null byte, in some versions of Python
        raise PublishedError(f"{source}: not Python: {error}") from error
    reader = _Reader(text.splitlines(), source)
    return Published(source, flat(reader.configuration(tree), source), reader.skipped)


class _Reader:
    """Follows the assignments of a file.

    Arguments:
        lines: the lines of the file.
        source: its name, for messages.
    """

    def __init__(self, lines: Sequence[str], source: str) -> None:
        self.lines, self.source = lines, source
        self.names: dict[str, Any] = {}
        self.skipped: list[Skipped] = []

    def configuration(self, tree: ast.Module) -> Section:
        """Return the section that `get_config()` returns."""
        function = None
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == "get_config":
                function = node
            else:
                self.follow(node)
        if function is None:
            raise PublishedError(f"{self.source}: has no function get_config()")
        self.names.update({argument.arg: OPAQUE for argument in ast.walk(function.args) if isinstance(argument, ast.arg)})
        for node in function.body:
            if isinstance(node, ast.Return):
                return self.returned(node)
            self.follow(node)
        raise PublishedError(f"{self.source}: get_config() returns nothing")

    def returned(self, node: ast.Return) -> Section:
        try:
            value = self.value(node.value) if node.value is not None else None
        except _NotUnderstoodError:
            value = None
        if not isinstance(value, Section):
            raise PublishedError(
                f"{self.source}, line {node.lineno}: get_config() does not return a ConfigDict that it has made"
            )
        return value

    def follow(self, node: ast.stmt) -> None:
        """Apply one statement to the known values."""
        if isinstance(node, ast.Assign):
            self.assign(node.targets, node.value, node)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self.assign([node.target], node.value, node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.names.update({(each.asname or each.name).partition(".")[0]: OPAQUE for each in node.names})
        elif not (isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))):
            self.skip(node, type(node).__name__)
            self.forget(node)

    def skip(self, node: ast.stmt, why: str) -> None:
        self.skipped.append(Skipped(node.lineno, self.lines[node.lineno - 1].strip()[:80], why))

    def forget(self, statement: ast.stmt) -> None:
        """Mark everything that a statement assigns as not understood."""
        for node in ast.walk(statement):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                self.names[node.name] = OPAQUE
            elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
                self.store(node, OPAQUE, statement)

    def assign(self, targets: Sequence[ast.expr], expression: ast.expr, node: ast.stmt) -> None:
        try:
            value = self.value(expression)
        except _NotUnderstoodError as error:
            self.skip(node, str(error))
            value = OPAQUE
        for target in targets:
            self.store(target, value, node)

    def store(self, target: ast.expr, value: Any, node: ast.stmt) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            several = isinstance(value, list | tuple) and len(value) == len(target.elts)
            for i, each in enumerate(target.elts):
                self.store(each, value[i] if several else OPAQUE, node)
        elif isinstance(target, ast.Attribute | ast.Subscript):
            try:
                section, name = self.value(target.value), _name_in(target)
            except _NotUnderstoodError:
                section, name = None, None
            if isinstance(section, Section) and name is not None:
                section[name] = value if isinstance(value, Section) or value is OPAQUE else Leaf(value, node.lineno)
            elif value is not OPAQUE:
                self.skip(node, f"{ast.unparse(target)[:40]} is no key of a ConfigDict")

    def value(self, node: ast.expr) -> Any:
        """Return the value of an expression.

        Raises:
            _NotUnderstoodError: the value is not known without executing the file.
            PublishedError: the expression uses a variable or a key that does not exist.
        """
        match node:
            case ast.Constant(value=str() | int() | float() | None as value):
                return value
            case ast.Name(id=name):
                return self.named(name, node)
            case ast.Attribute() | ast.Subscript():
                return self.member(node)
            case ast.Tuple(elts=members) | ast.List(elts=members):
                values = [self.value(each) for each in members]
                if not all(isinstance(each, _SCALARS) for each in values):
                    raise _NotUnderstoodError("a list of lists")
                return tuple(values) if isinstance(node, ast.Tuple) else values
            case ast.Dict(keys=keys, values=members):
                return self.section([key.value if isinstance(key, ast.Constant) else None for key in keys], members)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                value = _number(self.value(operand))
                return -value if isinstance(sign, ast.USub) else value
            case ast.BinOp(left=left, op=operation, right=right):
                return _arithmetic(operation, self.value(left), self.value(right))
            case ast.Call():
                return self.call(node)
        raise _NotUnderstoodError(type(node).__name__)

    def named(self, name: str, node: ast.expr) -> Any:
        if name not in self.names and not hasattr(builtins, name):
            raise PublishedError(f"{self.source}, line {node.lineno}: the name {name!r} is not defined")
        if (value := self.names.get(name, OPAQUE)) is OPAQUE:
            raise _NotUnderstoodError(name)
        return value

    def member(self, node: ast.Attribute | ast.Subscript) -> Any:
        owner = self.value(node.value)
        if isinstance(node, ast.Subscript) and isinstance(owner, list | tuple):
            index = self.value(node.slice)
            if not isinstance(index, int) or not -len(owner) <= index < len(owner):
                raise PublishedError(f"{self.source}, line {node.lineno}: {ast.unparse(node)[:80]} does not exist")
            return owner[index]
        name = _name_in(node)
        if not isinstance(owner, Section) or name is None:
            raise _NotUnderstoodError(ast.unparse(node)[:40])
        if name not in owner:
            raise PublishedError(f"{self.source}, line {node.lineno}: {ast.unparse(node)[:80]} is not assigned before")
        if (value := owner[name]) is OPAQUE:
            raise _NotUnderstoodError(ast.unparse(node)[:40])
        return value.value if isinstance(value, Leaf) else value

    def section(self, names: Sequence[object], members: Sequence[ast.expr]) -> Section:
        section = Section()
        for name, member in zip(names, members, strict=True):
            if not isinstance(name, str):
                raise _NotUnderstoodError("a key that is no text")
            value = self.value(member)
            section[name] = value if isinstance(value, Section) else Leaf(value, member.lineno)
        return section

    def call(self, node: ast.Call) -> Any:
        called = ast.unparse(node.func)
        if called.rpartition(".")[2] in ("ConfigDict", "dict") and len(node.args) <= 1:
            start = self.value(node.args[0]) if node.args else Section()
            if isinstance(start, Section):
                return Section(
                    start | self.section([each.arg for each in node.keywords], [each.value for each in node.keywords])
                )
        plain: dict[str, Callable[[list[Any]], Any]] = {
            "int": lambda values: int(_number(*values)),
            "float": lambda values: float(_number(*values)),
            "tuple": lambda values: tuple(*values),
            "list": lambda values: list(*values),
            "os.path.join": lambda values: posixpath.join(*values),
        }
        if called not in plain or called in self.names or node.keywords:
            raise _NotUnderstoodError(f"{called[:40]}(...)")
        try:
            return plain[called]([self.value(each) for each in node.args])
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            if isinstance(error, PublishedError):
                raise
            raise _NotUnderstoodError(f"{called[:40]}(...)") from error


def _name_in(node: ast.Attribute | ast.Subscript) -> str | None:
    """Return `name` for `section.name` and for `section["name"]`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.slice.value if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str) else None


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _NotUnderstoodError(f"arithmetic with {type(value).__name__}")
    return value


_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def _arithmetic(operation: ast.operator, left: Any, right: Any) -> Any:
    """Return the result of an operation. Its size is limited, so that a file cannot fill the memory."""
    if isinstance(operation, ast.Add) and isinstance(left, str) and isinstance(right, str):
        if len(left) + len(right) <= _LONGEST_TEXT:
            return left + right
        raise _NotUnderstoodError("a very long text")
    left, right = _number(left), _number(right)
    if type(operation) not in _OPERATIONS or (isinstance(operation, ast.Pow) and abs(right) > 64):
        raise _NotUnderstoodError(type(operation).__name__)
    try:
        value = _OPERATIONS[type(operation)](left, right)
    except ArithmeticError as error:
        raise _NotUnderstoodError(str(error)) from error
    if not isinstance(value, int | float) or (isinstance(value, int) and abs(value) > _LARGEST_INTEGER):
        raise _NotUnderstoodError("a very large number")
    return value
