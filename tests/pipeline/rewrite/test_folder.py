"""An output folder is shared by runs over the same videos and refused to all others."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, read_catalog
from fsar.pipeline.jobs.sole_writer import sole_writer
from fsar.pipeline.rewrite.convert import convert
from fsar.pipeline.rewrite.extract import ExtractSettings, extract
from fsar.pipeline.rewrite.folder import OutputFolder
from fsar.pipeline.synth.synth import SynthSettings, synthesize
from fsar.pipeline.video.transcode import ConvertSettings

STAGES = {
    "extract": lambda out, videos: extract(videos, out, ExtractSettings(), quiet=True),
    "convert": lambda out, videos: convert(videos, out, ConvertSettings(), quiet=True),
}
SETTINGS = {
    "extract": {"frames": None, "sampler": "uniform-center", "layout": "trx", "short_side": None, "quality": 95,
                "seed": 0},
    "convert": {"short_side": None, "gop": None, "crf": 18, "preset": "veryfast"},
}  # fmt: skip


def rows(folder, n_videos):
    return tuple(CatalogRow(str(index), folder / f"{index}.webm", "walk", 1) for index in range(n_videos))


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_over_other_videos_is_refused_and_leaves_the_work_in_hand_alone(tmp_path, stage):
    out, in_hand = tmp_path / "out", tmp_path / "out" / ".1.tmp-1-abc.webm"
    with OutputFolder(out, stage, SETTINGS[stage]).join(rows(tmp_path, 2)):
        in_hand.touch()
        with pytest.raises(InputError, match=r"another run is writing to .*out from another list of videos: wait"):
            STAGES[stage](out, Catalog(rows(tmp_path, 1), "test"))
        assert in_hand.exists()
    STAGES[stage](out, Catalog(rows(tmp_path, 1), "test"))
    assert not in_hand.exists()


def test_a_second_synth_is_refused(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "synth.json").write_text('{"seed": 0, "size": [64, 48], "container": "webm"}')
    with sole_writer(out), pytest.raises(InputError, match=r"another run is writing to .*out: wait until it ends"):
        synthesize(out, SynthSettings(2, 0, 0, clips=1, size=(64, 48)), quiet=True)


def test_the_next_run_may_have_the_folder_and_clears_it(tmp_path):
    for _ in range(2):
        folder = OutputFolder(tmp_path / "out", "extract", {})
        with folder.join(rows(tmp_path, 1)):
            names = sorted(path.name for path in (tmp_path / "out").iterdir())
            assert names == ["extract.json", "extract.work"]
            (tmp_path / "out" / ".1.tmp-1-abc.webm").touch()
        assert len(list((tmp_path / "out" / "extract.work").iterdir())) == 1  # what it has done is kept


def test_who_joins_spares_the_unfinished_files_of_the_living(tmp_path):
    videos, in_hand = rows(tmp_path, 3), tmp_path / "out" / ".1.tmp-1-abc.webm"
    with OutputFolder(tmp_path / "out", "extract", {}).join(videos) as first:
        in_hand.touch()
        with OutputFolder(tmp_path / "out", "extract", {}).join(videos) as second:
            assert in_hand.exists()
            assert first.folder == second.folder
            batches = [session.claim() for session in (first, second, first)]
            assert sorted(batch.index for batch in batches) == [0, 1, 2]
            assert second.claim() is None
    assert not list((tmp_path / "out").glob("*.work/*/claims/*"))


def test_two_runs_in_threads_share_the_videos_and_both_report_all_failures(tmp_path):
    videos = Catalog(rows(tmp_path, 40), "test")  # none of them is there
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: STAGES["extract"](tmp_path / "out", videos), range(2)))
    assert [len(report.failures) for report in reports] == [40, 40]
    assert [report.done for report in reports] == [0, 0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "catalog.csv", "extract.json", "extract.jsonl", "failures.csv"
    ]  # fmt: skip


def test_a_process_that_was_taken_for_dead_begins_anew(tmp_path, monkeypatch):
    """Its session is removed under its hands while it works: nothing is lost and nothing of it is left."""
    from fsar.pipeline.rewrite import folder as folder_module
    from tests.videos import write_clip

    paths = [write_clip(tmp_path / f"{index}.webm") for index in range(4)]
    videos = Catalog(tuple(CatalogRow(p.stem, p, "walk", p.stat().st_size) for p in paths), "test")
    extract(videos, tmp_path / "expected", ExtractSettings(frames=2), quiet=True)
    out, taken = tmp_path / "out", []
    original = folder_module.Session.keep

    def keep(session, outcome):
        original(session, outcome)
        if not taken:
            taken.append(session.folder)
            monkeypatch.setattr(folder_module, "is_alive", lambda folder: False)
            with OutputFolder(out, "extract", json.loads((out / "extract.json").read_text())).join(videos.rows):
                monkeypatch.setattr(folder_module, "is_alive", lambda folder: folder != taken[0])
                assert not taken[0].exists()

    monkeypatch.setattr(folder_module.Session, "keep", keep)
    report = extract(videos, out, ExtractSettings(frames=2), quiet=True)
    assert report.failures == []
    assert {row.video_id for row in read_catalog(report.catalog).rows} == {"0", "1", "2", "3"}
    for name in ("catalog.csv", "extract.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    assert not list(out.glob("*.work"))
