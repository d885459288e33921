"""Texts and conversations as token ids, and the characters that each token holds."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

from emolens.models.conversations import encode_chat
from emolens.models.texts import Encoding, Text, is_chat, one_text, tokenized

SPACES = "Ġ▁Ċĉč"  # white space in the names of tokens, of byte-level tokenizers and of sentencepiece


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
        ids = tokenized(tokenizer, text, True).input_ids
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
        batch = tokenized(tokenizer, strings, True, return_attention_mask=False, verbose=False)
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
    tokens = tokenized(tokenizer, text, special, return_offsets_mapping=True)
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
