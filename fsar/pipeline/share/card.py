"""The card of a repository that holds stores: what is in it, where it comes from, how to load it."""

from collections import Counter

from fsar.pipeline.store import STATUS_OK, open_store
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
    version = manifest[: manifest.rindex(f"/{name}")]
    address, _, identity = version.rpartition("/")
    ok = [video for video, status in zip(store.videos, store.status.tolist(), strict=True) if status == STATUS_OK]
    counts = Counter(video.part for video in ok)
    classes = {part: len({video.class_name for video in ok if video.part == part}) for part in counts}
    reasons = Counter(reason for _, reason, _ in store.failures())
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    shapes = {tap: f"{store.n_views} x {store.n_slots} x {list(spec.shape)}" for tap, spec in store.taps.items()}
    return CARD.format(
        name=name,
        n_videos=len(ok),
        taps="\n".join(f"| `{tap}` | {shapes[tap]} | {spec.dtype} |" for tap, spec in store.taps.items()),
        parts="\n".join(f"| {part or '(none)'} | {counts[part]} | {classes[part]} |" for part in sorted(counts)),
        failures=f"{sum(reasons.values())} videos could not be encoded: {listed}."
        if reasons
        else "Every video was encoded.",
        address=address,
        identity=identity,
        tap=tap,
        folder=f"{name}/{identity}",
        plain=(ZARR if name.endswith(".zarr") else HDF5).format(name=name, tap=tap),
        recipe_id=store.recipe_id,
        recipe="\n".join(f"{key} = {value}" for key, value in sorted(store.recipe.items())),
    )
