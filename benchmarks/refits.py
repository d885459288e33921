"""Speed of vectors with shuffled labels, side by side with refitting them one by one.

    python benchmarks/refits.py [--model NAME] [--repeats 3] [--draws 999] [--slow 3] [--blocks 1] [--out FILE]

*Fast*: `shuffled_refits` of all packaged stories at one block, denoised, the reading of the stories counted. *One by
one*: `nulls.shuffled`, which refits everything, the whitening too, timed on a few draws and scaled up. The ratio is the
median of the ratios within a repeat. *Blocks*: seconds of the fast way at that many blocks, evenly spaced, once.
"""

import statistics
import time
from typing import Any

import numpy as np
import side_by_side

import emolens as el
from emolens.steering.nulls import shuffled
from emolens.vectors.pooling import RULES, pool
from emolens.vectors.shuffled_refits import shuffled_refits


def measured(model: el.HookedModel, vectors: el.EmotionVectors, options: Any) -> dict[str, Any]:
    corpus, layer = el.corpus.stories(), vectors.default_layer
    pooled = pool(model, corpus.texts, rules=RULES, progress=False)

    def fast() -> None:
        for _ in shuffled_refits(model, vectors, options.draws, pooled=pooled).at(layer):
            pass

    def one_by_one() -> None:
        for _ in shuffled(model, vectors, [layer], options.slow, pooled=pooled):
            pass

    runs = {"fast": (fast, 1.0), "one by one": (one_by_one, options.slow / options.draws)}
    seconds = side_by_side.alternate(runs, options.repeats)
    ratios = [slow / quick for slow, quick in zip(seconds["one by one"], seconds["fast"], strict=True)]
    layers = [vectors.layers[i] for i in np.linspace(0, len(vectors.layers) - 1, options.blocks).astype(int)]
    start, refits = time.perf_counter(), shuffled_refits(model, vectors, options.draws, pooled=pooled)
    for block in layers:
        for _ in refits.at(block):
            pass
    return {
        "stories": len(corpus),
        "d_model": model.d_model,
        "draws": options.draws,
        "milliseconds_a_set": {
            name: round(1000 * statistics.median(took) / options.draws, 1) for name, took in seconds.items()
        },
        "speed_over_one_by_one": round(statistics.median(ratios), 1),
        "blocks": len(layers),
        "seconds_of_all_blocks": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--draws", type=int, default=999)
    parser.add_argument("--slow", type=int, default=3, help="draws of the slow side that are timed")
    parser.add_argument("--blocks", type=int, default=1)
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    model = el.load(options.model, dtype=options.dtype)
    vectors = el.derive(model, progress=False)
    result = {"model": options.model, "dtype": str(model.dtype).removeprefix("torch."), "repeats": options.repeats}
    side_by_side.report(result | measured(model, vectors, options), options.out)


if __name__ == "__main__":
    main()
