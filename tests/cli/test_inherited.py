"""What a program is started with does not matter: streams that were closed, signals that are ignored."""

import subprocess
import sys

import pytest

from tests.videos import write_clip

START = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for number in range(3):
    os.close(number)
os.execv(sys.executable, [sys.executable, "-c", "from fsar.cli.prep import main; main()", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGCHLD")
@pytest.mark.parametrize("n_jobs", [1, 0])
def test_a_program_without_streams_that_ignores_its_children_encodes(tmp_path, n_jobs):
    write_clip(tmp_path / "a.mp4", n_frames=4)
    (tmp_path / "catalog.csv").write_text("video_id,path,class\na,a.mp4,one\n")
    line = ["encode", "catalog.csv", "--backbone", "random:timm/test_resnet", "--size", "32", "--frames", "2"]
    line += ["--jobs", str(n_jobs), "--out", "s.zarr"]
    ended = subprocess.run([sys.executable, "-c", START, *line], cwd=tmp_path, timeout=240, check=False)
    assert ended.returncode == 0
    assert (tmp_path / "s.zarr" / "manifest.json").is_file()
