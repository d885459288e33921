"""The texts and ratings that ship with the package.

What each file is, how it was made and what its limits are stands in `data/README.md`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from emolens.corpus.rows import json_lines
from emolens.corpus.stories import EMOTIONS, Corpus
from emolens.errors import did_you_mean
from emolens.files import data_path, read_text


@cache
def stories(register: str | None = None) -> Corpus:
    """The 3,078 stories, or those of one register: "literary" (2,052; shown) or "plain" (1,026; told).

    >>> stories()
    Corpus(3078 stories of 171 emotions: 2052 literary, 1026 plain)
    """
    return Corpus.from_jsonl(data_path("corpus", "stories.jsonl")).where(register=register)


@cache
def vignettes() -> Corpus:
    """The 342 held-out texts on other topics: for each emotion one "narrative" and one "message".

    >>> vignettes().where(emotion="calm")
    Corpus(2 stories of 1 emotions: 1 narrative, 1 message)
    """
    return Corpus.from_jsonl(data_path("corpus", "vignettes.jsonl"))


@cache
def written() -> Corpus:
    """65 stories of twelve emotions that SmolLM2-135M-Instruct wrote itself, as `generate` leaves them.

    >>> written()
    Corpus(65 stories of 12 emotions: 65 generated)
    """
    return Corpus.from_jsonl(data_path("corpus", "written_by_smollm2.jsonl"))


def neutral() -> list[str]:
    """150 dialogues without emotion, for denoising (paper, section 3).

    >>> dialogues = el.corpus.packaged.neutral()
    >>> dialogues[0].startswith("Human: ")
    True
    """
    return [row["text"] for row in _packaged("neutral")]


def quiet() -> list[list[dict[str, str]]]:
    """180 conversations in which nobody feels much, to set a monitor on: the neutral dialogues and the benign ones.

    >>> len(quiet()), quiet()[0][0]["role"]
    (180, 'user')
    """
    benign = (row["turns"] for row in stimuli("monitoring") if row["condition"] == "benign")
    return [as_messages(text) for text in neutral()] + [
        [{"role": turn["role"], "content": turn["text"]} for turn in turns] for turns in benign
    ]


def as_messages(text: str) -> list[dict[str, str]]:
    """The messages of a dialogue that is written as "Human: ... Assistant: ...".

    >>> as_messages("Human: How many?\\n\\nAssistant: Two.")
    [{'role': 'user', 'content': 'How many?'}, {'role': 'assistant', 'content': 'Two.'}]
    """
    _, *parts = re.split(r"(?:^|\n\n)(Human|Assistant): ", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def masked() -> list[dict[str, Any]]:
    """132 dialogues whose `speaker` feels one emotion (`felt`) and shows another (`shown`).

    >>> sorted(masked()[0])
    ['felt', 'scenario', 'shown', 'speaker', 'turns']
    """
    return _packaged("masked")


def speakers() -> list[dict[str, Any]]:
    """144 conversations in which the user feels `user_emotion` and the assistant `assistant_emotion`.

    >>> sorted(speakers()[0])
    ['assistant_emotion', 'turns', 'user_emotion']
    """
    return _packaged("speakers")


STIMULI = (
    "activities",
    "assistant_dialogues",
    "assistant_dialogues_bright",
    "binding",
    "context",
    "denial",
    "implicit",
    "impossible_tasks",
    "intensity",
    "leverage",
    "locality",
    "monitoring",
    "negation",
    "post_training_prompts",
    "refusal",
    "showcase",
    "small_tasks",
    "sycophancy",
    "sycophancy_calm",
    "user_assistant",
)


def stimuli(name: str) -> list[dict[str, Any]]:
    """The rows of one of the packaged stimulus sets (`STIMULI`), each for a study of the same name or subject.

    >>> sorted(stimuli("negation")[0])
    ['affirmed', 'emotion', 'negated']

    Raises:
        ValueError: another name.
    """
    if name not in STIMULI:
        raise ValueError(f"no stimuli {name!r}{did_you_mean(name, STIMULI)}; there are {', '.join(STIMULI)}")
    return [row for _, row in json_lines(data_path("stimuli", f"{name}.jsonl"))]


def _packaged(name: str) -> list[dict[str, Any]]:
    return [row for _, row in json_lines(data_path("corpus", f"{name}.jsonl"))]


def paper_clusters() -> dict[str, list[str]]:
    """The paper's ten k-means clusters of the 171 emotions, by the paper's names (section 6).

    >>> len(paper_clusters()), sum(map(len, paper_clusters().values()))
    (10, 171)
    """
    return json.loads(data_path("corpus", "paper-clusters.json").read_text("utf-8"))


RATINGS = {"glasgow": "glasgow_2019.csv", "russell_mehrabian": "russell_mehrabian_1977.csv"}


def ratings(source: str | Path) -> dict[str, dict[str, float]]:
    """Human valence, arousal and dominance of the emotion words.

    "glasgow": 82 words, each scale from 1 to 9. "russell_mehrabian": 46 words, from -1 to 1, where valence
    is what the source calls pleasure. Or a .csv file of yours with the columns emotion, valence, arousal and
    dominance, of which the last may be left out.

    >>> ratings("glasgow")["calm"]
    {'valence': 7.343, 'arousal': 3.743, 'dominance': 5.941}

    Raises:
        ValueError: another source; a column that is missing or there twice. By line: an entry that is no finite
            number or far outside the scale of the others, a word that was rated before, more cells than columns.
    """
    if Path(source).suffix.lower() != ".csv" and source not in RATINGS:
        near = did_you_mean(str(source), RATINGS)
        raise ValueError(f"no ratings {source!r}{near}; there are {', '.join(RATINGS)}, or give a .csv file")
    path = data_path("ratings", RATINGS[str(source)]) if source in RATINGS else Path(source)
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
    columns = _scales(rows.fieldnames or (), path)
    out: dict[str, dict[str, float]] = {}
    lines: dict[str, int] = {}
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        word = " ".join((row["emotion"] or "").split())
        word = word.casefold() if word.casefold() in EMOTIONS else word
        if not word or None in row:
            fault = "more cells than columns (a decimal comma?)" if word else "the emotion is empty"
            raise ValueError(f"{where}: {fault}; the columns are {', '.join(rows.fieldnames or ())}")
        if word in lines:
            raise ValueError(f"{where}: {word!r} was rated in line {lines[word]} already; keep one of the two")
        out[word], lines[word] = _numbers(row, columns, where), rows.line_num
    if not out:
        raise ValueError(f"{path} has a head and no rating")
    _check_scales(out, lines, path)
    return out


SCALES = ("valence", "arousal", "dominance")


def _scales(names: Sequence[str], path: Path) -> dict[str, str]:
    """The scale that each column holds, for the columns that hold one."""
    scales = {"pleasure": "valence"} | {name: name for name in SCALES}
    columns = {column: scales[column] for column in names if column in scales}
    if missing := {"emotion", "valence", "arousal"} - {*names, *columns.values()}:
        raise ValueError(f"{path} has no column {min(missing)!r}; it has {', '.join(names)}")
    given = [scales.get(name, name) for name in names]
    if twice := {name for name in ("emotion", *SCALES) if given.count(name) > 1}:
        raise ValueError(f"{path} has more than one column for {min(twice)!r}: {', '.join(names)}")
    return columns


def _numbers(row: Mapping[str, str | None], columns: Mapping[str, str], where: str) -> dict[str, float]:
    try:
        values = {scale: float(row[column] or "") for column, scale in columns.items()}
    except ValueError:
        entries = ", ".join(f"{column}={row[column]!r}" for column in columns)
        raise ValueError(f"{where}: no number among {entries}") from None
    for scale, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{where}: {scale} is {value}, which is no finite number; leave the row out")
    return values


def _check_scales(rated: Mapping[str, Mapping[str, float]], lines: Mapping[str, int], path: Path) -> None:
    """Raise for an entry that is on no scale with the others, such as -999 for a rating that is missing.

    That is one 20 times as far from the median as half of the others are.
    """
    for scale in SCALES:
        values = {word: row[scale] for word, row in rated.items() if scale in row}
        middle = median(values.values()) if len(values) > 3 else math.nan
        limit = 20 * median(abs(value - middle) for value in values.values()) if len(values) > 3 else 0.0
        for word, value in values.items():
            if limit and abs(value - middle) > limit:
                others = [other for other in values.values() if abs(other - middle) <= limit]
                raise ValueError(
                    f"{path}, line {lines[word]}: {scale}={value:g} for {word!r} is on another scale than the others, "
                    f"which lie between {min(others):g} and {max(others):g}; leave out a row without a rating"
                )
