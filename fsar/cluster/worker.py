"""What a cluster runs: one command of ours, under a worker's name, that leaves its exit code behind."""

import importlib
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from fsar.files import write_atomic
from fsar.pipeline.store.journal.owner import WORKER_VARIABLE

EXIT_TERMINATED = 143
LOOK_SECONDS = 1.0


def main(arguments: Sequence[str]) -> int:
    """Run [--tied] FOLDER LAUNCH INDEX PROGRAM MODULE ARGUMENT...

    Returns:
        The exit code, which is in FOLDER/INDEX.exit, too.
    """
    tied = arguments[0] == "--tied"
    folder, launch, index, program, module, *rest = arguments[tied:]
    exit_file, stop_file = (Path(folder) / f"{index}.{kind}" for kind in ("exit", "stop"))
    exit_file.unlink(missing_ok=True)
    if tied and stop_file.exists():
        return EXIT_TERMINATED
    if tied:
        threading.Thread(target=_end_with_starter, args=(stop_file,), name="fsar-tied", daemon=True).start()
    os.environ[WORKER_VARIABLE] = f"{launch}-{index}"
    sys.argv = [program, *rest]
    code = _call(module)
    write_atomic(exit_file, f"{code}\n")
    return code


def _call(module: str) -> int:
    try:
        importlib.import_module(module).main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _end_with_starter(stop_file: Path) -> None:
    """Have this process get SIGTERM when who started it dies, or when the file appears."""
    while not select.select([0], [], [], LOOK_SECONDS)[0] and not stop_file.exists():
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
