"""The same text after a story, read with the story before it and without: what is left of the story, and no wording.

The questions and answers after the stories differ, and their words may lean to an emotion or away from it. So each is
read twice: in its conversation, and in the same conversation without the story. The difference is the story's.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from emolens.models.model import HookedModel
from emolens.reading.read import activations, read
from emolens.results import StudyResult
from emolens.stats import p_text
from emolens.studies.state._scores import Conversations, held, margins, permutations, reader
from emolens.vectors.emotion_vectors import EmotionVectors

ABOUT = "How does the person in your text feel?"
UNRELATED = ("How do I descale a kettle?", "What's 15 percent of 240?", "How long does cooked rice keep in the fridge?")
ANSWER, OWN = "answer after", "its own question"
WITH, WITHOUT, LESS = "with the story", "without it", "difference"


def left_out(
    model: HookedModel, vectors: EmotionVectors, said: Conversations, layer: int, draws: int = 999, seed: int = 0
) -> StudyResult:
    """The story's emotion over the answer after it and right before replies to questions, with the story and without.

    The questions are each conversation's own, one about the story, and three that have nothing to do with it, the same
    after all stories. Scores are those of the denoised readout, each set of texts around its own mean.

    Args:
        vectors: of the conversations' emotions.
        layer: index of the block.
    """
    orders, rows = permutations(said.truth, draws, seed), []
    for place in (ANSWER, OWN, ABOUT, *UNRELATED):
        question = None if place in (ANSWER, OWN) else place
        chats = {WITH: _chats(said, place, question), WITHOUT: _chats(said, place, question, story=False)}
        values = {which: margins(_scores(model, vectors, chat, layer, place)) for which, chat in chats.items()}
        values[LESS] = values[WITH] - values[WITHOUT]
        for which, value in values.items():
            row = held(value, said.truth, orders, None, seed)
            rows.append({"place": place, "story": which, "method": "denoised", "layer": layer} | row)
    frame = pd.DataFrame(rows).drop(columns="p_shuffled")
    return StudyResult("left_out", frame, of_left_out(frame), f"{draws} permutations of the conversations' emotions")


def _chats(said: Conversations, place: str, question: str | None, story: bool = True) -> list[list[dict[str, str]]]:
    """The messages up to the question after the story (for the answer: with it), all of them or without the story's."""
    out = []
    for messages, (_, told, after) in zip(said.messages, said.parts, strict=True):  # the story is asked for before it
        last = messages[after - 1] if question is None else {"role": "user", "content": question}
        begin = messages[: told + 1] if story else messages[: told - 1]
        out.append([*begin, last, *([messages[after]] if place == ANSWER else [])])
    return out


def _scores(
    model: HookedModel, vectors: EmotionVectors, chats: Sequence[list[dict[str, str]]], layer: int, place: str
) -> Float[np.ndarray, "text emotion"]:
    """Scores over the answer, or right before the reply."""
    if place != ANSWER:
        return read(model, list(chats), vectors, layer, at="last", centre="set").scores.numpy().astype(float)
    turns = [model.encode_chat(chat).turns[-1] for chat in chats]
    x = activations(model, list(chats), [layer], [[(turn.start, turn.end)] for turn in turns])[0]
    return reader(vectors, layer, "denoised")(x, x.mean(dim=0))


def of_left_out(frame: pd.DataFrame) -> str:
    """What the story leaves in the answer after it and right before replies to unrelated questions.

    >>> rows = [(ANSWER, 0.01, 0.3), *((question, 0.05, 0.004) for question in UNRELATED)]
    >>> of_left_out(pd.DataFrame(rows, columns=["place", "effect", "p"]).assign(story=LESS))
    "Less the same text without the story, the story's emotion is read at 0.010 over the answer after it (p = 0.300) and
    at 0.050 right before the replies to three unrelated questions (largest p = 0.004)."
    """
    rows = frame[frame["story"] == LESS].set_index("place")
    answer, plain = rows.loc[ANSWER], rows.loc[list(UNRELATED)]
    return (
        f"Less the same text without the story, the story's emotion is read at {answer['effect']:.3f} over the answer "
        f"after it ({p_text(answer['p'])}) and at {plain['effect'].mean():.3f} right before the replies to three "
        f"unrelated questions (largest {p_text(plain['p'].max())})."
    )
