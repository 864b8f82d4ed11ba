"""Which frames of a video are used: named, versioned, pure functions of (frame count, slots, generator).

| name | rule | short clips (n < T) |
|---|---|---|
| uniform-center | middle frame of each of T equal segments | frames repeat |
| uniform-random | random frame of each of T equal segments | frames repeat |
| uniform-ends | evenly from the first to the last frame, both included | frames repeat |
| dense | T consecutive frames from the middle of the clip | last frame repeats |
| trx | TRX, STRM and CLIP-MEI at test time | refused: those methods drop the video |
| trx-random | the same in training: jittered start and end | refused |
| clipfsar-segment | CLIP-FSAR, sampling rate above 40: random frame per segment, in training and test | refused |
| clipfsar-interval | CLIP-FSAR, sampling rate 35 (Kinetics-100) at test time | frames repeat |
| clipfsar-interval-random | the same in training: random start | frames repeat |
| hcl-random | HCL: T random frames, sorted, in training and test | first frame repeats in front |
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError, unknown_name
from fsar.pipeline.video.clip import VideoError

Indices = npt.NDArray[np.int32]
Rule = Callable[[int, int, np.random.Generator], npt.NDArray[np.int64]]

TRX_MAX_PAD = 5
CLIPFSAR_RATE = 35


@dataclass(frozen=True)
class Sampler:
    """One rule: bump `version` whenever its indices change, because stores record it."""

    rule: Rule
    version: int = 1
    is_random: bool = False


def list_samplers() -> list[str]:
    """Return the names of all samplers, sorted."""
    return sorted(SAMPLERS)


def sampler_version(name: str) -> int:
    """Return the version of a sampler's rule; it is part of a recipe."""
    return _sampler(name).version


def is_random_sampler(name: str) -> bool:
    """Tell whether a sampler draws from the generator, so that repeated calls give different frames."""
    return _sampler(name).is_random


def sample_indices(name: str, n_frames: int, n_slots: int, generator: np.random.Generator | None = None) -> Indices:
    """Return the frames to use, (n_slots,) int32 in 0..n_frames-1.

    Sorted for every rule but `clipfsar-interval`, whose published form runs backwards on short videos. Rules that draw
    need a `generator`; the others ignore it. Raises `VideoError` with reason `too-short` where the published rule drops
    the video, and `InputError` for an unknown name, a missing generator or `n_slots` below 1.
    """
    sampler = _sampler(name)
    if n_slots < 1:
        raise InputError(f"number of frames to sample must be at least 1, got {n_slots}")
    if n_frames < 1:
        raise VideoError("no-frames", f"a video must have at least 1 frame, got {n_frames}")
    if sampler.is_random and generator is None:
        raise InputError(f"sampler {name!r} draws at random and needs a generator")
    source = generator if generator is not None else np.random.default_rng(0)
    return sampler.rule(n_frames, n_slots, source).astype(np.int32)


def _sampler(name: str) -> Sampler:
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS)
    return SAMPLERS[name]


def _uniform_center(n_frames: int, n_slots: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    # n=8, T=4 -> 1 3 5 7;  n=2, T=4 -> 0 0 1 1
    return (2 * np.arange(n_slots) + 1) * n_frames // (2 * n_slots)


def _uniform_random(n_frames: int, n_slots: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    bounds = np.arange(n_slots + 1) * n_frames // n_slots
    return generator.integers(bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1))


def _uniform_ends(n_frames: int, n_slots: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.linspace(0, n_frames - 1, n_slots).astype(np.int64)


def _dense(n_frames: int, n_slots: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    start = max(0, (n_frames - n_slots) // 2)
    return np.minimum(start + np.arange(n_slots), n_frames - 1)


def _trx(n_frames: int, n_slots: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    return _trx_between(n_frames, n_slots, 1, n_frames - 2)


def _trx_random(n_frames: int, n_slots: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    pad = int(min(TRX_MAX_PAD, (n_frames - n_slots) / 2))
    if pad < 1:
        return _trx_between(n_frames, n_slots, 0, n_frames - 1)
    start = int(generator.integers(0, pad + 1))
    end = int(generator.integers(n_frames - 1 - pad, n_frames))
    return _trx_between(n_frames, n_slots, start, end)


def _trx_between(n_frames: int, n_slots: int, start: int, end: int) -> npt.NDArray[np.int64]:
    _need(n_frames, n_slots, "trx")
    if n_frames == n_slots:
        return np.arange(n_frames)
    if end - start < n_slots:
        start, end = 0, n_frames - 1
    return np.linspace(start, end, n_slots).astype(np.int64)


def _clipfsar_segment(n_frames: int, n_slots: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    _need(n_frames, n_slots, "clipfsar-segment")
    length = n_frames // n_slots  # the remainder at the end is never used
    starts = np.arange(n_slots) * length
    return generator.integers(starts, starts + length)


def _clipfsar_interval(n_frames: int, n_slots: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    return _clipfsar_window(n_frames, n_slots, _clipfsar_latest_start(n_frames, n_slots) / 2)


def _clipfsar_interval_random(n_frames: int, n_slots: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    return _clipfsar_window(n_frames, n_slots, generator.uniform(0, _clipfsar_latest_start(n_frames, n_slots)))


def _clipfsar_latest_start(n_frames: int, n_slots: int) -> int:
    return n_frames - _clipfsar_length(n_frames, n_slots) + 1


def _clipfsar_length(n_frames: int, n_slots: int) -> int:
    # The published window is T * 35 / 12 seconds (23 s at T = 8); a video shorter than that, as every 10-second clip
    # of Kinetics is, gets the largest multiple of T instead. Longer ones are treated alike: this counts frames only.
    return n_frames // n_slots * n_slots


def _clipfsar_window(n_frames: int, n_slots: int, start: float) -> npt.NDArray[np.int64]:
    # The published code subtracts the rate and not the step, so the last 35 frames are not seen and videos below 40
    # frames run backwards. It is kept: checkpoints were trained so.
    end = start + _clipfsar_length(n_frames, n_slots) - CLIPFSAR_RATE
    return np.clip(np.linspace(start, end, n_slots), 0, n_frames - 1).astype(np.int64)


def _hcl_random(n_frames: int, n_slots: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    drawn = np.sort(generator.permutation(n_frames)[:n_slots])
    return np.concatenate([np.zeros(n_slots - len(drawn), np.int64), drawn])


def _need(n_frames: int, n_slots: int, rule: str) -> None:
    if n_frames < n_slots:
        message = f"{n_frames} frames, sampler {rule!r} needs {n_slots}; 'uniform-center' takes any length"
        raise VideoError("too-short", message)


SAMPLERS = {
    "uniform-center": Sampler(_uniform_center),
    "uniform-random": Sampler(_uniform_random, is_random=True),
    "uniform-ends": Sampler(_uniform_ends),
    "dense": Sampler(_dense),
    "trx": Sampler(_trx),
    "trx-random": Sampler(_trx_random, is_random=True),
    "clipfsar-segment": Sampler(_clipfsar_segment, is_random=True),
    "clipfsar-interval": Sampler(_clipfsar_interval),
    "clipfsar-interval-random": Sampler(_clipfsar_interval_random, is_random=True),
    "hcl-random": Sampler(_hcl_random, is_random=True),
}
