"""What people have as rows and files of labelled texts, read by its names or refused with the call to use."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from numbers import Integral
from pathlib import Path
from statistics import fmean
from typing import Any

from emolens.files import read_text

LABELS = ("emotion", "register", "topic")
# What other data sets call these two, for the call that an error proposes.
EMOTION_KEYS = ("emotion", "emotions", "label", "labels", "feeling", "mood", "sentiment", "class", "category", "target")
TEXT_KEYS = ("text", "story", "content", "sentence", "utterance", "message", "body", "tweet", "comment", "document")
TABLES = {
    ".csv": "pandas.read_csv(path)",
    ".tsv": "pandas.read_csv(path, sep='\\t')",
    ".xlsx": "pandas.read_excel(path)",
    ".parquet": "pandas.read_parquet(path)",
}


def listing(words: Collection[Any]) -> str:
    """The first five words of several, for an error.

    >>> listing(["calm", "sad"]), listing(range(7))
    ("'calm', 'sad'", '0, 1, 2, 3, 4 and 2 more')
    """
    first = ", ".join(map(repr, list(words)[:5]))
    return first + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def bare_label(label: str) -> str:
    """A label without capitals and invisible characters.

    >>> bare_label(" Calm\u200b")
    'calm'
    """
    visible = (character for character in label if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFC", "".join(visible)).strip().casefold()


def rows_of(given: Any) -> Iterable[Any]:
    """The rows of what was given as rows: those of a table, else what an iterable yields.

    >>> import pandas as pd
    >>> rows_of(pd.DataFrame({"text": ["He wept."], "emotion": ["sad"]}))
    [{'text': 'He wept.', 'emotion': 'sad'}]

    Raises:
        ValueError: a path, a mapping, a column, a table with a column twice, or what has no rows; with what to call.
    """
    kind = type(given).__name__
    if isinstance(given, (str, bytes, Path)):
        raise ValueError(f"{str(given)[:60]!r} is no list of rows; a file is read with Corpus.from_jsonl(path)")
    if isinstance(given, Mapping):
        keys = listing(list(map(str, given)))
        if all(isinstance(given.get(key), str) for key in ("emotion", "text")):
            raise ValueError("this mapping is one story; give a list of them: Corpus.from_rows([row])")
        if {"emotion", "text"} <= set(given):
            way_out = 'Corpus.from_rows(zip(rows["emotion"], rows["text"]))'
        else:
            way_out = (
                "of texts by emotion, Corpus.from_rows((emotion, text) for emotion in rows for text in rows[emotion]); "
                "of a data set in splits, Corpus.from_rows(rows[split])"
            )
        raise ValueError(f"a mapping with the keys {keys} is no list of rows; use {way_out}")
    if hasattr(given, "columns"):
        names = list(map(str, given.columns))
        if len(set(names)) < len(names):
            raise ValueError(f"the table has a column twice: {listing(names)}; keep one")
        if hasattr(given, "to_dicts"):
            return given.to_dicts()
        return given.to_dict("records") if hasattr(given, "to_dict") else given
    if hasattr(given, "to_frame"):
        raise ValueError(
            f"a {kind} is one column; give both: Corpus.from_rows(zip(emotions, texts)), or the table it is from"
        )
    if not isinstance(given, Iterable):
        raise ValueError(
            f"{given!r} of type {kind} is no list of rows; give stories, mappings or (emotion, text) pairs"
        )
    return given


def by_name(row: Any) -> Any:
    """A row that has names as a mapping, of whatever kind it is; others as they are, arrays as lists.

    >>> by_name(el.Story("sad", "plain", "", "He wept."))
    {'emotion': 'sad', 'register': 'plain', 'topic': '', 'text': 'He wept.'}
    """
    if isinstance(row, (list, tuple)) and len(row) == 2 and hasattr(row[1], "to_dict"):
        row = row[1]  # of `DataFrame.iterrows`, which gives the row's index beside it
    if is_dataclass(row) and not isinstance(row, type):
        return asdict(row)
    for method in ("_asdict", "to_dict"):
        if hasattr(row, method):
            return getattr(row, method)()
    return row.tolist() if hasattr(row, "tolist") and not isinstance(row, str) else row


def check_order(pairs: Sequence[tuple[str, str]], known: Collection[str]) -> None:
    """Whether pairs are (emotion, text): of the two, the text is the longer and the less often repeated.

    >>> check_order([("sad", "He wept all day."), ("calm", "She sat.")], {"calm", "sad"})

    Raises:
        ValueError: they are (text, emotion).
    """
    way_out = "a pair is (emotion, text); swap them: Corpus.from_rows((emotion, text) for text, emotion in rows)"
    for number, (emotion, text) in enumerate(pairs):
        if bare_label(text) in known and " " in emotion and emotion not in known:
            raise ValueError(f"row {number} (the first is 0): the text is the emotion {text!r}; {way_out}")
    emotions, texts = {emotion for emotion, _ in pairs}, {text for _, text in pairs}
    longer = fmean(len(emotion.split()) for emotion in emotions) > fmean(len(text.split()) for text in texts)
    if len(texts) < len(emotions) and longer:
        raise ValueError(
            f"the {len(emotions)} emotions are longer than the {len(texts)} texts, such as {listing(sorted(texts))}; "
            + way_out
        )


def _call(row: Mapping[Any, Any]) -> str:
    """The call that maps rows with such keys."""
    value = {}
    for name, keys in (("emotion", EMOTION_KEYS), ("text", TEXT_KEYS)):
        here = {str(key).casefold(): key for key in row}
        key = next((here[key] for key in keys if key in here), None)
        value[name] = "..." if key is None else f"row[{key!r}]"
        if name == "emotion" and key is not None and _is_class(row[key]):
            value[name] = f"names[row[{key!r}]]" if isinstance(row[key], Integral) else f"names[row[{key!r}][0]]"
    call = f"Corpus.from_rows({{'emotion': {value['emotion']}, 'text': {value['text']}}} for row in rows)"
    classes = ", with the names of the class numbers (of a Hugging Face data set: its features)"
    return call + (classes if "names" in value["emotion"] else "")


def _is_class(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_class, value))
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_missing(value: Any) -> bool:
    """None, NaN, or what a data frame has for them."""
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )


def values_of(row: object, where: str) -> dict[str, str]:
    """The checked fields of a story; `where` names the row in errors.

    >>> values_of(("sad", "He wept."), "row 0")
    {'register': 'default', 'topic': '', 'emotion': 'sad', 'text': 'He wept.'}

    Raises:
        ValueError: a row that is no story, lacks a key, or has an empty or unusable value.
    """
    if isinstance(row, (tuple, list)) and len(row) == 2:
        row = dict(zip(("emotion", "text"), row, strict=True))
    if not isinstance(row, Mapping):
        raise ValueError(
            f"{where}: {type(row).__name__} {str(row)[:40]!r} is no story; "
            "give a Story, a mapping with 'emotion' and 'text', or an (emotion, text) pair"
        )
    for key in ("emotion", "text"):
        if key not in row:
            keys = listing(list(map(str, row))) or "none"
            raise ValueError(f"{where}: the key {key!r} is missing; there is {keys}. Map it: {_call(row)}")
    given = {key: row[key] for key in (*LABELS, "text") if key in row}
    optional = {"register": "default", "topic": ""}
    values = optional | {k: v for k, v in given.items() if k not in optional or not _is_missing(v)}
    for key, value in values.items():
        if not isinstance(value, str):
            call = f". Map it: {_call(row)}" if key == "emotion" and _is_class(value) else ""
            raise ValueError(f"{where}: {key!r} is {value!r}, which is not a string{call}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: half a surrogate pair in {key!r} at character {error.start}") from None
    if not values["emotion"].strip():
        raise ValueError(f"{where}: the emotion is empty")
    if not values["text"].strip():
        raise ValueError(f"{where}: the text for {values['emotion']!r} is empty")
    return values


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    r"""What stands on each line that is not blank, with "file, line n" for errors; of an array, its items.

    >>> _ = Path("rows.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    >>> list(json_lines(Path("rows.jsonl")))
    [('rows.jsonl, line 1', {'a': 1}), ('rows.jsonl, line 3', {'a': 2})]

    Raises:
        ValueError: no UTF-8, or a line that is no JSON, by file and line.
    """
    text = read_text(path)
    if (items := _array(text, path)) is not None:
        yield from ((f"{path}, item {number} (the first is 0)", item) for number, item in enumerate(items))
        return
    # Not splitlines: JSON allows U+2028 and its like inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: no JSON: {error.msg} at column {error.colno}{_hint(text)}") from None


def _array(text: str, path: Path) -> list[Any] | None:
    """The items of a file that is one JSON array of rows; None for JSON Lines."""
    if not text.lstrip().startswith("["):
        return None
    try:
        json.loads(text.lstrip().partition("\n")[0])
        whole = False  # the first line is JSON by itself
    except json.JSONDecodeError:
        whole = True
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        if not whole:
            return None
        raise ValueError(f"{path}, line {error.lineno}: no JSON array: {error.msg} at column {error.colno}") from None
    return items if whole or all(isinstance(item, (dict, list)) for item in items) else None


def _hint(text: str) -> str:
    """What to do about a file that is one JSON object over several lines."""
    try:
        keys = list(json.loads(text))
    except (json.JSONDecodeError, TypeError):
        return ""
    return f". The file is one JSON object ({listing(keys)}), not JSON Lines: give its rows to Corpus.from_rows"
