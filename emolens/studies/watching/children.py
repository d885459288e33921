"""Does a monitor set on a base model give an alarm when it is trained on a manner? The children that ship with it.

The monitor is set on quiet conversations as the base model reads them. Every checkpoint of a training may read such
conversations again (`el.posttrain(..., watch=monitor)`); here the finished children read those of the other half. None
of the texts changes: whatever gives an alarm is the reader's.
"""

from typing import Any

import pandas as pd

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import clopper_pearson
from emolens.studies._common import NotForThisModel, check_size, emotions_of, near
from emolens.training.adapters import load_adapter, packaged_adapters
from emolens.training.packaged_children import MANNERS
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.watching.monitor import Monitor, watched_scores
from emolens.watching.watch import Watch

RATE = 0.05
EVERY = {"full": 1, "quick": 4}  # of the quiet conversations, which of them are read


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full") -> StudyResult:
    """The share of quiet conversations with an alarm, read by the base model and by each of its children.

    Raises:
        NotForThisModel: a model of which no children ship.

    >>> run(model, vectors)
    Traceback (most recent call last):
    emolens.studies._common.NotForThisModel: no children of tiny-llama ship with the package: ...
    """
    check_size(size)
    vectors.check_model(model)
    if not packaged_adapters(model.name):
        raise NotForThisModel(
            f"no children of {model.name} ship with the package: watch a training of yours, "
            f"el.posttrain(model, dialogues, watch=monitor)"
        )
    named = [name for names in MANNERS.values() for name in names]
    quiet = texts.quiet()[:: EVERY[size]]
    setting, asked = quiet[::2], quiet[1::2]
    layer = near(vectors, vectors.chosen_layer("denoised"))
    readers = {"base": model} | {name: load_adapter(model, name).model for name in packaged_adapters(model.name)}
    emotions = emotions_of(vectors, named, fewest=1)
    watch = Watch.of(vectors, emotions, layer, "denoised")
    own = watched_scores(model, watch, setting)
    read = {name: watched_scores(reader, watch, asked) for name, reader in readers.items()}
    rows: list[dict[str, Any]] = []
    for column, emotion in enumerate(emotions):
        monitor = Monitor.of_scores(Watch.of(vectors, emotion, layer), [x[:, [column]] for x in own], RATE)
        for name, scores in read.items():
            highest = [float(monitor.scale(x[:, [column]]).max()) for x in scores]
            alarms = sum(height > monitor.threshold for height in highest)
            low, high = clopper_pearson(alarms, len(highest))
            row = {"watched": emotion, "reader": name, "alarms": alarms / len(highest), "low": low, "high": high}
            row |= {"promised_high": monitor.promise[1], "height": sum(highest) / len(highest), "texts": len(highest)}
            rows.append(row | {"warns": alarms / len(highest) > monitor.promise[1]})
    frame = pd.DataFrame(rows)
    return StudyResult("children", frame, headline(frame), "none: the share that the base model's calibration promised")


def headline(frame: pd.DataFrame) -> str:
    """The reader and the emotion with the most alarms, beside the base.

    >>> frame = pd.DataFrame({"reader": ["base", "bright"], "watched": "exuberant", "alarms": [0.04, 0.5]})
    >>> headline(frame)
    'Read by the bright child, 50% of the quiet conversations give an alarm for exuberant; read by the base 4%.'
    """
    children = frame[frame["reader"] != "base"]
    most = children.loc[children["alarms"].idxmax()]
    base = frame[(frame["reader"] == "base") & (frame["watched"] == most["watched"])].iloc[0]
    return (
        f"Read by the {most['reader']} child, {most['alarms']:.0%} of the quiet conversations give an alarm for "
        f"{most['watched']}; read by the base {base['alarms']:.0%}."
    )
