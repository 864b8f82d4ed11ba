"""A video as bytes on disk: a file, or a folder of frames."""

import hashlib
from pathlib import Path

from fsar.files import sha256_file


def source_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder; -1 if it is absent."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return path.stat().st_size if path.is_file() else -1


def source_sha256(path: Path) -> str:
    """Return the hex sha256 of a video file, or of the names and hashes of the files in a folder of frames."""
    if not path.is_dir():
        return sha256_file(path)
    listing = "".join(f"{file.name} {sha256_file(file)}\n" for file in sorted(path.iterdir()) if file.is_file())
    return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
