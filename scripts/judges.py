"""Try both embedded models and the keywords as judges of the labelled replies; figures/data/judges-*.json."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from functools import cache
from pathlib import Path

import emolens as el
from emolens import judge
from emolens.stats import save_results

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
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    import torch

    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    remembered()
    for name in chosen.models:
        model, results = el.load(name), {}
        for subject, rubric in judge.RUBRICS.items():
            replies, labels = judge.labelled_replies(subject), list(rubric.labels)
            context = subject == "sycophancy"  # a whole inbox before each reply would take five times as long
            judges = {"keywords": judge.keyword_judge(rubric)}
            for calibrate in (True, False):
                key = "letters" if calibrate else "letters, uncalibrated"
                judges[key] = judge.model_judge(model, rubric, context=context, calibrate=calibrate)
            judges["generation"] = judge.model_judge(model, rubric, context=context, method="generation")
            judges["labels"] = judge.model_judge(model, rubric, context=False, answers="labels")
            for key, one in judges.items():
                began = time.perf_counter()
                results[f"{subject}: {key}"] = found = judge.validate(one, replies, labels, seconds=600)
                print(f"{subject}, {key}, {time.perf_counter() - began:.0f} s. {found.verdict()}", flush=True)
                print(found.table().round(2).to_string(index=False), flush=True)
        save_results(DATA / f"judges-{name}.json", {"model": name, "fingerprint": model.fingerprint}, results)


if __name__ == "__main__":
    main()
