"""The API pages: the public names of `emolens/__init__.pyi`, room by room, with signatures as they are written."""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

import emolens

ROOMS = {
    "corpus": "Texts, ratings, and your own corpus",
    "models": "Models: loading, hooks, generation",
    "vectors": "Vectors: derive, combine, arrange",
    "reading": "Reading texts",
    "steering": "Steering and patching, with their nulls",
    "training": "Training before and after",
    "watching": "Watching, and alarms",
    "judging": "Judges and the sandbox",
    "engines": "Many machines",
    "evals": "Evaluations on Inspect",
    "studies": "Studies: one module for each experiment",
    "plots": "Figures",
    "results": "Results and statistics",
    "notebook": "For notebooks",
}
AMONG = {"stats": "results", "exercises": "notebook"}  # modules that share a page

ERRORS = {  # the page of each class of errors
    "TooLongError": "too_long",
    "UnsupportedError": "unsupported",
    "NotForThisModel": "not_for_this_model",
    "UncontainedError": "uncontained",
    "NotPlainError": "not_plain",
}


def room_of(home: str) -> str:
    """The page of a public name, by the module that it comes from."""
    room = home.split(".")[1] if "." in home else home
    return AMONG.get(room, room)


def own(module: ModuleType) -> list[str]:
    """What a module offers: its `__all__`, or the functions and classes that it defines."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)
    ]


def first_line(value: Any) -> str:
    """The first sentence of a docstring, for a table."""
    text = (inspect.getdoc(value) or "") if callable(value) or isinstance(value, ModuleType) else "a constant"
    return " ".join(text.split("\n\n")[0].split())


def entries() -> dict[str, tuple[list[tuple[str, Any]], list[tuple[str, ModuleType]]]]:
    """For each room its public names, and its public modules."""
    rooms: dict[str, tuple[list[tuple[str, Any]], list[tuple[str, ModuleType]]]] = {room: ([], []) for room in ROOMS}
    for name, home in emolens._HOME.items():
        value = getattr(emolens, name)
        room = room_of(f"{home}.{name}" if isinstance(value, ModuleType) else home)
        if isinstance(value, ModuleType):
            rooms[room][1].append((name, value))
        else:
            rooms[room][0].append((name, value))
    return rooms


def titled(title: str, line: str) -> str:
    """A heading."""
    return f"{title}\n{line * len(title)}\n"


def prose(text: str) -> str:
    """A line in which only backticks are markup."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\_", re.sub(r"([*|\\])", r"\\\1", part)) for part in parts[::2]]
    return "`".join(parts)


def listed(names: list[tuple[str, str]]) -> str:
    """A table of names with what each is."""
    if not names:
        return ""
    rows = [
        f"   * - :py:obj:`{name.removesuffix('.run')} <emolens.{name}>`\n     - {prose(line)}" for name, line in names
    ]
    return "\n".join([".. list-table::\n   :class: names\n   :widths: 30 70\n", *rows, ""])


def directive(name: str, value: Any) -> str:
    """What documents a name; of a constant, its entries."""
    if callable(value):
        return f".. {'autoclass' if inspect.isclass(value) else 'autofunction'}:: emolens.{name}\n"
    words = ", ".join(f"`{one}`" for one in value)
    return f".. py:data:: {name}\n\n   {len(value)}: {words}.\n"


def section(title: str, about: str, offered: list[tuple[str, Any]]) -> str:
    """A module: what it is for, the table of its names, and each of them."""
    parts = [titled(title, "-"), prose(about) + "\n"] if title else []
    parts.append(listed([(name, first_line(value)) for name, value in offered]))
    return "\n".join(parts + [directive(name, value) for name, value in offered])


def studies() -> str:
    """Every study with its question, and how it is run."""
    described = emolens.studies.describe()
    table = listed([(f"studies.{name}.run", question) for name, question in described.items()])
    each = [
        f"{titled(name, '-')}\n{prose(question)}\n\n.. autofunction:: emolens.studies.{name}.run\n"
        for name, question in described.items()
    ]
    return "\n".join([table, *each])


def page(room: str, names: list[tuple[str, Any]], modules: list[tuple[str, ModuleType]]) -> str:
    """The page of a room: first the names that stand in `emolens` itself, then its modules."""
    parts = [titled(ROOMS[room], "="), ".. py:currentmodule:: emolens\n"]
    parts += [prose(first_line(importlib.import_module(f"emolens.{room}"))) + "\n", section("", "", names)]
    shown = [value for _, value in names]
    for name, module in modules:
        if name == "studies":
            parts.append(studies())
            continue
        found = [(f"{name}.{one}", getattr(module, one)) for one in own(module)]
        offered = [(one, value) for one, value in found if one.rpartition(".")[2] not in ERRORS]
        offered = [(one, value) for one, value in offered if not any(value is other for other in shown)]
        if offered:
            parts.append(section("" if name == room else f"emolens.{name}", first_line(module), offered))
    return "\n".join(parts)


def pages(_: Sphinx) -> None:
    """Writes a page for each room."""
    from _site.pages import write

    for room, (names, modules) in entries().items():
        write(f"api/{room}.rst", page(room, names, modules))


def written(value: Any) -> ast.FunctionDef | ast.ClassDef | None:
    """The definition of a function or a class in its source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(value))))
    except (OSError, TypeError, SyntaxError):
        return None
    return tree.body[0] if isinstance(tree.body[0], (ast.FunctionDef, ast.ClassDef)) else None


def unquoted(annotation: ast.expr | None) -> ast.expr | None:
    """An annotation that was written as a string, as those of a class within itself are."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def of_dataclass(value: type) -> str:
    """The arguments of a dataclass, as its fields are written."""
    fields = dataclasses.fields(value)
    annotations: dict[str, ast.AnnAssign] = {}
    for base in reversed(value.__mro__):
        if isinstance(found := written(base) if base is not object else None, ast.ClassDef):
            annotations |= {
                line.target.id: line
                for line in found.body
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            }
    parts = []
    for field in fields:
        line = annotations.get(field.name)
        if not field.init or line is None or field.name.startswith("_"):
            continue
        default = ""
        if line.value is not None:
            default = f" = {'...' if isinstance(line.value, ast.Call) else ast.unparse(line.value)}"
        parts.append(f"{field.name}: {ast.unparse(line.annotation)}{default}")
    return f"({', '.join(parts)})"


def signature(
    _: Sphinx, what: str, name: str, value: Any, options: Any, given: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """The signature as it is written in the source: annotations of shapes stay what one reads there."""
    if what == "class" and dataclasses.is_dataclass(value):
        return of_dataclass(value), None
    found = written(value.__init__ if what == "class" else value)
    if not isinstance(found, ast.FunctionDef) or given is None:
        return None
    arguments = found.args
    first = [*arguments.posonlyargs, *arguments.args][:1]
    if what in ("class", "method") and first and first[0].arg in ("self", "cls"):
        (arguments.posonlyargs or arguments.args).pop(0)
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        argument.annotation = unquoted(argument.annotation)
    result = unquoted(found.returns) if what != "class" else None
    return f"({ast.unparse(arguments)})", ast.unparse(result) if result else None


def docstring(_: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Only backticks and examples are markup in a docstring; asterisks and bars are what they are."""
    example = False
    if what in ("property", "attribute") and lines:
        lines[0] = lines[0].replace(": ", " – ")  # napoleon takes what stands before a colon there for a type
    for number, line in enumerate(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if not example:
            lines[number] = prose(line)


def error_page(app: Sphinx, env: Any, node: Any, contents: Any) -> Any:
    """The page of an error that "Raises" names."""
    page = ERRORS.get(node.get("reftarget", "").rpartition(".")[2])
    if page is None or node.get("reftype") not in ("exc", "class", "obj"):
        return None
    return make_refnode(app.builder, node["refdoc"], f"errors/{page}", "", contents, node["reftarget"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Writes the pages before Sphinx looks for them, and shows signatures and docstrings as they are written."""
    app.connect("builder-inited", pages, priority=100)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", docstring, priority=100)
    app.connect("missing-reference", error_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
