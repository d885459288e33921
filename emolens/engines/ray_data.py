"""Ray Data as an engine: the tasks are a dataset, mapped by a pool of actors that each hold the model."""

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from emolens.engines.engine import Start
from emolens.models.batching import whole
from emolens.models.loading import load as load_by_name
from emolens.models.model import HookedModel

log = logging.getLogger(__name__)

PROBE = "Two letters came; neither was for her."  # whose token ids tell one tokenizer from another


@dataclass(frozen=True)
class Ray:
    """Actors of a Ray cluster, each with the model in its memory; Ray schedules, retries and restarts them.

    The cluster is the one that `ray.init` was called for, else the one that `ray.init()` finds (`RAY_ADDRESS`), else
    one on this machine. Nothing is started before something has to be run.

    Attributes:
        actors: how many there are at most; one for each shard suffices.
        gpus: of each actor; with more than one the model is spread over them.
        cpus: of each actor, and so the threads that torch takes there.
        load: gives the model in an actor. By default the model is loaded by its name, which every machine must know;
            give it for a model that was made in memory. It must be the model that is here, weight for weight.
        retries: how often a task is run again whose actor died.

    Raises:
        ValueError: no actor, or a negative number.

    >>> el.engines.Ray(actors=2, gpus=1)
    Ray(actors=2, gpus=1, cpus=1, load=None, retries=3)
    >>> el.engines.Ray(actors=0)
    Traceback (most recent call last):
    ValueError: actors is 0; it must be a whole number of at least 1
    """

    actors: int = 1
    gpus: float = 0
    cpus: float = 1
    load: Callable[[], HookedModel] | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        whole("actors", self.actors)
        whole("retries", self.retries, least=0)
        if self.gpus < 0 or self.cpus < 0:
            raise ValueError(f"gpus={self.gpus}, cpus={self.cpus}: an actor can't have fewer than 0")

    def map(self, model: HookedModel, start: Start, tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """`start(model)(task)` of each task, by the actors; see `Engine`. Results come as they are ready.

        Raises:
            ImportError: Ray is not installed.
            ValueError: hooks or a steering are in force here, or the actors load another model; and what a task
                raises, with a note that names the task.
            RuntimeError: an actor died with the same task more often than `retries`; names the task.

        >>> list(el.engines.Ray(actors=2).map(model, lambda model: len, {}))
        []
        """
        if not model.is_plain:
            raise ValueError("hooks or a steering are in force here, which the actors would not have: leave engine out")
        if tasks:
            yield from self._run(_ray(self), model, start, tasks)

    def _run(self, ray: Any, model: HookedModel, start: Start, tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        rows = [{"name": name, "task": ray.cloudpickle.dumps(task)} for name, task in tasks.items()]
        data = ray.data.from_items(rows, override_num_blocks=len(rows))  # a block is what Ray runs again
        data.context.enable_progress_bars = False
        data.context.print_on_execution_start = False
        tries = ray.remote(num_cpus=0)(_Tries).remote()
        done = data.map(
            _Actor,
            fn_constructor_args=(self.load or _by_name(model, self.gpus), start, _identity(model), tries, self.retries),
            # One task at a time: of an actor that dies, only the task that it ran counts as tried.
            compute=ray.data.ActorPoolStrategy(size=min(self.actors, len(rows)), max_tasks_in_flight_per_actor=1),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )
        left, theirs = dict.fromkeys(tasks), logging.getLogger("ray.data")
        level = theirs.level
        try:
            theirs.setLevel(logging.WARNING)  # it tells of each step
            for row in done.iter_rows():
                result, records = pickle.loads(row["result"])
                for record in records:
                    logging.getLogger(record.name).handle(record)
                if isinstance(result, Exception):
                    raise result
                del left[row["name"]]
                yield row["name"], result
        except ray.exceptions.RayError as error:
            some = "; ".join(list(left)[:3]) + (f" and {len(left) - 3} more" if left.keys() - list(left)[:3] else "")
            raise RuntimeError(f"Ray gave up ({error}). What is done is kept; not done: {some}") from error
        finally:
            theirs.setLevel(level)


class _Tries:
    """An actor that counts how often each task was begun: it outlives those that die of one."""

    def __init__(self) -> None:
        self.begun: dict[str, int] = {}

    def begin(self, name: str) -> int:
        """How often it was begun before."""
        self.begun[name] = self.begun.get(name, -1) + 1
        return self.begun[name]


class _Actor:
    """What Ray makes in each worker process. Exceptions are results: one that Ray sees would lose its type."""

    def __init__(
        self, load: Callable[[], HookedModel], start: Start, expected: dict[str, Any], tries: Any, retries: int
    ) -> None:
        self.tries, self.retries = tries, retries
        self.records: list[logging.LogRecord] = []
        logging.getLogger("emolens").addHandler(_Into(self.records))
        self.error: Exception | None = None
        try:
            model = load()
            _require_same(model, expected)
            self.step = start(model)
        except Exception as error:
            error.add_note("An actor of Ray could not begin: see `load` of el.engines.Ray")
            self.error = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            self._give_up(row["name"])
            result = self.error or self.step(pickle.loads(row["task"]))
        except Exception as error:
            error.add_note(f"On an actor of Ray, in {row['name']}")
            result = error
        said = self.records[:]
        self.records.clear()
        return {"name": row["name"], "result": _pickled(result, said)}

    def _give_up(self, name: str) -> None:
        """Ray itself runs a task again without end, even one whose text always needs more memory than there is."""
        import ray

        if (tried := ray.get(self.tries.begin.remote(name))) > self.retries:
            raise RuntimeError(
                f"{name}: the actor that ran it has died {tried} times (out of memory?); what is done is kept"
            )


class _Into(logging.Handler):
    """Keeps warnings, which go back with the results: who runs the cluster does not see the actors' output."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__(logging.WARNING)
        self.records = records

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
        self.records.append(record)


def _pickled(result: Any, records: list[logging.LogRecord]) -> bytes:
    """An exception that can't be pickled, or not be made again, goes as a RuntimeError that repeats it."""
    try:
        data = pickle.dumps((result, records))
        if isinstance(result, Exception):
            pickle.loads(data)
        return data
    except Exception:
        if not isinstance(result, Exception):
            raise
        stand_in = RuntimeError(f"{type(result).__name__}: {result}")
        for note in getattr(result, "__notes__", ()):
            stand_in.add_note(note)
        return pickle.dumps((stand_in, records))


def _identity(model: HookedModel) -> dict[str, Any]:
    """What must be the same here and in the actors for the same numbers."""
    return {
        "fingerprint": model.take_fingerprint(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "token ids of a probe": model.encode(PROBE).ids,
        "context": model.n_ctx,
    }


def _require_same(model: HookedModel, expected: dict[str, Any]) -> None:
    found = _identity(model)
    if differing := [name for name in expected if found[name] != expected[name]]:
        said = "; ".join(f"{name} {found[name]} there, {expected[name]} here" for name in differing)
        raise ValueError(f"the actors of Ray load another model than the one that is here ({said})")
    if not model.is_plain:
        raise ValueError("the model that the actors of Ray load has hooks or a steering")


def _by_name(model: HookedModel, gpus: float) -> Callable[[], HookedModel]:
    spread = {"device_map": "auto"} if gpus > 1 else {}
    return partial(load_by_name, model.name, dtype=model.dtype, revision=model.revision or None, **spread)


def _ray(engine: Ray) -> Any:
    """Ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"the engine Ray is not installed ({error}): pip install 'emolens[ray]'") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    here = ray.cluster_resources()
    for kind, one in (("GPU", engine.gpus), ("CPU", engine.cpus)):
        if here.get(kind, 0) < one:
            log.warning(
                "the cluster has %g %ss and an actor needs %g: Ray waits for more", here.get(kind, 0), kind, one
            )
    return ray
