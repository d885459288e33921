"""Small random models and a tokenizer, built in memory, for tests of mechanics."""

import torch
from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do where a float is asked for

TEXT = "the a she he was calm afraid angry river door night walked ran and but very cold warm . , ! Human Assistant :"
WORDS = list(TEXT.split(" "))


def passes(monkeypatch):
    """A list that gets the number of texts of each forward pass from now on; a hook would keep the cache shut."""
    from emolens.models.hooked import Hooked

    ran, run = [], Hooked._run

    def counted(self, batch, *rest):
        if not self.checking:  # what `support` runs to know whether the model can be relied on
            ran.append(len(batch.ids))
        return run(self, batch, *rest)

    monkeypatch.setattr(Hooked, "_run", counted)
    return ran


def tiny_tokenizer(bos: bool = False):
    """A word-level tokenizer with padding, made in memory."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    vocab = {word: i for i, word in enumerate([*special, *WORDS, *(f"w{i}" for i in range(40))])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def tiny_llama(seed: int = 0, layers: int = 4, context: int = 256):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=80, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def tiny_gemma(seed: int = 0):
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(seed)
    config = Gemma3TextConfig(
        vocab_size=80, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=256, sliding_window=16, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return Gemma3ForCausalLM(config)
