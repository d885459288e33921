"""What do the vectors owe to their stories? From each register of these, from all of them, and from a model's own."""

import pandas as pd
import torch

import emolens.corpus as texts
from emolens.corpus import Corpus
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import Verdict
from emolens.studies._common import READOUTS, check_size, near
from emolens.studies.reading.detection import PERMUTATIONS, detect, vignettes
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.pooling import RULES, pool
from emolens.vectors.refit import refit, stories_of

WRITTEN = "written by a model"


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", seed: int = 0, corpus: Corpus | None = None
) -> StudyResult:
    """Detection of the vignettes at the chosen layers, with vectors that were fitted on other stories.

    Once among all emotions, and once among those of `corpus.written()`, with the stories that SmolLM2 wrote itself
    beside the others. `quick` leaves the first out.

    Args:
        corpus: the stories that the vectors were fitted on, where they cannot be found by their stamp.

    >>> run(model, vectors, "huge")
    Traceback (most recent call last):
    ValueError: size='huge' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    corpus = stories_of(vectors) if corpus is None else corpus
    both = (corpus, texts.written())
    pooled = {id(stories): pool(model, stories.texts, rules=RULES, progress=False) for stories in both}
    chosen = {method: near(vectors, vectors.chosen_layer(method)) for method in READOUTS}
    shared = tuple(name for name in texts.written().emotions if name in vectors.emotions)
    among = [vectors.emotions] if len(shared) < 2 else [shared] if size == "quick" else [vectors.emotions, shared]
    tables = []
    for emotions in dict.fromkeys(among):
        for name, (stories, registers) in _sources(corpus, emotions == shared).items():
            keep = torch.tensor([story.emotion in emotions and story.register in registers for story in stories])
            for method, layer in chosen.items():
                fitted = refit(model, vectors, [layer], corpus=stories, pooled=pooled[id(stories)], keep=keep)
                study = detect(model, fitted, vignettes(fitted), [layer], [method], seed=seed, progress=False)
                row = {"source": name, "stories": int(keep.sum()), "emotions": len(emotions)}
                tables.append(study.table().assign(**row))
    frame = pd.concat(tables, ignore_index=True)
    return StudyResult("sources", frame, headline(frame), f"{PERMUTATIONS} permutations of the labels over the texts")


def _sources(corpus: Corpus, with_written: bool) -> dict[str, tuple[Corpus, set[str]]]:
    """Each register of the stories, all of them where there are several, and the stories that a model wrote."""
    registers = list(dict.fromkeys(story.register for story in corpus))
    sources = {name: (corpus, {name}) for name in registers}
    if len(registers) > 1:
        sources["both" if len(registers) == 2 else "all"] = (corpus, set(registers))
    if with_written:
        sources[WRITTEN] = (texts.written(), {story.register for story in texts.written()})
    return sources


def headline(frame: pd.DataFrame) -> str:
    """What whitened vectors from a model's stories find, beside those from the whole corpus of the vectors.

    >>> rows = [("both", 0.75, 0.2), ("written by a model", 0.5, 0.2)]
    >>> frame = pd.DataFrame(rows, columns=["source", "first", "first_null"]).assign(method="whitened", emotions=12)
    >>> headline(frame)
    'Among 12 emotions, whitened vectors from stories that a small model wrote find the right one first for 50% of the
    vignettes, beyond the null of permuted labels (up to 20.0%), where those from the whole corpus do for 75%.'
    """
    rows = frame[frame["method"] == "whitened"]
    row, whose, rest = rows.iloc[-1], "their own stories", ""
    if row["source"] == WRITTEN:
        rest = f", where those from the whole corpus do for {rows.iloc[-2]['first']:.0%}"
        whose = "stories that a small model wrote"
    verdict = Verdict.BEYOND if row["first"] > row["first_null"] else Verdict.INSIDE
    return (
        f"Among {row['emotions']} emotions, whitened vectors from {whose} find the right one first for "
        f"{row['first']:.0%} of the vignettes, {verdict} of permuted labels (up to {row['first_null']:.1%}){rest}."
    )
