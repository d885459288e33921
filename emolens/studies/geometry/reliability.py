"""Do two halves of the stories give the same vectors, and which layer and shrinkage do left-out topics prefer?"""

import numpy as np
import pandas as pd

from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import Verdict
from emolens.studies._common import NotForThisModel, check_size
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full") -> dict[str, StudyResult]:
    """What `derive` measured on the stories themselves; it costs nothing, so both sizes give the same.

    Returns:
        "reliability", the cosine of vectors from two halves of the topics by layer and method; and "sweep", how often
        left-out topics were recognised by method, layer and shrinkage, where the vectors have it in their stamp.

    >>> list(run(model, vectors))
    ['reliability', 'sweep']
    """
    check_size(size)
    vectors.check_model(model)
    results = {"reliability": split_half(vectors)}
    if vectors.stamp.get("sweep"):
        frame = pd.DataFrame(vectors.stamp["sweep"])
        results["sweep"] = StudyResult(
            "sweep", frame, of_sweep(frame), "none: it chooses; 'detection' tests the choice"
        )
    return results


def split_half(vectors: EmotionVectors) -> StudyResult:
    """Split-half cosine by layer and method, with quantiles over the emotions and the null's.

    >>> split_half(shipped).headline()
    'Denoised vectors from two halves of the topics agree at block 20 with a mean cosine of 0.71, beyond the null of
    different emotions (-0.39 to 0.45).'
    """
    rows = []
    for m, method in enumerate(METHODS):
        for row, layer in enumerate(vectors.layers):
            cosine = vectors.reliability[m, :, row].numpy()
            cosine = cosine[np.isfinite(cosine)]  # emotions whose stories could not be halved have none
            if not len(cosine):
                raise NotForThisModel("no emotion of these vectors has two halves of stories: give each at least two")
            null = vectors.reliability_null[m, :, row].tolist()
            low, high = np.quantile(cosine, [0.025, 0.975])
            rows.append([method, layer, cosine.mean(), low, high, *null])
    frame = pd.DataFrame(rows, columns=["method", "layer", "cosine", "low", "high", "null_low", "null_high"])
    null_words = "cosines between different emotions from the two halves, of which 95 % lie in the band"
    return StudyResult("reliability", frame, of_halves(frame, vectors.default_layer), null_words, "reliability")


def of_halves(frame: pd.DataFrame, layer: int) -> str:
    """The headline of the split halves: of the denoised vectors at a layer.

    >>> row = {"method": "denoised", "layer": 2, "cosine": 0.6, "null_low": -0.4, "null_high": 0.5}
    >>> of_halves(pd.DataFrame([row]), 2)
    'Denoised vectors from two halves of the topics agree at block 2 with a mean cosine of 0.60, beyond the null of
    different emotions (-0.40 to 0.50).'
    """
    row = frame[frame["layer"].eq(layer) & frame["method"].eq("denoised")].iloc[0]
    verdict = Verdict.INSIDE if row["null_low"] <= row["cosine"] <= row["null_high"] else Verdict.BEYOND
    return (
        f"Denoised vectors from two halves of the topics agree at block {layer} with a mean cosine of "
        f"{row['cosine']:.2f}, {verdict} of different emotions ({row['null_low']:.2f} to {row['null_high']:.2f})."
    )


def of_sweep(frame: pd.DataFrame) -> str:
    """The headline of the sweep: what recognised left-out topics best, by the mean reciprocal rank.

    >>> rows = [("denoised", 2, 0.4, 0.5), ("whitened", 3, 0.6, 0.7)]
    >>> of_sweep(pd.DataFrame(rows, columns=["method", "layer", "first", "mrr"]))
    'Of all methods and layers, the whitened vectors of block 3 recognise left-out stories best: 60% are put first.'
    """
    best = frame.loc[frame["mrr"].idxmax()]
    return (
        f"Of all methods and layers, the {best['method']} vectors of block {best['layer']} recognise left-out stories "
        f"best: {best['first']:.0%} are put first."
    )
