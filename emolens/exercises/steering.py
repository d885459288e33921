"""Checks of the exercises of notebook 05, steering."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.exercises._check import MISSING, checked
from emolens.models.model import HookedModel
from emolens.stats import false_discovery
from emolens.studies.causes.word_probability import STRENGTH, changes
from emolens.vectors.direction import Direction, unit

P_VALUES = ([0.01, 0.04, 0.03, 0.2], [0.05, 0.05, 0.9], [0.001, 0.6, 0.02, 0.021, 0.5, 0.04])
ENOUGH = 0.5  # of the rows, in which the own word should have the highest change after a question of one's own


@checked("What is left has no component along the vector, and everything else is as it was.")
def ablated(answer: Callable[..., Any]) -> str | None:
    """The residual stream without its component along a vector.

    Args:
        answer: a function of the residual stream [batch pos d_model] and a vector of length 1 [d_model].

    >>> ablated(lambda resid, u: resid - (resid @ u)[..., None] * u)
    Right. What is left has no component along the vector, and everything else is as it was.
    """
    generator = torch.Generator().manual_seed(0)
    resid = torch.randn(2, 5, 16, generator=generator)
    u = unit(torch.randn(16, generator=generator))
    found = answer(resid.clone(), u)
    if found is None or found is ...:
        return MISSING
    if not isinstance(found, Tensor) or found.shape != resid.shape:
        return f"the residual stream has the shape {list(resid.shape)}, and so has what is left of it."
    along = resid @ u
    if torch.allclose(found, along[..., None] * u, atol=1e-4):
        return "that is the component itself; take it away from the residual stream."
    if torch.allclose(found, resid - u, atol=1e-4):
        return "the same vector was taken from every token; each token has a component of its own length."
    if (found @ u).abs().max() > 1e-4:
        return "there is still a component along the vector; its length is the dot product with the vector."
    kept = resid - along[..., None] * u
    return None if torch.allclose(found, kept, atol=1e-4) else "more than the component was changed."


@checked("One counterexample is enough against a claim about every vector.")
def counterexamples(answer: Any, matrix: pd.DataFrame) -> str | None:
    """The emotions whose vector does not raise the log-probability of their own word.

    Args:
        answer: their names, in any order; an empty list where there are none.
        matrix: a row for each vector (`row`) and word (`column`), with the change (`score`).

    >>> matrix = pd.DataFrame({"row": ["sad", "sad"], "column": ["sad", "calm"], "score": [-1.0, -2.0]})
    >>> counterexamples(["sad"], matrix)
    Right. One counterexample is enough against a claim about every vector.
    """
    if isinstance(answer, str):
        return "give a list of names."
    own = matrix[matrix["row"] == matrix["column"]].set_index("row")["score"]
    if unknown := [name for name in answer if name not in own.index]:
        return f"{unknown[0]!r} is no row of the matrix."
    right = set(own.index[own <= 0])
    if wrong := [name for name in answer if name not in right]:
        return f"{wrong[0]!r} raises its own word; where it stands among the words of its row is another question."
    missing = len(right - set(answer))
    return f"{missing} more are to be found on the diagonal." if missing else None


@checked("With a q of at most 0.05, one in twenty of the results called found is expected to be false.")
def corrected(answer: Callable[..., Any]) -> str | None:
    """q values by Benjamini and Hochberg.

    Args:
        answer: a function of p values [test] to q values [test], in the same order.

    >>> corrected(lambda p: p)
    Not yet: nothing is corrected: q is p.
    """
    for p in map(np.array, P_VALUES):
        found = answer(p.copy())
        if found is None or found is ...:
            return MISSING
        found, right, n = np.asarray(found, dtype=float), false_discovery(p), len(p)
        if found.shape != p.shape:
            return f"{n} p values need {n} q values; got an array of shape {list(found.shape)}."
        if np.allclose(found, right):
            continue
        ranked = p * n / (p.argsort().argsort() + 1)
        if np.allclose(found, p):
            return "nothing is corrected: q is p."
        if np.allclose(found, np.minimum(p * n, 1)) or np.allclose(found, p * n):
            return "every p is multiplied by the number of tests (that is Bonferroni's); divide by the rank of p, too."
        if np.allclose(found, ranked) or np.allclose(found, np.minimum(ranked, 1)):
            return "a larger p may not get a smaller q: take the least of its own and of all larger ones."
        if np.allclose(np.sort(found), np.sort(right)):
            return "the numbers are right, but not in the order in which the p values came."
        return f"for p = {p.tolist()} that is not p times the number of tests over the rank of p."
    return None


@checked("Every direction is as likely as any other, and all are as long as what they stand beside.")
def null_directions(answer: Callable[..., Any]) -> str | None:
    """Directions drawn evenly from the sphere, of one length.

    Args:
        answer: a function of the length, how many, of how many dimensions, and a random generator, to [draw d_model].

    >>> null_directions(lambda length, n, d, rng: rng.random((n, d)))
    Not yet: their lengths differ from the one asked for.
    """
    length, n, d = 3.0, 400, 50
    found = answer(length, n, d, np.random.default_rng(0))
    if found is None or found is ...:
        return MISSING
    found = np.asarray(found, dtype=float)
    if found.shape != (n, d):
        return f"{n} directions of {d} dimensions are an array [{n} {d}]; this is {list(found.shape)}."
    if not np.allclose(np.linalg.norm(found, axis=1), length, rtol=1e-3):
        return "their lengths differ from the one asked for."
    units = found / length
    cosines = (units @ units.T)[np.triu_indices(n, 1)]
    if cosines.mean() > 0.05:
        return "they point to the same side: on average two of them should be at a right angle."
    if abs(cosines.std() * np.sqrt(d) - 1) > 0.1 or (units**4).mean() * d**2 > 4:
        return "some directions are likelier than others: a few coordinates should not hold most of the length."
    return None


@checked("After your question, too, steering names the emotion more often than chance would.")
def own_question(answer: Any, model: HookedModel, directions: Sequence[Direction], layer: int) -> str | None:
    """A question of one's own after which steering names the emotion.

    Args:
        answer: a text after which a word for a feeling would come, such as "How does he feel? He feels".
        directions: the vectors that are steered with; the words are their names.
    """
    if not isinstance(answer, str) or not answer.strip():
        return "give a text."
    if answer != answer.rstrip():
        return "let the text end without a space: the words begin with one."
    found = _matrix(model, directions, answer, layer)
    hits = int((found.argmax(axis=1) == np.arange(len(found))).sum())
    if hits < ENOUGH * len(found):
        return f"in {hits} of {len(found)} rows the own word changes most; find a text that asks more plainly."
    return None


def _matrix(
    model: HookedModel, directions: Sequence[Direction], question: str, layer: int
) -> Float[np.ndarray, "direction word"]:
    return changes(model, directions, [question], STRENGTH, layer)[0]
