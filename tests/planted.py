"""A small Llama in which it is known what makes what: cue words write an emotion's direction in block 1, a head of
block 2 carries it to later tokens, and it raises the emotion's name. Topic words are a louder nuisance."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from emolens.corpus.stories import Corpus, Story
from emolens.models.model import HookedModel

EMOTIONS = ("afraid", "angry", "bored", "calm", "grateful", "guilty", "happy", "jealous", "lonely", "proud", "sad")
TOPICS, FILLERS, WIDTH = 8, 30, 64
WRITES_IN, CARRIED_BY = 1, (2, 0)  # the block whose MLP writes; the block and head that carry
N = len(EMOTIONS)


def words() -> list[str]:
    cues, topics, fillers = (
        [f"{kind}{i}" for i in range(n)] for kind, n in (("cue", N), ("topic", TOPICS), ("word", FILLERS))
    )
    return [*EMOTIONS, *cues, *topics, *fillers]


def tokenizer():
    vocab = {word: i for i, word in enumerate(["<pad>", "<unk>", "<eos>", *words()])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", bos_token="<eos>"
    )


def planted_model(seed: int = 0) -> tuple[HookedModel, torch.Tensor]:
    """The model, and the directions [emotion d_model] that are planted in it, centred as vectors are."""
    torch.manual_seed(seed)
    vocab = tokenizer()
    config = LlamaConfig(
        vocab_size=len(vocab), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    hf_model = LlamaForCausalLM(config)
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q
    cue, topic, emotion, rest = basis.split([N, TOPICS, N, WIDTH - 2 * N - TOPICS])
    with torch.no_grad():
        for name, weight in hf_model.named_parameters():
            if "norm" not in name:
                weight.normal_(0, 0.01)
        ids = {word: vocab.convert_tokens_to_ids(word) for word in words()}
        embed = hf_model.model.embed_tokens.weight
        for row in ids.values():
            embed[row] = torch.randn(len(rest)) @ rest / len(rest) ** 0.5
        for i in range(N):
            embed[ids[f"cue{i}"]] = cue[i]
            hf_model.lm_head.weight[ids[EMOTIONS[i]]] = 0.4 * emotion[i]
        for i in range(TOPICS):
            embed[ids[f"topic{i}"]] = 14 * topic[i]
        mlp = hf_model.model.layers[WRITES_IN].mlp
        mlp.gate_proj.weight[:N] = mlp.up_proj.weight[:N] = cue  # a cue of norm 1 has, normed, a component of 8
        mlp.down_proj.weight[:, :N] = 4 * emotion.T / WIDTH
        block, head = CARRIED_BY
        attention, size = hf_model.model.layers[block].self_attn, WIDTH // 4
        own = slice(head * size, head * size + N)
        attention.q_proj.weight[head * size : (head + 1) * size] = 0  # looks at all tokens alike
        attention.v_proj.weight[own] = emotion
        attention.o_proj.weight[:, own] = 2 * emotion.T
    return HookedModel.from_hf(hf_model, vocab, "planted"), emotion - emotion.mean(dim=0)


def case_model(emotion: str = "afraid", seed: int = 0) -> HookedModel:
    """The planted model, in which moreover a direction raises a topic's own reply where that topic was spoken of.

    A head of block 2 carries the topics, and block 3 multiplies them with the emotion: word 2t is the reply of topic
    t that it raises, word 2t + 1 the one that it leaves alone.
    """
    model, _ = planted_model(seed)
    layers, size = model.hf_model.model.layers, WIDTH // 4
    vocab, embed, head = model.tokenizer, model.hf_model.model.embed_tokens.weight, model.hf_model.lm_head.weight
    torch.manual_seed(seed)
    with torch.no_grad():
        ids = [vocab.convert_tokens_to_ids(f"topic{t}") for t in range(TOPICS)]
        topic = embed[ids] / 14
        cause = head[vocab.convert_tokens_to_ids(emotion)] / 0.4
        replies = [vocab.convert_tokens_to_ids(f"word{2 * t}") for t in range(TOPICS)]
        written = embed[[vocab.convert_tokens_to_ids(f"cue{t}") for t in range(TOPICS)]]  # no word of a reply has it
        embed[vocab.unk_token_id] = embed[vocab.convert_tokens_to_ids("word29")]  # no noise that a norm makes loud
        attention = layers[2].self_attn
        attention.q_proj.weight[size : 2 * size] = 0
        attention.v_proj.weight[size : size + TOPICS] = topic
        attention.o_proj.weight[:, size : size + TOPICS] = 0.3 * topic.T
        mlp = layers[3].mlp
        mlp.gate_proj.weight[:TOPICS] = cause
        mlp.up_proj.weight[:TOPICS] = topic
        mlp.down_proj.weight[:, :TOPICS] = 0.3 * written.T
        head[replies] = 0.4 * written
    return model


def sentence(generator: torch.Generator, *marked: str, length: int = 24) -> str:
    """Filler words with the marked ones among them."""
    pick = torch.randint(FILLERS, (length - len(marked),), generator=generator).tolist()
    drawn = [*marked, *(f"word{i}" for i in pick)]
    return " ".join(drawn[i] for i in torch.randperm(length, generator=generator).tolist())


def stories(seed: int = 0) -> Corpus:
    """A story for each emotion and topic, crossed: two cues, four topic words, fillers."""
    generator = torch.Generator().manual_seed(seed)
    return Corpus(
        tuple(
            Story(emotion, "plain", f"topic {t}", sentence(generator, *[f"cue{e}"] * 2, *[f"topic{t}"] * 4))
            for t in range(TOPICS)
            for e, emotion in enumerate(EMOTIONS)
        )
    )


def neutral(seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(1000 + seed)
    return [sentence(generator, f"topic{i % TOPICS}") for i in range(16)]
