"""`fsar.index`, `fsar.encode`, `fsar.train_head`, `fsar.evaluate`: the commands as functions."""

import inspect
import re
import subprocess
import sys
from dataclasses import MISSING

import numpy as np
import pytest

import fsar
from fsar.heads.evaluation.settings import EvaluateSettings
from fsar.heads.finetune.settings import FinetuneSettings
from fsar.heads.head import create_head
from fsar.settings import described
from tests.heads.stores import ordered_store

QUICK = {"steps": 4, "val_episodes": 5, "test_episodes": 20, "quiet": True}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ordered_store(tmp_path_factory.mktemp("store") / "s.zarr")


@pytest.mark.parametrize(
    ("function", "settings", "first"),
    [(fsar.train_head, FinetuneSettings, "head"), (fsar.evaluate, EvaluateSettings, "run")],
)
def test_arguments_defaults_and_docs_are_those_of_the_command(function, settings, first):
    taken = dict(inspect.signature(function).parameters)
    documented = dict(re.findall(r"^    (\w+): ((?:.|\n     )*)", inspect.getdoc(function), flags=re.M))
    del taken[first]
    fields = {item.name: item for item in described(settings) if item.name not in ("head", "heads")}
    assert list(taken) == list(fields)
    for name, item in fields.items():
        default = None if item.default in (MISSING, {}) else item.default
        assert name == "store" or taken[name].default == default, name
        assert name == "store" or " ".join(documented[name].split()) == item.help, name


def test_seeds_are_trained_and_tested_together(store, tmp_path):
    run = fsar.train_head("tsn", store, options={"adapter": "linear"}, seeds=[0, 1], out=tmp_path / "run", **QUICK)
    assert [folder.name for folder in run.folders] == ["seed-0", "seed-1"]
    assert run.accuracy == pytest.approx(np.mean([result["accuracy"] for result in run.results]))
    assert run.std is not None
    assert "tsn seed 1" in run.table()
    assert not run.head().training
    result = fsar.evaluate(run, store, shots=[1, 3], episodes=30, order=False, quiet=True)
    assert set(result.accuracy) == set(result.ci95) == {1, 3}
    each = [entry["accuracy"] for entry in result.results if entry["n_shot"] == 3]
    assert len(each) == 2
    assert result.accuracy[3] == pytest.approx(np.mean(each))
    assert result.table("markdown").count("\n") == 5


def test_one_number_of_shots_gives_one_number(store, tmp_path):
    run = fsar.train_head("otam", store.path, test=False, out=tmp_path / "run", **{**QUICK, "test_episodes": 10_000})
    assert run.accuracy is None
    result = fsar.evaluate(run.folders[0], store, shot=2, episodes=30, order=False, quiet=True)
    assert result.accuracy == result.results[0]["accuracy"]
    assert result.ci95 == result.results[0]["ci95"]
    untrained = fsar.evaluate("otam", store, shot=2, episodes=30, order=False, quiet=True)
    in_memory = fsar.evaluate(create_head("otam"), store, shot=2, episodes=30, order=False, quiet=True)
    assert untrained.accuracy == in_memory.accuracy == result.accuracy


def test_bad_settings_are_the_errors_of_the_commands(store):
    with pytest.raises(fsar.InputError, match="--lr must be above 0, got nan"):
        fsar.train_head("otam", store, lr=float("nan"))
    with pytest.raises(fsar.InputError, match="--patience must be at least 0, got -1"):
        fsar.train_head("otam", store, patience=-1)
    with pytest.raises(fsar.InputError, match="give --steps or --episodes, not both"):
        fsar.train_head("otam", store, steps=1, episodes=2)
    with pytest.raises(fsar.InputError, match="did you mean molo"):
        fsar.train_head("moloo", store)
    with pytest.raises(fsar.InputError, match="lists the episodes: leave --episodes out"):
        fsar.evaluate("otam", store, episodes_file="x.npz", episodes=5)
    with pytest.raises(fsar.InputError, match=r"option of head 'otam'.*did you mean smoothing"):
        fsar.train_head("otam", store, options={"smooting": 1.0})


def test_importing_fsar_imports_nothing_heavy():
    code = "import sys, fsar, fsar.api; print({'torch', 'numpy', 'zarr', 'click'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_every_public_name_is_there():
    assert set(fsar.__all__) <= set(dir(fsar))
    assert all(callable(getattr(fsar, name)) for name in fsar.__all__)
