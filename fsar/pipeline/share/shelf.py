"""What a group has: the stores in a folder or below an address, and which of them fits a purpose."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsar.errors import InputError
from fsar.files import read_plain
from fsar.pipeline.share.address import Address, parse_address, shared_suffixes
from fsar.pipeline.share.download import read_small, with_patience
from fsar.pipeline.share.file_transport import local_path
from fsar.pipeline.share.transport import open_transport
from fsar.pipeline.share.upstream import LATEST_FILE, MAX_POINTER_BYTES, Upstream, open_upstream, read_pointer
from fsar.pipeline.store import STATUS_FAILED, recipe_id
from fsar.pipeline.store.format.files import VIDEOS_FILE
from fsar.pipeline.store.partial import listed_cells
from fsar.splits import load_split, match_videos

N_AT_ONCE = 8
MAX_CONFIG_BYTES = 16 << 20
RUN_PATTERNS = ("*/config.json", "*/*/config.json", "*/*/*/config.json")
"""Where run folders lie below a folder of stores: runs/NAME, NAME, or runs/NAME/seed-N."""
PARTS = ("train", "val", "test", "")


@dataclass(frozen=True)
class OnShelf:
    """One store."""

    name: str
    address: str
    """Pinned; the path for a store on this disk."""
    identity: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    taps: Mapping[str, Any] = field(default_factory=dict)
    """Tap -> shape and dtype of a frame."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Split part -> videos that hold features."""
    n_failed: int = 0
    n_bytes: int = 0
    pushed: str = ""
    """When it was pushed, or last changed on this disk; empty: unknown."""
    n_versions: int = 1
    runs: Sequence[str] = ()
    """Run folders beside it that were trained on it."""
    frames: str = ""
    """How a pack's frames were made; empty for a store of features."""
    problem: str = ""
    """Why it cannot be read; the fields above are empty then."""

    @property
    def recipe_line(self) -> str:
        """The recipe in one line, or how the frames of a pack were made."""
        return self.frames or recipe_line(self.recipe)

    @property
    def where(self) -> Path | Address:
        """What opens it."""
        return parse_address(self.address) if "://" in self.address else Path(self.address)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        is_store = bool(self.identity and not self.frames)
        known = {"recipe_id": recipe_id(self.recipe), "recipe_line": self.recipe_line} if is_store else {}
        return {**vars(self), "recipe": dict(self.recipe), "parts": dict(self.parts), "runs": list(self.runs), **known}


def recipe_line(recipe: Mapping[str, Any]) -> str:
    """Return a recipe in one line: backbone, frames and sampler, pixels, arithmetic, and a few digits of its hash."""
    backbone = backbone_name(recipe)
    frames = f"{recipe.get('n_slots', '?')} frames {recipe.get('sampler', '?')}"
    views = f" x {recipe['n_views']} views" if recipe.get("n_views", 1) != 1 else ""
    pixels = f"{recipe.get('size', '?')} px"
    return f"{backbone}, {frames}{views}, {pixels}, {recipe.get('precision', '?')}, recipe {recipe_id(recipe)[:8]}"


def backbone_name(recipe: Mapping[str, Any]) -> str:
    """Return the backbone of a recipe as `fsar-prep encode --backbone` takes it."""
    library, name, tag = (str(recipe.get(key, "")) for key in ("library", "backbone", "pretrained"))
    if not library:
        return name or "?"
    return f"random:{library}/{name}" if tag.startswith("random") else f"{library}:{name}/{tag}"


def place_of(where: str | Path | Address) -> Address:
    """Return the address of a shelf: a folder on this disk is one, too."""
    if isinstance(where, Address):
        return where
    if "://" in str(where):
        return parse_address(str(where))
    path = Path(where).absolute()
    if not path.is_dir():
        raise InputError(f"{where} is no folder of stores")
    return parse_address(path.as_uri())


def list_shelf(where: str | Path | Address) -> list[OnShelf]:
    """Return the stores in a folder, by name; the finished ones are described, the others say what is wrong.

    Raises:
        InputError: there is no such folder, or its server does not list it.
    """
    place = place_of(where)
    names = _store_names(place)
    runs = _runs(place)
    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        return list(pool.map(lambda name: _look(place.child(name), runs), names))


def stores_at(place: Path | Address) -> list[OnShelf]:
    """Return the stores of features on a shelf that can be read, or the one store that a place names."""
    if not place.name.endswith(shared_suffixes()):
        return [store for store in list_shelf(place) if not store.problem and not store.frames]
    return [look(place if isinstance(place, Address) else parse_address(place.absolute().as_uri()))]


def look(address: Address) -> OnShelf:
    """Return what is known of the store at an address, without any of its numbers."""
    return _describe(open_upstream(address), {})


def _store_names(place: Address) -> list[str]:
    if place.name.endswith(shared_suffixes()):
        raise InputError(f"{place} is a store, not a folder of stores: `fsar-store head` shows it")
    children = with_patience(lambda: open_transport(place).children(place.location))
    names = {child.rstrip("/") for child in children}
    return sorted(name for name in names if name.endswith(shared_suffixes()))


def _look(address: Address, runs: Mapping[str, list[str]]) -> OnShelf:
    try:
        return _describe(open_upstream(address), runs)
    except (InputError, OSError) as error:
        return OnShelf(address.name, _shown(address), problem=" ".join(str(error).split()))


def _describe(source: Upstream, runs: Mapping[str, list[str]]) -> OnShelf:
    cells = listed_cells(source.documents[VIDEOS_FILE], ("part", "status"), str(source.address))
    failed = sum(status == str(STATUS_FAILED) for _, status in cells)
    counts = Counter(part for part, status in cells if status != str(STATUS_FAILED))
    ordered = [part for part in PARTS if part in counts] + sorted(counts.keys() - set(PARTS))
    pushed, n_versions = _history(source)
    users = [*runs.get(source.identity, ()), *runs.get(_shown(source.address.pinned("")), ())]
    return OnShelf(
        name=source.name,
        address=_shown(source.address if source.folder != source.address.parent else source.address.pinned("")),
        identity=source.identity,
        recipe=source.contents.recipe,
        taps={name: {"shape": list(tap.shape), "dtype": tap.dtype} for name, tap in source.contents.taps.items()},
        parts={part: counts[part] for part in ordered},
        n_failed=failed,
        n_bytes=source.n_bytes,
        pushed=pushed,
        n_versions=n_versions,
        runs=sorted(set(users)),
        frames=source.contents.frames,
    )


def _history(source: Upstream) -> tuple[str, int]:
    """Return when a store was pushed and how many versions there are; what a plain folder does not tell stays open."""
    if source.folder == source.address.parent:
        return "", 1
    location = source.address.location
    pointer = read_small(source.transport, f"{location}/{LATEST_FILE}", max_bytes=MAX_POINTER_BYTES)
    pushed = read_pointer(pointer, str(source.address)).get("pushed", "") if pointer else ""
    try:
        children = source.transport.children(location)
    except InputError:  # a server that lists nothing
        return str(pushed), 1
    return str(pushed)[:40], max(1, sum(len(child.rstrip("/")) == 64 for child in children))


def _shown(address: Address) -> str:
    """Return an address, or the path where it is on this disk."""
    return str(local_path(address.location)) if address.scheme == "file" and not address.pin else str(address)


def _runs(place: Address) -> dict[str, list[str]]:
    """Return identity or path of a store -> run folders beside it that read it; nothing for another machine's."""
    found: dict[str, list[str]] = {}
    if place.scheme != "file":
        return found
    folder = local_path(place.location)
    for path in sorted(path for pattern in RUN_PATTERNS for path in folder.glob(pattern)):
        try:
            store = json.loads(read_plain(path, MAX_CONFIG_BYTES)).get("store")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if isinstance(store, str):
            key = store.rpartition("#sha256=")[2] if "#sha256=" in store else str(_resolved(store, path.parent))
            found.setdefault(key, []).append(str(path.parent.relative_to(folder)))
    return found


def _resolved(store: str, run: Path) -> Path:
    """Return the path that a run names, which was relative to wherever the run was started."""
    path = Path(store)
    if path.is_absolute():
        return path
    beside = [folder / path for folder in run.parents if (folder / path).exists()]
    return beside[0].resolve() if beside else path.absolute()


@dataclass(frozen=True)
class Wish:
    """What somebody would like to have encoded."""

    backbone: str = ""
    """As `encode --backbone` takes it, or part of it."""
    taps: Sequence[str] = ()
    split: str = ""
    n_slots: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class Match:
    """A store that fits a wish."""

    store: OnShelf
    n_found: int
    """Videos of the split, or of the store, that hold features."""
    n_wanted: int
    """Videos of the split, or of the store."""


def find(where: str | Path | Address, wish: Wish) -> list[Match]:
    """Return the stores of a shelf that fit, those with the most of the wanted videos first."""
    found = [(store, _match(store, wish)) for store in list_shelf(where) if not store.problem and not store.frames]
    return sorted((match for _, match in found if match), key=lambda match: -match.n_found)


def _match(store: OnShelf, wish: Wish) -> Match | None:
    recipe = store.recipe
    fits = (
        _same_backbone(wish.backbone, backbone_name(recipe))
        and set(wish.taps) <= store.taps.keys()
        and wish.n_slots in (None, recipe.get("n_slots"))
        and wish.size in (None, recipe.get("size"))
    )
    if not fits:
        return None
    n_ok = sum(store.parts.values())
    if not wish.split:
        return Match(store, n_ok, n_ok + store.n_failed)
    split = load_split(wish.split)
    place = store.where
    source = open_upstream(place if isinstance(place, Address) else parse_address(place.absolute().as_uri()))
    cells = listed_cells(source.documents[VIDEOS_FILE], ("video_id", "class", "status"), store.address)
    places = match_videos(split, [(video_id, name) for video_id, name, _ in cells]).places
    held = sum(place is not None and cell[2] != str(STATUS_FAILED) for place, cell in zip(places, cells, strict=True))
    wanted = sum(place is not None for place in places)
    listed = [videos for classes in split.parts.values() for videos in classes.values()]
    if all(videos is not None for videos in listed):  # a split may name whole classes
        wanted = sum(len(videos) for videos in listed if videos is not None)
    return Match(store, held, wanted) if held else None


def _same_backbone(wanted: str, name: str) -> bool:
    """Return whether a backbone is the wanted one, which may be named in part: ViT-B-16, open_clip:ViT-B-16."""
    pieces = name.replace(":", "/").split("/")
    asked = wanted.replace(":", "/").split("/") if wanted else []
    return any(pieces[start : start + len(asked)] == asked for start in range(len(pieces) + 1))
