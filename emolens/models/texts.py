"""What is taken for a text: a string, a conversation or token ids, and several of them in any container.

Everything that reads texts passes through `gate`, so that nothing else is read as one by accident.
"""

import os
import re
from collections.abc import Mapping, Sequence
from numbers import Integral, Number
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

Message = Mapping[str, Any]
# A str, a conversation (messages), token ids, or an `Encoding`. It is no narrower type, because `gate` refuses
# everything else by name, with what to call instead.
Text = Any


class Turn(NamedTuple):
    """Tokens [start, end) that hold the content of one message.

    Example:
        >>> Turn("user", 3, 7).end
        7
    """

    role: str
    start: int
    end: int


class Encoding(NamedTuple):
    """Token ids of one text; it may be given wherever a text is.

    Attributes:
        ids: the tokens.
        turns: one for each message, in the order of the messages; empty unless the text was a conversation.
        text: what the tokenizer saw, which is the whole chat template for a conversation; empty where ids were given.

    Example:
        >>> chat = [{"role": "user", "content": "she ran !"}]
        >>> encoding = model.encode(chat)
        >>> encoding.text
        '<bos>Human: she ran !\\n\\nAssistant:'
        >>> encoding.turns
        [Turn(role='user', start=3, end=6)]
        >>> el.read(model, encoding, vectors, at="turn").labels
        ('user',)
    """

    ids: list[int]
    turns: list[Turn]
    text: str = ""


class Given(NamedTuple):
    """Texts that passed the gate, and whether a single one was given rather than several.

    Example:
        >>> Given(["she ran"], True).one
        True
    """

    texts: list[Text]
    one: bool


def gate(texts: Text | Sequence[Text]) -> Given:
    """The texts that were given, each a str, a list of messages, a list of ids or an `Encoding`.

    One text, or several in a list, tuple, Series, array, tensor, generator or another ordered container. What is
    given stays as it was.

    Raises:
        ValueError: anything else, with the number of the text (the first is 0) and what to call instead.

    Example:
        >>> gate("she ran")
        Given(texts=['she ran'], one=True)
        >>> gate(text for text in ("she ran", "he was calm"))
        Given(texts=['she ran', 'he was calm'], one=False)
        >>> gate(b"she ran")
        Traceback (most recent call last):
        ValueError: text 0 is bytes: decode them first, text.decode("utf-8")
    """
    listed = _listed(texts, "text 0")
    if isinstance(listed, (str, Encoding)):
        return Given([one_text(listed, "text 0")], True)
    if not listed:
        raise ValueError("no text was given: the list of texts is empty")
    if isinstance(first := _bare(listed[0]), Mapping) or _is_id(first):
        return Given([one_text(listed, "text 0")], True)
    return Given([one_text(text, f"text {number}") for number, text in enumerate(listed)], False)


def is_chat(text: Text) -> bool:
    """Whether a text is a conversation.

    Example:
        >>> is_chat([{"role": "user", "content": "hello"}]), is_chat("hello"), is_chat([5, 7])
        (True, False, False)
    """
    return isinstance(text, Sequence) and len(text) > 0 and isinstance(text[0], Mapping)


def _bare(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def one_text(text: Any, called: str) -> Text:
    """One text as a str, a list of messages, a list of ids or an `Encoding`; `called` begins the error.

    Raises:
        ValueError: anything else, with what to call instead.

    Example:
        >>> one_text((5, 7), "document 3")
        [5, 7]
        >>> one_text(None, "document 3")
        Traceback (most recent call last):
        ValueError: document 3 is missing (None): leave it out, as Series.dropna() does
    """
    text = _listed(text, called)
    if isinstance(text, (str, Encoding)):
        return text
    items = [_bare(item) for item in text]
    if items and isinstance(items[0], Mapping):
        for number, item in enumerate(items):
            if not isinstance(item, Mapping):
                raise ValueError(f"{called}: message {number} is {shown(item)}, not a dict with 'role' and 'content'")
        return [dict(item) for item in items]
    for number, item in enumerate(items):
        if not _is_id(item) or item < 0:
            raise ValueError(
                f"{called}: item {number} of the list is {shown(item)}. A text is a str, a list of messages, or a "
                f"list of token ids, which are integers from 0 on; several texts are one flat list of them"
            )
    return [int(item) for item in items]


def _listed(value: Any, called: str) -> Any:
    """A str or an `Encoding` as it is, any other container as a list; what is neither is refused."""
    if isinstance(value, Encoding):
        return value
    if isinstance(value, (Tensor, np.ndarray)):
        value = value.tolist()
    value = _bare(value)
    if isinstance(value, str):
        return str(value)
    if instead := _instead(value):
        raise ValueError(f"{called} is {instead}")
    return list(value)


def shown(value: Any) -> str:
    """A value as an error message names it.

    Example:
        >>> shown(3.5)
        "the float '3.5'"
    """
    return f"the {type(value).__name__} {str(value)[:40]!r}"


def _instead(value: Any) -> str:
    """What a value is that is no text, and what to call instead; empty for what can be listed."""
    kind, article = type(value).__name__, "an" if type(value).__name__[:1] in "AEIOUaeiou" else "a"
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return f"missing ({value!r}): leave it out, as Series.dropna() does"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f'{kind}: decode them first, text.decode("utf-8")'
    if isinstance(value, os.PathLike):
        return (
            f"a path: give what the file holds, Path({str(value)!r}).read_text(encoding='utf-8'), or el.scan the path"
        )
    if isinstance(value, Number):
        return f"the {kind} {value!r}: a text is a str, and token ids are a list of integers"
    if hasattr(value, "read"):
        return "an open file: give file.read() for one text, or file.read().splitlines() for a text of each line"
    if isinstance(value, (set, frozenset)):
        return "a set, which has no order: give sorted(texts), so that each result can be told from the others"
    if isinstance(value, pd.Series) and pd.api.types.is_numeric_dtype(value):
        return "a Series of numbers: give the column that holds the texts, or .tolist() if they are token ids"
    return _instead_of_record(value, kind, article)


def _instead_of_record(value: Any, kind: str, article: str) -> str:
    """`_instead` of what holds several fields, one of which may be the text."""
    columns = getattr(value, "column_names", getattr(value, "columns", None))
    if columns is not None and not isinstance(value, pd.Series):
        names = [str(name) for name in columns]
        column = "text" if "text" in names or not names else names[0]
        return (
            f'{article} {kind} with the columns {", ".join(names)}: give the one that holds the texts, df["{column}"]'
        )
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, value)) or "none"
        if "role" in value:
            return "a single message: a conversation is a list of them, [message]"
        field = next((key for key in ("text", "input_ids") if key in value), "")
        return f"{article} {kind} with the keys {keys}: " + (
            f'give its ["{field}"]' if field else "give the text itself, or messages with 'role' and 'content'"
        )
    if hasattr(value, "_fields"):
        return f"{article} {kind} with the fields {', '.join(value._fields)}: give the one that holds the text"
    if hasattr(value, "role") and hasattr(value, "content"):
        return f"{article} {kind}: a message is a dict with 'role' and 'content'; call its .model_dump()"
    if field := next((name for name in ("texts", "text") if hasattr(value, name)), ""):
        return f"{article} {kind}: give its .{field}"
    try:
        iter(value)
    except TypeError:
        return f"{article} {kind}, which is no text: a text is a str, a list of messages, or a list of token ids"
    return ""


def tokenized(tokenizer: Any, text: str | list[str], special: bool, **options: Any) -> Any:
    """The tokenizer's output, with its `special` tokens or without.

    Raises:
        ValueError: no tokenizer, a slow one, and what the tokenizer raises.

    Example:
        >>> tokenized(model.tokenizer, "she ran !", special=False).input_ids == model.encode("she ran !").ids
        True
    """
    if tokenizer is None:
        raise ValueError("the model has no tokenizer: give token ids")
    if not getattr(tokenizer, "is_fast", True):
        raise ValueError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which can't say where its tokens stand in the text: load "
            f"a fast one, AutoTokenizer.from_pretrained(name), from a model that has a tokenizer.json"
        )
    try:
        return tokenizer(text, add_special_tokens=special, **options)
    except Exception as error:
        broken = re.search("[\ud800-\udfff]", text) if isinstance(text, str) else None
        why = f"it holds half a surrogate pair at character {broken.start()}" if broken else str(error)
        raise ValueError(f"the tokenizer can't read the text: {why}") from error
