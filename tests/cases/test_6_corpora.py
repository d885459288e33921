"""Section 6: corpora as people have them give finite numbers, and say what could not be measured."""

import warnings

import numpy as np
import pytest
import torch
from tiny import WORDS

from emolens import corpus as texts
from emolens.corpus.stories import Corpus, Story
from emolens.steering.nulls import shuffled
from emolens.vectors.choose import choose
from emolens.vectors.derive import derive
from emolens.vectors.fit import fit
from emolens.vectors.folds import Folds
from emolens.vectors.refit import refit, stories_of
from emolens.vectors.story_means import pool_stories
from emolens.vectors.token_moments import token_moments
from emolens.vectors.whitening import check_shrinkage

pytestmark = pytest.mark.usefixtures("few_dialogues")
EMOTIONS = ("calm", "afraid", "angry")


def story(rng, emotion, register="default", topic="", words=40):
    return Story(emotion, register, topic, " ".join(rng.choice(WORDS, words)))


def made(cells, words=40, emotions=EMOTIONS):
    """A story of each emotion for each (register, topic)."""
    rng = np.random.default_rng(0)
    return Corpus(tuple(story(rng, e, register, topic, words) for register, topic in cells for e in emotions))


def finite(vectors, besides=("reliability",)):
    for name in (
        "raw",
        "whitened",
        "centre_stories",
        "residual_norm",
        "noise_scale",
        "reliability",
        "reliability_null",
    ):
        assert name in besides or getattr(vectors, name).isfinite().all(), name
    for row in vectors.stamp["sweep"]:
        assert 0 < row["mrr"] <= 1


PEOPLE_HAVE = {
    "pairs without topics": [("default", "")] * 4,
    "one shared topic": [("default", "work")] * 4,
    "registers without topics": [("spoken", ""), ("written", "")] * 3,
    "one story for each register": [("spoken", ""), ("written", "")],
    "two topics": [("default", "a"), ("default", "b")],
    "more topics than folds": [("default", f"t{i}") for i in range(8)],
    "a topic in one register alone": [("spoken", "a"), ("spoken", "b"), ("written", "a")],
}


@pytest.mark.parametrize("kind", PEOPLE_HAVE)
def test_derive_on_corpora_as_people_have_them(tiny, kind):
    # users of labelled sentences: `max(): Expected reduction dim`
    own = made(PEOPLE_HAVE[kind])
    own.check()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = derive(tiny, own, cache=False, progress=False)
    finite(vectors, besides=())
    assert vectors.stamp["sweep"] and vectors.stamp["folds"]["number"] >= 2
    expected = "topic" if len({topic for _, topic in PEOPLE_HAVE[kind]}) > 1 else "story"
    assert vectors.stamp["folds"]["by"] == expected


@pytest.mark.parametrize("kind", PEOPLE_HAVE)
@pytest.mark.parametrize("number", [2, 3, 6, 50])
def test_folds_leave_no_emotion_out(kind, number):
    own = made(PEOPLE_HAVE[kind])
    folds = Folds.of(own, number)
    assert 2 <= folds.number <= number
    for part in range(folds.number):
        train = {s.emotion for s, fold in zip(own, folds.fold.tolist(), strict=True) if fold != part}
        assert train == set(EMOTIONS) and (folds.fold == part).any()


def test_folds_of_the_packaged_stories_are_those_of_before():
    """The rule before this version, written out: vectors, choices and reliability of the packaged stories stay."""
    for own in (texts.stories(), texts.stories("plain"), texts.stories("literary")):
        for number in (2, 6):
            rule = {}
            for register in dict.fromkeys(s.register for s in own):
                for place, topic in enumerate(sorted({s.topic for s in own if s.register == register})):
                    rule[register, topic] = place % number
            folds = Folds.of(own, number)
            assert folds.by == "topic" and folds.number == number
            assert folds.fold.tolist() == [rule[s.register, s.topic] for s in own]


def test_a_missing_story_leaves_the_others_finite(tiny):
    # crossed designs with a gap: the reliability of all emotions was NaN in silence
    own = made([("default", f"t{i}") for i in range(4)])
    for gap in range(12):
        vectors = derive(tiny, Corpus(own.stories[:gap] + own.stories[gap + 1 :]), cache=False, progress=False)
        finite(vectors, besides=())
    rows = [s for s in own if s.emotion != "calm" or s.topic in ("t0", "t2")]  # which were one half of the topics
    vectors = derive(tiny, Corpus(tuple(rows)), cache=False, progress=False)
    finite(vectors, besides=())
    assert vectors.stamp["folds"] == {"by": "topic", "number": 6, "halves": "topic"} | {
        "number": Folds.of(Corpus(tuple(rows))).number
    }
    rows = [s for s in own if s.emotion != "calm" or s.topic == "t0"]  # a single one
    with pytest.warns(UserWarning, match="reliability of 'calm' cannot be measured"):
        vectors = derive(tiny, Corpus(tuple(rows)), cache=False, progress=False)
    finite(vectors)
    assert vectors.stamp["folds"]["by"] == vectors.stamp["folds"]["halves"] == "story"
    assert vectors.reliability[:, [vectors.index("afraid"), vectors.index("angry")]].isfinite().all()


def test_an_emotion_with_one_story_is_named_and_alone_without_reliability(tiny):
    own = made([("default", "")] * 4)
    own = Corpus((*own.stories, story(np.random.default_rng(1), "proud")))
    with pytest.warns(UserWarning, match="the reliability of 'proud' cannot be measured and is NaN"):
        vectors = derive(tiny, own, cache=False, progress=False)
    finite(vectors)
    unknown = vectors.reliability.isnan()
    row = vectors.emotions.index("proud")
    assert unknown[:, row].all() and unknown.sum() == unknown[:, row].numel()
    assert vectors.reliability_null.isfinite().all()
    others = derive(tiny, Corpus(own.stories[:-1]), cache=False, progress=False)
    keep = [e for e in vectors.emotions if e != "proud"]
    assert keep == list(others.emotions)
    assert Folds.of(own).fold[-1] == -1


def test_one_story_for_each_emotion_gives_vectors_and_says_what_was_not_chosen(tiny):
    own = made([("default", "")])
    with pytest.warns(UserWarning, match="Layer and shrinkage are not chosen"):
        vectors = derive(tiny, own, cache=False, progress=False)
    assert vectors.raw.isfinite().all() and vectors.reliability.isnan().all() and vectors.stamp["sweep"] == []
    assert vectors.chosen_layer("whitened") == vectors.default_layer


def test_copies_of_a_text_are_never_on_both_sides(tiny):
    # templates: one story under twelve topics gave a reliability of 1 without a word
    rng = np.random.default_rng(0)
    same = {e: story(rng, e).text for e in EMOTIONS}
    own = Corpus(tuple(Story(e, "default", f"t{i}", same[e]) for i in range(12) for e in EMOTIONS))
    with pytest.warns(UserWarning) as said:
        vectors = derive(tiny, own, cache=False, progress=False)
    assert any("33 of 36 stories repeat the text of another" in str(one.message) for one in said)
    assert vectors.reliability.isnan().all() and vectors.stamp["sweep"] == []
    mixed = made([("default", f"t{i}") for i in range(6)])
    mixed = Corpus((*mixed.stories, *(Story(s.emotion, s.register, "t5", s.text + " ") for s in mixed[:3])))
    for number in (2, 6):
        fold = Folds.of(mixed, number).fold.tolist()
        assert fold[:3] == fold[-3:]


@pytest.mark.parametrize("words", [1, 5, 11, 15])
def test_short_texts_are_averaged_from_a_lower_rank(tiny, words):
    # tweets: "12 stories are too short"
    first = iter(WORDS)
    own = Corpus.from_rows((e, " ".join([next(first), *WORDS[-words:]][:words])) for _ in range(4) for e in EMOTIONS)
    with pytest.warns(
        UserWarning, match=f"{len(own)} of {len(own)} stories are short, the first number 0 with {words} "
    ):
        vectors = derive(tiny, own, cache=False, progress=False)
    finite(vectors, besides=())
    pooled = pool_stories(tiny, own, cache=False, progress=False)
    rank = min(1, words - 1)
    neutral = token_moments(tiny, texts.neutral(), progress=False)
    assert torch.equal(fit(pooled, own, neutral, rank=rank).raw, vectors.raw)


def test_long_and_short_texts_are_each_read_as_read_does(tiny):
    rng = np.random.default_rng(0)
    own = Corpus(tuple(story(rng, e, words=n) for n in (5, 19, 20, 80) for e in EMOTIONS))
    with pytest.warns(UserWarning, match="6 of 12 stories are short"):
        derive(tiny, own, cache=False, progress=False)


def test_studies_find_stories_of_ones_own_by_the_stamp(tiny):
    own = made([("default", f"t{i}") for i in range(4)])
    vectors = derive(tiny, own, progress=False)
    assert stories_of(vectors) == own
    torch.testing.assert_close(refit(tiny, vectors).raw, vectors.raw)
    assert len(list(shuffled(tiny, vectors, [2], 2))) == 2
    assert stories_of(vectors, [("sad", "a")]) == Corpus.from_rows([("sad", "a")])


def test_stories_that_are_not_found_or_were_changed_are_named(tiny):
    from emolens.vectors.derive import corpus_path

    own = made([("default", f"t{i}") for i in range(4)])
    vectors = derive(tiny, own, cache=False, progress=False)
    with pytest.raises(ValueError, match="name theirs with corpus="):
        refit(tiny, vectors)
    path = corpus_path(own.hash)
    Corpus(own.stories[1:]).to_jsonl(path)
    with pytest.raises(ValueError, match="was changed since"):
        refit(tiny, vectors)


def test_short_stories_of_ones_own_can_be_refitted(tiny):
    own = made([("default", "")] * 4, words=8)
    with pytest.warns(UserWarning, match="are short"):
        vectors = derive(tiny, own, progress=False)
    torch.testing.assert_close(refit(tiny, vectors).raw, vectors.raw)


@pytest.mark.parametrize("folds", [1, 0, -3, True, 2.5])
def test_folds_are_checked(folds):
    own = made([("default", "")] * 4)
    with pytest.raises(Exception, match="folds=|type"):
        Folds.of(own, folds)


@pytest.mark.parametrize("shrinkage", [[], [0.0], [-1.0], [float("nan")], [float("inf")]])
def test_shrinkage_is_checked(tiny, shrinkage):
    own = made([("default", "")] * 4)
    pooled = pool_stories(tiny, own, [1], cache=False, progress=False)
    neutral = token_moments(tiny, texts.neutral(), [1], progress=False)
    with pytest.raises(ValueError, match="shrinkage is .*above 0"):
        choose(pooled, own, neutral, shrinkage, progress=False)
    with pytest.raises(ValueError, match="shrinkage is"):
        check_shrinkage(shrinkage)


def test_what_fit_is_given_is_checked(tiny):
    own = made([("default", "")] * 4)
    pooled = pool_stories(tiny, own, [1], cache=False, progress=False)
    neutral = token_moments(tiny, texts.neutral(), [1], progress=False)
    none, one = torch.zeros(12, dtype=torch.bool), torch.tensor([s.emotion == "calm" for s in own])
    for options, message in (
        ({"layers": []}, "layers is empty"),
        ({"layers": [2]}, "layer 2"),
        ({"keep": none}, "keep leaves stories of 0 emotions"),
        ({"keep": one}, "keep leaves stories of 1 emotions"),
        ({"rank": 7}, "rule 7 at layer 1 was not pooled"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(pooled, own, neutral, **options)
    with pytest.raises(ValueError, match="activations are of 12 texts and the corpus has 11"):
        fit(pooled, Corpus(own.stories[1:]), neutral)


def test_an_emotion_alone_in_its_register_is_named():
    rows = [Story(e, "spoken", "", e) for e in EMOTIONS] + [Story("calm", "sung", "", "la")]
    with pytest.raises(ValueError, match="register 'sung', topic '': .*Tell another emotion in this register too"):
        Corpus(tuple(rows)).check()
