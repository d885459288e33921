"""Issue 13, section 4: conversations in the chat templates of real families."""

import copy

import pytest
from chats import CHATML, DEAF, FAMILIES, GEMMA, LLAMA3, MISTRAL, QWEN3, byte_model, byte_tokenizer

import emolens as el
from emolens.models.conversations import encode_chat, format_chat
from emolens.models.encoding import encode


def chat(*contents, system=None):
    roles = ("user", "assistant") * len(contents)
    said = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return said if system is None else [{"role": "system", "content": system}, *said]


def reply(content):
    return {"role": "assistant", "content": content}


def parts(*content):
    return [{"role": "user", "content": list(content)}]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}
TOOLS = CHATML + "{% if messages[0].tool_calls %}{% endif %}"


def said(tokenizer, messages, **options):
    """What each turn holds."""
    encoding = encode_chat(tokenizer, messages, **options)
    return [tokenizer.decode(encoding.ids[turn.start : turn.end]) for turn in encoding.turns]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_gives_the_content_of_every_message(family):
    tokenizer = byte_tokenizer(FAMILIES[family])
    messages = chat("hello there", "a reply, 🥹", "u", "user", "assistant")
    assert said(tokenizer, messages) == [message["content"] for message in messages]
    encoding = encode_chat(tokenizer, messages)
    assert encoding.ids == tokenizer(format_chat(tokenizer, messages), add_special_tokens=False).input_ids
    assert encoding.text == tokenizer.decode(encoding.ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_words_twice_are_told_apart(family):
    # transformers forum: spans of repeated short replies ("ok", "yes") are those of the first one
    turns = encode_chat(byte_tokenizer(FAMILIES[family]), chat("yes", "yes", "yes", "yes", "yes")).turns
    assert len({turn.start for turn in turns}) == 5 and turns == sorted(turns, key=lambda turn: turn.start)


def test_thoughts_in_the_last_reply_are_part_of_it():
    # Qwen3 users: the template writes the thoughts anew, with other line breaks
    tokenizer = byte_tokenizer(QWEN3)
    for reply in ("<think>\nshe is sad\n</think>\n\nI am sorry.", "<think>she is sad</think>I am sorry."):
        assert said(tokenizer, chat("hi", reply))[1] == "<think>\nshe is sad\n</think>\n\nI am sorry."


def test_thoughts_in_an_earlier_reply_are_left_out_by_the_template():
    # Qwen3 users: a conversation with the model's own replies "was rewritten by the chat template"
    tokenizer = byte_tokenizer(QWEN3)
    reply = "<think>\nhm\n</think>\n\nI am sorry."
    assert said(tokenizer, chat("hi", reply, "why?")) == ["hi", "I am sorry.", "why?"]
    both = said(tokenizer, chat("hi", reply, "why?", reply))
    assert both == ["hi", "I am sorry.", "why?", reply]
    # DeepSeek-R1 style: the prompt opens the thoughts, so that the reply only closes them
    assert said(tokenizer, chat("hi", "hm</think>\nFine.", "why?"))[1] == "Fine."
    with pytest.raises(ValueError, match=r"message 1 \(assistant\) was rewritten"):
        encode_chat(tokenizer, chat("hi", "<think>only this</think>", "why?"))


def test_a_system_message_that_the_template_moves_is_found_where_it_stands():
    # Mistral users: the system message stands in the last user turn
    tokenizer = byte_tokenizer(MISTRAL)
    messages = chat("hello", "hi", "how?", system="Be kind.")
    encoding = encode_chat(tokenizer, messages)
    assert said(tokenizer, messages) == ["Be kind.", "hello", "hi", "how?"]
    assert encoding.turns[2].end < encoding.turns[0].start < encoding.turns[3].start
    assert said(tokenizer, chat("Be kind.", "hi", "Be kind.", system="Be kind.")) == ["Be kind."] * 2 + [
        "hi",
        "Be kind.",
    ]


def test_a_document_of_a_conversation_reaches_over_all_of_its_turns():
    model = byte_model(byte_tokenizer(MISTRAL))
    messages = chat("hello", "hi", "how?", system="Be kind.")
    turns = model.encode(messages).turns
    resid = el.activations(model, [messages], [2])
    whole = model.forward([messages], stop_after=2)[0, turns[1].start : turns[3].end].mean(dim=0)
    assert resid[0, 0].allclose(whole, atol=1e-5)


@pytest.mark.parametrize(
    "template, messages, said",
    [
        # transformers issues: TemplateError of jinja, without a word on which message it was
        (
            GEMMA,
            chat("hi", system="Be kind."),
            r"message 0 \(system\) is refused by the chat template: System role not",
        ),
        (GEMMA, [*chat("a", "b"), reply("d")], r"message 2 \(assistant\) is refused.*must alternate"),
        (MISTRAL, [*chat("a"), *chat("b")], r"message 1 \(user\) is refused.*must alternate"),
        (DEAF, chat("hi", system="Be kind."), r"message 0 \(system\) is left out by the chat template"),
        (CHATML, [{"role": "tool", "content": "4"}], r"message 0 \(tool\): the chat template .* knows no role"),
        (QWEN3, [*chat("hi"), {"role": "developer", "content": "x"}], r"message 1 \(developer\): .* knows no role"),
        (CHATML, [{"role": "human", "content": "x"}], r"message 0: unknown role 'human' .*\(give 'user'\)"),
        # OpenAI-shaped transcripts: calls without content, content in parts
        (QWEN3, [*chat("a"), CALL], r"message 1 \(assistant\) has the key 'tool_calls', which the chat template"),
        (TOOLS, [*chat("a"), CALL], r"message 1 \(assistant\) has no content, only tool_calls"),
        (LLAMA3, [{"role": "user", "content": None}], r"message 0 \(user\) has no content"),
        (CHATML, parts({"type": "image_url", "image_url": "x"}), r"message 0 \(user\): part 0 .*'image_url'"),
        (CHATML, parts({"type": "text", "text": "a"}, {"type": "audio"}), r"message 0 \(user\): part 1 .*'audio'"),
        (CHATML, parts("a"), r"message 0 \(user\): part 0 .*'str'"),
        (CHATML, [{"role": "user", "content": 7}], r"message 0 \(user\): the content is the int '7', not a str"),
        (CHATML, [{"role": "user", "content": " \n"}], r"message 0 \(user\) is empty"),
        (CHATML, [{"role": "user", "content": "a", "mood": "sad"}], r"message 0 \(user\) has the key 'mood', which"),
        # ShareGPT and transcript files
        (CHATML, [{"from": "human", "value": "a"}], r'message 0 .*"role": m\["from"\], "content": m\["value"\]'),
        (CHATML, [{"speaker": "A", "text": "a"}], r'message 0 .*"role": m\["speaker"\], "content": m\["text"\]'),
        (CHATML, [{"text": "a", "label": 3}], r'message 0 .*text, label.*\[row\["text"\] for row in rows\]'),
        (CHATML, [*chat("a"), {"role": "assistant"}], r"message 1 has the keys role"),
        (CHATML, [*chat("a"), {}], r"message 1 has the keys no key"),
        (CHATML, [*chat("a"), "b"], r"message 1 is the str 'b'"),
    ],
)
def test_what_is_refused_says_the_text_the_message_and_why(template, messages, said):
    model = byte_model(byte_tokenizer(template))
    for ask in (model.encode_all, lambda texts: model.generate(texts, max_new_tokens=1)):
        with pytest.raises(ValueError, match=rf"text 1: .*{said}"):
            ask([chat("fine"), messages])


def test_parts_that_are_all_text_are_joined_and_empty_keys_do_not_matter():
    # OpenAI clients: model_dump() gives every key, most of them None
    tokenizer = byte_tokenizer(CHATML)
    parts = [{"type": "text", "text": "she "}, {"type": "text", "text": "ran"}]
    messages = [{"role": "user", "content": parts, "refusal": None, "tool_calls": None}]
    before = copy.deepcopy(messages)
    assert encode(tokenizer, messages) == encode(tokenizer, chat("she ran"))
    assert messages == before


def test_a_role_that_the_template_knows_is_taken():
    messages = [*chat("what is 2 + 2?", "let me see"), {"role": "tool", "content": '{"sum": 4}'}]
    assert said(byte_tokenizer(QWEN3), messages)[2] == '{"sum": 4}'
    assert said(byte_tokenizer(LLAMA3), messages)[2] == r"{\"sum\": 4}"  # Llama 3 writes it as a JSON string
    developer = (
        "{% for m in messages %}{% if m.role in ['developer', 'system'] %}# {% endif %}{{ m.content }}\n{% endfor %}"
    )
    assert said(byte_tokenizer(developer), [{"role": "developer", "content": "Be kind."}, *chat("hi")]) == [
        "Be kind.",
        "hi",
    ]


def test_thinking_can_be_chosen():
    model = byte_model(byte_tokenizer(QWEN3))
    off, on = model.encode(chat("hi")), model.encode_chat(chat("hi"), enable_thinking=True)
    assert off.text == on.text + "<think>\n\n</think>\n\n" and on.text.endswith("<|im_start|>assistant\n")
    assert model.encode(on) == on and model.to_tokens([on]).turns == (on.turns,)
    assert model.generate(on, 3, temperature=0) == model.generate(on.ids, 3, temperature=0)
    with pytest.raises(ValueError, match="has no option 'enable_thinkin'"):
        model.encode_chat(chat("hi"), enable_thinkin=True)
    with pytest.raises(ValueError, match="no chat template, so there is no option 'enable_thinking'"):
        byte_model(byte_tokenizer()).encode_chat(chat("hi"), enable_thinking=True)
    with pytest.raises(ValueError, match="encode_chat takes one conversation"):
        model.encode_chat("hi")


# --- BOS, end token, slow tokenizers ---------------------------------------------------------------


@pytest.mark.parametrize("template", [GEMMA, MISTRAL, LLAMA3])
def test_a_string_made_with_the_chat_template_gets_one_bos(template):
    # transformers forum: apply_chat_template and then the tokenizer give "<bos><bos>"
    tokenizer = byte_tokenizer(template, bos=True)
    written = tokenizer.apply_chat_template(chat("hello"), tokenize=False, add_generation_prompt=True)
    assert written.startswith("<s>") and tokenizer(written).input_ids[:2] == [1, 1]
    encoding = encode(tokenizer, written)
    assert encoding.ids == encode_chat(tokenizer, chat("hello")).ids
    assert encode(tokenizer, "hello").ids[:2] == [1, *tokenizer("h", add_special_tokens=False).input_ids]


def test_an_end_token_that_the_tokenizer_appends_is_dropped():
    # transformers forum: add_eos_token=True, and the model goes on after the end
    tokenizer = byte_tokenizer(bos=True, eos=True)
    assert tokenizer("so").input_ids[-1] == 2
    assert encode(tokenizer, "so").ids == [1, *tokenizer("so", add_special_tokens=False).input_ids]
    assert encode(tokenizer, "so</s>").ids[-1] == 2  # the text's own
    model = byte_model(tokenizer)
    plain = byte_model(byte_tokenizer(bos=True))
    assert model.generate("so", 4, temperature=0) == plain.generate("so", 4, temperature=0)
    assert el.log_probs(model, "so", [" p"]).allclose(el.log_probs(plain, "so", [" p"]), atol=1e-5)


def test_a_slow_tokenizer_is_named():
    # transformers issues: "return_offset_mapping is not available when using Python tokenizers", AttributeError
    class Slow:
        is_fast, bos_token, eos_token, pad_token_id, chat_template = False, None, None, 0, None

        def __call__(self, text, **options):
            raise AssertionError("must not be asked")

    model = byte_model(byte_tokenizer())
    model.tokenizer = Slow()
    for text in ("she ran", chat("she ran")):
        with pytest.raises(ValueError, match="text 0: Slow is a slow tokenizer.*load a fast one"):
            model.encode_all([text])
    assert model.encode([5, 6]).ids == [5, 6]
