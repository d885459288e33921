"""Activation patching between two versions of a text, how much goes through one direction, and who writes along it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.errors import did_you_mean
from emolens.models import support
from emolens.models.checks import head_outputs, normed_after
from emolens.models.hooked import Columns, Layer, Layers
from emolens.models.model import HookedModel
from emolens.models.texts import Text
from emolens.steering.measures import Measure
from emolens.steering.steer import in_one_thread
from emolens.vectors.direction import Direction, check_finite, check_stamp, unit
from emolens.vectors.emotion_vectors import EmotionVectors

SITES = {"resid_post": "resid_post", "attn_out": "attn_out", "mlp_out": "mlp_out", "head": "attn.hook_z"}
PARTS = ("whole", "direction", "rest")


@dataclass(frozen=True, eq=False)  # each context is itself
class Patching:
    """Source activations that replace those of one site, in each row of the batch at a place of its own.

    >>> patch_ = Patching((1,), torch.ones(3, 32), ((0, None), (2, None)))  # the first token, and the last
    >>> patch_.rows, patch_.apply(torch.zeros(1, 3, 32), column=0).sum(dim=-1).tolist()
    (2, [[32.0, 0.0, 0.0], [0.0, 0.0, 32.0]])
    """

    layers: tuple[int]
    source: Float[Tensor, "pos *width"]
    places: tuple[tuple[int | None, int | None], ...]  # (position, head) of each row; None: all of them
    along: Float[Tensor, "row d_model"] | None = None  # replace the component along these only ...
    rest: bool = False  # ... or all but it
    where: str = "all"

    @property
    def rows(self) -> int:
        """How many rows one text is run in."""
        return len(self.places)

    def apply(self, x: Tensor, column: int) -> Tensor | None:
        """`x` from that column on, a row for each place, with the source there; None where no place is among them."""
        width = x.shape[1]
        here = [
            (row, place) for row, place in enumerate(self.places) if place[0] is None or 0 <= place[0] - column < width
        ]
        if not here:
            return None
        source = self.source[column : column + width].to(x)
        x = (x.expand(self.rows, *x.shape[1:]) if len(x) == 1 else x).clone()
        for number, (position, head) in here:
            row = slice(None) if self.rows == 1 else slice(number, number + 1)
            at = slice(0, len(source)) if position is None else slice(position - column, position - column + 1)
            if head is not None:
                x[row, at, head] = source[at, head]
            elif self.along is None:
                x[row, at] = source[at]
            else:
                u = self.along[number].to(x.device)
                along = (source[at].float() - x[row, at].float()) @ u
                component = (along[..., None] * u).to(x.dtype)
                x[row, at] = source[at] - component if self.rest else x[row, at] + component
        return x


@contextmanager
def patching(model: HookedModel, patch: Patching, site: str = "resid_post") -> Iterator[None]:
    """Every pass inside the context runs patched, one row for each place; like `steer`, it leaves no hook behind.

    >>> with patching(model, Patching((1,), torch.ones(3, 32), ((0, None), (2, None)))):
    ...     model.forward("he was calm").shape
    torch.Size([2, 3, 80])
    """
    columns = Columns(model)

    def act(x: Tensor, hook: Any) -> Tensor | None:
        now, column = columns.next(x.shape[1])
        if patch.rows > 1 and len(x) not in (1, patch.rows):
            raise ValueError(f"a batch of {len(x)} texts can't be patched in {patch.rows} rows: run the one text")
        patched = patch.apply(x, column)
        if patched is None and len(x) == 1 and patch.rows > 1 and not (now and now.fills_cache):
            return x.expand(patch.rows, *x.shape[1:])
        return patched

    model.steering.append(patch)
    try:
        with model.hooks([((patch.layers[0], site), in_one_thread(act))]):
            yield
    finally:
        model.steering.remove(patch)


def _pair(model: HookedModel, source: Text, target: Text) -> tuple[list[int], list[int]]:
    """Token ids of both. Raises ValueError unless they have the same number and differ."""
    a, b = model.encode(source).ids, model.encode(target).ids
    if len(a) != len(b):
        strings = [model.token_strings(ids) for ids in (a, b)]
        raise ValueError(
            f"the source has {len(a)} tokens, the target {len(b)}; patching needs two texts of the same number, in "
            f"which each position means the same. Change a word or number for one of as many tokens: "
            f"{strings[0]}, {strings[1]}"
        )
    if a == b:
        raise ValueError("source and target are the same tokens: there is no change to patch")
    return a, b


def _changes(
    model: HookedModel, measures: Mapping[str, Measure], source: Text, target: Text
) -> dict[str, tuple[float, float]]:
    """For each measure its value on source and target, from unpatched passes."""
    if not measures:
        raise ValueError("no measure to ask: give at least one, by name")
    model.require_one_row("patching, which compares unsteered texts first,")
    changes = {}
    for name, measure in measures.items():
        at_source, at_target = (_values(name, measure(model, text), 1)[0] for text in (source, target))
        if at_source == at_target:
            raise ValueError(f"the measure {name!r} is the same on both texts: no change to be carried")
        changes[name] = (at_source, at_target)
    return changes


def _values(name: str, measured: Any, rows: int) -> list[float]:
    """What a measure gave, a finite number for each row."""
    values = torch.as_tensor(measured).float()
    if values.shape != (rows,):
        raise ValueError(f"the measure {name!r} gave {list(values.shape)} values for {rows} rows, not one for each")
    check_finite(values, f"the measure {name!r}, by row,")
    return values.tolist()


def _share(value: float, source: float, target: float) -> tuple[float, float, float]:
    """The change by the patch, the whole change, and their ratio."""
    return value - target, source - target, (value - target) / (source - target)


def patch(
    model: HookedModel,
    source: Text,
    target: Text,
    measures: Mapping[str, Measure],
    site: str = "resid_post",
    layers: Layers | None = None,
) -> pd.DataFrame:
    """Patch one site of the source's run into the target's, place by place (paper, section 7, on single sites).

    All places of a layer are the rows of one batch. A place is a token of the residual stream, of the attention's
    or the MLP's output; for "head", an attention head at all tokens.

    Args:
        source, target: two versions of a text with the same number of tokens, such as an alarming and a calm one.
        measures: by name, see `emolens.steering.measures`; each is asked about the target while it runs patched.
        site: "resid_post", "attn_out", "mlp_out" or "head".

    Returns:
        A row for each measure, layer and place: the `change` of the measure by the patch, the `whole` change from
        target to source, and `share`, the part of it that the place carries (0: none; 1: all).

    Raises:
        ValueError: texts of different length, an unknown site, no measure, one that does not change or is not finite.

    >>> odds = {"odds": el.measures.log_odds([" angry"], [" calm"])}
    >>> table = patch(model, "she was cold", "she was warm", odds, layers=[1])
    >>> table[["layer", "position", "token"]].values.tolist()
    [[1, 0, 'she'], [1, 1, 'was'], [1, 2, 'warm']]
    """
    if site not in SITES:
        raise ValueError(f"site={site!r} is none of {', '.join(SITES)}{did_you_mean(site, SITES)}")
    chosen = model.check_layers(range(model.n_layers) if layers is None else layers)
    ids, _ = _pair(model, source, target)
    if site != "resid_post":
        support.require(model, f"patch {site}")
    whole = _changes(model, measures, source, target)
    cache = model.run_with_cache([ids], chosen, [SITES[site]])
    tokens, rows = model.token_strings(model.encode(target)), []
    for layer in chosen:
        x = cache[model.hook_name(layer, SITES[site])][0]
        places = [(None, h) for h in range(x.shape[1])] if site == "head" else [(p, None) for p in range(len(ids))]
        with patching(model, Patching((layer,), x, tuple(places)), SITES[site]):
            for name, measure in measures.items():
                values = _values(name, measure(model, target), len(places))
                for (position, head), value in zip(places, values, strict=True):
                    token = "" if position is None else tokens[position]
                    rows.append([name, site, layer, position, token, head, *_share(value, *whole[name])])
    columns = ["measure", "site", "layer", "position", "token", "head", "change", "whole", "share"]
    return pd.DataFrame(rows, columns=columns)


def through(
    model: HookedModel,
    source: Text,
    target: Text,
    measures: Mapping[str, Measure],
    directions: Sequence[Direction],
    layers: Layers,
    part: str = "direction",
) -> pd.DataFrame:
    """How much of a change goes through a direction: patch only the component along it, at all tokens of a block.

    Args:
        directions: one row each; put random ones among them as a null.
        part: "direction", the component alone; "rest", everything but it; "whole", the block's output whole.

    Returns:
        A row for each measure, layer and direction, with `change`, `whole` and `share` as in `patch`.

    Raises:
        ValueError: as `patch`; an unknown part, no direction, one of another model or one that is zero.

    >>> odds = {"odds": el.measures.log_odds([" angry"], [" calm"])}
    >>> table = through(model, "she was cold", "she was warm", odds, [vectors["calm"], vectors["sad"]], [2])
    >>> table["direction"].tolist()
    ['calm', 'sad']
    """
    if part not in PARTS:
        raise ValueError(f"part={part!r} is none of {', '.join(PARTS)}{did_you_mean(part, PARTS)}")
    chosen, directions = model.check_layers(layers), list(directions)
    if not directions:
        raise ValueError("no direction to patch along: give at least one")
    for direction in directions:
        check_stamp(direction.stamp, direction.values.shape[-1], model)
    ids, _ = _pair(model, source, target)
    whole = _changes(model, measures, source, target)
    cache, rows = model.run_with_cache([ids], chosen), []
    for layer in chosen:
        along = None if part == "whole" else _units(directions, layer)
        everywhere = ((None, None),) * len(directions)
        with patching(model, Patching((layer,), cache["resid_post", layer][0], everywhere, along, part == "rest")):
            for name, measure in measures.items():
                values = _values(name, measure(model, target), len(directions))
                for direction, value in zip(directions, values, strict=True):
                    rows.append([name, layer, part, direction.name, *_share(value, *whole[name])])
    return pd.DataFrame(rows, columns=["measure", "layer", "part", "direction", "change", "whole", "share"])


def _units(directions: Sequence[Direction], layer: int) -> Float[Tensor, "row d_model"]:
    values = torch.stack([direction.at(layer) for direction in directions])
    check_finite(values, f"the directions [row d_model] at layer {layer}")
    if zero := [each.name for each, row in zip(directions, values, strict=True) if not row.any()]:
        raise ValueError(f"{zero[0]!r} is a zero vector at layer {layer}: it has no direction")
    return unit(values)


def attribute(
    model: HookedModel, text: Text, vectors: EmotionVectors, emotion: str, layer: Layer | None = None
) -> pd.DataFrame:
    """Who writes along an emotion's vector at the last token: direct attribution to heads and MLPs.

    The residual stream is the sum of the embedding and of what every attention and MLP adds, so their components
    along the vector add up to that of the block's output. Heads are parts of their attention's contribution; what
    they leave of it is the bias.

    Returns:
        A row for each component: `kind` ("embedding", "attention", "mlp" or "head"), `layer`, `head`, and
        `contribution`, in mean residual norms of the block that is read.

    Raises:
        ValueError: vectors of another model, an unknown emotion or layer.

    >>> attribute(model, "he was calm", vectors, "calm", layer=1)["kind"].value_counts().to_dict()
    {'head': 8, 'attention': 2, 'mlp': 2, 'embedding': 1}
    """
    vectors.check_model(model)
    layer = vectors.default_layer if layer is None else model.check_layer(layer)
    support.require(model, "attribute")
    u = vectors[emotion, layer] / vectors.residual_norm[vectors.layers.index(layer)]
    sites = ["attn_out", "mlp_out", SITES["head"]]
    embedded = model.run_with_cache([model.encode(text).ids], [0], ["resid_pre"])["resid_pre", 0]
    cache = model.run_with_cache([model.encode(text).ids], range(layer + 1), sites)
    rows: list[list[Any]] = [["embedding", None, None, float(embedded[0, -1].float().cpu() @ u)]]
    for block in range(layer + 1):
        written = cache["attn_out", block][0, -1].float().cpu()
        rows.append(["attention", block, None, float(written @ u)])
        rows.append(["mlp", block, None, float(cache["mlp_out", block][0, -1].float().cpu() @ u)])
        heads = head_outputs(model, cache[model.hook_name(block, SITES["head"])][0, -1].float(), block)
        whole = heads.sum(dim=0)
        # A norm after the attention (Gemma) scales each dimension of all heads alike.
        scale = torch.where(whole.abs() > 1e-12, written / whole, 0) if normed_after(model, block) else 1.0
        rows += [["head", block, head, float(x @ u)] for head, x in enumerate(heads * scale)]
    return pd.DataFrame(rows, columns=["kind", "layer", "head", "contribution"])
