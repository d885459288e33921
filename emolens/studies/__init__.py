"""One module for each experiment, all of one shape: `run(model, vectors, size="full" | "quick") -> StudyResult`.

`full` sweeps all layers of the vectors and draws as many null samples as the law asks for; `quick` looks at
the chosen layers alone, for notebooks and tests. Adding an experiment is adding one such module.
"""

from emolens.studies import (
    alignment,
    attempts,
    binding,
    checkpoints,
    children,
    circumplex,
    clusters,
    documents,
    expression,
    implicit,
    lexical,
    manner,
    negation,
    numbers,
    patching,
    post_training,
    preferences,
    robustness,
    rollouts,
    transcripts,
    vignettes,
    word_probability,
)

__all__ = [
    "alignment",
    "attempts",
    "binding",
    "checkpoints",
    "children",
    "circumplex",
    "clusters",
    "documents",
    "expression",
    "implicit",
    "lexical",
    "manner",
    "negation",
    "numbers",
    "patching",
    "post_training",
    "preferences",
    "robustness",
    "rollouts",
    "transcripts",
    "vignettes",
    "word_probability",
]
