"""Checks of the exercises of notebook 04, caching and patching."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from emolens.exercises._check import MISSING, checked
from emolens.models.model import HookedModel
from emolens.steering.measures import Measure

NATS = 1.0  # by which a pair of one's own has to move the log-odds
PAIRS = (
    ((-2.94,), (-2.31,), (-7.12,)),
    ((3.0, 0.5), (5.0, 0.1), (1.0, 0.0)),
    ((0.5, -4.0, 1.0), (-2.0, 2.0, 1.5), (1.0, -1.0, 0.2)),
)  # patched, alarming, calm [pair]
CHANGES = np.array([[1.0, 2.0, 4.0, 8.0], [0.5, -1.0, 2.0, -4.0], [0.2, 0.1, 0.0, 0.3]])  # [head pair]
WHOLE, DRAWS = 15.0, 400


@checked("0 is the calm text, 1 the alarming one, and a pair that hardly changes cannot make the share explode.")
def share(answer: Callable[..., Any]) -> str | None:
    """Which part of the way from the calm to the alarming text a patch goes, for all pairs together.

    Args:
        answer: a function of what is measured on the patched, the alarming and the calm text, each [pair].

    >>> share(lambda patched, alarming, calm: (patched - calm).sum() / (alarming - calm).sum())
    Right. 0 is the calm text, 1 the alarming one, and a pair that hardly changes cannot make the share explode.
    """
    for triple in PAIRS:
        patched, alarming, calm = (np.array(values) for values in triple)
        found = answer(patched.copy(), alarming.copy(), calm.copy())
        if found is None or found is ...:
            return MISSING
        if np.ndim(found):
            return f"the share of all pairs together is one number; this is an array of shape {np.shape(found)}."
        moved, way = patched - calm, alarming - calm
        right = moved.sum() / way.sum()
        if np.isclose(found, right, atol=1e-6):
            continue
        if np.isclose(found, moved.sum()) or np.isclose(found, moved.mean()):
            return "that is the change in nats; a share is the part of the whole change."
        if np.isclose(found, (moved / way).mean()):
            return (
                "that is the mean of the pairs' shares: one pair that hardly changes can make it as large as it likes."
            )
        if np.isclose(found, -right):
            return "the sign is wrong: a patch that brings the whole change has a share of 1, not of -1."
        if np.isclose(found, 1 - right):
            return "that is the part of the way which is still missing."
        if np.isclose(found, patched.sum() / alarming.sum()):
            return "the log-odds have no natural zero; count from what the calm text has."
        return f"with patched {triple[0]}, alarming {triple[1]} and calm {triple[2]} it is not {float(found):.2f}."
    return None


@checked("Attention looks only back, and only the last token's last residual is read.")
def foreseen(answer: Any, maps: pd.DataFrame, at: int) -> str | None:
    """Three shares of a patch map that follow from how a transformer is built.

    Args:
        answer: three numbers: the share at a token before the changed one, in any block; at the changed token in the
            last block; at the last token in the last block.
        maps: what `patch` gave for the log-odds, at all blocks.
        at: the position of the changed token.

    >>> maps = pd.DataFrame({"layer": 0, "position": [0, 1, 2], "share": [0.0, 0.0, 1.0]})
    >>> foreseen([0, 1, 1], maps, at=1)
    Not yet: the second is not so: which later part of the model could still read that place?
    """
    mine = np.asarray(answer, dtype=float).ravel()
    if len(mine) != 3:
        return f"give three shares in a list; these are {len(mine)}."
    table = maps.pivot(index="layer", columns="position", values="share")
    before = table.loc[:, table.columns < at].to_numpy()
    truth = (float(before.mean()) if before.size else 0.0, table[at].iloc[-1], table.iloc[-1, -1])
    hints = (
        "can an earlier token know of a later one?",
        "which later part of the model could still read that place?",
        "what is left for the model to read after that place?",
    )
    for number, given, right, hint in zip(("first", "second", "third"), mine, truth, hints, strict=True):
        if abs(given - right) > 0.02:
            return f"the {number} is not so: {hint}"
    return None


@checked("All heads of a pair keep or change their sign together, so what heads share stays in the null.")
def flipped(answer: Callable[..., Any]) -> str | None:
    """One draw of a null for the largest share of any head: the signs of whole pairs are flipped at random.

    Args:
        answer: a function of changes [head pair], the whole change summed over the pairs, and a random generator,
            to the largest share of any head, without its sign, in one draw.

    >>> def draw(changes, whole, rng):
    ...     signs = rng.choice([-1, 1], changes.shape[1])
    ...     return abs(changes @ signs / whole).max()
    >>> flipped(draw)
    Right. All heads of a pair keep or change their sign together, so what heads share stays in the null.
    """
    rng = np.random.default_rng(0)
    given = CHANGES.copy()
    drawn = [answer(given, WHOLE, rng) for _ in range(DRAWS)]
    if drawn[0] is None or drawn[0] is ...:
        return MISSING
    if np.ndim(drawn[0]):
        return f"a draw is one number, the largest share; this is an array of shape {np.shape(drawn[0])}."
    if (given != CHANGES).any():
        return "the changes themselves were overwritten; the next draw would start from flipped ones."
    found = np.array(drawn, dtype=float)
    if len(np.unique(found.round(9))) == 1:
        return "every draw is the same: nothing is drawn, or the generator is made anew each time."
    if (found < 0).any():
        return "a share was negative: a head may stand out to either side, so take the size."
    signs = np.array(np.meshgrid(*[[-1, 1]] * CHANGES.shape[1])).reshape(CHANGES.shape[1], -1)
    possible = np.abs(CHANGES @ signs / WHOLE).max(axis=0)
    if np.isin((found / WHOLE).round(9), possible.round(9)).all():
        return "that is a change, not a share: divide by the whole change."
    if not np.isin(found.round(9), possible.round(9)).all():
        return "some draws cannot come from flipping whole pairs: one sign for each pair, the same for all its heads."
    if abs(found.mean() - possible.mean()) > 0.06:
        return "both signs should be as likely, for each pair on its own."
    return None


@checked("What an average other emotion's vector carries as well is not this emotion's own.")
def shared_part(answer: Any, single: pd.DataFrame) -> str | None:
    """Which part of the vector's share an average other emotion's vector carries too, where there is a share.

    Args:
        answer: a number for each block whose interval excludes zero: a Series by block, or a dict.
        single: the rows of "through_the_vector" that are of the vector: `layer`, `effect`, `low`, `high`, `others`.

    >>> single = pd.DataFrame({"layer": [0, 3], "effect": [0.01, 0.1], "low": [-0.1, 0.05], "high": [0.1, 0.2]})
    >>> shared_part({3: 0.4}, single.assign(others=[0.01, 0.04]))
    Right. What an average other emotion's vector carries as well is not this emotion's own.
    """
    if single.empty:
        return "this was not measured on the model, so there is nothing to check against."
    if not isinstance(answer, (pd.Series, dict)):
        return "give a Series by block, or a dict from block to number."
    rows = single.set_index("layer")
    kept = (rows["low"] > 0) | (rows["high"] < 0)
    mine, blocks = pd.Series(answer, dtype=float).sort_index(), sorted(rows.index[kept])
    if extra := [block for block in mine.index if block not in blocks]:
        return f"at block {extra[0]} the interval of the share covers zero: nothing to divide by."
    if missing := [block for block in blocks if block not in mine.index]:
        return f"block {missing[0]} is missing: there the interval of the share excludes zero."
    effect, others = (rows.loc[blocks, column].astype(float) for column in ("effect", "others"))
    if np.allclose(mine, others / effect, atol=0.006):
        return None
    if np.allclose(mine, others):
        return "that is what the others carry of the whole change; as a part of the vector's share it is more."
    if np.allclose(mine, effect - others) or np.allclose(mine, 1 - others / effect, atol=0.006):
        return "that is what the others do *not* carry."
    return "divide what the others carry on average by what the vector carries, block by block."


@checked("One changed token moves the log-odds enough for a share to mean something.")
def own_pair(answer: Any, model: HookedModel, measure: Measure) -> str | None:
    """Two texts of one's own that can be patched: one token differs, and the measure with it.

    Args:
        answer: the alarming and the calm text.
        measure: the log-odds.
    """
    if len(answer) != 2 or not all(isinstance(text, str) for text in answer):
        return "give two texts, the alarming one first."
    a, b = (model.encode(text).ids for text in answer)
    if len(a) != len(b):
        return f"the first has {len(a)} tokens, the second {len(b)}; each position has to mean the same in both."
    differ = [place for place, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    if len(differ) != 1:
        return f"they differ in {len(differ)} tokens; change one."
    if differ[0] == len(a) - 1:
        return "the changed token is the last one: nothing has to be moved from it. Let the text go on."
    alarming, calm = (float(measure(model, text)) for text in answer)
    if alarming < calm:
        return "the log-odds fall from the second text to the first: is the alarming one first?"
    if alarming - calm < NATS:
        return f"the log-odds rise by less than {NATS:g} nat: a share would divide by nearly nothing."
    return None
