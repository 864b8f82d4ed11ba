import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.pipeline.backbones import load_backbone, save_weights
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.encode import lanes as engine_lanes
from fsar.pipeline.encode.chunk import ChunkWork
from fsar.pipeline.encode.clip_task import InlineDecoder, view_generator
from fsar.pipeline.encode.encode import EncodeOptions, add_videos, encode, plan
from fsar.pipeline.encode.engine import EngineOptions
from fsar.pipeline.pixels.prepare import draw_view, prepare
from fsar.pipeline.pixels.spec import ImageSpec
from fsar.pipeline.store import STATUS_FAILED, STATUS_OK, Chunk, StoreWriter, VideoRow, extend_store, open_store
from fsar.pipeline.store.format.files import StoreFiles
from fsar.pipeline.store.journal.manifest import is_sealed
from fsar.pipeline.store.retry import reset_failed
from tests.pipeline.encode_helpers import fake_decode, files_of, made_up_rows, pixels, slow_decode
from tests.videos import write_clip

INLINE = EngineOptions(device="cpu", batch_size=8, jobs=0, decode=fake_decode)
SQUASHED = {"resize_mode": "squash", "resize": 36, "interpolation": "bilinear", "antialias": False}
"""What 0.1.0 did with every backbone."""
TINY = EncodeOptions(
    backbone="random:timm/test_resnet",
    n_slots=2,
    size=32,
    **SQUASHED,
    dtype="float32",
    chunk_bytes=1,
    engine=INLINE,
)
FORMATS = ("zarr", "h5")


def options(**changes):
    """Return TINY with changes; `chunk_rows` sizes chunks by videos."""
    rows = changes.pop("chunk_rows", None)
    if rows is not None:
        width = load_backbone(TINY.backbone, size=32).dim
        changes["chunk_bytes"] = rows * width * 4 * TINY.n_slots * changes.get("n_views", 1)
    return dataclasses.replace(TINY, **changes)


def engine(**changes):
    return dataclasses.replace(INLINE, **changes)


def fill(folder, rows, chosen=TINY, name="s.zarr"):
    return encode(rows, folder / name, chosen, quiet=True)


def test_cached_features_are_those_of_a_live_forward_pass(tmp_path):
    rows = made_up_rows(tmp_path, ["a", "b", "c"])
    for dtype, tolerance in (("float32", 1e-5), ("float16", 2e-3)):
        report = fill(tmp_path, rows, options(taps=("pooled", "map"), dtype=dtype), f"{dtype}.zarr")
        store = open_store(report.path)
        backbone = load_backbone(TINY.backbone, size=32)
        extractor = TapExtractor(backbone, ["pooled", "map"])
        index = store.frame_index([1])[0, 0]
        spec = ImageSpec("squash", 36, 32, mean=backbone.mean, std=backbone.std)
        with torch.inference_mode():
            live = extractor(prepare(pixels("b", 20)[index], spec))
        for tap in ("pooled", "map"):
            cached = torch.from_numpy(store.read(tap, [1])[0].astype(np.float32))
            torch.testing.assert_close(cached, live[tap], atol=tolerance, rtol=tolerance)


def test_failed_videos_are_nan_rows_with_a_reason_and_the_store_is_sealed(tmp_path):
    rows = made_up_rows(tmp_path, ["a", "bad", "c"])
    report = fill(tmp_path, rows)
    store = open_store(report.path)
    assert store.status.tolist() == [STATUS_OK, STATUS_FAILED, STATUS_OK]
    assert [(f[0], f[2]) for f in report.failures] == [("bad", "truncated")]
    assert np.isnan(np.asarray(store.load("pooled", rows=[1]))).all()
    assert (report.run.n_ok, report.run.n_failed) == (2, 1)
    again = fill(tmp_path, rows)
    assert again.n_resumed == 3
    assert again.failures == report.failures


@pytest.mark.parametrize("form", FORMATS)
def test_bytes_do_not_depend_on_processes_neighbours_or_interruption(tmp_path, form, monkeypatch):
    names = [f"v{index}" for index in range(7)]
    rows = made_up_rows(tmp_path / "videos", names)
    chosen = options(chunk_rows=3)
    whole = fill(tmp_path / "whole", rows, chosen, f"s.{form}")
    parallel = dataclasses.replace(chosen, engine=engine(jobs=2))
    fill(tmp_path / "parallel", rows, parallel, f"s.{form}")
    assert files_of(whole.path) == files_of(tmp_path / "parallel" / f"s.{form}")

    monkeypatch.setattr(engine_lanes, "MAX_LANES", 1)  # one chunk computes, one waits, the first one is on disk
    stop_at = {"v6"}

    def interrupted(task):
        if task.video_id in stop_at:
            raise KeyboardInterrupt
        return fake_decode(task)

    stopped = dataclasses.replace(chosen, engine=engine(decode=interrupted))
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "stopped", rows, stopped, f"s.{form}")
    resumed = fill(tmp_path / "stopped", rows, chosen, f"s.{form}")
    assert resumed.n_resumed == 3
    assert files_of(resumed.path) == files_of(whole.path)


def test_a_failing_neighbour_changes_nothing_for_the_others(tmp_path):
    good = fill(tmp_path / "good", made_up_rows(tmp_path / "v", ["a", "b", "c", "d"]))
    rows = made_up_rows(tmp_path / "v", ["a", "bad", "c", "d"])
    mixed = fill(tmp_path / "mixed", rows)
    first, second = (open_store(report.path).load("pooled") for report in (good, mixed))
    keep = [0, 2, 3]
    assert torch.equal(first[keep], second[keep])


def test_a_store_of_another_recipe_is_refused_with_the_fields(tmp_path):
    rows = made_up_rows(tmp_path, ["a"])
    fill(tmp_path, rows)
    other = options(sampler="dense", backbone="random:timm/test_resnet@1", taps=("pooled", "map"))
    with pytest.raises(InputError) as error:
        fill(tmp_path, rows, other)
    for field in ("sampler: 'uniform-center' != 'dense'", "weights_sha256", "taps"):
        assert field in str(error.value)
    with pytest.raises(InputError, match="holds other videos"):
        fill(tmp_path, made_up_rows(tmp_path, ["a", "b"]))


def test_views_are_augmented_for_training_videos_alone(tmp_path):
    rows = made_up_rows(tmp_path, ["a"]) + made_up_rows(tmp_path, ["b"], part="test")
    chosen = options(n_views=3, flip=True, jitter=True, seed=5)
    store = open_store(fill(tmp_path, rows, chosen).path)
    plain = open_store(fill(tmp_path, rows, name="plain.zarr").path)
    train, test = store.read("pooled", [0], views=None)[0], store.read("pooled", [1], views=None)[0]
    assert np.array_equal(test[0], test[1])
    assert np.array_equal(test[0], test[2])
    np.testing.assert_allclose(train[0], plain.read("pooled", [0])[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(train[0], train[1])
    assert not np.allclose(train[1], train[2])
    backbone = load_backbone(TINY.backbone, size=32)
    view = draw_view(view_generator(5, "view of a", 2), flip=True, jitter=True)
    spec = ImageSpec("squash", 36, 32, mean=backbone.mean, std=backbone.std)
    live = backbone.module(prepare(pixels("a", 20)[store.frame_index([0])[0, 2]], spec, view))
    torch.testing.assert_close(torch.from_numpy(train[2].copy()), live, atol=1e-5, rtol=1e-5)


def test_more_slots_than_a_batch_and_random_frames(tmp_path):
    chosen = options(n_slots=6, n_views=2, sampler="uniform-random", engine=engine(batch_size=4))
    store = open_store(fill(tmp_path, made_up_rows(tmp_path, ["a", "b"]), chosen).path)
    index = store.frame_index([0, 1])
    assert index.shape == (2, 2, 6)
    assert not np.array_equal(index[0, 0], index[0, 1])
    assert np.isfinite(store.read("pooled", [0, 1], views=None)).all()


def test_there_are_never_more_decode_processes_than_videos(tmp_path, monkeypatch):
    started = []

    def pool(n_workers, *, decode, timeout_seconds):
        started.append(n_workers)
        return InlineDecoder(decode)

    monkeypatch.setattr("fsar.pipeline.encode.engine.DecodePool", pool)
    rows = made_up_rows(tmp_path, ["a", "b", "c"])
    assert fill(tmp_path, rows, options(engine=engine(jobs=24))).run.n_ok == 3
    fill(tmp_path, rows, options(engine=engine(jobs=2)), "t.zarr")
    assert started == [3, 2]


def test_two_encoders_on_one_store_share_the_work(tmp_path):
    rows = made_up_rows(tmp_path / "v", [f"v{index}" for index in range(12)])
    chosen = options(chunk_rows=2, engine=engine(decode=slow_decode))
    reports, problems = [], []

    def work(prepared):
        try:
            reports.append(encode(rows, tmp_path / "both" / "s.zarr", chosen, quiet=True, prepared=prepared))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(plan(rows, chosen),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert sum(report.run.n_ok for report in reports) == 12
    assert all(report.run.n_ok for report in reports)
    alone = fill(tmp_path / "alone", rows, options(chunk_rows=2))
    assert files_of(alone.path) == files_of(tmp_path / "both" / "s.zarr")
    assert open_store(tmp_path / "both" / "s.zarr").sealed


@pytest.mark.parametrize("form", FORMATS)
def test_a_run_that_ended_between_sealing_and_tidying_up_is_tidied_by_the_next(tmp_path, monkeypatch, form):
    rows = made_up_rows(tmp_path, ["a", "b"])
    expected = files_of(fill(tmp_path / "whole", rows, name=f"s.{form}").path)
    unlink = os.unlink

    def end(path, **options):
        if str(path).endswith("metadata.intent") and is_sealed(StoreFiles.at(store)):
            raise KeyboardInterrupt
        unlink(path, **options)

    store = tmp_path / "cut" / f"s.{form}"
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", end)
        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path / "cut", rows, name=f"s.{form}")
    assert files_of(store) != expected
    fill(tmp_path / "cut", rows, name=f"s.{form}")
    assert files_of(store) == expected


def test_pending_rows_are_encoded_with_the_recipe_of_the_store(tmp_path):
    backbone = load_backbone(TINY.backbone, size=32)
    weights = tmp_path / "tuned.safetensors"
    save_weights(weights, backbone.module.state_dict())
    rows = made_up_rows(tmp_path, ["a", "b"])
    chosen = options(backbone=f"timm:test_resnet/{weights}")
    path = fill(tmp_path, rows, chosen).path
    more = [VideoRow("c", "class c", "train", str(made_up_rows(tmp_path, ["c"])[0].path))]
    with pytest.raises(InputError, match="pass it with --weights"):
        add_videos(path, more, engine=INLINE, quiet=True)
    other = tmp_path / "other.safetensors"
    save_weights(other, load_backbone("random:timm/test_resnet@9", size=32).module.state_dict())
    with pytest.raises(InputError, match="are not the store's"):
        add_videos(path, more, weights=other, engine=INLINE, quiet=True)
    with extend_store(path, more):
        pass  # cut short after the rows were made
    report = add_videos(path, more, weights=weights, engine=INLINE, quiet=True)
    assert report.run.n_ok == 1
    assert open_store(path).ok_rows.tolist() == [0, 1, 2]


def test_pending_rows_are_read_from_the_paths_of_the_new_catalog(tmp_path):
    rows = made_up_rows(tmp_path, ["a", "b"])
    path = fill(tmp_path, [rows[0], dataclasses.replace(rows[1], path=tmp_path / "bad")]).path
    reset_failed(path)
    videos = [VideoRow(row.video_id, row.class_name, row.part, str(row.path)) for row in rows]
    assert add_videos(path, videos, engine=INLINE, quiet=True).failures == []
    assert open_store(path).ok_rows.tolist() == [0, 1]


def test_a_store_that_another_writer_extends_meanwhile_is_left_to_it(tmp_path, monkeypatch, capsys):
    more = [VideoRow("c", "class c", "train", str(made_up_rows(tmp_path, ["c"])[0].path))]
    record_run = StoreWriter.record_run

    def extended_by_another(self, run):
        extend_store(self.path, more).close()
        record_run(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "record_run", extended_by_another)
        report = fill(tmp_path, made_up_rows(tmp_path, ["a", "b"]))
    assert report.run.n_ok == 2
    assert "not sealed yet: 1 videos that another writer added are pending" in capsys.readouterr().err
    assert not open_store(report.path, allow_unsealed=True).sealed
    assert add_videos(report.path, more, engine=INLINE, quiet=True).run.n_ok == 1
    assert open_store(report.path).sealed


def test_nothing_to_read_is_said_before_and_after(tmp_path):
    rows = made_up_rows(tmp_path, ["a"])
    rows[0].path.unlink()
    with pytest.raises(InputError, match="none of the 1 videos is on disk"):
        fill(tmp_path, rows)
    with pytest.raises(InputError, match=r"none of the 2 videos could be read \(truncated"):
        fill(tmp_path, made_up_rows(tmp_path, ["bad1", "bad2"]), name="b.zarr")
    with pytest.raises(InputError, match="no videos to encode"):
        fill(tmp_path, [])


def test_features_that_overflow_fail_their_video(tmp_path):
    backbone = load_backbone(TINY.backbone, size=32)
    huge = {name: value + 1e6 * name.endswith("bias") for name, value in backbone.module.state_dict().items()}
    save_weights(tmp_path / "huge.safetensors", huge)
    chosen = options(backbone=f"timm:test_resnet/{tmp_path / 'huge.safetensors'}", dtype="float16")
    with pytest.raises(InputError, match="non-finite: tap pooled is not finite in float16 with precision fp32"):
        fill(tmp_path, made_up_rows(tmp_path, ["a"]), chosen)
    fits = dataclasses.replace(chosen, dtype="float32")
    assert fill(tmp_path, made_up_rows(tmp_path, ["a"]), fits, "f.zarr").run.n_ok == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "uniform"}, "unknown sampler"),
        ({"decoder": "pyavv"}, "did you mean pyav"),
        ({"normalisation": "imagnet"}, "did you mean imagenet"),
        ({"resize_mode": "sqush"}, "did you mean squash"),
        ({"resize": 16}, "between 1 and the resized 16"),
        ({"pixels": "clip_fsar"}, "did you mean clip-fsar"),
        ({"arithmetic": "uint8", "antialias": False}, "ask for antialias"),
        ({"precision": "fp99"}, "unknown precision"),
        ({"taps": ("mapp",)}, "did you mean map"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        fill(tmp_path, made_up_rows(tmp_path, ["a"]), options(**change))
    assert not (tmp_path / "s.zarr").exists()


def test_a_missing_gpu_is_said_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(InputError, match="no CUDA device"):
        fill(tmp_path, made_up_rows(tmp_path, ["a"]), options(engine=engine(device="cuda")))
    assert not (tmp_path / "s.zarr").exists()


def test_bf16_stays_close_to_fp32_and_is_another_recipe(tmp_path):
    rows = made_up_rows(tmp_path, ["a", "b"])
    reports = [fill(tmp_path, rows, options(precision=name), f"{name}.zarr") for name in ("fp32", "bf16", "amp-bf16")]
    assert len({report.recipe_id for report in reports}) == 3
    exact, *rough = (open_store(report.path).load("pooled").flatten(0, 2) for report in reports)
    for values in rough:
        assert torch.cosine_similarity(exact, values).min() > 0.999


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(tmp_path, monkeypatch):
    rows = made_up_rows(tmp_path / "v", [f"v{index}" for index in range(6)])
    chosen = options(chunk_rows=2)
    commit, calls = StoreWriter.commit, []

    def full(self, chunk, data):
        calls.append(chunk.index)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        commit(self, chunk, data)

    monkeypatch.setattr(StoreWriter, "commit", full)
    with pytest.raises(OSError, match="No space left"):
        fill(tmp_path / "s", rows, chosen)
    monkeypatch.undo()
    report = fill(tmp_path / "s", rows, chosen)
    assert report.n_resumed == 2
    assert files_of(report.path) == files_of(fill(tmp_path / "t", rows, chosen).path)


SCRIPT = """
import sys
from pathlib import Path
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.encode.encode import EncodeOptions, encode
from fsar.pipeline.encode.engine import EngineOptions
if __name__ == "__main__":
    folder, out, jobs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    rows = [CatalogRow(p.stem, p, "x", 1, "train") for p in sorted(folder.glob("*.mp4"))]
    engine = EngineOptions(device="cpu", batch_size=8, jobs=jobs)
    encode(rows, out, EncodeOptions("random:timm/test_resnet", n_slots=4, size=32, chunk_bytes=4096, engine=engine))
"""


@pytest.mark.parametrize(("form", "how"), [("zarr", signal.SIGINT), ("h5", signal.SIGKILL)])
def test_a_killed_run_leaves_a_store_that_the_next_one_completes_to_the_same_bytes(tmp_path, form, how):
    for index in range(24):
        write_clip(tmp_path / "videos" / f"{index:02}.mp4", n_frames=8 + index)
    out = tmp_path / "killed" / f"s.{form}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path / "videos", out, "1"], env=environment) as process:
        deadline = time.monotonic() + 100
        while n_committed(out) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(how)
        assert process.wait(timeout=60) != 0
    rows = [CatalogRow(path.stem, path, "x", 1, "train") for path in sorted((tmp_path / "videos").iterdir())]
    chosen = EncodeOptions(TINY.backbone, n_slots=4, size=32, chunk_bytes=4096, engine=EngineOptions("cpu", 8, jobs=0))
    resumed = fill(tmp_path / "killed", rows, chosen, f"s.{form}")
    assert 0 < resumed.n_resumed < 24
    assert files_of(out) == files_of(fill(tmp_path / "whole", rows, chosen, f"s.{form}").path)


def n_committed(store):
    """Return how many chunks a store has, while another process writes it."""
    found = (Path(folder, name) for folder, _, names in os.walk(store.parent) for name in names)
    return sum(file.parent.name == "journal" and file.suffix == ".json" and file.name[0].isdigit() for file in found)


def test_batches_depend_on_the_chunk_alone():
    chunk = Chunk(index=0, rows=range(30))
    recipe = SimpleNamespace(n_views=1, n_slots=8)
    work = ChunkWork(chunk, recipe, {}, [1] * 30)
    sizes = [len(batch) for batch in work.batches(4)]
    assert sum(sizes) == 30
    assert max(sizes) <= 4
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.slow
def test_memory_stays_flat_over_a_thousand_videos(tmp_path):
    seen = []

    def watched(task):
        seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        return fake_decode(task)

    rows = made_up_rows(tmp_path / "v", [f"big{index}" for index in range(1000)])
    fill(tmp_path, rows, options(chunk_rows=50, engine=engine(batch_size=64, decode=watched)))
    assert max(seen[300:]) - max(seen[:300]) < 32 << 20


@pytest.mark.gpu
def test_a_gpu_gives_the_features_of_a_cpu(tmp_path):
    rows = made_up_rows(tmp_path, [f"v{index}" for index in range(9)])
    on_cpu = open_store(fill(tmp_path, rows, name="cpu.zarr").path).load("pooled")
    chosen = options(engine=engine(device="cuda", jobs=2))
    on_gpu = open_store(fill(tmp_path, rows, chosen, "gpu.zarr").path).load("pooled")
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=1e-3)
