"""What a launch leaves on the disk, so that another process can watch or end its workers."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsar.errors import InputError
from fsar.files import read_plain, write_atomic

FILE = "launch.json"


@dataclass
class Record:
    """Which workers were started, where."""

    launch: str
    """Name of this launch, the beginning of its workers' names."""
    cluster: str
    command: list[str]
    handles: list[str]
    lives: list[int] = field(default_factory=list)
    """How often each worker was started."""

    def write(self, folder: Path) -> None:
        """Write it to the folder of logs."""
        write_atomic(folder / FILE, json.dumps(vars(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> "Record | None":
        """Return the record of an earlier launch, None if there is none. Raises InputError when it is damaged."""
        try:
            data: dict[str, Any] = json.loads(read_plain(folder / FILE))
            record = cls(**data)
            if len(record.handles) != len(record.lives) or not isinstance(record.launch, str):
                raise ValueError
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError):
            raise InputError(f"{folder / FILE} is damaged: remove {folder} when no worker runs any more") from None
        return record
