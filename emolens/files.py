"""Where emolens keeps things, and how it writes a file: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs


def cache_dir() -> Path:
    """The folder for models and activations: `$EMOLENS_CACHE`, else the user's cache folder.

    >>> cache_dir().is_absolute()
    True
    """
    chosen = os.environ.get("EMOLENS_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("emolens")


def data_path(*parts: str) -> Path:
    """A file that ships inside the package.

    >>> len(data_path("corpus", "emotions.txt").read_text().split("\\n")) > 170
    True
    """
    return Path(__file__).parent.joinpath("data", *parts)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, as 64 hex digits.

    >>> sha256(write_atomic("calm.txt", b"calm"))[:8]
    '2b4b2ead'
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: str | os.PathLike[str]) -> str:
    r"""The text of a file in UTF-8, in the one way that every file of yours is read: without a byte-order mark.

    >>> _ = Path("mine.txt").write_bytes(b"\xef\xbb\xbfa quiet caf\xc3\xa9\n")
    >>> read_text("mine.txt")
    'a quiet café\n'

    Raises:
        ValueError: bytes that are no UTF-8; names the file, the line and the byte.
        OSError: no such file, or a folder.
    """
    data = Path(path).read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path}, line 1: the file is in UTF-16, not UTF-8; save it as UTF-8")
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {number}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Says what was being written when the disk, or the user's quota, is full.

    >>> with naming_a_full_disk(Path("scan.json")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] the disk is full: scan.json was not written, nothing older is lost; free some space in: '.'
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"the disk is full: {path.name} was not written, nothing older is lost; free some space in"
        raise OSError(error.errno, message, str(path.parent)) from error


def write_atomic(path: str | os.PathLike[str], data: bytes | Callable[[Path], None]) -> Path:
    """Write `data` to `path` under a temporary name in the same folder, then rename.

    `data` is the content itself or a function that writes it to the path it is given. After any exception
    (a full disk, Ctrl-C) the temporary file is gone and what stood at `path` before still stands there.

    Raises `OSError` when the disk is full, naming the file.

    >>> write_atomic("calm.txt", b"calm").read_bytes()
    b'calm'
    """
    path = Path(path)
    # The suffix is kept because some writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    with naming_a_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if callable(data):
                data(temporary)
            else:
                temporary.write_bytes(data)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a place is a URL that fsspec opens (a bucket, say) and no path.

    >>> is_url("s3://bucket/shards"), is_url("shards")
    (True, False)
    """
    return isinstance(place, str) and "://" in place


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, which remembers no listing, and the path in it.

    Raises:
        ValueError: a protocol that fsspec does not know.
        ImportError: one for which a package is not installed, named.

    >>> file_system("memory://shards")[1]
    '/shards'
    """
    import fsspec

    return fsspec.core.url_to_fs(url, use_listings_cache=False)


def write_url(url: str, data: bytes) -> None:
    """Write `data` to a URL. An object store shows an object whole or not at all; elsewhere a checksum must tell.

    >>> write_url("memory://calm.txt", b"calm")
    >>> fs, path = file_system("memory://calm.txt")
    >>> fs.cat_file(path)
    b'calm'
    """
    fs, path = file_system(url)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, data)


def check_place(path: str | os.PathLike[str]) -> Path:
    """`path`, if a file can be written there: to be known before hours of work, not after.

    Raises:
        OSError: it is a folder, or its folder can't be made or written to.

    >>> check_place("results/scan.json").name
    'scan.json'
    >>> check_place("results")
    Traceback (most recent call last):
    IsADirectoryError: [Errno 21] a file can't be written there, it is a folder: 'results'
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a file can't be written there, it is a folder", str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent, prefix=f".{path.stem}."):
            pass
    except OSError as error:
        raise OSError(error.errno, f"a file can't be written there ({error.strerror})", str(path)) from error
    return path
