from dataclasses import replace

import numpy as np
import pytest
import torch

from fsar.device import seeded
from fsar.errors import InputError
from fsar.heads import list_heads
from fsar.heads.episodes.feature_source import FeatureSource
from fsar.heads.episodes.sampler import EpisodeSampler, EpisodeShape
from fsar.heads.evaluation.evaluate import (
    TABLE_BYTES,
    Evaluation,
    compare,
    episode_logits,
    evaluate,
    half_width,
    table_room,
)
from fsar.heads.evaluation.protocol import Plan, describe_result, measure, plan_test, refuse_seen
from fsar.heads.evaluation.report import marks
from fsar.heads.head import _REGISTRY, create_head, head_type, register_head
from fsar.heads.methods.zero_shot import ClipZeroShotHead
from fsar.heads.run_folder import load_head, save_head, write_json
from fsar.heads.setup.fit import check_recipe
from fsar.heads.setup.task import make_task
from fsar.pipeline.store import TextTable
from tests.heads.stores import PARTS, make_store, ordered_features, rows_of

WIDTH = 64


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    videos = rows_of(PARTS, 8)
    pooled = ordered_features(videos, dim=WIDTH, n_frames=4)
    names = tuple(dict.fromkeys(video.class_name for video in videos))
    vectors = np.random.default_rng(0).normal(size=(2, len(names), WIDTH)).astype(np.float32)
    text = TextTable("words", vectors, names, ("{}", "a {}"))
    return make_store(tmp_path_factory.mktemp("store") / "s.zarr", {"pooled": pooled}, videos, text=text)


def pooled_heads() -> list[str]:
    return [n for n in list_heads() if [i.role for i in head_type(n).inputs] == ["frames"] and n != "hcl"]


@pytest.mark.parametrize("name", pooled_heads())
def test_embedding_each_video_once_gives_what_episodes_give_one_by_one(store, name):
    task = make_task(name, store)
    pool = task.parts.pool("test")
    with seeded(0):
        head = create_head(name, **task.head_options({}, pool)).eval()
    episodes = EpisodeSampler(pool, EpisodeShape(4, 2, 2), seed=0).draw(0, 12)
    data = task.episode_data(task.source(episodes.rows()), pool)
    with torch.inference_mode():
        expected = torch.cat([head(data.batch(episodes[e : e + 1])[0]) for e in range(12)])
    for table_bytes in (TABLE_BYTES, 0):
        found = torch.cat([logits for _, logits in episode_logits(head, data, episodes, table_bytes=table_bytes)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        result = evaluate(head, data, episodes, pool.class_names, table_bytes=table_bytes)
        np.testing.assert_allclose(result.accuracies, (expected.argmax(-1).numpy() == episodes.query_labels).mean(1))


def test_tables_take_at_most_half_of_what_is_free_on_a_gpu(monkeypatch):
    monkeypatch.setattr("fsar.heads.evaluation.evaluate.free_bytes", lambda device: 1000)
    assert [table_room("cuda:0", limit) for limit in (800, 400)] == [500, 400]
    assert table_room("cpu", 800) == 800


def test_unlabelled_videos_are_read_in_a_test_as_well(store):
    task = make_task("hyrsm++", store)
    pool = task.parts.pool("test")
    with seeded(0):
        head = create_head("hyrsm++", **task.head_options({"confidence": 0.3}, pool)).eval()
    episodes = EpisodeSampler(pool, EpisodeShape(4, 1, 2, n_unlabelled=3), seed=0).draw(0, 6)
    data = task.episode_data(task.source(episodes.rows()), pool)
    with torch.inference_mode():
        batch = data.batch(episodes)[0]
        expected, without = head(batch), head(replace(batch, unlabelled=None))
    found = torch.cat([logits for _, logits in episode_logits(head, data, episodes)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - without).abs().max() > 0.01


def text_heads() -> list[str]:
    return [name for name in pooled_heads() if head_type(name).text == "required"]


@pytest.fixture
def eager_head():
    """Register a head that adds what text it is given with a video, and looks for it in the queries."""

    class Eager(ClipZeroShotHead):
        def embed(self, features, class_text=None):
            frames = super().embed(features)["frames"]
            return {"frames": frames if class_text is None else frames + class_text.mean(-2, keepdim=True)}

    register_head("eager-for-test")(Eager)
    yield
    del _REGISTRY["eager-for-test"]


@pytest.mark.usefixtures("eager_head")
@pytest.mark.parametrize("name", [*text_heads(), "eager-for-test"])
def test_text_does_not_give_the_class_of_a_query_away(tmp_path, name):
    """Videos that are noise say nothing about their class: whoever still knows it has read the text of the query."""
    videos = rows_of(PARTS, 8)
    noise = np.random.default_rng(0).normal(size=(len(videos), 1, 4, WIDTH)).astype(np.float32)
    names = tuple(dict.fromkeys(video.class_name for video in videos))
    vectors = 10 * np.random.default_rng(1).normal(size=(1, len(names), WIDTH)).astype(np.float32)
    noisy = make_store(tmp_path / "s.zarr", {"pooled": noise}, videos, text=TextTable("words", vectors, names, ("{}",)))
    task = make_task(name, noisy)
    pool = task.parts.pool("test")
    with seeded(0):
        head = create_head(name, **task.head_options({}, pool)).eval()
    episodes = EpisodeSampler(pool, EpisodeShape(5, 1, 3), seed=0).draw(0, 100)
    data = task.episode_data(task.source(episodes.rows()), pool)
    assert evaluate(head, data, episodes, pool.class_names).mean == pytest.approx(0.2, abs=0.06)


def test_confusion_counts_true_classes_by_row(store):
    task = make_task("otam", store)
    planned = plan_test(task, Plan(EpisodeShape(5, 1, 2), n_episodes=40))
    result = measure(create_head("otam"), task, planned, quiet=True)
    assert result.confusion.sum() == 40 * 10
    asked = np.take_along_axis(planned.episodes.class_ids, planned.episodes.query_labels, 1)
    np.testing.assert_array_equal(result.confusion.sum(1), np.bincount(asked.ravel(), minlength=6))
    assert result.confusion.trace() / 400 == pytest.approx(result.mean)
    assert list(result.per_class) == PARTS["test"]
    n_right = sum(share * n for share, n in zip(result.per_class.values(), result.confusion.sum(1), strict=True))
    assert n_right == pytest.approx(result.confusion.trace())


def test_the_interval_is_1_96_standard_errors():
    values = np.array([0.2, 0.4, 0.6, 0.8])
    assert half_width(values) == pytest.approx(1.96 * np.sqrt(0.2 / 3) / 2)
    assert half_width(values[:1]) is None


def test_a_paired_comparison_sees_a_difference_that_two_intervals_hide():
    generator = np.random.default_rng(0)
    hardness = generator.uniform(0, 0.8, 400)
    first, second = hardness + 0.03, hardness + 0.01 * generator.normal(size=400)
    one, other = (Evaluation(values, np.zeros((1, 1), np.int64), ("x",)) for values in (first, second))
    paired = compare(one, other)
    assert abs(one.mean - other.mean) < one.ci95 + other.ci95
    assert paired.difference == pytest.approx(0.03, abs=0.002)
    assert paired.is_clear
    assert not compare(one, one).is_clear
    with pytest.raises(InputError, match="episode lists differ"):
        compare(one, Evaluation(first[:9], one.confusion, ("x",)))


def test_classes_that_were_trained_on_are_refused(store):
    task = make_task("otam", store)
    planned = plan_test(task, Plan(EpisodeShape(5, 1, 1), n_episodes=5))
    head = create_head("otam")
    head.trained = {"train_classes": PARTS["train"], "val_classes": PARTS["val"]}
    assert refuse_seen(planned, head, allow_seen=False) == {"seen_classes": [], "selection_classes": []}
    for kind, key, message in (
        ("train_classes", "seen_classes", "trained on class 't1'"),
        ("val_classes", "selection_classes", "weights of the head were chosen by class 't1'"),
    ):
        head.trained = {kind: ["T1"]}
        with pytest.raises(InputError, match=rf"{message}.*--allow-seen"):
            measure(head, task, planned, quiet=True)
        assert refuse_seen(planned, head, allow_seen=True)[key] == ["t1"]
        assert measure(head, task, planned, quiet=True, allow_seen=True).mean > 0


def test_no_function_takes_features_of_another_recipe_without_a_word(store, tmp_path):
    task = make_task("tsn", store)
    planned = plan_test(task, Plan(EpisodeShape(5, 1, 1), n_episodes=5))
    save_head(tmp_path, create_head("tsn"))
    write_json(tmp_path / "config.json", {"recipe": {**store.recipe, "backbone": "other"}, "recipe_id": "other"})
    head = load_head(str(tmp_path))  # a str is a path, too
    for call in (
        lambda **options: measure(head, task, planned, quiet=True, **options),
        lambda **options: evaluate(
            head,
            task.episode_data(task.source(planned.episodes.rows()), planned.pool),
            planned.episodes,
            planned.pool.class_names,
            **options,
        ),
    ):
        with pytest.raises(InputError, match="another recipe than the features that the head was trained on: backbone"):
            call()
        assert call(allow_recipe=True).mean > 0
    write_json(tmp_path / "config.json", {"recipe": {**store.recipe, "n_views": 4}, "recipe_id": "more views"})
    assert check_recipe(load_head(tmp_path), store) == []  # view 0 is the same


def test_shuffled_frames_show_which_heads_see_order(store):
    effects = {}
    for name in ("tsn", "otam"):
        task = make_task(name, store)
        planned = plan_test(task, Plan(EpisodeShape(6, 2, 3), n_episodes=80, order_episodes=50))
        evaluation = measure(create_head(name), task, planned, quiet=True)
        effects[name] = evaluation.order
        assert evaluation.order.n_episodes == 50
        assert len(evaluation.accuracies) == 80
    assert effects["tsn"].difference == pytest.approx(0, abs=0.02)  # sums in another order may turn a tie
    assert effects["otam"].difference > 0.1
    assert effects["otam"].is_clear
    plain = measure(
        create_head("tsn"), task, replace(planned, plan=replace(planned.plan, order_episodes=0)), quiet=True
    )
    assert plain.order is None


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_shuffling_moves_frames_and_nothing_else(store, where):
    rows = np.array([3, 7, 3])
    source = FeatureSource(store, {"frames": "pooled"}, np.arange(10), where=where)
    plain, shuffled = source.gather(rows)["frames"], source.shuffled().gather(rows)["frames"]
    assert not torch.equal(plain, shuffled)
    assert torch.equal(shuffled[0], shuffled[2])  # a video keeps its order
    assert torch.equal(plain.sort(1).values, shuffled.sort(1).values)
    assert torch.equal(source.gather(rows)["frames"], plain)


def test_a_transductive_result_says_over_how_many_queries(store):
    for shape, said in ((EpisodeShape(5, 1, 2), "over 10 queries"), (EpisodeShape(2, 1, 1), "over 2 queries")):
        task = make_task("bd-cspn", store)
        planned = plan_test(task, Plan(shape, n_episodes=3))
        head = create_head("bd-cspn")
        result = describe_result(head, task, planned, measure(head, task, planned, quiet=True), {})
        assert marks(result) == [f"transductive {said}"]
    assert marks({**result, "n_query": [3, 1]}) == ["transductive over 4 queries"]  # of a file of episodes
    assert marks({**result, "inductive": True}) == []


def test_a_head_that_answers_nan_is_not_scored(store):
    task = make_task("proto", store)
    head = create_head("proto")
    torch.nn.init.constant_(head.log_scale, float("nan"))
    planned = plan_test(task, Plan(EpisodeShape(5, 1, 1), n_episodes=5))
    with pytest.raises(InputError, match="answers NaN in episode 0"):
        measure(head, task, planned, quiet=True)


def test_a_store_of_one_part_is_tested_as_it_is(tmp_path):
    videos = rows_of({"": PARTS["test"]}, 4)
    plain = make_store(tmp_path / "s.zarr", {"pooled": ordered_features(videos)}, videos)
    planned = plan_test(make_task("otam", plain), Plan(EpisodeShape(3, 1, 1), n_episodes=5))
    assert planned.part == ""
    assert planned.pool.n_classes == 6
