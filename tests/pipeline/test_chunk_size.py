"""How much work an interruption may cost, and whether it is said."""

import dataclasses

import pytest

from fsar.errors import Terminated
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.encode.chunk_size import chunk_rows
from fsar.pipeline.encode.encode import EncodeOptions, encode
from fsar.pipeline.encode.engine import EngineOptions
from fsar.pipeline.store import TapSpec, open_store
from tests.pipeline.encode_helpers import fake_decode, made_up_rows

POOLED = {"pooled": TapSpec((512,), "float16")}


@pytest.fixture(scope="module")
def small():
    return load_backbone("random:timm/test_resnet", size=32)


@pytest.fixture(scope="module")
def large():
    return load_backbone("random:torchvision/resnet50")


def test_a_small_set_is_cut_into_many_chunks(small):
    def rows(n_videos, on_cpu=True, backbone=small):
        return chunk_rows(n_videos, backbone, POOLED, 8, chunk_bytes=None, on_cpu=on_cpu)

    assert [rows(n) for n in (3, 100, 1000, 100_000)] == [4, 7, 63, 256]


def test_a_slow_backbone_gets_small_chunks_on_a_processor(large):
    def rows(on_cpu):
        return chunk_rows(100_000, large, POOLED, 8, chunk_bytes=None, on_cpu=on_cpu)

    assert rows(False) == 256
    assert 40 <= rows(True) <= 64


def test_large_features_get_small_chunks(small):
    spatial = {**POOLED, "map": TapSpec((2048, 7, 7), "float16")}
    assert chunk_rows(100_000, small, spatial, 8, chunk_bytes=None, on_cpu=False) == (32 << 20) // (2048 * 49 * 16)
    assert chunk_rows(100_000, small, spatial, 8, chunk_bytes=1, on_cpu=False) == 1


def test_each_of_many_workers_gets_eight_chunks(small):
    def rows(n_workers, **options):
        return chunk_rows(20_000, small, POOLED, 8, on_cpu=False, n_workers=n_workers, **options)

    assert [rows(n, chunk_bytes=None) for n in (1, 4, 32, 256)] == [256, 256, 79, 10]
    assert {rows(n, chunk_bytes=100 * 512 * 16) for n in (1, 256)} == {100}  # as told, whoever fills it


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Terminated])
def test_an_interrupted_encode_says_how_many_videos_are_kept(tmp_path, kind):
    rows = made_up_rows(tmp_path, [f"v{index:02}" for index in range(24)])
    seen = []

    def decode(task):
        seen.append(task.video_id)
        if len(seen) == 20:
            raise kind
        return fake_decode(task)

    engine = EngineOptions(device="cpu", batch_size=8, jobs=0, decode=decode)
    chosen = EncodeOptions("random:timm/test_resnet", n_slots=2, size=32, engine=engine)
    with pytest.raises(kind, match=r"of 24 videos are kept in .*s\.zarr") as caught:
        encode(rows, tmp_path / "s.zarr", chosen, quiet=True)
    n_kept = int(str(caught.value).split()[0])
    assert 8 <= n_kept < 20  # chunks of 4: what was in hand is lost, no more
    assert len(open_store(tmp_path / "s.zarr", allow_unsealed=True).ok_rows) == n_kept
    resumed = encode(
        rows, tmp_path / "s.zarr", dataclasses.replace(chosen, engine=dataclasses.replace(engine, decode=fake_decode)),
        quiet=True,
    )  # fmt: skip
    assert resumed.n_resumed == n_kept
