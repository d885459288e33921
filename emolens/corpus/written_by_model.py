"""Stories that a model writes itself, as the paper's model did: in batches, checked, resumable."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from emolens.corpus.audit import mention
from emolens.corpus.stories import Corpus, Story, known_emotion
from emolens.files import naming_a_full_disk, read_text, write_atomic

PROMPT = """\
Write one paragraph of fiction, about 120 words long, on this subject: {topic}.

One of its characters feels {emotion}. Let the reader find that out from what this character does and says, \
from the body, from passing thoughts and from what is going on. The word "{emotion}", its other forms and \
words of the same meaning must not occur. Give the paragraph alone, without a title or a comment."""


@runtime_checkable
class Writer(Protocol):
    """What `generate` needs of a `HookedModel`.

    >>> isinstance(model, Writer)
    True
    """

    name: str

    @property
    def fingerprint(self) -> str:
        """What the weights are known by."""
        ...

    def generate(self, texts: Any, max_new_tokens: int, temperature: float, top_p: float, seed: int) -> list[str]:
        """The continuation of each of the conversations."""
        ...


class Job(NamedTuple):
    """One story to be written: the one with this number for its emotion and topic.

    >>> Job("calm", "rain", 0)._asdict()
    {'emotion': 'calm', 'topic': 'rain', 'number': 0}
    """

    emotion: str
    topic: str
    number: int


def generate(
    model: Writer,
    emotions: Sequence[str],
    topics: Sequence[str],
    n: int,
    *,
    path: str | Path,
    max_new_tokens: int = 260,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    batch_size: int = 8,
    tries: int = 4,
    min_words: int = 60,
    any_emotion: bool = False,
    progress: bool = True,
) -> Corpus:
    """Let `model` write `n` stories for every emotion and topic, never naming the emotion.

    A story that names its emotion or has fewer than `min_words` words is written anew, up to `tries` times in
    all; a warning says how many were given up, the state file which. The stories are appended to `path` batch
    by batch, the state is kept beside it in `<path>.state.json`. The same call after an interruption goes on
    there and ends with the text of an uninterrupted run; once finished it costs nothing.

    Example, with a model in whose weights nothing is, so that every story is given up:

    >>> import warnings
    >>> with warnings.catch_warnings(action="ignore"):
    ...     made = generate(model, ["calm"], ["rain"], 1, path="a.jsonl", max_new_tokens=60, tries=1, progress=False)
    >>> len(made)
    0

    Args:
        topics: in words, such as "a delayed flight".
        any_emotion: allow emotions that are not among the packaged 171.

    Returns:
        The accepted stories, with register "generated".

    Raises:
        ValueError: an unknown emotion; nothing to write; a number that is out of range; `path` holds something
            else than this very run.
    """
    emotions, topics = _labels(emotions, "emotions", not any_emotion), _labels(topics, "topics")
    counts = {"n": n, "batch_size": batch_size, "tries": tries, "max_new_tokens": max_new_tokens}
    _check_numbers(counts, temperature, top_p, min_words)
    jobs = [Job(emotion, topic, i) for i, topic, emotion in product(range(n), topics, emotions)]
    batches = [jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size)]
    sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    settings = {
        "model": f"{model.name} {model.fingerprint}",
        "prompt": PROMPT,
        "emotions": emotions,
        "topics": topics,
        "n": n,
        "seed": seed,
        "batch_size": batch_size,
        "tries": tries,
        "min_words": min_words,
        **sampling,
    }
    run = _Run(Path(path), settings)
    done = run.state["batches"]

    from tqdm.auto import tqdm

    with tqdm(total=len(jobs), unit="story", disable=not progress) as bar:
        bar.update(sum(map(len, batches[:done])))
        for number, batch in enumerate(batches[done:], done):
            seeds = _seeds(seed, number, tries if temperature else 1)  # a greedy model would repeat itself
            run.append(*_write(model, batch, seeds, sampling, min_words))
            bar.update(len(batch))
            bar.set_postfix(rejected=len(run.state["rejected"]))
    if rejected := run.state["rejected"]:
        warnings.warn(f"{len(rejected)} of {len(jobs)} stories given up; see {run.state_path}", stacklevel=2)
    return Corpus.from_jsonl(path)


def _labels(given: Any, name: str, known: bool = False) -> list[str]:
    """A list of different words or phrases, each of them among the packaged emotions where they are to be `known`."""
    labels = [given] if isinstance(given, str) else list(given)
    if isinstance(given, str) or not labels or not all(isinstance(label, str) and label.strip() for label in labels):
        raise ValueError(f"give lists of emotions and of topics, without empty ones; {name} is {given!r}")
    return list(dict.fromkeys(map(known_emotion, labels) if known else labels))


def _check_numbers(counts: Mapping[str, Any], temperature: float, top_p: float, min_words: int) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    if not 0 <= temperature < math.inf or not 0 < top_p <= 1:
        raise ValueError(f"temperature={temperature} must be at least 0, and top_p={top_p} above 0 and at most 1")
    if not min_words <= counts["max_new_tokens"]:
        raise ValueError(
            f"min_words={min_words} is more than max_new_tokens={counts['max_new_tokens']} can hold, "
            "so every story would be given up"
        )


def _seeds(seed: int, batch: int, tries: int) -> Iterator[int]:
    """A seed for each try of a batch, the same in an interrupted and an uninterrupted run."""
    for attempt in range(tries):
        yield int.from_bytes(hashlib.sha256(f"{seed} {batch} {attempt}".encode()).digest()[:4])


def _write(
    model: Writer, batch: list[Job], seeds: Iterator[int], sampling: Mapping[str, Any], min_words: int
) -> tuple[list[Story], list[dict[str, Any]]]:
    """The accepted stories of a batch, in its order, and the jobs given up with what was wrong at last."""
    written: dict[Job, str] = {}
    faults: dict[Job, str] = dict.fromkeys(batch, "")
    for seed in seeds:
        open_jobs = list(faults)
        chats = [[{"role": "user", "content": PROMPT.format(**job._asdict())}] for job in open_jobs]
        for job, text in zip(open_jobs, model.generate(chats, seed=seed, **sampling), strict=True):
            written[job] = _whole_sentences(text)
            if fault := _fault(job.emotion, written[job], min_words):
                faults[job] = fault
            else:
                del faults[job]
        if not faults:
            break
    stories = [Story(job.emotion, "generated", job.topic, written[job]) for job in batch if job not in faults]
    return stories, [job._asdict() | {"reason": reason} for job, reason in faults.items()]


def _whole_sentences(text: str) -> str:
    """Without what follows the last end of a sentence: the token limit cuts where it falls."""
    match = re.match(r""".*[.!?…。！？]["'”’»*)]*""", text, re.DOTALL)
    return match.group().strip() if match else ""


def _fault(emotion: str, text: str, min_words: int) -> str | None:
    if word := mention(emotion, text):
        return f"names the emotion: {word}"
    words = len(text.split())
    return f"only {words} words in whole sentences" if words < max(1, min_words) else None


class _Run:
    """A story file and, beside it, its state: the settings, the batches done, the bytes that are good."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.state_path = path, path.with_name(f"{path.name}.state.json")
        if self.state_path.exists():
            self.state = self._load()
        elif path.exists():
            raise ValueError(f"{path} exists and was not written by generate; give another path")
        else:
            self.state = {"settings": settings, "batches": 0, "bytes": 0, "sha256": "", "rejected": []}
            self._save()
        for key, wanted in settings.items():
            if (was := self.state["settings"].get(key)) != wanted:
                raise ValueError(f"{path} was begun with {key}={was!r}, not {wanted!r}; {self._way_out}")
        path.touch()
        good = path.read_bytes()[: self.state["bytes"]]
        self.digest = hashlib.sha256(good)
        if self.state["batches"] and self.digest.hexdigest() != self.state["sha256"]:
            raise ValueError(f"{path} was changed after generate wrote it; {self._way_out}")
        os.truncate(path, len(good))  # drops what a killed run left of an unfinished batch

    def _load(self) -> dict[str, Any]:
        try:
            state = json.loads(read_text(self.state_path))
            return {key: state[key] for key in ("settings", "batches", "bytes", "sha256", "rejected")}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.state_path} is damaged ({error!r}); {self._way_out}") from None

    @property
    def _way_out(self) -> str:
        return f"give another path, or delete it together with {self.state_path.name} to begin anew"

    def append(self, stories: list[Story], rejected: list[dict[str, Any]]) -> None:
        data = "".join(f"{story.to_json()}\n" for story in stories).encode()
        with naming_a_full_disk(self.path), open(self.path, "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.digest.update(data)
        self.state["batches"] += 1
        self.state["bytes"] += len(data)
        self.state["sha256"] = self.digest.hexdigest()
        self.state["rejected"] += rejected
        self._save()

    def _save(self) -> None:
        write_atomic(self.state_path, json.dumps(self.state, ensure_ascii=False).encode())
