"""Figures of interventions: attention patterns, maps of patches, and each kind of null with a band of its own."""

import numpy as np
import pandas as pd
import pytest

from emolens import plots


def pattern():
    weights = np.array([[1, 0, 0], [0.9, 0.1, 0], [0.5, 0.3, 0.2]])
    return pd.DataFrame(weights).assign(token=["The", " dog", "\n"])


def test_an_attention_pattern_shows_who_looks_at_whom():
    ax = plots.attention_pattern(pattern(), first=1)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["The", "dog", "␣"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["dog", "␣"]
    (image,) = ax.images
    assert image.get_array().mask.tolist() == [[False, False, True], [False, False, False]]  # not the future
    assert image.get_clim() == (0, 0.3) and image.colorbar.extend == "max"  # the first token is cut off


def test_an_attention_pattern_must_be_whole():
    with pytest.raises(ValueError, match=r"3 tokens needs a column for each position; missing: \[2\]"):
        plots.attention_pattern(pattern().drop(columns=2))
    with pytest.raises(ValueError, match="not finite"):
        plots.attention_pattern(pattern().replace(0.3, np.nan))
    with pytest.raises(ValueError, match="first=3 is no row of a text of 3 tokens"):
        plots.attention_pattern(pattern(), first=3)


def test_heads_stand_beside_each_other():
    frame = pd.concat([pattern().assign(head=head) for head in ("head 1.0", "head 2.1")])
    ax = plots.panels(frame, "head", plots.attention_pattern, "Both rest", size=(3, 4))
    assert ax.figure.get_size_inches().tolist() == [7.6, 4.5] and ax.figure.get_suptitle() == "Both rest"
    assert [panel.get_title() for panel in ax.figure.axes if panel.get_label() != "<colorbar>"] == [
        "head 1.0",
        "head 2.1",
    ]


def test_a_patch_map_frames_what_passes_chance_and_leaves_grey_what_was_not_asked():
    frame = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "share": [0.1, -0.4, np.nan, 0.3]})
    ax = plots.patch_map(frame.assign(position=np.nan, null=0.2), "Heads")
    assert sorted(patch.get_xy() for patch in ax.patches) == [(0.5, -0.5), (0.5, 0.5)]
    assert ax.get_title() == "Heads\nframed: more than the largest gets by chance"
    assert ax.images[0].get_clim() == (-0.4, 0.4) and ax.get_facecolor()[:3] == (0.85,) * 3
    other = plots.patch_map(frame.assign(position=np.nan), limit=1)
    assert other.images[0].get_clim() == (-1, 1) and not other.patches and other.get_xlabel() == "head"


def test_each_kind_of_null_has_its_own_band_and_a_curve_goes_through_zero():
    frame = pd.DataFrame({"direction": "calm", "strength": [-0.1, 0.1], "effect": [-0.2, 0.2]})
    frame = frame.assign(low=frame["effect"] - 0.1, high=frame["effect"] + 0.1)
    for kind, reach in (("random", 0.1), ("shuffled labels", 0.3)):
        frame = frame.assign(**{f"{kind}_low": -reach, f"{kind}_high": reach})
    ax = plots.panels(frame, "direction", plots.dose_response, nulls=["random", "shuffled labels"])
    bands = [band.get_paths()[0].vertices[:, 1].max() for band in ax.collections[:2]]
    assert bands == [0.1, 0.3]
    assert [0.0, 0.0] in [list(point) for line in ax.lines for point in zip(*line.get_data(), strict=True)]
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == [
        "95% of nulls: random",
        "95% of nulls: shuffled labels",
        "effect, with its interval",
    ]
