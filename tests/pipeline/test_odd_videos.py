"""The odd set: every decoder, `extract`, `encode`'s reading and `convert` against the ffmpeg program."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow
from fsar.pipeline.rewrite.extract import ExtractSettings, extract
from fsar.pipeline.video.decode import Clip, VideoError, decode_clip
from fsar.pipeline.video.decord import import_decord
from fsar.pipeline.video.torchcodec import import_torchcodec
from fsar.pipeline.video.transcode import ConvertSettings, transcode
from tests.odd_videos import OddVideo, Shown, missing_program, short_set, shown_by_ffmpeg, whole_set
from tests.videos import write_clip

SAME = 1.5
"""Mean difference, of 255 levels, between two FFmpeg versions' pictures of one frame."""
SAME_OF_TURNED_DEEP = 2.5
"""The same of turned pictures of more than 8 bits: the ffmpeg program (5.1) takes up to two levels off them, where all
decoders give the level that was written."""
SAME_AFTER_CODING = 2.5
"""The same between pictures averaged over blocks of 8 x 8: 4:2:0 blurs the colours of neighbouring pixels."""
TIME_STEP_SECONDS = 0.002

pytestmark = pytest.mark.skipif(missing_program() is not None, reason=str(missing_program()))


@functools.cache
def installed_decoders() -> list[str]:
    # torchcodec brings the system's libvpx, which PyAV's VP9 encoder does not bear if it comes first.
    write_clip(Path(tempfile.mkdtemp()) / "first.webm", n_frames=1)
    names = ["pyav"]
    for name, load in (("decord", import_decord), ("torchcodec", import_torchcodec)):
        try:
            load()
        except InputError:
            continue
        names.append(name)
    return names


def check(video: OddVideo, folder: Path) -> None:
    path = video.write(folder)
    try:
        shown = shown_by_ffmpeg(path)
    except RuntimeError:  # a cut left nothing that ffmpeg can show: then neither do we
        with pytest.raises(VideoError):
            decode_clip(path, np.arange)
        return
    for decoder in installed_decoders():
        check_clip(decode_clip(path, np.arange, decoder=decoder), shown, tolerance(video))
    check_extracted(path, shown, folder)
    check_converted(path, shown, folder)


def tolerance(video: OddVideo) -> float:
    is_deep = any(depth in video.pixels for depth in ("10", "16", "48"))
    return SAME_OF_TURNED_DEEP if is_deep and video.orientation != "upright" else SAME


def check_clip(clip: Clip, shown: Shown, same: float) -> None:
    assert clip.frames.shape == shown.frames.shape
    assert worst_difference(clip.frames, shown.frames) < same
    assert np.isfinite(clip.times_seconds).all()
    assert (np.diff(clip.times_seconds) >= 0).all()
    check_times(clip.times_seconds, shown.seconds)


def check_times(found: np.ndarray, expected: list[float | None]) -> None:
    """Times count from the first one that ffmpeg knows: AVI and ffmpeg disagree on where a file with delay begins."""
    times = np.array([np.nan if time is None else time for time in expected])
    known = np.flatnonzero(~np.isnan(times))
    if len(known):
        gaps = (found - found[known[0]]) - (times - times[known[0]])
        assert np.abs(gaps[known]).max() < TIME_STEP_SECONDS


def check_extracted(path: Path, shown: Shown, folder: Path) -> None:
    row = CatalogRow("v", path, "c", path.stat().st_size)
    report = extract(Catalog((row,), "t"), folder / "x", ExtractSettings(quality=100), quiet=True)
    assert report.failures == []
    pictures = [np.asarray(Image.open(file)) for file in sorted((folder / "x" / "frames" / "c" / "v").iterdir())]
    assert worst_difference(blurred(np.stack(pictures)), blurred(shown.frames)) < SAME_AFTER_CODING


def check_converted(path: Path, shown: Shown, folder: Path) -> None:
    """What PyAV and what ffmpeg show of a conversion is what ffmpeg shows of its source."""
    target = folder / "converted.mp4"
    transcode(path, target, ConvertSettings(crf=4))
    clip, again = decode_clip(target, np.arange, fallback=False), shown_by_ffmpeg(target)
    height, width = shown.frames.shape[1:3]
    for frames in (clip.frames, again.frames):
        assert frames.shape[1:3] == (height + height % 2, width + width % 2)
        kept = frames[:, :height, :width]
        assert worst_difference(blurred(kept), blurred(shown.frames)) < SAME_AFTER_CODING
    check_times(clip.times_seconds, shown.seconds)
    check_times(np.array(again.seconds, np.float64), shown.seconds)


def worst_difference(frames: np.ndarray, others: np.ndarray) -> float:
    """Return the mean difference of the two frames that differ most."""
    assert frames.shape == others.shape
    return float(np.abs(frames.astype(np.float64) - others).mean(axis=(1, 2, 3)).max())


def blurred(frames: np.ndarray) -> np.ndarray:
    """Return frames (T, H, W, 3) as means of blocks of 8 x 8 pixels; what is over at the edges is left out."""
    n_frames, height, width = (size // step for size, step in zip(frames.shape, (1, 8, 8), strict=False))
    cut = frames[:, : height * 8, : width * 8].astype(np.float64)
    return cut.reshape(n_frames, height, 8, width, 8, 3).mean(axis=(2, 4))


@pytest.mark.parametrize("video", short_set(), ids=lambda video: video.name + video.container)
def test_odd_videos_are_read_and_rewritten_as_ffmpeg_shows_them(tmp_path, video):
    check(video, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("video", whole_set(), ids=lambda video: video.name + video.container)
def test_the_whole_odd_set(tmp_path, video):
    check(video, tmp_path)


def test_the_short_set_has_every_trait_of_the_whole_one():
    for trait in ("codec", "container", "pixels", "timing", "orientation"):
        assert {getattr(video, trait) for video in short_set()} == {getattr(video, trait) for video in whole_set()}
