"""`fsar-store` from the outside."""

import json
import sys
from pathlib import Path

import pytest

from fsar.cli import store as cli
from fsar.pipeline.store import create_store
from tests.pipeline.store import samples
from tests.pipeline.store.samples import write_sample


@pytest.fixture(params=[".h5", ".zarr"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_sample(tmp_path / f"sample{request.param}")


@pytest.fixture
def fsar_store(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fsar-store", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err  # type: ignore[return-value]

    return call


def test_info_is_text_for_people_and_json_for_machines(fsar_store, path: Path) -> None:
    code, text, _ = fsar_store("info", path)
    assert code == 0
    assert "sealed" in text
    assert "train: 5 videos: 4 ok, 1 failed, 0 pending" in text
    assert "sampler = uniform-center" in text
    code, text, _ = fsar_store("info", path, "--json")
    data = json.loads(text)
    assert data["taps"]["map"]["shape"] == [10, 2, 4, 3, 2, 2]
    assert data["failures"] == {"empty": 1}


def test_verify_exits_with_1_and_names_the_videos(fsar_store, path: Path) -> None:
    assert fsar_store("verify", path)[0] == 0
    chunk = (
        path / "status" / "c.0" if path.suffix == ".zarr" else path.with_name("sample.h5.parts") / "chunks/000000.h5"
    )
    data = bytearray(chunk.read_bytes())
    data[0] ^= 4
    chunk.write_bytes(data)
    code, text, _ = fsar_store("verify", path)
    assert code == 1
    assert "videos hit: v000, v001, v002" in text
    code, text, _ = fsar_store("verify", path, "--json")
    assert code == 1
    assert json.loads(text)["videos_hit"] == ["v000", "v001", "v002"]


def test_seal_finishes_a_complete_store_and_refuses_an_incomplete_one(fsar_store, tmp_path: Path) -> None:
    path = tmp_path / "new.zarr"
    with samples.open_sample(path) as writer:
        samples.fill(writer, n_chunks=3)
    code, _, error = fsar_store("seal", path)
    assert code == 1
    assert "1 of 10 videos are missing (test 1)" in error
    with samples.open_sample(path) as writer:
        samples.fill(writer)
    assert fsar_store("seal", path)[0] == 0
    assert fsar_store("verify", path)[0] == 0


def test_export_compare_and_merge(fsar_store, path: Path, tmp_path: Path) -> None:
    pieces = {"one": (4, ["--class", "class 0"]), "more": (6, ["--class", "class 1", "--class", "class 2"])}
    for name, (n_videos, choice) in pieces.items():
        code, text, _ = fsar_store("export", path, "--out", tmp_path / f"{name}.zarr", *choice, "--quiet")
        assert code == 0
        assert f"{n_videos} videos" in text
    both = [tmp_path / "one.zarr", tmp_path / "more.zarr"]
    assert fsar_store("merge", *both, "--out", tmp_path / "all.h5", "--quiet")[0] == 0
    code, text, _ = fsar_store("compare", path, tmp_path / "all.h5")
    assert (code, text.splitlines()[0]) == (0, "equal")
    code, text, _ = fsar_store("compare", path, tmp_path / "one.zarr", "--json")
    assert code == 1
    assert json.loads(text)["only_in_a"] == ["v001", "v002", "v004", "v005", "v007", "v008"]
    code, text, _ = fsar_store("export", path, "--out", tmp_path / "flat.safetensors", "--tap", "pooled", "--quiet")
    assert code == 0
    assert (tmp_path / "flat.safetensors").exists()


def test_a_difference_without_a_number_is_null_in_json(fsar_store, path: Path, tmp_path: Path) -> None:
    other, rows = tmp_path / "other.zarr", samples.videos()
    with samples.open_sample(other, rows) as writer:
        while (chunk := writer.claim()) is not None:
            data = samples.chunk_data(chunk, rows)
            data.features["map"][:] = float("nan")
            writer.commit(chunk, data)
        writer.seal()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    code, text, _ = fsar_store("compare", path, other, "--json")
    assert code == 1
    assert json.loads(text, parse_constant=refuse)["taps"]["map"]["max_abs_difference"] is None
    assert "largest difference inf in v000" in fsar_store("compare", path, other)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nowhere.zarr"], "error: no store at nowhere.zarr"),
        (["verify", "nowhere.h5"], "error: no store at nowhere.h5"),
        (["seal", "nowhere.h5"], "error: no store at nowhere.h5"),
        (["info", "store.npz"], "must end in .h5 or .zarr"),
        (["retry", "nowhere.zarr"], "error: no store at nowhere.zarr"),
        (["compare", "nowhere.zarr", "b.zarr"], "error: no store at nowhere.zarr"),
        (["export", "nowhere.zarr", "--out", "b.h5"], "error: no store at nowhere.zarr"),
        (["add", "nowhere.zarr", "nothing.csv"], "nothing.csv"),
        (["merge", "a.zarr", "--out", "b.zarr"], "no store at a.zarr"),
    ],
)
def test_mistakes_are_one_line(fsar_store, arguments: list[str], message: str) -> None:
    code, _, error = fsar_store(*arguments)
    assert code == 1
    assert message in error
    assert len(error.splitlines()) == 1


def test_mistakes_with_stores_that_are_there_are_one_line_too(fsar_store, path: Path, tmp_path: Path) -> None:
    other = tmp_path / f"other{path.suffix}"
    shape = {"n_views": samples.N_VIEWS, "n_slots": samples.N_SLOTS}
    recipe = samples.RECIPE | {"sampler": "dense", "mean": [0, 0]}
    rows = samples.videos(2, prefix="x")
    with create_store(other, videos=rows, taps=samples.TAPS, recipe=recipe, **shape) as writer:
        samples.fill(writer)
        writer.seal()
    (tmp_path / "taken.zarr").mkdir()
    (tmp_path / "taken.zarr" / "thesis.tex").touch()
    (tmp_path / "flat.safetensors").touch()
    catalog = tmp_path / "catalog.csv"
    catalog.write_text("nonsense\n")
    new = tmp_path / "new.zarr"
    mistakes = {
        "did you mean pooled": ["export", path, "--out", new, "--tap", "poled"],
        "unknown split part 'tset': did you mean test": ["export", path, "--out", new, "--part", "tset"],
        "unknown class 'class 9'": ["export", path, "--out", new, "--class", "class 9"],
        "holds another recipe (mean": ["export", path, "--out", other, "--part", "test"],
        "is one of the stores to copy from": ["export", path, "--out", path],
        "exists and is not a store of fsar": ["export", path, "--out", tmp_path / "taken.zarr"],
        "flat.safetensors exists": ["export", path, "--out", tmp_path / "flat.safetensors"],
        "must end in .h5 or .zarr": ["export", path, "--out", tmp_path / "new.npz"],
        "differ in mean: [0.5, 0.25] != [0, 0]; sampler: 'uniform-center' != 'dense'": [
            "merge", path, other, "--out", new
        ],
        "merging needs at least two stores": ["merge", path, "--out", new],
        "catalog.csv": ["add", path, catalog],
        f"did you mean {path.name}": ["info", tmp_path / f"sampel{path.suffix}"],
    }  # fmt: skip
    for message, arguments in mistakes.items():
        code, _, error = fsar_store(*arguments, *(["--quiet"] if arguments[0] in ("export", "merge") else []))
        assert code == 1, message
        assert message in error
        assert len(error.splitlines()) == 1, error
    assert not new.exists()


def test_a_missing_option_is_a_usage_error(fsar_store, path: Path) -> None:
    assert fsar_store("export", path)[0] == 2


def test_every_command_has_help_with_an_example() -> None:
    for name, command in cli.store.commands.items():
        assert command.help, name
        assert "\b" in command.help, name
        assert "Example" in command.help, name
