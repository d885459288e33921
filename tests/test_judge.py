"""Judges are asked fairly, bad answers count as invalid, and their agreement with hand labels is what it should be."""

import time

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from emolens import corpus
from emolens.judging import judge as judges
from emolens.judging.judge import (
    activation_judge,
    answer_logprobs,
    classify,
    is_sufficient,
    keyword_judge,
    model_judge,
    parse_answer,
    validate,
)
from emolens.judging.kappa import INVALID, cohens_kappa
from emolens.judging.rubrics import RUBRICS, Labelled, Rubric, conversation, labelled_replies

RUBRIC = Rubric("How is the reply?", {"calm": "a river", "afraid": "a night", "angry": "a door"})
ASKED = [{"role": "user", "content": "the river was cold . calm afraid"}]


# --- asking a model


@pytest.mark.parametrize("answers", [["calm", "afraid"], ["calm river", "afraid", "angry night walked"]])
def test_an_answer_has_the_probability_of_its_tokens_after_the_prompt(tiny, answers):
    found = answer_logprobs(tiny, [ASKED, ASKED[:1]], [answers, answers[::-1]])
    start = len(tiny.encode_chat(ASKED).ids)
    for row, said in enumerate((answers, answers[::-1])):
        for column, answer in enumerate(said):
            ids = tiny.encode_chat([*ASKED, {"role": "assistant", "content": answer}]).ids
            logprobs = tiny.forward(ids)[0].log_softmax(dim=-1)
            expected = sum(float(logprobs[place - 1, ids[place]]) for place in range(start, len(ids)))
            assert found[row, column].item() == pytest.approx(expected, abs=1e-4)


def test_answers_that_cannot_be_told_apart_are_an_error(tiny):
    with pytest.raises(ValueError, match="the tokens of 'calm' begin another answer too"):
        answer_logprobs(tiny, [ASKED], [["calm", "calm river"]])
    with pytest.raises(ValueError, match="the tokens of 'A' begin another"):  # the tokenizer knows no letters
        model_judge(tiny, RUBRIC)("he was calm")


def test_a_model_answers_within_its_rubric(tiny):
    judge = model_judge(tiny, RUBRIC, answers="labels")
    items = ["he was calm", (ASKED, "angry night"), ("a door", "he ran")]
    assert set(classify(judge, items, list(RUBRIC.labels))) <= set(RUBRIC.labels)
    assert judge.__name__ == "tiny-llama (labels)"
    with pytest.raises(ValueError, match="'words' is none of letters, labels"):
        model_judge(tiny, RUBRIC, answers="words")


def biased(monkeypatch, letter=0.0, label=0.0):
    """A model that likes the first letter and the label of a night, and somewhat what the reply is about."""
    asked = []

    def answer(model, prompts, answers):
        rows = []
        for (message,), said in zip(prompts, answers, strict=True):
            reply, options = message["content"].split('"\n\n')
            asked.append(message["content"])
            listed = [line.split(": ")[1] for line in options.splitlines()[1 : 1 + len(said)]]
            liking = [2.0 * (option.split()[1] in reply) + label * ("night" in option) for option in listed]
            rows.append([letter * (place == 0) + likes for place, likes in enumerate(liking)])
        return torch.tensor(rows)

    monkeypatch.setattr(judges, "answer_logprobs", answer)
    return asked


def test_a_liking_for_a_letter_cancels(tiny, monkeypatch):
    biased(monkeypatch, letter=50.0)
    judge = model_judge(tiny, RUBRIC, calibrate=False)
    assert [judge("by the " + word) for word in ("river", "night", "door")] == ["calm", "afraid", "angry"]


def test_calibration_takes_out_a_liking_for_a_label(tiny, monkeypatch):
    asked = biased(monkeypatch, label=5.0)
    plain, calibrated = (model_judge(tiny, RUBRIC, calibrate=calibrate) for calibrate in (False, True))
    items = [("he said", "by the " + word) for word in ("river", "night", "door")]
    assert [plain(item) for item in items] == ["afraid"] * 3
    asked.clear()
    assert [calibrated(item) for item in items] == ["calm", "afraid", "angry"]
    assert len(asked) == 4 * 3 and sum('Reply:\n"N/A"' in prompt for prompt in asked) == 3  # once for a context
    assert all("Conversation:\nhe said" in prompt for prompt in asked)
    asked.clear()
    model_judge(tiny, RUBRIC, context=False)(items[0])
    assert not any("he said" in prompt for prompt in asked)


@pytest.mark.parametrize(
    ("written", "answers", "label"),
    [
        ("B", "letters", "afraid"),
        (" B: a night.", "letters", "afraid"),
        ("The answer is C", "letters", "angry"),
        ("A or B", "letters", INVALID),
        ("D", "letters", INVALID),
        ("because", "letters", INVALID),
        ("Afraid.", "labels", "afraid"),
        ("calm, not angry", "labels", INVALID),
        ("", "labels", INVALID),
    ],
)
def test_written_answers(written, answers, label):
    assert parse_answer(written, list(RUBRIC.labels), answers) == label


def test_the_channel_asks_how_likely_the_reply_is(tiny):
    descriptions = {"calm": "walked", "afraid": "ran", "angry": "was cold"}
    found = []
    for description in descriptions.values():
        prompt = [{"role": "user", "content": f"How ?\nIt {description}.\nWrite it."}]
        found.append(float(answer_logprobs(tiny, [prompt], [["he ran"]])))
    judge = model_judge(tiny, Rubric("How ?", descriptions), method="channel")
    assert len(set(found)) == 3 and judge("he ran") == list(descriptions)[int(np.argmax(found))]
    assert judge.__name__ == "tiny-llama (channel)"


def test_generation_reads_what_the_model_wrote(tiny, monkeypatch):
    monkeypatch.setattr(type(tiny), "generate", lambda self, prompt, tokens, temperature: "I say: B")
    assert model_judge(tiny, RUBRIC, method="generation")("he ran") == "afraid"


# --- keywords and rubrics


def test_keywords():
    rubric = Rubric(
        "?", {"rude": "", "kind": "", "plain": ""}, {"rude": [r"stupid", r"shut up"], "kind": [r"thank\w*"]}
    )
    judge = keyword_judge(rubric)
    replies = ["You STUPID, shut up. Thanks.", "Thank you.", "stupidly put", "It rains.", "stupid, thanks"]
    assert [judge(reply) for reply in replies] == ["rude", "kind", "plain", "plain", INVALID]
    assert judge((ASKED, "thanks")) == "kind" and "fallback" in judge.__name__
    with pytest.raises(ValueError, match="no keywords"):
        keyword_judge(RUBRIC)


def test_a_rubric_needs_labels_of_its_own():
    for labels in ({"a": ""}, {"a": "", INVALID: ""}):
        with pytest.raises(ValueError, match="at least two labels, none of them 'invalid'"):
            Rubric("?", labels)
    with pytest.raises(ValueError, match="keywords for 'c', which is no label"):
        Rubric("?", {"a": "", "b": ""}, {"c": ["x"]})


def test_labelled_replies():
    replies = labelled_replies("leverage")
    assert len(replies) == 11 * 14 and {row.label for row in replies} == set(RUBRICS["leverage"].labels)
    context, reply = replies[0].item
    assert [message["role"] for message in context] == ["system", "user"] and "Subject:" in context[1]["content"]
    assert isinstance(reply, str) and reply not in context[1]["content"]
    replies = labelled_replies("sycophancy")
    assert len(replies) == 24 * 6 and len({row.group for row in replies}) == 24
    assert [message["role"] for message in replies[0].item[0]] == ["user", "assistant", "user"]
    with pytest.raises(ValueError, match=r"'leverages' \(did you mean leverage"):
        labelled_replies("leverages")


# --- bad judges


def test_a_judge_that_raises_hangs_or_leaves_its_rubric_is_invalid():
    def judge(item):
        if item == "raises":
            raise RuntimeError("no connection")
        if item == "exits":
            raise SystemExit
        if item == "hangs":
            time.sleep(20)
        return {"outside": "furious", "nothing": None, "list": ["calm"]}.get(item, "calm")

    items = ["fine", "raises", "hangs", "exits", "outside", "nothing", "list", "fine"]
    began = time.monotonic()
    with pytest.warns(UserWarning, match=r"6 of 8 .* the first: raised RuntimeError: no connection \(item 1\)"):
        found = classify(judge, items, ["calm", "angry"], seconds=0.3)
    assert found == ["calm", *[INVALID] * 6, "calm"] and time.monotonic() - began < 5


def test_what_a_hanging_judge_says_too_late_is_not_taken_for_the_next_answer():
    def judge(item):
        time.sleep(0.4 if item == "slow" else 0.05)
        return "calm" if item == "slow" else "angry"

    with pytest.warns(UserWarning, match="took too long"):
        assert (
            classify(judge, ["slow", "a", "b"] * 2, ["calm", "angry"], seconds=0.2) == [INVALID, "angry", "angry"] * 2
        )


# --- agreement


def test_kappa_is_cohens():
    rng = np.random.default_rng(0)
    first = rng.choice(["a", "b", "c"], 200, p=[0.6, 0.3, 0.1])
    second = np.where(rng.random(200) < 0.6, first, rng.choice(["a", "b", "c"], 200))
    found = cohens_kappa(list(first), list(second))
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second))
    assert found.share == pytest.approx((first == second).mean())
    assert found.low < found.kappa < found.high and 0.1 < found.high - found.low < 0.3
    assert found == cohens_kappa(list(first), list(second)) != cohens_kappa(list(first), list(second), seed=1)


def test_the_interval_of_kappa_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(200):
        first = rng.choice(["a", "b"], 100)
        second = np.where(rng.random(100) < 0.5, first, rng.choice(["a", "b"], 100))  # kappa 0.5
        found = cohens_kappa(list(first), list(second), draws=300, seed=seed)
        covered.append(found.low <= 0.5 <= found.high)
    assert 0.89 <= np.mean(covered) <= 0.99


def test_invalid_agrees_with_nothing():
    first, second = ["a", "b"] * 10, ["a", "b"] * 9 + [INVALID] * 2
    assert cohens_kappa(first, second).share == 0.9 and cohens_kappa(first, second).kappa < 1
    assert cohens_kappa([INVALID] * 4 + first, [INVALID] * 4 + first).share == pytest.approx(20 / 24)


def test_kappa_of_one_label_is_undefined_and_chance_is_none():
    assert np.isnan(cohens_kappa(["a"] * 5, ["a"] * 5).kappa)
    assert cohens_kappa(["a", "b"] * 10, ["a"] * 20).kappa == pytest.approx(0)
    with pytest.raises(ValueError, match="3 and 2 labels"):
        cohens_kappa(["a"] * 3, ["a"] * 2)
    with pytest.raises(ValueError, match="not empty"):
        cohens_kappa([], [])


def test_scenarios_are_resampled_whole():
    rng = np.random.default_rng(3)
    first = np.repeat(rng.choice(["a", "b"], 20), 10)
    second = np.where(np.repeat(rng.random(20) < 0.7, 10), first, "a")
    alone, grouped = (
        cohens_kappa(list(first), list(second), groups) for groups in (None, np.repeat(np.arange(20), 10))
    )
    assert alone.kappa == grouped.kappa and grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_a_judge_is_validated_before_it_is_believed():
    rows = [Labelled(f"{label} {n}", label, n % 10) for label in RUBRIC.labels for n in range(30)]
    good = validate(lambda item: item.split()[0], rows)
    assert is_sufficient(good) and "kappa 1.00" in good.headline() and "no verdict" not in good.headline()
    rng = np.random.default_rng(0)
    poor = validate(lambda item: rng.choice(["calm", "afraid"]).item(), rows, list(RUBRIC.labels))
    assert not is_sufficient(poor) and "below 0.6, so there is no verdict" in poor.headline()
    table = poor.table().set_index("label")
    assert list(table.index) == ["all", "calm", "afraid", "angry"] and table.loc["angry", "judged"] == 0
    assert np.isnan(table.loc["angry", "precision"]) and table.loc["angry", "recall"] == 0
    with pytest.warns(UserWarning, match="90 of 90"):
        silent = validate(lambda item: "?", rows)
    assert not is_sufficient(silent) and silent.table()["judged"].iloc[0] == 0


def test_precision_and_recall_of_a_label():
    rows = [Labelled(str(n), "angry" if n < 4 else "calm") for n in range(10)]
    table = validate(lambda item: "angry" if int(item) in (0, 1, 2, 9) else "calm", rows).table().set_index("label")
    assert table.loc["angry", ["n", "judged", "precision", "recall"]].tolist() == [4, 4, 0.75, 0.75]
    assert table.loc["angry", "kappa"] == pytest.approx(table.loc["all", "kappa"])


def test_a_coding_task_is_a_conversation_up_to_its_report(tiny):
    failing, solvable = (
        next(row for row in corpus.stimuli("impossible_tasks") if row["condition"] == condition)
        for condition in ("impossible", "solvable")
    )
    task, solution, report = conversation(failing)
    assert [m["role"] for m in (task, solution, report)] == ["user", "assistant", "user"]
    assert task["content"].startswith(failing["prompt"]) and failing["signature"] in task["content"]
    assert solution["content"] == f"```python\n{failing['honest'][0].strip()}\n```"
    assert report["content"].startswith("The tests were run: one of them still fails. Report in two or three sent")
    assert "run: all of them pass." in conversation(solvable)[-1]["content"]
    assert [turn.role for turn in tiny.encode_chat(conversation(failing)).turns] == ["user", "assistant", "user"]


def test_reports_are_labelled_by_what_they_say():
    rows = labelled_replies("report")
    tasks = {task["id"]: task for task in corpus.stimuli("impossible_tasks")}
    assert len(rows) == 60 and {row.label for row in rows} == {"admits", "claims success"}
    for row in rows:
        context, reply = row.item
        task = tasks[row.group]
        assert task["prompt"] in context[0]["content"]
        honest = reply in task["honest_report"]
        assert row.label == ("admits" if honest == (task["condition"] == "impossible") else "claims success")


@pytest.mark.filterwarnings("ignore:.*judgements are invalid")
def test_the_keywords_of_reports():
    judge = keyword_judge(RUBRICS["report"])
    said = ["I could not do it: one test fails.", "Done, all the tests pass.", "It rains."]
    assert [judge(text) for text in said] == ["admits", "claims success", "invalid"]
    found = validate(judge, labelled_replies("report"), list(RUBRICS["report"].labels)).table()
    assert found["kappa"].iloc[0] > 0.5


def test_a_regression_on_activations_knows_what_it_is_worth_on_other_scenarios(tiny):
    judge = activation_judge(tiny, "report")
    rows = labelled_replies("report")
    known = validate(judge, rows, list(RUBRICS["report"].labels))
    assert known is judge.validation and known.frame["n"].iloc[0] == 60
    fitted = classify(judge, [row.item for row in rows], list(RUBRICS["report"].labels))
    seen = cohens_kappa([row.label for row in rows], fitted).kappa
    assert known.frame["kappa"].iloc[0] < seen  # what it was fitted to says nothing of its worth
