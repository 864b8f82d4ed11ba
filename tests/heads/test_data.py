import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.heads.episodes.batches import EpisodeData, PairData, prefetched
from fsar.heads.episodes.feature_source import FeatureSource, spread
from fsar.heads.episodes.sampler import EpisodeSampler, EpisodeShape
from fsar.heads.episodes.split_parts import store_parts
from fsar.heads.setup.task import make_task
from fsar.pipeline.store import TextTable
from fsar.splits import Split
from tests.heads.stores import PARTS, make_store, ordered_features, ordered_store, rows_of

SHAPE = EpisodeShape(3, (1, 2, 1), 2, n_unlabelled=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """12 videos of each class, 2 views, 8 slots; each number of the tap `place` says where it is: row, view, slot."""
    videos = rows_of(PARTS, 12)
    rows, views, slots = np.meshgrid(np.arange(len(videos)), np.arange(2), np.arange(8), indexing="ij")
    place = np.stack((rows, views, slots), -1).astype(np.float32)
    names = tuple(dict.fromkeys(video.class_name for video in videos))
    vectors = np.random.default_rng(0).normal(size=(4, len(names), 5)).astype(np.float32)
    text = TextTable("words", vectors, names, ("{}", "a {}", "the {}", "one {}"), {"text_sha256": "other"})
    pooled = ordered_features(videos, n_views=2)
    return make_store(
        tmp_path_factory.mktemp("store") / "s.zarr",
        {"pooled": pooled, "place": place},
        videos,
        failed=[3, 30],
        text=text,
        recipe={"library": "open_clip", "backbone": "ViT", "pretrained": "openai", "text_sha256": "ours"},
    )


def place_source(store, **options):
    return FeatureSource(store, {"frames": "place"}, store.ok_rows, **options)


def test_failed_videos_are_never_drawn(store):
    parts = store_parts(store)
    assert parts.failed == {"a0": 1, "a2": 1}
    episodes = EpisodeSampler(parts.pool("train"), EpisodeShape(5, 3, 3), seed=0).draw(0, 2000)
    assert not np.isin(episodes.rows(), [3, 30]).any()
    assert len(episodes.rows()) == 118


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_batch_holds_the_features_of_its_episodes(store, where):
    pool = store_parts(store).pool("train")
    episodes = EpisodeSampler(pool, SHAPE, seed=0).draw(5, 4)
    batch, targets = EpisodeData(place_source(store, where=where)).batch(episodes)
    for found, rows in (
        (batch.support, episodes.support),
        (batch.query, episodes.query),
        (batch.unlabelled, episodes.unlabelled),
    ):
        assert found["frames"].is_contiguous()
        np.testing.assert_array_equal(found["frames"][..., 0, 0], rows)
        np.testing.assert_array_equal(found["frames"][0, 0, :, 1:], [[0, slot] for slot in range(8)])
    np.testing.assert_array_equal(targets.query_labels, episodes.query_labels)
    expected = np.take_along_axis(episodes.class_ids, episodes.query_labels, 1)
    np.testing.assert_array_equal(targets.query_class_ids, expected)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_each_visit_in_training_draws_a_view_and_sorted_frames(store, where):
    pool = store_parts(store).pool("train")
    data = EpisodeData(place_source(store, where=where, n_frames=4), visits_seed=7)
    sampler = EpisodeSampler(pool, SHAPE, seed=0)
    features = data.batch(sampler.draw(0, 50))[0].query["frames"]
    assert set(features[..., 1].unique().tolist()) == {0, 1}
    assert (features[..., 1].amin(-1) == features[..., 1].amax(-1)).all()  # one view for all frames of a visit
    slots = features[..., 2]
    assert (slots.diff(dim=-1) > 0).all()
    assert len(slots.flatten(0, 1).unique(dim=0)) > 40  # of 70 possible
    alone = data.batch(sampler.draw(49, 1))[0].query["frames"]
    torch.testing.assert_close(alone[0], features[49])


def test_tests_see_the_first_view_and_spread_frames(store):
    episodes = EpisodeSampler(store_parts(store).pool("test"), SHAPE, seed=0).draw(0, 3)
    features = EpisodeData(place_source(store, n_frames=4)).batch(episodes)[0].query["frames"]
    np.testing.assert_array_equal(features[0, 0, :, 1:], [[0, 1], [0, 3], [0, 5], [0, 7]])


def test_spread_takes_the_middle_of_equal_parts():
    assert spread(16, 8).tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    assert spread(8, 8).tolist() == list(range(8))
    assert spread(5, 1).tolist() == [2]


def test_class_text_follows_the_labels(store):
    task = make_task("otam", store)
    pool = task.parts.pool("test")
    episodes = EpisodeSampler(pool, SHAPE, seed=0).draw(0, 6)
    table = store.text("words")
    text = torch.from_numpy(table.vectors[:, [table.row_of(n) for n in pool.class_names]]).transpose(0, 1)
    batch, _ = EpisodeData(place_source(store), class_text=text).batch(episodes)
    torch.testing.assert_close(batch.class_text[2, 1], text[int(episodes.class_ids[2, 1])])
    assert batch.class_text.shape == (6, 3, 4, 5)
    drawn, _ = EpisodeData(place_source(store), class_text=text, visits_seed=0).batch(episodes)
    assert drawn.class_text.shape == (6, 3, 1, 5)
    used = [(text[episodes.class_ids[e]] == drawn.class_text[e]).all(-1).all(0).nonzero().item() for e in range(6)]
    assert len(set(used)) > 1  # templates differ between episodes, one for all classes of an episode
    whole, _ = EpisodeData(place_source(store), class_text=text, visits_seed=0, all_templates=True).batch(episodes)
    assert torch.equal(whole.class_text, batch.class_text)


def test_nan_features_name_the_video(tmp_path):
    videos = rows_of(PARTS, 3)
    features = ordered_features(videos)
    features[7, 0, 2, 1] = np.nan
    broken = make_store(tmp_path / "nan.zarr", {"pooled": features}, videos)
    with pytest.raises(InputError, match=r"video 'a2-1' in .*nan\.zarr are not finite"):
        FeatureSource(broken, {"frames": "pooled"}, broken.ok_rows, where="memory")
    source = FeatureSource(broken, {"frames": "pooled"}, broken.ok_rows, where="disk")
    with pytest.raises(InputError, match="video 'a2-1'"):
        source.gather(np.array([6, 7, 8]))


def test_pairs_are_two_videos_of_each_class(store):
    pool = store_parts(store).pool("train")
    pairs = PairData(place_source(store), pool, n_classes=6, seed=0)
    batch = pairs.batch(3)
    class_of = {int(row): c for c in range(pool.n_classes) for row in pool.rows_of(c)}
    rows = batch.features["frames"][:, 0, 0].int().tolist()
    assert [class_of[row] for row in rows] == batch.class_ids.tolist()
    assert (batch.class_ids[::2] == batch.class_ids[1::2]).all()
    assert len(set(rows)) == 12
    assert len(set(batch.class_ids.tolist())) == 6


def test_parts_come_from_a_split_in_its_order(store):
    split = Split("mine", {"train": {"t1": None, "a0": None}, "val": {}, "test": {"V2": None, "v0": None}})
    parts = store_parts(store, split)
    assert parts.pool("train").class_names == ("t1", "a0")
    assert parts.pool("test").class_names == ("V2", "v0")  # matched in any spelling
    assert parts.pool("train").counts.tolist() == [12, 11]
    with pytest.raises(InputError, match="no videos of part 'val'"):
        parts.pool("val")
    with pytest.raises(InputError, match="store of another dataset"):
        store_parts(store, Split("other", {"train": {"x": None}}))


def test_a_part_in_the_store_that_shares_a_class_is_refused(tmp_path):
    videos = rows_of({"train": ["Jump high", "run"], "test": ["jump_high"]}, 2)
    videos = [v if v.part == "train" else type(v)(v.video_id + "t", v.class_name, v.part, v.path) for v in videos]
    overlapping = make_store(tmp_path / "o.zarr", {"pooled": ordered_features(videos)}, videos)
    with pytest.raises(InputError, match="'jump_high' is in both train and test"):
        store_parts(overlapping)


def test_what_a_head_lacks_is_said_with_the_command_that_adds_it(store):
    with pytest.raises(InputError, match=r"fsar-prep encode .* --backbone open_clip:ViT/openai .*--tap map"):
        make_task("molo", store)
    with pytest.raises(InputError, match=r"unknown tap of .* 'poold': did you mean pooled"):
        make_task("otam", store, taps={"frames": "poold"})
    with pytest.raises(InputError, match="unknown input of head 'otam'"):
        make_task("otam", store, taps={"frame": "pooled"})
    with pytest.raises(InputError, match="takes no text"):
        make_task("otam", store, text="words")
    with pytest.raises(InputError, match="did you mean otam"):
        make_task("ottam", store)


def test_text_of_another_model_is_refused_to_heads_that_compare_it_with_images(store):
    task = make_task("clip-fsar", store, text="words")
    with pytest.raises(InputError, match=r"of another model .*text_sha256: 'other' != 'ours'"):
        task.class_text(task.parts.pool("train"))


def test_more_frames_than_stored_are_refused(store):
    with pytest.raises(InputError, match="holds 8 frames per video, got --frames 9"):
        place_source(store, n_frames=9)


def test_prefetching_keeps_the_order_and_passes_errors_on():
    def make(number: int) -> int:
        if number == 4:
            raise InputError("broken at 4")
        return number * number

    assert list(prefetched(make, range(4))) == [0, 1, 4, 9]
    with pytest.raises(InputError, match="broken at 4"):
        list(prefetched(make, range(9)))
    for number in prefetched(make, range(4)):
        assert number == 0
        break  # leaving early must not hang


def test_an_ordered_store_is_read_alike_in_both_formats(tmp_path):
    zarr, hdf5 = ordered_store(tmp_path / "a.zarr", n_videos=2), ordered_store(tmp_path / "a.h5", n_videos=2)
    rows = np.array([5, 0, 5, 9])
    found = [FeatureSource(s, {"frames": "pooled"}, s.ok_rows).gather(rows)["frames"] for s in (zarr, hdf5)]
    torch.testing.assert_close(*found)
