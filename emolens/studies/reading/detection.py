"""Which emotion a held-out text is read as: the rank of the right one among all (paper, section 4)."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

import emolens.corpus as texts
from emolens.corpus import Corpus
from emolens.errors import did_you_mean
from emolens.models.model import HookedModel
from emolens.reading.read import score
from emolens.results import StudyResult
from emolens.stats import Verdict, bootstrap_mean, p_text, p_value, tail_p
from emolens.steering.nulls import shuffled
from emolens.studies._common import check_size, layers_of, near, with_vectors
from emolens.vectors.choose import rank_matrix
from emolens.vectors.contrast import group_mean
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors, check_method
from emolens.vectors.pooling import pool
from emolens.vectors.story_means import READ_FROM_RANK, SHORT

CENTRES = ("set", "register", "stories", "neutral")
FOUND = {"first": 1, "first_five": 5}  # a text counts as found when the right emotion has at most this rank
PERMUTATIONS = 99  # of the labels over the texts

Documents = dict[int, Float[Tensor, "text d_model"]]  # for each layer


def detect(
    model: HookedModel,
    vectors: EmotionVectors,
    corpus: Corpus,
    layers: Iterable[int] | None = None,
    methods: Sequence[str] = METHODS,
    centre: str = "set",
    seed: int = 0,
    progress: bool = True,
) -> StudyResult:
    """Rank of the right emotion among all on labelled texts, by layer and method.

    Each text is read as a document. For every layer and method, the table has the share of texts whose emotion
    comes first and among the first five, bootstrap intervals over emotions, and the 97.5 % quantile of both shares
    when the labels are permuted over the texts.

    Args:
        layers: default all of the vectors.
        centre: "set" (the mean of these texts), "register" (the mean of each register's texts: a difference of
            style between the registers is taken off too), "stories" or "neutral".

    Raises:
        ValueError: no text, a text of a single token, an emotion without a vector, an unknown centre or method.

    >>> result = detect(model, vectors, corpus, [2], ["whitened"], progress=False)
    >>> result.headline()
    'The whitened vectors of block 2 find the right one of 6 emotions first for ...% of the texts, ...'
    """
    vectors.check_model(model)
    if centre not in CENTRES:
        raise ValueError(f"centre={centre!r} is none of {', '.join(CENTRES)}{did_you_mean(centre, CENTRES)}")
    documents = _documents(model, corpus, list(vectors.layers if layers is None else layers), progress)
    frame = _table(documents, vectors, corpus, methods, centre, seed)
    return _result(frame, vectors, f"{PERMUTATIONS} permutations of the labels over the texts")


def _documents(model: HookedModel, corpus: Corpus, layers: list[int], progress: bool = False) -> Documents:
    """The activation of each text, averaged as `read` averages a document."""
    if not len(corpus):
        raise ValueError("no text to detect an emotion in: the corpus is empty")
    pooled = pool(model, corpus.texts, layers, (1, READ_FROM_RANK), progress=progress)
    if len(tiny := (pooled.counts < 2).nonzero()):
        story = corpus[int(tiny[0])]
        raise ValueError(f"text {int(tiny[0])} ({story.emotion}) is too short, a single token: {story.text!r}")
    short = (pooled.counts < SHORT)[:, None]
    return {layer: torch.where(short, pooled.means(1, layer), pooled.means(READ_FROM_RANK, layer)) for layer in layers}


def _truth(vectors: EmotionVectors, corpus: Corpus) -> Int[Tensor, "text"]:
    return torch.tensor([vectors.index(story.emotion) for story in corpus])


def _table(
    documents: Documents, vectors: EmotionVectors, corpus: Corpus, methods: Sequence[str], centre: str, seed: int
) -> pd.DataFrame:
    """A row for each layer and method."""
    truth, rng = _truth(vectors, corpus), np.random.default_rng(seed)
    shuffles = torch.stack([truth[torch.from_numpy(rng.permutation(len(truth)))] for _ in range(PERMUTATIONS)])
    registers = list(dict.fromkeys(story.register for story in corpus))
    register = torch.tensor([registers.index(story.register) for story in corpus])
    rows = []
    for layer, x in documents.items():
        fixed: Any = centre
        if centre == "set":
            fixed = x.mean(dim=0)
        elif centre == "register":
            x, fixed = x - group_mean(x, register, len(registers))[register], torch.zeros(x.shape[1])
        for method in methods:
            ranked = rank_matrix(score(x, vectors, layer, method, fixed))
            ranks, null = ranked.gather(1, truth[:, None])[:, 0], ranked.gather(1, shuffles.T)
            row: dict[str, Any] = {"layer": layer, "method": check_method(method), "centre": centre}
            row["texts"] = len(truth)
            for name, k in FOUND.items():
                row |= _share(ranks <= k, name, truth, seed)
                row[f"{name}_null"] = float((null <= k).float().mean(dim=0).quantile(0.975))
            rows.append(row | {"mean_rank": float(ranks.float().mean())})
    return pd.DataFrame(rows)


def _share(hits: Tensor, name: str, truth: Int[Tensor, "text"], seed: int) -> dict[str, float]:
    """The share of hits, with its bootstrap interval over emotions."""
    hit = hits.float().numpy()
    low, high = bootstrap_mean(hit, groups=truth.numpy(), seed=seed)
    return {name: float(hit.mean()), f"{name}_low": low, f"{name}_high": high}


def _result(frame: pd.DataFrame, vectors: EmotionVectors, null: str) -> StudyResult:
    chosen = vectors.chosen_layer("whitened") if "chosen" in vectors.stamp else None
    options = {"chance": 1 / len(vectors.emotions), "chosen": chosen}
    return StudyResult("detection", frame, headline(frame, vectors), null, "layer_sweep", options)


def headline(frame: pd.DataFrame, vectors: EmotionVectors) -> str:
    """What the last of the methods finds at the layer chosen for it, against the highest of its nulls.

    Where that layer is not among those looked at, it is the middle one of those.

    >>> row = {"method": "whitened", "layer": 2, "first": 0.5, "first_null": 0.2}
    >>> headline(pd.DataFrame([row]), vectors.at(2))
    'The whitened vectors of block 2 find the right one of 6 emotions first for 50% of the texts, beyond the null of
    permuted labels (up to 20.0%).'
    """
    part = frame[frame["method"] == frame["method"].iloc[-1]]
    method = str(part["method"].iloc[0])
    wanted = near(vectors, vectors.chosen_layer(method)) if "chosen" in vectors.stamp else None
    at = part[part["layer"] == wanted]
    row = at.iloc[0] if len(at) else part.iloc[len(part) // 2]
    nulls = {
        "permuted labels": row["first_null"],
        "of vectors from shuffled labels": row.get("first_shuffled_highest", np.nan),
    }
    nulls = {kind: highest for kind, highest in nulls.items() if not pd.isna(highest)}
    highest = max(nulls.values())
    verdict = Verdict.BEYOND if row["first"] > highest else Verdict.INSIDE
    return (
        f"The {method} vectors of block {row['layer']} find the right one of {len(vectors.emotions)} emotions first "
        f"for {row['first']:.0%} of the texts, {verdict} of {' and '.join(nulls)} (up to {highest:.1%})."
    )


# --- the study: the vignettes ----------------------------------------------------------------------


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    draws: int = 39,
    seed: int = 0,
    corpus: Corpus | None = None,
) -> dict[str, StudyResult]:
    """The packaged vignettes, which are on other topics than the stories and in other registers.

    Args:
        draws: how often the vectors are fitted anew with shuffled labels, as the second null.
        corpus: the stories that the vectors were fitted on, where they cannot be found by their stamp.

    Returns:
        "detection", what `detect` gives, at the chosen layers beside both nulls; "confusions", which of the paper's
        clusters is taken for which; "wrong_answers", how far off these are; "centres", detection for each centre.

    >>> results = run(model, vectors, "quick", draws=3, corpus=corpus)
    >>> list(results)
    ['detection', 'confusions', 'wrong_answers', 'centres']
    """
    check_size(size)
    vectors.check_model(model)
    layers = layers_of(vectors, size, METHODS)
    targets = vignettes(vectors)
    documents = _documents(model, targets, layers)
    chosen = {method: near(vectors, vectors.chosen_layer(method)) for method in METHODS}
    frame = _table(documents, vectors, targets, METHODS, "set", seed)
    nulls = shuffled(model, vectors, sorted(set(chosen.values())), draws, seed, corpus)
    refitted = _shuffled_hits(documents, vectors, targets, chosen, nulls, frame)
    null = f"{PERMUTATIONS} permutations of the labels, and {draws} sets of vectors from stories with shuffled labels"
    by_centre = [
        _table({layer: documents[layer]}, vectors, targets, [method], centre, seed)
        for centre in CENTRES
        for method, layer in chosen.items()
    ]
    return {
        "detection": _result(frame.merge(refitted, how="left", on=["method", "layer"]), vectors, null),
        **confusions(documents, vectors, targets, seed=seed),
        "centres": centres(pd.concat(by_centre, ignore_index=True)),
    }


def vignettes(vectors: EmotionVectors) -> Corpus:
    """The packaged vignettes of those emotions that have a vector.

    >>> vignettes(vectors)
    Corpus(12 stories of 6 emotions: 6 narrative, 6 message)
    """
    return Corpus(tuple(with_vectors(texts.vignettes(), vectors, lambda story: {story.emotion}, "The vignettes")))


def _shuffled_hits(
    documents: Documents,
    vectors: EmotionVectors,
    corpus: Corpus,
    chosen: dict[str, int],
    nulls: Iterable[EmotionVectors],
    frame: pd.DataFrame,
) -> pd.DataFrame:
    """The greatest share found first by vectors from shuffled labels, and how rarely they reach the real ones."""
    truth = _truth(vectors, corpus)[:, None]
    hits: dict[str, list[float]] = {method: [] for method in chosen}
    for null in nulls:
        for method, layer in chosen.items():
            x = documents[layer]
            ranks = rank_matrix(score(x, null, layer, method, x.mean(dim=0))).gather(1, truth)
            hits[method].append(float((ranks <= 1).float().mean()))
    rows = []
    for method, layer in chosen.items():
        first = frame.loc[frame["method"].eq(method) & frame["layer"].eq(layer), "first"].iloc[0]
        reached = {"first_shuffled_highest": max(hits[method]), "first_shuffled_p": tail_p(first, hits[method])}
        rows.append({"method": method, "layer": layer} | reached)
    return pd.DataFrame(rows)


def centres(frame: pd.DataFrame) -> StudyResult:
    """Detection at the chosen layers for every centre.

    >>> rows = [("set", 0.5), ("register", 0.6), ("stories", 0.4), ("neutral", 0.3)]
    >>> frame = pd.DataFrame(rows, columns=["centre", "first"]).assign(method="whitened", first_null=0.1)
    >>> centres(frame).headline()
    'Whitened vectors find the right emotion first for 50% of the texts when these are centred on their own mean, and
    for 40% when they are centred on the stories (permuted labels: up to 10.0%).'
    """
    part = frame[frame["method"] == "whitened"].set_index("centre")
    sentence = (
        f"Whitened vectors find the right emotion first for {part.loc['set', 'first']:.0%} of the texts when these are "
        f"centred on their own mean, and for {part.loc['stories', 'first']:.0%} when they are centred on the stories "
        f"(permuted labels: up to {part.loc[['set', 'stories'], 'first_null'].max():.1%})."
    )
    return StudyResult("centres", frame, sentence, f"{PERMUTATIONS} permutations of the labels over the texts")


# --- what is taken for what ------------------------------------------------------------------------


def confusions(
    documents: Documents, vectors: EmotionVectors, corpus: Corpus, method: str = "whitened", seed: int = 0
) -> dict[str, StudyResult]:
    """Which of the paper's clusters a text of each cluster is put into, and how far off the wrong answers are.

    Emotions of one's own, which are in no cluster, are left out.

    Args:
        documents: activations of the texts, at the layer chosen for `method` among others.

    >>> layer = vectors.chosen_layer("whitened")
    >>> results = confusions(_documents(model, corpus, [layer]), vectors, corpus)
    >>> results["wrong_answers"].table()["measure"].tolist()
    ['in the right cluster', 'distance in valence and arousal']
    """
    cluster = {name: title for title, members in texts.paper_clusters().items() for name in members}
    layer, shared = near(vectors, vectors.chosen_layer(method)), [name for name in vectors.emotions if name in cluster]
    x = documents[layer]
    taken = score(x, vectors[shared], layer, method, x.mean(dim=0)).argmax(dim=1).tolist()
    pairs = [(story.emotion, shared[place]) for story, place in zip(corpus, taken, strict=True)]
    titles = [title for title in texts.paper_clusters() if title in {cluster[name] for name in corpus.emotions}]
    matrix = _shares([(cluster[right], cluster[answer]) for right, answer in pairs], titles)
    wrong = wrong_answers([pair for pair in pairs if pair[0] != pair[1]], cluster, seed=seed)
    null = f"see 'wrong_answers'; {len(pairs)} texts, {method} vectors of block {layer}"
    options = {"title": "Which cluster is taken for which"}
    return {
        "confusions": StudyResult("confusions", matrix, of_clusters(matrix), null, "score_matrix", options),
        "wrong_answers": wrong,
    }


def _shares(pairs: list[tuple[str, str]], titles: list[str]) -> pd.DataFrame:
    """Of the texts of each cluster (row), the share that is put into each (column)."""
    counts = pd.DataFrame(0.0, index=titles, columns=titles)
    for right, answer in pairs:
        counts.loc[right, answer] += 1
    shares = counts.div(counts.sum(axis=1), axis=0)
    rows = [(a, b, float(shares.loc[a, b])) for a in titles for b in titles]
    return pd.DataFrame(rows, columns=["row", "column", "score"])


def of_clusters(matrix: pd.DataFrame) -> str:
    """The headline of the matrix of clusters.

    >>> of_clusters(pd.DataFrame({"row": ["joy", "joy"], "column": ["joy", "fear"], "score": [0.7, 0.3]}))
    'On average over the 1 clusters, 70% of the texts of a cluster are put into it.'
    """
    inside = matrix[matrix["row"] == matrix["column"]]["score"]
    return f"On average over the {len(inside)} clusters, {inside.mean():.0%} of the texts of a cluster are put into it."


def wrong_answers(
    pairs: Sequence[tuple[str, str]], cluster: dict[str, str], draws: int = 9999, seed: int = 0
) -> StudyResult:
    """Whether wrong answers are near the right ones: in the same cluster, and alike in human valence and arousal.

    The distance is that of the Glasgow Norms in standard deviations, over the pairs of which both words are rated.
    The null permutes the answers. Fewer than two pairs cannot be permuted: then the entries are empty.

    Args:
        pairs: the right emotion and the answer, of each text that was not answered rightly.
        cluster: of each emotion.

    >>> pairs = [("happy", "proud"), ("sad", "lonely"), ("calm", "relaxed"), ("angry", "furious")]
    >>> cluster = {name: right for right, answer in pairs for name in (right, answer)}
    >>> wrong_answers(pairs, cluster, draws=99).table()["value"].round(1).tolist()
    [1.0, 0.5]
    """
    rated = pd.DataFrame(texts.ratings("glasgow")).T[["valence", "arousal"]]
    rated = (rated - rated.mean()) / rated.std()
    groups = np.array([[cluster[name] for name in pair] for pair in pairs]).reshape(-1, 2)
    both = [pair for pair in pairs if set(pair) <= set(rated.index)]
    words = np.stack([rated.loc[[pair[side] for pair in both]].to_numpy() for side in (0, 1)], axis=1)

    def alike(right: np.ndarray, answer: np.ndarray) -> float:
        return float((right == answer).mean())

    def distance(right: np.ndarray, answer: np.ndarray) -> float:
        return float(np.linalg.norm(right - answer, axis=1).mean())

    measures = {"in the right cluster": (alike, groups), "distance in valence and arousal": (distance, words)}
    rows = []
    for name, (measure, sides) in measures.items():
        row: dict[str, Any] = {"measure": name, "pairs": len(sides)}
        if len(sides) > 1:
            rng, (right, answer) = np.random.default_rng(seed), (sides[:, 0], sides[:, 1])
            null = np.array([measure(right, answer[rng.permutation(len(answer))]) for _ in range(draws)])
            value, (low, high) = measure(right, answer), np.quantile(null, [0.025, 0.975])
            row |= {"value": value, "null": null.mean(), "null_low": low, "null_high": high, "p": p_value(value, null)}
        rows.append(row)
    frame = pd.DataFrame(rows, columns=["measure", "pairs", "value", "null", "null_low", "null_high", "p"])
    return StudyResult("wrong_answers", frame, of_wrong_answers(frame), f"{draws} permutations of the wrong answers")


def of_wrong_answers(frame: pd.DataFrame) -> str:
    """The headline of the wrong answers.

    >>> rows = [("in the right cluster", 0.4, 0.1, 0.01), ("distance in valence and arousal", 1.2, 1.7, 0.01)]
    >>> of_wrong_answers(pd.DataFrame(rows, columns=["measure", "value", "null", "p"]))
    'Wrong answers lie 1.20 standard deviations from the right emotion in human valence and arousal, where permuted
    ones lie 1.70 away (p = 0.010); 40% are in the right cluster.'
    """
    row, inside = (frame[frame["measure"].str.startswith(name)].iloc[0] for name in ("distance", "in the"))
    if pd.isna(row["value"]):
        return f"How far off the wrong answers are {Verdict.UNMEASURABLE}: fewer than two of them are of rated words."
    return (
        f"Wrong answers lie {row['value']:.2f} standard deviations from the right emotion in human valence and "
        f"arousal, where permuted ones lie {row['null']:.2f} away ({p_text(row['p'])}); {inside['value']:.0%} are in "
        f"the right cluster."
    )
