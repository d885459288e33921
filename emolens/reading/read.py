"""Scores of tokens, turns and documents on the emotion vectors, projected inside the forward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.errors import did_you_mean
from emolens.models.batching import plan, whole
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding, Text
from emolens.vectors.emotion_vectors import EmotionVectors, check_method, unit
from emolens.vectors.story_means import document_start

PLACES = ("tokens", "last", "turn", "document")
CENTRES = ("stories", "neutral", "set")


@dataclass(frozen=True)
class Readout:
    """Scores of every item (token, turn or document) on every emotion, and where each item stands.

    Attributes:
        labels: of tokens, the characters that each holds, which together are the text again, without what the
            tokenizer drops. A character made of
            several tokens stands at the first of them and the others have ""; so has a special token that is not in
            the text, such as a BOS that the tokenizer puts before it. Of turns the role, of documents the beginning.
        text_index: the number of the text that each item belongs to.
        spans: tokens [start, end) of the item in its text.

    Example:
        >>> readout = el.read(model, ["she ran !", "he was calm ."], vectors)
        >>> len(readout), readout.labels[:3], readout.text_index
        (7, ('she', 'ran', '!'), (0, 0, 0, 1, 1, 1, 1))
        >>> readout["calm"].shape
        torch.Size([7])
        >>> readout.of_text(1).labels
        ('he', 'was', 'calm', '.')
        >>> [len(best) for best in readout.top(2)], readout.frame().shape
        ([2, 2], (7, 8))
    """

    scores: Float[Tensor, "item emotion"]
    emotions: tuple[str, ...]
    labels: tuple[str, ...]
    text_index: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    layer: int
    method: str
    centre: str
    at: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, emotion: str) -> Float[Tensor, "item"]:
        """The scores of one emotion."""
        if emotion not in self.emotions:
            raise ValueError(f"{emotion!r} was not read{did_you_mean(emotion, self.emotions)}")
        return self.scores[:, self.emotions.index(emotion)]

    def of_text(self, index: int) -> "Readout":
        """The items of one text."""
        rows = [row for row, text in enumerate(self.text_index) if text == index]
        pick = lambda values: tuple(values[row] for row in rows)  # noqa: E731
        return Readout(
            self.scores[rows],
            self.emotions,
            pick(self.labels),
            pick(self.text_index),
            pick(self.spans),
            self.layer,
            self.method,
            self.centre,
            self.at,
        )

    def top(self, k: int = 5) -> Any:
        """The k emotions of highest mean score over a text's items; a list of such lists for several texts.

        Raises:
            ValueError: a k below 1, or a score that is not finite, with its text and emotion.
        """
        whole("k", k)
        out = []
        for index in sorted(set(self.text_index)):
            mean = self.of_text(index).scores.mean(dim=0)
            if not mean.isfinite().all():
                emotion = self.emotions[int((~mean.isfinite()).int().argmax())]
                raise ValueError(f"text {index}: the score of {emotion!r} is not finite, so there is no order")
            values, order = mean.topk(min(k, len(self.emotions)))
            out.append([(self.emotions[i], float(v)) for v, i in zip(values, order.tolist(), strict=True)])
        return out[0] if len(out) == 1 else out

    def frame(self) -> pd.DataFrame:
        """One row for each item: text, label, and a column for each emotion."""
        scores = pd.DataFrame(self.scores.numpy(), columns=list(self.emotions))
        return pd.concat([pd.DataFrame({"text": self.text_index, "label": self.labels}), scores], axis=1)


@dataclass(frozen=True)
class Scorer:
    """Cosines of centred activations with the rows of a matrix at one layer (law: both sides centred).

    With `whitened`, the cosine after both are whitened by the noise of the stories. Made once for many activations.

    Example:
        >>> scorer = Scorer.of(shipped, 20)
        >>> scorer(scorer.centre + shipped.vectors(20)[:2]).argmax(dim=1).tolist()
        [0, 1]
    """

    vectors: EmotionVectors
    layer: int
    method: str
    centre: Float[Tensor, "d_model"]
    matrix: Float[Tensor, "row d_model"]

    @classmethod
    def of(
        cls,
        vectors: EmotionVectors,
        layer: int,
        method: str = "denoised",
        centre: str | Float[Tensor, "d_model"] = "stories",
        weights: Float[Tensor, "row emotion"] | None = None,
    ) -> "Scorer":
        """The scorer of all emotions, or of weighted sums of them."""
        at, method = vectors.at(layer), check_method(method)
        if isinstance(centre, str):
            centre = (at.centre_stories if centre == "stories" else at.centre_neutral)[0]
        matrix = at.vectors(layer, "whitened") if method == "whitened" else at.matrix(layer, method)
        return cls(at, layer, method, centre, matrix if weights is None else weights @ matrix)

    def __call__(self, x: Float[Tensor, "item d_model"]) -> Float[Tensor, "item row"]:
        y = x.float().cpu() - self.centre
        if self.method == "whitened":
            return y @ self.matrix.T / self.vectors.whitened_norm(y, self.layer).clamp(min=1e-12)[:, None]
        return unit(y) @ self.matrix.T


def score(
    x: Float[Tensor, "item d_model"],
    vectors: EmotionVectors,
    layer: int,
    method: str = "denoised",
    centre: str | Float[Tensor, "d_model"] = "stories",
) -> Float[Tensor, "item emotion"]:
    """`Scorer` of all emotions, for activations that are read once.

    Example:
        >>> centre = shipped.at(20).centre_stories[0]
        >>> x = centre + 10 * shipped.vectors(20)[[shipped.emotions.index("calm")]]  # a text that is calm alone
        >>> scores = score(x, shipped, 20)
        >>> shipped.emotions[int(scores.argmax())], round(float(scores.max()), 2)
        ('calm', 1.0)
    """
    return Scorer.of(vectors, layer, method, centre)(x)


def _items(encoding: Encoding, at: str, number: int) -> list[tuple[int, int, str]]:
    """Token spans to be read in one text, with a label where it does not depend on the tokens' text."""
    n, turns = len(encoding.ids), encoding.turns
    if at == "tokens":
        return [(i, i + 1, "") for i in range(n)]
    if at == "last":
        return [(n - 1, n, "")]
    if at == "turn":
        if not turns:
            raise ValueError(f"text {number} is no conversation, so it has no turns; read it at 'tokens' or 'document'")
        return [(turn.start, turn.end, turn.role) for turn in turns]
    if turns:
        return [(min(turn.start for turn in turns), max(turn.end for turn in turns), "")]
    return [(document_start(n), n, "")]


def _labels(model: HookedModel, encoding: Encoding, spans: Sequence[tuple[int, int, str]], at: str) -> list[str]:
    """What the items of one text are called."""
    if at == "tokens":
        return model.token_strings(encoding)
    if at == "last":  # the last character, though it be made of several tokens
        return [next((label for label in reversed(model.token_strings(encoding)) if label), "")]
    begins = "" if at == "turn" else model.tokenizer.decode(encoding.ids[:12]).rstrip("\ufffd")
    return [name or begins for _, _, name in spans]


def read(
    model: HookedModel,
    texts: Text | Sequence[Text],
    vectors: EmotionVectors,
    layer: int | None = None,
    at: str = "tokens",
    method: str = "cosine",
    centre: str = "stories",
    token_budget: int = 2048,
) -> Readout:
    """Score texts or conversations on every emotion (paper, section 3: cosine with the denoised vector).

    Args:
        layer: default two thirds of the depth.
        at: "tokens"; "last", the last token (of a conversation: right before the reply); "turn", the mean
            over each message; "document", the mean over a text from rank 10 on (from rank 1 when it is
            shorter than 20 tokens).
        method: "cosine" (denoised), "raw" or "whitened".
        centre: "stories" or "neutral", both stored in the vectors, or "set", the mean of the items read here.

    Raises:
        ValueError: vectors of another model, an unknown place, method, centre or layer; what is no text, and a text
            that is empty or does not fit, by its number (see `emolens.models.texts.gate`).

    Example:
        >>> readout = el.read(model, "so she was calm .", vectors, at="document")
        >>> readout.scores.shape, readout.spans
        (torch.Size([1, 6]), ((1, 5),))
    """
    for name, value, known in (("at", at, PLACES), ("centre", centre, CENTRES)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is none of {', '.join(known)}{did_you_mean(value, known)}")
    method = check_method(method)
    vectors.check_model(model)
    layer = vectors.default_layer if layer is None else model.check_layer(layer)
    vectors = vectors.at(layer)
    encoded = model.encode_all(texts)
    items = [_items(encoding, at, number) for number, encoding in enumerate(encoded)]
    places = [[(start, end) for start, end, _ in spans] for spans in items]
    fixed: Any = centre
    if centre == "set":
        (x,) = collect(model, encoded, places, [layer], token_budget, lambda x, _: x.sum(dim=0, keepdim=True))
        fixed = x.sum(dim=0) / sum(map(len, items))

    scorer = Scorer.of(vectors, layer, method, fixed)
    (scores,) = collect(model, encoded, places, [layer], token_budget, lambda x, _: scorer(x))
    labels = [
        label for encoding, spans in zip(encoded, items, strict=True) for label in _labels(model, encoding, spans, at)
    ]
    index = tuple(number for number, spans in enumerate(items) for _ in spans)
    where = tuple(place for spans in places for place in spans)
    return Readout(scores, vectors.emotions, tuple(labels), index, where, layer, method, centre, at)


def activations(
    model: HookedModel,
    texts: Text | Sequence[Text],
    layers: Sequence[int] | None = None,
    at: str | Sequence[Sequence[tuple[int, int]]] = "document",
    token_budget: int = 2048,
) -> Float[Tensor, "layer item d_model"]:
    """Mean block outputs, in float32, of the places that `read` would score: for all layers in one pass.

    Args:
        layers: default all.
        at: as in `read`, or for each text the token spans [start, end) that are averaged, each an item.

    Raises:
        ValueError: an unknown place, a layer out of range, no layer, what is no text, an empty one, a span outside
            its text, spans of fewer or more texts.

    Example:
        >>> el.activations(model, ["she ran !", "he was calm ."], layers=[1, 2]).shape
        torch.Size([2, 2, 32])
        >>> el.activations(model, "he was calm .", [2], at=[[(0, 2), (2, 4)]]).shape
        torch.Size([1, 2, 32])
    """
    layers = range(model.n_layers) if layers is None else [model.check_layer(layer) for layer in layers]
    if not layers:
        raise ValueError("no layer was given: the list of layers is empty")
    encoded = model.encode_all(texts)
    if isinstance(at, str):
        if at not in PLACES:
            raise ValueError(f"at={at!r} is none of {', '.join(PLACES)}{did_you_mean(at, PLACES)}")
        places = [[item[:2] for item in _items(encoding, at, number)] for number, encoding in enumerate(encoded)]
    else:
        places = [list(spans) for spans in at]
        if len(places) != len(encoded):
            raise ValueError(f"spans are given for {len(places)} texts, but there are {len(encoded)}")
        for number, (encoding, spans) in enumerate(zip(encoded, places, strict=True)):
            for start, end in spans:
                if not 0 <= start < end <= len(encoding.ids):
                    raise ValueError(
                        f"text {number} has {len(encoding.ids)} tokens; the span {start}:{end} is not in it"
                    )
    return torch.stack(collect(model, encoded, places, layers, token_budget, lambda x, _: x.cpu()))


def collect(
    model: HookedModel,
    encoded: Sequence[Encoding],
    places: Sequence[Sequence[tuple[int, int]]],
    layers: Sequence[int],
    token_budget: int,
    project: Callable[[Tensor, int], Tensor],
) -> list[Tensor]:
    """For each layer, `project(means of a text's places, layer)` in the order of the texts, computed in the hook.

    Example:
        >>> encoded = model.encode_all(["she ran !", "he was calm"])
        >>> (norms,) = collect(model, encoded, [[(0, 2)], [(0, 1), (1, 2)]], [2], 2048, lambda x, _: x.norm(dim=1))
        >>> norms.shape
        torch.Size([3])
    """
    model.require_one_row("read")
    out = {layer: [torch.empty(0)] * len(encoded) for layer in layers}
    current: list[int] = []

    def keep(resid: Tensor, layer: int) -> None:
        for row, number in enumerate(current):
            x = resid[row].detach().float()
            spans = places[number]
            if all(end - start == 1 for start, end in spans):
                means = x[[start for start, _ in spans]]
            else:
                means = torch.stack([x[start:end].mean(dim=0) for start, end in spans])
            if not means.isfinite().all():
                raise model.not_finite(number, layer)
            out[layer][number] = project(means, layer)

    hooks: list[Any] = [
        ((layer, "resid_post"), lambda resid, hook, layer=layer: keep(resid, layer)) for layer in layers
    ]
    with model.stopping(max(layers), hooks) as run:
        for rows in plan([len(encoding.ids) for encoding in encoded], token_budget):
            current[:] = rows
            run(model.batch([encoded[row] for row in rows]))
    return [torch.cat(parts) for parts in out.values()]
