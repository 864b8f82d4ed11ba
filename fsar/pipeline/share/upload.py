"""Objects on their way to elsewhere: many at once, those that are there already left out."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from fsar.pipeline.share.download import N_CONNECTIONS, Progress, with_patience
from fsar.pipeline.share.transport import Transport, Upload


def put_all(transport: Transport, uploads: Sequence[Upload], progress: Progress | None) -> list[Upload]:
    """Write the objects that are not there yet, big ones first; return them.

    An object of the right size in the folder of its store's identity is the right one: an earlier run put it there.
    """
    missing = sorted(_missing(transport, uploads), key=lambda item: -item.n_bytes)
    if missing and progress:
        with progress(sum(item.n_bytes for item in missing)) as advance:
            transport.put_many(missing, advance)
    elif missing:
        transport.put_many(missing, lambda n_bytes: None)
    return missing


def _missing(transport: Transport, uploads: Sequence[Upload]) -> list[Upload]:
    sizes = transport.sizes([item.location for item in uploads])
    return [item for item, size in zip(uploads, sizes, strict=True) if size != item.n_bytes]


def sizes_of_each(transport: Transport, locations: Sequence[str]) -> list[int | None]:
    """Return sizes, asked for one by one over many connections."""
    with ThreadPoolExecutor(N_CONNECTIONS, thread_name_prefix="fsar-push") as pool:
        return list(pool.map(lambda location: with_patience(lambda: transport.size(location)), locations))


def put_each(transport: Transport, uploads: Sequence[Upload], advance: Callable[[int], None]) -> None:
    """Write objects one by one over many connections; what is there of them is torn and is replaced."""

    def put(item: Upload) -> None:
        with_patience(lambda: transport.put(item.location, item.source, replace=True))
        advance(item.n_bytes)

    pool = ThreadPoolExecutor(N_CONNECTIONS, thread_name_prefix="fsar-push")
    try:
        for future in [pool.submit(put, item) for item in uploads]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def finish_each(transport: Transport, uploads: Sequence[Upload]) -> None:
    """Write objects in their order. One that exists and must not be replaced was put there by an equal push."""
    for item in uploads:
        with suppress(FileExistsError):
            transport.put(item.location, item.source, replace=item.replace)
