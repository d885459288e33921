"""Run notebooks from the top, their solutions included, and write what came out into them.

    python scripts/notebooks.py run notebooks/05_steering.ipynb    # outputs, and those of the folded solutions
    python scripts/notebooks.py solve build/notebooks              # copies in which the solutions are cells, for nbval

A solution is a markdown cell with `<summary>Solution</summary>`, a block of Python and, once it was run, a block of
what it printed. It is run where it stands, so that what it prints is what a reader would get.
"""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[1] / "notebooks"
SUMMARY = "<summary>Solution</summary>"
CODE = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
PRINTED = re.compile(r"\n```text\n(.*?)```\n", re.DOTALL)


def is_solution(cell: NotebookNode) -> bool:
    """Whether a cell is a folded solution."""
    return cell.cell_type == "markdown" and SUMMARY in cell.source


def solved(notebook: NotebookNode, unrun: bool = True) -> NotebookNode:
    """A copy in which each solution (`unrun`: also one without output) is followed by a cell with code and output."""
    copy = nbformat.from_dict({**notebook, "cells": []})
    for cell in notebook.cells:
        copy.cells.append(nbformat.from_dict(cell))
        if is_solution(cell) and CODE.search(cell.source):
            printed = PRINTED.search(cell.source)
            if not printed and not unrun:
                continue
            outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed[1])] if printed else []
            copy.cells.append(
                nbformat.v4.new_code_cell(
                    CODE.search(cell.source)[1],
                    id=f"{cell.id}-solved",
                    outputs=outputs,
                    execution_count=1 if outputs else None,  # without one nbval takes the cell for one that was not run
                )
            )
    return copy


def kept(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs that a reader sees: no progress bars, no warnings."""
    shown = [output for output in outputs if output.get("name") != "stderr"]
    return [one for one in shown if "application/vnd.jupyter.widget-view+json" not in one.get("data", {})]


def with_output(source: str, outputs: list[NotebookNode]) -> str:
    """A solution with what its code printed."""
    text = "".join(output.text for output in outputs if output.get("name") == "stdout")
    source = PRINTED.sub("\n", source)
    block = f"\n\n```text\n{text.rstrip()}\n```\n" if text.strip() else ""
    return CODE.sub(lambda found: found[0] + block, source, count=1).replace("\n\n\n", "\n\n")


def run(path: Path) -> None:
    """Execute a notebook with its solutions, and write the outputs of both."""
    notebook = nbformat.read(path, as_version=4)
    copy = solved(notebook)
    NotebookClient(copy, timeout=1800, resources={"metadata": {"path": str(path.parent)}}).execute()
    run_cells = {cell.id: cell for cell in copy.cells}
    count = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            count += 1
            cell.outputs, cell.execution_count = kept(run_cells[cell.id].outputs), count
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
        elif f"{cell.id}-solved" in run_cells:
            cell.source = with_output(cell.source, kept(run_cells[f"{cell.id}-solved"].outputs))
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, path)
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(path)], check=True)


def main(command: str, *names: str) -> None:
    """`run` the notebooks named, or all; or `solve` all into a folder."""
    if command == "run":
        for path in [Path(name) for name in names] or sorted(FOLDER.glob("*.ipynb")):
            run(path)
    elif command == "solve" and len(names) == 1:
        folder = Path(names[0])
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(FOLDER.glob("*.ipynb")):
            nbformat.write(solved(nbformat.read(path, as_version=4), unrun=False), folder / path.name)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["help"])
