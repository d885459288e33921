"""What is taken for a text, and its token ids: with the span of each turn of a conversation and each token's label.

Everything that reads texts passes through `gate`, so that nothing else is read as one by accident.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from numbers import Integral, Number
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

Message = Mapping[str, Any]
# A str, a conversation (messages), token ids, or an `Encoding`. It is no narrower type, because `gate` refuses
# everything else by name, with what to call instead.
Text = Any

PLAIN_ROLES = {"system": "System", "user": "Human", "assistant": "Assistant"}
ROLES = (*PLAIN_ROLES, "tool", "developer")  # the last two only where the chat template names them
FOREIGN = {  # what other formats call the two keys of a message
    "role": ("speaker", "from", "author", "sender", "user", "name"),
    "content": ("text", "value", "message", "utterance", "body", "parts"),
}
FOREIGN_ROLES = {"human": "user", "prompter": "user"} | dict.fromkeys(("gpt", "bot", "ai", "model"), "assistant")
SPACES = "Ġ▁Ċĉč"  # white space in the names of tokens, of byte-level tokenizers and of sentencepiece
THOUGHT = re.compile(r".*(</(think|thinking|thought|reasoning)>|\[/THINK\])", re.DOTALL | re.IGNORECASE)


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
                raise ValueError(f"{called}: message {number} is {_shown(item)}, not a dict with 'role' and 'content'")
        return [dict(item) for item in items]
    for number, item in enumerate(items):
        if not _is_id(item) or item < 0:
            raise ValueError(
                f"{called}: item {number} of the list is {_shown(item)}. A text is a str, a list of messages, or a "
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


def _shown(value: Any) -> str:
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


# --- conversations -------------------------------------------------------------------------------------


def format_chat(tokenizer: Any, messages: Sequence[Message], **options: Any) -> str:
    """The conversation as the model reads it; ends right before a reply unless the assistant spoke last.

    The model's chat template (with `enable_thinking=False`, which templates without that option ignore);
    a base model without one gets a plain "Human: ... Assistant:" form.

    Args:
        options: of the chat template, such as `enable_thinking=True` or `tools=[...]`.

    Raises:
        ValueError: a message that is none, and what the template refuses, with the number of the message and the
            template's reason; an option that the template does not have.

    Example:
        >>> format_chat(model.tokenizer, [{"role": "user", "content": "she ran !"}])
        '<bos>Human: she ran !\\n\\nAssistant:'
    """
    return _rendered(tokenizer, _checked(tokenizer, messages), options)


def encode_chat(tokenizer: Any, messages: Sequence[Message], **options: Any) -> Encoding:
    """Token ids of a conversation and the token span of each message's content; `options` as in `format_chat`.

    The content is looked for in the conversation that the template wrote, white space aside. Where a template leaves
    the thoughts of an earlier reply out (`<think>...</think>`), the turn is what it kept of the reply.

    Raises:
        ValueError: as `format_chat`; a message that is empty, or that the template left out or rewrote.

    Example:
        >>> chat = [{"role": "user", "content": "she ran !"}, {"role": "assistant", "content": "calm"}]
        >>> encode_chat(model.tokenizer, chat).turns
        [Turn(role='user', start=3, end=6), Turn(role='assistant', start=8, end=9)]
    """
    messages = _checked(tokenizer, messages)
    rendered = _rendered(tokenizer, messages, options)
    tokens = _tokenized(tokenizer, rendered, False, return_offsets_mapping=True)
    turns = []
    for message, (start, end) in zip(messages, _places(tokenizer, messages, rendered, options), strict=True):
        inside = [i for i, (a, b) in enumerate(tokens.offset_mapping) if a < end and b > start]
        turns.append(Turn(message["role"], inside[0], inside[-1] + 1))
    return Encoding(tokens.input_ids, turns, rendered)


def _template(tokenizer: Any) -> str:
    """The source of the chat template, or of all where a model has several by name."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return "\n".join(template.values()) if isinstance(template, Mapping) else template


def _checked(tokenizer: Any, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages with their content as a string and without keys that hold nothing."""
    if not messages:
        raise ValueError("the conversation is empty: it has no messages")
    template = _template(tokenizer)
    return [_message(message, template, number) for number, message in enumerate(messages)]


def _message(message: Message, template: str, number: int) -> dict[str, Any]:
    filled = {str(key): value for key, value in message.items() if value is not None and value != []}
    if "role" not in message or not ("content" in message or "tool_calls" in message):
        raise ValueError(f"message {number} {_foreign(message)}")
    role = message["role"]
    if role not in ROLES:
        known = f" (give {FOREIGN_ROLES[role]!r})" if role in FOREIGN_ROLES else ""
        raise ValueError(
            f"message {number}: unknown role {role!r} in a conversation{known}; the roles are {', '.join(ROLES)}"
        )
    called = f"message {number} ({role})"
    if role not in PLAIN_ROLES and not re.search(rf"""['"]{role}['"]""", template):
        raise ValueError(f"{called}: the chat template of this model knows no role {role!r}")
    unread = [
        key for key in filled if key not in ("role", "content") and not re.search(rf"\b{re.escape(key)}\b", template)
    ]
    if unread:
        raise ValueError(f"{called} has the key {unread[0]!r}, which the chat template does not read: leave it out")
    return filled | {"content": _content(message.get("content"), called, "tool_calls" in filled)}


def _foreign(message: Message) -> str:
    """What is wrong with the keys of a message, and how they are mapped."""
    ours = {key: next((k for k in (key, *theirs) if k in message), None) for key, theirs in FOREIGN.items()}
    keys = ", ".join(map(str, message)) or "no key"
    said = f"has the keys {keys}; a message is a dict with 'role' and 'content'"
    if all(ours.values()):
        mapped = ", ".join(f'"{key}": m["{theirs}"]' for key, theirs in ours.items())
        return f"{said}: [{{{mapped}}} for m in messages]"
    if ours["content"]:
        return f'{said}. If these are rows of texts, give [row["{ours["content"]}"] for row in rows]'
    return said


def _content(content: Any, called: str, calls: bool) -> str:
    """The content of a message as a string, from parts where all of them are text."""
    if content is None:
        only = ", only tool_calls: give the call as the model wrote it, as the content" if calls else ""
        raise ValueError(f"{called} has no content{only}")
    if isinstance(content, (list, tuple)):
        for number, part in enumerate(content):
            kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
            if kind != "text" or not isinstance(part.get("text"), str):
                raise ValueError(f"{called}: part {number} of the content is of type {kind!r}; only text can be read")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise ValueError(f"{called}: the content is {_shown(content)}, not a str")
    if not content.strip():
        raise ValueError(f"{called} is empty")
    return content


def _rendered(tokenizer: Any, messages: Sequence[Message], options: Mapping[str, Any]) -> str:
    template = _template(tokenizer)
    for name in options:
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise ValueError(f"the chat template of this model has no option {name!r}" if template else
                             f"this model has no chat template, so there is no option {name!r}")  # fmt: skip
    if not template:
        turns = [f"{PLAIN_ROLES[m['role']]}: {m['content'].strip()}" for m in messages]
        reply = messages[-1]["role"] != "assistant"
        return (tokenizer.bos_token or "") + "\n\n".join(turns + ["Assistant:"] * reply)
    try:
        return _applied(tokenizer, messages, options)
    except Exception as error:
        refused = len(messages) - 1
        for number in range(len(messages)):
            try:
                _applied(tokenizer, messages[: number + 1], options)
            except Exception as again:
                if str(again) == str(error):
                    refused = number
                    break
        role = messages[refused]["role"]
        raise ValueError(f"message {refused} ({role}) is refused by the chat template: {error}") from error


def _applied(tokenizer: Any, messages: Sequence[Message], options: Mapping[str, Any]) -> str:
    how = {"enable_thinking": False} | dict(options)
    reply = messages[-1]["role"] != "assistant"
    return tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=False, add_generation_prompt=reply, **how
    )


def _places(
    tokenizer: Any, messages: Sequence[Message], rendered: str, options: Mapping[str, Any]
) -> list[tuple[int, int]]:
    """Where each message stands in the rendered conversation, in characters.

    Each is looked for in the text, white space aside. A short one such as "u" occurs in the template as well: marks
    that are rendered in place of the messages say in which order they stand and what stands between them.
    """
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    around = _dense(_rendered(tokenizer, marked, options))
    kept = [place for place, character in enumerate(rendered) if not character.isspace()]
    dense = "".join(rendered[place] for place in kept)
    places, end, cut = [(0, 0)] * len(messages), 0, 0
    for number in sorted(range(len(messages)), key=lambda number: around.find(marks[number])):
        called, content = f"message {number} ({messages[number]['role']})", messages[number]["content"]
        if (at := around.find(marks[number])) < 0:
            raise ValueError(f"{called} is left out by the chat template")
        start, length = _place(dense, end, around[cut:at], [_dense(said) for said in _ways(content)])
        if start < 0:
            raise ValueError(
                f"{called} was rewritten by the chat template, so its tokens can't be told: {content[:60]!r}"
            )
        end, cut = start + length, at + len(marks[number])
        places[number] = (kept[start], kept[end - 1] + 1)
    return places


def _dense(text: str) -> str:
    return "".join(text.split())


def _ways(content: str) -> Iterator[str]:
    """How a template may write a message: as it is, without its thoughts, or as a JSON string."""
    yield content
    if (answer := THOUGHT.sub("", content, count=1)) != content and answer.strip():
        yield answer
    yield json.dumps(content, ensure_ascii=False)[1:-1]


def _place(text: str, begin: int, before: str, ways: Sequence[str]) -> tuple[int, int]:
    """Start and length of the first of `ways` that stands in `text` from `begin` on, best right after `before`."""
    after = begin + len(before)
    if text.startswith(before, begin):
        for way in ways:
            if text.startswith(way, after):
                return after, len(way)
    for way in ways:
        starts = [found.start() for found in re.finditer(f"(?={re.escape(way)})", text[begin:])]
        if starts:
            best = max(starts, key=lambda start: _same_end(text[begin : begin + start], before))
            return begin + best, len(way)
    return -1, 0


def _same_end(a: str, b: str) -> int:
    """How many characters two strings have in common at their end."""
    pairs = enumerate(zip(reversed(a), reversed(b), strict=False))
    return next((place for place, (x, y) in pairs if x != y), min(len(a), len(b)))


# --- tokens --------------------------------------------------------------------------------------------


def encode(tokenizer: Any, text: Text) -> Encoding:
    """Token ids of a plain text, a conversation, or ids as they are.

    A text that begins with the BOS token, as those of `apply_chat_template` do, gets no second one. The end token
    that some tokenizers append is left out: what is read or continued is the text.

    Raises:
        ValueError: an empty text; what is no text; what `encode_chat` raises; a slow tokenizer.

    Example:
        >>> encode(model.tokenizer, "she ran !").ids == model.tokenizer("she ran !").input_ids
        True
        >>> encode(model.tokenizer, [5, 7, 9]).ids
        [5, 7, 9]
    """
    text = one_text(text, "the text")
    if isinstance(text, Encoding):
        encoding = text
    elif isinstance(text, str):
        ids = _tokenized(tokenizer, text, True).input_ids
        encoding = Encoding(ids[kept(tokenizer, text, ids)], [], text)
    elif is_chat(text):
        encoding = encode_chat(tokenizer, text)
    else:
        encoding = Encoding(text, [])
    if not encoding.ids or (isinstance(text, str) and not text.strip()):
        raise ValueError(f"the text {text!r} is empty: there is nothing to read")
    return encoding


def kept(tokenizer: Any, text: str, ids: Sequence[int]) -> slice:
    """Which of a text's tokens are kept: not a BOS before the text's own, and no end token that is not in the text.

    Example:
        >>> kept(model.tokenizer, "she ran !", [5, 7, 9])
        slice(0, 3, None)
        >>> kept(model.tokenizer, "she ran !", [5, 7, 9, model.tokenizer.eos_token_id])
        slice(0, 3, None)
    """
    first, end, bos = 0, len(ids), tokenizer.bos_token
    if bos and text.startswith(bos) and not text.startswith(2 * bos):
        first = int(list(ids[:2]) == [tokenizer.bos_token_id] * 2)
    for name in ("eos_token", "sep_token"):
        token = getattr(tokenizer, name, None)
        if token and ids[-1:] == [getattr(tokenizer, f"{name}_id")] and not text.rstrip().endswith(token):
            return slice(first, end - 1)
    return slice(first, end)


def _tokenized(tokenizer: Any, text: str | list[str], special: bool, **options: Any) -> Any:
    """The tokenizer's output, its special tokens with it or not."""
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


class Tokens(NamedTuple):
    """A text of any length as its tokens: `characters(rank)` is where each stands in the text, None where it does not.

    Example:
        >>> (tokens,) = tokens_of(model.tokenizer, ["she ran !"])
        >>> len(tokens.ids), tokens.characters(1)
        (3, (4, 7))
    """

    text: str
    ids: list[int]
    characters: Callable[[int], tuple[int, int] | None]


def tokens_of(tokenizer: Any, texts: Sequence[Text]) -> list[Tokens]:
    """The tokens that `encode` gives of each text, the strings among the texts in one call of the tokenizer.

    Raises:
        ValueError: what `encode` raises, with the number of the text.

    Example:
        >>> [len(tokens.ids) for tokens in tokens_of(model.tokenizer, ["she ran !", [5, 7]])]
        [3, 2]
    """
    strings, batch = [text for text in texts if isinstance(text, str)], None
    if strings:
        batch = _tokenized(tokenizer, strings, True, return_attention_mask=False, verbose=False)
    out, row = [], 0
    for number, text in enumerate(texts):
        if batch is not None and isinstance(text, str):
            part = kept(tokenizer, text, ids := batch.input_ids[row])
            place = partial(_in_batch, batch, row, part.start)
            out.append(Tokens(text, ids[part], place))
            row += 1
            continue
        try:
            encoding = encode(tokenizer, text)
        except ValueError as error:
            raise ValueError(f"text {number}: {error}") from error
        pieces = labels(tokenizer, encoding)
        ends = list(accumulate(map(len, pieces)))
        spans = [(end - len(piece), end) if piece else None for piece, end in zip(pieces, ends, strict=True)]
        out.append(Tokens("".join(pieces), encoding.ids, spans.__getitem__))
    return out


def _in_batch(batch: Any, row: int, first: int, rank: int) -> tuple[int, int] | None:
    place = batch.token_to_chars(row, first + rank)
    return place and (place.start, place.end)


def labels(tokenizer: Any, encoding: Encoding) -> list[str]:
    """The characters of the text that each token holds; together they are the text again, without what it drops.

    A character made of several tokens stands at the first of them, and the others have "". So has a special token
    that is not in the text, such as a BOS that the tokenizer puts before it.

    Example:
        >>> labels(model.tokenizer, model.encode("she ran !"))
        ['she', 'ran', '!']
        >>> labels(model.tokenizer, Encoding(model.encode("she ran !").ids, []))
        ['she', 'ran', '!']
    """
    text = encoding.text or tokenizer.decode(encoding.ids, clean_up_tokenization_spaces=False)
    special = bool(encoding.text) and not encoding.turns
    tokens = _tokenized(tokenizer, text, special, return_offsets_mapping=True)
    part = kept(tokenizer, text, tokens.input_ids) if special else slice(None)
    if tokens.input_ids[part] != list(encoding.ids):
        return _labels_of_ids(tokenizer, encoding.ids)
    pieces, done, spaced = [], 0, False
    for name, (start, end) in zip(tokens.tokens()[part], tokens.offset_mapping[part], strict=True):
        spaced = any(sign in name for sign in SPACES)  # the token holds white space that its offsets may leave out
        pieces.append(text[done if spaced else max(done, start) : end])
        done = max(done, end)
    pieces[-1] += text[done:] if spaced else ""
    return pieces


def _labels_of_ids(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text of those before it, for ids that the tokenizer would not give itself."""
    pieces, begin, done = [""] * len(ids), 0, 0  # the text of ids[begin:done] is in the pieces
    for end in range(1, len(ids) + 1):
        before = tokenizer.decode(ids[begin:done], clean_up_tokenization_spaces=False)
        now = tokenizer.decode(ids[begin:end], clean_up_tokenization_spaces=False)
        if (len(now) > len(before) and not now.endswith("\ufffd")) or end == len(ids):
            pieces[done] = now[len(before) :]
            begin, done = done, end
    return pieces
