import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from fsar.errors import InputError, Terminated
from fsar.heads.episodes.sampler import EpisodeShape
from fsar.heads.evaluation.protocol import Plan
from fsar.heads.head import create_head, register_head
from fsar.heads.methods.otam import OTAM
from fsar.heads.recipes.presets import CACHED, Preset, get_preset, list_presets, register_preset
from fsar.heads.recipes.schedules import Constant, Cosine, DoubleClock, MultiStep
from fsar.heads.run_folder import STATE, load_head, read_json, read_tensors
from fsar.heads.setup.task import make_task
from fsar.heads.training import experiment as experiment_module
from fsar.heads.training.experiment import Experiment, run
from fsar.heads.training.optim import make_optimizer, parameter_groups, set_lr
from tests.conftest import GOLDENS
from tests.heads.stores import PARTS, make_store, ordered_features, ordered_store, rows_of

SHORT = replace(CACHED, episodes_per_step=2, n_episodes=24)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ordered_store(tmp_path_factory.mktemp("store") / "s.zarr", failed=[2], n_views=2)


def an_experiment(store, head="otam", **changes) -> Experiment:
    options = changes.pop("options", {"adapter": "temporal"})
    settings = {"preset": SHORT, "val_episodes": 20, "validate_every": 4, **changes}
    plan = Plan(EpisodeShape(5, 1, 1), n_episodes=50)
    return Experiment(
        make_task(head, store),
        options=options,
        shape=EpisodeShape(5, 1, 2),
        test=settings.pop("test", plan),
        **settings,
    )


def same_weights(first, second) -> bool:
    one, other = (read_tensors(folder / "head.safetensors")[0] for folder in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_folder_holds_everything(store, tmp_path):
    folder, result = run(an_experiment(store), tmp_path / "run", quiet=True)
    names = {path.name for path in folder.path.iterdir()}
    files = {"config.json", "metrics.jsonl", "head.safetensors", "head.json", "result.json", "README.md"}
    assert files | {"accuracies.npy", "confusion.csv", "episodes.npz", STATE} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    config = folder.config
    assert config["recipe_id"] == store.recipe_id
    assert config["train_classes"] == PARTS["train"]
    assert torch.__version__.startswith(config["versions"]["torch"])
    assert config["test_episodes_sha256"] == result["episodes_sha256"]
    assert result["failed_videos"] == {"a0": 1}
    assert "1 video could not be encoded, never drawn: a0 (1)" in result["notes"]
    steps = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "val/accuracy" in line] == [4, 8, 12]
    head = load_head(folder.path)
    assert isinstance(head, OTAM)
    assert not head.training
    assert run(an_experiment(store), tmp_path / "run", quiet=True)[1] == read_json(folder.path / "result.json")


class _Stop(Exception):
    pass


@pytest.mark.parametrize(("where", "number"), [("memory", signal.SIGINT), ("disk", signal.SIGTERM)])
def test_a_resumed_training_ends_with_the_same_weights_to_the_bit(store, tmp_path, monkeypatch, where, number):
    def experiment() -> Experiment:
        trained = an_experiment(store)
        return replace(trained, task=replace(trained.task, where=where))

    run(experiment(), tmp_path / "whole", quiet=True)
    original, calls = experiment_module._Batches.__call__, []

    def interrupting(self, step):
        calls.append(step)
        if len(calls) == 7:
            os.kill(os.getpid(), number)  # while a batch is being made
        return original(self, step)

    monkeypatch.setattr(experiment_module._Batches, "__call__", interrupting)
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(experiment(), tmp_path / "halves", quiet=True)
    assert isinstance(stopped.value, Terminated) == (number == signal.SIGTERM)
    assert not (tmp_path / "halves" / "head.safetensors").exists()
    assert read_tensors(tmp_path / "halves" / STATE)[1]["state"]
    run(experiment(), tmp_path / "halves", quiet=True)
    assert len(calls) < 24  # it went on, it did not start again
    assert same_weights(tmp_path / "whole", tmp_path / "halves")
    whole, halves = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "halves"))
    assert whole == halves


def test_a_run_killed_before_its_state_is_saved_starts_again(store, tmp_path, monkeypatch):
    run(an_experiment(store), tmp_path / "whole", quiet=True)

    def killed(self, step):
        raise _Stop

    monkeypatch.setattr(experiment_module._Batches, "__call__", killed)
    with pytest.raises(_Stop):
        run(an_experiment(store), tmp_path / "again", quiet=True)
    monkeypatch.undo()
    run(an_experiment(store), tmp_path / "again", quiet=True)
    assert same_weights(tmp_path / "whole", tmp_path / "again")


def test_the_same_command_finds_its_unfinished_run(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def killed(self, step):
        raise _Stop

    monkeypatch.setattr(experiment_module._Batches, "__call__", killed)
    with pytest.raises(_Stop):
        run(an_experiment(store), None, quiet=True)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (begun,) = (tmp_path / "runs").iterdir()
    folder, _ = run(an_experiment(store), None, quiet=True)
    assert folder.path.resolve() == begun


def test_a_folder_with_another_run_is_refused(store, tmp_path):
    run(an_experiment(store, test=None), tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match=r"holds another run \(.*seed: 0 != 1.*another --out"):
        run(an_experiment(store, seed=1, test=None), tmp_path / "run", quiet=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        run(an_experiment(store), tmp_path / "mine", quiet=True)


def test_seeds_decide_the_weights(store, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        run(an_experiment(store, seed=seed, test=None), tmp_path / name, quiet=True)
    assert not same_weights(tmp_path / "a", tmp_path / "b")


def test_the_best_weights_on_validation_are_kept_and_training_stops_early(store, tmp_path):
    spoiling = replace(SHORT, lr=30.0, schedule=Constant(), clip_norm=None, n_episodes=200)
    experiment = an_experiment(store, preset=spoiling, patience=2, validate_every=1, val_episodes=100, test=None)
    folder, result = run(experiment, tmp_path / "run", quiet=True)
    report = result["training"]
    assert report["stopped_early"]
    assert report["n_steps"] == report["best_step"] + 2
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    accuracies = {line["step"]: line["val/accuracy"] for line in lines if "val/accuracy" in line}
    assert report["best_accuracy"] == accuracies[report["best_step"]] == max(accuracies.values())
    state = read_tensors(folder.path / STATE)[0]
    saved = read_tensors(folder.path / "head.safetensors")[0]
    assert all(torch.equal(saved[name], state[f"best.{name}"]) for name in saved)
    assert not all(torch.equal(saved[name], state[f"head.{name}"]) for name in saved)


def test_without_a_validation_part_the_last_weights_are_kept(tmp_path):
    videos = rows_of({"train": PARTS["train"], "test": PARTS["test"]}, 6)
    store = make_store(tmp_path / "s.zarr", {"pooled": ordered_features(videos)}, videos)
    folder, result = run(an_experiment(store), tmp_path / "run", quiet=True)
    assert any("no validation part: these are the last weights" in note for note in result["notes"])
    assert result["training"]["best_accuracy"] is None
    state, saved = read_tensors(folder.path / STATE)[0], read_tensors(folder.path / "head.safetensors")[0]
    assert all(torch.equal(saved[name], state[f"head.{name}"]) for name in saved)


def test_a_head_without_parameters_is_simply_evaluated(store, tmp_path):
    _, result = run(an_experiment(store, "tsn", options={}), tmp_path / "run", quiet=True)
    assert result["training"] is None
    assert any("no parameters: nothing is trained" in note for note in result["notes"])
    assert result["accuracy"] > 0.3


def test_order_decides_and_a_learned_adapter_gives_it_to_a_mean_pooled_head(store, tmp_path):
    def accuracy(head: str, **options: str) -> float:
        preset = replace(CACHED, episodes_per_step=4, n_episodes=240)
        plan = Plan(EpisodeShape(5, 1, 1), n_episodes=400)
        trained = an_experiment(store, head, options=options, preset=preset, validate_every=20, test=plan)
        return run(trained, tmp_path / f"{head}-{len(options)}", quiet=True)[1]["accuracy"]

    blind, ordered, adapted = accuracy("tsn"), accuracy("otam"), accuracy("tsn", adapter="temporal")
    assert 0.4 < blind < 0.75  # it can tell pairs of classes apart, not the two of a pair
    assert ordered > 0.9
    assert adapted > blind + 0.05


@pytest.fixture
def broken_head():
    """Register an OTAM whose second episode of a batch answers NaN, or whose gradient alone is infinite."""

    class Broken(OTAM):
        def outputs(self, batch):
            logits = super().outputs(batch)["logits"]
            if self.smoothing == 0.5:
                return {"logits": logits + 1e-30 * (logits * 0).abs().sqrt()}  # the root has no slope at zero
            spoilt = torch.zeros(len(logits), 1, 1)
            spoilt[1:2] = torch.nan
            return {"logits": logits + spoilt}

    register_head("broken-for-test")(Broken)
    yield "broken-for-test"
    from fsar.heads.head import _REGISTRY

    del _REGISTRY["broken-for-test"]


def test_a_diverging_training_names_step_and_episode(store, tmp_path, broken_head):
    with pytest.raises(InputError, match="the loss is nan at step 1, in episode 1; lower --lr"):
        run(an_experiment(store, broken_head, test=None), tmp_path / "run", quiet=True)


def test_a_gradient_that_is_not_finite_changes_no_weight(store, tmp_path, broken_head):
    options = {"adapter": "linear", "smoothing": 0.5}
    with pytest.raises(InputError, match=r"the gradient has norm (nan|inf) at step 1"):
        run(an_experiment(store, broken_head, options=options, test=None), tmp_path / "run", quiet=True)


def test_dropout_comes_from_the_seed_not_from_the_process(store, tmp_path):
    for name in ("a", "b"):
        torch.rand(7)
        run(an_experiment(store, test=None, options={"adapter": "mlp", "dropout": 0.5}), tmp_path / name, quiet=True)
    assert same_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.shared
def test_the_double_clock_gives_the_published_rates():
    configs = json.loads((GOLDENS / "schedule" / "lr_schedule.json").read_text())
    configs = configs.get("configs", configs)
    n_checked = 0
    for config in configs.values():
        if not isinstance(config, dict) or "STEPS_ITER" not in config:
            continue
        schedule = DoubleClock(
            config["STEPS_ITER"],
            tuple(config["STEPS"]),
            tuple(config["LRS"]),
            config["WARMUP_START_LR"] / config["BASE_LR"],
            config["WARMUP_EPOCHS"],
        )
        for episode, lr in zip(config["iteration"], config["lr"], strict=True):
            assert config["BASE_LR"] * schedule.factor(episode, 0) == pytest.approx(lr, rel=1e-9)
            n_checked += 1
    assert n_checked > 100


def test_the_double_clock_counts_epochs_twice():
    schedule = DoubleClock(100, (0, 4), (1.0, 0.1), start=0.2)
    assert [schedule.factor(i, 0) for i in (0, 50, 100, 199, 200)] == pytest.approx([0.2, 0.6, 1.0, 1.0, 0.1])


def test_schedules():
    cosine = Cosine(warmup=0.1, last=0.0)
    assert cosine.factor(0, 100) == pytest.approx(1 / 11)
    assert cosine.factor(10, 100) == pytest.approx(1.0)
    assert cosine.factor(55, 100) == pytest.approx(0.5)
    assert cosine.factor(100, 100) == pytest.approx(0.0)
    steps = MultiStep((3000, 6000))
    assert [steps.factor(i, 0) for i in (2999, 3000, 6000)] == pytest.approx([1, 0.1, 0.01])


def test_weight_decay_spares_what_the_recipe_spares():
    head = create_head("tsn", adapter="linear", dim=4)
    decayed, undecayed = parameter_groups(head, CACHED)
    assert [p.ndim for p in decayed["params"]] == [2]
    assert undecayed["weight_decay"] == 0
    assert isinstance(make_optimizer(head, Preset("x", optimizer="sgd")), torch.optim.SGD)


def test_parts_of_a_head_learn_at_rates_of_their_own():
    head = create_head("tsn", adapter="linear", dim=4)
    (name, first), *_ = head.adapter.named_parameters(prefix="adapter")
    preset = Preset("x", optimizer="sgd", lr=0.1, rates={name: 0.5})
    optimizer = make_optimizer(head, preset)
    rest, slow = optimizer.param_groups
    assert (rest["lr"], slow["lr"]) == (0.1, 0.05)
    assert slow["params"] == [first]
    set_lr(optimizer, 0.2)
    assert (rest["lr"], slow["lr"]) == (0.2, 0.1)
    assert make_optimizer(head, replace(preset, optimizer="adamw", eps=1e-6)).defaults["eps"] == 1e-6


def test_what_a_recipe_does_not_use_leaves_its_description_as_in_older_versions():
    assert not {"rates", "eps"} & CACHED.describe().keys()
    assert replace(CACHED, eps=1e-6).describe()["eps"] == 1e-6


def test_presets_are_found_by_name_head_and_split():
    assert get_preset("cached", "trx") is CACHED
    with pytest.raises(InputError, match="did you mean cached"):
        get_preset("cashed", "trx")
    with pytest.raises(InputError, match="is for clip-fsar, not for head 'otam'"):
        get_preset("clip-fsar-ssv2-cmn", "otam")
    assert get_preset("published", "otam").lr == 1e-3
    assert all(get_preset(name, head) for head in ("trx", "otam", "tsn") for name in list_presets(head))
    with pytest.raises(ValueError, match="already registered"):
        register_preset(CACHED)
