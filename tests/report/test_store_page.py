"""The page of a store."""

import shutil

from fsar.pipeline.store import open_store
from fsar.report.store_page import SheetOptions, make_store_page
from tests.predict.clips import write_class
from tests.predict.conftest import BACKBONE


def test_a_store_is_shown_with_frames_of_every_class(world):
    page = make_store_page(open_store(world.store), SheetOptions(2), quiet=True)
    html = page.to_html()
    assert html.count("<img") == 10 * 2 * 3  # ten classes, two videos each, three frames of a video
    assert page.tables["parts"][1:] == [["train", 15, 15, 0, 0], ["val", 20, 20, 0, 0], ["test", 15, 15, 0, 0]]
    assert "None." in html


def test_failures_are_listed(world, tmp_path):
    from fsar.pipeline.catalog.catalog import CatalogRow
    from fsar.pipeline.encode.encode import EncodeOptions, encode
    from fsar.pipeline.encode.report import EngineOptions

    clips = write_class(tmp_path, "blue", 2)
    clips[1].write_bytes(b"no video")
    rows = [CatalogRow(clip.stem, clip, "blue", 1, "test") for clip in clips]
    options = EncodeOptions(BACKBONE, size=64, n_slots=2, engine=EngineOptions(jobs=0))
    store = encode(rows, tmp_path / "some.zarr", options, quiet=True).path
    page = make_store_page(open_store(store), SheetOptions(), quiet=True)
    assert page.tables["failures"][1][:3] == ["blue-1", "blue", "not-a-video"]
    shutil.move(clips[0], tmp_path / "gone")
    assert "frames left out" in make_store_page(open_store(store), SheetOptions(), quiet=True).to_html()
