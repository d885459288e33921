"""Have SmolLM2-135M-Instruct write `emolens/data/corpus/written_by_smollm2.jsonl` once more."""

import emolens as el
from emolens.files import data_path, write_atomic
from emolens.studies._common import TWELVE

TOPICS = ["a delayed train", "a family dinner", "a lost key", "the first day at work", "a letter", "a walk by the sea"]
PATH = data_path("corpus", "written_by_smollm2.jsonl")

if __name__ == "__main__":
    draft = PATH.with_suffix(".draft.jsonl")
    el.corpus.generate(el.load("smollm2-135m-instruct"), list(TWELVE), TOPICS, 1, path=draft, batch_size=36)
    write_atomic(PATH, draft.read_bytes())
    draft.unlink()
