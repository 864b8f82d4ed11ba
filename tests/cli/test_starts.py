"""What commands import: seconds of every start, of each worker of a cluster."""

import subprocess
import sys

import pytest

from tests.heads.stores import ordered_store
from tests.videos import write_clip

PLAN = """
import sys
from fsar.cli.lean_imports import LateModule
from fsar.cli.prep import main
sys.argv = ["fsar-prep", "encode", sys.argv[1], "--backbone", sys.argv[2], "--out", "x.zarr", "--dry-run"]
try:
    main()
except SystemExit as ended:
    assert not ended.code
assert isinstance(sys.modules["torch._dynamo"], LateModule)
import torch
doubled = torch.compile(lambda x: 2 * x, backend="eager")  # who asks for the compiler gets it, whole
assert doubled(torch.ones(1)) == 2 and not isinstance(sys.modules["torch._dynamo"], LateModule)
"""


@pytest.mark.parametrize("backbone", ["random:timm/test_resnet", "random:hf/clip-tiny"])
def test_planning_with_a_backbone_imports_no_compiler(tmp_path, backbone):
    write_clip(tmp_path / "a.mp4", n_frames=2)
    catalog = tmp_path / "catalog.csv"
    catalog.write_text("video_id,path,class\na,a.mp4,x\n")
    ended = subprocess.run(
        [sys.executable, "-c", PLAN, str(catalog), backbone], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert "1 video" in ended.stdout


TRAINING = """
import sys
from fsar.cli.lean_imports import LateModule
from fsar.cli.train_head import main
store, out, *compiler = sys.argv[1:]
sys.argv = ["fsar-train-head", "otam", "--store", store, "--way", "2", "--query", "2", "--option", "adapter=temporal",
            "--steps", "3", "--val-episodes", "0", "--test-episodes", "5", "--out", out, "--quiet"]
if compiler:
    import torch._dynamo
try:
    main()
except SystemExit as ended:
    assert not ended.code
assert isinstance(sys.modules["torch._dynamo"], LateModule) == (not compiler)
"""


def test_a_training_imports_no_compiler_and_gives_the_same_weights(tmp_path):
    store = ordered_store(tmp_path / "s.zarr").address
    for out, *compiler in (["without"], ["with", "compiler"]):
        line = [sys.executable, "-c", TRAINING, store, str(tmp_path / out), *compiler]
        ended = subprocess.run(line, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
    (without, beside) = (sorted((tmp_path / out).rglob("head.safetensors")) for out in ("without", "with"))
    assert without
    assert [path.read_bytes() for path in without] == [path.read_bytes() for path in beside]
