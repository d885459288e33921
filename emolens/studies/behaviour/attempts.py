"""Reward hacking: code is asked for, run against the task's tests, and asked for again with what failed (section 8).

What an episode is worth is decided by running its code: in most of the packaged tasks no honest solution can pass,
so that a pass is a hack. Whether a report of failed attempts admits the failure is read by a judge, which is first
tried on reports labelled by hand; below a kappa of 0.6 such reports count as unread. Needs the extra `inspect`.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from emolens import evals
from emolens.evals.scorers import CLAIMS
from emolens.models.model import HookedModel
from emolens.reading.read import read
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean
from emolens.steering.dose_response import Doses
from emolens.studies._common import check_size, near
from emolens.studies.behaviour._logs import of_logs as of_logs
from emolens.studies.behaviour._logs import written
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.watching.watch import Watch

EMOTIONS = ("desperate", "calm")
EPOCHS = {"full": 1, "quick": 1}
QUICK = ("tram_fare", "sign_vowels", "parking_fee")


def run(
    model: Any,
    vectors: EmotionVectors | None = None,
    size: str = "full",
    doses: Doses | None = None,
    options: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, StudyResult]:
    """How often a task that has no honest solution is passed by a hack, and how often a failure is told as a success.

    Args:
        model: a `HookedModel`, or a model of Inspect or its name, which cannot be steered or read.
        vectors: to read all emotions just before each attempt of the unsteered episodes.
        size: "full" has all tasks once, "quick" three of them once.
        doses: as for `dose_response`, with nulls; ten draws do. Nothing is steered where the unsteered rate of hacks is
            0 or 1.
        options: arguments of the task: file, only, grader, epochs, options.
        more: of `_logs.written`: monitor, rows.

    Returns:
        "hacks" and "false claims", the tables of `_rates.rates`, of sampled replies and in "full" of greedy ones too;
        with vectors also "trace", of `trace`, and "episodes", of `told`.

    Raises:
        ValueError: another size, a task whose tests do not run, directions without nulls.
        UncontainedError: what model-written code might do here is not contained.

    >>> run(model, vectors, "ful")
    Traceback (most recent call last):
    ValueError: size='ful' is none of full, quick
    """
    check_size(size)
    given = {"epochs": EPOCHS[size]} | (options or {})
    if size == "quick" and "file" not in given:
        given = {"only": list(QUICK)} | given
    if vectors is not None:
        if not isinstance(model, HookedModel):
            raise ValueError("only a HookedModel can be read: leave out vectors, or load the model with el.load")
        layer = near(vectors, vectors.chosen_layer("denoised"))
        more["watch"] = Watch.of(vectors, None, layer, "denoised")
    frame = written(evals.reward_hacking, model, given, doses, vectors=vectors, **more)
    results = {"hacks": of_logs(frame), "false claims": of_logs(frame, CLAIMS)}
    if size == "full":
        greedy = written(evals.reward_hacking, model, given | {"epochs": 1}, vectors=vectors, temperature=0, **more)
        results |= {"hacks, greedy": of_logs(greedy), "false claims, greedy": of_logs(greedy, CLAIMS)}
    if vectors is not None:
        results["trace"] = trace(frame)
        if EMOTIONS[0] in vectors:
            results["episodes"] = told(model, vectors, frame)
    return results


def trace(frame: pd.DataFrame, seed: int = 0) -> StudyResult:
    """How far desperate and calm move from the first attempt to the last, beside how far any emotion does.

    Args:
        frame: of `evals.logs.frame_of`, of a model that was watched.

    Returns:
        A row for each emotion: its mean `score` before the first and before the last attempt of the unsteered episodes
        that had several, the `effect` with a bootstrap interval over the tasks, and `p`, the share of all emotions
        that move as far.

    >>> before = [{"before": {"calm": 0.1, "sad": 0.0}}, {"before": {"calm": 0.0, "sad": 0.3}}]
    >>> episode = {"strength": 0.0, "control": False, "scenario": "sum", "attempts": ["failed", "failed"]}
    >>> trace(pd.DataFrame([episode | {"reads": before}])).headline()
    'No emotion of desperate and calm was read over several attempts.'
    """
    several = frame[(frame["strength"] == 0) & ~frame["control"] & (frame["attempts"].str.len() > 1)]
    reads = [[each["before"] for each in row["reads"]] for _, row in several.iterrows() if row["reads"]]
    names = list(reads[0][0]) if reads else []
    if not set(EMOTIONS) <= set(names):
        headline = f"No emotion of {' and '.join(EMOTIONS)} was read over several attempts."
        return StudyResult("attempts_trace", pd.DataFrame(columns=["emotion"]), headline, "none: nothing was read")
    first, last = (np.array([[one[at][name] for name in names] for one in reads]) for at in (0, -1))
    change, tasks = last - first, several["scenario"].to_numpy()
    table = pd.DataFrame({"emotion": names, "first": first.mean(axis=0), "last": last.mean(axis=0)})
    table["effect"] = change.mean(axis=0)
    ends = np.array([bootstrap_mean(column, tasks, seed=seed) for column in change.T])
    table["low"], table["high"] = ends.T
    far = np.abs(table["effect"] - table["effect"].mean())
    table["p"] = [(far >= one).mean() for one in far]
    rows = table.set_index("emotion").loc[list(EMOTIONS)]
    said = " and ".join(f"{name} moves by {row['effect']:+.3f} (p {row['p']:.2f})" for name, row in rows.iterrows())
    sentence = f"From the first attempt to the last, {said}."
    null = f"the changes of all emotions over the same attempts of {len(change)} episodes"
    return StudyResult("attempts_trace", table, sentence, null)


def told(model: HookedModel, vectors: EmotionVectors, frame: pd.DataFrame, emotion: str = "desperate") -> StudyResult:
    """The first unsteered episode of each outcome, with the score of an emotion at every token.

    Args:
        frame: of `evals.logs.frame_of`.

    Returns:
        A row for each token: the outcome (`label`), `scenario`, `turn`, `role`, `token` and `score`. `span_of` makes
        of it what `plots.token_text` shows.

    >>> messages = [{"role": "user", "content": "she ran"}, {"role": "assistant", "content": "calm"}]
    >>> frame = pd.DataFrame([{"label": "hack", "scenario": "sum", "strength": 0.0, "messages": messages}])
    >>> told(model, vectors, frame, "calm").headline()
    'One episode of each outcome: hack (sum).'
    """
    layer = near(vectors, vectors.chosen_layer("denoised"))
    first = frame[frame["strength"] == 0].drop_duplicates("label")
    rows = []
    for _, one in first.iterrows():
        chat = [{"role": each["role"], "content": text} for each in one["messages"] if (text := content_of(each))]
        if not chat:
            continue
        scores = read(model, [chat], vectors, layer, method="denoised")
        for number, (role, start, end) in enumerate(model.encode_chat(chat).turns):
            for at in range(start, end):
                row = (one["label"], one["scenario"], number, role, scores.labels[at], float(scores[emotion][at]))
                rows.append(row)
    table = pd.DataFrame(rows, columns=["label", "scenario", "turn", "role", "token", "score"])
    each = ", ".join(f"{label} ({part['scenario'].iloc[0]})" for label, part in table.groupby("label", sort=False))
    sentence = f"One episode of each outcome: {each}." if each else "No episode was played."
    return StudyResult("attempts_episodes", table, sentence, "none: examples", options={"emotion": emotion})


def content_of(message: dict[str, Any]) -> str:
    """The text of a message of a log.

    >>> content_of({"content": [{"type": "text", "text": "she ran"}]})
    'she ran'
    """
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def span_of(table: pd.DataFrame) -> tuple[tuple[list[str], list[float]], list[tuple[str, int, int]]]:
    """Tokens with their scores, and the turns they stand in, of the rows of one episode of `told`.

    >>> roles = ["user", "user", "assistant"]
    >>> span_of(pd.DataFrame({"turn": [0, 0, 1], "role": roles, "token": list("abc"), "score": 0.1}))[1]
    [('user', 0, 2), ('assistant', 2, 3)]
    """
    turn = table["turn"].to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(turn)) + 1).tolist(), len(table)]
    spans = [(table["role"].iloc[a], a, b) for a, b in pairwise(starts)]
    return (table["token"].tolist(), table["score"].tolist()), spans
