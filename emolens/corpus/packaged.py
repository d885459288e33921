"""The texts and ratings that ship with the package.

What each file is, how it was made and what its limits are stands in `data/README.md`.
"""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

from emolens.corpus.stories import Corpus, json_lines
from emolens.errors import did_you_mean
from emolens.files import data_path


@cache
def stories(register: str | None = None) -> Corpus:
    """The 3,078 stories, or those of one register: "literary" (2,052; shown) or "plain" (1,026; told)."""
    return Corpus.from_jsonl(data_path("corpus", "stories.jsonl")).where(register=register)


@cache
def vignettes() -> Corpus:
    """The 342 held-out texts on other topics: for each emotion one "narrative" and one "message"."""
    return Corpus.from_jsonl(data_path("corpus", "vignettes.jsonl"))


@cache
def written() -> Corpus:
    """65 stories of twelve emotions that SmolLM2-135M-Instruct wrote itself, as `generate` leaves them.

    >>> written()
    Corpus(65 stories of 12 emotions: 65 generated)
    """
    return Corpus.from_jsonl(data_path("corpus", "written_by_smollm2.jsonl"))


def neutral() -> list[str]:
    """150 dialogues without emotion, for denoising."""
    return [row["text"] for row in _packaged("neutral")]


def masked() -> list[dict[str, Any]]:
    """132 dialogues whose `speaker` feels one emotion (`felt`) and shows another (`shown`)."""
    return _packaged("masked")


def speakers() -> list[dict[str, Any]]:
    """144 conversations in which the user feels `user_emotion` and the assistant `assistant_emotion`."""
    return _packaged("speakers")


STIMULI = (
    "activities",
    "assistant_dialogues",
    "assistant_dialogues_bright",
    "binding",
    "implicit",
    "impossible_tasks",
    "intensity",
    "leverage",
    "negation",
    "post_training_prompts",
    "refusal",
    "showcase",
    "sycophancy",
    "sycophancy_calm",
)


def stimuli(name: str) -> list[dict[str, Any]]:
    """The rows of one of the packaged stimulus sets, each for a study of the same name or subject.

    Raises:
        ValueError: another name.
    """
    if name not in STIMULI:
        raise ValueError(f"no stimuli {name!r}{did_you_mean(name, STIMULI)}; there are {', '.join(STIMULI)}")
    return [row for _, row in json_lines(data_path("stimuli", f"{name}.jsonl"))]


def _packaged(name: str) -> list[dict[str, Any]]:
    return [row for _, row in json_lines(data_path("corpus", f"{name}.jsonl"))]


def paper_clusters() -> dict[str, list[str]]:
    """The paper's ten k-means clusters of the 171 emotions, by the paper's names."""
    return json.loads(data_path("corpus", "paper-clusters.json").read_text("utf-8"))


RATINGS = {"glasgow": "glasgow_2019.csv", "russell_mehrabian": "russell_mehrabian_1977.csv"}


def ratings(source: str | Path) -> dict[str, dict[str, float]]:
    """Human valence, arousal and dominance of the emotion words.

    "glasgow": 82 words, each scale from 1 to 9. "russell_mehrabian": 46 words, from -1 to 1, where valence
    is what the source calls pleasure. Or a .csv file of yours with the columns emotion, valence, arousal and
    dominance, of which the last may be left out.

    Raises:
        ValueError: another source; a column that is missing, an entry that is no number, by line.
    """
    if not str(source).endswith(".csv") and source not in RATINGS:
        near = did_you_mean(str(source), RATINGS)
        raise ValueError(f"no ratings {source!r}{near}; there are {', '.join(RATINGS)}, or give a .csv file")
    path = data_path("ratings", RATINGS[str(source)]) if source in RATINGS else Path(source)
    out: dict[str, dict[str, float]] = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        names = {"pleasure": "valence"} | {name: name for name in ("valence", "arousal", "dominance")}
        columns = {column: names[column] for column in rows.fieldnames or () if column in names}
        if missing := {"emotion", "valence", "arousal"} - {*(rows.fieldnames or ()), *columns.values()}:
            raise ValueError(f"{path} has no column {min(missing)!r}; it has {', '.join(rows.fieldnames or ())}")
        for row in rows:
            try:
                out[row["emotion"]] = {scale: float(row[column]) for column, scale in columns.items()}
            except (TypeError, ValueError):
                entries = ", ".join(f"{column}={row[column]!r}" for column in columns)
                raise ValueError(f"{path}, line {rows.line_num}: no number among {entries}") from None
    return out
