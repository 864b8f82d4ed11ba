"""What a cluster runs: one command of ours, under a worker's name, that leaves its exit code behind."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fsar.files import write_atomic
from fsar.pipeline.store.journal.owner import WORKER_VARIABLE


def main(arguments: Sequence[str]) -> int:
    """Run FOLDER LAUNCH INDEX PROGRAM MODULE ARGUMENT...; return the exit code, which is in FOLDER/INDEX.exit, too."""
    folder, launch, index, program, module, *rest = arguments
    exit_file = Path(folder) / f"{index}.exit"
    exit_file.unlink(missing_ok=True)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
