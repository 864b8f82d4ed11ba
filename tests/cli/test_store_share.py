"""`fsar-store push`, `pull`, `list`, `find`, `head`, `cache` and the switches of addresses, from the outside."""

import json
import os
import sys
from pathlib import Path

import pytest

from fsar.cli import prep, store
from tests.pipeline.share.conftest import packed_sample, shared_sample
from tests.pipeline.share.test_pull import same_bytes


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FSAR_ALLOW_HTTP", "")
    monkeypatch.delenv("FSAR_SHELF", raising=False)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return shared_sample(tmp_path / "sample.zarr")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object, main=store.main) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fsar", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err  # type: ignore[return-value]

    return run


def test_a_pack_goes_round(call, tmp_path: Path) -> None:
    pack, shelf = packed_sample(tmp_path / "made"), (tmp_path / "shelf").as_uri()
    code, text, _ = call("push", pack, shelf, "--dry-run")
    assert (code, "nothing sent" in text, (tmp_path / "shelf").exists()) == (0, True, False)
    code, text, _ = call("push", pack, shelf, "--quiet")
    address = text.splitlines()[0]
    assert (code, address.startswith(f"{shelf}/sample.frames#sha256=")) == (0, True)
    for command in ("list", "head", "info", "verify"):
        code, text, _ = call(command, shelf if command == "list" else address)
        assert code == 0, text
        assert "sample.frames" in text
        assert ("3 frames by uniform-center" in text) == (command != "verify")
    code, text, _ = call("pull", address, "--quiet")
    assert (code, text.startswith("sample.frames: the whole pack of")) == (0, True)
    assert same_bytes(pack, tmp_path / "sample.frames")
    code, text, _ = call("pull", address, "--class", "class0", "--out", "b.frames", "--quiet")
    assert (code, text.startswith("b.frames: a partial copy of")) == (0, True)
    for command in ("info", "verify"):
        code, text, _ = call(command, "b.frames")
        assert (code, f"a partial copy of {address}" in text) == (0, True)
    code, _, error = call("export", address, "--out", "c.zarr")
    assert (code, "is a pack of frames" in error) == (1, True)
    assert call("find", shelf)[0] == 1


def test_a_store_goes_round(call, mine: Path, tmp_path: Path) -> None:
    shelf = (tmp_path / "shelf").as_uri()
    code, text, _ = call("push", mine, shelf, "--dry-run")
    assert code == 0
    assert "nothing sent" in text
    assert not (tmp_path / "shelf").exists()
    code, text, _ = call("push", mine, shelf, "--quiet")
    address = text.splitlines()[0]
    assert code == 0
    assert address.startswith(f"{shelf}/sample.zarr#sha256=")
    code, text, _ = call("push", mine, shelf, "--quiet", "--json")
    assert (code, json.loads(text)["files"], json.loads(text)["address"]) == (0, 0, address)

    code, text, _ = call("list", shelf)
    assert code == 0
    assert address in text
    assert "videos train 4, test 5; 1 failed" in text
    code, text, _ = call("list", tmp_path / "shelf", "--json")
    assert [item["name"] for item in json.loads(text)["stores"]] == ["sample.zarr"]
    code, text, _ = call("head", address)
    assert code == 0
    assert "taps map [3, 2, 2] float32, pooled [6] float16" in text
    code, text, _ = call("find", shelf, "--backbone", "tiny", "--tap", "map")
    assert code == 0
    assert text.startswith(f"9 of 10 videos: {address}")
    code, text, _ = call("find", shelf, "--tap", "tokens.3", "--json")
    assert (code, json.loads(text)["matches"]) == (1, [])

    code, text, _ = call("pull", address, "--out", "copy.zarr", "--quiet")
    assert code == 0
    assert "the whole store" in text
    assert same_bytes(mine, tmp_path / "copy.zarr")
    code, text, _ = call("pull", address, "--out", "part.zarr", "--part", "test", "--tap", "pooled", "--quiet")
    assert "a partial copy" in text

    for command in ("info", "verify"):
        code, text, _ = call(command, address, *(["--quiet"] if command == "verify" else []))
        assert code == 0, text
    code, text, _ = call("compare", mine, address)
    assert (code, text.splitlines()[0]) == (0, "equal")
    code, text, _ = call("cache")
    assert code == 0
    assert f"  {address}: " in text
    code, text, _ = call("cache", "--prune", "--days", 0, "--json")
    assert (code, len(json.loads(text)["removed"])) == (0, 1)
    assert call("cache", "--list")[1].startswith(f"{tmp_path}/cache: 0 stores")


def test_where_the_group_keeps_its_stores(call, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sample.zarr: " in call("list")[1]
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("FSAR_SHELF", str(tmp_path / "empty"))
    assert call("list")[:2] == (0, f"{tmp_path}/empty: no stores\n")
    assert call("find")[:2] == (1, f"{tmp_path}/empty: nothing fits\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["push", "nowhere.zarr", "file:///tmp/x"], 1, "no store at nowhere.zarr: did you mean"),
        (["push", "sample.zarr", "/tmp/x"], 2, "expected an address: https://"),
        (["push", "sample.zarr", "ftp://host/x"], 2, "unknown scheme of an address 'ftp'"),
        (["push", "sample.zarr", "file:///{here}/other.h5"], 1, "cannot be pushed as other.h5: name it NAME.zarr"),
        (["push", "sample.zarr", "https://me:secret@host/x"], 2, "holds a user or password"),
        (["pull", "file://{here}"], 1, "names no store"),
        (["pull", "file://{here}/none.zarr"], 1, "no finished store is there"),
        (["pull", "file://{here}/sample.zarr", "--out", "x.h5"], 1, "name the copy NAME.zarr"),
        (["pull", "file://{here}/sample.zarr", "--out", "x.zarr", "--tap", "poled"], 1, "did you mean pooled"),
        (["pull", "file://{here}/sample.zarr#sha256=" + "0" * 64, "--out", "x.zarr"], 1, "is another now"),
        (["list", "file://{here}/sample.zarr"], 1, "is a store, not a folder of stores"),
        (["list", "nowhere"], 1, "nowhere is no folder of stores"),
        (["find", "nowhere"], 1, "nowhere is no folder of stores"),
        (["find", "--split", "no-such"], 1, "no-such"),
        (["find", "--frames", "0"], 2, "--frames"),
        (["head", "file://{here}/none.h5"], 1, "no finished store is there"),
        (["head", "sample.zarr"], 2, "expected an address"),
        (["cache", "--list", "--prune"], 2, "not both"),
        (["cache", "--prune", "--days", "-1"], 2, "--days"),
        (["retry", "https://host/x.zarr"], 2, "`fsar-store pull https://host/x.zarr` copies one here"),
        (["export", "sample.zarr", "--out", "https://host/x.zarr"], 2, "a store is only written on this disk"),
        (["head", "http://data.lab.org/x.zarr"], 1, "is not encrypted: use https, or say --allow-http"),
    ],
)
def test_mistakes_are_one_line(call, mine: Path, tmp_path: Path, arguments, code: int, message: str) -> None:
    found, _, error = call(*(argument.replace("{here}", str(tmp_path)) for argument in arguments))
    assert found == code, error
    assert message in error
    assert "secret" not in error
    assert len([line for line in error.splitlines() if not line.startswith("note")]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["text", "https://host/x.zarr", "--encoder", "open_clip:ViT-B-16/openai"],
        ["encode", "catalog.csv", "--backbone", "random:timm/test_resnet", "--out", "https://host/x.zarr"],
    ],
)
def test_what_writes_into_a_store_says_what_to_do_with_an_address(call, arguments: list[str]) -> None:
    code, _, error = call(*arguments, main=prep.main)
    assert code == 2
    assert "`fsar-store pull https://host/x.zarr` copies one here, `fsar-store push` puts one there" in error


def test_plain_http_is_allowed_by_a_switch(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsar.pipeline.share.download.N_TRIES", 1)
    monkeypatch.setattr("socket.create_connection", refuse)
    code, _, error = call("head", "http://data.lab.org/x.zarr", "--allow-http")
    assert code == 1
    assert "Connection refused" in error
    assert os.environ["FSAR_ALLOW_HTTP"] == "1"


def refuse(*arguments: object, **options: object) -> None:
    raise ConnectionRefusedError(111, "Connection refused")
