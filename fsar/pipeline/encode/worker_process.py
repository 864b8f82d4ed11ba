"""The other side of a decode process: serve one video after the other until the parent is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from fsar.allocator import keep_big_buffers
from fsar.pipeline.encode.clip_task import Decode, DecodedClip, DecodeFailure, attempt
from fsar.pipeline.encode.shared_frames import Exchange

LARGE_CLIP_BYTES = 1 << 30
"""Above this, frames that find no room are the fault of their video."""


def serve(connection: Connection, exchange_path: str, decode: Decode) -> None:
    """Serve videos until the other end closes: the main function of a decode process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    keep_big_buffers()
    exchange = Exchange.open(exchange_path)
    connection.send(("ready", None))
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            connection.send(_answer(attempt(decode, task), exchange))
        except BrokenPipeError:
            return
        except OSError as error:
            connection.send(("full", str(error)))
        except Exception:
            connection.send(("broken", traceback.format_exc()))


def _end_with(parent: int) -> None:
    """End this process soon after its parent is gone, also when a video hangs it."""
    while os.getppid() == parent:
        time.sleep(2.0)
    os._exit(1)


def _answer(result: DecodedClip | DecodeFailure, exchange: Exchange) -> tuple[str, Any]:
    if isinstance(result, DecodeFailure):
        return "failure", result
    try:
        exchange.write(np.ascontiguousarray(result.frames))
    except OSError as error:
        n_bytes = result.frames.nbytes
        if n_bytes <= LARGE_CLIP_BYTES:
            raise  # no room for anything: every further video would meet it too
        message = f"{n_bytes / 1e9:.1f} GB of frames find no room ({error.strerror}): convert it to a smaller size"
        return "failure", DecodeFailure("too-large", message)
    fields = {name: value for name, value in vars(result).items() if name != "frames"}
    return "clip", (result.frames.shape, fields)
