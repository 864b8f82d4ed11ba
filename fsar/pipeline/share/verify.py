"""Read every byte of a store at an address, keep none, and say what is wrong."""

import threading

from fsar.errors import InputError
from fsar.pipeline.share.download import N_CONNECTIONS, Advance, fetch
from fsar.pipeline.share.threads import in_threads
from fsar.pipeline.share.transport import NotThereError
from fsar.pipeline.share.upstream import Upstream
from fsar.pipeline.store.verify import Problem, Verification


def verify_upstream(source: Upstream, advance: Advance) -> Verification:
    """Compare every file of a store with its manifest; `advance` is told of bytes as they come.

    Raises:
        OSError: a server fails for good: that says nothing about the files.
    """
    stop = threading.Event()

    def check(name: str) -> Problem | None:
        try:
            fetch(source.transport, source.download(name, None), advance, stop)
        except NotThereError:
            return Problem(name, "missing", _videos(source, name))
        except InputError:
            return Problem(name, "damaged: it is not what the manifest names", _videos(source, name))
        return None

    names = [name for name in source.entries if name not in source.kind.opening]  # these are known to be right
    found = in_threads(check, names, n_threads=N_CONNECTIONS, stop=stop)
    problems = sorted((problem for problem in found if problem), key=lambda problem: problem.file)
    return Verification(True, len(source.entries), source.n_bytes, problems)


def _videos(source: Upstream, name: str) -> tuple[str, ...]:
    chunk = source.contents.chunk_of(name)
    rows = range(0) if chunk is None else source.contents.rows_of(chunk)
    return tuple(source.videos[row].video_id for row in rows)
