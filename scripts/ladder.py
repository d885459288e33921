"""Measure the size ladder, `figures/ladder`: `make ladder`.

For each model: vectors from the plain stories alone, in blocks from about 40 % to two thirds of the depth, and the
studies whose answers the ladder shows. What is there of the same weights and stories is kept; the largest model takes
about two hours on two cores.
"""

import argparse
from pathlib import Path

import emolens as el
from emolens.corpus import stories
from emolens.results import save_results
from emolens.studies._measure import is_measured, measure, place
from emolens.studies.causes.word_probability import all_rows

LAYERS = {
    "smollm2-135m-instruct": range(12, 22),
    "gemma-3-270m": range(7, 14),
    "qwen2.5-coder-0.5b-instruct": (9, *range(11, 18)),
    "qwen2.5-coder-1.5b-instruct": (11, *range(13, 20)),
}
STUDIES = ("circumplex", "implicit", "numbers", "negation", "binding", "transcripts", "detection", "lexical")


def main(names: list[str], folder: Path) -> None:
    """Derive the vectors of each model and measure what is not there yet."""
    plain = el.Corpus(tuple(story for story in stories() if story.register == "plain"))
    for name in names:
        model = el.load(name)
        vectors = el.derive(model, plain, LAYERS[name])
        for study in STUDIES:
            if not is_measured(study, model, vectors, folder):
                measure(study, model, vectors, folder)
        if not is_measured("word_probability", model, vectors, folder):  # its other results take hours at this size
            size = {"parameters": sum(weight.numel() for weight in model.bridge.parameters())}
            rows = {"all_rows": all_rows(model, vectors)}
            save_results(place("word_probability", model, folder), vectors.stamp | size, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(LAYERS), help="of models (all four)")
    parser.add_argument("--out", type=Path, default=Path("figures/ladder"))
    given = parser.parse_args()
    main(given.names, given.out)
