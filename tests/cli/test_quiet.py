"""`--quiet`: every command that shows progress takes it, and shows none."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fsar.cli import eval_head, predict, report, train_head
from fsar.cli.prep import prep
from fsar.cli.store import store
from tests.videos import write_clip

LONG = {
    prep: ("backbones", "check", "convert", "encode", "extract", "import-episodes", "import-features", "synth", "tune"),
    store: ("add", "compare", "export", "merge", "pull", "push", "report", "verify"),
}
PROGRAMS = [module.command for module in (train_head, eval_head, predict, report)]
COMMANDS = PROGRAMS + [group.get_command(click.Context(group), name) for group, names in LONG.items() for name in names]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_long_commands_take_it(command: click.Command) -> None:
    assert any("--quiet" in parameter.opts for parameter in command.params)


@pytest.mark.parametrize("quiet", [False, True])
def test_it_leaves_progress_out(quiet: bool, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", n_frames=4)
    (tmp_path / "catalog.csv").write_text("video_id,path,class\na,a.mp4,one\n")
    line = ["encode", str(tmp_path / "catalog.csv"), "--backbone", "random:timm/test_resnet", "--size", "32"]
    line += ["--frames", "2", "--jobs", "0", "--out", str(tmp_path / "s.zarr"), *(["--quiet"] if quiet else [])]
    shown = CliRunner().invoke(prep, line, standalone_mode=False)
    assert shown.return_value == 0, shown.stderr
    assert ("1/1 videos" in shown.stderr) != quiet
