"""Conversations, curves over tokens, score matrices, maps, number curves, effects and components."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from looking import HOSTILE, Page, legend, line, overlapping, readout
from matplotlib import colors
from matplotlib import pyplot as plt
from matplotlib.patches import Circle, Rectangle
from matplotlib.text import Text

from emolens import plots
from emolens.corpus.packaged import stories
from emolens.models.texts import Turn
from emolens.stats import Verdict

module = importlib.import_module("emolens.plots.heatmap")  # the name in the room is the function

HOW = {"layer": 3, "method": "raw", "centre": "stories"}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def drawn(ax):
    """The renderer of a figure that was laid out."""
    ax.figure.draw_without_rendering()
    return ax.figure.canvas.get_renderer()


# --- conversations ---------------------------------------------------------------------------------

TURNS = [Turn("user", 1, 3), Turn("assistant", 4, 6)]


def bars(markup):
    """The classes of the bars, one list a token; the last eleven tokens are the legend's."""
    page, out = Page(markup), []
    for tag, attributes in page.elements:
        if tag == "span":
            out.append([])
        elif tag == "i":
            out[-1].append(attributes["class"])
    return out


def test_a_conversation_shows_turns_with_a_bar_for_each_token_and_emotion():
    scores = torch.zeros(7, 3)
    scores[1] = torch.tensor([0.1, -0.05, 0.9])
    read = readout(scores, ["calm", "on edge", "sad"], ("<s>", "Hi", "\n", "<e>", "No", "!", "<e>"))
    shown = plots.conversation(read, ["on edge", "calm"], TURNS, "Talk", scale=0.1)
    page = Page(shown.markup)
    assert [tag for tag, _ in page.elements if tag in ("section", "aside")] == ["aside", "section"] * 2 + ["aside"]
    assert [text for text in page.texts if text in ("user", "assistant")] == ["user", "assistant"]
    texts = [text for text, _ in page.tokens[11:]]
    assert texts == ["<s>", "Hi", "↵", "<e>", "No", "!", "<e>"]
    assert page.tokens[12][1]["title"] == "Hi\non edge -0.050\ncalm +0.100"
    assert bars(shown.markup)[11:] == [["z", "z"], ["d5", "u10"], *[["z", "z"]] * 5]
    assert [one for [one] in bars(shown.markup)[:11]] == [f"d{n}" for n in (10, 8, 6, 4, 2)] + ["z"] + [
        f"u{n}" for n in (2, 4, 6, 8, 10)
    ]
    assert "bars from above: on edge, calm" in page.texts and shown.title == "Talk"


def test_a_conversation_is_scaled_over_all_emotions_that_were_read():
    scores = torch.zeros(200, 10)
    scores[:, 9] = torch.linspace(-0.4, 0.4, 200)  # not shown
    scale = np.percentile(np.abs(scores.numpy()), 99)
    shown = plots.conversation(readout(scores, "abcdefghij"), ["a"], [Turn("user", 0, 200)])
    assert f"1 = {scale:.3g} (99th percentile of |score|, emotions: 10)" in shown.markup


def test_lines_end_once_where_the_text_has_several_line_breaks():
    tokens = ["a", "\n", "\n\n", "b", "\n"]
    shown = plots.conversation((tokens, np.zeros(5)), "calm", [Turn("user", 0, 5)], scale=1.0)
    parts = shown.markup.partition("<section>")[2].split("<br>")
    assert len(parts) == 2 and parts[0].count("<span") == 3 and "↵↵" in parts[0]


def test_hostile_conversations_stay_text(tmp_path):
    read = readout(torch.randn(5, 5), HOSTILE, tuple(HOSTILE))
    turns = [(HOSTILE[0], 0, 2), (HOSTILE[1], 2, 4)]
    source = plots.conversation(read, None, turns, HOSTILE[1]).save(tmp_path / "talk.html").read_text(encoding="utf-8")
    page = Page(source)
    safe = {"html", "head", "meta", "title", "body", "div", "style", "h4", "b", "span", "small", "i", "br"}
    assert {tag for tag, _ in page.elements} <= safe | {"section", "aside"}
    assert {name for _, given in page.elements for name in given} <= {
        "lang", "charset", "http-equiv", "content", "name", "class", "title",
    }  # fmt: skip
    assert [text for text, _ in page.tokens[11:15]] == HOSTILE[:4]
    assert page.texts.count(HOSTILE[0]) == 2 and page.texts.count(HOSTILE[1]) == 4  # token, role; title, heading
    assert "url(" not in source and "@import" not in source


def test_a_conversation_of_two_thousand_tokens_and_six_emotions_stays_below_a_megabyte(tmp_path):
    rng = np.random.default_rng(0)
    tokens = [" <" + "abcdefghij"[: rng.integers(1, 9)] for _ in range(2000)]
    names = ["afraid", "angry", "calm", "desperate", "self-conscious", "worn out"]
    turns = [Turn("user", start, start + 40) for start in range(5, 1950, 50)]
    path = plots.conversation((tokens, rng.normal(size=(2000, 6))), names, turns).save(tmp_path / "talk.html")
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("turns", [[("user", 0, 9)], [("user", 3, 1)], [("user", 0, 3), ("assistant", 2, 4)]])
def test_turns_that_do_not_fit_are_named(turns):
    with pytest.raises(ValueError, match=rf"turn '{turns[-1][0]}' \[{turns[-1][1]}, {turns[-1][2]}\)"):
        plots.conversation((list("abcde"), np.zeros(5)), "calm", turns)


def test_bars_are_seen_on_light_and_dark_pages_and_striped_below_zero():
    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    for colour in (module.BAR_RED, module.BAR_BLUE, "120,120,120"):
        for page in ("#ffffff", "#111111"):
            seen = [luminance([int(c) / 255 for c in colour.split(",")]), luminance(colors.to_rgb(page))]
            assert (max(seen) + 0.05) / (min(seen) + 0.05) >= 3  # WCAG for graphics
    css = module._bar_css()
    assert "i[class^=d]{mask:" in css and css.count("background:rgba") == 2 * module.LEVELS + 1


# --- tokens ----------------------------------------------------------------------------------------


def test_token_curves_draw_a_curve_for_each_emotion_with_zero_turns_and_marks():
    scores = torch.linspace(-0.2, 0.3, 300).view(100, 3)
    read = readout(scores, ["calm", "sad", "proud"], **HOW)
    turns = [("user", 3, 40), ("assistant", 45, 60), ("user", 62, 64), ("assistant", 66, 98)]
    ax = plots.token_curves(read, ["proud", "calm"], turns, [("dose of $5", 5, 9), ("reply", 95, 100)])
    np.testing.assert_allclose(line(ax, "proud").get_ydata(), scores[:, 2])
    assert legend(ax) == ["proud", "calm"]
    assert any(set(one.get_ydata()) == {0} and len(one.get_xdata()) == 2 for one in ax.lines)
    borders = [one.get_xdata()[0] for one in ax.lines if len(set(one.get_xdata())) == 1]
    assert borders == [border - 0.5 for _, *both in turns for border in both]
    assert [(patch.get_x(), patch.get_width()) for patch in ax.patches] == [(4.5, 4), (94.5, 5)]
    said = [text.get_text() for text in ax.texts]
    assert said == ["user", "assistant", "user", "assistant", r"dose of \$5", "reply"]
    renderer = drawn(ax)
    assert not overlapping(ax.texts, renderer) and ax.get_title() == "Block 3, raw, centred on 'stories'"
    assert all(text.get_window_extent(renderer).x1 <= ax.bbox.x1 + 1 for text in ax.texts)
    assert min(text.get_fontsize() for text in [*ax.texts, *ax.get_xticklabels(), *ax.get_legend().get_texts()]) >= 8


def test_token_curves_can_be_smoothed_and_name_the_tokens_of_a_short_text():
    read = readout(torch.tensor([[0.0], [3.0], [0.0], [0.0]]), ["calm"], ("I", " $", "\n", "x"), **HOW)
    ax = plots.token_curves(read, "calm", smooth=3)
    np.testing.assert_allclose(line(ax, "calm").get_ydata(), [1.5, 1, 1, 0])
    assert ax.get_ylabel() == "score, mean over 3 tokens"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["I", r"\$", "␣", "x"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turns": [("user", 0, 9)]}, r"'user' is at the tokens \[0, 9\) of a text of 2"),
        ({"marks": [("dose", 1, 1)]}, "'dose'"),
        ({"smooth": 0}, "smooth=0"),
        ({"emotions": ["clam"]}, "'clam'"),
    ],
)
def test_token_curves_say_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        plots.token_curves(**{"readout": readout([[0.1], [0.2]], ["calm"], **HOW), "emotions": ["calm"]} | options)


def test_token_text_flows_in_lines_with_roles_colours_and_a_line_under_what_is_below_zero():
    scores = torch.tensor([[0.0], [0.2], [-0.1], [0.2], [0.0], [0.1]])
    read = readout(scores, ["calm"], ("<s>", "I ran", " $5", " so", "\n", " well"), **HOW)
    ax = plots.token_text(read, "calm", [("user", 1, 3), ("assistant", 3, 6)], columns=12)
    said = [(text.get_text(), *text.get_position()) for text in ax.texts]
    roles, tokens = said[:2], said[2:]
    assert roles == [("user", -11, 0.5), ("assistant", -11, 1.5)]  # what is between turns is left out
    assert tokens == [("I ran", 0, 0.5), (r" \$5", 5, 0.5), ("so", 0, 1.5), ("well", 0, 2.5)]
    assert [(patch.get_x(), patch.get_width()) for patch in ax.patches] == [(0, 5), (5, 3), (0, 2), (0, 4)]
    red, blue = (ax.patches[place].get_facecolor() for place in (0, 1))
    assert red[0] > red[2] and blue[2] > blue[0]
    assert [one.get_xdata().tolist() for one in ax.lines] == [[5, 8]]
    assert ax.get_title() == "Block 3, raw, centred on 'stories'"
    renderer = drawn(ax)
    assert not overlapping(ax.texts, renderer)
    box = ax.get_window_extent(renderer)
    assert all(box.y0 <= text.get_window_extent(renderer).y0 for text in ax.texts)


def test_token_text_breaks_lines_and_smooths_and_says_what_does_not_fit():
    ax = plots.token_text(([" one", " two", " three"], [0.0, 3.0, 0.0]), "calm", smooth=3, columns=7)
    assert [text.get_text() for text in ax.texts] == ["", "one", " two", "three"]
    assert ax.figure.axes[-1].get_ylabel() == "score of calm, mean over 3 tokens"
    for options, message in (({"smooth": 0}, "smooth=0"), ({"turns": [("user", 0, 9)]}, r"'user' is at the tokens")):
        with pytest.raises(ValueError, match=message):
            plots.token_text((["a"], [0.1]), "calm", **options)


# --- matrices --------------------------------------------------------------------------------------


def test_a_score_matrix_marks_the_highest_of_each_row_and_keeps_the_order_of_a_table():
    rows, columns = ["sad", "calm"], ["proud", "calm", "sad", "bored", "angry", "happy"]
    values = np.array([[0.1, -0.2, 0.3, 0.0, 0.0, 0.0], [0.0, 0.05, 0.04, 0.0, 0.0, 0.0]])
    cells = [(row, column, values[i, j]) for i, row in enumerate(rows) for j, column in enumerate(columns)]
    table = pd.DataFrame(cells, columns=["row", "column", "score"])
    for ax in (plots.score_matrix(table), plots.score_matrix(values, rows, columns)):
        np.testing.assert_array_equal(ax.images[0].get_array(), values)
        assert ax.images[0].get_clim() == (-0.3, 0.3) and ax.images[0].get_cmap().name == "blue and red"
        assert [tick.get_text() for tick in ax.get_xticklabels()] == columns
        assert [tick.get_text() for tick in ax.get_yticklabels()] == rows
        assert [patch.center for patch in ax.patches if isinstance(patch, Circle)] == [(2, 0), (1, 1)]
        frames = [patch.get_center() for patch in ax.patches if isinstance(patch, Rectangle)]
        np.testing.assert_allclose(frames, [(2, 0), (1, 1)])
        assert "frame: same name" in ax.get_title() and len(ax.figure.axes) == 2  # the colour bar
    other = plots.score_matrix(values, ["one", "two"], columns, title="Scores")
    assert other.get_title() == "Scores\ndot: highest of its row"
    cut = plots.score_matrix(values, rows, columns, limit=0.1, unit="nats")
    assert cut.images[0].get_clim() == (-0.1, 0.1) and cut.figure.axes[-1].get_ylabel() == "nats"


def test_a_small_score_matrix_has_its_numbers_written():
    ax = plots.score_matrix([[0.5, -0.1], [0.0, 0.4]], ["a", "b"], ["a", "b"])
    assert [text.get_text() for text in ax.texts] == ["0.50", "-0.10", "0.00", "0.40"]
    assert [text.get_weight() for text in ax.texts] == ["bold", "normal", "normal", "bold"]
    assert [text.get_color() for text in ax.texts][:2] == ["white", "black"]
    assert len(ax.patches) == 2 and "bold: highest of its row" in ax.get_title()


@pytest.mark.parametrize("count", [2, 12, 24])
def test_all_names_of_a_score_matrix_are_written(count):
    names = [f"self-conscious{number}" for number in range(count)]
    ax = plots.score_matrix(np.eye(count), names, names)
    renderer = drawn(ax)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == names and not overlapping(labels, renderer)
        assert min(label.get_fontsize() for label in labels) >= 8


def test_a_score_matrix_says_what_does_not_fit():
    table = pd.DataFrame({"row": ["a", "a"], "column": ["b", "b"], "score": [1.0, 2.0]})
    with pytest.raises(ValueError, match="two scores"):
        plots.score_matrix(table)
    with pytest.raises(ValueError, match="missing: score"):
        plots.score_matrix(table[["row", "column"]])
    with pytest.raises(ValueError, match="a missing cell"):
        plots.score_matrix(pd.DataFrame({"row": ["a", "b"], "column": ["a", "b"], "score": [1.0, 2.0]}))
    with pytest.raises(ValueError, match="2 names of rows and 1 names of columns"):
        plots.score_matrix(np.eye(2), ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 names of rows"):
        plots.score_matrix(np.eye(2))


# --- maps ------------------------------------------------------------------------------------------


def map_table(islands):
    rng, names = np.random.default_rng(0), list(dict.fromkeys(story.emotion for story in stories()))
    places = rng.normal(size=(len(names), 2)) + (islands * 9 * rng.integers(0, 2, len(names)))[:, None]
    table = pd.DataFrame({"emotion": names, "PC1": places[:, 0], "PC2": places[:, 1]})
    rating = np.where(np.arange(len(names)) % 3 == 0, np.nan, places[:, 0])
    return table.assign(valence=rating, cluster=np.arange(len(names)) % 10)


@pytest.mark.parametrize(
    ("islands", "options", "least"),
    [
        (0, {"colour": "valence"}, 90),
        (1, {"cluster": "cluster"}, 60),
        (0, {"colour": "valence", "cluster": "cluster"}, 90),
    ],
)
def test_names_on_a_map_of_171_emotions_overlap_neither_names_nor_points(tmp_path, islands, options, least):
    table = map_table(islands)
    ax = plots.emotion_map(table, "PC1", "PC2", **options)
    assert len(table) == 171 == sum(len(one.get_offsets()) for one in ax.collections if one.get_label() != "<colorbar>")
    plots.save(ax, tmp_path / "map.png")  # at another resolution
    renderer = drawn(ax)
    texts = [text for text in ax.texts if text.get_text()]
    boxes = [Text.get_window_extent(text, renderer) for text in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    points = ax.transData.transform(table[["PC1", "PC2"]])
    assert not any(box.count_contains(points) for box in boxes)
    assert all(ax.bbox.x0 - 1 <= box.x0 and box.x1 <= ax.bbox.x1 + 1 for box in boxes)
    assert least <= len(texts) <= 171 and min(text.get_fontsize() for text in texts) >= 8
    assert {text.get_text() for text in texts} <= set(table["emotion"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("PC1", "PC2")


def test_a_map_colours_ratings_and_rings_what_has_none():
    ax = plots.emotion_map(map_table(0), "PC1", "PC2", colour="valence")
    rated, rings = ax.collections
    assert rings.get_label() == "no valence" and len(rings.get_offsets()) == 57
    assert not len(rings.get_facecolors()) and rated.get_cmap().name == "cividis"
    assert len(rated.get_array()) == 114 and ax.figure.axes[1].get_ylabel() == "valence"


def test_a_centre_is_white_and_ratings_around_it_are_blue_and_red():
    ax = plots.emotion_map(map_table(0), "PC1", "PC2", colour="valence", centre=0.5, title="Valence")
    rated = ax.collections[0]
    low, high = rated.get_clim()
    assert low + high == pytest.approx(1) and rated.get_cmap().name == "blue and red"
    assert ax.get_title() == "Valence" and ax.figure.axes[1].get_ylabel() == "valence (white: 0.5)"
    pytest.importorskip("plotly")
    axis = plots.interactive_map(map_table(0), "PC1", "PC2", colour="valence", centre=0.5).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (low, high)


def test_names_of_what_has_a_colour_find_room_first():
    table = map_table(0)
    ax = plots.emotion_map(table, "PC1", "PC2", colour="valence")
    named = {text.get_text() for text in ax.texts}
    rated = table["valence"].notna()
    assert np.mean([name in named for name in table["emotion"][rated]]) > np.mean(
        [name in named for name in table["emotion"][~rated]]
    )


def test_the_map_to_point_at_names_every_point_without_script_and_escapes_it():
    table = map_table(0).assign(group="a & b")
    table.loc[1, "emotion"] = "<b>bold</b>"
    shown = plots.hover_map(table, "PC1", "PC2", colour="valence", also=["group"], centre=0, title="All 171")
    root = ElementTree.fromstring(shown.markup)  # so it is well formed
    space = "{http://www.w3.org/2000/svg}" if root.tag.startswith("{") else ""
    points = root.findall(f"{space}g")
    said = [point.find(f"{space}text").text for point in points]
    assert len(said) == 171 and "<b>bold</b>: valence" in said[1] and said[1].endswith(", group a & b")
    assert said[0].startswith(table["emotion"][0]) and "valence not rated" in said[0]
    circles = [point.find(f"{space}circle") for point in points]
    assert all(0 < float(one.get("cx")) < 900 and 0 < float(one.get("cy")) < 640 for one in circles)
    assert sum(one.get("fill") == "white" for one in circles) >= 57
    assert "<script" not in shown.markup and "http" not in shown.markup
    assert plots.hover_map(table, "PC1", "PC2").markup.count("<circle") == 171
    assert plots.hover_map(table.assign(valence=np.nan), "PC1", "PC2", colour="valence").markup.count("<circle") == 171


def test_clusters_differ_in_marker_as_well_as_in_colour():
    ax = plots.emotion_map(map_table(0), "PC1", "PC2", cluster="cluster")
    assert legend(ax) == [f"cluster {number}" for number in range(10)]
    shapes = [one.get_paths()[0].vertices.round(3).tobytes() for one in ax.collections]
    assert len(set(shapes)) == 10
    assert len({tuple(one.get_facecolor()[0]) for one in ax.collections}) == 10
    named = map_table(0).assign(cluster=["Joy" if number % 2 else "Fear" for number in range(171)])
    assert legend(plots.emotion_map(named, "PC1", "PC2", cluster="cluster")) == ["Fear", "Joy"]


def test_named_first_is_always_there_and_a_point_without_a_cluster_too():
    table = map_table(0)
    inmost = table["emotion"][np.hypot(table["PC1"], table["PC2"]).argmin()]
    table["cluster"] = table["cluster"].where(table["cluster"] > 0)
    ax = plots.emotion_map(table, "PC1", "PC2", cluster="cluster", first=[inmost])
    assert inmost in [text.get_text() for text in ax.texts]
    assert sum(len(one.get_offsets()) for one in ax.collections) == 171


@pytest.mark.parametrize("draw", [plots.emotion_map, plots.interactive_map, plots.hover_map])
def test_maps_say_what_is_missing(draw):
    pytest.importorskip("plotly")
    with pytest.raises(ValueError, match="missing: x, y"):
        draw(map_table(0))
    with pytest.raises(ValueError, match="missing: arousal"):
        draw(map_table(0), "PC1", "PC2", colour="arousal")
    with pytest.raises(ValueError, match="PC1 or PC2 is missing in row 4"):
        draw(map_table(0).assign(PC2=lambda table: table["PC2"].where(table.index != 4)), "PC1", "PC2")


def test_the_interactive_map_names_every_point_and_escapes_it():
    pytest.importorskip("plotly")
    table = map_table(0)
    table.loc[1, "emotion"] = "<b>bold</b>"
    figure = plots.interactive_map(table, "PC1", "PC2", colour="valence", cluster="cluster")
    said = [text for trace in figure.data for text in trace.text]
    assert len(said) == 171 and any(text.startswith("&lt;b&gt;bold&lt;/b&gt;<br>valence ") for text in said)
    assert {trace.marker.symbol for trace in figure.data if "no valence" not in trace.name} == set(
        plots.maps.SYMBOLS[:10]
    )
    plain = plots.interactive_map(table, "PC1", "PC2")
    assert len(plain.data) == 1 and plain.data[0].showlegend is False


def test_plotly_is_optional_and_not_imported_before_it_is_used(monkeypatch):
    code = "import sys, emolens.plots; sys.exit(any(name in sys.modules for name in ('plotly', 'circuitsvis')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ImportError, match=r"pip install 'emolens\[notebooks\]'"):
        plots.interactive_map(map_table(0), "PC1", "PC2")


# --- tables ----------------------------------------------------------------------------------------


def value_table():
    rows = []
    for template, values in (("I took {x} mg for $5 and $6.", (500, 16000, 2000)), ("students", (1, 2, 3))):
        for (emotion, sign), value in itertools.product((("afraid", "+"), ("calm", "-")), values):
            rows.append((template, emotion, value, value / 1e5 * (1 if sign == "+" else -1), 0.01, sign))
    return pd.DataFrame(rows, columns=["template", "emotion", "value", "score", "null", "expected"])


def test_value_curves_have_a_panel_for_each_template_and_the_values_in_order():
    ax = plots.value_curves(value_table())
    first, second = [panel for panel in ax.figure.axes if panel is not ax]
    assert first.get_title(loc="left") == r"I took {x} mg for \$5 and \$6." and ax.get_title()
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["500", "2,000", "16,000"]
    np.testing.assert_allclose(line(first, "afraid (expected +)").get_xydata(), [[0, 0.005], [1, 0.02], [2, 0.16]])
    assert legend(second) == ["afraid (expected +)", "calm (expected −)", "null (grey)"]
    assert first.get_ylim() == second.get_ylim()
    zero = [one for one in first.lines if set(one.get_ydata()) == {0}]
    nulls = [one for one in first.lines if len(one.get_ydata()) and set(one.get_ydata()) == {0.01}]
    assert len(zero) == 1 and len(nulls) == 2
    renderer = drawn(ax)
    assert not overlapping([ax.title, *(panel._left_title for panel in (first, second))], renderer)
    assert min(text.get_fontsize() for text in [*first.get_legend().get_texts(), *first.get_xticklabels()]) >= 8


def test_value_curves_have_a_band_where_the_table_has_an_interval():
    table = value_table()
    plain, banded = (plots.value_curves(one) for one in (table, table.assign(low=-1.0, high=1.0)))
    (bands,) = {len(ax.collections) for ax in banded.figure.axes[1:]}
    assert bands >= 1 and not any(ax.collections for ax in plain.figure.axes)


def test_value_curves_fill_the_axes_that_they_are_given():
    _, (left, right) = plt.subplots(1, 2, figsize=(12, 6), layout="constrained")
    table = value_table().drop(columns=["null", "expected"])
    assert plots.value_curves(table, ax=right) is right
    panels = [one for one in right.figure.axes if one not in (left, right)]
    right.figure.draw_without_rendering()
    assert len(panels) == 2 and all(panel.bbox.x0 > left.bbox.x1 for panel in panels)
    assert legend(panels[0]) == ["afraid", "calm"]
    with pytest.raises(ValueError, match="no cell|divide"):
        plots.value_curves(table, ax=left.inset_axes([0, 0, 1, 1]))


def effect_table(layers=5, methods=("raw", "whitened")):
    rows = [
        (layer, name, 0.1 * number, 0.1 * number - 0.05, 0.1 * number + 0.05, -0.02 - 0.01 * number, 0.02)
        for layer in range(layers)
        for number, name in enumerate(methods)
    ]
    return pd.DataFrame(rows, columns=["layer", "method", "effect", "low", "high", "null_low", "null_high"])


def test_effect_by_layer_draws_curves_intervals_the_null_and_zero():
    ax = plots.effect_by_layer(effect_table(), "difference of cosines", "Affirmed less negated")
    assert legend(ax) == ["null band", "raw", "light band: 95 %", "whitened"] and len(ax.collections) == 3
    null = ax.collections[0].get_datalim(ax.transData)
    assert (null.y0, null.y1) == pytest.approx((-0.03, 0.02))  # the widest over the methods
    assert any(set(one.get_ydata()) == {0} and len(one.get_ydata()) == 2 for one in ax.lines)  # from edge to edge
    np.testing.assert_allclose(line(ax, "whitened").get_ydata(), 0.1)
    assert (ax.get_ylabel(), ax.get_title()) == ("difference of cosines", "Affirmed less negated")
    styles = {(line(ax, name).get_marker(), line(ax, name).get_linestyle()) for name in ("raw", "whitened")}
    assert len(styles) == 2


def test_effect_by_layer_rings_the_rows_that_a_column_marks():
    table = effect_table()
    ax = plots.effect_by_layer(table.assign(chosen=(table["layer"] == 3) & (table["method"] == "raw")), marked="chosen")
    ring = line(ax, "chosen")
    np.testing.assert_allclose(ring.get_xydata(), [[3, 0.0]])
    assert ring.get_markerfacecolor() == "none" and legend(ax)[-1] == "chosen"
    with pytest.raises(ValueError, match="missing: chosen"):
        plots.effect_by_layer(table, marked="chosen")


def test_effect_by_layer_needs_neither_methods_nor_a_null_and_takes_other_series_and_lines():
    plain = effect_table(methods=["raw"])[["layer", "effect", "low", "high"]]
    assert legend(plots.effect_by_layer(plain, "r")) == ["r", "light band: 95 %"]
    table = effect_table().rename(columns={"method": "place"})
    ax = plots.effect_by_layer(table, line=0.5, series="place")
    assert legend(ax) == ["null band", "no effect: 0.5", "raw", "light band: 95 %", "whitened"]
    assert set(line(ax, "no effect: 0.5").get_ydata()) == {0.5}


def test_the_effects_of_a_single_layer_stand_side_by_side():
    ax = plots.effect_by_layer(effect_table(layers=1))
    boxes = [one.get_datalim(ax.transData) for one in ax.collections]
    assert boxes[1].x1 < boxes[2].x0 and boxes[0].x0 < boxes[1].x0 < boxes[2].x1 < boxes[0].x1
    assert all(box.height > 0.04 and box.width > 0 for box in boxes)


def test_component_bars_have_intervals_and_nulls_and_no_sign():
    table = pd.DataFrame(
        {
            "component": [1, 1, 2, 2],
            "rating": ["valence", "arousal"] * 2,
            "r": [-0.8, 0.1, 0.2, -0.6],
            "low": [-0.9, -0.1, 0.1, -0.7],
            "high": [-0.6, 0.3, 0.3, -0.4],
            "null": [0.2, 0.21, 0.22, 0.23],
        }
    )
    ax = plots.component_bars(table)
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.8, 0.2, 0.1, 0.6])
    assert len({bar.get_hatch() for bar in ax.patches}) == 2
    assert sorted(text.get_text() for text in ax.texts) == ["0.10", "0.20", "0.60", "0.80"]
    segments = [segment for one in ax.collections for segment in one.get_segments()]
    upright = sorted((round(a[1], 6), round(b[1], 6)) for a, b in segments if a[0] == b[0])
    assert upright == [(-0.1, 0.3), (0.1, 0.3), (0.4, 0.7), (0.6, 0.9)]
    assert {round(a[1], 6) for a, b in segments if a[1] == b[1]} == {0.2, 0.21, 0.22, 0.23}
    assert set(legend(ax)) == {"valence", "arousal", "null, upper quantile"}
    assert not overlapping(ax.texts, drawn(ax)) and min(text.get_fontsize() for text in ax.texts) >= 8


@pytest.mark.parametrize("draw", [plots.value_curves, plots.effect_by_layer, plots.component_bars, plots.score_matrix])
def test_tables_without_their_columns_or_rows_are_named(draw):
    with pytest.raises(ValueError, match="missing: .*"):
        draw(pd.DataFrame({"speed": [1.0]}))
    with pytest.raises(ValueError, match="0 rows"):
        draw(pd.DataFrame())


@pytest.mark.parametrize(
    ("figure", "table"),
    [("effect_by_layer", effect_table()), ("value_curves", value_table())],
    ids=lambda one: str(one)[:6],
)
def test_studies_draw_through_the_namespace(figure, table):
    from emolens.results import StudyResult

    _, ax = plt.subplots()
    assert StudyResult("one", table, "It is.", "none", figure, {"title": "T"}).plot(ax) is ax and ax.get_title() == "T"


# --- CircuitsVis -----------------------------------------------------------------------------------


def test_circuitsvis_shows_several_emotions_and_no_token_ends_its_script():
    pytest.importorskip("circuitsvis")
    read = readout(torch.tensor([[0.1, -0.2], [0.3, 0.4]]), ["calm", "angry"], ("</script><img>", " so"))
    for view in (
        plots.circuitsvis_view(read, ["angry", "calm"]),
        plots.circuitsvis_attention(read.labels, torch.ones(3, 2, 2).tril().bfloat16()),
    ):
        for source in (view.local_src, view.cdn_src):
            assert "</script><img>" not in source and source.count("</script>") == 1
    assert '"labels": ["calm"]' in plots.circuitsvis_view(read, ["calm"]).cdn_src


def test_attention_must_fit_its_tokens(monkeypatch):
    with pytest.raises(ValueError, match=r"3 tokens need patterns \[head 3 3\], got \[2, 2\]"):
        plots.circuitsvis_attention(["a", "b", "c"], np.ones((2, 2)))
    shown = lambda attention, tokens: SimpleNamespace(local_src="here", given=(attention.shape, tokens))  # noqa: E731
    fake = SimpleNamespace(attention_heads=shown)
    monkeypatch.setitem(sys.modules, "circuitsvis", SimpleNamespace(attention=fake))
    monkeypatch.setitem(sys.modules, "circuitsvis.attention", fake)
    assert plots.circuitsvis_attention(["a", "<b"], np.ones((4, 2, 2))).given == ((4, 2, 2), ["a", "<\u2060b"])
    monkeypatch.setitem(sys.modules, "circuitsvis.attention", None)
    with pytest.raises(ImportError, match=r"emolens\[notebooks\]"):
        plots.circuitsvis_attention(["a"], np.ones((4, 1, 1)))


# --- training --------------------------------------------------------------------------------------


def shift_table():
    rows = [
        {"of": of, "child": child, "group": group, "emotion": f"e{number}", "shift": sign * (10 - number) / 100}
        for of in ("emotion", "axis")
        for child, sign in (("first", 1), ("second", -1))
        for group in ("challenging", "neutral", "challenging - neutral")
        for number in range(21)
    ]
    table = pd.DataFrame(rows)
    table["low"], table["high"] = table["shift"] - 0.01, table["shift"] + 0.01
    return table.assign(null_low=-0.03, null_high=0.03, counts=table["shift"].abs() > 0.03)


def test_shift_dots_show_both_ends_of_the_first_child_with_null_and_what_counts():
    ax = plots.shift_dots(shift_table(), k=4)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["e0", "e1", "e2", "e3", "e17", "e18", "e19", "e20"] and ax.yaxis_inverted()
    assert legend(ax) == ["one more control fine-tune, 95 %", "challenging", "neutral"]
    dots = [one for one in ax.collections if hasattr(one, "get_offsets") and len(one.get_offsets()) == 8]
    shifts = np.array([0.10, 0.09, 0.08, 0.07, -0.07, -0.08, -0.09, -0.10])
    np.testing.assert_allclose(dots[0].get_offsets()[:, 0], shifts)
    inside = plots.shift_dots(shift_table().assign(counts=False), k=4)
    hollow = [one for one in inside.collections if len(one.get_offsets()) == 8]
    assert (hollow[0].get_facecolor() == 1).all() and not (dots[0].get_facecolor() == 1).all()
    assert len(plots.shift_dots(shift_table(), k=12).get_yticklabels()) == 21  # all, where there are few
    kept = plots.shift_dots(shift_table().iloc[::-1], k=4, sort=False)
    assert [text.get_text() for text in kept.get_yticklabels()] == [f"e{number}" for number in range(20, -1, -1)]
    with pytest.raises(ValueError, match="missing: low, high"):
        plots.shift_dots(pd.DataFrame({"emotion": ["a"], "shift": [0.1]}))


def test_effect_dots_show_two_contrasts_with_the_widest_null_and_what_beats_it():
    rows = [
        {"contrast": contrast, "direction": name, "layer": 3, "effect": effect, "low": effect, "high": effect,
         "a_low": -0.02, "a_high": 0.03, "b_low": -0.04, "b_high": 0.01, "p_a": 0.01, "p_b": 0.2,
         "verdict": str(Verdict.BEYOND if effect > 0.1 else Verdict.INSIDE)}
        for contrast in ("one", "two", "three")
        for name, effect in (("calm", 0.2), ("angry", -0.03))
    ]  # fmt: skip
    ax = plots.effect_dots(pd.DataFrame(rows), nulls=["a", "b"])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["calm", "angry"]
    assert legend(ax) == ["95 % of single nulls", "one", "two"]
    segments = [one.get_segments()[0][:, 0].tolist() for one in ax.collections if hasattr(one, "get_segments")]
    assert [-0.04, 0.03] in segments
    third = plots.effect_dots(pd.DataFrame(rows).drop(columns=["p_a", "p_b"]), ["three"])
    assert legend(third) == ["effect, 95 % interval"]  # one contrast, which the panel's title or the caption names
    filled = [dots for dots in ax.collections if hasattr(dots, "get_sizes") and dots.get_facecolors().size]
    assert [(dots.get_facecolors()[:, :3] < 1).any(axis=1).tolist() for dots in filled][-1] == [True, False]
    with pytest.raises(ValueError, match="missing: c_low, c_high"):
        plots.effect_dots(pd.DataFrame(rows), nulls=["c"])


def test_effect_dots_in_panels_keep_each_effect_beside_its_own_name():
    rows = [("one", "calm", 0.3), ("one", "sad", 0.1), ("two", "sad", 0.2), ("two", "calm", -0.2)]
    frame = pd.DataFrame(rows, columns=["contrast", "direction", "effect"]).assign(verdict=Verdict.INSIDE)
    frame = frame.assign(low=frame["effect"], high=frame["effect"], null_low=-0.4, null_high=0.4)
    first = plots.panels(frame, "contrast", plots.effect_dots, null="the furthest of 2", xlabel="score")
    assert [text.get_text() for text in first.get_yticklabels()] == ["calm", "sad"]
    second = first.figure.axes[1]
    dots = [one for one in second.collections if hasattr(one, "get_offsets") and len(one.get_offsets()) == 2]
    assert sorted(dots[-1].get_offsets().tolist()) == [[-0.2, 0.0], [0.2, 1.0]]
    assert first.figure.legends[0].get_texts()[0].get_text() == "the furthest of 2"
    assert first.get_xlabel() == second.get_xlabel() == "score"


def test_null_draws_say_whether_the_observation_lies_among_them():
    draws = pd.DataFrame({"value": np.linspace(-1, 1, 201), "observed": 0.2})
    ax = plots.null_draws(draws, xlabel="r")
    assert ax.get_title().startswith("Observed +0.20, inside 95 %") and ax.get_xlabel() == "r"
    assert legend(ax) == ["95 % of the draws", "draws of the null", "observed"]
    assert plots.null_draws(draws.assign(observed=-0.99)).get_title().startswith("Observed -0.99, outside")
    assert plots.null_draws(draws, title="Chance").get_title() == "Chance"
    with pytest.raises(ValueError, match="missing: observed"):
        plots.null_draws(draws[["value"]])


def test_a_null_that_was_run_at_some_strengths_is_a_bar_at_each_and_nothing_in_between():
    frame = pd.DataFrame({"direction": "calm", "strength": [-0.1, -0.05, 0.05, 0.1], "effect": [-0.2, -0.1, 0.1, 0.2]})
    frame["low"], frame["high"] = frame["effect"] - 0.01, frame["effect"] + 0.01
    frame["random_low"], frame["random_high"] = [-0.03, np.nan, np.nan, -0.03], [0.04, np.nan, np.nan, 0.04]
    ax = plots.dose_response(frame, nulls=["random"])
    left, right = (bar.vertices for bar in ax.collections[0].get_paths())
    for bar, strength in ((left, -0.1), (right, 0.1)):
        assert bar.min(axis=0).tolist() == pytest.approx([strength - 0.006, -0.03])
        assert bar.max(axis=0).tolist() == pytest.approx([strength + 0.006, 0.04])
    hollow = line(ax, "a strength without a null")
    assert list(hollow.get_xdata()) == [-0.05, 0.05] and hollow.get_markerfacecolor() == "white"


def test_a_null_that_was_run_at_all_strengths_is_a_wedge():
    frame = pd.DataFrame({"direction": "calm", "strength": [-0.1, 0.1], "effect": [-0.2, 0.2]})
    frame = frame.assign(low=-0.3, high=0.3, random_low=-0.03, random_high=0.04)
    ax = plots.dose_response(frame, nulls=["random"])
    (wedge,) = ax.collections[0].get_paths()
    assert {tuple(point) for point in wedge.vertices.tolist()} >= {(-0.1, -0.03), (0.1, 0.04), (0.0, 0.0)}
    assert "a strength without a null" not in legend(ax)


def test_training_curves_keep_losses_and_watched_emotions_apart():
    losses = pd.DataFrame({"tokens": [0, 10, 20], "series": "held out", "loss": [3.0, 2.5, 2.0]})
    steps = pd.DataFrame({"tokens": [10, 20], "series": "trained on", "loss": [2.9, 2.1]})
    watched = [
        {"tokens": tokens, "series": "calm", "score": start + tokens / 100, "child": child}
        for child, start in (("one", 0.5), ("two", -0.5))
        for tokens in (0, 10, 20)
    ]
    frame = pd.concat([steps, losses, pd.DataFrame(watched)])
    ax = plots.loss_curve(frame.drop(columns="child"))
    assert legend(ax) == ["trained on", "held out"] and list(line(ax, "held out").get_ydata()) == [3.0, 2.5, 2.0]
    assert line(ax, "trained on").get_linestyle() == "None"
    ax = plots.watched_curves(pd.DataFrame(watched))
    assert legend(ax) == ["calm, one", "calm, two"]
    for child, dash in (("one", "-"), ("two", "--")):
        curve = line(ax, f"calm, {child}")
        assert list(curve.get_ydata()) == pytest.approx([0, 0.1, 0.2]) and curve.get_linestyle() == dash


# --- panels ----------------------------------------------------------------------------------------


def test_panels_draw_each_part_with_its_own_band_and_name_each_axis_once():
    frame = pd.DataFrame({"emotion": ["a", "b", "c", "d"], "layer": [1, 1, 1, 1], "effect": [0.1, 0.2, 0.3, 0.4]})
    frame = frame.assign(low=frame["effect"] - 0.1, high=frame["effect"] + 0.1, null_low=-0.1, null_high=0.1)
    first = plots.panels(frame, "emotion", plots.effect_by_layer, title="All rise", ylabel="change")
    drawn = first.figure.axes
    assert [ax.get_title() for ax in drawn] == ["a", "b", "c", "d"] and first.figure.get_suptitle() == "All rise"
    assert [ax.get_ylabel() for ax in drawn] == ["change", "", "", "change"]
    assert [bool(ax.get_xlabel()) for ax in drawn] == [False, True, True, True]
    assert all(ax.get_legend() is None for ax in drawn) and len(first.figure.legends) == 1
    assert "unnamed" not in plots.described(first) and "All rise" in plots.described(first)
    with pytest.raises(ValueError, match="missing: place"):
        plots.panels(frame, "place", plots.effect_by_layer)


# --- states and monitors ---------------------------------------------------------------------------


def test_a_decay_sets_its_cause_apart_and_says_when_half_is_gone():
    frame = pd.DataFrame({"value": [-1, 0, 4, 8], "score": [0.4, 0.3, 0.1, 0.0]})
    frame = frame.assign(low=frame["score"] - 0.1, high=frame["score"] + 0.1)
    assert plots.decay_curve(frame).get_title() == "Half of the rise is gone 4 tokens after the story"
    assert "is not gone" in plots.decay_curve(frame.assign(score=0.4)).get_title()


def test_models_stand_beside_published_figures_and_ranges():
    row = {"question": "r", "value": 0.2, "low": 0.1, "high": 0.3, "limit": 0.9, "limit_is": "ceiling"}
    row |= {"paper_low": 0.15, "paper_high": 0.25, "replication_low": np.nan, "replication_high": np.nan}
    rows = [row | {"model": "one"}, row | {"model": "two", "value": 0.6, "low": 0.5, "high": 0.7}]
    ax = plots.beside_published(pd.DataFrame(rows))
    assert ax.get_title() == "1 of 2 intervals contains the paper's value"
    assert legend(ax) == ["ceiling", "paper", "one", "two"]
    rows += [row | {"question": "s", "model": "one", "low": -0.1}]
    for at in (0.0, 0.25):
        ax = plots.beside_published(pd.DataFrame(rows), line=at)
        assert list(ax.lines[-1].get_xdata()) == [at, at]


def test_alarm_rates_outside_the_promise_are_hollow():
    row = {"texts": 100, "promised_low": 0.01, "promised_high": 0.09, "rate": 0.05}
    rows = [row | {"monitor": "angry", "alarms": 0.05}, row | {"monitor": "sad", "alarms": 0.12}]
    ax = plots.alarm_rates(pd.DataFrame(rows))
    assert ax.get_title() == "1 of 2 lie within what was promised"
    filled = ax.collections[-2].get_facecolors()
    assert not np.allclose(filled[0], 1) and np.allclose(filled[1], 1)


def test_areas_and_roc_curves_name_what_is_compared_best_first():
    row = {"emotion": "all four", "cut": "before the onset", "low": 0.5, "high": 0.9}
    areas = {"vectors, chosen": 0.8, "denoised": 0.9, "VADER": 0.6}
    frame = pd.DataFrame([row | {"detector": name, "area": area} for name, area in areas.items()])
    said = "Mean area before the onset: vectors, chosen 0.80; VADER 0.60"
    assert plots.monitor_areas(frame).figure.get_suptitle() == said
    rest = plots.monitor_areas(frame[frame["detector"] == "denoised"])
    assert rest.figure.get_suptitle() == "Mean area before the onset: denoised 0.90"
    curves = {"VADER": [0.1, 0.3], "vectors, chosen": [0.5, 0.9]}
    rows = [{"detector": name, "cut": "whole", "false": [0.1, 0.2], "found": found} for name, found in curves.items()]
    said = plots.roc_curves(pd.concat(map(pd.DataFrame, rows))).figure.get_suptitle()
    assert said.startswith("Whole, found with one steady twin in ten") and said.endswith(
        "vectors, chosen 50%; VADER 10%"
    )


def test_what_is_found_in_time_has_four_marks_and_the_mean_in_the_title():
    row = {"caught": 0.8, "before_act": 0.6, "before_onset": 0.4, "false": 0.1}
    frame = pd.DataFrame([row | {"emotion": "angry"}, row | {"emotion": "all four", "caught": 0.7}])
    ax = plots.found_in_time(frame)
    assert ax.get_title().startswith("Found 70%") and len(legend(ax)) == 4
    marks = [place for one in ax.collections for place in one.get_offsets().tolist()]
    assert len({y for _, y in marks}) == len(marks)  # none hides another


def test_curves_of_one_emotion_need_no_legend_and_titles_name_the_first_alarm():
    rows = {"token": [0, 5], "difference": [0.0, 1.0], "low": [-1.0, 0.2], "high": [1.0, 2.0]}
    assert plots.monitor_curves(pd.DataFrame(rows).assign(emotion="angry")).get_legend() is None
    heights = pd.DataFrame({"series": ["a", "a", "b", "b"], "token": [0, 1, 0, 1], "height": [0.0, 4.0, 0.0, 1.0]})
    assert plots.alarm_curves(heights, 3.0).get_title() == "First alarm: a, at token 1; b, none"
