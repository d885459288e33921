"""Make the monitors that ship with the package: `make monitors`.

For each embedded model and each of four emotions: the readout and the half-life that tell the packaged pairs apart
best, and a line for one false alarm in a hundred, set on all quiet conversations: the neutral dialogues, the benign
ones and the steady twins. They were chosen and set on these texts, so that only other texts can test them.
"""

import sys

import emolens as el
from emolens.files import data_path
from emolens.studies._common import READOUTS, near
from emolens.studies.watching._conversations import conversations, emotions_in, read_all
from emolens.studies.watching._detectors import CHOSEN, neighbours, of_vectors, setting

RATE = 0.01

for name in sys.argv[1:] or el.embedded.known_models():
    model = el.load(name)
    vectors = el.packaged_vectors(model)
    found = conversations(model)
    layers = {method: near(vectors, vectors.chosen_layer(method)) for method in READOUTS}
    x = read_all(model, found, sorted(set(layers.values())), lambda y, _: y.cpu())
    candidates = [one for key, one in of_vectors(vectors, x, found).items() if key != CHOSEN]
    best, half_life = setting(candidates, found)
    method = best.name.split(",")[0]
    layer, quiet = layers[method], [number for number, one in enumerate(found) if one.quiet]
    for emotion in emotions_in(found):
        names = neighbours(vectors, layer, emotion) if "nearest" in best.name else [emotion]
        first, *others = [vectors[each] for each in names]
        watch = el.Watch.of(vectors, {emotion: sum(others, first)}, layer, method)
        scores = [watch(x[layer][number]).numpy() for number in quiet]
        monitor = el.Monitor.of_scores(watch, scores, RATE, half_life=half_life, model=model)
        path = monitor.save(data_path("monitors", f"{name}-{emotion}.json"))
        print(path.name, best.name, monitor, flush=True)
