"""Do the vectors find the emotion of texts on other topics, and which emotions are taken for which?"""

import numpy as np
import pandas as pd
import torch

import emolens.corpus as texts
from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import p_text, p_value
from emolens.steering.nulls import shuffled
from emolens.studies._common import READOUTS, layers_of, near
from emolens.studies.reading.detection import detect
from emolens.vectors.derive import rank_matrix
from emolens.vectors.emotion_vectors import EmotionVectors


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full", draws: int = 39, seed: int = 0) -> StudyResult:
    """`detect` on the vignettes, and at the chosen layers the same with vectors from shuffled labels."""
    corpus = texts.vignettes().where(emotion=vectors.emotions)
    found = detect(model, vectors, corpus, layers_of(vectors, size), READOUTS, seed=seed, progress=False)
    chosen = {method: near(vectors, vectors.chosen_layer(method)) for method in READOUTS}
    nulls = []
    for method, layer in chosen.items():
        (x,), truth = activations(model, corpus.texts, [layer]), _truth(vectors, corpus)
        hits = []
        for null in shuffled(model, vectors, [layer], draws, seed):
            ranks = rank_matrix(score(x, null, layer, method, x.mean(dim=0))).gather(1, truth[:, None])
            hits.append(float((ranks <= 1).float().mean()))
        nulls.append({"method": method, "layer": layer, "first_shuffled_highest": max(hits)})
    frame = found.table().merge(pd.DataFrame(nulls), how="left", on=["method", "layer"])
    said = "; ".join(f"{row['method']} at most {row['first_shuffled_highest']:.1%}" for row in nulls)
    verdict = f"{found.verdict()} Vectors from shuffled labels ({draws} draws) find first: {said}."
    return StudyResult("vignettes", frame, verdict, found.figure, found.options)


def _truth(vectors: EmotionVectors, corpus: Corpus) -> torch.Tensor:
    return torch.tensor([vectors.index(story.emotion) for story in corpus])


def confusions(
    model: HookedModel, vectors: EmotionVectors, method: str = "whitened", draws: int = 9999, seed: int = 0
) -> StudyResult:
    """Which of the paper's clusters a text of each cluster is put into, and how far off the wrong answers are.

    The distance is that of valence and arousal in the Glasgow Norms, in standard deviations, over the wrong
    answers for which both words are rated. The null permutes the wrong answers.
    """
    corpus = texts.vignettes().where(emotion=vectors.emotions)
    layer = near(vectors, vectors.chosen_layer(method))
    (x,) = activations(model, corpus.texts, [layer])
    taken = score(x, vectors, layer, method, x.mean(dim=0)).argmax(dim=1).tolist()
    pairs = [(story.emotion, vectors.emotions[found]) for story, found in zip(corpus, taken, strict=True)]
    cluster = {name: title for title, members in texts.paper_clusters().items() for name in members}
    titles = list(texts.paper_clusters())
    counts = pd.crosstab(pd.Series([cluster[a] for a, _ in pairs]), pd.Series([cluster[b] for _, b in pairs]))
    shares = counts.reindex(index=titles, columns=titles, fill_value=0).apply(lambda row: row / row.sum(), axis=1)
    rows = [(a, b, float(shares.loc[a, b])) for a in titles for b in titles]

    rated = pd.DataFrame(texts.ratings("glasgow")).T[["valence", "arousal"]]
    rated = (rated - rated.mean()) / rated.std()
    wrong = [(a, b) for a, b in pairs if a != b and a in rated.index and b in rated.index]
    right, answer = (rated.loc[[pair[i] for pair in wrong]].to_numpy() for i in (0, 1))
    distance = np.linalg.norm(right - answer, axis=1).mean()
    rng = np.random.default_rng(seed)
    null = np.array([np.linalg.norm(right - answer[rng.permutation(len(wrong))], axis=1).mean() for _ in range(draws)])
    inside = np.mean([cluster[a] == cluster[b] for a, b in pairs if a != b])
    verdict = (
        f"{method} at block {layer}: of the texts whose emotion is not found first, {inside:.0%} are put into the "
        f"right one of the paper's ten clusters; the wrong answers lie {distance:.2f} standard deviations from the "
        f"right ones in human valence and arousal ({len(wrong)} rated pairs; permuted: {null.mean():.2f}, "
        f"{p_text(p_value(-distance, -null))})."
    )
    options = {"title": "Which cluster is taken for which"}
    return StudyResult(
        "confusions", pd.DataFrame(rows, columns=["row", "column", "score"]), verdict, "score_matrix", options
    )
