"""Does steering make the model name the emotion? Log-probability of emotion words after a question (section 4)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.models.log_probs import SharedPrompt, continuation_ids, log_probs
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding
from emolens.results import StudyResult
from emolens.stats import BY_RANK, Verdict, bootstrap_mean, false_discovery, null_columns, p_value, tail_p
from emolens.steering.nulls import Nulls, null_directions
from emolens.steering.steer import steer
from emolens.studies._alignment import DOSE, DRAWS, LABELS
from emolens.studies._common import TWELVE, check_size, emotions_of
from emolens.studies.causes._added import slopes_of_added
from emolens.vectors.direction import Direction, unit
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.shuffled_refits import shuffled_refits

QUESTIONS = {
    "he": (
        "He put down the letter and looked out of the window. How does he feel? He feels",
        "A man is standing in the doorway. How does he feel right now? He feels",
        "He has been waiting in the corridor for an hour. How does he feel? He feels",
    ),
    "you": (
        "How do you feel at this moment? I feel",
        "Tell me honestly, how do you feel today? I feel",
        "Before we begin: how do you feel? I feel",
    ),
    "control": (
        "What colour is the door? The door is",
        "What is the weather like in the valley? The weather is",
        "How large is the table? The table is",
    ),
}
STRENGTH = 0.3


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    strength: float = STRENGTH,
    layer: int | None = None,
    emotions: Sequence[str] = TWELVE,
    seed: int = 0,
) -> dict[str, StudyResult]:
    """Change of each emotion word's log-probability under each emotion's vector, and under both nulls.

    Words are scored whole. A null draw is a family of as many directions as there are emotions.

    Args:
        size: "full" has 39 families of each kind of null, "quick" none.
        emotions: which are steered towards and asked for, of those that the vectors have.

    Returns:
        "word_probability", three rows for each kind of question: the mean change of a row's own word ("matching"), of
        the other words ("others"), both in nats, and in how many rows the own word has the highest change ("rows"),
        each with the nulls' band and p; "matrix", all changes after the first kind of question; and "all_rows" (see
        `all_rows`).

    >>> results = run(model, vectors, "quick")
    >>> results["word_probability"].table()["measure"].unique().tolist()
    ['matching', 'others', 'rows']
    """
    check_size(size)
    vectors.check_model(model)
    directions = [vectors[name] for name in emotions_of(vectors, emotions)]
    layer = vectors.default_layer if layer is None else layer
    nulls = null_directions(model, vectors, directions, BY_RANK, layer, seed) if size == "full" else Nulls()
    matrices, rows = {}, []
    for question, asked in QUESTIONS.items():
        matrices[question] = changes(model, directions, asked, strength, layer).mean(axis=0)
        drawn = {
            kind: [summary(changes(model, family, asked, strength, layer).mean(axis=0)) for family in families]
            for kind, families in nulls.families.items()
        }
        place = {"question": question, "layer": layer, "strength": strength, "words": len(directions)}
        rows += [place | row for row in compared(matrices[question], drawn, seed)]
    table = pd.DataFrame(rows)
    draws = f"{BY_RANK} families of {len(directions)} directions of each kind: {', '.join(nulls.kinds)}"
    null = draws if nulls else "none: the quick size draws no nulls"
    return {
        "word_probability": StudyResult("word_probability", table, headline(table), null),
        "matrix": _as_result(next(iter(matrices.values())), [direction.name for direction in directions]),
        "all_rows": all_rows(model, vectors, size, layer, emotions, seed),
    }


def changes(
    model: HookedModel, directions: Sequence[Direction], questions: Sequence[str], strength: float, layer: int
) -> np.ndarray:
    """Change of log-probability in nats [question direction word]; the words are the directions' names.

    >>> changes(model, [vectors["calm"], vectors["angry"]], ["he was"], 0.1, 2).shape
    (1, 2, 2)
    """
    words = [f" {direction.name}" for direction in directions]
    out = []
    for question in questions:
        with steer(model, [None, *directions], strength, layer):
            values = log_probs(model, question, words).numpy()
        out.append(values[1:] - values[:1])
    return np.stack(out)


def summary(matrix: np.ndarray) -> dict[str, float]:
    """Mean change of the matching and of the other words, and the rows whose own word has the highest change.

    >>> summary(np.array([[2.0, 0.0], [1.0, 0.0]]))
    {'matching': 1.0, 'others': 0.5, 'rows': 1.0}
    """
    diagonal = matrix.diagonal()
    others = (matrix.sum() - diagonal.sum()) / (matrix.size - len(matrix))
    rows = float((matrix.argmax(axis=1) == np.arange(len(matrix))).sum())
    return {"matching": float(diagonal.mean()), "others": float(others), "rows": rows}


def compared(matrix: np.ndarray, drawn: dict[str, list[dict[str, float]]], seed: int = 0) -> list[dict[str, Any]]:
    """A row for each measure of `summary`, with what it is under the draws of each kind of null.

    A change is held against where the null's changes lie, above or below; the count of rows against as many or more.

    >>> drawn = {"random": [summary(np.random.default_rng(seed).normal(-2, 1, (4, 4))) for seed in range(39)]}
    >>> [round(row["p_random"], 3) for row in compared(np.eye(4) - 0.5, drawn)]
    [0.025, 0.025, 0.025]
    """
    rows = []
    for measure, value in summary(matrix).items():
        row: dict[str, Any] = {"measure": measure, "value": value, "low": np.nan, "high": np.nan}
        if measure == "matching":
            row["low"], row["high"] = bootstrap_mean(matrix.diagonal(), seed=seed)
        null = {kind: np.array([draw[measure] for draw in draws]) for kind, draws in drawn.items()}
        p = {kind: (tail_p if measure == "rows" else p_value)(value, draws) for kind, draws in null.items()}
        for kind, (low, high) in Nulls().measured(null).band().items():
            row |= dict(zip(null_columns(kind), (float(low), float(high), p[kind]), strict=True))
        rows.append(row | {"verdict": Verdict.of(p.values())})
    return rows


def headline(frame: pd.DataFrame) -> str:
    """What happens to the own word after the first kind of question.

    >>> row = {"question": "he", "words": 12, "verdict": Verdict.BEYOND}
    >>> headline(pd.DataFrame([row | {"measure": "matching", "value": 1.79}, row | {"measure": "rows", "value": 11}]))
    'Steering towards an emotion changes the log-probability of its own word by +1.8 nats (beyond the null); in 11 of
    12 rows the own word has the highest change (beyond the null).'
    """
    first = frame[frame["question"] == frame["question"].iloc[0]].set_index("measure")
    matching, rows = first.loc["matching"], first.loc["rows"]
    return (
        f"Steering towards an emotion changes the log-probability of its own word by {matching['value']:+.1f} nats "
        f"({matching['verdict']}); in {rows['value']:.0f} of {rows['words']:.0f} rows the own word has the highest "
        f"change ({rows['verdict']})."
    )


def matrix(
    model: HookedModel,
    vectors: EmotionVectors,
    question: str = "he",
    strength: float = STRENGTH,
    layer: int | None = None,
    emotions: Sequence[str] = TWELVE,
) -> StudyResult:
    """The changes after one kind of question: a row for each vector, a column for each word.

    >>> len(matrix(model, vectors, "you").table()) == 6 * 6
    True
    """
    layer = vectors.default_layer if layer is None else layer
    names = emotions_of(vectors, emotions)
    directions = [vectors[name] for name in names]
    return _as_result(changes(model, directions, QUESTIONS[question], strength, layer).mean(axis=0), names)


# --- all emotions as rows ---------------------------------------------------------------------------


def all_rows(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    layer: int | None = None,
    emotions: Sequence[str] = TWELVE,
    seed: int = 0,
) -> StudyResult:
    """Where a word's own vector ranks among those of all emotions in how much it raises the word.

    The slopes are those of a small strength, from one backward pass for each word and question of the first kind.

    Returns:
        A row for each word, and one for their mean ("all words"): `share`, of the other vectors that raise the word
        less, with the bootstrap interval over questions and over those vectors (for the mean over words, too); `rank`,
        1 for the one that raises it most, and which that is (`highest`); `slope`, in nats for a strength of 0.1; and in
        "full" the share of the same row in 999 sets with shuffled labels, and in 999 sets of random directions.
        The verdict of a word is that of the greatest p, corrected for the number of words (`q`).

    >>> list(all_rows(model, vectors, "quick", 2, ["calm", "sad"]).table()["word"])
    ['calm', 'sad', 'all words']
    """
    check_size(size)
    vectors.check_model(model)
    layer = vectors.default_layer if layer is None else layer
    words = emotions_of(vectors, emotions)
    rows, units = [vectors.index(name) for name in words], vectors.matrix(layer)
    each = word_gradients(model, next(iter(QUESTIONS.values())), words, layer).double()
    slopes = each.mean(dim=0) @ units.double().T
    observed, again = shares(slopes, rows), _again(each @ units.double().T, rows, seed)
    nulls = dict(_shares_by_chance(model, vectors, each, rows, layer, seed)) if size == "full" else {}
    table = pd.DataFrame({"word": [*words, "all words"], "share": [*observed, observed.mean()]})
    table[["low", "high"]] = np.quantile(again, [0.025, 0.975], axis=0).T
    place = (slopes > slopes[range(len(rows)), rows][:, None]).sum(dim=1) + 1
    table["rank"] = [*place.tolist(), np.nan]
    table["highest"] = [*(vectors.emotions[i] for i in slopes.argmax(dim=1).tolist()), ""]
    own = slopes[range(len(rows)), rows] * DOSE * float(vectors.at(layer).residual_norm[0])
    table["slope"] = [*own.tolist(), float(own.mean())]
    table = _held_against(table, nulls).assign(layer=layer, vectors=len(units))
    drawn = f"{DRAWS} draws of {' and '.join(nulls)}" if nulls else "none: the quick size draws no nulls"
    return StudyResult("word_probability_all_rows", table, all_rows_headline(table), drawn)


def all_rows_headline(frame: pd.DataFrame) -> str:
    """The mean share over the words.

    >>> row = {"word": "all words", "share": 0.9, "low": 0.8, "high": 0.95, "verdict": Verdict.BEYOND}
    >>> all_rows_headline(pd.DataFrame([row | {"word": "calm"}, row]))
    'A small step along an emotion raises its own word more than 90% [80%, 95%] of the other vectors do, on average over
    1 words (beyond the null).'
    """
    row = frame.iloc[-1]
    return (
        f"A small step along an emotion raises its own word more than {row['share']:.0%} [{row['low']:.0%}, "
        f"{row['high']:.0%}] of the other vectors do, on average over {len(frame) - 1} words ({row['verdict']})."
    )


def word_gradients(
    model: HookedModel, questions: Sequence[str], words: Sequence[str], layer: int
) -> Float[Tensor, "question word d_model"]:
    """Gradient of each whole word's log-probability by what is added to the output of a block at all tokens.

    >>> word_gradients(model, ["he was", "she ran and"], ["calm", "sad"], 2).shape
    torch.Size([2, 2, 32])
    """
    out = []
    for question in questions:
        ids = model.encode(question).ids
        named = [continuation_ids(model, question, f" {word}") for word in words]
        rests = [[*ids[1:], *tokens] for tokens in named]

        def value(
            resid: Float[Tensor, "text pos d_model"],
            numbers: list[int],
            first: int = len(ids) - 1,
            named: Sequence[Sequence[int]] = named,
        ) -> Float[Tensor, "text"]:
            total = []
            for x, number in zip(resid, numbers, strict=True):
                tokens = torch.tensor(named[number], device=x.device)
                logits = model.unembed(x[first : first + len(tokens)]).float()
                total.append(-torch.nn.functional.cross_entropy(logits, tokens, reduction="sum"))
            return torch.stack(total)

        everywhere = [[(0, 1 + len(rest))] for rest in rests]
        begin = SharedPrompt(model, Encoding(ids[:1], []))
        out.append(slopes_of_added(model, begin, rests, everywhere, [layer], value)[1][:, 0, 0])
    return torch.stack(out)


def shares(slopes: Float[Tensor, "*draw word emotion"], rows: Sequence[int]) -> Float[np.ndarray, "*draw word"]:
    """For each word the share of the other vectors that raise it less than the vector in its own row; a tie is a half.

    >>> shares(torch.tensor([[3.0, 1, 2], [0, 1, 2]]), [0, 1]).tolist()
    [1.0, 0.5]
    """
    own = slopes[..., range(len(rows)), rows]
    return _below(slopes, own, slopes.shape[-1] - 1, ties=1)


def _below(slopes: Tensor, own: Tensor, others: int, ties: int) -> np.ndarray:
    """The share of `others` slopes below each own one, which is itself among them `ties` times."""
    less, same = (found(slopes, own[..., None]).sum(dim=-1).double() for found in (torch.lt, torch.eq))
    return ((less + (same - ties) / 2) / others).numpy()


def _again(slopes: Float[Tensor, "question word emotion"], rows: Sequence[int], seed: int) -> np.ndarray:
    """Shares, and their mean, [draw word+1] for resampled questions, other vectors and, of the mean, words."""
    rng, draws = np.random.default_rng(seed), 1000
    n, words, emotions = slopes.shape
    weights = torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n), draws) / n)
    drawn = torch.einsum("bq,qwe->bwe", weights, slopes)
    found = np.empty((draws, words))
    for word, row in enumerate(rows):
        others = np.delete(np.arange(emotions), row)
        picks = torch.from_numpy(rng.choice(others, (draws, len(others))))
        own = drawn[:, word, row]
        found[:, word] = _below(drawn[:, word].gather(1, picks), own, len(others), ties=0)
    means = np.take_along_axis(found, rng.integers(0, words, (draws, words)), axis=1).mean(axis=1)
    return np.concatenate([found, means[:, None]], axis=1)


def _shares_by_chance(
    model: HookedModel,
    vectors: EmotionVectors,
    each: Float[Tensor, "question word d_model"],
    rows: Sequence[int],
    layer: int,
    seed: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """The kinds of null, each with the shares [draw word] of its draws."""
    total, generator = each.mean(dim=0), torch.Generator().manual_seed(seed)
    # Slopes along random directions are as normal as the directions' entries, and go together as the gradients do.
    together = torch.linalg.qr(total.T).R.T
    drawn = torch.randn(DRAWS, len(vectors.emotions), together.shape[1], generator=generator, dtype=torch.float64)
    yield "random", shares((drawn @ together.T).transpose(1, 2), rows)
    refits = shuffled_refits(model, vectors, DRAWS, seed)
    slopes = (torch.einsum("bed,wd->bwe", unit(sets).double(), total) for sets in refits.at(layer))
    yield LABELS, np.concatenate([shares(part, rows) for part in slopes])


def _held_against(table: pd.DataFrame, nulls: dict[str, np.ndarray]) -> pd.DataFrame:
    """The table with the band and p of each null, q of the words, and verdicts."""
    table = table.copy()
    for kind, drawn in nulls.items():
        drawn = np.concatenate([drawn, drawn.mean(axis=1, keepdims=True)], axis=1)
        low, high = Nulls().measured({kind: drawn}).band()[kind]
        p = [p_value(value, column) for value, column in zip(table["share"], drawn.T, strict=True)]
        for column, values in zip(null_columns(kind), (low, high, p), strict=True):
            table[column] = values
    if not nulls:
        return table.assign(verdict=Verdict.NO_NULL)
    worst = table[[null_columns(kind)[2] for kind in nulls]].max(axis=1).to_numpy()
    table["q"] = [*false_discovery(worst[:-1]), worst[-1]]
    return table.assign(verdict=[Verdict.of([q]) for q in table["q"]])


def _as_result(matrix: np.ndarray, words: Sequence[str]) -> StudyResult:
    names = np.array(words)
    table = pd.DataFrame(
        {"row": names.repeat(len(names)), "column": np.tile(names, len(names)), "score": matrix.ravel()}
    )
    mean = summary(matrix)
    sentence = (
        f"The matching words change by {mean['matching']:+.1f} nats, the others by {mean['others']:+.1f}; in "
        f"{mean['rows']:.0f} of {len(names)} rows the own word has the highest change."
    )
    options = {"ylabel": "steered towards", "xlabel": "word", "title": "Change of log-probability (nats)"}
    null = "none: the nulls of these means are in the result word_probability"
    return StudyResult("word_probability_matrix", table, sentence, null, "score_matrix", options)
