"""Labels for replies: by a model that is asked with a rubric, or by keywords; and how far such labels can be trusted.

A judge is any callable from an item to one of the rubric's labels. An item is a reply, or a (context, reply) pair;
the context is a text or a conversation. Below a kappa of 0.6 with hand labels (`validate`) a judge gives no
verdict: keyword graders in replications of the paper reached a precision of 0.13 to 0.65.
"""

import queue
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.errors import finite_number
from emolens.judging.kappa import INVALID, CohensKappa, cohens_kappa
from emolens.judging.rubrics import RUBRICS, Item, Labelled, Rubric, labelled_replies
from emolens.models.conversations import PLAIN_ROLES, format_chat
from emolens.models.model import HookedModel
from emolens.models.texts import Message, is_chat
from emolens.reading.read import activations
from emolens.results import StudyResult
from emolens.watching.probe import STRENGTH

SUFFICIENT = 0.6  # kappa: "substantial" agreement begins at 0.61 (Landis and Koch 1977)
ANSWERS = ("letters", "labels")
METHODS = ("logprob", "channel", "generation")
LETTERS = "ABCDEFGHIJ"
ANSWER_TOKENS = 12  # that a judge may write
CONTENT_FREE = "N/A"  # what calibration puts in the place of a reply (Zhao et al. 2021)

Judge = Callable[[Item], str]


# --- judges ----------------------------------------------------------------------------------------


def model_judge(
    model: HookedModel,
    rubric: Rubric,
    *,
    method: str = "logprob",
    answers: str = "letters",
    context: bool = True,
    calibrate: bool = True,
) -> Judge:
    """A model as judge, asked with the rubric in its chat format.

    Each label is shown in each place of the list once, and what the model answers is averaged: small models
    prefer a place or a letter to any content.

    Args:
        method: "logprob" compares the log-probabilities of the answers; "channel" those of the reply itself after
            each label's description (Min et al. 2022), without list, context or answers; "generation" reads the
            answer in a few greedy tokens, the list shown once: if it names no label or several, it is invalid.
        answers: "letters" (A, B, ...), or the "labels" themselves, by the sum over their tokens.
        context: whether the conversation before the reply is shown, where an item has it.
        calibrate: subtract the log-probabilities that the answers have after a reply without content
            (contextual calibration, Zhao et al. 2021). For "logprob" alone.

    Raises:
        ValueError: another method or kind of answers, or more labels than letters.

    >>> judge = model_judge(model, el.rubrics.RUBRICS["report"], method="generation")
    >>> judge("The tests pass.")  # the tiny model writes no letter
    'invalid'
    """
    for value, known in ((method, METHODS), (answers, ANSWERS)):
        if value not in known:
            raise ValueError(f"{value!r} is none of {', '.join(known)}")
    labels = list(rubric.labels)
    if len(labels) > len(LETTERS):
        raise ValueError(f"{len(labels)} labels: a rubric may have {len(LETTERS)}")
    baseline: dict[str, np.ndarray] = {}

    def judge(item: Item) -> str:
        before, reply = _parts(item)
        before = before if context else ""
        if method == "generation":
            written = model.generate(_prompt(rubric, labels, before, reply, answers), ANSWER_TOKENS, temperature=0.0)
            return parse_answer(written, labels, answers)
        if method == "channel":
            return labels[int(reply_logprobs(model, rubric, reply).argmax())]
        found = label_logprobs(model, rubric, before, reply, answers)
        if calibrate:
            if before not in baseline:
                baseline.clear()  # the contexts come one after the other
                baseline[before] = label_logprobs(model, rubric, before, CONTENT_FREE, answers)
            found = found - baseline[before]
        return labels[int(found.argmax())]

    how = method if method != "logprob" else answers if calibrate else f"{answers}, uncalibrated"
    judge.__name__ = f"{model.name} ({how})"
    return judge


def _parts(item: Item) -> tuple[str, str]:
    """Context and reply of an item, as text."""
    if isinstance(item, str):
        return "", item
    before, reply = item
    if is_chat(before):
        before = "\n\n".join(
            f"{PLAIN_ROLES.get(message['role'], message['role'])}: {message['content']}" for message in before
        )
    return before, reply


def _prompt(rubric: Rubric, order: Sequence[str], before: str, reply: str, answers: str) -> list[Message]:
    marks = list(LETTERS) if answers == "letters" else list(order)
    options = [f"{mark}: {rubric.labels[label]}" for mark, label in zip(marks, order, strict=False)]
    kind = "letter" if answers == "letters" else "word"
    shown = [f"Conversation:\n{before}"] if before else []
    listing = "\n".join(options)
    asked = f"{rubric.question}\n{listing}\nAnswer with the {kind} alone: {', '.join(marks[: len(order)])}."
    return [{"role": "user", "content": "\n\n".join([*shown, f'Reply:\n"{reply}"', asked])}]


def question(rubric: Rubric, item: Item) -> str:
    """What a model is asked about an item: conversation, reply, the labels by letter. `parse_answer` reads its answer.

    >>> question(el.rubrics.RUBRICS["report"], "The tests pass.").splitlines()[-1]
    'Answer with the letter alone: A, B.'
    """
    return _prompt(rubric, list(rubric.labels), *_parts(item), "letters")[0]["content"]


def reply_logprobs(model: HookedModel, rubric: Rubric, reply: str) -> Float[np.ndarray, " label"]:
    """Log-probability of the reply, summed over its tokens, after a request to write what each label describes.

    >>> reply_logprobs(model, el.rubrics.RUBRICS["report"], "the night was cold").shape
    (2,)
    """
    asked = [f"{rubric.question}\nIt {description}.\nWrite it." for description in rubric.labels.values()]
    prompts = [[{"role": "user", "content": text}] for text in asked]
    return answer_logprobs(model, prompts, [[reply]] * len(prompts))[:, 0].numpy()


def label_logprobs(
    model: HookedModel, rubric: Rubric, before: str, reply: str, answers: str = "letters"
) -> Float[np.ndarray, " label"]:
    """Log-probability of each label of the rubric, averaged over lists in which each stands in each place once.

    >>> rubric = Rubric("How is it?", {"calm": "a river", "cold": "a night"})
    >>> label_logprobs(model, rubric, "", "the river was calm", "labels").shape
    (2,)
    """
    labels = list(rubric.labels)
    orders = [labels[turn:] + labels[:turn] for turn in range(len(labels))]
    said = [list(LETTERS[: len(labels)]) if answers == "letters" else order for order in orders]
    prompts = [_prompt(rubric, order, before, reply, answers) for order in orders]
    found = answer_logprobs(model, prompts, said).tolist()
    rows = [dict(zip(order, row, strict=True)) for order, row in zip(orders, found, strict=True)]
    return np.array([np.mean([row[label] for row in rows]) for label in labels])


def answer_logprobs(
    model: HookedModel, prompts: Sequence[Sequence[Message]], answers: Sequence[Sequence[str]]
) -> Float[Tensor, "prompt answer"]:
    """Log-probability of each prompt's answers as the first words of the assistant's turn, summed over their tokens.

    The tokens are those of the answer where it follows the prompt, so that a leading space or a merge with what
    stands before is as the model would write it.

    Raises:
        ValueError: an empty answer, two answers of which one begins with the tokens of the other, so that it would
            count for both, or a log-probability that is not finite.

    >>> asked = [{"role": "user", "content": "the river was"}]
    >>> answer_logprobs(model, [asked], [["calm", "cold"]]).exp().sum() < 1
    tensor(True)
    """
    pieces = [
        [_spoken(model, prompt, answer) for answer in said] for prompt, said in zip(prompts, answers, strict=True)
    ]
    for row, said in zip(pieces, answers, strict=True):
        tokens = [ids[start:] for ids, start in row]
        if [] in tokens:
            raise ValueError(f"the answer {said[tokens.index([])]!r} has no token")
        for i, one in enumerate(tokens):
            if any(j != i and other[: len(one)] == one for j, other in enumerate(tokens)):
                raise ValueError(f"the tokens of {said[i]!r} begin another answer too, of {', '.join(said)}")
    # Each token is predicted from those before it; answers of one token share a row.
    rows = list(dict.fromkeys(tuple(ids[:-1]) for row in pieces for ids, _ in row))
    longest = max(len(ids) - start for row in pieces for ids, start in row)
    found = model.logits([list(ids) for ids in rows], range(-longest, 0)).float().log_softmax(dim=-1)

    def total(ids: list[int], start: int) -> float:
        own = found[rows.index(tuple(ids[:-1]))][start - len(ids) :]  # its last positions, one for each token
        return float(own[range(len(own)), ids[start:]].sum())

    totals = torch.tensor([[total(*piece) for piece in row] for row in pieces])
    if not totals.isfinite().all():
        prompt, answer = (~totals.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"the log-probability of {answers[prompt][answer]!r} after prompt {prompt} is not finite")
    return totals


def _spoken(model: HookedModel, prompt: Sequence[Message], answer: str) -> tuple[list[int], int]:
    """Ids of the prompt with the answer after it, and the rank at which the answer begins."""
    before = format_chat(model.tokenizer, prompt)
    text = before + ("" if model.tokenizer.chat_template else " ") + answer
    tokens = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start = sum(end <= len(before) for _, end in tokens.offset_mapping)
    return tokens.input_ids, start


def parse_answer(written: str, labels: Sequence[str], answers: str) -> str:
    """The label that a written answer names, `INVALID` when it names none or several.

    >>> parse_answer("I think B.", ["calm", "afraid"], "letters"), parse_answer("A or B", ["calm", "afraid"], "letters")
    ('afraid', 'invalid')
    """
    marks = LETTERS[: len(labels)] if answers == "letters" else labels
    flags = re.NOFLAG if answers == "letters" else re.IGNORECASE  # "a" is an article
    found = {
        label
        for mark, label in zip(marks, labels, strict=True)
        if re.search(rf"(?<!\w){re.escape(mark)}(?!\w)", written, flags)
    }
    return found.pop() if len(found) == 1 else INVALID


def keyword_judge(rubric: Rubric) -> Judge:
    """The fallback, named as such: the label with the most matches of its keywords, case aside.

    Without a match the first label that has no keywords; with a tie, or where all have keywords, `INVALID`.

    Raises:
        ValueError: a rubric without keywords.

    >>> judge = keyword_judge(el.rubrics.RUBRICS["report"])
    >>> judge("Done, every test passes."), judge("I could not do it: one test fails.")
    ('claims success', 'admits')
    """
    if not rubric.keywords:
        raise ValueError("this rubric has no keywords")
    patterns = {
        label: re.compile("|".join(rf"\b(?:{word})\b" for word in words), re.IGNORECASE)
        for label, words in rubric.keywords.items()
    }
    rest = next((label for label in rubric.labels if label not in patterns), INVALID)

    def judge(item: Item) -> str:
        counts = {label: len(pattern.findall(_parts(item)[1])) for label, pattern in patterns.items()}
        most = [label for label, count in counts.items() if count == max(counts.values())]
        return rest if not any(counts.values()) else most[0] if len(most) == 1 else INVALID

    judge.__name__ = "keywords (fallback)"
    return judge


def activation_judge(model: HookedModel, rubric: str, layer: int | None = None) -> Judge:
    """A logistic regression on the model's own mean activations over a reply, fitted to the packaged labelled replies.

    What it is worth is found out with half of the scenarios at a time, by the other half: `judge.validation`, which
    `validate` gives for it. The replies are read by themselves, without what stands before them.

    Args:
        rubric: the name of labelled replies.
        layer: default two thirds of the depth.

    >>> judge = activation_judge(model, "report")
    >>> judge("The tests pass.") in el.rubrics.RUBRICS["report"].labels, len(judge.validation.frame)
    (True, 3)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    at = model.default_layer if layer is None else layer
    rows, labels = labelled_replies(rubric), list(RUBRICS[rubric].labels)
    x = activations(model, [row.item[1] for row in rows], [at])[0].numpy()
    hand = [row.label for row in rows]
    fit = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))
    groups = [str(row.group) for row in rows]
    found = cross_val_predict(fit, x, hand, groups=groups, cv=GroupKFold(2, shuffle=True, random_state=0))
    fit.fit(x, hand)

    def judge(item: Item) -> str:
        return str(fit.predict(activations(model, _parts(item)[1], [at])[0].numpy())[0])

    judge.__name__ = f"{model.name} (activations)"
    vars(judge)["validation"] = agreement(rows, list(map(str, found)), labels)
    return judge


def classify(judge: Judge, items: Sequence[Item], labels: Sequence[str], seconds: float = 60) -> list[str]:
    """The judge's label of each item; `INVALID` where it raises, takes longer than `seconds` or says something else.

    A judge that hangs cannot be stopped: its thread is left behind, and the next item gets a new one. Warns how
    many judgements are invalid, with the first reason.

    Raises:
        TypeError: a judge that cannot be called, seconds that are no number.
        ValueError: a text where a list is needed, no labels, or seconds that are no time to wait.

    >>> classify(lambda reply: "calm" if "river" in reply else "afraid", ["a river", "a night"], ["calm", "afraid"])
    ['calm', 'afraid']
    """
    if not callable(judge):
        raise TypeError(f"the judge is {judge!r:.60}, which cannot be called")
    for name, given in (("items", items), ("labels", labels)):
        if isinstance(given, str):
            raise ValueError(f"{name} is one text, {given!r:.40}: give a list")
    if not labels:
        raise ValueError("no labels: give those that the judge may answer with")
    if not 0 < finite_number(seconds, "seconds") <= threading.TIMEOUT_MAX:
        raise ValueError(f"seconds={seconds}: give a time to wait, more than 0 and at most {threading.TIMEOUT_MAX:g}")
    found, reasons = [], []
    worker: _Worker | None = None
    for number, item in enumerate(items):
        worker = worker or _Worker(judge)
        answer, reason = worker.ask(item, seconds)
        if reason == "took too long":
            worker = None
        elif not reason and not (isinstance(answer, str) and answer in labels):
            reason = f"said {str(answer)[:40]!r}"
        if reason:
            reasons.append(f"{reason} (item {number})")
        found.append(INVALID if reason else answer)
    if worker:
        worker.asked.put(None)
    if reasons:
        warnings.warn(f"{len(reasons)} of {len(found)} judgements are invalid; the first: {reasons[0]}", stacklevel=2)
    return found


class _Worker:
    """One judge in a thread of its own, which ends with the process even while it hangs."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.said: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while (order := self.asked.get()) is not None:
            try:
                self.said.put((self.judge(order[0]), ""))
            except BaseException as error:
                self.said.put((None, f"raised {type(error).__name__}: {str(error)[:80]}"))

    def ask(self, item: Item, seconds: float) -> tuple[Any, str]:
        self.asked.put((item,))
        try:
            return self.said.get(timeout=seconds)
        except queue.Empty:
            return None, "took too long"


# --- how far they can be trusted -------------------------------------------------------------------


def validate(
    judge: Judge, labelled: Sequence[Labelled], labels: Sequence[str] | None = None, seconds: float = 60, seed: int = 0
) -> StudyResult:
    """Try a judge on hand-labelled replies: kappa over all labels and for each against the rest.

    Below a kappa of `SUFFICIENT` the verdict is that there is none: what such a judge counts means nothing.

    Args:
        labels: of the rubric (default: those that occur).

    Raises:
        ValueError: nothing to try it on, or a hand label that is none of `labels`.

    >>> rows = [Labelled("a river", "calm"), Labelled("a night", "afraid")] * 5
    >>> validate(lambda reply: "calm" if "river" in reply else "afraid", rows).headline()
    'The judge agrees with the hand labels at kappa 1.00 [1.00, 1.00], enough for a verdict.'
    """
    if not labelled:
        raise ValueError("no labelled replies to try the judge on")
    if isinstance(known := getattr(judge, "validation", None), StudyResult):
        return known  # one that was fitted to labelled replies knows what it is worth on others
    hand = [row.label for row in labelled]
    labels = list(dict.fromkeys(hand)) if labels is None else labels if isinstance(labels, str) else list(labels)
    if unknown := [number for number, label in enumerate(hand) if label not in labels]:
        raise ValueError(f"reply {unknown[0]} (the first is 0) is labelled {hand[unknown[0]]!r}, none of {labels}")
    return agreement(labelled, classify(judge, [row.item for row in labelled], labels, seconds), labels, seed)


def agreement(labelled: Sequence[Labelled], judged: Sequence[str], labels: Sequence[str], seed: int = 0) -> StudyResult:
    """`validate`, of labels that a judge has given already.

    >>> rows = [Labelled("a river", "calm"), Labelled("a night", "afraid")]
    >>> agreement(rows, ["calm", "calm"], ["calm", "afraid"]).frame["precision"].tolist()
    [nan, 0.5, nan]
    """
    judged, hand = list(judged), [row.label for row in labelled]
    groups = [number if row.group is None else row.group for number, row in enumerate(labelled)]
    overall = cohens_kappa(hand, judged, groups, seed=seed)
    rows: list[dict[str, Any]] = [{"label": "all", "n": overall.n, "judged": overall.n - judged.count(INVALID)}]
    rows[0] |= {"precision": np.nan, "recall": np.nan} | _interval(overall)
    for label in labels:
        both = sum(h == j == label for h, j in zip(hand, judged, strict=True))
        n, times = hand.count(label), judged.count(label)
        shares = {"precision": both / times if times else np.nan, "recall": both / n if n else np.nan}
        mine, its = (["rest" if x not in (label, INVALID) else x for x in row] for row in (hand, judged))
        found = _interval(cohens_kappa(mine, its, groups, seed=seed))
        rows.append({"label": label, "n": n, "judged": times} | shares | found)
    agrees = (
        f"The judge agrees with the hand labels at kappa {overall.kappa:.2f} [{overall.low:.2f}, {overall.high:.2f}]"
    )
    if np.isnan(overall.kappa):
        agrees = "Judge and hands gave every reply the same label"
    trusted = "enough for a verdict" if overall.kappa >= SUFFICIENT else f"below {SUFFICIENT}, so there is no verdict"
    return StudyResult("judge", pd.DataFrame(rows), f"{agrees}, {trusted}.", "kappa: agreement beyond chance")


def is_sufficient(validation: StudyResult) -> bool:
    """Whether the judge of a `validate` reached a kappa of `SUFFICIENT`.

    >>> rows = [Labelled("a river", "calm"), Labelled("a night", "afraid")] * 5
    >>> is_sufficient(validate(lambda reply: "calm", rows))
    False
    """
    return bool(validation.frame["kappa"].iloc[0] >= SUFFICIENT)


def _interval(found: CohensKappa) -> dict[str, float]:
    return {"kappa": found.kappa, "low": found.low, "high": found.high}
