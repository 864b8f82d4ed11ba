"""Stores in dataset repositories of the Hugging Face Hub: hf://datasets/OWNER/REPOSITORY[@REVISION]/…

Files are read like those of any web server; writing is a matter of commits, the last of which brings the manifest and
the repository's card.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from fsar.errors import InputError
from fsar.pipeline.share.address import Address
from fsar.pipeline.share.card import CARD_FILE
from fsar.pipeline.share.http_transport import HttpTransport
from fsar.pipeline.share.kinds import kind_of
from fsar.pipeline.share.transport import Body, NotThereError, TransientError, Upload, register_transport
from fsar.pipeline.store.format.files import StoreFiles

FILES_PER_COMMIT = 256
BYTES_PER_COMMIT = 4 << 30
MAX_FILES_OF_FOLDER = 10_000
"""More files of one folder than this are refused by the Hub."""
BUSY = (408, 429, 500, 502, 503, 504)


@register_transport("hf")
class HubTransport:
    """Files of one dataset repository."""

    def __init__(self, address: Address) -> None:
        try:
            from huggingface_hub import HfApi, get_token
            from huggingface_hub.utils.tqdm import disable_progress_bars
        except ImportError:
            raise InputError("hf addresses need the package huggingface_hub: pip install 'fsar[remote]'") from None
        disable_progress_bars()  # ours counts the same bytes
        parts = address.location.split("/")  # hf:, "", datasets, owner, repository, ...
        if len(parts) < 5 or parts[2] != "datasets":
            raise InputError(f"{address}: an address of the Hub is hf://datasets/OWNER/REPOSITORY/...")
        self._root = "/".join(parts[:5])
        name, _, revision = parts[4].partition("@")
        self._repository, self._revision = f"{unquote(parts[3])}/{unquote(name)}", unquote(revision) or "main"
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="fsar")
        token = get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._files = f"{self._api.endpoint}/datasets/{self._repository}/resolve/{quote(self._revision, safe='')}"
        scheme = "https" if self._files.startswith("https://") else "http"
        self._web = HttpTransport(Address(scheme, self._files), headers=headers)

    @contextmanager
    def get(self, location: str, *, start: int = 0, resume: str = "") -> Iterator[Body]:
        """Open a file."""
        rest = location.removeprefix(self._root)
        with ExitStack() as stack:
            try:
                body = stack.enter_context(self._web.get(f"{self._files}{rest}", start=start, resume=resume))
            except PermissionError:
                raise _of_status(403, location) from None
            yield body

    def children(self, location: str) -> list[str]:
        """Return the names in a folder."""
        path = self._path(location)
        with self._errors(location):
            found = list(
                self._api.list_repo_tree(self._repository, path or None, repo_type="dataset", revision=self._revision)
            )
        folders = [type(item).__name__ == "RepoFolder" for item in found]
        names = [item.path.rpartition("/")[2] for item in found]
        return sorted(name + "/" * folder for name, folder in zip(names, folders, strict=True))

    def size(self, location: str) -> int | None:
        """Return the size of a file."""
        return self.sizes([location])[0]

    def sizes(self, locations: Sequence[str]) -> list[int | None]:
        """Return the sizes of several files."""
        known: dict[str, int] = {}
        paths = [self._path(location) for location in locations]
        for first in range(0, len(paths), FILES_PER_COMMIT):
            try:
                with self._errors(self._root):
                    infos = self._api.get_paths_info(
                        self._repository,
                        paths[first : first + FILES_PER_COMMIT],
                        repo_type="dataset",
                        revision=self._revision,
                    )
            except NotThereError:
                break
            known |= {info.path: int(info.size) for info in infos if hasattr(info, "size")}
        return [known.get(path) for path in paths]

    def put(self, location: str, source: Path | bytes, *, replace: bool = False) -> None:
        """Write a file by a commit of its own."""
        if not replace and self.size(location) is not None:
            raise FileExistsError(f"{location} exists")
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        self._commit([Upload(location, source, size)], f"Add {self._path(location)}")

    def put_many(self, uploads: Sequence[Upload], advance: Callable[[int], None]) -> None:
        """Write files by as few commits as their number and size allow."""
        self._refuse_full_folders(uploads)
        with self._errors(self._root):
            self._api.create_repo(self._repository, repo_type="dataset", exist_ok=True, private=None)
        for batch in _batches(uploads):
            self._commit(batch, f"Add {len(batch)} files of a store")
            advance(sum(item.n_bytes for item in batch))

    def finish(self, uploads: Sequence[Upload], files: StoreFiles) -> None:
        """Write manifest, pointer and card by one commit."""
        last = list(uploads)
        if any(not item.replace for item in uploads):
            card = kind_of(files.path.name).card(files, uploads[0].location)
            last.append(Upload(f"{self._root}/{CARD_FILE}", card.encode(), len(card), replace=True))
        self._commit(last, f"Add store {files.path.name}")

    def _commit(self, uploads: Sequence[Upload], message: str) -> None:
        from huggingface_hub import CommitOperationAdd

        operations = [
            CommitOperationAdd(
                self._path(item.location), item.source if isinstance(item.source, bytes) else str(item.source)
            )
            for item in uploads
        ]
        with self._errors(uploads[0].location):
            self._api.create_commit(
                self._repository, operations, commit_message=message, repo_type="dataset", revision=self._revision
            )

    def _path(self, location: str) -> str:
        return unquote(location.removeprefix(self._root).strip("/"))

    @contextmanager
    def _errors(self, location: str) -> Iterator[None]:
        """Turn the library's errors into ours; its own texts may hold signed addresses and are left out."""
        from huggingface_hub import errors

        try:
            yield
        except (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise NotThereError(
                f"{location} is not there, or not for you ({type(error).__name__}); the token is taken from HF_TOKEN "
                "or `hf auth login`"
            ) from None
        except errors.HfHubHTTPError as error:
            raise _of_status(getattr(error.response, "status_code", 0), location) from None
        except Exception as error:
            expected = isinstance(error, errors.OfflineModeIsEnabled | RuntimeError)  # it wraps failed uploads so
            if not expected and not type(error).__module__.startswith("httpx"):
                raise
            raise TransientError(f"{location}: the Hub does not answer ({type(error).__name__})") from None

    def _refuse_full_folders(self, uploads: Sequence[Upload]) -> None:
        counts: dict[str, int] = {}
        for item in uploads:
            folder = item.location.rpartition("/")[0]
            counts[folder] = counts.get(folder, 0) + 1
        full = max(counts.values(), default=0)
        if full > MAX_FILES_OF_FOLDER:
            raise InputError(
                f"one folder of this store has {full} files, the Hub takes {MAX_FILES_OF_FOLDER}: encode it with "
                "larger chunks, or as .h5 (fsar-store export STORE --out NAME.h5)"
            )


def _of_status(status: Any, location: str) -> OSError:
    if status in (401, 403):
        return PermissionError(
            f"{location}: access denied ({status}); the token is taken from HF_TOKEN or `hf auth login`"
        )
    if status in BUSY:
        return TransientError(f"{location}: the Hub is busy or broken ({status})")
    return OSError(f"{location}: the Hub answers {status}")


def _batches(uploads: Sequence[Upload]) -> Iterator[list[Upload]]:
    batch: list[Upload] = []
    n_bytes = 0
    for item in uploads:
        if batch and (len(batch) == FILES_PER_COMMIT or n_bytes + item.n_bytes > BYTES_PER_COMMIT):
            yield batch
            batch, n_bytes = [], 0
        batch.append(item)
        n_bytes += item.n_bytes
    if batch:
        yield batch
