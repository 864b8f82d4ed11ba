"""What a command of fsar-prep imports: seconds of every start, of each worker of a cluster."""

import subprocess
import sys

from tests.videos import write_clip

PLAN = """
import sys
from fsar.cli.lean_imports import LateModule
from fsar.cli.prep import main
sys.argv = ["fsar-prep", "encode", sys.argv[1], "--backbone", "random:timm/test_resnet", "--out", "x.zarr", "--dry-run"]
try:
    main()
except SystemExit as ended:
    assert not ended.code
assert isinstance(sys.modules["torch._dynamo"], LateModule)
"""


def test_planning_with_a_backbone_imports_no_compiler(tmp_path):
    write_clip(tmp_path / "a.mp4", n_frames=2)
    catalog = tmp_path / "catalog.csv"
    catalog.write_text("video_id,path,class\na,a.mp4,x\n")
    ended = subprocess.run([sys.executable, "-c", PLAN, str(catalog)], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "1 video" in ended.stdout
