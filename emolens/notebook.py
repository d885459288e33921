"""What a notebook runs on: the model that its text is about, or the one that `EMOLENS_MODEL` names.

Stored results are those of the model in use alone, and figures of another model than the notebook's own are written
under that model's name.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from emolens import corpus, plots, studies
from emolens.files import data_path
from emolens.models.loading import load
from emolens.models.model import HookedModel
from emolens.results import StudyResult, load_folder, load_results, named
from emolens.studies._ladder import ladder, words_alone
from emolens.studies._measure import place
from emolens.studies.post_training._checkpoints import check_pair
from emolens.training.adapters import Posttrained, load_adapter
from emolens.training.packaged_children import DIALOGUES, MANNERS
from emolens.training.posttrain import Recipe, posttrain
from emolens.vectors.derive import derive
from emolens.vectors.emotion_vectors import EmotionVectors, packaged_vectors

VARIABLE = "EMOLENS_MODEL"
BASE_VARIABLE = "EMOLENS_BASE"
FIGURES = Path("../figures")  # as seen from the notebooks
UNMEASURED = "not measured"  # the mark of axes that are no figure
SHORT = Recipe(tokens=2400, every=4)  # of children that are trained while the reader waits


@dataclass(frozen=True)
class NotMeasured:
    """In the place of a `StudyResult` that there is not: it says so, and how to measure it, wherever it is shown.

    >>> missing = NotMeasured("by_layer of tiny is not measured.")
    >>> print(missing.headline(), missing.details(layer=3), len(missing.table()))
    by_layer of tiny is not measured. by_layer of tiny is not measured. 0
    """

    sentence: str

    def headline(self) -> str:
        """That it is not measured, and what measures it."""
        return self.sentence

    def details(self, **only: Any) -> str:
        """The same, whatever rows are asked for."""
        return self.sentence

    def table(self) -> pd.DataFrame:
        """No rows and no columns."""
        return pd.DataFrame()

    def plot(self, ax: Any = None) -> Axes:
        """Axes with the sentence and nothing else, which `Page.save` does not keep."""
        ax = plots.words(self.sentence, ax)
        ax.set_gid(UNMEASURED)
        return ax


@dataclass(frozen=True)
class Results:
    """The results of one study, by name; `in` says whether there is one.

    Attributes:
        missing: what is said of a result that there is not, after its name.
        run: "full run" or "quick run", for sentences about what was measured.
    """

    found: dict[str, StudyResult]
    missing: str
    run: str

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def __getitem__(self, name: str) -> StudyResult | NotMeasured:
        return self.found.get(name) or NotMeasured(f"{name}{self.missing}")


@dataclass(frozen=True)
class Stored:
    """The stored results of a page's model, by study; of a study without any the quick size is run, once.

    >>> from emolens.notebook import Page
    >>> stored = Page(model, "smollm2-135m-instruct", "SmolLM2").stored(vectors)
    >>> print(stored["word_probability"]["matrix"].headline())
    No stored results of word_probability for tiny-llama: the quick size is run now. ...
    tiny-llama: ...
    """

    page: "Page"
    vectors: EmotionVectors
    kept: dict[str, Results] = field(default_factory=dict)

    def __getitem__(self, study: str) -> Results:
        return self.of(study)

    def of(self, study: str, **own: Any) -> Results:
        """The results of a study; `own` are options of its `run`, where it has to be run."""
        if study not in self.kept:
            self.kept[study] = self._found(study, own)
        return self.kept[study]

    def _found(self, study: str, own: dict[str, Any]) -> Results:
        page, command = self.page, f"`emolens run {study} --model {self.page.asked} --out figures/data`"
        path = place(study, page.model, FIGURES / "data")
        if path.exists() and (page.default or _stamp(path).get("fingerprint") == page.model.fingerprint):
            missing = f" of {study} is not among the stored results of {page.title}."
            return Results(page.signed(load_results(path)), missing, f"{_stamp(path).get('size') or 'full'} run")
        print(
            f"No stored results of {study} for {page.title}: the quick size is run now. {command} measures it in full."
        )
        missing = f" of {study} is not in the quick size; {command} runs the full one on {page.title}."
        try:
            results = named(studies.find(study).run(page.model, self.vectors, "quick", **own))
            return Results(page.signed(results), missing, "quick run")
        except (ValueError, RuntimeError, OSError) as reason:  # the cells after it need not wait for this one study
            return Results({}, f" of {study} cannot be measured on {page.title}: {reason}", "quick run")


@dataclass(frozen=True)
class Page:
    """A notebook's model, and the name that titles and labels have for it.

    Attributes:
        model: in use.
        own: the model that the notebook's text is about; `called` is what the text calls it.
        asked: what `EMOLENS_MODEL` says, or `own`.
    """

    model: HookedModel
    own: str
    called: str
    asked: str = ""

    @property
    def default(self) -> bool:
        """Whether the model in use is the notebook's own."""
        return self.model.name == self.own

    @property
    def name(self) -> str:
        """The model's name, as its folders have it."""
        return Path(self.model.name).name

    @property
    def title(self) -> str:
        """What titles and labels call the model."""
        return self.called if self.default else self.name

    def vectors(self) -> EmotionVectors:
        """The vectors that ship for the model, or where none do those that are derived."""
        shipped = data_path("vectors", f"{self.model.name}.safetensors").exists()
        return packaged_vectors(self.model) if shipped else derive(self.model)

    def stored(self, vectors: EmotionVectors) -> Stored:
        """The stored results of the model in use, of no other."""
        return Stored(self, vectors)

    def second(self, *names: str) -> dict[str, dict[str, dict[str, StudyResult]]]:
        """All stored results of other models, to stand beside the notebook's own; nothing beside another model."""
        return {name: load_folder(FIGURES / "data" / name) for name in names} if self.default else {}

    def ladder(self, readout: str = "whitened") -> StudyResult:
        """The same questions for all models whose ladder is stored (see `el.ladder`), also beside another model."""
        return ladder(FIGURES / "ladder", readout=readout)

    def words_alone(self) -> pd.DataFrame:
        """What words alone give on questions of the ladder, beside what its models give."""
        return words_alone(FIGURES / "ladder")

    def signed(self, results: dict[str, StudyResult]) -> dict[str, StudyResult]:
        """The results with the model's name before each headline, where it is not the notebook's own."""
        if self.default:
            return results
        return {key: replace(one, sentence=f"{self.title}: {one.sentence}") for key, one in results.items()}

    def children(self, vectors: EmotionVectors) -> dict[str, Posttrained]:
        """The post-trained children that ship with the package, by manner; of another model two short trainings."""
        if self.default:
            return {manner: load_adapter(self.model, manner) for manner in DIALOGUES}
        watched: dict[str, Any] = {"watch": [name for names in MANNERS.values() for name in names]}
        watched["vectors"] = vectors.at(*vectors.layers[:-1])  # the last block cannot be watched
        print(f"No children of {self.title} ship with the package: two are trained now, on {SHORT.tokens} tokens each.")
        return {
            manner: posttrain(self.model, corpus.stimuli(rows), name=manner, recipe=SHORT, progress=False, **watched)
            for manner, rows in DIALOGUES.items()
        }

    def pair(self) -> tuple[HookedModel, HookedModel] | None:
        """The base model that `EMOLENS_BASE` names, and the model in use, which was post-trained from it.

        Returns:
            None where no base is named; how to name one is printed.

        Raises:
            ValueError: the two differ in architecture or tokenizer, so that one ruler cannot read both.

        >>> from emolens.notebook import Page
        >>> Page(model, "gemma-3-270m", "Gemma 3 270M").pair()
        To read a pair of your own, start with EMOLENS_BASE=<base> EMOLENS_MODEL=<post-trained> jupyter lab
        """
        named = os.environ.get(BASE_VARIABLE)
        if not named or self.default:
            print(
                f"To read a pair of your own, start with {BASE_VARIABLE}=<base> {VARIABLE}=<post-trained> jupyter lab"
            )
            return None
        base = load(named)
        check_pair(base, self.model)
        return base, self.model

    def save(self, ax: Axes, name: str, says: str = "", falsified_by: str = "") -> Path | None:
        """Write a figure (see `plots.save`): of another model than the notebook's own with the model's name in title
        and words, into the folder of that name. What was not measured is not written."""
        if ax.get_gid() == UNMEASURED:
            return None
        if self.default:
            return plots.save(ax, FIGURES / name, says, falsified_by)
        if whole := ax.figure.get_suptitle():
            ax.figure.suptitle(f"{self.title}: {whole}", fontsize=11)
        else:
            ax.title.set_text(f"{self.title}: {ax.get_title()}")
        says = says if says.startswith(self.title) else f"{self.title}: {says}"
        return plots.save(ax, FIGURES / self.name / name, says, falsified_by)


def page(own: str, called: str) -> Page:
    """Load a notebook's own model, or the one that `EMOLENS_MODEL` names.

    >>> page("smollm2-135m-instruct", "SmolLM2")  # doctest: +SKIP
    """
    plots.saving.describe_in_notebook()
    asked = os.environ.get(VARIABLE) or own
    found = Page(load(asked), own, called, asked)
    if not found.default:
        print(
            f"This is {found.title}. The text between the cells was written about {called}, and its numbers are those."
        )
    return found


def present(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The columns that a table has, of those wanted: the quick size of a study has fewer.

    >>> present(pd.DataFrame({"r": [0.5]}), ["r", "p_random"]).columns.tolist()
    ['r']
    """
    return frame[[column for column in columns if column in frame]]


def _stamp(path: Path) -> dict[str, Any]:
    """What a file of results says of the model and the run."""
    return json.loads(path.read_text("utf-8"))["stamp"]
