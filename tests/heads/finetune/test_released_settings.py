"""The settings of released training code, row by row, against recipe and tuning of ours."""

import pytest

from fsar.heads.finetune.setup import published_tuning
from fsar.heads.recipes.presets import get_preset

HMDB, UCF, K100, K100_CMN = "hmdb51-arn", "ucf101-arn", "kinetics100-clipfsar", "kinetics100-cmn"
FULL, SMALL = "ssv2-otam", "ssv2-cmn"
THIRDS, HALVES, TWENTIETH = (1, 0.1, 0.01), (1, 0.5, 0.1, 0.01), (1, 0.5, 0.1, 0.05)
# head, split, rate, rate at first, tasks of a pseudo-epoch, steps in pseudo-epochs, tasks, queries, weight of classes
FAMILY = [
    ("clip-fsar", HMDB, 1e-5, 1e-6, 700, (0, 4, 6), 5000, 5, 1.2),
    ("clip-fsar", K100, 1e-5, 5e-6, 250, (0, 6, 9), 5000, 5, 1.5),
    ("clip-fsar", FULL, 5e-5, 1e-5, 4000, (0, 4, 6), 30000, 5, 3.0),
    ("clip-fsar", SMALL, 5e-5, 2e-5, 2000, (0, 4, 6), 30000, 5, 3.0),
    ("clip-fsar", UCF, 2e-6, 1e-7, 600, (0, 4, 6), 3000, 5, 1.5),
    ("emp-net", HMDB, 1e-4, 1e-6, 1000, (0, 4, 6), 5000, 5, None),
    ("emp-net", UCF, 1e-4, 1e-6, 1000, (0, 4, 6), 5000, 5, None),
    ("emp-net", K100, 1e-4, 1e-6, 1000, (0, 4, 6), 5000, 5, None),
    ("emp-net", FULL, 1e-3, 1e-5, 8000, (0, 4, 6), 40000, 5, None),
    ("emp-net", SMALL, 1e-3, 1e-5, 2000, (0, 4, 6), 10000, 5, None),
    ("molo", HMDB, 5e-5, 1e-5, 500, (0, 3, 5, 7), 2000, 6, 0.4),
    ("molo", K100, 2e-5, 5e-6, 350, (0, 4, 6), 5000, 6, 0.1),
    ("molo", FULL, 1e-4, 2e-5, 6000, (0, 6, 9), 50000, 6, 0.8),
    ("molo", SMALL, 1e-4, 2e-5, 1500, (0, 4, 8), 20000, 6, 0.15),
    ("molo", UCF, 5e-5, 1e-5, 2000, (0, 3, 6), 6000, 6, 0.6),
    ("hyrsm++", HMDB, 5e-5, 1e-5, 300, (0, 2, 3, 7), 2000, 7, 0.15),
    ("hyrsm++", K100, 2.2e-5, 5e-6, 100, (0, 4, 6, 9), 1500, 7, 0.1),
    ("hyrsm++", FULL, 1e-4, 2e-5, 3000, (0, 6, 9), 40000, 7, 0.6),
    ("hyrsm++", SMALL, 1e-4, 2e-5, 1500, (0, 4, 8), 20000, 7, 0.2),
    ("hyrsm++", UCF, 5e-5, 1e-5, 700, (0, 3, 5, 7), 2500, 7, 0.6),
    ("hyrsm", HMDB, 5e-5, 1e-5, 300, (0, 2, 3, 7), 2000, 7, 0.15),
    ("hyrsm", K100, 2.2e-5, 5e-6, 100, (0, 4, 6, 9), 1200, 7, 0.4),
    ("hyrsm", FULL, 1e-4, 2e-5, 3000, (0, 6, 9), 40000, 7, 0.6),
    ("hyrsm", SMALL, 1e-4, 2e-5, 1500, (0, 4, 8), 20000, 7, 0.15),
    ("hyrsm", UCF, 5e-5, 1e-5, 700, (0, 3, 5, 7), 2500, 7, 0.15),
    ("hyrsm++", "epic", 5e-5, 1e-5, 400, (0, 4, 7), 2000, 7, 0.5),
    ("hyrsm", "epic", 5e-5, 1e-5, 400, (0, 4, 7), 2000, 7, 0.6),
]
CLASS_WEIGHT = {"clip-fsar": "text_loss_weight", "molo": "class_weight", "hyrsm": "class_weight",
                "hyrsm++": "class_weight"}  # fmt: skip


@pytest.mark.parametrize("row", FAMILY, ids=lambda row: f"{row[0]}-{row[1]}")
def test_rows_of_the_clip_fsar_code_base(row: tuple) -> None:
    head, split, rate, first, period, steps, n_tasks, n_query, weight = row
    preset = get_preset("published", head, split)
    assert (preset.optimizer, preset.lr, preset.weight_decay, preset.clip_norm) == ("adam", rate, 1e-3, None)
    assert preset.betas == (0.9, 0.999)
    assert preset.lr * preset.schedule.factor(0, n_tasks) == pytest.approx(first)
    assert (preset.schedule.period, preset.schedule.steps) == (period, steps)
    factors = TWENTIETH if (split, len(steps)) == (K100, 4) else HALVES if len(steps) == 4 else THIRDS
    assert preset.schedule.factors == pytest.approx(factors)
    assert (preset.n_episodes, preset.n_query) == (n_tasks, n_query)
    if weight is not None:
        assert preset.options[CLASS_WEIGHT[head]] == weight
    halved = (head, split) == ("hyrsm", HMDB)
    assert preset.episodes_per_step == (2 if halved else 4)
    assert preset.reduction == ("sum" if head == "emp-net" else "mean")
    tuning = published_tuning(head, split).tuning
    assert tuning.processes == (2 if head == "emp-net" else 4)
    assert tuning.divisor == (4 if halved else None)
    assert tuning.trainable == ("none" if head == "emp-net" else "all")
    assert (tuning.backbone_rate, tuning.short_first_step, tuning.compat) == (1.0, False, "official")


RECONSTRUCTION = {HMDB: 0.05, K100: 0.1, FULL: 0.1, SMALL: 0.05, UCF: 0.05}
TEMPORAL = {HMDB: 0.2, K100: 0.1, FULL: 0.3, SMALL: 0.3, UCF: 0.1}


@pytest.mark.parametrize("split", sorted(RECONSTRUCTION))
def test_weights_that_one_method_alone_has(split: str) -> None:
    """The released weight of MoLo's reconstruction is not divided by the four tasks of a step; ours is."""
    assert published_tuning("molo", split).options["reconstruction_weight"] == pytest.approx(4 * RECONSTRUCTION[split])
    assert get_preset("published", "hyrsm++", split).options["temporal_weight"] == TEMPORAL[split]


def test_forms_for_several_shots() -> None:
    for head in ("hyrsm", "hyrsm++"):
        assert get_preset("published", head, FULL, n_shot=5).n_query == 3
    assert published_tuning("hyrsm++", K100, n_shot=5).tuning.divisor == 1
    assert published_tuning("hyrsm++", K100).tuning.divisor is None
    assert published_tuning("hyrsm++", HMDB, n_shot=5).tuning.divisor is None


# head, split, optimiser, rate, tasks, queries, options, pipeline
OTHERS = [
    ("trx", FULL, "sgd", 1e-3, 75_000, 5, {"temp_set": (2, 3), "reduction": "sum"}, "trx"),
    ("strm", FULL, "sgd", 1e-3, 75_000, 4, {"temp_set": (2,), "reduction": "sum"}, "strm"),
    ("strm", HMDB, "sgd", 1e-4, 10_000, 4, {"temp_set": (2,)}, "strm"),
    ("strm", UCF, "sgd", 1e-4, 10_000, 4, {"temp_set": (2,)}, "strm"),
    ("strm", K100_CMN, "sgd", 1e-4, 10_000, 5, {"temp_set": (2,)}, "strm"),
    ("clip-mei", HMDB, "adam", 1e-5, 20_010, 4, {}, "clip-mei"),
    ("clip-mei", UCF, "adam", 1e-5, 20_010, 4, {}, "clip-mei"),
    ("clip-mei", K100_CMN, "adam", 1e-5, 20_010, 4, {}, "clip-mei"),
    ("clip-mei", SMALL, "adam", 1e-5, 20_010, 4, {}, "clip-mei-ssv2"),
    ("clip-mei", FULL, "adam", 1e-5, 75_010, 4, {}, "clip-mei-ssv2"),
]


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_rows_of_trx_and_what_was_built_on_it(row: tuple) -> None:
    head, split, optimizer, rate, n_tasks, n_query, options, images = row
    preset = get_preset("published", head, split)
    assert (preset.optimizer, preset.lr, preset.n_episodes, preset.n_query) == (optimizer, rate, n_tasks, n_query)
    assert (preset.episodes_per_step, preset.reduction, preset.clip_norm) == (16, "mean", None)
    assert preset.options.items() >= options.items()
    is_mei = head == "clip-mei"
    assert (preset.weight_decay, preset.momentum) == (5e-5 if is_mei else 0.0, 0.0)
    assert preset.betas == ((0.5, 0.999) if is_mei else (0.9, 0.999))
    assert preset.schedule.factor(n_tasks - 1, n_tasks) == 1.0
    tuning, pipeline, _ = published_tuning(head, split)
    assert (pipeline, tuning.short_first_step, tuning.processes) == (images, True, 1)
    assert tuning.batch_norm == ("eval-then-train" if is_mei else "train")


def test_the_row_of_hcl() -> None:
    preset, tuning = get_preset("published", "hcl", FULL), published_tuning("hcl", FULL).tuning
    assert (preset.optimizer, preset.lr, preset.weight_decay, preset.clip_norm) == ("adamw", 1e-4, 1e-4, 0.1)
    assert (preset.n_episodes, preset.episodes_per_step, preset.classes_per_batch) == (15_000, 1, 24)
    assert [preset.schedule.factor(n, 15_000) for n in (0, 9_999, 10_000)] == pytest.approx([1, 1, 0.1])
    assert tuning.backbone_rate == 0.1


def test_rows_of_the_repository_of_perrett() -> None:
    for head, rate, n_per_step in (("trx", 1e-3, 16), ("otam", 1e-3, 1), ("tsn", 1e-3, 1), ("pal", 1e-4, 1)):
        preset = get_preset(f"{head}-perrett", head)
        assert (preset.optimizer, preset.lr, preset.episodes_per_step) == ("sgd", rate, n_per_step)
        assert published_tuning(head, "ssv2-otam").tuning.short_first_step
