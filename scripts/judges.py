"""Try both embedded models and the keywords as judges of the labelled replies; figures/data/judges-*.json."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from functools import cache
from pathlib import Path

import emolens as el
from emolens.judging import judge, rubrics
from emolens.results import load_results, save_results

DATA = Path(__file__).parents[1] / "figures" / "data"
MODELS = ("smollm2-135m-instruct", "gemma-3-270m")


def remembered() -> None:
    """Calibrated and uncalibrated judges ask the model the same."""
    ask = judge.answer_logprobs

    @cache
    def again(model: object, prompts: str, answers: str) -> object:
        return ask(model, json.loads(prompts), json.loads(answers))

    judge.answer_logprobs = lambda model, prompts, answers: again(model, json.dumps(prompts), json.dumps(answers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--judges", nargs="*", help="these alone, added to the results that are there")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    import torch

    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    remembered()
    for name in chosen.models:
        model, path = el.load(name), DATA / f"judges-{name}.json"
        results = load_results(path) if path.exists() else {}
        for subject, rubric in rubrics.RUBRICS.items():
            replies, labels = rubrics.labelled_replies(subject), list(rubric.labels)
            judges = {
                "keywords": judge.keyword_judge(rubric),
                "letters": judge.model_judge(model, rubric, context=False),
                "letters, uncalibrated": judge.model_judge(model, rubric, context=False, calibrate=False),
                "channel": judge.model_judge(model, rubric, method="channel"),
                "generation": judge.model_judge(model, rubric, context=False, method="generation"),
                "labels": judge.model_judge(model, rubric, context=False, answers="labels"),
                "letters, with the conversation": judge.model_judge(model, rubric),
            }
            for key in [key for key in judges if not chosen.judges or key in chosen.judges]:
                began = time.perf_counter()
                found = judge.validate(judges[key], replies, labels, seconds=600)
                results[f"{subject}: {key}"] = found
                print(f"{subject}, {key}, {time.perf_counter() - began:.0f} s. {found.verdict()}", flush=True)
                print(found.table().round(2).to_string(index=False), flush=True)
                save_results(path, {"model": name, "fingerprint": model.fingerprint}, results)


if __name__ == "__main__":
    main()
