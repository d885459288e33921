"""Speed of `scan`, side by side with bare forward passes on the same texts, and its memory as documents grow many.

    python benchmarks/scan.py [--model NAME] [--repeats 7] [--texts 64] [--documents 2000 20000] [--out FILE]

Compared with the bare Hugging Face forward pass without unembedding, of all blocks and of only the blocks up
to the one that is read, on the same texts, token ids given, in the same batches. `scan` is timed as a whole:
it makes the token ids, scores every token on every emotion and keeps the best passages. Ratios are medians of
the ratios within a repeat.
"""

import itertools
from collections.abc import Callable
from typing import Any

import side_by_side

import emolens as el
from emolens.models.batching import pad, plan
from emolens.models.model import HookedModel
from emolens.vectors.emotion_vectors import EmotionVectors

OURS = "emolens scan"
CHARACTERS = 80  # of each document when memory is measured, so that 20,000 take minutes


def contestants(
    model: HookedModel, vectors: EmotionVectors, bare: Any, texts: list[str], budget: int
) -> dict[str, tuple[Callable[[], Any], float]]:
    encoded = [model.encode(text).ids for text in texts]
    batches = plan([len(ids) for ids in encoded], budget)
    padded = [pad([encoded[row] for row in rows], "right", model.pad_token_id) for rows in batches]
    blocks = bare.base_model.layers

    def bare_pass(depth: int) -> None:
        bare.base_model.layers = blocks[:depth]
        for batch in padded:
            bare.base_model(input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False)

    depth = vectors.default_layer + 1
    return {
        "bare forward": (lambda: bare_pass(len(blocks)), 1.0),
        "bare forward as deep as the scan": (lambda: bare_pass(depth), 1.0),
        OURS: (lambda: el.scan(model, vectors, texts, token_budget=budget, progress=False), 1.0),
    }


def memory_child(name: str, dtype: str, budget: int, documents: int) -> None:
    model = el.load(name, dtype=dtype)
    vectors = el.packaged_vectors(model)
    stream = itertools.islice(itertools.cycle(el.corpus.stories().texts), documents)
    short = (text[:CHARACTERS] for text in stream)
    run = lambda: el.scan(model, vectors, short, token_budget=budget, progress=False)  # noqa: E731
    print(side_by_side.rise_of(model, run))


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--documents", type=int, nargs="*", default=[2000, 20_000], help="for memory")
    options = parser.parse_args()
    model, bare = side_by_side.models(options.model, options.dtype)
    vectors = el.packaged_vectors(model)
    texts = side_by_side.texts(options.texts)
    tokens = sum(len(model.encode(text).ids) for text in texts)
    seconds = side_by_side.alternate(contestants(model, vectors, bare, texts, options.token_budget), options.repeats)
    dtype = str(model.dtype).removeprefix("torch.")
    result = {"model": options.model, "dtype": dtype, "repeats": options.repeats, "blocks": model.n_layers}
    result |= {"block_read": vectors.default_layer, "emotions": len(vectors.emotions)}
    result |= side_by_side.compared(seconds, OURS, tokens)
    peaks = {
        str(n): side_by_side.peak_memory("scan", options.model, dtype, options.token_budget, n)
        for n in options.documents
    }
    side_by_side.report(result | {"peak_memory_above_model_mb": peaks}, options.out)


if __name__ == "__main__":
    main()
