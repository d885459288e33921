"""Every notebook has its parts and shows what it measured; a number that changed makes nbval fail."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from emolens.exercises._check import MISSING

FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
UNCOMPARED = ("NBVAL_IGNORE_OUTPUT", "NBVAL_SKIP")
SUBJECTS = "|".join(path.stem for path in (FOLDER.parent / "emolens" / "exercises").glob("[a-z]*.py"))
CHECK = re.compile(rf"^exercises\.(?:{SUBJECTS})\.\w+\(", re.MULTILINE)
ANY_NUMBER = re.compile(r"\d+(?:\.\d+)?")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+\.\d+(?!\w)|\d+ ?%")


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS])
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def number(path):
    return int(path.name[:2])


def text_of(cell) -> str:
    """What a code cell printed or showed, as text."""
    parts = [output.get("text", "") for output in cell.outputs]
    parts += [output.get("data", {}).get(kind, "") for output in cell.outputs for kind in ("text/plain", "text/html")]
    return "\n".join(parts)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks_numbered_from_00():
    assert [path.name[:3] for path in PATHS] == [f"{number:02d}_" for number in range(len(PATHS))]


def test_it_opens_with_its_terms_and_ends_with_a_folded_solution(notebook):
    first = notebook.cells[0].source
    assert all(part in first for part in ("# ", "**Objectives**", "**Run time**", "**Cached**"))
    folded = [cell.source for cell in notebook.cells[-3:] if "<details>" in cell.source]
    assert folded and "Exercise" in "".join(cell.source for cell in notebook.cells[-4:])
    assert "What would have falsified" in "".join(cell.source for cell in notebook.cells)


def test_it_was_run_from_the_top_without_an_error(notebook):
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    kinds = [output.output_type for cell in code(notebook) for output in cell.outputs]
    assert "error" not in kinds
    assert not [output for cell in code(notebook) for output in cell.outputs if output.get("name") == "stderr"]


def test_three_cells_at_least_are_compared(notebook):
    compared = [cell for cell in code(notebook) if text_of(cell).strip() and not cell.source.startswith("# NBVAL")]
    assert len(compared) >= 3
    assert all(cell.source.split("\n")[0].startswith("# NBVAL") for cell in code(notebook) if "NBVAL" in cell.source)


def test_it_can_be_read_without_script_and_network(notebook):
    for cell in code(notebook):
        shown = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
        assert not re.search(r"<script|\bsrc=|\bhref=|url\(", shown)


def test_cells_of_code_are_short(notebook):
    # nbval shows what a closing semicolon hides in Jupyter
    assert not [cell.source for cell in code(notebook) if cell.source.rstrip().endswith(";")]
    assert all(len(cell.source.splitlines()) <= 12 for cell in code(notebook))


def test_every_number_in_the_prose_was_printed_above_it(notebook):
    printed = ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            printed += text_of(cell)
        else:
            prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", cell.source, flags=re.DOTALL)
            assert [number for number in NUMBER.findall(prose) if number not in printed] == []


def test_it_begins_where_nothing_is_installed_and_shows_where_it_stands(notebook, number):
    first = code(notebook)[0].source
    assert "except ModuleNotFoundError" in first and "%pip install" in first
    assert any(f"plots.course({number})" in cell.source for cell in code(notebook)[:3])


def test_it_has_three_to_five_exercises_with_checks_hints_and_solutions_that_were_run(notebook):
    stubs = [cell for cell in code(notebook) if CHECK.search(cell.source)]
    assert 3 <= len(stubs) <= 5
    assert all("your turn" in cell.source and MISSING in text_of(cell) for cell in stubs)
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert sum("<summary>Hint</summary>" in source for source in prose) == len(stubs)
    solutions = [source for source in prose if "<summary>Solution</summary>" in source]
    assert len(solutions) == len(stubs)
    assert all("```text\n" in source and "Right. " in source for source in solutions)


def test_no_printed_line_is_a_paragraph_of_numbers(notebook):
    for cell in code(notebook):
        for output in cell.outputs:
            lines = output.get("text", "").splitlines() if output.output_type == "stream" else []
            assert [line for line in lines if len(ANY_NUMBER.findall(line)) > 6] == []


def test_every_figure_has_a_title_named_axes_and_a_text_in_its_place(notebook):
    for cell in code(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                text = output.metadata.get("image/png", {}).get("alt", output.metadata.get("alt", ""))
                assert len(text) > 20 and "unnamed" not in text, cell.source


def run_nbval(folder: Path, printed: str) -> int:
    notebook = nbformat.v4.new_notebook()
    source = (
        "import emolens as el\n"
        'found = el.packaged_vectors("smollm2-135m-instruct").nearest("calm", 1)\n'
        'print(f"{found[0][0]} {found[0][1]:.2f}, found in 0.1 s")'
    )
    output = nbformat.v4.new_output("stream", name="stdout", text=printed)
    notebook.cells = [nbformat.v4.new_code_cell(source, execution_count=1, outputs=[output])]
    nbformat.write(notebook, folder / "one.ipynb")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--nbval",
        "--nbval-current-env",
        "one.ipynb",
        "-p",
        "no:cacheprovider",
    ]
    command += ["--nbval-sanitize-with", str(FOLDER / "sanitize.cfg")]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=300).returncode


def test_a_changed_number_makes_nbval_fail_and_another_time_does_not(tmp_path):
    import emolens as el

    name, cosine = el.packaged_vectors("smollm2-135m-instruct").nearest("calm", 1)[0]
    assert run_nbval(tmp_path, f"{name} {cosine:.2f}, found in 7.5 s\n") == 0
    assert run_nbval(tmp_path, f"{name} {cosine + 0.01:.2f}, found in 0.1 s\n") == 1
