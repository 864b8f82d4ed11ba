import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar.errors import InputError
from fsar.heads.episodes.sampler import EpisodePool, EpisodeSampler, EpisodeShape
from fsar.heads.episodes.saved_list import load_list, save_list, to_list


def pool(*counts: int) -> EpisodePool:
    """Classes c0, c1, ... whose rows are numbered on, in a store that also has other rows."""
    starts = np.cumsum((100, *counts))
    return EpisodePool({f"c{i}": range(starts[i], starts[i] + n) for i, n in enumerate(counts)})


def row_classes(of: EpisodePool) -> dict[int, int]:
    return {int(row): c for c in range(of.n_classes) for row in of.rows_of(c)}


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(6, 40), min_size=3, max_size=9),
    seed=st.integers(0, 2**40),
    start=st.integers(0, 10**6),
    data=st.data(),
)
def test_every_episode_is_sound(counts, seed, start, data):
    n_way = data.draw(st.integers(2, len(counts)))
    shots = data.draw(st.one_of(st.integers(1, 3), st.lists(st.integers(1, 3), min_size=n_way, max_size=n_way)))
    shape = EpisodeShape(n_way, shots, 2, n_unlabelled=1)
    classes = pool(*counts)
    episodes = EpisodeSampler(classes, shape, seed=seed).draw(start, 20)
    class_of = row_classes(classes)
    for e in range(20):
        assert len(set(episodes.class_ids[e])) == n_way
        used = [*episodes.support[e], *episodes.query[e], *episodes.unlabelled[e]]
        assert len(set(used)) == len(used)  # no video twice: supports, queries and unlabelled ones are disjoint
        for rows, labels in (
            (episodes.support[e], episodes.support_labels[e]),
            (episodes.query[e], episodes.query_labels[e]),
        ):
            assert [class_of[int(row)] for row in rows] == episodes.class_ids[e][labels].tolist()
        assert np.bincount(episodes.support_labels[e]).tolist() == list(shape.shots)
        assert np.bincount(episodes.query_labels[e]).tolist() == list(shape.queries)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**62), start=st.integers(0, 5000), size=st.integers(1, 50))
def test_an_episode_does_not_depend_on_its_block(seed, start, size):
    sampler = EpisodeSampler(pool(9, 12, 30, 8), EpisodeShape(3, 2, 3), seed=seed)
    block = sampler.draw(start, size)
    last = sampler.draw(start + size - 1, 1)
    for name in ("class_ids", "support", "query", "query_labels"):
        np.testing.assert_array_equal(getattr(block, name)[-1:], getattr(last, name))


def test_seeds_and_episodes_differ():
    shape, classes = EpisodeShape(5, 1, 1), pool(*[50] * 20)
    first, second = (EpisodeSampler(classes, shape, seed=seed).draw(0, 500) for seed in (0, 1))
    assert (first.support != second.support).any(1).mean() > 0.99
    assert len(np.unique(first.support, axis=0)) == 500


def test_classes_videos_and_places_are_drawn_evenly():
    episodes = EpisodeSampler(pool(*[10] * 8), EpisodeShape(4, 1, 1), seed=3).draw(0, 20_000)
    by_class = np.bincount(episodes.class_ids.ravel(), minlength=8) / 20_000
    by_row = np.bincount(episodes.support.ravel() - 100, minlength=80) / 20_000
    np.testing.assert_allclose(by_class, 0.5, atol=0.02)  # 4 of 8 classes
    np.testing.assert_allclose(by_row, 0.05, atol=0.008)  # 1 of 10 videos of these
    np.testing.assert_allclose(np.bincount(episodes.query_labels[:, 0]) / 20_000, 0.25, atol=0.02)


def test_all_videos_of_a_class_can_be_used():
    episodes = EpisodeSampler(pool(4, 4), EpisodeShape(2, 1, 3), seed=0).draw(0, 50)
    rows = np.sort(np.concatenate([episodes.support, episodes.query], 1), 1)
    assert (rows == np.arange(100, 108)).all()


@pytest.mark.parametrize(
    ("counts", "shape", "message"),
    [
        ((9, 9), (5, 1, 1), "5-way episodes need 5 classes, the store has 2"),
        ((9, 4, 9), (3, 3, 2), r"takes 5 videos of a class.*'c1' \(4\).*--drop-small-classes"),
        ((9, 9), (1, 1, 1), "way must be at least 2"),
        ((9, 9), (2, 0, 1), "shot must be at least 1"),
        ((9, 9), (2, (1, 2, 3), 1), "one per class"),
    ],
)
def test_impossible_episodes_are_refused(counts, shape, message):
    with pytest.raises(InputError, match=message):
        EpisodeSampler(pool(*counts), EpisodeShape(*shape), seed=0)


def test_small_classes_can_be_dropped():
    kept, dropped = pool(9, 2, 9).without_small_classes(5)
    assert kept.class_names == ("c0", "c2")
    assert dropped == {"c1": 2}


def test_a_saved_list_comes_back_and_moves_to_another_store(tmp_path):
    classes = pool(9, 9, 9)
    episodes = EpisodeSampler(classes, EpisodeShape(2, 1, 2), seed=0).draw(0, 30)
    names = [f"video-{row}" for row in range(127)]
    listed = to_list(episodes, classes.class_names, names)
    save_list(listed, tmp_path / "list.npz")
    loaded = load_list(tmp_path / "list.npz")
    assert loaded.sha256 == listed.sha256
    here = loaded.in_store(names.index, {"c0": 0, "c1": 1, "c2": 2})
    np.testing.assert_array_equal(here.support, episodes.support)
    there = loaded.in_store(names[::-1].index, {"c2": 0, "c1": 1, "c0": 2})
    np.testing.assert_array_equal(there.query, 126 - episodes.query)
    np.testing.assert_array_equal(there.class_ids, 2 - episodes.class_ids)


def test_the_hash_of_a_list_tells_lists_apart():
    classes, names = pool(9, 9, 9), [f"video-{row}" for row in range(127)]
    sampler = EpisodeSampler(classes, EpisodeShape(2, 1, 2), seed=0)
    hashes = {to_list(sampler.draw(start, 30), classes.class_names, names).sha256 for start in range(3)}
    assert len(hashes) == 3


def test_what_is_no_list_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("not a list")
    with pytest.raises(InputError, match="not an episode list"):
        load_list(tmp_path / "text.npz")
    with pytest.raises(InputError, match="--save-episodes"):
        load_list(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("query", lambda e: e.support[:, :1].repeat(e.query.shape[1], 1), "has a video twice"),
        ("class_ids", lambda e: e.class_ids * 0, "has a class twice"),
        ("class_ids", lambda e: e.class_ids + 7, "class_ids must be 0 to 2"),
        ("support", lambda e: e.support - 1_000, "support must be 0 to"),
        ("support_labels", lambda e: e.support_labels * 0, "a class without support"),
        ("query_labels", lambda e: e.query_labels + 2, "query_labels must be 0 to 1"),
        ("query", lambda e: e.query[:5], "do not fit together"),
        ("query_labels", lambda e: 1 - e.query_labels, "was changed after it was written"),
    ],
)
def test_a_list_that_no_one_drew_is_refused(tmp_path, field, change, message):
    classes = pool(9, 9, 9)
    episodes = EpisodeSampler(classes, EpisodeShape(2, 1, 2), seed=0).draw(0, 30)
    path = tmp_path / "list.npz"
    save_list(to_list(episodes, classes.class_names, [f"video-{row}" for row in range(127)]), path)
    with np.load(path) as file:
        arrays = dict(file)
    listed = load_list(path).episodes
    np.savez(path, **(arrays | {field: change(listed)}))
    with pytest.raises(InputError, match=message):
        load_list(path)


def test_a_bare_array_is_no_list(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3))
    with pytest.raises(InputError, match="not an episode list"):
        load_list(tmp_path / "x.npy")
