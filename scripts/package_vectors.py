"""Make the vectors that ship with the package: `make vectors`.

For each embedded model: derive, keep five layers and the strongest noise directions, and write float16. The two
smaller models have the packaged stories of both registers and the layers around the default one. For the two larger
ones, which take hours on two cores, it is the plain stories and layers that hold the chosen and the default one.
"""

import sys

import torch

import emolens as el
from emolens.corpus import stories
from emolens.files import data_path

SPREAD = 2  # layers on each side of the default one
PLAIN = {  # the layers that are derived, and those that ship
    "qwen2.5-coder-0.5b-instruct": ((9, *range(11, 18)), range(12, 17)),
    "qwen2.5-coder-1.5b-instruct": ((11, *range(13, 20)), range(15, 20)),
}

for name in sys.argv[1:] or el.embedded.known_models():
    model = el.load(name)
    if name in PLAIN:
        derived, shipped = PLAIN[name]
        vectors = el.derive(model, el.Corpus(tuple(story for story in stories() if story.register == "plain")), derived)
    else:
        vectors = el.derive(model)
        shipped = range(model.default_layer - SPREAD, model.default_layer + SPREAD + 1)
    path = vectors.at(*shipped).compact().save(data_path("vectors", f"{name}.safetensors"), torch.float16)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
