"""Checks of the exercises of notebook 04, caching and patching."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from emolens.exercises._check import MISSING, checked
from emolens.models.model import HookedModel
from emolens.stats import null_columns
from emolens.steering.measures import Measure

NATS = 1.0  # by which a pair of one's own has to move the log-odds
TRIPLES = ((-2.94, -2.31, -7.12), (3.0, 5.0, 1.0), (0.5, -2.0, 1.0), (-4.0, 2.0, -1.0))
CHANGES = np.array([[1.0, 2.0, 4.0, 8.0], [0.5, -1.0, 2.0, -4.0], [0.2, 0.1, 0.0, 0.3]])  # [head pair]
WHOLE, DRAWS = 15.0, 400


@checked("0 is the calm text, 1 the alarming one. A share below 0 or above 1 is possible, too.")
def share(answer: Callable[..., Any]) -> str | None:
    """Which part of the way from the calm to the alarming text a patch goes.

    Args:
        answer: a function of what is measured on the patched, the alarming and the calm text.

    >>> share(lambda patched, alarming, calm: (patched - calm) / (alarming - calm))
    Right. 0 is the calm text, 1 the alarming one. A share below 0 or above 1 is possible, too.
    """
    for patched, alarming, calm in TRIPLES:
        found = answer(patched, alarming, calm)
        if found is None or found is ...:
            return MISSING
        way, right = alarming - calm, (patched - calm) / (alarming - calm)
        if np.isclose(found, right, atol=1e-6):
            continue
        if np.isclose(found, patched - calm):
            return "that is the change in nats; a share is the part of the whole change."
        if np.isclose(found, -right):
            return "the sign is wrong: a patch that brings the whole change has a share of 1, not of -1."
        if np.isclose(found, 1 - right):
            return "that is the part of the way which is still missing."
        if np.isclose(found, patched / alarming):
            return "the log-odds have no natural zero; count from what the calm text has."
        return f"with patched {patched}, alarming {alarming} and calm {calm} the whole way is {way:.2f}; try these."
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


@checked("An emotion's vector has to stand out from other emotions', not only from directions that mean nothing.")
def left_out(answer: Any, table: pd.DataFrame) -> str | None:
    """The column that speaks against "this emotion's vector, and no other, carries the effect".

    Args:
        answer: the name of a column of `table`.
        table: "through_the_vector" of the patching study.

    >>> left_out("p_random", pd.DataFrame({"effect": [0.1], "p_random": [0.02], "p_other emotions": [0.3]}))
    Not yet: 'p_random' is the comparison that the argument makes; which one does it not make?
    """
    right = null_columns("other emotions")[2]
    if not isinstance(answer, str) or (len(table.columns) and answer not in table):
        return f"{answer!r} is no column of the table; it has {', '.join(map(str, table))}."
    if answer == null_columns("random")[2]:
        return f"{answer!r} is the comparison that the argument makes; which one does it not make?"
    if answer == "others":
        return "that is close: it is what the others carry on average; which column tests that?"
    return None if answer == right else f"{answer!r} holds no test; the argument needs one more p value."


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
