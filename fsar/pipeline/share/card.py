"""The card of a repository that holds stores: what is in it, where it comes from, how to load it."""

from collections import Counter
from collections.abc import Sequence

from fsar.pipeline.store import STATUS_OK, VideoRow, open_store
from fsar.pipeline.store.format.files import StoreFiles

CARD_FILE = "README.md"
CARD = """---
license: other
license_name: unknown
license_link: LICENSE
pretty_name: {name}
tags:
- few-shot-learning
- video-classification
- features
---

# {name}

Features of {n_videos} videos, written by fsar. **Licence**: not stated; whoever shares features of a dataset names its
terms here and in the fields above.

| tap | of each video | type |
|---|---|---|
{taps}

| split part | videos | classes |
|---|---|---|
{parts}

{failures}

## Load it

With fsar, through a cache, verified:

```python
import fsar

store = fsar.open_store("{address}#sha256={identity}")
features = store.read("{tap}", [0, 1])
```

Without: download the folder `{folder}`, then

```python
{plain}
```

Row i of every array is line i of `videos.csv`.

## Recipe

Everything that decides the numbers; recipe id `{recipe_id}`.

```text
{recipe}
```
"""
PACK_CARD = """---
license: other
license_name: unknown
license_link: LICENSE
pretty_name: {name}
tags:
- few-shot-learning
- video-classification
---

# {name}

Frames of {n_videos} videos, written by fsar: {frames}. **Licence**: not stated; whoever shares pictures of a dataset
names its terms here and in the fields above.

| split part | videos | classes |
|---|---|---|
{parts}

{failures}

## Load it

```sh
fsar-store pull {address}#sha256={identity}
```

```python
from fsar.pipeline.packs import FramePack

pack = FramePack.open("{name}")
clip = pack.frames(pack.videos[0].video_id)  # (T, H, W, 3) uint8
```
"""
ZARR = """import zarr

group = zarr.open_group("{name}", mode="r")
features = group["features/{tap}"][:2]"""
HDF5 = """import h5py

with h5py.File("{name}", "r") as file:  # keep {name}.parts beside it
    features = file["features/{tap}"][:2]"""


def dataset_card(files: StoreFiles, manifest: str) -> str:
    """Return the card for a store whose manifest goes to the location …/NAME/IDENTITY/NAME/manifest.json."""
    store = open_store(files.path)
    name, tap = files.path.name, next(iter(store.taps))
    address, identity = _place(name, manifest)
    ok = [video for video, status in zip(store.videos, store.status.tolist(), strict=True) if status == STATUS_OK]
    shapes = {tap: f"{store.n_views} x {store.n_slots} x {list(spec.shape)}" for tap, spec in store.taps.items()}
    return CARD.format(
        name=name,
        n_videos=len(ok),
        taps="\n".join(f"| `{tap}` | {shapes[tap]} | {spec.dtype} |" for tap, spec in store.taps.items()),
        parts=_parts(ok),
        failures=_failures([reason for _, reason, _ in store.failures()], "encoded"),
        address=address,
        identity=identity,
        tap=tap,
        folder=f"{name}/{identity}",
        plain=(ZARR if name.endswith(".zarr") else HDF5).format(name=name, tap=tap),
        recipe_id=store.recipe_id,
        recipe="\n".join(f"{key} = {value}" for key, value in sorted(store.recipe.items())),
    )


def pack_card(files: StoreFiles, manifest: str) -> str:
    """Return the card for a pack of frames whose manifest goes to the location …/NAME/IDENTITY/NAME/manifest.json."""
    from fsar.pipeline.packs.layout import read_pack
    from fsar.pipeline.packs.seal import pack_failures

    layout, videos = read_pack(files)
    name, failed = files.path.name, pack_failures(files, videos)
    lost = {video_id for video_id, *_ in failed}
    ok = [video for video in videos if video.video_id not in lost]
    address, identity = _place(name, manifest)
    return PACK_CARD.format(
        name=name,
        n_videos=len(ok),
        frames=layout.settings.describe(),
        parts=_parts(ok),
        failures=_failures([reason for _, _, reason, _ in failed], "read"),
        address=address,
        identity=identity,
    )


def _place(name: str, manifest: str) -> tuple[str, str]:
    """Return the address below which a version lies, and its identity."""
    address, _, identity = manifest[: manifest.rindex(f"/{name}")].rpartition("/")
    return address, identity


def _parts(videos: Sequence[VideoRow]) -> str:
    counts = Counter(video.part for video in videos)
    classes = {part: len({video.class_name for video in videos if video.part == part}) for part in counts}
    return "\n".join(f"| {part or '(none)'} | {counts[part]} | {classes[part]} |" for part in sorted(counts))


def _failures(reasons: Sequence[str], done: str) -> str:
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(reasons).items()))
    return f"{len(reasons)} videos could not be {done}: {listed}." if reasons else f"Every video was {done}."
