"""From a video file, or a folder of its frames, to the pictures that are wanted."""

from collections.abc import Callable
from pathlib import Path

from fsar.errors import InputError, unknown_name
from fsar.pipeline.video.clip import Choose, Clip, Decoder, VideoError
from fsar.pipeline.video.frame_folder import ImagesDecoder
from fsar.pipeline.video.others import DecordDecoder, TorchcodecDecoder
from fsar.pipeline.video.pyav import PyAVDecoder

__all__ = ["Choose", "Clip", "Decoder", "VideoError", "decode_clip", "get_decoder", "list_decoders"]

DECODERS: dict[str, Callable[[], Decoder]] = {
    "pyav": PyAVDecoder,
    "torchcodec": TorchcodecDecoder,
    "decord": DecordDecoder,
    "images": ImagesDecoder,
}
SECOND_OPINION = {"pyav": ("decord", "torchcodec"), "torchcodec": ("pyav",), "decord": ("pyav",)}
WORTH_A_SECOND_TRY = frozenset({"not-a-video", "corrupt", "unsupported"})
"""Reasons that may be one library's limits. A file that is missing, empty, cut short or damaged is so for all of them;
the others would only patch it over."""


def list_decoders() -> list[str]:
    """Return the names of all decoders, the default first."""
    return list(DECODERS)


def get_decoder(name: str) -> Decoder:
    """Return the decoder called `name`; its library is imported when it first decodes."""
    if name not in DECODERS:
        raise unknown_name("decoder", name, DECODERS)
    return DECODERS[name]()


def decode_clip(path: Path, choose: Choose, *, decoder: str = "pyav", fallback: bool = True) -> Clip:
    """Return the frames of a video that `choose(n_frames)` picks.

    A folder is read as the frames of one video. With `fallback`, a file that the decoder cannot read is tried with a
    second one before `VideoError` is raised; the error is the first decoder's.
    """
    path = Path(path)
    if path.is_dir():
        return ImagesDecoder().decode(path, choose)
    try:
        return get_decoder(decoder).decode(path, choose)
    except VideoError as error:
        if not fallback or error.reason not in WORTH_A_SECOND_TRY:
            raise
        clip = _second_opinion(path, choose, decoder)
        if clip is None:
            raise
        return clip


def _second_opinion(path: Path, choose: Choose, first: str) -> Clip | None:
    """Return what the first installed alternative makes of the file, None if it fails too."""
    for name in SECOND_OPINION.get(first, ()):
        try:
            return get_decoder(name).decode(path, choose)
        except InputError:  # not installed
            continue
        except VideoError:
            return None
    return None
