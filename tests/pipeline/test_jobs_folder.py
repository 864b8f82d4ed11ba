"""An output folder belongs to one run at a time."""

import pytest

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow
from fsar.pipeline.jobs.folder import OutputFolder, sole_writer
from fsar.pipeline.rewrite.convert import convert
from fsar.pipeline.rewrite.extract import ExtractSettings, extract
from fsar.pipeline.synth.synth import SynthSettings, synthesize
from fsar.pipeline.video.transcode import ConvertSettings

STAGES = {
    "extract": lambda out, videos: extract(videos, out, ExtractSettings(), quiet=True),
    "convert": lambda out, videos: convert(videos, out, ConvertSettings(), quiet=True),
    "synth": lambda out, videos: synthesize(out, SynthSettings(2, 0, 0, clips=1, size=(64, 48)), quiet=True),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_second_run_is_refused_and_leaves_the_work_in_hand_alone(tmp_path, stage):
    out = tmp_path / "out"
    out.mkdir()
    videos = Catalog((CatalogRow("1", tmp_path / "1.webm", "walk", 1),), "test")
    in_hand = out / ".1.tmp-1-abc.webm"
    with sole_writer(out):
        if stage == "synth":
            (out / "synth.json").write_text('{"seed": 0, "size": [64, 48], "container": "webm"}')
        in_hand.touch()
        with pytest.raises(InputError, match=r"another run is writing to .*out: wait until it ends"):
            STAGES[stage](out, videos)
        assert in_hand.exists()


def test_the_next_run_may_have_the_folder_and_clears_it(tmp_path):
    for _ in range(2):
        with OutputFolder(tmp_path / "out", "extract", {}).claim():
            assert [path.name for path in (tmp_path / "out").iterdir()] == ["extract.json"]
            (tmp_path / "out" / ".1.tmp-1-abc.webm").touch()
