"""Make the vectors that ship with the package: `make vectors`, or for some models by name.

For the embedded models: derive with the packaged stories, keep five layers around the default one and
the strongest noise directions, and write float16. The stamp says that their weights were quantised.
"""

import sys

import torch

import emolens as el
from emolens.files import data_path

SPREAD = 2  # layers on each side of the default one

for name in sys.argv[1:] or el.embedded.known_models():
    model = el.load(name)
    vectors = el.derive(model)
    layers = range(model.default_layer - SPREAD, model.default_layer + SPREAD + 1)
    path = vectors.at(*layers).compact().save(data_path("vectors", f"{name}.safetensors"), torch.float16)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
