"""Speed and memory of pooled extraction, side by side in one run on the same texts, batches and dtype.

    python benchmarks/extraction.py [--model NAME] [--repeats 7] [--texts 64] [--out FILE]

Compared with: the bare Hugging Face forward pass without unembedding on the same batches; a loop of
TransformerLens's `run_with_cache` on the residual of all layers at the same batches; the usual loop of
one text at a time that caches everything. Ratios are medians of the ratios within a repeat.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import side_by_side
import torch

import emolens as el
from emolens.models.batching import pad, plan
from emolens.models.model import HookedModel
from emolens.vectors.pooling import RULES, pool_batches

OURS = "emolens pooled"
MEMORY_TEXTS = 300


def contestants(
    model: HookedModel, bare: Any, texts: list[str], budget: int
) -> dict[str, tuple[Callable[[], Any], float]]:
    encoded = [model.encode(text).ids for text in texts]
    batches = plan([len(ids) for ids in encoded], budget)
    padded = [pad([encoded[row] for row in rows], "right", model.pad_token_id) for rows in batches]
    names = [model.hook_name(layer) for layer in range(model.n_layers)]
    layers = range(model.n_layers)
    eighth = encoded[:: max(1, len(encoded) // 8)]

    def bare_pass() -> None:
        for batch in padded:
            bare.base_model(input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False)

    def pooled() -> None:
        pool_batches(model, encoded, batches, layers, RULES)

    def cached_batches() -> None:
        for batch in padded:
            model.bridge.run_with_cache(batch.ids, attention_mask=batch.mask.long(), names_filter=names)

    def one_by_one() -> None:
        for ids in eighth:
            model.bridge.run_with_cache(torch.tensor([ids]))

    share = sum(map(len, eighth)) / sum(map(len, encoded))
    return {
        "bare forward": (bare_pass, 1.0),
        OURS: (pooled, 1.0),
        "run_with_cache, all residuals": (cached_batches, 1.0),
        "run_with_cache, one text, everything": (one_by_one, share),
    }


def memory_child(name: str, dtype: str, budget: int) -> None:
    model = el.load(name, dtype=dtype)
    texts = el.corpus.stories().texts[:MEMORY_TEXTS]
    with tempfile.TemporaryDirectory() as folder:
        pool = lambda: el.pool(model, texts, token_budget=budget, cache=folder, progress=False)  # noqa: E731
        print(side_by_side.rise_of(model, pool))


def main() -> None:
    options = side_by_side.parser(__doc__).parse_args()
    model, bare = side_by_side.models(options.model, options.dtype)
    texts = side_by_side.texts(options.texts)
    tokens = sum(len(model.encode(text).ids) for text in texts)
    seconds = side_by_side.alternate(contestants(model, bare, texts, options.token_budget), options.repeats)
    dtype = str(model.dtype).removeprefix("torch.")
    result = {"model": options.model, "dtype": dtype, "repeats": options.repeats}
    result |= side_by_side.compared(seconds, OURS, tokens)
    peak = side_by_side.peak_memory("extraction", options.model, dtype, options.token_budget)
    side_by_side.report(result | {"peak_memory_above_model_mb": peak}, options.out)


if __name__ == "__main__":
    main()
