"""`make demo`: derive the vectors of a real model, test them, draw them, and say what was found."""

from pathlib import Path

import emolens as el
from emolens import plots

MODEL = "smollm2-135m-instruct"
SENTENCE = "I checked the oven three times, drove back to check again, and still could not stop thinking about it."


def main(folder: str | Path = "demo") -> None:
    """Everything from the model's name to figures in `folder`; a second run takes the vectors from the cache."""
    out = Path(folder)
    print(f"1. Loading {MODEL}: a real language model, small enough for a laptop.")
    model = el.load(MODEL)
    corpus = el.corpus.stories()
    print(f"   {model}\n2. Deriving {len(corpus.emotions)} emotion vectors from {len(corpus)} stories.")
    vectors = el.derive(model)
    layer = vectors.chosen_layer("whitened")
    print(f"   {vectors}; layers and shrinkage were chosen by leaving topics out of the stories.")

    print("3. Do they recognise emotions in texts they were not made from?")
    result = el.detect(model, vectors, el.corpus.vignettes())
    print(f"   {result.headline()}")
    reliable = vectors.split_half(layer)
    low, high = vectors.reliability_null[1, :, vectors.layers.index(layer)].tolist()
    print(
        f"   Vectors from two halves of the topics agree with a median cosine of {float(reliable.nanmedian()):.2f} at "
        f"block {layer} (vectors of different emotions: {low:.2f} to {high:.2f})."
    )
    shipped = el.packaged_vectors(model)
    agreement = vectors.cosine_with(shipped, shipped.default_layer)
    print(f"   Lowest cosine with the vectors that ship with emolens: {float(agreement.min()):.4f} over the emotions.")
    for emotion in ("calm", "desperate", "proud"):
        near = ", ".join(f"{name} {cosine:.2f}" for name, cosine in vectors.nearest(emotion, 4, layer))
        print(f"   Nearest to {emotion}: {near}.")

    print(f'4. Reading a sentence: "{SENTENCE}"')
    readout = el.read(model, SENTENCE, vectors, layer, at="document", method="whitened")
    print("   " + ", ".join(f"{name} {score:+.2f}" for name, score in readout.top(6)))

    tokens = el.read(model, SENTENCE, vectors, layer, method="whitened")
    written = [
        plots.save(result.plot(), out / "layer_sweep.png"),
        plots.save(plots.similarity_matrix(vectors.similarity(layer), vectors.emotions), out / "similarity.png"),
        plots.heatmap(tokens, [name for name, _ in readout.top(3)], SENTENCE).save(out / "heatmap.html"),
    ]
    print("5. Written: " + ", ".join(str(path) for path in written))
    print("   Next: make lab, and open 00_quickstart.ipynb.")
