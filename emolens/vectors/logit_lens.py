"""Logit lens: which tokens an emotion vector pushes up and down."""

from collections.abc import Sequence

import pandas as pd

from emolens.errors import whole_number
from emolens.models.hooked import Layer
from emolens.models.model import HookedModel
from emolens.vectors.emotion_vectors import EmotionVectors


def logit_lens(
    model: HookedModel,
    vectors: EmotionVectors,
    layer: Layer | None = None,
    emotions: str | Sequence[str] | None = None,
    k: int = 5,
    method: str = "denoised",
) -> pd.DataFrame:
    """The k tokens with the highest and lowest logits when each vector is read by the unembedding (paper, section 4).

    The model's final norm is applied to the vector first: it scales each direction of the residual stream
    as it does in a real pass. The mean logit over all emotions is taken off, so that tokens which
    every vector pushes up do not fill every row.

    Returns:
        One row for each emotion: emotion, up, down (lists of token strings).

    Raises:
        ValueError: vectors of another model, an unknown emotion or layer, k below 1 or beyond the vocabulary.

    >>> table = logit_lens(model, vectors, layer=2, emotions=["calm"], k=3)
    >>> list(table.columns), len(table["up"][0])
    (['emotion', 'up', 'down'], 3)
    """
    k = whole_number(k, "k", least=1)
    vectors.check_model(model)
    layer = vectors.default_layer if layer is None else model.check_layer(layer)
    names = [emotions] if isinstance(emotions, str) else list(vectors.emotions if emotions is None else emotions)
    rows = [vectors.index(name) for name in names]
    matrix = vectors.matrix(layer, method) * vectors.at(layer).residual_norm
    logits = model.unembed(matrix.to(model.device)).float().cpu()
    logits = (logits - logits.mean(dim=0))[rows]
    if k > logits.shape[-1]:
        raise ValueError(f"k={k} is more than the {logits.shape[-1]} tokens of the vocabulary")
    ends = {"up": logits.topk(k).indices, "down": logits.topk(k, largest=False).indices}
    words = {end: [model.token_strings(ids) for ids in indices.tolist()] for end, indices in ends.items()}
    return pd.DataFrame({"emotion": names, **words})
