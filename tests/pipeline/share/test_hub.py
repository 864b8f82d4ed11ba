"""What only the Hub has: commits, a card, a token, full folders."""

from pathlib import Path

import pytest

import fsar
from fsar.errors import InputError
from fsar.pipeline.share import hub as hub_module
from fsar.pipeline.share import parse_address, push
from fsar.pipeline.share.card import dataset_card
from fsar.pipeline.share.transport import open_transport
from fsar.pipeline.store.format.files import StoreFiles
from tests.pipeline.share.conftest import shared_sample
from tests.pipeline.share.hub_server import TOKEN, HubServer, running_hub

pytest.importorskip("huggingface_hub", reason="the extra `remote` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")  # inside huggingface_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    (tmp_path / "hub").mkdir()
    with running_hub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def test_the_last_commit_brings_manifest_pointer_and_card(hub: HubServer, tmp_path: Path) -> None:
    store = shared_sample(tmp_path / "mine.zarr")
    report = push(store, parse_address("hf://datasets/team/features"))
    *_, last = hub.commits
    assert sorted(Path(name).name for name in last) == ["README.md", "latest.json", "manifest.json"]
    assert not any(name.endswith("manifest.json") for names in hub.commits[:-1] for name in names)
    card = (hub.folder / "team" / "features" / "README.md").read_text()
    assert f'fsar.open_store("hf://datasets/team/features/mine.zarr#sha256={report.identity}")' in card
    assert "| train | 4 | 3 |" in card
    assert "empty 1" in card
    assert "license:" in card
    assert TOKEN not in card


def test_the_snippets_of_the_card_run(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    store = shared_sample(tmp_path / f"mine{suffix}")
    card = dataset_card(StoreFiles.at(store), f"{tmp_path.as_uri()}/mine{suffix}/{'0' * 64}/mine{suffix}/manifest.json")
    with_fsar, without = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(without, names)
    assert names["features"].shape == (2, 2, 4, *fsar.open_store(store).taps["map"].shape)  # type: ignore[attr-defined]
    address = re.search(r'"(file.*?)"', with_fsar)
    assert address
    assert address[1].endswith(f"/mine{suffix}#sha256={'0' * 64}")


def test_the_token_stays_with_the_hub(hub: HubServer, tmp_path: Path) -> None:
    store = shared_sample(tmp_path / "mine.h5")
    address = push(store, parse_address("hf://datasets/team/features")).address
    fsar.open_store(address).load("map")
    assert hub.storage.headers
    assert not any("Authorization" in headers for headers in hub.storage.headers)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert TOKEN.encode() not in kept
    assert b"SIGNED" not in kept


def test_without_a_token_the_error_says_where_it_comes_from(hub: HubServer, tmp_path: Path, monkeypatch) -> None:
    store = shared_sample(tmp_path / "mine.zarr")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(OSError, match="HF_TOKEN") as error:
        push(store, parse_address("hf://datasets/team/features"))
    assert "hf_wrong" not in str(error.value)


def test_addresses_and_full_folders(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="hf://datasets/OWNER/REPOSITORY"):
        open_transport(parse_address("hf://models/team/x.zarr"))
    monkeypatch.setattr(hub_module, "MAX_FILES_OF_FOLDER", 3)
    with pytest.raises(InputError, match="one folder of this store has"):
        push(shared_sample(tmp_path / "mine.zarr"), parse_address("hf://datasets/team/features"))
