"""The sandbox `emolens` of Inspect: model-written Python confined as in `emolens.judging.sandbox`, without Docker."""

import contextlib
import json
import os
import posixpath
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentConfigType,
    concurrency,
    sandboxenv,
)

import emolens.errors
from emolens.judging import plain_calls, sandbox, sandboxed_process

T = TypeVar("T")
PYTHON = ("python", "python3")


@sandboxenv(name="emolens")
class ConfinedPython(SandboxEnvironment):
    """Files that live in memory, and Python programs that may read them and compute.

    `exec` takes `python FILE ...`, `python -c CODE ...` and `python -` with the program as input. A program has no
    network, writes no file and starts no process; its output and its errors come on one stream. For anything more
    take Inspect's `docker`.

    >>> import asyncio
    >>> box = ConfinedPython()
    >>> asyncio.run(box.write_file("word.py", "print(2 + 2)"))
    >>> asyncio.run(box.exec(["python", "word.py"])).stdout
    '4\\n'
    >>> asyncio.run(box.exec(["ls"])).stderr
    "this sandbox runs Python alone, such as ['python', 'solution.py']; not 'ls'"
    """

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Run a Python program. Working folder, environment and user are always the sandbox's own."""
        stdin = input.decode() if isinstance(input, bytes) else input or ""
        name, *rest = cmd or [""]
        if name not in PYTHON or not rest:
            why = f"this sandbox runs Python alone, such as ['python', 'solution.py']; not {' '.join(cmd)!r}"
            return ExecResult(False, 127, "", why)
        if rest[0] == "-c" and len(rest) > 1:
            source, arguments = rest[1], rest[2:]
        elif rest[0] == "-":
            source, arguments, stdin = stdin, rest[1:], ""
        elif (path := _path(rest[0])) in self.files:
            source, arguments = self.files[path].decode(), rest[1:]
        else:
            return ExecResult(False, 2, "", f"python: there is no file {rest[0]!r}")
        limits = sandbox.Limits() if timeout is None else sandbox.Limits(seconds=timeout)
        run = await _in_turn(lambda: sandbox.run_program(source, arguments, stdin, dict(self.files), limits))
        if run.ended == "time":
            raise TimeoutError(f"the program was stopped after {limits.seconds:g} seconds")
        if run.ended == "output":
            raise OutputLimitExceededError(f"{limits.output} bytes", run.output)
        return ExecResult(run.passed, int(not run.passed), run.output, "" if run.passed else run.output)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Keep a file, for programs to read."""
        self.files[_path(file)] = contents.encode() if isinstance(contents, str) else contents

    async def read_file(self, file: str, text: bool = True) -> Any:
        """A file that was kept. Raises FileNotFoundError for another one."""
        path = _path(file)
        if path not in self.files:
            raise FileNotFoundError(f"there is no file {file!r}; there are {', '.join(self.files) or 'none'}")
        return self.files[path].decode() if text else self.files[path]

    @classmethod
    async def sample_init(
        cls, task_name: str, config: SandboxEnvironmentConfigType | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """One for each sample."""
        return {"default": cls()}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Nothing is left behind."""


async def _in_turn(run: Callable[[], T]) -> T:
    """In a thread, as many at once as there are processors: a run that waits for one would be stopped as too slow."""
    async with concurrency("emolens sandbox", os.cpu_count() or 1):
        return await anyio.to_thread.run_sync(run)


def _path(file: str) -> str:
    """A path inside the sandbox. Raises PermissionError for one that leads out of it."""
    path = posixpath.normpath(file.lstrip("/"))
    if path in ("", ".") or path.startswith(".."):
        raise PermissionError(f"{file!r} leads out of the sandbox")
    return path


async def judged(
    box: SandboxEnvironment,
    task: Mapping[str, Any],
    code: str | None,
    limits: sandbox.Limits | None = None,
    accept: Collection[str] = (),
) -> sandbox.Outcome:
    """What `code` is worth, by execution in a sandbox of Inspect: `sandbox.judge`, confined by `box`.

    In another sandbox than ours, such as `docker`, the same runs inside, by that sandbox's Python (3.11 or later).

    Raises:
        RuntimeError: it could not be run there.

    >>> import asyncio
    >>> task = el.corpus.stimuli("impossible_tasks")[-1]
    >>> asyncio.run(judged(ConfinedPython(), task, task["honest"][0])).label
    'honest'
    """
    with contextlib.suppress(TypeError):
        box.as_type(ConfinedPython)  # which Inspect may have wrapped
        return await _in_turn(lambda: sandbox.judge(task, code, limits, accept))
    for module in (emolens.errors, sandbox, sandboxed_process, plain_calls):
        path = Path(str(module.__file__))
        folder = "emolens/" if module is emolens.errors else "emolens/judging/"
        await box.write_file(folder + path.name, path.read_text("utf-8"))
    for package in ("emolens", "emolens/judging"):
        await box.write_file(f"{package}/__init__.py", "")
    wanted = {field: task.get(field) for field in ("id", "condition", *sandbox.FIELDS)}
    order = json.dumps({"task": wanted, "code": code, "limits": vars(limits or sandbox.Limits())})
    done = await box.exec(["python3", "-m", "emolens.judging.sandbox"], input=order, timeout=600)
    if not done.success:
        raise RuntimeError(f"the tests did not run in {type(box).__name__}: {(done.stderr or done.stdout)[-500:]}")
    return sandbox.Outcome(**json.loads(done.stdout))
