"""Conversations in a model's chat template, with the token span of each turn."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emolens.models.texts import Encoding, Message, Turn, shown, tokenized

PLAIN_ROLES = {"system": "System", "user": "Human", "assistant": "Assistant"}
ROLES = (*PLAIN_ROLES, "tool", "developer")  # the last two only where the chat template names them
FOREIGN = {  # what other formats call the two keys of a message
    "role": ("speaker", "from", "author", "sender", "user", "name"),
    "content": ("text", "value", "message", "utterance", "body", "parts"),
}
FOREIGN_ROLES = {"human": "user", "prompter": "user"} | dict.fromkeys(("gpt", "bot", "ai", "model"), "assistant")
THOUGHT = re.compile(r".*(</(think|thinking|thought|reasoning)>|\[/THINK\])", re.DOTALL | re.IGNORECASE)


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
    tokens = tokenized(tokenizer, rendered, False, return_offsets_mapping=True)
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
        raise ValueError(f"{called}: the content is {shown(content)}, not a str")
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
