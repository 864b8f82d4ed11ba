"""What a power cut, a torn file, a second writer or an exchanged manifest may not do."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from fsar.errors import InputError
from fsar.pipeline.store import open_store
from fsar.pipeline.store.format.identity import checked_json
from fsar.pipeline.store.journal import publish as publishing
from fsar.pipeline.store.verify import verify
from tests.pipeline.store import samples
from tests.pipeline.store.samples import bytes_of, fill, write_sample


def home(path: Path) -> Path:
    return path if path.suffix == ".zarr" else path.with_name(path.name + ".parts")


class TestManifest:
    @pytest.mark.parametrize("name", ["store.json", "videos.csv"])
    def test_one_of_another_state_is_refused(self, sealed: Path, name: str) -> None:
        manifest = home(sealed) / "manifest.json"
        data = json.loads(manifest.read_bytes())
        del data["sha256"]
        data["files"][name]["sha256"] = "0" * 64
        manifest.write_bytes(checked_json(data))
        with pytest.raises(InputError, match="has a manifest of another state: run `fsar-store verify"):
            open_store(sealed)

    def test_that_of_another_store_is_refused(self, sealed: Path, tmp_path: Path) -> None:
        other = write_sample(tmp_path / f"other{sealed.suffix}", samples.videos(10, prefix="w"))
        shutil.copyfile(home(other) / "manifest.json", home(sealed) / "manifest.json")
        with pytest.raises(InputError, match="has a manifest of another state"):
            open_store(sealed)


class Crash(Exception):
    """The process ends here."""


def crash(*arguments: Any, **options: Any) -> None:
    raise Crash


class TestTornFile:
    @pytest.mark.parametrize("keep", [0.0, 0.5])
    def test_what_was_cut_while_it_waited_is_computed_anew(self, path: Path, tmp_path: Path, keep: float) -> None:
        """Announced, then a crash that costs a staged file its end: nothing of it may take its place."""
        whole = write_sample(tmp_path / "whole" / path.name)
        with samples.open_sample(path) as writer, pytest.MonkeyPatch.context() as patch:
            patch.setattr(publishing, "redo", crash)
            with pytest.raises(Crash):
                fill(writer)
        intent = json.loads((home(path) / "journal/000000.000003.intent").read_bytes())
        for name in intent["steps"][0]:
            staged = home(path) / "staging" / intent["staging"] / name
            os.truncate(staged, int(keep * staged.stat().st_size))
        with samples.open_sample(path) as writer:
            while (chunk := writer.claim()) is not None:
                assert chunk.index == 0 or not (home(path) / "journal/000000.000003.intent").exists()
                writer.commit(chunk, samples.chunk_data(chunk, writer.videos))
            writer.seal()
        assert bytes_of(path.parent) == bytes_of(whole.parent)
        assert verify(path).problems == []


class TestRace:
    def test_the_first_of_two_writers_wins_whenever_the_second_comes(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second has staged its chunk and found no intent; the first publishes; then the second goes on."""
        slow, fast = samples.open_sample(path), samples.open_sample(path)
        chunk = slow.claim()
        assert chunk is not None
        mine, results = samples.chunk_data(chunk, slow.videos), []
        mine.features = {tap: array + 1 for tap, array in mine.features.items()}
        create, publish = publishing.create_exclusive, publishing.publish

        def first_the_other(intent: Path, data: bytes, temporary: Path) -> bool:
            if intent.suffix == ".intent" and not results:
                results.append("the other")
                fast.commit(chunk, samples.chunk_data(chunk, fast.videos))
                before.update(bytes_of(path.parent))
            return create(intent, data, temporary)

        def seen(*arguments: Any, **options: Any) -> bool:
            results.append(publish(*arguments, **options))
            return bool(results[-1])

        before: dict[str, bytes] = {}
        monkeypatch.setattr(publishing, "create_exclusive", first_the_other)
        monkeypatch.setattr("fsar.pipeline.store.writer.publish", seen)
        slow.commit(chunk, mine)
        assert results == ["the other", True, False]
        after = bytes_of(path.parent)
        assert {name: data for name, data in before.items() if "staging" not in name and "claims" not in name} == {
            name: data for name, data in after.items() if "claims" not in name
        }
        assert not list(home(path).rglob("*.intent"))
        assert (
            open_store(path, allow_unsealed=True).read("map", [0]).tobytes() == samples.expected("map")[:1, 0].tobytes()
        )
        slow.close()
        fast.close()

    def test_what_a_dying_second_writer_announced_is_dropped(self, path: Path, tmp_path: Path) -> None:
        """It comes after the record of the first, and dies before it has seen that: other bytes must not replace it."""
        whole = write_sample(tmp_path / "whole" / path.name)
        slow, fast = samples.open_sample(path), samples.open_sample(path)
        chunk = slow.claim()
        assert chunk is not None
        others = samples.chunk_data(chunk, slow.videos)
        others.features = {tap: array + 1 for tap, array in others.features.items()}
        create = publishing.create_exclusive

        def last_act(intent: Path, data: bytes, temporary: Path) -> bool:
            patch.undo()
            fast.commit(chunk, samples.chunk_data(chunk, fast.videos))
            assert create(intent, data, temporary)
            raise Crash

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publishing, "create_exclusive", last_act)
            with pytest.raises(Crash):
                slow.commit(chunk, others)
        assert list(home(path).rglob("*.intent"))
        fill(fast)
        fast.seal()
        fast.close()
        slow.close()
        assert bytes_of(path.parent) == bytes_of(whole.parent)
        assert verify(path).problems == []


class TestPowerCut:
    def test_nothing_takes_its_place_before_it_is_on_the_disk(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every file is flushed before the rename or link that shows it, and every folder after its last rename."""
        synced: set[tuple[int, int]] = set()
        unsynced_folders: set[str] = set()
        announced_in: set[str] = set()
        n_renamed = 0

        def identity(found: os.stat_result) -> tuple[int, int]:
            return found.st_dev, found.st_ino

        def fsync(descriptor: int) -> None:
            synced.add(identity(os.fstat(descriptor)))
            unsynced_folders.discard(os.path.realpath(f"/proc/self/fd/{descriptor}"))

        def shows(original: Any) -> Any:
            """Watch what makes a file appear; a rename out of staging also needs an intent that is on the disk."""

            def step(source: Any, target: Any, *arguments: Any, **options: Any) -> Any:
                nonlocal n_renamed
                if "claims" not in str(target):  # a lost claim costs nobody anything
                    assert identity(os.stat(source)) in synced, f"{target} was not flushed"
                    assert "staging" not in str(source) or not announced_in & unsynced_folders
                    folder = os.path.realpath(os.path.dirname(target))
                    unsynced_folders.add(folder)
                    announced_in.add(folder) if str(target).endswith(".intent") else announced_in.clear()
                    n_renamed += 1
                return original(source, target, *arguments, **options)

            return step

        def unlink(file: Any, *arguments: Any, **options: Any) -> None:
            if str(file).endswith(".intent"):  # from here on nobody would repeat the renames
                assert not unsynced_folders, f"the intent goes before {unsynced_folders} were flushed"
            original_unlink(file, *arguments, **options)

        original_unlink = os.unlink
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", shows(os.replace))
        monkeypatch.setattr(os, "link", shows(os.link))
        monkeypatch.setattr(os, "unlink", unlink)
        write_sample(path)
        assert n_renamed > 20
        assert not unsynced_folders
