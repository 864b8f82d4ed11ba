"""Heads of other installed packages."""

import os
import subprocess
import sys
from pathlib import Path

PLUGIN = """
from fsar.heads.tsn import TSN
from fsar.heads import register_head

@register_head("mine")
class Mine(TSN):
    pass
"""


def test_the_commands_know_heads_of_other_packages(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fsar.heads]\nmine = mine\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    code = "from fsar.heads import create_head, list_heads; print(type(create_head('mine')).__name__, *list_heads())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    name, *known = done.stdout.split()
    assert name == "Mine"
    assert {"mine", "otam"} <= set(known)
