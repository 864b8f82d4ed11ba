"""Heads of other installed packages."""

import os
import subprocess
import sys
from pathlib import Path

PLUGIN = """
from fsar.heads.methods.tsn import TSN
from fsar.heads import register_head

@register_head("mine")
class Mine(TSN):
    pass
"""


def install(folder: Path, module: str, text: str | None) -> dict[str, str]:
    """Put a package with an entry point into `folder`; return the environment of a process that sees it."""
    if text is not None:
        (folder / f"{module}.py").write_text(text)
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[fsar.heads]\n{module} = {module}\n")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_the_commands_know_heads_of_other_packages(tmp_path: Path) -> None:
    environment = install(tmp_path, "mine", PLUGIN)
    code = "from fsar.heads import create_head, list_heads; print(type(create_head('mine')).__name__, *list_heads())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    name, *known = done.stdout.split()
    assert name == "Mine"
    assert {"mine", "otam"} <= set(known)


def test_a_package_that_cannot_be_imported_takes_no_other_head_away(tmp_path: Path) -> None:
    environment = install(tmp_path, "broken", None)
    code = "from fsar.heads import list_heads; print(*list_heads())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "otam" in done.stdout.split()
    assert "warning: the heads of package broken are left out" in done.stderr
    assert "No module named 'broken'" in done.stderr
