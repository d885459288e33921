"""Section 1, files of ratings: an entry that is no rating is named by its line."""

import pytest

from emolens import corpus

HEAD = "emotion,valence,arousal\n"
GOOD = "calm,7.5,2\nangry,2,8\nsad,2.5,3\nhappy,8.5,6.5\nproud,8,5.5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "calm,nan,2\n", "line 2: valence is nan"),  # pandas writes nan for an empty cell
        (HEAD + "calm,5,inf\n", "line 2: arousal is inf"),
        (HEAD + "calm,5,-Infinity\n", "line 2: arousal is -inf"),
        (HEAD + "calm,5,\n", "line 2: no number among valence='5', arousal=''"),
        (HEAD + "calm,5\n", "line 2: no number among valence='5', arousal=None"),
        (HEAD + GOOD + "calm,7,2\n", "line 7: 'calm' was rated in line 2 already"),
        (HEAD + GOOD + "Calm ,7,2\n", "line 7: 'calm' was rated in line 2 already"),
        (
            HEAD + GOOD + "tense,-999,2\n",
            "line 7: valence=-999 for 'tense' is on another scale",
        ),  # a missing-value code
        (HEAD + GOOD + "tense,5,99\n", "line 7: arousal=99 for 'tense' .* between 2 and 8"),
        (HEAD + GOOD + "tense,2,7,5,1\n", "line 7: more cells than columns"),  # decimal commas
        (HEAD + ",2,7\n", "line 2: the emotion is empty"),
        (HEAD, "has a head and no rating"),
        ("emotion,valence,pleasure,arousal\ncalm,1,2,3\n", "more than one column for 'valence'"),
        ("emotion,valence,arousal,arousal\ncalm,1,2,3\n", "more than one column for 'arousal'"),
        ("emotion;valence;arousal\ncalm;1;2\n", "no column 'arousal'; it has emotion;valence;arousal"),
    ],
)
def test_entries_that_are_no_rating_are_named(tmp_path, text, message):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        corpus.ratings(path)


@pytest.mark.parametrize("name", ["mine.csv", "mine.CSV"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_good_ratings_are_read(tmp_path, name, mark):
    # spreadsheets write a byte-order mark, and suffixes in capitals
    path = tmp_path / name
    path.write_bytes(mark + (HEAD + GOOD).encode())
    assert corpus.ratings(path)["calm"] == {"valence": 7.5, "arousal": 2} and len(corpus.ratings(path)) == 5


def test_another_encoding_is_named_with_its_line(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes((HEAD + "calm,5,2\n").encode() + b"\xe9mu,5,2\n")
    with pytest.raises(ValueError, match="mine.csv, line 3: byte 33 is not UTF-8"):
        corpus.ratings(path)
