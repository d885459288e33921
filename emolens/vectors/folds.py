"""Which stories are left out together, so that each emotion stays and no text is on both sides."""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from emolens.corpus.stories import Corpus, wording

FOLDS = 6


@dataclass(frozen=True)
class Folds:
    """Which part each story is left out with; -1 where it never is.

    Attributes:
        fold: number of the part.
        by: "topic" where whole topics are left out, "story" where that would leave an emotion without a story.
        number: how many parts there are.
    """

    fold: Int[Tensor, "text"]
    by: str
    number: int

    @classmethod
    def of(cls, corpus: Corpus, number: int = FOLDS) -> "Folds":
        """Deals the topics of each register over at most `number` parts, in order of their name.

        Where an emotion would have all its stories in one part, the topics of the rarest emotions are dealt first. If
        that does not help, the stories of each emotion are dealt, over so many parts that each emotion has one in
        each; an emotion with a single text is then never left out. Copies of a text stay together.

        >>> folds = Folds.of(corpus, 3)
        >>> folds.by, folds.number, folds.fold.bincount()
        ('topic', 3, tensor([12, 12, 12]))
        >>> Folds.of(Corpus.from_rows([("sad", "a"), ("sad", "b"), ("calm", "c"), ("calm", "d"), ("proud", "e")]))
        Folds(fold=tensor([ 0,  1,  0,  1, -1]), by='story', number=2)

        Raises:
            ValueError: fewer than two parts.
        """
        if isinstance(number, bool) or not isinstance(number, int) or number < 2:
            raise ValueError(f"folds={number!r}: give a whole number of at least 2, so that some stories are left")
        for deal in (_by_name, _rarest_first):
            part_of_group, part_of_text = deal(corpus, number), dict[str, int]()
            fold = [part_of_text.setdefault(_wording(s.text), part_of_group[s.register, s.topic]) for s in corpus]
            parts: dict[str, set[int]] = {}
            for story, part in zip(corpus, fold, strict=True):
                parts.setdefault(story.emotion, set()).add(part)
            if all(len(numbers) > 1 for numbers in parts.values()):
                return cls(torch.tensor(fold), "topic", max(fold) + 1)
        return cls._by_story(corpus, number)

    @classmethod
    def _by_story(cls, corpus: Corpus, number: int) -> "Folds":
        places: dict[str, dict[str, int]] = {}
        for story in sorted(corpus, key=lambda story: (story.register, story.topic)):
            own = places.setdefault(story.emotion, {})
            own.setdefault(_wording(story.text), len(own))
        number = min([number, *(len(own) for own in places.values() if len(own) > 1)])
        fold = [
            places[story.emotion][_wording(story.text)] % number if len(places[story.emotion]) > 1 else -1
            for story in corpus
        ]
        return cls(torch.tensor(fold), "story", number if max(fold) >= 0 else 0)


_wording = lru_cache(maxsize=1 << 13)(wording)  # a null of shuffled labels asks for the same texts at each draw


def _by_name(corpus: Corpus, parts: int) -> dict[tuple[str, str], int]:
    """The topics of each register, dealt in order of their name."""
    topics: dict[str, set[str]] = {}
    for story in corpus:
        topics.setdefault(story.register, set()).add(story.topic)
    return {
        (register, topic): number % parts
        for register, names in topics.items()
        for number, topic in enumerate(sorted(names))
    }


def _rarest_first(corpus: Corpus, parts: int) -> dict[tuple[str, str], int]:
    """The topics of the emotion with the fewest first, each to the part in which that emotion has the fewest."""
    by_name = _by_name(corpus, parts)
    if {register for register, _ in by_name} != {register for (register, _), part in by_name.items() if part}:
        return by_name  # a register of one topic, which would be left out as a whole
    groups: dict[str, list[tuple[str, str]]] = {}
    for emotion, register, topic in sorted({(story.emotion, story.register, story.topic) for story in corpus}):
        groups.setdefault(emotion, []).append((register, topic))
    dealt: dict[tuple[str, str], int] = {}
    for own in sorted(groups.values(), key=len):
        for group in own:
            if group not in dealt:
                here, all_in = Counter(dealt[g] for g in own if g in dealt), Counter(dealt.values())
                dealt[group] = min(range(parts), key=lambda part: (here[part], all_in[part], part))
    return dealt
