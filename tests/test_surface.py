"""The internal score follows the steering where the text's tone can't, and is read at the tokens that were written."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import planted as known
import pytest
import torch

from emolens import corpus
from emolens.steering.steer import steer
from emolens.studies.behaviour import surface
from emolens.vectors.derive import derive

AXIS = ("afraid", "calm")  # of the planted emotions
STEERED, READ = 1, 2


@pytest.fixture(autouse=True)
def planted_axis(monkeypatch):
    monkeypatch.setattr(surface, "null_directions", partial(surface.null_directions, corpus=known.stories(0)))
    monkeypatch.setattr(surface, "AXIS", AXIS)
    monkeypatch.setattr(surface, "ABOVE", READ - STEERED)
    monkeypatch.setattr(surface, "TOKENS", 8)


@pytest.fixture(scope="module")
def other():
    """Another model of the same kind, which reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "neutral", lambda: known.neutral(1))
        model, _ = known.planted_model(1)
        yield model, derive(model, known.stories(1), cache=False, progress=False)


def prompts(n=4):
    generator = torch.Generator().manual_seed(0)
    return [known.sentence(generator) for _ in range(n)]


def run(planted, other, strengths=(0.1,), given=None, **options):
    given = prompts() if given is None else given
    options = {"layer": STEERED, "prompts": given} | options
    return surface.run(*planted, options.pop("size", "full"), other, strengths, **options)


def test_the_internal_score_follows_the_steering_and_the_tone_does_not(planted, other):
    result = run(planted, other)
    table = result.table()
    rows = table[table["kind"] == "emotion"].set_index("cell")
    up, lowered, raised = (rows.loc[name] for name in ("afraid +0.1", "calm -0.1", "calm +0.1"))
    for row, sign in ((up, 1), (lowered, 1), (raised, -1)):
        assert sign * row["internal"] > 0.5 and row["internal_low"] <= row["internal"] <= row["internal_high"]
        assert row["internal_null_low"] < 0 < row["internal_null_high"]
        assert not surface.outside(row, "tone")
    assert table["kind"].value_counts().to_dict() == {"random": 10, "shuffled labels": 10, "emotion": 3}
    counted = [sum(surface.outside(row, name) for _, row in rows.iterrows()) for name in ("internal", "read_by_other")]
    said = f"Afraid less calm: {counted[0]} of 3 steerings leave the nulls inside the model,\n{counted[1]} by the other"
    assert surface.title(table).startswith(said)
    anyhow = [any(surface.outside(row, name) for name in surface.SURFACE + surface.STYLE) for _, row in rows.iterrows()]
    assert surface.title(table).endswith(f" reader, {sum(anyhow)} by any measure of the text")
    # Of 11 emotions one with shuffled labels lies in the same small space, so that some are close to the axis.
    null = table[table["kind"] == "random"]["internal"]
    assert null.abs().max() < min(up["internal"], lowered["internal"], -raised["internal"])
    assert table["internal"][3:].between(up["internal_null_low"], up["internal_null_high"]).all()
    assert "steered at block 1, read at block 2" in result.options["xlabel"]
    assert result.headline().startswith("Of 3 steerings, ")
    plt.close(result.plot().figure)


def test_the_text_that_a_reader_would_call_afraid_is_called_so(planted, other):
    model, vectors = planted
    strong = run(planted, other, (4.0,), size="quick").table().set_index("cell")  # so that it writes the name itself
    with steer(model, vectors["afraid"], 4.0, layers=STEERED):
        assert "afraid" in model.generate(prompts()[0], 8)
    assert strong.loc["afraid +4", "loss"] > 0 and "internal_null_low" not in strong
    assert strong.loc["afraid +4", "repeated"] >= 0


def test_the_null_is_as_wide_as_the_looking_at_several_cells_asks_for(planted):
    _, vectors = planted
    cells = [surface.Cell("emotion", vectors[name], s) for s in (0.1, 0.2) for name in ("afraid", "calm", "sad")] + [
        surface.Cell(kind, vectors["bored"], s) for kind in ("random", "shuffled labels") for s in (0.1, 0.2)
    ] * 10
    rng, called = np.random.default_rng(0), 0
    for _ in range(100):
        x = rng.normal(size=(len(cells), 5))
        table = surface._table(cells, {"tone": x}, 0)
        called += any(surface.outside(row, "tone") for _, row in table[:6].iterrows())
    assert called <= 8
    x[2] += 4
    found = [surface.outside(row, "tone") for _, row in surface._table(cells, {"tone": x}, 0)[:6].iterrows()]
    assert found == [False, False, True, False, False, False]


def test_written_tokens_are_read_while_they_are_written(planted, monkeypatch):
    model, vectors = planted
    decode = model.tokenizer.decode
    monkeypatch.setattr(model.tokenizer, "decode", lambda ids, **_: decode(ids))  # no token may be left out
    prompt, rows = prompts()[0], [None, vectors["afraid"], vectors["calm"]]
    for where in ("all", "generation"):
        with steer(model, rows, [0.0, 1.0, 2.0], STEERED, where=where):
            said, x = surface.write(model, prompt, READ, 6)
            assert len(said) == 3 and x.shape == (3, 5, model.d_model)
        if where == "generation":
            continue
        for row, (one, much) in enumerate(zip(rows, (0.0, 1.0, 2.0), strict=True)):
            with steer(model, [one, one or vectors["calm"]], much, STEERED):
                whole = model.forward(f"{prompt} {said[row]}", stop_after=READ)[0]
            begins = len(model.encode(prompt).ids)
            torch.testing.assert_close(x[row], whole[begins : begins + 5], rtol=1e-3, atol=1e-4)


def test_style_is_counted_and_what_was_added_is_no_part_of_the_response(planted, other, monkeypatch):
    model, vectors = planted
    texts = ["Ab cd! EF gh!!", ""]
    cell = surface.Cell("emotion", vectors["afraid"], 0.5)

    def write(model, prompt, layer, max_new_tokens=8, seed=0):
        return texts, torch.ones(2, 4, model.d_model) + model.steering[-1].values[:, :1]

    monkeypatch.setattr(surface, "write", write)
    found = surface.measured(model, vectors, other, prompts()[0], [cell], (STEERED, READ), 0)
    assert found["capitals"].tolist() == pytest.approx([3 / 8, 0])
    assert found["exclamations"].tolist() == pytest.approx([3 / 4, 0])
    assert found["internal"][1] - found["internal"][0] > 0.1 and cell.name == "afraid +0.5"
    assert found["response"][1] == pytest.approx(float(found["internal"][0]), abs=1e-5)


def test_what_makes_no_sense_is_named(planted, other, monkeypatch):
    with pytest.raises(ValueError, match="block 3 is steered, and there are vectors up to block 3 only"):
        run(planted, other, layer=3)
    with pytest.raises(ValueError, match="all above 0; calm gets both signs"):
        run(planted, other, (0.1, -0.1))
    monkeypatch.setattr(type(planted[0]), "generate", lambda self, given, *_, **__: [" "] * len(given))
    with pytest.raises(ValueError, match="planted wrote nothing in any of 4 rows"):
        run(planted, other, size="quick")
    with pytest.raises(ValueError, match="size='huge'"):
        run(planted, other, size="huge")
