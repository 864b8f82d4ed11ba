"""One stage of `fsar-prep run` as a process: python -m fsar.cli.stage_process PARENT PROGRAM MODULE [ARGUMENT...]."""

import importlib
import sys

from fsar.cli.signals import end_with_parent


def main() -> None:
    """Run the program of a module, and end with process PARENT, even if that is killed."""
    parent, program, module, *arguments = sys.argv[1:]
    end_with_parent(int(parent))
    sys.argv = [program, *arguments]
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
