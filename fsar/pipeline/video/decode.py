"""From a video file, or a folder of its frames, to the pictures that are wanted."""

from collections.abc import Callable
from pathlib import Path

from fsar.errors import unknown_name
from fsar.pipeline.video.clip import Choose, Clip, Decoder, VideoError
from fsar.pipeline.video.decord import DecordReader
from fsar.pipeline.video.frame_folder import ImagesDecoder
from fsar.pipeline.video.pyav import PyAVDecoder
from fsar.pipeline.video.reference import CheckedDecoder
from fsar.pipeline.video.torchcodec import TorchcodecReader

__all__ = ["Choose", "Clip", "Decoder", "VideoError", "decode_clip", "get_decoder", "list_decoders"]

DECODERS: dict[str, Callable[[], Decoder]] = {
    "pyav": PyAVDecoder,
    "torchcodec": lambda: CheckedDecoder(TorchcodecReader()),
    "decord": lambda: CheckedDecoder(DecordReader()),
    "images": ImagesDecoder,
}


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

    A folder is read as the frames of one video. With `fallback`, a decoder that does not agree with PyAV on a file is
    not used for that file: PyAV's frames are returned. Without, `VideoError` says what they disagree on.
    """
    path = Path(path)
    if path.is_dir():
        return ImagesDecoder().decode(path, choose)
    try:
        return get_decoder(decoder).decode(path, choose)
    except VideoError as error:
        if not fallback or error.reason != "disagreement":
            raise
        return PyAVDecoder().decode(path, choose)
