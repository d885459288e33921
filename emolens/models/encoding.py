"""Texts and conversations as token ids, with the token span of each turn."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

Message = Mapping[str, str]
Text = str | Sequence[Message] | Sequence[int]  # plain text, a conversation, or token ids as they are

PLAIN_ROLES = {"system": "System", "user": "Human", "assistant": "Assistant"}


class Turn(NamedTuple):
    """Tokens [start, end) that hold the content of one message."""

    role: str
    start: int
    end: int


class Encoding(NamedTuple):
    """Token ids of one text; `turns` is empty unless the text was a conversation."""

    ids: list[int]
    turns: list[Turn]


def is_chat(text: Text) -> bool:
    return not isinstance(text, str) and len(text) > 0 and isinstance(text[0], Mapping)


def is_one(texts: Any) -> bool:
    """Whether this is a single text rather than several."""
    return isinstance(texts, str) or (len(texts) > 0 and isinstance(texts[0], (Mapping, int)))


def as_list(texts: Any) -> list[Text]:
    """A list of texts from one text, one conversation, or several of either."""
    if isinstance(texts, Tensor):
        texts = texts.tolist()
    return [texts] if is_one(texts) else list(texts)


def format_chat(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The conversation as the model reads it; ends right before a reply unless the assistant spoke last.

    The model's chat template (with `enable_thinking=False`, which templates without that option ignore);
    a base model without one gets a plain "Human: ... Assistant:" form.
    """
    for message in messages:
        if message.get("role") not in PLAIN_ROLES:
            raise ValueError(
                f"unknown role {message.get('role')!r} in a conversation; the roles are {', '.join(PLAIN_ROLES)}"
            )
    reply = messages[-1]["role"] != "assistant"
    if tokenizer.chat_template:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=reply, enable_thinking=False
        )
    turns = [f"{PLAIN_ROLES[m['role']]}: {m['content'].strip()}" for m in messages]
    return (tokenizer.bos_token or "") + "\n\n".join(turns + ["Assistant:"] * reply)


def encode_chat(tokenizer: Any, messages: Sequence[Message]) -> Encoding:
    """Token ids of a conversation and the token span of each message's content."""
    rendered = format_chat(tokenizer, messages)
    tokens = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    turns = []
    for number, (message, (start, end)) in enumerate(
        zip(messages, _places(tokenizer, messages, rendered), strict=True)
    ):
        if start == end or rendered[start:end] != message["content"].strip():
            raise ValueError(f"message {number} ({message['role']}) is empty or was rewritten by the chat template")
        inside = [i for i, (a, b) in enumerate(tokens.offset_mapping) if a < end and b > start]
        turns.append(Turn(message["role"], inside[0], inside[-1] + 1))
    return Encoding(tokens.input_ids, turns)


def _places(tokenizer: Any, messages: Sequence[Message], rendered: str) -> list[tuple[int, int]]:
    """Where each message stands in the rendered conversation, in characters.

    A short one such as "u" occurs in the template as well, so marks are rendered in its place first.
    """
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    between, around = [], format_chat(tokenizer, marked)
    for mark in marks:
        before, _, around = around.partition(mark)
        between.append(before)
    places, end = [], len(between[0])
    for message, after in zip(messages, [*between[1:], around], strict=True):
        start, content = end, message["content"]
        whole = content if rendered.startswith(content + after, start) else content.strip()  # some templates strip
        inside = start + len(whole) - len(whole.lstrip())
        places.append((inside, inside + len(whole.strip())))
        end = start + len(whole) + len(after)
    return places


def encode(tokenizer: Any, text: Text) -> Encoding:
    """Token ids of a plain text, a conversation, or ids as they are.

    Raises:
        ValueError: an empty text.
    """
    if isinstance(text, str):
        encoding = Encoding(tokenizer(text, add_special_tokens=True).input_ids, [])
    elif is_chat(text):
        encoding = encode_chat(tokenizer, text)  # type: ignore[arg-type]
    else:
        encoding = Encoding([int(token) for token in text], [])  # type: ignore[arg-type]
    if not encoding.ids or (isinstance(text, str) and not text.strip()):
        raise ValueError(f"the text {text!r} is empty: there is nothing to read")
    return encoding
