"""Run the studies in full on both embedded models: `make results`.

Writes `figures/data/PART-MODEL.json` for each part (tables with nulls and intervals, verdicts, the stamp, how many
minutes it took with how many threads); the parts post_training and rulers are of the base model alone, surface and
behaviour of the instruct model. The notebooks show these numbers and check that what they measure live agrees.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import emolens as el
from emolens import studies
from emolens.results import StudyResult, load_results, save_results

DATA = Path(__file__).parent.parent / "figures" / "data"


def post_training(model: el.HookedModel, vectors: el.EmotionVectors) -> dict[str, StudyResult]:
    """Notebook 07. The null children come from the user's cache, or are trained: some two minutes each."""
    study, chosen = studies.compare, vectors.chosen_layer()
    manners = {name: el.load_adapter(model, name) for name in packaged_children.DIALOGUES}
    posts = [child.model for child in manners.values()]
    null = [child.model for child in packaged_children.null_children(model)]
    full = el.compare(model, posts, vectors, null=null, layers=vectors.layers).table()
    shown = full[full["ruler"] == "base"].drop(columns=["form", "ruler", "p"])
    emotions, axes = (shown[shown["of"] == of] for of in ("emotion", "axis"))
    challenging = emotions[emotions["group"] == "challenging"]
    wide = challenging.pivot_table(index=["child", "emotion"], columns="layer", values="shift", sort=False)
    theirs = el.compare(model, null, vectors, layers=[chosen]).table()
    theirs = theirs[theirs["of"] == "emotion"]
    table = theirs.pivot_table(index=["ruler", "group", "emotion"], columns="child", values="shift", sort=False)
    manner = studies.manner.run(model, vectors, null=null)
    rows = manner.table().drop(columns=["p", "ruler"])
    here = rows["layer"] == chosen
    difference = rows[here & rows["place"].eq("before the reply")].assign(child="bright - composed")
    paper = pd.concat([emotions[emotions["layer"] == chosen], difference, theirs[theirs["ruler"] == "base"]])
    kept = pd.concat([rows[here], rows[rows["of"].eq("axis") & ~here]])
    models = {"base": model} | {name: child.model for name, child in manners.items()}
    found = {
        "shifts": StudyResult(
            "shifts", emotions[emotions["layer"] == chosen], study.verdict(full, chosen), "shift_dots"
        ),
        "summary": study.by_layer(full),
        "axes": StudyResult("axes", axes, study.along_axes(axes, chosen)),
        "by_layer": StudyResult("by_layer", wide.reset_index().rename(columns=str), "Shift of each emotion by block."),
        "null": StudyResult("null", table.reset_index(), "Shift of each emotion in every child without a manner."),
        "held_out_null": studies.manner.held_out_null(model, vectors, null),
        "manner": StudyResult("manner", kept, manner.verdict(), "shift_dots"),
        "against_paper": studies.manner.against_paper(paper[paper["of"] == "emotion"]),
        "replies": studies.manner.replies(models, tokens=40),
    }
    found |= {f"training_{name}": child.curve() for name, child in manners.items()}
    return found


def rulers(model: el.HookedModel, vectors: el.EmotionVectors) -> dict[str, StudyResult]:
    """Notebook 07: each model's own vectors, from the plain stories at one block, as rulers; how far they moved."""
    plain, study, layer = el.corpus.stories("plain"), studies.compare, vectors.chosen_layer()
    posts = [el.load_adapter(model, name).model for name in packaged_children.DIALOGUES]
    null = [child.model for child in packaged_children.null_children(model)]
    both = el.compare(model, posts, null=null, layers=[layer], corpus=plain)
    found = {"rulers": StudyResult("rulers", study.summary(both.table()), both.verdict())}
    own = el.derive(model, plain, [layer])
    for post in posts:
        theirs, name = el.derive(post, plain, [layer]), post.name.split("+")[1]
        found[f"moved_{name}"] = study.moved(own, theirs)
        found[f"geometry_{name}"] = studies.alignment.between(model, own, post, theirs, same=layer, corpus=plain)
    return found


def curved(model: el.HookedModel) -> dict[str, Any]:
    """The curves of the case studies take most of their time: they are drawn for the instruct model alone."""
    return {} if model.name == "smollm2-135m-instruct" else {"strengths": ()}


def leverage(model: el.HookedModel, vectors: el.EmotionVectors) -> dict[str, StudyResult]:
    """Notebook 08."""
    return studies.leverage.run(model, vectors, **curved(model))


def reward_hacking(model: el.HookedModel, vectors: el.EmotionVectors) -> dict[str, StudyResult]:
    """Notebook 09."""
    return studies.reward_hacking.run(model, vectors, **curved(model))


def sycophancy(model: el.HookedModel, vectors: el.EmotionVectors) -> dict[str, StudyResult]:
    """Notebook 10."""
    return studies.sycophancy.run(model, vectors, **curved(model))


def traces(model: el.HookedModel, vectors: el.EmotionVectors) -> dict[str, StudyResult]:
    """Notebook 08, what is read in the mails and in the replies."""
    study = studies.traces
    return {"contrasts": study.run(model, vectors), "by_mail": study.by_mail(model, vectors)}


def surface(model: el.HookedModel, vectors: el.EmotionVectors) -> dict[str, StudyResult]:
    """Notebook 09, the calm surface; the base model reads what the instruct model writes."""
    other = el.load("gemma-3-270m")
    return {"surface": studies.surface.run(model, vectors, (other, el.derive(other)), (0.1,))}


def behaviour(model: el.HookedModel, vectors: el.EmotionVectors) -> dict[str, StudyResult]:
    """Notebooks 08 to 10, what the unsteered model does. It is its own judge, as `scripts/judges.py` tried it."""
    tried = load_results(DATA / f"judges-{model.name}.json")
    found = {"attempts": studies.attempts.run(model, vectors, samples=2)}
    for name, samples in (("leverage", 3), ("sycophancy", 1)):
        words, known = el.judge.keyword_judge(el.rubrics.RUBRICS[name]), tried[f"{name}: letters"]
        found[name] = studies.rollouts.run(model, name, second=words, samples=samples, validation=known)
    return found


PARTS = {"leverage": leverage, "reward_hacking": reward_hacking, "sycophancy": sycophancy}
PARTS |= {"traces": traces, "surface": surface, "behaviour": behaviour}
PARTS |= {"post_training": post_training, "rulers": rulers}
ONLY = dict.fromkeys(("post_training", "rulers"), packaged_children.BASE)  # the other model is no base model
ONLY |= dict.fromkeys(("surface", "behaviour"), "smollm2-135m-instruct")  # a base model does not answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=el.embedded.known_models(), default=el.embedded.known_models())
    options = parser.parse_args()
    for name in options.models:
        model = el.load(name)
        vectors = el.derive(model)
        for part in options.parts:
            if ONLY.get(part, name) != name:
                continue
            began = time.time()
            results = PARTS[part](model, vectors)
            took = {"minutes": round((time.time() - began) / 60, 1), "threads": torch.get_num_threads()}
            path = save_results(DATA / f"{part}-{name}.json", vectors.stamp | took, results)
            print(path, *(f"  {key}: {result.verdict()}" for key, result in results.items()), sep="\n")


if __name__ == "__main__":
    main()
