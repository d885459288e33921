"""The maps of the 171 emotions that one can point at: made from the packaged vectors, with plotly's own script."""

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
SMALL, LARGE = "smollm2-135m-instruct", "qwen2.5-coder-1.5b-instruct"


def table(name: str) -> tuple[Any, int, str]:
    """A row for each emotion with its places, valence and cluster; the block; what people say of the components.

    The vectors are whitened, at the block that was chosen on the stories. The nulls are those of `studies.circumplex`.
    """
    import pandas as pd
    from sklearn.manifold import TSNE

    import emolens as el

    vectors = el.packaged_vectors(name)
    layer = vectors.chosen_layer("whitened")
    matrix = vectors.matrix(layer, "whitened")
    places, shares = el.geometry.components(matrix, 2)
    axes = [f"component {number + 1} ({share:.0%} of the variance)" for number, share in enumerate(shares.tolist())]
    near = TSNE(metric="cosine", init="random", perplexity=15, random_state=0).fit_transform(matrix.numpy())
    rated = el.corpus.ratings("glasgow")
    cluster = {word: title for title, words in el.corpus.paper_clusters().items() for word in words}
    frame = pd.DataFrame({"emotion": vectors.emotions, axes[0]: places[:, 0], axes[1]: places[:, 1]})
    frame["valence"] = [rated.get(word, {}).get("valence") for word in vectors.emotions]
    frame["cluster"] = [cluster[word] for word in vectors.emotions]
    frame["t-SNE, across"], frame["t-SNE, up"] = near.T

    tests = el.studies.circumplex.against_ratings(matrix, vectors.emotions, sources=["glasgow"])
    said = [
        f"component {row.component} goes with {row.scale} at |r| = {row.r:.2f} "
        f"({row.verdict}, up to {max(row.null, row.random_high):.2f})"
        for row in tests.itertuples()
        if (row.component, row.scale) in ((1, "valence"), (2, "arousal"))
    ]
    return frame, layer, " and ".join(said)


def drawn(figure: Any, label: str) -> str:
    """A figure as an element that `map.js` draws, as wide as the page and in the colours of the theme."""
    figure.update_layout(width=None, height=620, title=None, template="none", margin={"l": 48, "r": 8, "t": 8, "b": 40})
    data = json.dumps(json.loads(figure.to_json())).replace("<", "\\u003c")
    return (
        f'<div class="emotion-map" role="img" aria-label="{label}"></div>\n'
        f'<script type="application/json" class="emotion-map-figure">{data}</script>\n'
    )


def figures() -> None:
    """Writes the page, and the script beside it."""
    from plotly.offline import get_plotlyjs

    from _site.pages import write
    from emolens import plots

    frame, layer, said = table(SMALL)
    large, block, said_large = table(LARGE)
    x, y = frame.columns[1:3]
    rated: dict[str, Any] = {"colour": "valence", "centre": 5}  # the middle of the scale from 1 to 9
    page = (DOCS / "_site" / "map.md").read_text("utf-8").format(
        layer=layer, block=block, said=said, said_large=said_large,
        valence=drawn(plots.interactive_map(frame, x, y, **rated), "171 emotions, coloured by valence"),
        clusters=drawn(
            plots.interactive_map(frame, "t-SNE, across", "t-SNE, up", cluster="cluster"), "171 emotions, by cluster"
        ),
        large=drawn(
            plots.interactive_map(large, *large.columns[1:3], **rated), "171 emotions of a larger model"
        ),
    )  # fmt: skip
    write("map.md", page)
    write("_static/plotly.min.js", get_plotlyjs())
