"""What the workers of these tests run: it says that it is here, waits until it may end, and tidies up after SIGTERM."""

import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    """FOLDER [CODE]: write FOLDER/NAME.here with the process id, wait for FOLDER/go, end with CODE."""
    folder, code = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    name = os.environ["FSAR_WORKER"].rpartition("-")[2]

    def terminated(number: int, frame: object) -> None:
        (folder / f"{name}.tidy").touch()
        sys.exit(143)

    signal.signal(signal.SIGTERM, terminated)
    print(f"hello from {name}", flush=True)
    (folder / f"{name}.tmp").write_text(str(os.getpid()))
    (folder / f"{name}.tmp").rename(folder / f"{name}.here")
    while not (folder / "go").exists():
        time.sleep(0.05)
    sys.exit(code)
