"""What an engine is: it runs the same step on every task, each of its workers with the model in its memory."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from emolens.models.model import HookedModel

Step = Callable[[Any], Any]  # a task -> its result
Start = Callable[[HookedModel], Step]  # called once by each worker, with its own copy of the model


@runtime_checkable
class Engine(Protocol):
    """Anything with a `map` as here can be given as `engine=`; `Ray` is one.

    >>> isinstance(el.engines.Ray(), Engine)
    True
    """

    def map(self, model: HookedModel, start: Start, tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """`start(model)(task)` of each task, under the task's name, in any order, each of them once.

        The names are for people: an error says in which task it was raised.
        """
        ...


def each(engine: Any, model: HookedModel, start: Start, tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`engine.map`, or without an engine the same in this process, one task after the other.

    Raises:
        TypeError: what is no engine.

    >>> list(each(None, model, lambda model: lambda text: model.encode(text).ids[0], {"one": [5, 6], "two": [7]}))
    [('one', 5), ('two', 7)]
    >>> each("ray", model, lambda model: len, {})
    Traceback (most recent call last):
    TypeError: engine='ray' is no engine: give el.engines.Ray(...), or None for this process
    """
    if engine is not None and not isinstance(engine, Engine):
        raise TypeError(f"engine={engine!r} is no engine: give el.engines.Ray(...), or None for this process")
    return _here(model, start, tasks) if engine is None else engine.map(model, start, tasks)


def _here(model: HookedModel, start: Start, tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    step = start(model)
    for name, task in tasks.items():
        yield name, step(task)
