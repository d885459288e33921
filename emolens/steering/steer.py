"""`steer`: add a direction to the residual stream, take it out or hold it at a value, row by row."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emolens.errors import did_you_mean
from emolens.models.batching import Pass, per_text
from emolens.models.encoding import PLAIN_ROLES
from emolens.models.hooked import Columns
from emolens.models.model import HookedModel
from emolens.vectors.direction import Direction, check_stamp, position_of, unit

MODES = ("add", "ablate", "clamp")
PLACES = ("all", "prompt", "generation", *(f"turn:{role}" for role in PLAIN_ROLES))
Span = tuple[int, int]
Where = str | Sequence[Span] | Sequence[Sequence[Span]] | Tensor


@dataclass(frozen=True, eq=False)  # each context is itself
class Steering:
    """What is done to the outputs of some blocks, row by row.

    `values` is what "add" adds; for "ablate" and "clamp" it is the direction, of length 1, and `target` the
    component along it that is left. A row of zeros is left as it is.
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    values: Float[Tensor, "row layer d_model"]
    target: Float[Tensor, "row layer"]
    where: Where
    mode: str

    @property
    def rows(self) -> int:
        return len(self.names)

    def apply(
        self, x: Float[Tensor, "text pos d_model"], layer: int, only: int | None = None
    ) -> Float[Tensor, "row pos d_model"]:
        """`x` with the intervention at every position; a single text becomes as many as there are rows."""
        number = self.layers.index(layer)
        rows = slice(None) if only is None or self.rows == 1 else slice(only, only + 1)
        value = self.values[rows, number, None].to(x.device)
        if self.mode == "add":
            return x + value.to(x.dtype)
        target = self.target[rows, number, None].to(x.device)
        missing = target - (x.float() * value).sum(dim=-1)
        return torch.where(value.any(dim=-1, keepdim=True), x + (missing[..., None] * value).to(x.dtype), x)


@contextmanager
def steer(
    model: HookedModel,
    direction: Direction | Sequence[Direction | None],
    strength: float | Sequence[float] | None = None,
    layers: int | Sequence[int] | None = None,
    where: Where = "all",
    mode: str = "add",
) -> Iterator[Steering]:
    """Steer every pass inside the context: forward passes, generation, log-probabilities (paper, section 3).

    Contexts nest and add up. Leaving it, by an exception too, leaves no hook behind.

    With a list of directions each row of a batch gets its own: a batch of as many texts is taken row by row, and
    a single text is run in every row, with the blocks below the lowest steered one run once for all.

    Args:
        direction: such as `0.05 * vectors["desperate"]`, or a list of them; None leaves a row as it is.
        strength: in mean residual norms of each layer, for a direction without coefficient; one for each row
            in a list. For "clamp" the component that is left, relative to that of the mean story.
        layers: one block or several, each steered with the whole strength; default the vectors' default block.
        where: "all" tokens, those of the "prompt", those of the "generation" (what is written, or scored as a
            continuation), "turn:user" and the like, spans [start, end) of token ranks, the same for each text or
            a list for each, or a mask of token ranks (`pos` or `text pos`).
        mode: "add"; "ablate", which leaves the component that the mean story has; or "clamp".

    Raises:
        ValueError: an unknown place or mode, no strength or two, a zero vector, vectors of other layers or of
            another model; and, when the model is run, a span past the end of a text or a batch of other rows.
        TypeError: a strength that is not a number, or something that is no Direction.
    """
    steering = _plan(model, direction, strength, layers, where, mode)
    model.steering.append(steering)
    try:
        with model.hooks([((layer, "resid_post"), _hook(model, steering, layer)) for layer in steering.layers]):
            yield steering
    finally:
        model.steering.remove(steering)


def _plan(model: HookedModel, direction: Any, strength: Any, layers: Any, where: Any, mode: str) -> Steering:
    """The checked arguments of `steer`, as what is added to each row and layer."""
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is none of {', '.join(MODES)}{did_you_mean(mode, MODES)}")
    _check_where(where)
    rows = [direction] if isinstance(direction, Direction) else list(direction)
    given = [one for one in rows if one is not None]
    for one in given:
        if not isinstance(one, Direction):
            raise TypeError(f"steer with a Direction such as 0.05 * vectors['calm'], not with {one!r}")
        check_stamp(one.stamp, one.values.shape[-1], model)
    if not given:
        raise ValueError("no direction to steer with: the list is empty, or every row is None")
    strengths = list(strength) if isinstance(strength, (list, tuple, Tensor)) else [strength] * len(rows)
    if len(strengths) != len(rows):
        raise ValueError(f"{len(strengths)} strengths for {len(rows)} rows: give one for each, or one for all")
    layers = default_layer(given[0]) if layers is None else layers
    named = [layers] if isinstance(layers, Integral) else layers
    chosen = tuple(model.check_layer(int(layer)) for layer in named)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"layers={layers!r}: name each block once, and at least one")
    values = torch.zeros(len(rows), len(chosen), model.d_model)
    target = torch.zeros(len(rows), len(chosen))
    for row, (one, much) in enumerate(zip(rows, strengths, strict=True)):
        if one is not None:
            values[row], target[row] = _row(one, _coefficient(one, much, mode), chosen, mode)
    names = tuple("unsteered" if one is None else one.name for one in rows)
    return Steering(names, chosen, values, target, where, mode)


def _check_where(where: Any) -> None:
    """Raise ValueError for what is neither a place, nor spans, nor a mask."""
    if isinstance(where, str):
        if where not in PLACES:
            raise ValueError(f"where={where!r} is none of {', '.join(PLACES)}{did_you_mean(where, PLACES)}, nor spans")
    elif isinstance(where, Tensor):
        if where.dtype != torch.bool or where.ndim not in (1, 2):
            raise ValueError(f"a mask is boolean, `pos` or `text pos`; this is {where.dtype} {tuple(where.shape)}")
    else:
        spans = [span for part in where for span in (part if per_text(where) else [part])] if where else []
        good = [isinstance(span, (tuple, list)) and len(span) == 2 for span in spans]
        if not spans or not all(good) or not all(isinstance(end, Integral) for span in spans for end in span):
            raise ValueError(f"where={where!r}: give spans [start, end) of token ranks, such as [(3, 5)]")


def default_layer(direction: Direction) -> int:
    """The vectors' default block, or the middle one of those that the direction has."""
    wanted = direction.stamp["default_layer"]
    return wanted if wanted in direction.layers else direction.layers[len(direction.layers) // 2]


def _coefficient(direction: Direction, strength: Any, mode: str) -> float:
    if mode == "ablate":
        if strength is not None or direction.scaled:
            raise ValueError(f"ablate takes {direction.name!r} out whole: give neither a strength nor a coefficient")
        return 0.0
    if direction.scaled and (strength is not None or mode == "clamp"):
        raise ValueError(
            f"{direction.name!r} has a coefficient already, so strength={strength!r} would count twice"
            if mode == "add"
            else f"clamp takes strength=, not a coefficient such as that of {direction.name!r}"
        )
    if strength is None and not direction.scaled:
        raise ValueError(f"how strongly? Give strength=, or a coefficient: 0.05 * vectors[{direction.name!r}]")
    much = 1.0 if strength is None else strength.item() if isinstance(strength, Tensor) else strength
    if isinstance(much, bool) or not isinstance(much, Real):
        raise TypeError(f"strength {strength!r} is not a number")
    if not math.isfinite(much) or not direction.values.isfinite().all():
        raise ValueError(f"strength {strength!r} of {direction.name!r} is not finite")
    return float(much)


def _row(direction: Direction, much: float, layers: Sequence[int], mode: str) -> tuple[Tensor, Tensor]:
    at = [position_of(direction.layers, layer) for layer in layers]
    values, norm = direction.values[at], direction.residual_norm[at]
    if not direction.scaled and not (values.norm(dim=-1) > 1e-8).all():
        raise ValueError(
            f"{direction.name!r} is a zero vector at one of the layers {list(layers)}: it has no direction"
        )
    if mode == "add":
        return much * norm[:, None] * values, torch.zeros(len(at))
    values = unit(values)
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
        return steered if chosen is None else torch.where(chosen[..., None].to(x.device), steered, x)

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
