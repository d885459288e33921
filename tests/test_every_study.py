"""All studies have one shape, found by walking the package; what they measured can be read aloud, saved and drawn."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from emolens import studies
from emolens.results import StudyResult, load_results, named, save_results

DATA = Path(__file__).parents[1] / "figures" / "data"
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:[.,]\d+)*%?")
STORED = sorted(DATA.glob("*/*.json"))
STORED_IDS = [f"{path.parent.name}/{path.stem}" for path in STORED]


@pytest.mark.parametrize("name", studies.names())
def test_it_runs_as_all_do(name):
    parameters = list(inspect.signature(studies.find(name).run).parameters.values())
    assert [parameter.name for parameter in parameters[:3]] == ["model", "vectors", "size"]
    assert parameters[2].default == "full" and len(parameters) <= 8
    assert all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in parameters[3:])


@pytest.mark.parametrize("name", studies.names())
def test_an_unknown_size_is_refused_before_anything_is_done(name, planted):
    with pytest.raises(ValueError, match="size='ful' is none of full, quick"):
        studies.find(name).run(*planted, "ful")


def test_no_public_function_takes_more_than_eight_things():
    for module in pkgutil.walk_packages(importlib.import_module("emolens").__path__, "emolens."):
        if module.ispkg or any(part.startswith("_") for part in module.name.split(".")):
            continue
        found = importlib.import_module(module.name)
        for name, function in inspect.getmembers(found, inspect.isfunction):
            if not name.startswith("_") and function.__module__ == module.name:
                taken = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
                assert len(taken) <= 8, f"{module.name}.{name} takes {len(taken)}"


def test_an_unknown_study_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"no study 'implicite' \(did you mean implicit"):
        studies.find("implicite")
    with pytest.raises(AttributeError):
        studies.implicite  # noqa: B018


@pytest.mark.parametrize("path", STORED, ids=STORED_IDS)
def test_a_stored_result_can_be_read_aloud_and_says_its_null(path):
    assert path.stem in studies.names()
    for name, result in load_results(path).items():
        headline = result.headline()
        assert len(NUMBER.findall(headline)) <= 4, f"{name}: {headline}"
        assert headline.endswith(".") and headline.count(". ") == 0, headline
        assert result.null.strip(), name
        *table, _ = repr(result.details()).split("\n")  # the last line is the null, in words
        assert max(map(len, table)) <= 100


@pytest.mark.parametrize("path", STORED, ids=STORED_IDS)
def test_a_stored_result_goes_to_disk_and_back_and_is_drawn(path, tmp_path):
    results = load_results(path)
    back = load_results(save_results(tmp_path / "again.json", {"model": "any"}, results))
    for name, result in results.items():
        assert back[name].headline() == result.headline() and back[name].table().equals(result.table())
        assert named(result) == {result.name: result} and isinstance(result, StudyResult)
        if result.figure:
            plt.close(result.plot().figure)


def test_details_show_no_brackets_where_there_is_no_interval():
    frame = pd.DataFrame({"measure": ["own", "rows"], "value": [1.5, 11.0], "low": [0.9, None], "high": [2.1, None]})
    shown = repr(StudyResult("words", frame, "Words rise.", "none: an example").details())
    assert "1.5 [0.9, 2.1]" in shown and "11" in shown and shown.count("[") == 2  # one in the header
