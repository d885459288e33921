"""Where mails and replies stand in tokens, and that a planted difference is found, and nothing else."""

from itertools import pairwise

import matplotlib.pyplot as plt
import planted as known
import pytest
import torch
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer

import emolens as el
from emolens import corpus, plots
from emolens.judging.rubrics import conversation, mail
from emolens.models.model import HookedModel
from emolens.reading.read import activations
from emolens.studies.behaviour import traces

SCENARIO = corpus.stimuli("leverage")[3]
TEMPLATE = (
    "{% for m in messages %}<eos> {{ m['role'] }} {{ m['content'] }} <eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<eos> assistant{% endif %}"
)


def mails(generator, *cues, n=5):
    """An inbox of which the last two mails have these cues in them."""
    bodies = [known.sentence(generator, *(cues if i >= n - 2 else ()), length=8) for i in range(n)]
    return [{"from": "word1", "to": "word2", "subject": f"word{i}", "body": body} for i, body in enumerate(bodies)]


def scenarios(threat=(), coercive=(), n=4, seed=0):
    """Short scenarios, in the last mails and in the coercive replies of which these cues stand."""
    generator = torch.Generator().manual_seed(seed)
    conditions = ["threat"] * (n - 1) + ["no_threat"]
    return [
        {
            "id": f"s{number}",
            "condition": condition,
            "system": "word3 word4",
            "task": "word5 word6",
            "emails": mails(generator, *(threat if condition == "threat" else ())),
            "coercive": [known.sentence(generator, *coercive, length=8) for _ in range(3)],
            "honest": [known.sentence(generator, length=8) for _ in range(3)],
        }
        for number, condition in enumerate(conditions)
    ]


def chat_tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_mails_and_replies_are_read_at_their_own_tokens(tiny):
    model = HookedModel.from_hf(tiny_llama(context=2048), chat_tokenizer(), "tiny-llama")
    reply = SCENARIO["coercive"][0]
    rows = [*conversation(SCENARIO), {"role": "assistant", "content": reply}]
    for one, messages in ((model, conversation(SCENARIO)), (tiny, rows)):  # with a template, and in the plain form
        one.n_ctx = 2048
        ids = one.encode(messages).ids
        spans = traces.mail_spans(one, SCENARIO)
        assert [name for name, _, _ in spans] == [message["subject"] for message in SCENARIO["emails"]]
        for (_, start, end), message in zip(spans, SCENARIO["emails"], strict=True):
            assert ids[start:end] == one.tokenizer(mail(message), add_special_tokens=False).input_ids
        assert all(a.end == b.start for a, b in pairwise(spans))  # this tokenizer has no token for an empty line


@pytest.mark.parametrize("kind", ["llama", "gemma"])  # gemma's window is shorter than what is before the replies
def test_sharing_what_is_before_the_replies_changes_nothing(kind):
    hf_model = tiny_llama() if kind == "llama" else tiny_gemma()
    model = HookedModel.from_hf(hf_model, chat_tokenizer(), kind)
    row = scenarios(("night", "door"), ("angry",))[0]
    row = row | {"coercive": ["w1 w2 angry", "w3"], "honest": ["w4 w5 w6 calm", "w1 w7"]}
    replies = [*row["coercive"], *row["honest"]]
    shared = traces.tokens_of(model, row, replies, 2)
    for reply, said in zip(replies, shared.replies, strict=True):
        messages = [*conversation(row), {"role": "assistant", "content": reply}]
        turn, spans = model.encode_chat(messages).turns[-1], traces.mail_spans(model, row)
        places = [[(i, i + 1) for i in range(start, end)] for _, start, end in [turn, *spans]]
        for part, alone in zip([said, *shared.mails], places, strict=True):
            torch.testing.assert_close(part, activations(model, [messages], [2], [alone])[0], rtol=1e-4, atol=1e-5)
    assert len(shared.replies[0]) == 3 and len(traces.tokens_of(model, row, [], 2).replies) == 0


def run(planted, rows, emotions=("afraid", "calm", "proud"), **options):
    model, vectors = planted
    options = {"emotions": emotions, "scenarios": rows, "corpus": known.stories(0)} | options
    return traces.run(model, vectors, **options)["contrasts"]


def test_what_the_mails_announce_and_what_the_replies_do_are_told_apart(planted):
    afraid, proud = (f"cue{known.EMOTIONS.index(name)}" for name in ("afraid", "proud"))
    result = run(planted, scenarios([afraid] * 2, [proud] * 2))
    table = result.table().set_index(["group", "emotion"])
    announced, coercive = traces.CONTRASTS
    assert table.loc[(announced, "afraid"), "shift"] > 0.2 and table.loc[(coercive, "proud"), "shift"] > 0.2
    assert set(table.index[table["counts"]]) == {(announced, "afraid"), (coercive, "proud")}
    row = table.loc[(coercive, "proud")]
    assert row["low"] <= row["shift"] <= row["high"] and row["null_high"] < row["shift"]
    assert set(table["scenarios"]) == {3, 4} and "afraid moves most" in result.headline()
    plt.close(result.plot().figure)


def test_scenarios_without_a_difference_give_none(planted):
    assert not run(planted, scenarios()).table()["counts"].any()
    everywhere = scenarios(seed=3)  # the cue is in the last mails of all: no threat is needed for it
    for row in everywhere:
        row["emails"] = mails(torch.Generator().manual_seed(9), "cue0", "cue0")
    assert not run(planted, everywhere).table()["counts"].any()


def test_quick_reads_few_scenarios_and_its_null_is_a_prediction_interval(planted):
    table = run(planted, scenarios(["cue0"] * 2, n=5), size="quick").table()
    assert set(table["scenarios"]) == {2, 3}  # with a threat, and all
    assert table["p_random"].min() < 1 / 11  # no rank among ten
    assert table.groupby("emotion")["counts"].any()["afraid"]


def test_the_mails_by_their_places(planted):
    model, vectors = planted
    result = traces.by_mail(model, vectors, ["afraid", "calm"], scenarios(["cue0"] * 2))
    table = result.table().set_index(["template", "value", "emotion"])["score"]
    assert table["threat", -1, "afraid"] > 0.2 > table["threat", -3, "afraid"]
    assert table["no threat", -1, "afraid"] < 0.1
    plt.close(result.plot().figure)


def test_a_trace_can_be_drawn_with_its_mails_and_its_reply(planted):
    model, vectors = planted
    row = scenarios(["cue0"] * 2, ["cue9"] * 2)[0]
    trace = traces.trace(model, vectors, row, row["coercive"][0])
    assert len(trace.readout) == len(model.encode(conversation(row)).ids) + len(row["coercive"][0].split())
    assert [turn.role for turn in trace.reply] == ["reply"] and len(trace.mails) == 5
    assert trace.readout.labels[trace.reply[0].start :] == tuple(row["coercive"][0].split())
    assert traces.trace(model, vectors, row).reply == []
    plt.close(plots.token_curves(trace.readout, ["afraid"], trace.mails, trace.reply).figure)


def test_what_makes_no_sense_is_named(planted):
    model, vectors = planted
    rows = scenarios()
    with pytest.raises(ValueError, match="no scenario 'L1-kestrel'.*there are L1-kestrel-bay, L2"):
        traces.trace(model, vectors, "L1-kestrel")
    with pytest.raises(ValueError, match="the reply is empty"):
        traces.trace(model, vectors, rows[0], " ")
    with pytest.raises(ValueError, match="3 scenarios with the condition 'threat' and 0 with 'no_threat'"):
        run(planted, rows[:-1])
    with pytest.raises(ValueError, match="size='huge'"):
        run(planted, rows, size="huge")
    with el.steer(model, [vectors["calm"]] * 2, 0.1, layers=2), pytest.raises(ValueError, match="steering of 2 rows"):
        run(planted, rows)
