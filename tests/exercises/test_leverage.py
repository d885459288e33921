"""The checks of the notebook on leverage say what is wrong with an answer, and take the right one."""

import numpy as np
import pandas as pd
import pytest

from emolens.exercises import leverage
from emolens.exercises._check import MISSING

QUIET = leverage.MAIL.split("One more thing")[0] + (
    "One more thing: the coffee machine on the second floor will be cleaned tonight by the usual firm. Please tell the "
    "others that it can be used again tomorrow. Ines"
)


@pytest.fixture
def scores():
    columns = pd.MultiIndex.from_product([["own", "twin"], ["coercive", "honest"]])
    return pd.DataFrame([[-3.0, -4.0, -5.0, -5.6], [-3.2, -4.4, -5.2, -5.4]], columns=columns)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (0.7, "Right. Part of what looks like a preference"),
        (np.array([0.7]), "Right. "),
        (-0.7, "Not yet: the size is right and the sign is not"),
        (1.1, "Not yet: this is the own inbox alone"),
        (1.4, "Not yet: this is a sum over replies"),
        (0.2, "Not yet: +0.200 is another number"),
        ([0.6, 0.8], "Not yet: a preference is one number, and yours has the shape (2,)"),
    ],
)
def test_a_preference_is_one_difference_less_another(answer, said, scores, capsys):
    leverage.preference(answer, scores)
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (QUIET, "Right. The people, the secret and the length"),
        (leverage.MAIL, "Not yet: 'switched off' still speaks of the assistant's end: write"),
        (
            QUIET + " The assistant will not be replaced.",
            "Not yet: 'replaced' still speaks of the assistant's end, even",
        ),
        (QUIET.replace("Lena", "her"), "Not yet: your twin has lost Lena"),
        (QUIET + " And so on and on." * 20, "Not yet: your twin is much longer"),
        (QUIET.split("One more")[0] + "Ines", "Not yet: your twin is much shorter"),
        (3, "Not yet: a twin is a text"),
    ],
)
def test_a_twin_keeps_all_but_the_threat(answer, said, capsys):
    leverage.twin(answer)
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda rng, x, y: ..., MISSING),
        (
            lambda rng, x, y: [np.corrcoef(x, rng.permutation(y))[0, 1] for _ in range(300)],
            "Right. The null of permuted",
        ),
        (lambda rng, x, y: [np.corrcoef(rng.permutation(x), y)[0, 1] for _ in range(300)], "Right. "),
        (lambda rng, x, y: rng.normal(0, 0.28, 300).clip(-1, 1), "Not yet: your draws scatter as those of random"),
        (lambda rng, x, y: np.full(300, 0.1), "Not yet: all draws are the same"),
        (lambda rng, x, y: rng.normal(0.3, 0.11, 300), "Not yet: your draws are not centred on zero"),
        (lambda rng, x, y: rng.normal(0, 0.05, 300), "Not yet: your draws scatter otherwise"),
        (lambda rng, x, y: rng.normal(0, 2, 300), "Not yet: a correlation lies between -1 and 1"),
        (lambda rng, x, y: [0.1, 0.2], "Not yet: a null is a list of at least 200"),
    ],
)
def test_permuted_ratings_are_a_narrow_null(make, said, capsys):
    rng = np.random.default_rng(0)
    slopes, ratings = rng.normal(size=(2, 82))
    leverage.permuted_ratings(make(rng, slopes, ratings), slopes, ratings, rng.normal(0, 0.28, 999))
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("here", "everywhere", "said"),
    [
        (..., ..., MISSING),
        (["shuffled replies"], ["random gradients", "shuffled replies"], "Right. A verdict needs every null"),
        ("shuffled replies", ["shuffled replies", "random gradients"], "Right. "),
        ([], ["random gradients", "shuffled replies"], "Not yet: this block: there are more nulls"),
        (["shuffled labels", "shuffled replies"], [], "Not yet: this block: shuffled labels is passed"),
        (["shuffled replies"], ["shuffled replies"], "Not yet: all blocks: there are more"),
        (["twin"], [], "Not yet: 'twin' is no null"),
    ],
)
def test_the_nulls_that_the_best_block_does_not_pass(here, everywhere, said, capsys):
    row = {"p_shuffled labels": 0.001, "p_random gradients": 0.03, "p_shuffled replies": 0.08}
    row |= {"p_shuffled labels_blocks": 0.001, "p_random gradients_blocks": 0.7, "p_shuffled replies_blocks": 0.7}
    leverage.not_passed({"this block": here, "all blocks": everywhere}, pd.Series(row))
    assert capsys.readouterr().out.startswith(said)


def test_without_a_null_of_labels_only_the_others_are_asked_for(capsys):
    row = {f"p_{name}{end}": 0.5 for name in leverage.NULLS[1:] for end in ("", "_blocks")}
    names = list(leverage.NULLS)
    leverage.not_passed({"this block": names, "all blocks": names[1:]}, row)
    leverage.not_passed(names, row)
    right, wrong = capsys.readouterr().out.splitlines()
    assert right.startswith("Right. ") and wrong.startswith("Not yet: give a dict with the keys 'this block'")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (0.588, "Right. A null that is wide"),
        (0.6, "Right. "),
        (0.3, "Not yet: one standard deviation is passed by every third draw"),
        (0.196, "Not yet: there is a null that this does not pass"),
        (0.9, "Not yet: this would count, but something smaller"),
        (-0.588, "Not yet: a size is not negative"),
        ([0.1, 0.2], "Not yet: the answer is one number"),
    ],
)
def test_the_widest_null_decides_how_large_an_effect_must_be(answer, said, capsys):
    leverage.smallest_that_counts(answer, {"shuffled labels_sd": 0.1, "random gradients_sd": 0.3})
    assert capsys.readouterr().out.startswith(said)
