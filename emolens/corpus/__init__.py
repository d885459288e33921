"""Texts: stories labelled with an emotion, what ships with the package, rated documents, and your own."""

from emolens.corpus.audit import audit
from emolens.corpus.packaged import (
    RATINGS,
    STIMULI,
    masked,
    neutral,
    paper_clusters,
    quiet,
    ratings,
    speakers,
    stimuli,
    stories,
    vignettes,
    written,
)
from emolens.corpus.rated import RatedDocument, rated_documents
from emolens.corpus.stories import EMOTIONS, Corpus, Story, known_emotion
from emolens.corpus.written_by_model import generate

__all__ = [
    "EMOTIONS",
    "RATINGS",
    "STIMULI",
    "Corpus",
    "RatedDocument",
    "Story",
    "audit",
    "generate",
    "known_emotion",
    "masked",
    "neutral",
    "paper_clusters",
    "quiet",
    "rated_documents",
    "ratings",
    "speakers",
    "stimuli",
    "stories",
    "vignettes",
    "written",
]
