"""A store is hostile input: nothing outside of it is touched, nothing hangs, nothing it says steers a terminal."""

import contextlib
import io
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from fsar.pipeline.store import (
    ChunkData,
    TapSpec,
    TextTable,
    VideoRow,
    create_store,
    extend_store,
    write_text,
)
from tests.pipeline.backbone_helpers import add_tiny_clips
from tests.pipeline.store.hostile import BOTH, HDF5, QUIET, SECRET, ZARR, Forge
from tests.pipeline.store.samples import bytes_of

SECONDS = 100
"""Longer than any of the commands takes on these stores of twelve videos, with torch to import on a busy machine."""


def rows(prefix: str = "v") -> list[VideoRow]:
    parts = ["train"] * 6 + ["test"] * 6
    return [VideoRow(f"{prefix}{row:02d}", f"{part} {row % 2}", part, f"{row}.webm") for row, part in enumerate(parts)]


def write_store(path: Path, videos: list[VideoRow]) -> Path:
    with create_store(
        path,
        videos=videos,
        taps={"pooled": TapSpec((4,))},
        n_views=1,
        n_slots=2,
        recipe={"backbone": "x"},
        chunk_rows=4,
    ) as writer:
        fill(writer)
        writer.seal()
    write_text(path, TextTable("t", np.ones((1, 1, 4), np.float32), ("walk",), ("{}",)))
    return path


def fill(writer: Any) -> None:
    while (chunk := writer.claim()) is not None:
        n = len(chunk.rows)
        features = np.random.default_rng(chunk.index).standard_normal((n, 1, 2, 4)).astype(np.float16)
        writer.commit(
            chunk,
            ChunkData(
                {"pooled": features},
                np.zeros((n, 1, 2), np.int32),
                np.zeros((n, 1, 2)),
                np.array([2 if row == 5 else 1 for row in chunk.rows], np.uint8),
                np.full(n, 40, np.int32),
                np.zeros((n, 32), np.uint8),
                [(row, "empty", "no bytes") for row in chunk.rows if row == 5],
            ),
        )


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, no waiting between tries, no flushes."""
    monkeypatch.setenv("FSAR_CACHE", str(tmp_path / "out" / "cache"))
    monkeypatch.setattr("fsar.pipeline.share.download.BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="session", autouse=True)
def _tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> None:
    add_tiny_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid stores, written once."""
    folder = tmp_path_factory.mktemp("valid")
    for suffix in (".zarr", ".h5"):
        write_store(folder / f"s{suffix}", rows())
    write_store(folder / "other.zarr", rows("w"))
    (folder / "catalog.csv").write_text("video_id,class,part,path\nnew,test 0,test,new.webm\n")
    return folder


@contextlib.contextmanager
def within_seconds(seconds: int) -> Iterator[None]:
    def ended(number: int, frame: FrameType | None) -> None:
        raise BaseException("the command hangs")

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


_watched: list[str] = []
_opened: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event == "open" and isinstance(arguments[0], str | bytes):
        if arguments[2] & os.O_NOFOLLOW and os.path.islink(arguments[0]):
            return  # that fails
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(_watched[0]):
            _opened.append(path)


sys.addaudithook(_watch)


def ask(command: str, *arguments: object) -> tuple[int, str]:
    """Run a command of ours in this process; return its exit code and all that it printed."""
    import importlib

    module = importlib.import_module(f"fsar.cli.{command}")
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        patch.setattr(sys, "argv", [command, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended, within_seconds(SECONDS):
            module.main()
    return int(ended.value.code or 0), text.getvalue()


def commands(path: Path, valid: Path, out: Path) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield every command that opens a store."""
    yield "store", ("info", path)
    yield "store", ("verify", path, "--quiet")
    yield "store", ("compare", path, valid / "s.zarr")
    yield "store", ("export", path, "--out", out / "o.zarr", "--quiet")
    yield "store", ("export", path, "--out", out / "o.h5", "--quiet")
    yield "store", ("export", path, "--out", out / "o.safetensors", "--quiet")
    yield "store", ("merge", path, valid / "other.zarr", "--out", out / "m.zarr", "--quiet")
    small = ("--store", path, "--way", 2, "--device", "cpu", "--quiet")
    yield (
        "train_head",
        ("proto", *small, "--query", 1, "--steps", 1, "--val-episodes", 0, "--no-test", "--out", out / "r"),
    )
    yield "eval_head", ("otam", *small, "--shot", 1, "--query", 1, "--episodes", 5)
    yield "store", ("push", path, (out / "shelf").as_uri(), "--quiet")
    yield "store", ("list", path.parent)
    yield "store", ("find", path.parent, "--tap", "pooled")
    yield "store", ("report", path, "--out", out / "page.html", "--quiet")
    address = path.absolute().as_uri()
    yield "store", ("pull", address, "--out", out / f"p{path.suffix}", "--quiet")
    yield "store", ("pull", address, "--out", out / f"q{path.suffix}", "--part", "test", "--quiet")
    yield "store", ("head", address)
    yield "store", ("info", address)
    yield "store", ("verify", address, "--quiet")
    yield "store", ("export", address, "--out", out / "a.h5", "--quiet")
    yield "eval_head", ("otam", "--store", address, *small[2:], "--shot", 1, "--query", 1, "--episodes", 5)
    encoder = ("--encoder", "random:open_clip/tiny-vit", "--allow-mismatch", "--templates", "plain")
    yield "prep", ("text", path, *encoder, "--table", "hostile")
    small_encode = ("--backbone", "random:timm/test_resnet", "--frames", 1, "--size", 32, "--jobs", 0)
    yield "prep", ("encode", valid / "catalog.csv", *small_encode, "--out", out / "e.zarr", "--reuse", path)
    yield "store", ("retry", path, "--allow-losses")
    yield "store", ("add", path, valid / "catalog.csv", "--device", "cpu")
    yield "store", ("seal", path)


def library(path: Path) -> Iterator[Callable[[], object]]:
    """Yield what writes into a store without a command."""

    def grow() -> None:
        with extend_store(path, [*rows(), VideoRow("new", "test 0", "test", "new.webm")]) as writer:
            fill(writer)
            writer.seal()

    yield lambda: write_text(path, TextTable("more", np.ones((1, 1, 4), np.float32), ("walk",), ("{}",)))
    yield grow


def forged(attack: Callable[[Forge], object], valid: Path, folder: Path, suffix: str) -> Forge:
    folder.mkdir()
    forge = Forge(folder / f"s{suffix}", folder / "outside")
    for part in valid.glob(f"s{suffix}*"):  # under the same name, or HDF5 would want its links mended
        shutil.copytree(part, folder / part.name) if part.is_dir() else shutil.copyfile(part, folder / part.name)
    (forge.outside).mkdir()
    (forge.outside / "victim").write_bytes(SECRET)
    import h5py

    with h5py.File(forge.outside / "private.h5", "w") as file:
        file["x"], file["status"] = np.full((1, 1, 8), 7.5, np.float32), np.ones(12, np.uint8)
    attack(forge)
    return forge


CASES = [
    *((name, suffix, attack) for suffix in (".zarr", ".h5") for name, attack in BOTH.items()),
    *((name, ".zarr", attack) for name, attack in ZARR.items()),
    *((name, ".h5", attack) for name, attack in HDF5.items()),
]


SOME = [case for case in CASES if case[0] not in BOTH or list(BOTH).index(case[0]) % 2 == (case[1] == ".h5")]
"""Every attack on one format."""


def cases(chosen: list[Any]) -> pytest.MarkDecorator:
    named = [pytest.param(*case, id=f"{case[0]!a}{case[1]}") for case in chosen]
    return pytest.mark.parametrize(("name", "suffix", "attack"), named)


@cases(SOME)
def test_attack(name: str, suffix: str, attack: Callable[[Forge], object], templates: Path, tmp_path: Path) -> None:
    """Verify, and three more of the commands and functions: which ones changes from attack to attack."""
    check(name, suffix, attack, templates, tmp_path, n_tried=3)


@pytest.mark.slow
@cases(CASES)
def test_attack_on_every_command(
    name: str, suffix: str, attack: Callable[[Forge], object], templates: Path, tmp_path: Path
) -> None:
    check(name, suffix, attack, templates, tmp_path, n_tried=100)


def check(
    name: str, suffix: str, attack: Callable[[Forge], object], templates: Path, tmp_path: Path, *, n_tried: int
) -> None:
    forge = forged(attack, templates, tmp_path / "a", suffix)
    outside = bytes_of(forge.outside)
    names_outside = sorted(path.name for path in forge.outside.rglob("*"))
    out = tmp_path / "out"
    out.mkdir()
    _watched[:], _opened[:] = [os.path.realpath(forge.outside)], []
    try:
        every = [*commands(forge.path, templates, out), *library(forge.path)]
        draw = random.Random(name + suffix)
        for number, action in enumerate([every[1], *draw.sample(every, min(n_tried, len(every)))]):
            if callable(action):
                with within_seconds(SECONDS), contextlib.suppress(ValueError, OSError):
                    action()
                continue
            command, arguments = action
            code, text = ask(command, *arguments)
            said = f"{command} {arguments[0]}: exit code {code}: {text}"
            assert code in (0, 1), said
            assert "Traceback" not in text, said
            assert all(character.isprintable() or character in "\n\t" for character in text), said
            assert not any(line.startswith("sample.zarr") for line in text.splitlines()), said
            if number == 0 and name not in QUIET:
                assert code == 1, said
    finally:
        _watched.clear()
    assert not _opened
    assert bytes_of(forge.outside) == outside
    assert sorted(path.name for path in forge.outside.rglob("*")) == names_outside
    assert not any(SECRET in data for data in bytes_of(out).values())
    assert not any(np.float32(7.5).tobytes() * 8 in data for data in bytes_of(out).values())


def test_the_valid_stores_pass_every_command(templates: Path, tmp_path: Path) -> None:
    """Without this an attack could pass because the commands fail on anything."""
    for suffix in (".zarr", ".h5"):
        forge = forged(lambda forge: None, templates, tmp_path / suffix[1:], suffix)
        for command, arguments in commands(forge.path, templates, tmp_path / suffix[1:]):
            code, text = ask(command, *arguments)
            assert code == (1 if arguments[0] in ("compare", "add", "seal", "encode") and code else 0), text
