"""Figures by what they draw (lines, bands, labels, sizes), heat maps by how a browser would parse them."""

from __future__ import annotations

import importlib
import re
import sys
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from looking import HOSTILE, Page, legend, line, overlapping, readout
from matplotlib import pyplot as plt

from emolens import plots

module = importlib.import_module("emolens.plots.heatmap")  # the name in the room is the function


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


# --- heat maps -------------------------------------------------------------------------------------


def test_hostile_text_stays_text(tmp_path):
    read = readout(torch.randn(5, 5), HOSTILE, tuple(HOSTILE))
    path = plots.heatmap(read, title=HOSTILE[1]).save(tmp_path / "new" / "map.html")
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    safe = {"html", "head", "meta", "title", "body", "div", "style", "h4", "p", "b", "span", "small"}
    assert {tag for tag, _ in page.elements} <= safe
    names = {name for _, attributes in page.elements for name in attributes}
    assert names <= {"lang", "charset", "http-equiv", "content", "name", "class", "title"}
    assert "@import" not in source and "url(" not in source
    assert page.tokens[0][0] == HOSTILE[0] and page.tokens[1][0] == HOSTILE[1]
    assert page.tokens[1][1]["title"].startswith(HOSTILE[1])
    for name in HOSTILE[:4]:
        assert page.texts.count(name) >= 6  # a token in every block and the name of one
    csp = next(attributes for _, attributes in page.elements if "http-equiv" in attributes)
    assert "default-src 'none'" in csp["content"]


def test_two_thousand_tokens_times_six_emotions_stay_below_a_megabyte(tmp_path):
    rng = np.random.default_rng(0)
    tokens = [" <" + "abcdefghij"[: rng.integers(1, 9)] for _ in range(2000)]
    names = ["afraid", "angry", "calm", "desperate", "self-conscious", "worn out"]
    path = plots.heatmap((tokens, rng.normal(size=(2000, 6))), names).save(tmp_path / "map.html")
    assert path.stat().st_size < 1_000_000


def test_full_colour_is_the_99th_percentile_over_all_emotions_read():
    scores = torch.zeros(100, 10)
    scores[:, 9] = torch.linspace(-0.4, 0.4, 100)  # not shown, still counted
    scores[:3, 0] = torch.tensor([0.2, -0.02, 9.0])
    scale = np.percentile(np.abs(scores.numpy()), 99)
    drawn = plots.heatmap(readout(scores, [f"e{i}" for i in range(10)]), "e0")
    assert f"1 = {scale:.3g}" in drawn.markup
    expected = [f"u{round(0.2 / scale * 10)}", "d1", "u10", "z"]  # 9.0 is beyond the scale: full colour
    assert Page(drawn.markup).classes()[:4] == expected
    fixed = plots.heatmap(readout(scores, [f"e{i}" for i in range(10)]), "e0", scale=0.4)
    assert Page(fixed.markup).classes()[:3] == ["u5", "z", "u10"]


def test_hovering_shows_token_and_score_and_the_block_its_emotion():
    page = Page(plots.heatmap((["No", "!"], [[0.5, -0.25], [0.1, 0.0]]), ["angry", "on edge"])._repr_html_())
    assert [attributes["title"] for _, attributes in page.tokens[:4]] == [
        "No +0.500",
        "! +0.100",
        "No -0.250",
        "! +0.000",
    ]
    assert page.texts.count("angry") == page.texts.count("on edge") == 1


def test_scores_that_are_missing_infinite_or_all_zero():
    page = Page(plots.heatmap((["a", "b", "c"], [np.nan, np.inf, 0.3])).markup)
    assert page.classes()[:3] == ["na", "na", "u10"]
    for scores in (np.zeros(3), np.full(3, np.nan)):
        drawn = plots.heatmap((["a", "b", "c"], scores))
        assert "1 = 1 (" in drawn.markup and set(Page(drawn.markup).classes()[:3]) <= {"z", "na"}
    sparse = np.zeros(1000)
    sparse[0] = 0.5  # the percentile is 0, the maximum is not
    assert Page(plots.heatmap((["a"] * 1000, sparse)).markup).classes()[:2] == ["u10", "z"]


def test_turns_begin_a_line_with_their_role_and_smoothing_is_over_neighbours():
    tokens, scores = ["<s>", "Hi", " you", "<e>", "No"], np.array([9.0, 0.0, 0.3, 9.0, 0.6])
    drawn = plots.heatmap((tokens, scores), "calm", turns=[("user", 1, 3), ("assistant", 4, 5)])
    page = Page(drawn.markup)
    assert [text for text, _ in page.tokens[:3]] == ["Hi", " you", "No"]  # not what stands between the turns
    assert page.classes()[:3] == ["z", "u5", "u10"] and "user" in page.texts and "<br><i>assistant</i>" in drawn.markup
    smoothed = Page(plots.heatmap((["a", "b", "c"], [0.0, 0.3, 0.0]), "calm", scale=0.3, smooth=3).markup)
    assert [attributes["title"] for _, attributes in smoothed.tokens[:3]] == ["a +0.150", "b +0.100", "c +0.150"]
    for wrong, message in (({"smooth": 0}, "smooth=0"), ({"turns": [("user", 0, 9)]}, "not within 1 tokens")):
        with pytest.raises(ValueError, match=message):
            plots.heatmap((["a"], [0.1]), "calm", **wrong)


def test_white_space_is_visible_and_kept():
    tokens = ["Hi", " you", "\n\n", "  ", "\t", "", "\x00"]
    page = Page(plots.heatmap((tokens, np.ones(7))).markup)
    assert [text for text, _ in page.tokens[:7]] == ["Hi", " you", "↵\n↵\n", "··", "⇥\t", "∅", "␀"]


def test_bfloat16_scores_and_the_emotions_shown_by_default():
    scores = torch.arange(8).float().repeat(2, 1)
    scores[0, 3] = torch.nan
    page = Page(plots.heatmap(readout(scores.bfloat16(), "abcdefgh")).markup)
    assert [text for text in page.texts if text in "abcdefgh"] == list("hgfecb")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((["a", "b"], [0.1]),), "2 tokens and 1 emotions"),
        (((["a"], [[0.1, 0.2]]), ["calm"]), "1 tokens and 1 emotions"),
        (((["a"], [[0.1, 0.2]]),), "1 tokens"),
        ((([], []),), "0 tokens"),
        (((["a"], [0.1]), "calm", None, 0.0), "scale is 0.0"),
        (((["a"], [0.1]), "calm", None, float("nan")), "scale is nan"),
        ((readout([[0.1]], ["calm"]), "clam"), "'clam'"),
        ((readout([[0.1]], ["calm"]), []), "cannot be shown"),
        ((readout([[0.1], [0.2]], ["calm"], text_index=(0, 1)),), "holds 2"),
    ],
)
def test_heatmap_says_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.heatmap(*arguments)


def test_text_stays_readable_on_light_and_dark_pages_at_every_level():
    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    layers = re.findall(r"\.[ud]\d+{background:rgba\((\d+),(\d+),(\d+),([\d.]+)\)", module._css())
    assert len(layers) == 2 * module.LEVELS
    for *colour, opacity in layers:
        for page, ink in ((1.0, 0.0), (0.067, 1.0)):  # JupyterLab: black on white, white on #111
            alpha = float(opacity)
            seen = luminance([alpha * int(c) / 255 + (1 - alpha) * page for c in colour])
            light, dark = sorted((seen, luminance([ink] * 3)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


def test_below_zero_is_underlined_so_that_grey_print_tells_the_sign():
    css = module._css()
    assert css.count("text-decoration:underline") == module.LEVELS
    assert not re.search(r"\.u\d+{[^}]*underline", css)


def test_heatmap_repr_is_short():
    assert len(repr(plots.heatmap((["a"] * 500, np.ones(500)), title="T"))) < 80


def test_circuitsvis_is_optional(monkeypatch):
    read = readout(torch.tensor([[0.1, 0.2], [0.3, 0.4]]), ["calm", "angry"])
    monkeypatch.setitem(sys.modules, "circuitsvis.tokens", None)
    with pytest.raises(ImportError, match=r"emolens\[notebooks\]"):
        plots.circuitsvis_view(read)
    shown = lambda *given, labels: SimpleNamespace(local_src="here", given=(*given, labels))  # noqa: E731
    fake = SimpleNamespace(colored_tokens_multi=shown)
    monkeypatch.setitem(sys.modules, "circuitsvis", SimpleNamespace(tokens=fake))
    monkeypatch.setitem(sys.modules, "circuitsvis.tokens", fake)
    tokens, values, labels = plots.circuitsvis_view(read, ["angry"]).given
    assert (tokens, labels) == ([" w0", " w1"], ["angry"])
    torch.testing.assert_close(values, torch.tensor([[0.2], [0.4]]))


# --- figures ---------------------------------------------------------------------------------------


def sweep_table(layers=6, methods=("raw", "denoised", "whitened")):
    rows = []
    for layer in range(layers):
        for number, method in enumerate(methods):
            row = {"layer": layer, "method": method}
            for measure, share in (("first", 0.2 + 0.1 * number), ("first_five", 0.4 + 0.1 * number)):
                row |= {measure: share, f"{measure}_low": share - 0.05, f"{measure}_high": share + 0.05}
                row[f"{measure}_null"] = 0.02
            rows.append(row)
    return pd.DataFrame(rows)


def reliability_table():
    return pd.DataFrame({"layer": range(5), "cosine": 0.6, "low": 0.4, "high": 0.8, "null_low": -0.1, "null_high": 0.1})


def test_layer_sweep_has_a_panel_for_each_measure_with_bands_nulls_chance_and_the_chosen_layers():
    chosen = {"raw": 1, "denoised": 2, "whitened": 4}
    first = plots.layer_sweep(sweep_table(), chance=1 / 171, chosen=chosen)
    panels = first.figure.axes
    assert [ax.get_title() for ax in panels] == ["right emotion first", "right emotion among the first five"]
    assert first.figure.get_suptitle() == "Whitened vectors of block 4: right emotion first for 40% of the texts"
    for ax, times, share in zip(panels, (1, 5), (0.4, 0.6), strict=True):
        assert set(line(ax, "chance").get_ydata()) == {times / 171}
        np.testing.assert_allclose(line(ax, "whitened").get_ydata(), share)
        assert len(ax.collections) == 3 + 1  # a band for each curve, and the null
        assert sorted(line(ax, "chosen on the stories").get_xdata()) == [1, 2, 4]
        assert [text.get_text() for text in ax.texts] == [
            f"chance {times / 171:.1%}\nnulls of block 4 up to {max(times / 171, 0.02):.1%}"
        ]
        curves = [line(ax, name) for name in ("raw", "denoised", "whitened")]
        assert len({(curve.get_marker(), curve.get_linestyle()) for curve in curves}) == 3  # told apart without colour
    (legend,) = first.figure.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said == ["permuted labels, 97.5 %", "chance", "raw", "denoised", "whitened", "chosen on the stories"]


def test_layer_sweep_marks_one_layer_with_a_line_and_shuffled_vectors_with_crosses():
    table = sweep_table().assign(first_shuffled_highest=lambda frame: np.where(frame["layer"] == 4, 0.03, np.nan))
    first, second = plots.layer_sweep(table, chance=1 / 171, chosen=4).figure.axes
    assert set(line(first, "chosen layer: 4").get_xdata()) == set(line(second, "chosen layer: 4").get_xdata()) == {4}
    assert np.nanmax(line(first, "shuffled vectors, highest").get_ydata()) == 0.03
    assert first.texts[0].get_text() == "chance 0.6%\nnulls of block 4 up to 3.0%"
    assert not [one for one in second.lines if one.get_label() == "shuffled vectors, highest"]


def test_layer_sweep_needs_no_intervals_and_draws_where_it_is_told():
    _, ax = plt.subplots()
    assert plots.layer_sweep(sweep_table()[["layer", "method", "first"]], 0.1, measures=["first"], ax=ax) is ax
    assert not ax.collections and len(plt.get_fignums()) == 1
    assert ax.get_title() == "Right emotion found, by layer" and ax.texts[0].get_text() == "chance 10.0%"


def test_reliability_has_a_panel_with_its_own_null_band_for_each_method():
    ax = plots.reliability(reliability_table())
    assert "different emotions, 95 %" in legend(ax) and len(ax.collections) == 2
    both = pd.concat([reliability_table().assign(method=method) for method in ("raw", "denoised")])
    both.loc[both["method"] == "raw", "null_high"] = 0.7
    panels = plots.reliability(both).figure.axes
    assert [one.get_title() for one in panels] == ["raw", "denoised"]
    tops = [one.collections[0].get_datalim(one.transData).y1 for one in panels]
    assert tops == pytest.approx([0.7, 0.1])
    assert panels[0].figure.get_suptitle().endswith("at 5 of 10 blocks and readouts")
    one = both.assign(null_high=np.where((both["method"] == "raw") & (both["layer"] == 2), 0.7, 0.1))
    assert plots.reliability(one).figure.get_suptitle().endswith("everywhere but for raw vectors at block 2")
    _, ax = plt.subplots()
    assert plots.reliability(both, ax=ax) is ax and legend(ax) == [
        "different emotions, 95 %",
        "raw",
        "light band: 95 %",
        "denoised",
    ]


def test_slopes_have_their_line_and_the_wedge_of_their_null():
    names = [f"e{i}" for i in range(9)]
    table = pd.DataFrame({"emotion": names, "valence": np.arange(9.0), "effect": np.arange(9.0) / 10})
    table = table.assign(contrast="kind over cruel", control="own", marked=table["valence"] > 7, null_r=0.4)
    ax = plots.slope_scatter(table, "kind over cruel", "own")
    assert ax.get_title() == "Kind over cruel, own context alone: r = +1.00"
    assert legend(ax) == ["tried one by one", "95 % of the null: r from -0.40 to +0.40", "r = +1.00"]
    ax = plots.slope_scatter(table, "kind over cruel", "own", labels=0, rings="steered", title="All rise")
    assert legend(ax)[0] == "steered" and ax.get_title() == "All rise"
    ax = plots.slope_scatter(table, "kind over cruel", "own", ax=plt.subplots()[1])
    assert legend(ax)[1:] == ["95 % of the null", "least squares"]
    ax = plots.slope_scatter(table, "kind over cruel", "own", labels=0)
    assert [text.get_text() for text in ax.texts] == ["e8"]  # marked, and named whatever its slope
    paper = table.assign(emotion=["afraid", "angry", "calm", "desperate", "happy", "loving", "e6", "e7", "e8"])
    ax = plots.slope_scatter(paper.assign(marked=paper["valence"] < 6), "kind over cruel", "own")
    assert legend(ax)[0] == "the six of the paper"
    shifted = table.assign(r=-table["valence"], marked=False, null_low=0.1, null_high=0.5).drop(columns="null_r")
    ax = plots.slope_scatter(shifted, "kind over cruel", "own", x="r", xlabel="correlation")
    assert legend(ax) == ["95 % of the null: r from +0.10 to +0.50", "r = -1.00"] and ax.get_xlabel() == "correlation"
    box = ax.collections[0].get_datalim(ax.transData)
    assert box.height == pytest.approx(0.5 * 0.8)  # at either end half of the line's slope
    with pytest.raises(ValueError, match="missing: null_low, null_high"):
        plots.slope_scatter(table.drop(columns="null_r"), "kind over cruel", "own")
    with pytest.raises(ValueError, match="0 rows"):
        plots.slope_scatter(table, "kind over cruel", "twin")


def test_steered_emotions_are_held_against_the_furthest_of_the_wider_null():
    nulls = {"random": np.linspace(-1, 1, 39), "shuffled labels": np.linspace(-2, 4, 39)}
    rows = [("calm", "emotion", 9.0, "beyond the null"), ("sad", "emotion", -1.0, "inside the null")]
    rows += [(f"{kind} {i}", kind, value, None) for kind, drawn in nulls.items() for i, value in enumerate(drawn)]
    table = pd.DataFrame(rows, columns=["direction", "kind", "effect", "verdict"])
    table = table.assign(low=table["effect"] - 0.5, high=table["effect"] + 0.5)
    ax = plots.steering_dots(table)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["calm", "sad"]
    assert ax.get_title() == "1 of 2 steered emotions are beyond the null directions"
    assert "unnamed" not in plots.described(ax)
    ends = ax.collections[0].get_segments()
    spread = nulls["shuffled labels"].std(ddof=1)
    assert all(low < 1 - 2.2 * spread and high > 1 + 2.2 * spread for (low, _), (high, _) in ends)  # more than of one
    assert "null directions, furthest of 2, 95 %" in legend(ax)
    with pytest.raises(ValueError, match="0 rows"):
        plots.steering_dots(table[table["kind"] == "random"])


def test_detection_bars_have_intervals_hatches_and_the_chance_line():
    table = sweep_table(layers=2).assign(register=lambda frame: np.where(frame["layer"] == 0, "narrative", "message"))
    ax = plots.detection_bars(table, chance=0.1)
    assert len(ax.patches) == 6 and len({bar.get_hatch() for bar in ax.patches}) == 3
    assert set(line(ax, "chance: 10.0%").get_ydata()) == {0.1}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["narrative", "message"]
    assert sorted(text.get_text() for text in ax.texts) == ["20%", "20%", "30%", "30%", "40%", "40%"]
    caps = [segment for collection in ax.collections for segment in collection.get_segments()]
    np.testing.assert_allclose(sorted(high - low for (_, low), (_, high) in caps), 0.1)
    ax.figure.draw_without_rendering()
    assert not overlapping(ax.texts, ax.figure.canvas.get_renderer())


def test_agreement_names_the_emotion_that_agrees_least():
    table = pd.DataFrame(
        {"emotion": ["calm", "sad", "calm", "sad"], "cosine": [0.99, 0.9, 1, 0.8], "layer": [1, 1, 2, 2]}
    )
    ax = plots.agreement(table)
    assert legend(ax) == ["layer 1: lowest 0.900 (sad)", "layer 2: lowest 0.800 (sad)"]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0.9, 0.5], [0.99, 1]])
    assert legend(plots.agreement(table.drop(columns="layer").head(2))) == ["lowest 0.900 (sad)"]


@pytest.mark.parametrize("count", [2, 12, 45, 171])
def test_similarity_matrix_writes_as_many_names_as_fit(count):
    rows = np.random.default_rng(0).normal(size=(count, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ax = plots.similarity_matrix(rows @ rows.T, [f"self-conscious{i}" for i in range(count)])
    ax.figure.draw_without_rendering()
    renderer = ax.figure.canvas.get_renderer()
    assert not overlapping(ax.get_xticklabels(), renderer) and not overlapping(ax.get_yticklabels(), renderer)
    assert all(text.get_fontsize() >= 8 for text in [*ax.get_xticklabels(), *ax.get_yticklabels()])
    assert len(ax.get_yticks()) >= min(count, 45)
    low, high = ax.images[0].get_clim()
    assert low == -high  # zero in the middle of the scale


def test_similarity_matrix_puts_alike_emotions_together():
    sign = np.array([1, -1, 1, -1, 1, -1.0])
    names = ["up0", "down0", "up1", "down1", "up2", "down2"]
    ax = plots.similarity_matrix(0.8 * np.outer(sign, sign) + 0.2 * np.eye(6), names)
    order = [tick.get_text()[:-1] for tick in ax.get_yticklabels()]
    assert order in (["up"] * 3 + ["down"] * 3, ["down"] * 3 + ["up"] * 3)
    assert len(ax.child_axes) == 1 and len(ax.child_axes[0].lines) == 5  # the tree: each line joins two
    framed = plots.similarity_matrix(0.8 * np.outer(sign, sign) + 0.2 * np.eye(6), names, groups=2, title="Two")
    assert sorted(patch.get_width() for patch in framed.patches) == [3, 3] and framed.get_title() == "Two"
    assert [tick.get_text()[-3:] for tick in framed.get_xticklabels()] == ["(3)", "(3)"]
    alike = plots.similarity_matrix(np.full((3, 3), 0.9), names[:3], clustered=False, lowest=0.8, unit="correlation")
    assert alike.images[0].get_clim() == (0.8, 0.9) and alike.figure.axes[1].get_ylabel() == "correlation"
    assert not alike.child_axes
    for options in ({"groups": 7}, {"groups": 2, "clustered": False}):
        with pytest.raises(ValueError, match="groups="):
            plots.similarity_matrix(np.eye(6), names, **options)
    plain = plots.similarity_matrix(np.eye(6), names, clustered=False)
    assert [tick.get_text() for tick in plain.get_xticklabels()] == names
    with pytest.raises(ValueError, match="6 names"):
        plots.similarity_matrix(np.eye(5), names)
    with pytest.raises(ValueError, match="not finite"):
        plots.similarity_matrix(np.full((2, 2), np.nan), names[:2])


@pytest.mark.parametrize(
    "draw",
    [
        lambda frame: plots.layer_sweep(frame, 0.1),
        lambda frame: plots.detection_bars(frame, 0.1),
        plots.reliability,
        plots.agreement,
    ],
)
def test_a_table_without_its_columns_or_rows_is_named(draw):
    with pytest.raises(ValueError, match="missing: .*"):
        draw(pd.DataFrame({"speed": [1.0]}))
    with pytest.raises(ValueError, match="0 rows"):
        draw(sweep_table().head(0))


def test_figures_have_labels_and_no_small_print():
    table = sweep_table().assign(register="narrative", emotion="calm", cosine=0.9)
    for ax in (
        plots.layer_sweep(table, 0.1),
        plots.reliability(reliability_table()),
        plots.detection_bars(table.head(3), 0.1),
        plots.agreement(table.head(3)),
    ):
        assert ax.get_ylabel() and ax.get_title()
        (key,) = [one for one in (ax.get_legend(), *ax.figure.legends) if one]
        texts = [*ax.get_xticklabels(), *ax.get_yticklabels(), *ax.texts, *key.get_texts(), ax.xaxis.label]
        assert min(text.get_fontsize() for text in texts) >= 8


def test_save_writes_the_same_bytes_and_no_date(tmp_path):
    paths = [plots.save(plots.layer_sweep(sweep_table(), 0.1), tmp_path / f"new{i}" / "sweep.png") for i in range(2)]
    first, second = (path.read_bytes() for path in paths)
    assert first == second and first.startswith(b"\x89PNG")
    assert not any(chunk in first for chunk in (b"tEXt", b"tIME", b"Matplotlib"))
    figure = plots.reliability(reliability_table()).figure
    assert plots.save(figure, tmp_path / "figure.png").exists()
    with pytest.raises(ValueError, match=r"\.png"):
        plots.save(figure, tmp_path / "figure.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.png", "new0", "new1"]


def test_the_gallery_shows_each_figure_with_what_it_says(tmp_path):
    plots.save(plots.layer_sweep(sweep_table(), 0.1), tmp_path / "b_sweep.png", "Found – often.", "A flat line.")
    plots.save(plots.agreement(sweep_table().assign(emotion="calm", cosine=0.9)), tmp_path / "a.png", "They agree.")
    page = plots.gallery(tmp_path).read_text(encoding="utf-8")
    assert page.index("![a](a.png)") < page.index("They agree.") < page.index("![b sweep](b_sweep.png)")
    assert page.index("Found – often.") < page.index("*What would have falsified it:* A flat line.")


def test_token_scores_draw_a_row_for_each_emotion_and_refuse_long_texts():
    def tokens(n):
        scores = torch.linspace(-0.2, 0.1, 3 * n).view(n, 3)
        return readout(scores, ["calm", "sad", "proud"], layer=3, method="raw", centre="stories")

    ax = plots.token_scores(tokens(7), ["proud", "calm"])
    image = ax.images[0]
    assert image.get_array().shape == (2, 7) and image.get_clim() == pytest.approx((-0.2, 0.2))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["proud", "calm"]
    with pytest.raises(ValueError, match="61 tokens"):
        plots.token_scores(tokens(61), ["calm"])
