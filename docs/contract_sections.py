"""Sections of the documentation about classes, functions and names: read in their source, never imported."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

Named = ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign
LONGEST = 90
"""Of a signature on one line."""
SHARED_CONTRACT = "PluginContract"


@functools.cache
def source(module: str) -> ast.Module:
    """A module's, parsed."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None, module
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


@functools.cache
def definitions(module: str) -> dict[str, tuple[Named, str]]:
    """The public names that a module defines, in its order: where, and the text in quotes below a value."""
    body = source(module).body
    found: dict[str, tuple[Named, str]] = {}
    for node, after in itertools.zip_longest(body, body[1:]):
        name = _name(node)
        if isinstance(node, Named) and name is not None and not name.startswith("_"):
            found[name] = (node, _text_of(after))
    return found


def _name(node: ast.AST) -> str | None:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else None


def _text_of(node: ast.AST | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return inspect.cleandoc(str(node.value.value))
    return ""


def section(target: str) -> str:
    """What the source says of a class, a function or another name.

    Args:
        target: "module:name".
    """
    module, name = target.split(":")
    node, below = definitions(module)[name]
    lines = [f"### `{name}`", "", f"`{module}.{name}`", ""]
    if isinstance(node, ast.ClassDef):
        lines += [*docstring(ast.get_docstring(node) or ""), *class_members(node)]
    elif isinstance(node, ast.FunctionDef):
        lines += [*_code(signature(node)), *docstring(ast.get_docstring(node) or "")]
    else:
        lines += [*_code(ast.unparse(node)), *docstring(below)]
    return "\n".join(lines) + "\n"


def about(target: str) -> list[str]:
    """What a plugin's implementation says of itself.

    Args:
        target: "module:name", as it was registered.
    """
    module, name = target.split(":")
    node, below = definitions(module)[name]
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return docstring(ast.get_docstring(node) or "")
    return docstring(below)


def class_members(node: ast.ClassDef) -> list[str]:
    """Its attributes in a table, then its constructor, properties and methods with what they say."""
    rows = [
        f"| {_declared(member)} | {cell(text)} |"
        for member, text in _members(node)
        if isinstance(member, ast.AnnAssign) and text
    ]
    lines = ["", "| attribute | |", "|---|---|", *rows] if rows else []
    for member, text in _members(node):
        if isinstance(member, ast.FunctionDef) and text:
            own = member.name if member.name != "__init__" else f"{node.name}(...)"
            lines += ["", f"#### `{own}`{_mark(member)}", "", *_code(signature(member)), *docstring(text)]
    return lines


def _members(node: ast.ClassDef) -> Iterator[tuple[ast.stmt, str]]:
    """Public ones, and the constructor; the text of each."""
    for member, after in itertools.zip_longest(node.body, node.body[1:]):
        name = _name(member)
        if name is None or (name.startswith("_") and name != "__init__"):
            continue
        if isinstance(member, ast.FunctionDef):
            yield member, ast.get_docstring(member) or ""
        else:
            yield member, _text_of(after) or _description(member)


def _description(member: ast.stmt) -> str:
    """Of an option, `Field(default, description=...)`."""
    value = getattr(member, "value", None)
    keywords = {each.arg: each.value for each in value.keywords} if isinstance(value, ast.Call) else {}
    return str(ast.literal_eval(keywords["description"])) if "description" in keywords else ""


def _declared(member: ast.AnnAssign) -> str:
    kind = re.sub(r"^ClassVar\[(.*)\]$", r"\1", ast.unparse(member.annotation))
    default = member.value
    if _description(member) and isinstance(default, ast.Call):
        default = default.args[0] if default.args else None
    value = f" = {ast.unparse(default)}" if default is not None else ""
    return f"`{ast.unparse(member.target)}: {kind}{value}`"


def _mark(member: ast.FunctionDef) -> str:
    decorators = {getattr(each, "id", getattr(each, "attr", "")) for each in member.decorator_list}
    marks = [
        word
        for decorator, word in (
            ("abstractmethod", "to be written"),
            ("property", "property"),
            ("classmethod", "of the class"),
        )
        if decorator in decorators
    ]
    return f" *({', '.join(marks)})*" if marks else ""


def signature(node: ast.FunctionDef) -> str:
    """Its first line, or one line an argument where that is long."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    arguments = _arguments(ast.unparse(node.args))
    whole = f"def {node.name}({', '.join(arguments)}){returns}"
    if len(whole) <= LONGEST:
        return whole
    return "\n".join([f"def {node.name}(", *(f"    {each}," for each in arguments), f"){returns}"])


def _arguments(text: str) -> list[str]:
    """Of a signature, parted at the commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _code(text: str) -> list[str]:
    return ["```python", text, "```", ""]


def docstring(text: str) -> list[str]:
    """Google's sections as lists; formulas and pipes are left as they are, indented code is code."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        heading = re.fullmatch(r"(Args|Attributes|Returns|Raises):", line)
        entry = re.match(r"    (\w+): (.*)", line)
        if heading:
            inside = True
            lines += ["", f"{heading[1]}:", ""]
        elif entry and inside:
            lines.append(f"- `{entry[1]}`: {escaped(entry[2])}")
        elif line.startswith("    "):
            lines.append(f"  {escaped(line.strip())}" if inside else line)
        else:
            lines.append(escaped(line))
    return lines


def escaped(text: str) -> str:
    """Plain text, in which `[B, L]` is no link and `a * b * c` no emphasis, but for code spans."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\[\]*_<])", r"\\\1", part) for part in parts)


def cell(text: str) -> str:
    """Text for a table's cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def others(module: str, named_elsewhere: frozenset[str]) -> str:
    """The sections of a module's names that no page names by themselves.

    Args:
        module: with public names, its own or, of a package, those that it hands on.
        named_elsewhere: "module:name" of those that have a place of their own.
    """
    targets = [f"{module}:{name}" for name in definitions(module)] + handed_on(module)
    return "\n".join(section(target) for target in targets if target not in named_elsewhere)


@functools.cache
def handed_on(package: str) -> list[str]:
    """ "module:name" of what a package's `__init__` imports from its own modules."""
    imports = (node for node in source(package).body if isinstance(node, ast.ImportFrom))
    return [
        f"{node.module}:{each.name}"
        for node in imports
        for each in node.names
        if str(node.module).startswith(f"{package}.")
    ]


def tests_of(target: str, declarations: str) -> str:
    """A contract class: what it says of itself, and its tests by name, those of its parts too.

    Args:
        target: "module:name" of the contract class.
        declarations: "module:name" of classes with commas between, whose attributes and properties a test may
            look at; empty where there are none.
    """
    whole, *parts = _with_parts(target)
    declared = {own for each in declarations.split(",") if each for own in _declarations(each)}
    members = [member for each in (whole, *parts) for member in _members(each)]
    helpers = _methods(target)
    lines = [f"### `{whole.name}`", "", *docstring(ast.get_docstring(whole) or "")]
    rows = [
        f"| {_declared(member)} | {cell(text)} |"
        for member, text in members
        if isinstance(member, ast.AnnAssign) and text
    ]
    lines += ["", "| attribute | |", "|---|---|", *rows] if rows else []
    lines += ["", "| test | what it looks for | by what is declared |", "|---|---|---|"]
    for member, text in members:
        if isinstance(member, ast.FunctionDef) and member.name.startswith("test_"):
            words = _words(member, helpers)
            seen = ", ".join(f"`{each}`" for each in sorted(words & declared, key=str))
            lines.append(f"| `{member.name}` | {cell(escaped(text))} | {seen} |")
    return "\n".join(lines) + "\n"


def _with_parts(target: str) -> list[ast.ClassDef]:
    """A contract class and those that it is put together from, but for the one that all kinds share."""
    module, name = target.split(":")
    node, _ = definitions(module)[name]
    assert isinstance(node, ast.ClassDef)
    found = {node.name: node}
    whence = _imported(module)
    for base in node.bases:
        part = getattr(base, "id", "")
        if part in whence and part != SHARED_CONTRACT:
            found |= {each.name: each for each in _with_parts(f"{whence[part]}:{part}")}
    return list(found.values())


def _imported(module: str) -> dict[str, str]:
    """The names that a module imports from others -> which."""
    imports = (each for each in source(module).body if isinstance(each, ast.ImportFrom))
    return {each.name: str(statement.module) for statement in imports for each in statement.names}


def _methods(target: str) -> dict[str, ast.FunctionDef]:
    """The methods of a contract class by name, those of what it derives from too."""
    module, name = target.split(":")
    node = next(each for each in source(module).body if isinstance(each, ast.ClassDef) and each.name == name)
    whence = _imported(module)
    here = {each.name for each in source(module).body if isinstance(each, ast.ClassDef)}
    found: dict[str, ast.FunctionDef] = {}
    for base in reversed(node.bases):
        part = getattr(base, "id", "")
        if part in here or part in whence:
            found |= _methods(f"{module if part in here else whence[part]}:{part}")
    return found | {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}


def _words(test: ast.FunctionDef, helpers: Mapping[str, ast.FunctionDef]) -> set[object]:
    """The attributes and texts in a test and in the helpers that it calls on itself, however deep."""
    waiting, seen, words = [test], set[str](), set[object]()
    while waiting:
        function = waiting.pop()
        seen.add(function.name)
        for each in ast.walk(function):
            words.add(getattr(each, "attr", getattr(each, "value", None)))
            if isinstance(each, ast.Attribute) and getattr(each.value, "id", "") == "self":
                helper = helpers.get(each.attr)
                if helper is not None and helper.name not in seen:
                    waiting.append(helper)
    return words


def _declarations(target: str) -> Iterator[str]:
    """The names of a class that are declared once for all: attributes, and properties to override."""
    module, name = target.split(":")
    node, _ = definitions(module)[name]
    assert isinstance(node, ast.ClassDef)
    for member, text in _members(node):
        is_value = isinstance(member, ast.AnnAssign) and (member.value is not None or bool(text))
        if is_value or (isinstance(member, ast.FunctionDef) and "property" in _mark(member)):
            yield str(_name(member))
