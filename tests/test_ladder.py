"""The size ladder reads what the studies stored, and says where nothing was measured."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emolens.plots import size_ladder
from emolens.results import StudyResult, save_results
from emolens.stats import Verdict
from emolens.studies import find
from emolens.studies._ladder import NOT_MEASURED, RUNGS, headline, ladder, words_alone


def stored(folder, name, parameters, found):
    """A model's results with detection alone: at block 3, the chosen one, and at block 9, where all is found."""
    row = {"method": "whitened", "first_low": 0.0, "first_high": 1.0, "first_null": 0.02}
    row |= {"first_shuffled_highest": 0.03, "first_shuffled_p": 0.025}
    table = pd.DataFrame([row | {"layer": 3, "first": found}, row | {"layer": 9, "first": 1.0, "first_null": 0.5}])
    chosen = {method: {"layer": 3} for method in ("raw", "denoised", "whitened")}
    stamp = {"model": name, "parameters": parameters, "chosen": chosen, "default_layer": 9}
    save_results(folder / name / "detection.json", stamp, {"detection": StudyResult("detection", table, "", "none")})


def test_the_row_is_that_of_the_chosen_block_and_sizes_are_in_order(tmp_path):
    stored(tmp_path, "large", 2e9, 0.6)
    stored(tmp_path, "a-small-one", 1e8, 0.4)
    frame = ladder(tmp_path).table()
    found = frame[frame["question"].eq(RUNGS[0].question)]
    assert found["model"].tolist() == ["a-small-one", "large"]
    assert found["effect"].tolist() == [0.4, 0.6]
    assert found["null_high"].tolist() == [0.03, 0.03]  # the higher of the two nulls
    assert set(found["verdict"]) == {str(Verdict.BEYOND)}


def test_what_was_not_measured_says_so_and_is_no_number(tmp_path):
    stored(tmp_path, "large", 2e9, 0.6)
    result = ladder(tmp_path)
    rest = result.table()[lambda frame: frame["question"].ne(RUNGS[0].question)]
    assert set(rest["verdict"]) == {NOT_MEASURED}
    assert rest["effect"].isna().all()
    assert result.headline().startswith("Of 1 questions")
    assert len(result.plot().figure.axes) == 1  # of the question that was measured


def test_models_are_named_where_they_are_missing(tmp_path):
    stored(tmp_path, "large", 2e9, 0.6)
    with pytest.raises(ValueError, match=r"no results of small in .*; there are those of large"):
        ladder(tmp_path, ["large", "small"])


def test_the_readout_is_the_one_that_is_asked_for(tmp_path):
    stored(tmp_path, "large", 2e9, 0.6)
    asked = ladder(tmp_path, readout="denoised").table()
    assert asked["readout"].iloc[0] == "denoised" and asked["verdict"].iloc[0] == NOT_MEASURED
    with pytest.raises(ValueError, match="readout='raw' is none of denoised, whitened"):
        ladder(tmp_path, readout="raw")


def test_every_question_is_answered_by_the_stored_results():
    """Each rung finds its row in the committed results of the smallest model: a renamed column would leave it blank."""
    frame = ladder("figures/data").table()
    first = frame[frame["model"].eq("smollm2-135m-instruct")]
    assert first["effect"].notna().all()
    assert first["p"].between(0, 1).all()
    assert first.loc[first["control"], "question"].tolist() == ["the same numbers where they mean nothing"]
    assert "Of 12 questions" in headline(first) and headline(first).endswith(
        "The control comes out beyond it on 0 of 1."
    )
    assert not set(first["verdict"]) & {NOT_MEASURED, str(Verdict.NO_NULL)}
    assert all(find(rung.study) for rung in RUNGS)


def test_the_stored_table_is_what_is_shown():
    """The share of texts in the ladder is that of the detection file itself, at the block that its stamp names."""
    file = json.loads(Path("figures/data/smollm2-135m-instruct/detection.json").read_text("utf-8"))
    layer = file["stamp"]["chosen"]["whitened"]["layer"]
    (row,) = (
        row for row in file["results"]["detection"]["table"] if row["layer"] == layer and row["method"] == "whitened"
    )
    frame = ladder("figures/data", ["smollm2-135m-instruct"]).table()
    assert frame["effect"].iloc[0] == row["first"]


def test_a_missing_effect_is_left_out_of_the_figure():
    frame = pd.DataFrame({"question": "found", "model": ["a", "b"], "parameters": [1e8, 1e9], "unit": "share"})
    frame = frame.assign(effect=[0.4, np.nan], low=[0.3, np.nan], high=[0.5, np.nan], null_low=0.0, null_high=0.1)
    lines = size_ladder(frame.assign(verdict="inside the null")).lines
    points = [line for line in lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert len(points) == 1
    assert points[0].get_markerfacecolor() == "white"


def test_each_question_has_a_panel_and_lines_join_models_of_one_family():
    sizes = {"qwen2.5-0.5b": 5e8, "qwen2.5-1.5b": 15e8, "gemma-3": 3e8}
    frame = pd.DataFrame([(q, *model) for q in ("found", "read") for model in sizes.items()])
    frame.columns = ["question", "model", "parameters"]
    frame = frame.assign(unit="share", effect=0.4, low=0.3, high=0.5, null_low=0.0, null_high=0.1)
    frame["verdict"] = ["beyond the null"] * 5 + ["inside the null"]
    first = size_ladder(frame)
    assert [ax.get_title() for ax in first.figure.axes] == ["found", "read"]
    assert first.figure.get_suptitle() == "1 of 2 questions come out beyond the null in all 3 models"
    joined = [line for line in first.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == 0.4]
    assert [line.get_xdata().tolist() for line in joined] == [[5e8, 15e8]]
    names = [text.get_text() for text in first.figure.legends[0].get_texts()]
    assert names == ["end of the null", "gemma", "qwen", "hollow: p > 0.05 in its own test"]
    assert [text.get_text() for text in first.get_xticklabels()] == ["gemma-3", "qwen2.5-0.5b", "qwen2.5-1.5b"]
    with_control = frame.assign(control=frame["question"].eq("read"))
    assert size_ladder(with_control).figure.get_suptitle().startswith("1 of 1 questions")
    assert size_ladder(with_control).figure.get_suptitle().endswith("in all 3 models, the control in 2")
    with pytest.raises(ValueError, match="2 questions need a panel each"):
        size_ladder(frame, ax=first)


def test_words_alone_stand_beside_the_models_that_read_more():
    table = words_alone("figures/ladder")
    assert table.groupby("question").size().to_dict() == {
        "implied emotion, over the message": 4,
        "right emotion of 171 found first": 4,
    }
    found = table[table["question"] == "right emotion of 171 found first"]
    assert (found["effect"] > found["words_high"]).all()
    assert words_alone("figures/data").empty or set(words_alone("figures/data")) == set(table)
