"""Each checkpoint read with its own vectors: does the ruler itself move in post-training? (paper, section 9)"""

from collections.abc import Sequence

import pandas as pd

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.studies._common import check_size
from emolens.studies.geometry import alignment
from emolens.studies.post_training.compare import (
    compare,
    moved,
    null_of,
    packaged_posts,
    summary,
)
from emolens.training.packaged_children import null_children
from emolens.vectors.derive import derive
from emolens.vectors.emotion_vectors import EmotionVectors


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    posts: Sequence[HookedModel] | None = None,
    null: Sequence[HookedModel] | None = None,
) -> dict[str, StudyResult]:
    """Each model's own vectors as rulers, from the plain stories at one block; how far they moved.

    Args:
        size: "quick" compares the first child alone, without a null.
        posts, null: as for `compare.run`.

    Returns:
        "rulers", how alike base and child are under each ruler; and for each child "moved_NAME", the cosine of the
        vectors themselves, and "geometry_NAME", the similarity of the two cosine matrices.

    Raises:
        NotForThisModel: a model without packaged children, and no `posts`.

    >>> run(model, vectors, "ful")
    Traceback (most recent call last):
    ValueError: size='ful' is none of full, quick
    """
    check_size(size)
    children = packaged_posts(model) if posts is None else list(posts)
    if size == "quick":
        children, null = children[:1], null or ()
    unmoved = [child.model for child in null_children(model)] if null is None else list(null)
    plain, layer = texts.stories("plain"), vectors.chosen_layer()
    table = summary(compare(model, children, null=unmoved, layers=[layer], corpus=plain).table())
    results = {"rulers": StudyResult("rulers", table, headline(table), null_of(len(unmoved)))}
    base = derive(model, plain, [layer])
    for child in children:
        name, vectors_of_child = child.name.split("+")[-1], derive(child, plain, [layer])
        results[f"moved_{name}"] = moved(base, vectors_of_child)
        pair = (child, vectors_of_child)
        results[f"geometry_{name}"] = alignment.between(model, base, pair, same=layer, corpus=plain)
    return results


def headline(table: pd.DataFrame) -> str:
    """How far the correlation of base and child depends on the ruler.

    >>> table = pd.DataFrame({"child": "a", "ruler": ["base", "post"], "r_challenging": [0.81, 0.86]})
    >>> headline(table)
    'Base and child correlate at 0.81 to 0.86 over the emotions, by the ruler they are read with.'
    """
    r = table["r_challenging"]
    span = f"{r.min():.2f} to {r.max():.2f}"
    return f"Base and child correlate at {span} over the emotions, by the ruler they are read with."
