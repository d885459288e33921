"""The lists of packages agree: pyproject.toml, constraints.txt, environment.yml, compat/requirements.txt."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from emolens import plots

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(path: str) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / path).read_text().splitlines())
    return {canonicalize_name(found.name): found for found in map(Requirement, filter(None, lines))}


CONSTRAINTS = requirements("constraints.txt")
COMPAT = requirements("compat/requirements.txt")


SPEED = ROOT / "docs" / "speed.md"
IN_THE_TABLE = (
    "detection",
    "implicit",
    "numbers",
    "circumplex",
    "word_probability",
    "speakers",
    "preferences",
    "leverage",
)
MODELS = ("smollm2-135m-instruct", "gemma-3-270m")


def stamp_of(model: str, study: str) -> dict[str, Any]:
    return json.loads((ROOT / f"figures/data/{model}/{study}.json").read_text())["stamp"]


def stored(model: str, study: str) -> dict[str, Any]:
    """The results of a study in full, by name."""
    return json.loads((ROOT / f"figures/data/{model}/{study}.json").read_text())["results"]


def words(path: Path) -> str:
    """A text in one line."""
    return " ".join(path.read_text().split())


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


def pin(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


def test_every_constraint_is_an_exact_version_for_all_platforms() -> None:
    for requirement in CONSTRAINTS.values():
        assert "+" not in pin(requirement) and "*" not in pin(requirement)
        assert requirement.url is None and requirement.marker is None
    assert pin(CONSTRAINTS["torch"]) == "2.13.0"


def test_every_direct_dependency_allows_its_pin() -> None:
    for line in [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]:
        wanted = Requirement(line)
        assert pin(CONSTRAINTS[canonicalize_name(wanted.name)]) in wanted.specifier, line


def test_conda_environment_installs_the_same() -> None:
    *packages, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert packages == ["python=3.11", "pip"]
    constraints, package = pip["pip"]
    assert constraints == "-c constraints.txt"
    assert set(package.removeprefix("-e .[").removesuffix("]").split(",")) == set(EXTRAS)


def test_makefile_installs_the_same() -> None:
    assert f"install -c constraints.txt -e '.[{','.join(EXTRAS)}]'" in (ROOT / "Makefile").read_text()


def test_transformer_lens_3_differs_in_itself_alone() -> None:
    assert pin(COMPAT["transformer-lens"]) == "3.9.0"
    own = {name for name, requirement in COMPAT.items() if requirement.specifier}
    assert own == {"transformer-lens", "better-abc"}  # what it needs and TransformerLens 4 does not
    assert COMPAT.keys() - own <= CONSTRAINTS.keys()
    assert names(PROJECT["dependencies"]) <= COMPAT.keys()


def test_the_speed_of_extraction_is_the_one_that_was_measured() -> None:
    for model in MODELS:
        speed = json.loads((ROOT / f"benchmarks/results/extraction-{model}.json").read_text())
        ratios = [ratio for name, ratio in speed["emolens_speed_over"].items() if name != "emolens pooled"]
        shown = [f"{ratio:.2f}" for ratio in ratios] + [f"{speed['peak_memory_above_model_mb']} MB"]
        column = 2 if model == "smollm2-135m-instruct" else 3
        rows = [line.split("|") for line in SPEED.read_text().splitlines() if line.startswith("| ")]
        assert [row[column].strip() for row in rows if len(row) == 5 and re.match(r" \d", row[2])] == shown
    over = json.loads((ROOT / f"benchmarks/results/extraction-{MODELS[0]}.json").read_text())["emolens_speed_over"]
    bare = next(ratio for name, ratio in over.items() if name != "emolens pooled")
    assert f"extraction of all layers runs at {bare:.2f} of the bare forward pass" in words(ROOT / "README.md")


def test_it_is_said_what_the_algebra_and_a_wide_model_took() -> None:
    algebra, large = (
        json.loads((ROOT / f"benchmarks/results/{name}.json").read_text()) for name in ("algebra", "large")
    )
    readme = words(SPEED)
    share = algebra["share_of_one_eigh"]
    assert all(bar["met"] for bar in algebra["bars"].values())
    assert f"takes {share['choose']:.2f} of it, fitting one layer {share['fit']:.2f}" in readme
    assert f"takes {algebra['minutes_of_all_layers']:.1f} minutes" in readme and algebra["layers"] == 32
    assert f"a file of {algebra['file_mb']:.0f} MB" in readme
    over = large["speed_over_bare_forward"]
    assert f"runs at {over['emolens pooled']:.2f} of the bare pass" in readme
    assert f"with {large['peak_memory_above_model_mb']} MB" in readme
    assert f"scanning at {over['emolens scan']:.2f}, and" in readme
    assert f"steering costs {large['steering_overhead_per_token']:.0%}".replace("%", " %") in readme


def test_the_speed_of_steering_is_the_one_that_was_measured() -> None:
    readme = words(SPEED)
    found = json.loads((ROOT / "benchmarks/results/steering-smollm2-135m-instruct.json").read_text())
    assert f"{found['generation']['batched_speed_over_one_by_one']:.1f} times as fast as one `generate`" in readme
    assert f"at {found['generation']['steered_over_unsteered_tokens_per_second']:.2f} of the unsteered" in readme
    assert f"{found['pairs']['speed_over_pair_by_pair']:.2f} times as fast as one pass for each pair" in readme
    assert f"is {found['generation']['batched_speed_over_one_by_one']:.1f} times as fast" in words(ROOT / "README.md")


def test_the_table_of_the_readme_says_what_was_measured() -> None:
    """The eight rows of "here", with their nulls, from the stored results of SmolLM2."""
    found = {study: stored(MODELS[0], study) for study in IN_THE_TABLE}
    head = {study: {name: one["headline"] for name, one in results.items()} for study, results in found.items()}
    plain = head["circumplex"]["plain_denoised"]
    first = found["circumplex"]["literary_denoised"]["table"][0]
    literary = "{scale}, component {component}: {r:.2f}, p = {p:.3f}".format(**first)
    rows = [
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ") and "|---" not in line
    ]
    here = {
        cells[1].strip(): (cells[3].strip(), cells[4].strip())
        for cells in (row.split("|") for row in rows)
        if len(cells) == 6
    }
    said = [
        ("first of 171 for {}%", r"first for (\d+)% of the texts", head["detection"]["detection"]),
        ("shuffled labels reach {}%", r"up to ([\d.]+)%", head["detection"]["detection"]),
        ("{} of 24 come first", r"first for (\d+) of 24 emotions, beyond", head["implicit"]["implicit"]),
        ("{}% of the expected signs,", r"^(\d+)% of the expected signs .* inside the null", head["numbers"]["numbers"]),
        ("r = {} from plain", r"\|r\| = ([\d.]+) \(beyond permuted ratings and random directions\), the third", plain),
        (", {} from literary", r"^valence, component 1: ([\d.]+), p = 0.982$", literary),
        ("{} nats, other", r"by (\S+) nats, the others", head["word_probability"]["matrix"]),
        ("other words {} |", r"the others by (-[\d.]+);", head["word_probability"]["matrix"]),
        ("{} of the ceiling by who", r": ([\d.]+) of the ceiling by who is speaking", head["speakers"]["grouping"]),
        ("{} by person", r"([\d.]+) by person, difference .* \(p = 0.001\)", head["speakers"]["grouping"]),
        ("r = {} [", r"beyond both nulls for 0 of 22 emotions; .* at r = (\S+)\.$", head["preferences"]["causal"]),
        ("{} of 171 emotions move the pref", r": (\d+) of 171 emotions count", head["leverage"]["ranked"]),
    ]
    cells = " ".join(f"{one} | {other} ." for one, other in here.values())
    for sentence, pattern, headline in said:
        (number,) = re.findall(pattern, headline)
        assert sentence.format(number) in cells
    assert len(here) == 1 + 8  # its head, too


def test_the_null_of_the_children_holds_what_it_promises() -> None:
    measured = stored("gemma-3-270m", "manner")
    assert max(row["called"] for row in measured["held_out_null"]["table"]) <= 0.05
    recipe = json.loads((ROOT / "emolens/data/adapters/gemma-3-270m-composed.json").read_text())
    assert len(stored("gemma-3-270m", "compare")["null"]["table"][0]) - 3 == 5 and recipe["dialogues"]["rows"] == 260


def test_the_speed_of_scoring_replies_is_the_one_that_was_measured() -> None:
    readme = words(SPEED)
    found = json.loads((ROOT / "benchmarks/results/replies-smollm2-135m-instruct.json").read_text())
    assert f"in {found['seconds']['grid'] / 60:.1f} minutes" in readme
    assert f"{found['speed_over_one_by_one']:.0f} times as fast as one forward pass for each cell" in readme
    assert found["cells"] == 7 * 14 * 16 * 5


def test_the_gallery_is_that_of_the_figures(tmp_path: Path) -> None:
    for figure in (ROOT / "figures").glob("*.png"):
        shutil.copy(figure, tmp_path)
    assert plots.gallery(tmp_path).read_text() == (ROOT / "figures" / "README.md").read_text()
