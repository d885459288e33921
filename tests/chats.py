"""A byte-level tokenizer and chat templates of the shapes that real families have, made in memory."""

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>"]
SPECIAL += ["<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"]

CHATML = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Thoughts of replies before the last question are left out; the last reply gets them in a form of their own.
QWEN3 = """{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role == "tool" %}{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
{%- elif m.role != "assistant" %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- else %}{% set content = m.content %}{% set thought = '' %}
{%- if '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') }}
{{- '\n</think>\n\n' + content + '<|im_end|>\n' }}
{%- else %}{{ '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}{% endif %}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"""

# The system message stands in the last user turn.
MISTRAL = """{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}
{%- set rest = messages[1:] %}
{%- else %}{% set rest = messages %}{% endif %}{{ bos_token }}
{%- for m in rest %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('After the optional system message, conversation roles must alternate user/assistant') }}{% endif %}
{%- if m['role'] == 'user' %}
{%- if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}
{%- else %}{{ '[INST] ' + m['content'] + '[/INST]' }}{% endif %}
{%- else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"""

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{%- if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}
{{- '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

LLAMA3 = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'tool' or m.role == 'ipython' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}{{ m.content | tojson }}{{ '<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

# A family whose template ignores what it has no place for.
DEAF = """{% for m in messages if m['role'] != 'system' %}{{ m['role'] }}: {{ m['content'] }}
{% endfor %}"""

FAMILIES = {"chatml": CHATML, "qwen3": QWEN3, "mistral": MISTRAL, "gemma": GEMMA, "llama3": LLAMA3}


def byte_tokenizer(template: str | None = None, bos: bool = False, eos: bool = False, trim: bool = False):
    """One token for each byte, so that an emoji is four; with a BOS before and an end token behind, where asked for."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({piece: i for i, piece in enumerate([*SPECIAL, *letters])}, [], unk_token="<unk>"))
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    around = f"{'<s> ' * bos}$A{' </s>' * eos}"
    post = processors.TemplateProcessing(single=around, special_tokens=[("<s>", 1), ("</s>", 2)])
    raw.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=trim), post])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = template
    return tokenizer


def sentencepiece_tokenizer():
    """Of the shape of Llama 2's: "▁" for a space and before the text, bytes for unknown characters, a BOS."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"soprud!"]
    pieces += ["▁s", "▁so", "▁p", "ro", "▁pro", "ud", "▁proud"]
    merges = [("▁", "s"), ("▁s", "o"), ("▁", "p"), ("r", "o"), ("▁p", "ro"), ("u", "d"), ("▁pro", "ud")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    raw = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_model(tokenizer):
    """A random Llama with room for the tokens of these tokenizers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from emolens.models.model import HookedModel

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return HookedModel.from_hf(LlamaForCausalLM(config), tokenizer, "byte-llama")
