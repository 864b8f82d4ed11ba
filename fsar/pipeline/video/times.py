"""When each frame is shown, also where the container states it wrongly or not at all."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]


def presentation_seconds(
    stated: Sequence[float | None],
    decode_seconds: Sequence[float | None],
    *,
    start_seconds: float,
    frame_seconds: float,
    has_presentation_times: bool = True,
) -> Seconds:
    """Return one time per frame, none missing, never going back.

    AVI has no room for presentation times: where frames change places between decoding and showing, its demuxer
    guesses. Times that go back are such guesses, too, for decoded frames come in order of presentation. Then a frame is
    shown when the packet that released it from the decoder was to be decoded; the first one at the time of the first
    packet. Frames without a time (a stream cut between key frames) continue their neighbours at the stream's rate.

    Args:
        stated: the times of the frames in order of presentation, None where there is none.
        decode_seconds: for each of these frames, when the packet that released it was to be decoded.
        start_seconds: when the first packet was to be decoded.
        frame_seconds: how long a frame lasts at the stream's own rate.
        has_presentation_times: False where the container is known to have none.
    """
    times = _floats(stated)
    known = times[~np.isnan(times)]
    if not has_presentation_times or (np.diff(known) < 0).any():
        times = _filled(_floats(decode_seconds), frame_seconds)
        times += start_seconds - times[0]
    return _filled(times, frame_seconds)


def _floats(seconds: Sequence[float | None]) -> Seconds:
    return np.array([np.nan if time is None else time for time in seconds], np.float64)


def _filled(times: Seconds, frame_seconds: float) -> Seconds:
    """Fill gaps backwards from the next known time, and what follows the last one forwards."""
    known = np.flatnonzero(~np.isnan(times))
    places = np.arange(len(times))
    if not len(known):
        return np.multiply(places, frame_seconds, dtype=np.float64)
    following = known[np.minimum(np.searchsorted(known, places), len(known) - 1)]
    filled: Seconds = np.where(np.isnan(times), times[following] + (places - following) * frame_seconds, times)
    return np.asarray(np.maximum.accumulate(filled), np.float64)  # a gap too narrow for its frames
