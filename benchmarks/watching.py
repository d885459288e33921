"""What watching costs while a text is written: the same generation watched and not, side by side in one run.

    python benchmarks/watching.py [--model NAME] [--repeats 5] [--tokens 100] [--out FILE]

171 emotions at one block, the default one, whitened and not; `model.generate(..., watch=...)`, `el.stream` with a
monitor, and `el.stream` under a steering against the steered generation. Ratios are medians of the ratios within a
repeat.
"""

import statistics
from typing import Any

import side_by_side

import emolens as el

PROMPT = [{"role": "user", "content": "Tell me about the harbour of a small town, from morning to evening."}]


def measured(model: el.HookedModel, vectors: el.EmotionVectors, tokens: int, repeats: int) -> dict[str, Any]:
    how = {"max_new_tokens": tokens, "temperature": 0.0}
    rows = [PROMPT] * 8
    watch, whitened = el.Watch.of(vectors), el.Watch.of(vectors, method="whitened")
    monitor = el.Monitor.calibrate(model, vectors, ["desperate", "angry"], el.corpus.quiet()[:30], rate=0.05)
    steer = 0.05 * vectors["calm"]

    def steered() -> None:
        with el.steer(model, steer):
            model.generate(PROMPT, **how)

    runs = {
        "one row": (lambda: model.generate(PROMPT, **how), 1.0),
        "one row, 171 emotions": (lambda: model.generate(PROMPT, **how, watch=watch), 1.0),
        "one row, 171 emotions, whitened": (lambda: model.generate(PROMPT, **how, watch=whitened), 1.0),
        "one row, monitor": (lambda: list(el.stream(model, PROMPT, monitor, **how)), 1.0),
        "one row, steered": (steered, 1.0),
        "one row, steered, stream": (lambda: list(el.stream(model, PROMPT, watch, steer=steer, **how)), 1.0),
        "eight rows": (lambda: model.generate(rows, **how), 1.0),
        "eight rows, 171 emotions": (lambda: model.generate(rows, **how, watch=watch), 1.0),
    }
    seconds = side_by_side.alternate(runs, repeats)
    bare = {name: name.split(",")[0] for name in runs if "," in name and name != "one row, steered"}
    bare["one row, steered, stream"] = "one row, steered"
    return {
        "tokens": tokens,
        "seconds": {name: round(statistics.median(took), 2) for name, took in seconds.items()},
        "overhead": {
            name: round(statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True)) - 1, 4)
            for name, other in bare.items()
        },
    }


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--tokens", type=int, default=100, help="new tokens of each generation")
    parser.set_defaults(repeats=5)
    options = parser.parse_args()
    model = el.load(options.model, dtype=options.dtype)
    vectors = el.packaged_vectors(model)
    result = {"model": options.model, "dtype": str(model.dtype).removeprefix("torch."), "repeats": options.repeats}
    side_by_side.report(result | measured(model, vectors, options.tokens, options.repeats), options.out)


if __name__ == "__main__":
    main()
