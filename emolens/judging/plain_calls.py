"""Calls from the process that holds the tests to the process that holds the solution, with plain data between them.

Plain data are None, numbers, strings, bytes, and lists, tuples, dicts, sets and ranges of plain data, each of exactly
that type. The process of the tests makes them anew from JSON, so that what it compares has no code of the solution
in it. Arguments are copies; what a function that returns None did to them is done to the originals. Of any other
argument, such as a callable or an object of the tests' own, the solution sees the methods and not the data, and a
method runs where the tests are.

`sandboxed_process` loads this file by its path, in an interpreter without site-packages.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import json
import os
import struct
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

LEAVES = frozenset({type(None), bool, int, float, str})
MAKERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": lambda held: dict(zip(*held, strict=True)),
    "range": lambda held: range(*held),
    "complex": lambda held: complex(*held),
    "bytes": lambda held: held.encode("latin-1"),
    "bytearray": lambda held: bytearray(held.encode("latin-1")),
    "NotImplemented": lambda held: NotImplemented,
}
OPERATORS = """
call len getitem setitem delitem contains iter next reversed lt le gt ge eq ne hash bool int float index str neg abs
add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow and or xor enter exit
"""
SPECIAL = frozenset(f"__{name}__" for name in OPERATORS.split())


class NotPlainError(TypeError):
    """Something that is no plain data was to cross from the solution to the tests.

    >>> tests = "import solution\\nsolution.apply(print)"
    >>> el.sandbox.run_tests("def apply(f): f(object())", tests, apart=True).output
    'solution.apply() gave a object, which is no plain data'
    """


def pack(value: Any, lend: Callable[[Any], Any]) -> Any:
    """`value` as what JSON can hold; what is no plain data is left to `lend`.

    >>> pack([1, (2.5, b"x")], repr)
    [1, {'tuple': [2.5, {'bytes': 'x'}]}]
    """
    kind = type(value)
    if kind in LEAVES:
        return value
    if kind is list:
        return value if LEAVES.issuperset(map(type, value)) else [pack(each, lend) for each in value]
    if kind in (tuple, set, frozenset):
        return {kind.__name__: pack(list(value), lend)}
    if kind is dict:
        return {"dict": [pack(list(value), lend), pack(list(value.values()), lend)]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.decode("latin-1")}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    return {"NotImplemented": []} if value is NotImplemented else lend(value)


def unpack(value: Any, find: Callable[[Any], Any]) -> Any:
    """What was packed, made anew; `find` gives the object that was lent.

    Raises:
        ValueError, TypeError, LookupError: nothing that `pack` makes.

    >>> unpack([1, {"tuple": [2.5, {"bytes": "x"}]}], repr)
    [1, (2.5, b'x')]
    """
    if type(value) is list:
        return value if LEAVES.issuperset(map(type, value)) else [unpack(each, find) for each in value]
    if type(value) is not dict:
        return value
    ((name, held),) = value.items()
    return find(held) if name == "lent" else MAKERS[name](unpack(held, find))


class Line:
    """One end of two pipes. Whoever asks serves, while it waits for the answer, what the other end asks.

    >>> import os
    >>> reading, writing = os.pipe()
    >>> line = Line(reading, writing, lambda message: message)  # an end that hears itself
    >>> line.say(["value", [1, 2]])
    >>> line.hear()
    ['value', [1, 2]]
    >>> line.ask(["value", 3])
    ['value', 3]
    """

    def __init__(self, reading: int, writing: int, serve: Callable[[Any], Any]) -> None:
        self.reading, self.writing, self.serve = reading, writing, serve

    def say(self, message: Any) -> None:
        """Send a message."""
        text = json.dumps(message).encode()
        rest = memoryview(struct.pack("Q", len(text)) + text)
        while rest:
            rest = rest[os.write(self.writing, rest) :]

    def hear(self) -> Any:
        """The next message. Raises EOFError when the other end is closed."""
        (length,) = struct.unpack("Q", self._read(8))
        return json.loads(self._read(length))

    def _read(self, length: int) -> bytes:
        read = bytearray()
        while len(read) < length:
            part = os.read(self.reading, min(length - len(read), 1 << 20))
            if not part:
                raise EOFError("the process of the solution has ended")
            read += part
        return bytes(read)

    def ask(self, message: Any) -> Any:
        """Send a message and return its answer."""
        self.say(message)
        while (heard := self.hear())[0] not in ("value", "raised", "unplain"):
            self.say(self.serve(heard))
        return heard


def _outcome(function: Callable[[], list[Any]], lend: Callable[[Any], Any]) -> list[Any]:
    """What a call gives, as a message."""
    try:
        return ["value", *(pack(value, lend) for value in function())]
    except NotPlainError as error:
        return ["unplain", str(error)]
    except BaseException as error:
        try:
            said = pack(list(error.args), lend)
        except NotPlainError:
            said = [str(error)]
        return ["raised", [kind.__name__ for kind in type(error).__mro__], said]


def _exception(names: list[str], said: list[Any]) -> BaseException:
    """The exception that was raised at the other end, of its nearest built-in class."""
    classes = [getattr(builtins, name, None) for name in names]
    kind = next(each for each in classes if isinstance(each, type) and issubclass(each, BaseException))
    try:
        return kind(*said)
    except TypeError:  # a class with arguments of its own
        return RuntimeError(names[0], *said)


# --- where the tests are -----------------------------------------------------------------------------


@cache
def _methods(kind: Any) -> list[str]:
    """What the solution may call of an object of the tests: its public methods and the operators it defines."""
    names = [name for name in dir(kind) if name in SPECIAL or not name.startswith("_")]
    found = {name: getattr(kind, name, None) for name in names}
    return [name for name, method in found.items() if callable(method) and method is not getattr(object, name, None)]


def remote_solution(reading: int, writing: int, refuse: Callable[[str], NoReturn]) -> types.ModuleType:
    """The module `solution` as the tests see it; its code runs at the other end.

    Args:
        refuse: told what came that is no plain data; it ends the process, so that no test can catch it.

    >>> tests = "import solution\\nassert solution.add(1, b=2) == 3 and type(solution).__name__ == 'module'"
    >>> el.sandbox.run_tests("def add(a, b): return a + b", tests, apart=True).passed
    True
    """
    sys.set_int_max_str_digits(0)  # any number may cross
    lent: dict[int, Any] = {}

    def lend(value: Any) -> Any:
        lent[id(value)] = value
        kind: Any = type(value)
        return {"lent": [id(value), _methods(kind)]}

    def serve(message: Any) -> Any:
        """Call a method of an object that was lent."""
        _, number, name, *packed = message
        target = lent[number]
        kind: Any = type(target)
        args, kwargs = (unpack(each, lent.__getitem__) for each in packed)
        if name not in _methods(kind):
            raise LookupError(name)
        if name in SPECIAL:  # an operator is looked up on the class
            return _outcome(lambda: [getattr(kind, name)(target, *args, **kwargs)], lend)
        return _outcome(lambda: [getattr(target, name)(*args, **kwargs)], lend)

    line = Line(reading, writing, serve)

    def ask(what: str, *message: Any) -> list[Any]:
        try:
            kind, *rest = line.ask(message)
            if kind == "value":
                return [unpack(each, lent.__getitem__) for each in rest]
            if kind == "unplain":
                refuse(f"{what} {rest[0]}")
            error = _exception(rest[0], unpack(rest[1], lent.__getitem__))
        except (EOFError, OSError):
            refuse(f"{what} ended its process")
        except Exception as fault:
            refuse(f"{what} gave no plain data ({type(fault).__name__})")
        raise error

    def attribute(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        is_function, value = ask(f"solution.{name}", "get", name)
        if is_function is not True:
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            value, after = ask(f"solution.{name}()", "call", name, pack(list(args), lend), pack(kwargs, lend))
            if value is None:
                for before, now in zip([*args, *kwargs.values()], after, strict=True):
                    _refresh(before, now)
            return value

        setattr(module, name, call)
        return call

    ask("solution", "import")
    module = types.ModuleType("solution")
    vars(module)["__getattr__"] = attribute
    return module


def _refresh(before: Any, now: Any) -> None:
    """Do to an argument what was done to its copy."""
    if type(before) is type(now) and type(before) in (list, bytearray):
        before[:] = now
    elif type(before) is type(now) and type(before) in (dict, set):
        before.clear()
        before.update(now)


# --- where the solution is ---------------------------------------------------------------------------


def serve_solution(reading: int, writing: int) -> None:
    """Import `solution` and do what the tests ask of it, until they end.

    >>> tests = "import solution\\nassert solution.largest([1, 3, 2], key=lambda n: -n) == 1"
    >>> el.sandbox.run_tests("def largest(row, key): return max(row, key=key)", tests, apart=True).passed
    True
    """
    sys.set_int_max_str_digits(0)
    stubs: dict[int, Any] = {}  # of the objects that were lent, by number
    numbers: dict[int, int] = {}  # of the stubs, by id

    def lend(value: Any) -> Any:
        if id(value) not in numbers:
            raise NotPlainError(f"gave a {type(value).__name__}, which is no plain data")
        return {"lent": numbers[id(value)]}

    def find(held: Any) -> Any:
        number, names = held
        if number not in stubs:
            stubs[number] = stub_class(tuple(names))()
            numbers[id(stubs[number])] = number
        return stubs[number]

    @cache
    def stub_class(names: tuple[str, ...]) -> type:
        return type("lent", (), {name: method(name) for name in names})

    def method(name: str) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            passes = [id(each) in numbers or not hasattr(type(each), "__next__") for each in args]
            given = [each if as_it_is else list(each) for each, as_it_is in zip(args, passes, strict=True)]
            kind, *rest = line.ask(["call", numbers[id(self)], name, pack(given, lend), pack(kwargs, lend)])
            if kind == "value":
                return unpack(rest[0], find)
            raise _exception(rest[0], unpack(rest[1], find))

        return call

    def act(kind: str, name: str = "", *packed: Any) -> list[Any]:
        solution = importlib.import_module("solution")
        if kind == "import":
            return []
        value = getattr(solution, name)
        if kind == "get":
            return [True, None] if callable(value) else [False, value]
        args, kwargs = (unpack(each, find) for each in packed)
        value = value(*args, **kwargs)
        return [value, [*args, *kwargs.values()] if value is None else None]

    line = Line(reading, writing, lambda message: _outcome(lambda: act(*message), lend))
    with contextlib.suppress(EOFError):
        while True:
            line.say(line.serve(line.hear()))
