"""Draw the picture of the README, `figures/emolens.png`: a transcript under two emotions, beside the map of all.

    python scripts/readme_picture.py

The transcript is the clearest of those tried: an example, and no evidence.
"""

import pandas as pd
from matplotlib import pyplot as plt

import emolens as el
from emolens import plots

EMOTIONS = ("angry", "calm")
SHOWN = "angry-01"
SAYS = (
    "A conversation in which a user grows cruel, and what SmolLM2-135M reads in it: angry rises, calm falls. It is an "
    "example, chosen because it is clear. "
    "Beside it, all 171 emotions by the first two components of their vectors; colour is how pleasant people find "
    "the word."
)
FALSIFIED_BY = "Both emotions red in the same places, and pleasant words all over the map."


def main() -> None:
    """Read, draw, save."""
    model = el.load("smollm2-135m-instruct")
    vectors = el.packaged_vectors(model)
    row = next(row for row in el.corpus.stimuli("monitoring") if row["id"] == SHOWN)
    chat = [{"role": turn["role"], "content": turn["text"]} for turn in row["turns"]]
    scores = el.read(model, [chat], vectors, vectors.default_layer, method="denoised")
    turns = model.encode_chat(chat).turns
    figure = plt.figure(figsize=(17, 10.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.0, 1.0))
    for place, emotion in enumerate(EMOTIONS):
        ax = plots.token_text(scores, emotion, turns, smooth=9, columns=92, ax=figure.add_subplot(grid[place, 0]))
        ax.set_title(f"Read for {emotion}", fontsize=14)
    plain = el.refit(model, el.derive(model), register="plain")
    places, shares = el.geometry.components(plain.vectors(plain.default_layer), 2)
    frame = pd.DataFrame({"emotion": plain.emotions, "x": places[:, 0], "y": places[:, 1]})
    frame["valence"] = [el.corpus.ratings("glasgow").get(name, {}).get("valence") for name in plain.emotions]
    ax = plots.emotion_map(
        frame, colour="valence", centre=5, title="All 171 emotions", ax=figure.add_subplot(grid[:, 1])
    )
    ax.set(xlabel=f"first component ({shares[0]:.0%} of the variance)", ylabel=f"second ({shares[1]:.0%})")
    print(plots.save(ax, "figures/emolens.png", SAYS, FALSIFIED_BY))


if __name__ == "__main__":
    main()
