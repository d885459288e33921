"""Slopes of a preference along all emotions: against human ratings, and how well they go together block by block."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from emolens.plots.doses import scatter
from emolens.plots.layers import effect_by_layer
from emolens.plots.style import COLOURS, NULL, SMALL, plain, require


def slope_scatter(
    frame: pd.DataFrame,
    contrast: str,
    control: str,
    ylabel: str = "slope (nats per token for a strength of 0.1)",
    labels: int = 16,
    ax: Axes | None = None,
) -> Axes:
    """The slope of each rated emotion against its human valence, with the line through them and the null's wedge.

    Args:
        frame: a row for each `contrast`, `control` and `emotion`: its `valence`, `effect` and whether it is `marked`;
            `null_r`, the correlation that 97.5 % of the draws of the widest null lie below.
        labels: how many names at the most; marked emotions are filled.

    >>> frame = pd.DataFrame({"emotion": ["calm", "sad"], "valence": [7.0, 2.0], "effect": [0.1, -0.1]})
    >>> frame = frame.assign(contrast="a over b", control="own", marked=False, null_r=0.4)
    >>> slope_scatter(frame, "a over b", "own").get_xlabel()
    'human valence of the word (1 to 9)'
    """
    require(frame, "contrast", "control", "emotion", "valence", "effect", "marked", "null_r")
    part = frame[frame["contrast"].eq(contrast) & frame["control"].eq(control) & frame["valence"].notna()]
    require(part, "valence")
    x, y = part["valence"].to_numpy(float), part["effect"].to_numpy(float)
    axes = {"xlabel": "human valence of the word (1 to 9)", "ylabel": ylabel}
    ax = scatter(
        part, "valence", "effect", label="emotion", labels=labels, ax=ax, title=f"{contrast} ({control})", **axes
    )
    marked = part[part["marked"].astype(bool)]
    ax.plot(
        marked["valence"], marked["effect"], "o", ms=7, mfc="none", mec=COLOURS[1], mew=1.6, label="the paper's six"
    )
    ends = np.array([x.min(), x.max()])
    if len(part) > 2 and y.std() > 0:
        per_r = y.std() / x.std()
        reach = float(part["null_r"].iloc[0]) * per_r * (ends - x.mean())
        ax.fill_between(ends, y.mean() - reach, y.mean() + reach, color=NULL, alpha=0.2, lw=0, label="95 % of the null")
        line = np.polynomial.Polynomial.fit(x, y, 1)
        ax.plot(ends, line(ends), color=COLOURS[0], lw=1.4, label=f"r = {np.corrcoef(x, y)[0, 1]:+.2f}")
    ax.legend(fontsize=SMALL, frameon=False)
    return ax


def slopes_by_layer(
    frame: pd.DataFrame,
    contrast: str,
    control: str,
    measure: str,
    ax: Axes | None = None,
) -> Axes:
    """How the slopes go with a rating in each block, in the named control and in the own context alone.

    Args:
        frame: a row for each `contrast`, `control`, `layer` and `measure`: `effect`, `low`, `high`, and the widest
            null's `null_low` and `null_high`.

    >>> frame = pd.DataFrame({"layer": [1, 2], "effect": [0.1, 0.3], "low": [0, 0.2], "high": [0.2, 0.4]})
    >>> frame = frame.assign(contrast="a", control="own", measure="valence", null_low=-0.2, null_high=0.2)
    >>> slopes_by_layer(frame, "a", "own", "valence").get_ylabel()
    'correlation with valence'
    """
    require(frame, "contrast", "control", "measure", "layer", "effect", "null_low", "null_high")
    kept = frame[
        frame["contrast"].eq(contrast) & frame["measure"].eq(measure) & frame["control"].isin([control, "own"])
    ]
    require(kept, "layer")
    label = f"correlation with {measure}"
    return effect_by_layer(kept, ylabel=label, title=plain(contrast), series="control", ax=ax)
