"""`steer`: add a direction to the residual stream, take it out, hold it at a value or anything else, row by row."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ContextDecorator
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emolens.errors import did_you_mean, finite_number
from emolens.models import support
from emolens.models.batching import Pass, per_text
from emolens.models.conversations import PLAIN_ROLES
from emolens.models.hooked import Columns, HookFn, Hooks, Layers
from emolens.models.model import HookedModel
from emolens.vectors.direction import Direction, check_finite, check_stamp, position_of, unit

MODES = ("add", "ablate", "clamp")
WHERE_NAMES = ("all", "prompt", "generation", *(f"turn:{role}" for role in PLAIN_ROLES))
Span = tuple[int, int]
Where = str | Sequence[Span] | Sequence[Sequence[Span]] | Tensor
Operator = Callable[[Tensor, Tensor, Tensor], Tensor]  # (activation, direction, strength) -> activation
Strength = float | np.number | Sequence[float] | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)  # each context is itself
class Steering:
    """What is done to the outputs of some blocks, row by row.

    `values` is what "add" adds. For the other modes it is the direction, of length 1, and `target` the component
    along it that is left, or the strength that an `operator` is given. A row of zeros is left as it is.

    >>> with el.steer(model, [0.1 * vectors["calm"], None]) as steering:
    ...     steering.names, steering.layers, steering.mode, steering.values.shape
    (('0.1*calm', 'unsteered'), (3,), 'add', torch.Size([2, 1, 32]))
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    values: Float[Tensor, "row layer d_model"]
    target: Float[Tensor, "row layer"]
    where: Where
    mode: str  # one of MODES, or the name of the operator
    operator: Operator | None = None

    @property
    def rows(self) -> int:
        """How many rows one text is run in.

        >>> with el.steer(model, [0.1 * vectors["calm"], 0.1 * vectors["sad"]]) as steering:
        ...     steering.rows
        2
        """
        return len(self.names)

    def apply(
        self, x: Float[Tensor, "text pos d_model"], layer: int, only: int | None = None
    ) -> Float[Tensor, "row pos d_model"]:
        """`x` with the intervention at every position; a single text becomes as many as there are rows.

        >>> with el.steer(model, 0.1 * vectors["calm"], layers=2) as steering:
        ...     steering.apply(torch.zeros(1, 5, 32), layer=2).shape
        torch.Size([1, 5, 32])
        """
        number = self.layers.index(layer)
        rows = slice(None) if only is None or self.rows == 1 else slice(only, only + 1)
        value = self.values[rows, number, None].to(x.device)
        if self.mode == "add" and self.operator is None:
            return x + value.to(x.dtype)
        target = self.target[rows, number, None].to(x.device)
        if self.operator is not None:
            return _operate(self.operator, self.mode, x, value[:, 0], target[:, 0])
        missing = target - (x.float() * value).sum(dim=-1)
        return torch.where(value.any(dim=-1, keepdim=True), x + (missing[..., None] * value).to(x.dtype), x)


def _operate(
    operator: Operator,
    name: str,
    x: Float[Tensor, "text pos d_model"],
    direction: Float[Tensor, "row_ d_model"],
    strength: Float[Tensor, "row_"],
) -> Float[Tensor, "row pos d_model"]:
    """What an operator makes of activations; it works on copies, and rows of strength 0 stay as they are."""
    rows = max(len(x), len(direction))
    x, direction, strength = x.expand(rows, -1, -1), direction.expand(rows, -1), strength.expand(rows)
    result = operator(x.to(torch.float32, copy=True), direction.clone(), strength.clone())
    if not isinstance(result, Tensor) or not result.is_floating_point():
        kind = str(result.dtype) if isinstance(result, Tensor) else type(result).__name__
        raise TypeError(f"the operator {name} returned {kind}; it must return the activation, a tensor of floats")
    if result.shape != x.shape:
        raise ValueError(
            f"the operator {name} returned the shape {list(result.shape)} for activations of "
            f"row x pos x d_model = {list(x.shape)}; it must keep the shape"
        )
    return torch.where((strength != 0)[:, None, None], result.to(x), x)


class _Once(ContextDecorator, AbstractContextManager["Steering"]):
    """The context of `steer`, which is entered once; around a function, once for each call.

    `again()` is a context like it that may be opened any number of times.
    """

    def __init__(self, again: Callable[[], AbstractContextManager[Steering]]) -> None:
        self.again, self.context = again, again()
        self.entered = False

    def _recreate_cm(self) -> "_Once":  # ContextDecorator's way to have a new context for each call
        return _Once(self.again)

    def __enter__(self) -> Steering:
        if self.entered:
            raise RuntimeError("this steering was entered before and can't be entered again; call el.steer once more")
        self.entered = True
        return self.context.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self.context.__exit__(*error)


def steer(
    model: HookedModel,
    direction: Direction | Sequence[Direction | None],
    strength: Strength | None = None,
    layers: Layers | None = None,
    where: Where = "all",
    mode: str | Operator = "add",
) -> "_Once":
    """Steer every pass inside the context: forward passes, generation, log-probabilities (paper, section 3).

    Contexts nest and add up. Leaving it, by an exception too, leaves no hook behind. Each call makes a context for
    one `with`. Steering belongs to the model and to the thread that opened it: a pass that another thread runs on
    this model meanwhile is a RuntimeError there, never steered in silence.

    With a list of directions each row of a batch gets its own: a batch of as many texts is taken row by row, and
    a single text is run in every row, with the blocks below the lowest steered one run once for all.

    An operator of your own, as `mode`, is called with copies of the activations `row pos d_model` of a block in
    float32 (the padding among them), the directions `row d_model` of length 1, and the strengths `row`, in the units
    of the activations: what "add" does is `activation + strength[:, None, None] * direction[:, None]`. It returns the
    new activations. What it returns outside `where`, and in rows of strength 0 or without a direction, is not used.

    Args:
        direction: such as `0.05 * vectors["desperate"]`, or a list of them; None leaves a row as it is.
        strength: in mean residual norms of each layer, for a direction without coefficient; one for each row
            in a list or array. For "clamp" the component that is left, relative to that of the mean story.
        layers: one block or several, each steered with the whole strength; default the vectors' default block.
        where: "all" tokens, those of the "prompt", those of the "generation" (what is written, or scored as a
            continuation), "turn:user" and the like, spans [start, end) of token ranks, the same for each text or
            a list for each, or a mask of token ranks (`pos` or `text pos`).
        mode: "add"; "ablate", which leaves the component that the mean story has; "clamp"; or a callable
            `(activation, direction, strength) -> activation`.

    Raises:
        ValueError: an unknown place or mode, no strength or two, one that is not finite in the model's dtype, a zero
            vector, vectors of other layers or of another model; and, when the model is run, a span past the end of a
            text, a batch of other rows, or an operator that changes the shape or gives what is not finite.
        TypeError: a strength that is not a number, a layer that is no whole number, something that is no Direction,
            or an operator that returns no tensor.
        RuntimeError: a context that is entered a second time, or a pass in another thread.

    >>> def mirror(activation, direction, strength):
    ...     along = (activation * direction[:, None]).sum(dim=-1, keepdim=True)
    ...     return activation - 2 * along * direction[:, None]
    >>> with el.steer(model, vectors["calm"], strength=1, mode=mirror) as steering:
    ...     mirrored = model.forward("he was calm", stop_after=3)
    >>> steering.mode, mirrored.shape
    ('mirror', torch.Size([1, 3, 32]))
    """
    return _Once(partial(_Acting, model, _plan(model, direction, strength, layers, where, mode)))


class _Acting(AbstractContextManager[Steering]):
    """A steering in force inside the context, which may be entered again and again, one time after the other."""

    def __init__(self, model: HookedModel, steering: Steering) -> None:
        self.model, self.steering = model, steering
        self._hooks: tuple[int, Hooks] | None = None  # made once for a thread, as that takes as long as a token

    def __enter__(self) -> Steering:
        model, steering, thread = self.model, self.steering, threading.get_ident()
        support.require(model, "steer")
        if self._hooks is None or self._hooks[0] != thread:
            acts = [((layer, "resid_post"), in_one_thread(_hook(model, steering, layer))) for layer in steering.layers]
            self._hooks = thread, model.hooks(acts)
        self._hooks[1].__enter__()
        model.steering.append(steering)
        return steering

    def __exit__(self, *error: Any) -> None:
        self.model.steering.remove(self.steering)
        if self._hooks:
            self._hooks[1].__exit__()


def in_one_thread(hook_function: HookFn) -> HookFn:
    """A hook function that raises RuntimeError in a pass of any thread but the one that asked for it.

    >>> in_one_thread(lambda tensor, hook: tensor + 1)(torch.zeros(1), None)
    tensor([1.])
    """
    owner = threading.get_ident()

    def guarded(tensor: Tensor, hook: Any) -> Any:
        if threading.get_ident() != owner:
            raise RuntimeError(
                f"this pass runs in the thread {threading.current_thread().name!r} while the model is steered or "
                f"patched by another; wait until that context is left, or open it in this thread"
            )
        return hook_function(tensor, hook)

    return guarded


def _plan(model: HookedModel, direction: Any, strength: Any, layers: Any, where: Any, mode: Any) -> Steering:
    """The checked arguments of `steer`, as what is added to each row and layer."""
    operator, kind = (mode, "operator") if callable(mode) else (None, mode)
    if operator is None and (not isinstance(mode, str) or mode not in MODES):
        near = did_you_mean(str(mode), MODES)
        raise ValueError(
            f"mode={mode!r} is none of {', '.join(MODES)}{near}, nor a callable of activation, direction and strength"
        )
    _check_where(where)
    rows: list[Any] = [direction] if isinstance(direction, (Direction, str)) else list(direction)
    given = [each for each in rows if each is not None]
    for each in given:
        if not isinstance(each, Direction):
            raise TypeError(f"steer with a Direction such as 0.05 * vectors['calm'], not with {each!r}")
        check_stamp(each.stamp, each.values.shape[-1], model)
    if not given:
        raise ValueError("no direction to steer with: the list is empty, or every row is None")
    plain = strength.tolist() if hasattr(strength, "tolist") else strength
    strengths = list(plain) if isinstance(plain, (list, tuple)) else [plain] * len(rows)
    if len(strengths) != len(rows):
        raise ValueError(f"{len(strengths)} strengths for {len(rows)} rows: give one for each, or one for all")
    chosen = model.check_layers(default_layer(given[0]) if layers is None else layers)
    values = torch.zeros(len(rows), len(chosen), model.d_model)
    target = torch.zeros(len(rows), len(chosen))
    for row, (each, much) in enumerate(zip(rows, strengths, strict=True)):
        if each is not None:
            values[row], target[row] = _row(each, _coefficient(each, much, kind), chosen, kind)
            for numbers in (values[row], target[row]):
                check_finite(numbers.to(model.dtype), f"what {each.name!r} at strength {much!r} gives in {model.dtype}")
    names = tuple("unsteered" if each is None else each.name for each in rows)
    name = getattr(operator, "__name__", type(operator).__name__) if operator else mode
    where = where.cpu() if isinstance(where, Tensor) else where  # as the ranks are that it is compared with
    return Steering(names, chosen, values, target, where, name, operator)


def _check_where(where: Any) -> None:
    """Raise ValueError for what is neither a place, nor spans, nor a mask."""
    if isinstance(where, str):
        if where not in WHERE_NAMES:
            raise ValueError(
                f"where={where!r} is none of {', '.join(WHERE_NAMES)}{did_you_mean(where, WHERE_NAMES)}, nor spans"
            )
    elif isinstance(where, Tensor):
        if where.dtype != torch.bool or where.ndim not in (1, 2):
            raise ValueError(f"a mask is boolean, `pos` or `text pos`; this is {where.dtype} {tuple(where.shape)}")
    else:
        spans = [span for part in where for span in (part if per_text(where) else [part])] if where else []
        good = [isinstance(span, (tuple, list)) and len(span) == 2 for span in spans]
        if not spans or not all(good) or not all(isinstance(end, Integral) for span in spans for end in span):
            raise ValueError(f"where={where!r}: give spans [start, end) of token ranks, such as [(3, 5)]")


def default_layer(direction: Direction) -> int:
    """The vectors' default block, or the middle one of those that the direction has.

    >>> default_layer(shipped["calm"])
    20
    """
    wanted = direction.stamp.get("default_layer")
    return wanted if wanted in direction.layers else direction.layers[len(direction.layers) // 2]


def _coefficient(direction: Direction, strength: Any, kind: str) -> float:
    if kind == "ablate":
        if strength is not None or direction.scaled:
            raise ValueError(f"ablate takes {direction.name!r} out whole: give neither a strength nor a coefficient")
        return 0.0
    if direction.scaled and (strength is not None or kind == "clamp"):
        raise ValueError(
            f"clamp takes strength=, not a coefficient such as that of {direction.name!r}"
            if kind == "clamp"
            else f"{direction.name!r} has a coefficient already, so strength={strength!r} would count twice"
        )
    if strength is None and not direction.scaled:
        raise ValueError(f"how strongly? Give strength=, or a coefficient: 0.05 * vectors[{direction.name!r}]")
    return 1.0 if strength is None else finite_number(strength, f"for {direction.name!r} the strength")


def _row(direction: Direction, much: float, layers: Sequence[int], kind: str) -> tuple[Tensor, Tensor]:
    """`values` and `target` of a row, by layer; see `Steering`."""
    at = [position_of(direction.layers, layer) for layer in layers]
    values, norm = direction.values[at], direction.residual_norm[at]
    check_finite(values, f"{direction.name!r} at one of the layers {list(layers)}")
    size = values.norm(dim=-1)
    if not direction.scaled and not (size > 1e-8).all():
        raise ValueError(
            f"{direction.name!r} is a zero vector at one of the layers {list(layers)}: it has no direction"
        )
    if kind == "add":
        return much * norm[:, None] * values, torch.zeros(len(at))
    values = unit(values)
    if kind == "operator":
        return values, much * norm * size
    return values, (direction.centre[at] * values).sum(dim=-1) + much * norm


def _hook(model: HookedModel, steering: Steering, layer: int) -> Callable[..., Tensor | None]:
    columns = Columns(model)

    def act(x: Tensor, hook: Any) -> Tensor | None:
        now, column = columns.next(x.shape[1])
        chosen = _chosen(steering.where, now, column, x.shape[1])
        only = now.only if now else None
        if only is None and steering.rows > 1 and len(x) not in (1, steering.rows):
            raise ValueError(
                f"a batch of {len(x)} texts can't be steered in {steering.rows} rows: give one, or as many"
            )
        if chosen is not None and not chosen.any():
            fans_out = steering.rows > 1 and only is None and not (now and now.fills_cache)
            return x.expand(steering.rows, -1, -1) if fans_out and len(x) == 1 else None
        steered = steering.apply(x, layer, only)
        steered = steered if chosen is None else torch.where(chosen[..., None].to(x.device), steered, x)
        if steering.operator is not None and not (steered.isfinite() | ~x.isfinite()).all():
            raise ValueError(f"the operator {steering.mode} made activations of block {layer} that are not finite")
        return steered

    return act


def _chosen(where: Where, now: Pass | None, column: int, width: int) -> Bool[Tensor, "text pos"] | None:
    """Which of the columns from `column` on are steered, for each text of the pass; None means all."""
    if isinstance(where, str) and where == "all":
        return None
    if now is None:
        raise ValueError(f"where={where!r} is known in passes that a HookedModel runs, not in the bridge's own")
    rank = torch.arange(column, column + width) - torch.tensor(now.first)[:, None]
    texts = len(rank) if now.only is None else None
    if per_text(where) and texts not in (None, len(where)):
        raise ValueError(f"where has spans or masks of {len(where)} texts, but {texts} are run: give one for each")
    if isinstance(where, str) and not where.startswith("turn:"):
        written = rank >= torch.tensor(now.prompt)[:, None]
        return written if where == "generation" else ~written & (rank >= 0)
    return torch.stack([_of_text(where, now, text, row) for text, row in enumerate(rank)])


def _of_text(where: Any, now: Pass, text: int, rank: Tensor) -> Bool[Tensor, "pos"]:
    own = text if now.only is None else now.only
    if isinstance(where, Tensor):
        mask = where if where.ndim == 1 else where[own]
        _check_end(len(mask), now, text)
        return (rank >= 0) & (rank < len(mask)) & mask[rank.clamp(0, len(mask) - 1)]
    if isinstance(where, str):
        if not now.turns or not now.turns[text]:
            raise ValueError(f"where={where!r}, but text {text} is no conversation and has no turns")
        role = where.removeprefix("turn:")
        spans: list[Any] = [(turn.start, turn.end) for turn in now.turns[text] if turn.role == role]
        if role == "assistant":  # what is written is the assistant's, too
            spans.append((now.prompt[text], 2**62))
    else:
        spans = list(where[own] if per_text(where) else where)
        for start, end in spans:
            if not 0 <= start < end:
                raise ValueError(f"the span {start}:{end} of text {text} is empty or begins before the text")
            _check_end(end, now, text)
    inside = torch.zeros(len(rank), dtype=torch.bool)
    for start, end in spans:
        inside |= (rank >= start) & (rank < end)
    return inside


def _check_end(end: int, now: Pass, text: int) -> None:
    if now.length and end > now.length[text]:
        raise ValueError(f"text {text} has {now.length[text]} tokens; the steered span ends at {end}, past its end")
