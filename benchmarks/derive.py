"""Time of a whole derivation from an empty cache, in each dtype, and how well the vectors agree.

    python benchmarks/derive.py [--model NAME] [--dtypes bfloat16 float32] [--out FILE]

With one dtype alone, what FILE holds of the other and of their agreement is kept.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import side_by_side

import emolens as el
from emolens.models.embedded import known_models, local_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    source = str(local_path(options.model)) if options.model in known_models() else options.model
    derived, result = [], {"model": options.model, "minutes": {}}
    for dtype in options.dtypes:
        with tempfile.TemporaryDirectory() as empty:
            os.environ["EMOLENS_CACHE"] = empty
            model = el.load(source, dtype=dtype)
            start = time.perf_counter()
            derived.append(el.derive(model))
            result["minutes"][dtype] = round((time.perf_counter() - start) / 60, 2)
    if len(derived) > 1:
        first, second = derived
        for method in ("denoised", "whitened"):
            for layer in (first.default_layer, first.chosen_layer(method)):
                cosine = first.cosine_with(second, layer, method)
                result[f"cosine between dtypes, {method}, block {layer}"] = {
                    "lowest": round(float(cosine.min()), 4),
                    "median": round(float(cosine.median()), 4),
                }
    if len(derived) == 1 and options.out and options.out.exists():
        before = json.loads(options.out.read_text())
        result = before | result | {"minutes": before["minutes"] | result["minutes"]}
    side_by_side.report(result, options.out)


if __name__ == "__main__":
    main()
