"""The features that a head reads: resident in memory or on the device when they fit, memory-mapped otherwise."""

import copy
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fsar.device import sent
from fsar.errors import InputError
from fsar.heads.batch import Features
from fsar.heads.episodes.counter_rng import Counter
from fsar.heads.episodes.sampler import Ints

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore

Where = Literal["auto", "memory", "disk"]


class FeatureSource:
    """Gathers features by store row for the roles of one head, as float32 on one device."""

    def __init__(
        self,
        store: "FeatureStore",
        taps: Mapping[str, str],
        rows: Ints,
        *,
        device: str = "cpu",
        where: Where = "auto",
        n_frames: int | None = None,
    ) -> None:
        """Read the rows that will be used into memory if they fit.

        Args:
            store: The feature store.
            taps: Role -> tap.
            rows: (R,) store rows that will be asked for, ascending.
            device: Of the tensors that `gather` returns.
            where: "memory" and "disk" force a choice; "auto" keeps features resident below half of the free memory.
            n_frames: Slots that a visit sees; None for all that are stored.

        Raises:
            InputError: more frames asked for than are stored, or NaN features (the video is named).
        """
        if n_frames is not None and not 1 <= n_frames <= store.n_slots:
            raise InputError(f"{store.path} holds {store.n_slots} frames per video, got --frames {n_frames}")
        self.store, self.taps, self.device = store, dict(taps), device
        self.n_slots, self.n_views, self.n_frames = store.n_slots, store.n_views, n_frames or store.n_slots
        self._rows = rows
        store.fetch([f"features/{tap}" for tap in set(self.taps.values())], rows)
        self.bytes_per_video = self._bytes_per_video()
        n_bytes = self.bytes_per_video * self.n_views * len(rows)
        self.resident = where == "memory" or (where == "auto" and n_bytes <= free_bytes(device) // 2)
        self._local = np.full(store.n_videos, -1, np.int64)
        self._local[rows] = np.arange(len(rows))
        self._tables: Features = {}
        self._shuffle: Counter | None = None
        if self.resident:
            self._tables = {tap: self._load(tap) for tap in dict.fromkeys(self.taps.values())}

    @property
    def reads_ahead(self) -> bool:
        """Whether batches are better made while the last one is computed: there is a disk or a device to wait for."""
        return not self.resident or self.device.startswith("cuda")

    def _bytes_per_video(self) -> int:
        per_slot = 0
        for tap in set(self.taps.values()):
            spec = self.store.taps[tap]
            per_slot += math.prod(spec.shape) * int(np.dtype(spec.dtype).itemsize)
        return per_slot * self.n_slots

    def _load(self, tap: str) -> Tensor:
        table: Tensor = self.store.load(tap, rows=self._rows, device=self.device)
        for start in range(0, len(table), _CHECK_ROWS):
            some = slice(start, start + _CHECK_ROWS)
            finite = torch.isfinite(table[some].flatten(1)).all(1)
            self._refuse(tap, ~finite.cpu().numpy(), self._rows[some])
        return table

    def _refuse(self, tap: str, bad: npt.NDArray[np.bool_], rows: Ints) -> None:
        """Raise InputError where one of `rows` is bad."""
        if bad.any():
            videos = [self.store.videos[int(rows[i])].video_id for i in np.flatnonzero(bad)]
            more = f" and {len(videos) - 1} more" if len(videos) > 1 else ""
            raise InputError(
                f"features {tap!r} of video {videos[0]!r}{more} in {self.store.path} are not finite (NaN or infinite); "
                "check the video and encode it again, or leave it out of the split"
            )

    def gather(self, rows: Ints, views: Ints | None = None, frames: Ints | None = None) -> Features:
        """Return role -> (R, T, ...) features of `rows` (R,).

        Args:
            rows: Store rows, repeats allowed.
            views: (R,) view of each row; None for the first one.
            frames: (R, T) slots of each row; None for `n_frames` evenly spread ones.
        """
        if frames is None and self.n_frames < self.n_slots:
            frames = np.broadcast_to(spread(self.n_slots, self.n_frames), (len(rows), self.n_frames))
        if self._shuffle is not None:
            frames = self._shuffled(self._shuffle, rows, frames)
        by_tap = {tap: self._gather(tap, rows, views, frames) for tap in dict.fromkeys(self.taps.values())}
        return {role: by_tap[tap] for role, tap in self.taps.items()}

    def shuffled(self, seed: int = 0) -> "FeatureSource":
        """Return the same features with the frames of each video in a random order, which is its own at every visit."""
        other = copy.copy(self)
        other._shuffle = Counter(seed)
        return other

    def _shuffled(self, counter: Counter, rows: Ints, frames: Ints | None) -> Ints:
        """Return (R, T) slots in an order that the row decides."""
        if frames is None:
            frames = np.broadcast_to(np.arange(self.n_slots), (len(rows), self.n_slots))
        order = np.argsort(Counter.numbers(counter.stream("frame order", rows), frames.shape[1]), axis=1)
        return np.take_along_axis(frames, order, 1)

    def _gather(self, tap: str, rows: Ints, views: Ints | None, frames: Ints | None) -> Tensor:
        if not self.resident:
            unique, back = np.unique(rows, return_inverse=True)
            if views is None and frames is None:  # each video is read once, however often it occurs
                found = sent(self._read(tap, unique, 0, None), self.device)
                return found.index_select(0, sent(torch.from_numpy(back), self.device)).float()
            return sent(self._read(tap, rows, 0 if views is None else views, frames), self.device).float()
        table = self._tables[tap]
        place = sent(torch.from_numpy(self._local[rows]), table.device)
        view = torch.zeros_like(place) if views is None else sent(torch.from_numpy(views), table.device)
        if frames is None:
            return table[place, view].float()
        slots = sent(torch.from_numpy(np.ascontiguousarray(frames)), table.device)
        return table[place[:, None], view[:, None], slots].float()

    def _read(self, tap: str, rows: Ints, views: int | Ints, frames: Ints | None) -> Tensor:
        """Return features (R, T, ...) in the type of the store: half of what crosses to a device as float32."""
        array = np.ascontiguousarray(self.store.read(tap, rows, views=views, frames=frames))
        self._refuse(tap, ~_finite(array), rows)
        return torch.from_numpy(array)

    def draw_visits(self, counter: Counter, indices: Ints, n_videos: int) -> tuple[Ints | None, Ints | None]:
        """Return a view (E * n_videos,) and sorted slots (E * n_videos, T) for each video of episodes `indices` (E,).

        None where there is nothing to draw: a single view, or as many slots stored as used.
        """
        views = frames = None
        if self.n_views > 1:
            numbers = Counter.numbers(counter.stream("views", indices), n_videos)
            views = Counter.below(numbers, np.full(numbers.shape, self.n_views)).ravel()
        if self.n_frames < self.n_slots:
            keys = Counter.numbers(counter.stream("frames", indices), n_videos).ravel()
            order = np.argsort(Counter.numbers(keys, self.n_slots), axis=1)
            frames = np.sort(order[:, : self.n_frames], axis=1)
        return views, frames


_CHECK_ROWS = 4096
_EXPONENT = {2: (np.uint16, 0x7C00), 4: (np.uint32, 0x7F800000)}
"""Of floating-point numbers by their bytes: the bits that are all set where a number is infinite or none."""


def _finite(array: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Return which rows (R,) of an array (R, ...) are finite, by their bits: several times faster than by numbers."""
    unsigned, exponent = _EXPONENT[array.itemsize]
    bits = array.reshape(len(array), -1).view(unsigned)
    finite: npt.NDArray[np.bool_] = ((bits & exponent) != exponent).all(1)
    return finite


def spread(n_slots: int, n_frames: int) -> Ints:
    """Return the middle slot of `n_frames` equal parts of `n_slots`, e.g. 16, 8 -> 1, 3, ..., 15."""
    return ((2 * np.arange(n_frames) + 1) * n_slots // (2 * n_frames)).astype(np.int64)


def free_bytes(device: str) -> int:
    """Return the memory that is free on a device, of the machine for "cpu"."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not Linux
        return 8 << 30
