from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from emolens.files import cache_dir, data_path, sha256, write_atomic


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMOLENS_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("EMOLENS_CACHE")
    assert cache_dir().name == "emolens"


def test_data_path_is_inside_the_package() -> None:
    assert data_path("corpus", "emotions.txt").is_file()


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"calm")
    assert sha256(path) == hashlib.sha256(b"calm").hexdigest()


def test_write_atomic_takes_bytes_or_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    assert write_atomic(path, b"first") == path
    write_atomic(path, lambda temporary: temporary.write_text(f"second, {temporary.suffix}") and None)
    assert path.read_text() == "second, .txt"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, failure: BaseException) -> None:
    path = write_atomic(tmp_path / "file", b"old")

    def write_half(temporary: Path) -> None:
        temporary.write_bytes(b"ne")
        raise failure

    with pytest.raises(type(failure)):
        write_atomic(path, write_half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
