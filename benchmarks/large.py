"""Speed and memory at the width of an 8 B model: a Llama of that shape with random weights, fewer blocks on a CPU.

    python benchmarks/large.py [--blocks N] [--texts 8] [--repeats 3] [--device cuda] [--dtype bfloat16] [--out FILE]

*Extraction*: pooled activations of all blocks, against the bare Hugging Face pass without unembedding on the same
batches. *Scan*: every token of the same texts scored, whitened, against the same pass. *Steering*: a new token of a
batch steered in every block, against one unsteered. *Memory*: how far the peak of the extraction lies above the loaded
model. Ratios are medians of the ratios within a repeat. The words are those of SmolLM2's tokenizer.
"""

import copy
import statistics
from typing import Any

import side_by_side
import torch

import emolens as el
from emolens.models.batching import pad, plan
from emolens.models.embedded import local_path
from emolens.vectors.pooling import RULES, pool_batches

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500_000.0,
}
BLOCKS = {"cuda": 32, "cpu": 2}
NEW_TOKENS, ROWS = 16, 4
PROMPT = "They had been driving for an hour when"


def models(options: Any) -> tuple[el.HookedModel, Any]:
    """The model, wrapped and bare, on the same weights."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(local_path("smollm2-135m-instruct"))
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_hidden_layers=options.blocks, tie_word_embeddings=True, **SHAPE, **ids
    )
    torch.manual_seed(0)
    with torch.device(options.device):
        bare = LlamaForCausalLM._from_config(config, dtype=getattr(torch, options.dtype)).eval()
    wrapped = copy.deepcopy(bare, {id(weight): weight for weight in bare.parameters()})
    return el.HookedModel.from_hf(wrapped, tokenizer, "random llama of 8 B shape"), bare


def passes(model: el.HookedModel, bare: Any, texts: list[str], options: Any) -> tuple[dict[str, Any], int]:
    """What is timed, and the tokens of the texts."""
    encoded = [model.encode(text).ids for text in texts]
    batches = plan([len(ids) for ids in encoded], options.token_budget)
    padded = [pad([encoded[row] for row in rows], "right", 0).to(model.device) for rows in batches]
    stories = el.corpus.stories("plain").where(emotion=["calm", "angry"])
    neutral = el.token_moments(model, el.corpus.neutral()[:2], progress=False)
    vectors = el.fit(el.pool(model, stories.texts, cache=False, progress=False), stories, neutral)
    directions = [0.05 * vectors["calm"]] * ROWS
    write = {"max_new_tokens": NEW_TOKENS, "stop": []}

    def bare_pass() -> None:
        for batch in padded:
            bare.base_model(input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False)
        wait()

    def pooled() -> None:
        pool_batches(model, encoded, batches, range(model.n_layers), RULES)
        wait()

    def steered() -> None:
        with el.steer(model, directions):
            model.generate([PROMPT] * ROWS, **write)

    scanning = {"method": "whitened", "token_budget": options.token_budget, "progress": False}
    runs = {
        "bare forward": bare_pass,
        "emolens pooled": pooled,
        "emolens scan": lambda: el.scan(model, vectors, texts, **scanning),
        "unsteered": lambda: model.generate([PROMPT] * ROWS, **write),
        "steered": steered,
    }
    return {name: (run, 1.0) for name, run in runs.items()}, sum(map(len, encoded))


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mb(model: el.HookedModel, run: Any) -> int:
    """How far the peak of `run` lies above the loaded model."""
    if model.device.type != "cuda":
        return round(side_by_side.rise_of(model, run))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return round((torch.cuda.max_memory_allocated() - before) / 1e6)


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--blocks", type=int, help="default 32 on a GPU, 2 on a CPU")
    parser.set_defaults(repeats=3, texts=8)
    options = parser.parse_args()
    options.blocks = options.blocks or BLOCKS[options.device]
    options.dtype = options.dtype or ("bfloat16" if options.device == "cuda" else "float32")
    model, bare = models(options)
    runs, tokens = passes(model, bare, side_by_side.texts(options.texts), options)
    seconds = side_by_side.alternate(runs, options.repeats)

    def ratio(theirs: str, ours: str) -> float:
        return round(statistics.median(a / b for a, b in zip(seconds[theirs], seconds[ours], strict=True)), 3)

    result = {
        "shape": f"Llama 8 B, {options.blocks} of 32 blocks, random weights",
        "device": torch.cuda.get_device_name() if options.device == "cuda" else options.device,
        "dtype": options.dtype,
        "repeats": options.repeats,
        "tokens": tokens,
        "seconds": {name: round(statistics.median(took), 2) for name, took in seconds.items()},
        "speed_over_bare_forward": {name: ratio("bare forward", name) for name in ("emolens pooled", "emolens scan")},
        "steering_overhead_per_token": round(1 / ratio("unsteered", "steered") - 1, 3),
        "peak_memory_above_model_mb": peak_mb(model, runs["emolens pooled"][0]),
    }
    side_by_side.report(result, options.out)


if __name__ == "__main__":
    main()
