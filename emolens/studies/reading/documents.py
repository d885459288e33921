"""Does the valence that the vectors read agree with human ratings of documents that nobody here wrote?"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import Verdict, correlation
from emolens.studies._common import READOUTS, NotForThisModel, check_size, layers_of, rating_weights
from emolens.vectors.emotion_vectors import EmotionVectors

KINDS = ("products", "films", "editorials")
READ_AT = ("last", "document")
TEXTS = {"full": 1000, "quick": 200}  # of each kind
MIDDLE = 5.0  # of the Glasgow scale of valence, 1 to 9


def valence_weights(emotions: tuple[str, ...]) -> Float[Tensor, "emotion"]:
    """Weights that take the mean over the emotions rated pleasant less the mean over those rated unpleasant.

    Raises:
        NotForThisModel: no emotion is rated pleasant, or none unpleasant.

    >>> valence_weights(("happy", "calm", "sad")).tolist()
    [0.5, 0.5, -1.0]
    """
    weights = rating_weights(emotions, "valence", MIDDLE)
    if not (weights > 0).any() or not (weights < 0).any():
        raise NotForThisModel(
            f"valence is read from emotions that are rated pleasant less those rated unpleasant, and one kind is "
            f"missing among {', '.join(emotions[:8])}{' ...' if len(emotions) > 8 else ''}"
        )
    return weights


def valence(
    x: Float[Tensor, "text d_model"], vectors: EmotionVectors, layer: int, method: str
) -> Float[Tensor, "text"]:
    """Valence of each text: scores centred on the set, pleasant less unpleasant emotions.

    >>> tuple(valence(torch.randn(5, 32), vectors, 2, "denoised").shape)
    (5,)
    """
    return score(x, vectors, layer, method, x.mean(dim=0)) @ valence_weights(vectors.emotions)


def random_axes(x: Float[Tensor, "text d_model"], human: np.ndarray, draws: int, seed: int) -> float:
    """97.5 % quantile of |r| between the ratings and cosines with random directions.

    >>> 0 < random_axes(torch.randn(9, 4), np.arange(9.0), draws=99, seed=0) <= 1
    True
    """
    y = x - x.mean(dim=0)
    axes = torch.randn(y.shape[1], draws, generator=torch.Generator().manual_seed(seed))
    read = torch.nn.functional.normalize(y, dim=1) @ axes
    r = np.corrcoef(np.vstack([human, read.T.numpy()]))[0, 1:]
    return float(np.quantile(np.abs(r), 0.975))


def shuffled_ratings(
    x: Float[Tensor, "text d_model"], human: np.ndarray, vectors: EmotionVectors, layer: int, method: str, seed: int
) -> float:
    """97.5 % quantile of |r| when the words' ratings are permuted: other splits of the same emotions.

    >>> 0 < shuffled_ratings(torch.randn(9, 32), np.arange(9.0), vectors, 2, "denoised", seed=0) <= 1
    True
    """
    scores = score(x, vectors, layer, method, x.mean(dim=0))
    weights = valence_weights(vectors.emotions)
    rated, rng = weights.nonzero().flatten(), np.random.default_rng(seed)
    draws = torch.zeros(len(weights), 999)
    for column in range(draws.shape[1]):
        draws[rated, column] = weights[rated][torch.from_numpy(rng.permutation(len(rated)))]
    r = np.corrcoef(np.vstack([human, (scores @ draws).T.numpy()]))[0, 1:]
    return float(np.quantile(np.abs(r), 0.975))


def vader(documents: list[str]) -> np.ndarray:
    """The compound score of the VADER lexicon, from -1 to 1 (Hutto and Gilbert 2014).

    >>> vader(["A wonderful film.", "It has two parts."]).round(1)
    array([0.6, 0. ])
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    rate = SentimentIntensityAnalyzer().polarity_scores
    return np.array([rate(text)["compound"] for text in documents])


def rated(kind: str, size: str, n: int | None = None, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Documents of a kind and the valence that people gave them: as many as the size asks for, or `n`.

    >>> rated("films", "huge")
    Traceback (most recent call last):
    ValueError: size='huge' is none of full, quick
    """
    check_size(size)
    documents = texts.rated_documents(kind, TEXTS[size] if n is None else n, seed)
    return [document.text for document in documents], np.array([document.valence for document in documents])


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", n: int | None = None, seed: int = 0
) -> StudyResult:
    """Correlation by kind, place, readout and layer; all three chosen on the product reviews alone.

    The documents are fetched once.

    Args:
        n: documents of each kind, drawn with the seed; default 1,000, and 200 for `quick`.

    >>> run(model, vectors, "huge")
    Traceback (most recent call last):
    ValueError: size='huge' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    layers, rows = layers_of(vectors, size), []
    valence_weights(vectors.emotions)  # before any document is read
    for kind in KINDS:
        documents, human = rated(kind, size, n, seed)
        lexicon, _, _ = correlation(vader(documents), human, draws=1)
        for place in READ_AT:
            x = activations(model, documents, layers, place)
            for number, layer in enumerate(layers):
                axes = random_axes(x[number], human, 999, seed)
                for method in READOUTS:
                    read = valence(x[number], vectors, layer, method).numpy()
                    r, low, high = correlation(read, human, seed=seed)
                    split = shuffled_ratings(x[number], human, vectors, layer, method, seed)
                    where = {"kind": kind, "texts": len(documents), "place": place, "method": method, "layer": layer}
                    nulls = {"null_axes": axes, "null_ratings": split, "vader": lexicon}
                    rows.append(where | {"effect": r, "low": low, "high": high} | nulls)
    frame = pd.DataFrame(rows)
    frame["null_high"] = frame[["null_axes", "null_ratings"]].max(axis=1)
    frame["null_low"] = -frame["null_high"]
    frame["series"] = frame["kind"] + ", " + frame["place"] + ", " + frame["method"]
    at = frame.loc[frame.query("kind == 'products'")["effect"].idxmax()]
    frame["chosen"] = np.all([frame[column] == at[column] for column in ("place", "method", "layer")], axis=0)
    options = {"series": "series", "title": "Valence read against human ratings", "ylabel": "r"}
    null = "|r| of 999 random axes and of 999 permutations of the words' ratings, 97.5 % of which lie below"
    return StudyResult("documents", frame, headline(frame), null, "effect_by_layer", options)


def headline(frame: pd.DataFrame) -> str:
    """What was chosen on the product reviews gives on films and editorials, against the higher of the two nulls.

    >>> rows = [("films", 0.7, 0.6), ("editorials", 0.3, 0.4)]
    >>> headline(pd.DataFrame(rows, columns=["kind", "effect", "null_high"]).assign(chosen=True))
    'As chosen on product reviews, the valence read agrees with human ratings of films at r = 0.70, beyond the null of
    random axes and permuted ratings (up to 0.60), and of editorials at r = 0.30, inside the null (up to 0.40).'
    """
    chosen = frame[frame["chosen"]].set_index("kind")
    films, editorials = (chosen.loc[kind] for kind in KINDS[1:])
    verdicts = [Verdict.BEYOND if row["effect"] > row["null_high"] else Verdict.INSIDE for row in (films, editorials)]
    return (
        f"As chosen on product reviews, the valence read agrees with human ratings of films at r = "
        f"{films['effect']:.2f}, {verdicts[0]} of random axes and permuted ratings (up to {films['null_high']:.2f}), "
        f"and of editorials at r = {editorials['effect']:.2f}, {verdicts[1]} (up to {editorials['null_high']:.2f})."
    )
