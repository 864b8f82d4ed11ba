import pytest
import torch

from fsar.device import seeded
from fsar.errors import InputError
from fsar.heads.head import create_head
from fsar.heads.run_folder import differences, load_head, open_run, read_json, save_head, write_json, write_tensors
from fsar.heads.setup.options import typed_options


def test_a_saved_head_comes_back_with_its_options(tmp_path):
    with seeded(3):
        head = create_head("trx", dim=8, temp_set=(2, 3), out_dim=4)
    save_head(tmp_path, head)
    loaded = load_head(tmp_path)
    assert dict(loaded.options) == {"dim": 8, "temp_set": (2, 3), "out_dim": 4}
    assert all(torch.equal(value, head.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training


@pytest.mark.parametrize("name", ["otam", "tsn", "clip-zero-shot"])
def test_a_head_without_parameters_comes_back(name, tmp_path):
    save_head(tmp_path, create_head(name))
    assert type(load_head(tmp_path)) is type(create_head(name))


def test_equal_tensors_give_equal_bytes(tmp_path):
    for folder in ("a", "b"):
        write_tensors(tmp_path / folder, {"b": torch.ones(3), "a": torch.zeros(2)}, {"state": "{}"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(ValueError, match="as one of JSON"):
        write_tensors(tmp_path / "c", {}, {"one": "", "two": ""})


def test_weights_that_do_not_fit_are_refused(tmp_path):
    save_head(tmp_path, create_head("otam", adapter="linear", dim=8))
    description = read_json(tmp_path / "head.json")
    write_json(tmp_path / "head.json", {**description, "options": {"adapter": "linear", "dim": 4}})
    with pytest.raises(InputError, match=r"head\.safetensors does not fit head 'otam'"):
        load_head(tmp_path)


def test_damaged_weights_are_one_clear_error(tmp_path):
    save_head(tmp_path, create_head("proto"))
    (tmp_path / "head.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(InputError, match="is damaged or not a safetensors file"):
        load_head(tmp_path)
    with pytest.raises(InputError, match="is not a run folder"):
        load_head(tmp_path / "absent")


def test_tensors_that_share_memory_can_be_written(tmp_path):
    shared = torch.arange(4.0)
    write_tensors(tmp_path / "x.safetensors", {"a": shared, "b": shared.view(2, 2).T})


def test_differences_name_the_field():
    assert differences({"seed": 0, "shape": [1, 2]}, {"seed": 1, "shape": (1, 2)}) == ["seed: 0 != 1"]


def test_options_that_only_one_side_has_differ():
    old, new = {"options": {"dim": 8, "dropout": 0.5}, "created": "now"}, {"options": {"dim": 8}}
    assert differences(old, new) == ["options.dropout: 0.5 != (not given)"]
    assert differences(new, {"options": old["options"]}) == ["options.dropout: (not given) != 0.5"]


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    folders = {open_run(None, "otam", {"seed": seed}, root=tmp_path).path for seed in range(3)}
    assert len(folders) == 3


def test_a_run_that_never_trained_may_be_begun_anew(tmp_path):
    open_run(tmp_path / "run", "tsn", {"seed": 0})
    folder = open_run(tmp_path / "run", "tsn", {"seed": 1})
    assert folder.config["seed"] == 1


def test_options_of_older_run_folders_are_read(tmp_path):
    save_head(tmp_path, create_head("clip-mei", dim=8, hidden=4, head_dim=2))
    description = read_json(tmp_path / "head.json")
    write_json(tmp_path / "head.json", {**description, "options": {**description["options"], "compat": "official"}})
    assert "compat" not in load_head(tmp_path).options


@pytest.mark.parametrize(
    ("head", "old", "today"),
    [
        ("hyrsm", {"dim": 8, "heads": 2}, {"dim": 8, "n_heads": 2}),
        ("hyrsm++", {"dim": 8, "heads": 2}, {"dim": 8, "n_heads": 2}),
        ("molo", {"dim": 8, "heads": 2, "hidden": 4}, {"dim": 8, "n_heads": 2, "hidden": 4}),
        ("crosstransformer", {"dim": 8, "hidden": 4}, {"dim": 8, "out_dim": 4}),
        ("hcl", {"dim": 8, "width": 8, "ffn_dim": 4}, {"dim": 8, "width": 8, "hidden": 4}),
    ],
)
def test_former_names_of_options_are_understood(head, old, today):
    assert create_head(head, **old).options == today
    assert typed_options(head, {name: str(value) for name, value in old.items()}) == today
