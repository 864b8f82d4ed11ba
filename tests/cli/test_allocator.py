"""Memory of big batches: set up before torch makes threads of its own."""

import subprocess
import sys

PROGRAM = """
import sys
import click
from fsar.cli import common

seen = []
common.keep_big_buffers = lambda: seen.append("torch" in sys.modules)

@click.command()
def command():
    import torch
    assert seen == [False], seen

sys.argv = ["command"]
common.run_command(command, "command")
"""


def test_commands_keep_big_buffers_before_torch_is_imported() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
