"""Every odd video that people bring: codec x container x timing x orientation x range, and what ffmpeg makes of it.

The `ffmpeg` program writes the files and is the judge: what it shows is what a video holds. Frame i of every video is
grey 10 + 11 i with a white corner and a coloured one, so that order, orientation, levels and colours can be seen.
"""

import functools
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

N_FRAMES, WIDTH, HEIGHT, RATE = 20, 64, 48, 10

X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "8", "-g", "10", "-bf", "2")


@dataclass(frozen=True)
class Codec:
    """How to encode, and what the result fits into."""

    options: tuple[str, ...]
    containers: tuple[str, ...]
    ranges: tuple[str, ...] = ("tv",)
    """tv and pc are 8-bit 4:2:0 of either range, the others are FFmpeg's pixel formats, of full range with `/pc`."""
    size: tuple[int, int] = (WIDTH, HEIGHT)
    has_times: bool = True
    """Whether the container keeps the times of a variable rate."""


CODECS = {
    "h264": Codec(
        X264,
        (".mp4", ".mov", ".mkv", ".avi", ".ts", ".flv", ".m4v", ".3gp", ".mts"),
        ("tv", "pc", "yuv422p", "yuv444p/pc", "yuv420p10le", "gray", "gray/pc", "gray10le"),
    ),
    "h264-interlaced": Codec(
        (*X264, "-flags", "+ilme+ildct", "-x264-params", "tff=1"), (".mp4", ".mkv", ".ts", ".mts")
    ),
    "h264-rgb": Codec(("-c:v", "libx264rgb", "-crf", "8"), (".mp4", ".mkv"), ("rgb24",)),
    "hevc": Codec(
        ("-c:v", "libx265", "-preset", "ultrafast", "-crf", "8", "-x265-params", "log-level=none:pools=none"),
        (".mp4", ".mkv", ".ts"),
        ("tv", "yuv420p10le", "gray", "gbrp"),
    ),
    "vp8": Codec(("-c:v", "libvpx", "-crf", "4", "-b:v", "2M", "-auto-alt-ref", "1"), (".webm", ".mkv")),
    "vp9": Codec(
        ("-c:v", "libvpx-vp9", "-crf", "8", "-b:v", "0", "-cpu-used", "8", "-deadline", "realtime"),
        (".webm", ".mkv", ".mp4"),
        ("tv", "pc", "gbrp", "yuv444p", "yuva420p"),
    ),
    "av1": Codec(
        ("-c:v", "libaom-av1", "-crf", "8", "-cpu-used", "8", "-usage", "realtime"),
        (".mp4", ".mkv", ".webm"),
        ("tv", "gray"),
    ),
    "mpeg4": Codec(("-c:v", "mpeg4", "-q:v", "2"), (".avi", ".mp4", ".mkv", ".mov")),
    "xvid": Codec(("-c:v", "mpeg4", "-vtag", "XVID", "-bf", "2", "-q:v", "2"), (".avi", ".mkv")),
    "mpeg2": Codec(("-c:v", "mpeg2video", "-bf", "2", "-q:v", "2"), (".mpg", ".ts", ".vob", ".m2ts"), has_times=False),
    "mpeg2-interlaced": Codec(
        ("-c:v", "mpeg2video", "-bf", "2", "-q:v", "2", "-flags", "+ilme+ildct", "-top", "1"),
        (".mpg", ".ts", ".avi"),
        has_times=False,
    ),
    "dv": Codec(("-c:v", "dvvideo", "-r", "25"), (".avi", ".mov", ".dv"), size=(720, 576), has_times=False),
    "mpeg1": Codec(("-c:v", "mpeg1video", "-q:v", "2", "-r", "25"), (".mpg",), has_times=False),
    "mjpeg": Codec(("-c:v", "mjpeg", "-q:v", "2"), (".avi", ".mov", ".mkv"), ("yuvj420p/pc", "yuvj444p/pc")),
    "msmpeg4": Codec(("-c:v", "msmpeg4v3", "-q:v", "2"), (".avi",)),
    "wmv": Codec(("-c:v", "wmv2", "-q:v", "2"), (".wmv", ".asf")),
    "flv1": Codec(("-c:v", "flv1", "-q:v", "2"), (".flv",)),
    "h263": Codec(("-c:v", "h263", "-q:v", "2"), (".3gp",), size=(176, 144)),
    "theora": Codec(("-c:v", "libtheora", "-q:v", "10"), (".ogv",), has_times=False),
    "ffv1": Codec(
        ("-c:v", "ffv1"), (".mkv", ".avi", ".nut"), ("tv", "gray/pc", "gray16le", "bgr0", "rgb48le", "yuv420p16le/pc")
    ),
    "png": Codec(("-c:v", "png"), (".mov", ".mkv"), ("rgb24", "rgba", "gray", "gray16be", "pal8", "monob")),
    "prores": Codec(("-c:v", "prores_ks"), (".mov",), ("yuv422p10le",)),
    "raw": Codec(("-c:v", "rawvideo"), (".avi", ".mov", ".nut"), ("bgr24",)),
    "huffyuv": Codec(("-c:v", "huffyuv"), (".avi",), ("yuv422p", "rgb24")),
    "qtrle": Codec(("-c:v", "qtrle"), (".mov",), ("rgb24", "gray")),
    "gif": Codec(("-c:v", "gif"), (".gif",), ("bgr8",)),
    "odd-size": Codec(X264, (".mp4", ".mkv"), ("yuv444p",), size=(33, 17)),
}
TIMINGS = ("constant", "variable", "pause", "late", "cut")
ORIENTATIONS = ("upright", "hflip", "vflip", "180", "90", "270", "transpose", "transverse")
_MATRIX = {  # a b c d: x' = a x + c y, y' = b x + d y
    "hflip": (-1, 0, 0, 1),
    "vflip": (1, 0, 0, -1),
    "180": (-1, 0, 0, -1),
    "90": (0, 1, -1, 0),
    "270": (0, -1, 1, 0),
    "transpose": (0, 1, 1, 0),
    "transverse": (0, -1, -1, 0),
}
_TURNS = (".mp4", ".mov")
"""Containers whose track header holds a display matrix."""


@dataclass(frozen=True)
class OddVideo:
    """One member of the odd set."""

    codec: str
    container: str
    pixels: str
    timing: str = "constant"
    orientation: str = "upright"
    fields: tuple[str, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """Name of the file, without suffix."""
        return "-".join((self.codec, self.pixels.replace("/", "_"), self.timing, self.orientation))

    def write(self, folder: Path) -> Path:
        """Write the video into `folder` and return its path."""
        path = folder / f"{self.name}{self.container}"
        codec = CODECS[self.codec]
        pix_fmt, _, is_full = self.pixels.partition("/")
        is_full = is_full or ("pc" if self.pixels == "pc" else "")
        pix_fmt = {"tv": "yuv420p", "pc": "yuv420p"}.get(pix_fmt, pix_fmt)
        range_name = "pc" if is_full else "tv"
        filters = (
            [f"scale=out_range={range_name}", f"format={pix_fmt}"] if "rgb" not in pix_fmt else [f"format={pix_fmt}"]
        )
        options = [*codec.options, "-pix_fmt", pix_fmt]
        if is_full:
            options += ["-color_range", "pc"]
        times = {"variable": "if(lt(N,5),N,N*3)", "pause": "if(lt(N,19),N,N+40)", "twice": "if(eq(N,3),2,N)"}.get(
            self.timing
        )
        if times:
            filters.append(f"setpts='round({times}/{RATE}/TB)'")
        if self.timing == "late":
            options += ["-output_ts_offset", "100"]
        if self.timing == "cut":
            return self._cut(path, filters, options)
        ffmpeg(*_source(codec.size), "-vf", ",".join(filters), "-fps_mode", "passthrough", *options, path)
        return self._turn(path)

    def _cut(self, path: Path, filters: list[str], options: list[str]) -> Path:
        """Cut between two key frames without encoding anew: an edit list in mp4, missing times in mkv."""
        whole = path.with_name(f"whole-{path.name}")
        ffmpeg(*_source(CODECS[self.codec].size), "-vf", ",".join(filters), *options, whole)
        ffmpeg("-ss", "1.3", "-i", whole, "-c", "copy", path)
        whole.unlink()
        return self._turn(path)

    def _turn(self, path: Path) -> Path:
        if self.orientation != "upright":
            set_display_matrix(path, _MATRIX[self.orientation])
        return path


def whole_set() -> list[OddVideo]:
    """Return every member: each codec in each container and pixel format; timing and orientation where they can be."""
    videos = []
    videos.append(OddVideo("h264", ".mp4", "tv", "twice"))
    for name, codec in CODECS.items():
        for container, pixels in itertools.product(codec.containers, codec.ranges):
            videos.append(OddVideo(name, container, pixels))
        for container in codec.containers:
            if codec.has_times:
                videos += [OddVideo(name, container, codec.ranges[0], timing) for timing in ("variable", "pause")]
            videos.append(OddVideo(name, container, codec.ranges[0], "late"))
            if name in ("h264", "hevc", "vp9", "mpeg4", "xvid", "mpeg2"):
                videos.append(OddVideo(name, container, codec.ranges[0], "cut"))
        for container in codec.containers:
            if container in _TURNS:
                videos += [
                    OddVideo(name, container, pixels, "constant", orientation)
                    for pixels in codec.ranges[:: max(len(codec.ranges) - 1, 1)]
                    for orientation in ORIENTATIONS[1:]
                ]
    return videos


@functools.cache
def short_set() -> list[OddVideo]:
    """Return about fifty members that hold every trait of the whole set: each time the one with most new traits."""
    whole, chosen = whole_set(), []
    wanted = set[str]().union(*map(_traits, whole))
    while wanted:
        chosen.append(max(whole, key=lambda video: len(_traits(video) & wanted)))
        wanted -= _traits(chosen[-1])
    return chosen


def _traits(video: OddVideo) -> set[str]:
    traits = {video.codec, video.container, video.pixels, video.timing, video.orientation}
    if video.container in (".mp4", ".mkv", ".avi", ".ts"):  # which keep times in ways of their own
        traits.add(f"{video.container} {video.timing}")
    if video.container == ".avi":  # which has no times at all where frames are stored in another order
        traits.add(f"{video.codec}.avi")
    if video.codec in ("ffv1", "png"):  # kept as they are: grey and RGB reach the decoder as such
        traits.add(f"{video.codec} {video.pixels}")
    return traits


@functools.cache
def missing_program() -> str | None:
    """Return why the odd set cannot be made here, None if it can."""
    lacking = [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)} program on this machine" if lacking else None


@functools.cache
def encoders() -> frozenset[str]:
    """Return the names of the encoders that this machine's ffmpeg has."""
    listed = subprocess.run(["ffmpeg", "-v", "error", "-encoders"], capture_output=True, text=True, check=True)
    return frozenset(line.split()[1] for line in listed.stdout.splitlines() if line.startswith(" V"))


def ffmpeg(*arguments: object, data: bytes | None = None) -> bytes:
    """Run ffmpeg and return its standard output; a failure is an error with its last words."""
    command = ["ffmpeg", "-v", "error", "-y", *(["-i", "-"] if data is not None and "-i" not in arguments else [])]
    command += [str(argument) for argument in arguments]
    ended = subprocess.run(command, input=data if data is not None else b"", capture_output=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr.decode()[-500:]}")
    return ended.stdout


def _source(size: tuple[int, int]) -> list[object]:
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", RATE, "-i", _raw_file(size)]


@functools.cache
def _raw_file(size: tuple[int, int]) -> Path:
    import atexit
    import tempfile

    folder = tempfile.mkdtemp(prefix="fsar-odd-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "frames.rgb"
    path.write_bytes(b"".join(frame.tobytes() for frame in drawn_frames(size)))
    return path


def drawn_frames(size: tuple[int, int], n_frames: int = N_FRAMES) -> Iterator[np.ndarray]:
    """Yield the pictures (H, W, 3) uint8 of every odd video."""
    width, height = size
    for number in range(n_frames):
        picture = np.full((height, width, 3), 10 + 11 * number, np.uint8)
        picture[: height // 3, : width // 3] = 250
        picture[-height // 3 :, : width // 4] = (200, 60, 30)
        yield picture


def set_display_matrix(path: Path, abcd: Sequence[int]) -> None:
    """Write the four numbers of a display matrix into the video track's header (ISO 14496-12, 8.3.2)."""
    import struct

    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4
    offset = start + (52 if data[start] else 40)
    a, b, c, d = (value << 16 for value in abcd)
    data[offset : offset + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))


@dataclass(frozen=True)
class Shown:
    """What ffmpeg shows of a video."""

    frames: np.ndarray
    """(T, H, W, 3) uint8 RGB."""
    seconds: list[float | None]
    """When each is shown, None where ffmpeg cannot say."""


def shown_by_ffmpeg(path: Path) -> Shown:
    """Return the frames and times of a video as the ffmpeg program decodes it."""
    import io

    ppm = ffmpeg(
        "-i",
        path,
        "-fps_mode",
        "passthrough",
        "-map",
        "0:V",
        "-f",
        "image2pipe",
        "-c:v",
        "ppm",
        "-pix_fmt",
        "rgb24",
        "-",
    )
    frames = list(_read_ppms(io.BytesIO(ppm)))
    probe = ["ffprobe", "-v", "error", "-select_streams", "V", "-of", "json"]
    probe += ["-show_entries", "frame=best_effort_timestamp_time", str(path)]
    listed = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)["frames"]
    seconds = [
        float(item["best_effort_timestamp_time"]) if item.get("best_effort_timestamp_time") else None for item in listed
    ]
    return Shown(np.stack(frames), seconds)


def _read_ppms(stream: "object") -> Iterator[np.ndarray]:
    while stream.readline().strip() == b"P6":  # type: ignore[attr-defined]
        width, height = map(int, stream.readline().split())  # type: ignore[attr-defined]
        stream.readline()  # type: ignore[attr-defined]
        data = stream.read(width * height * 3)  # type: ignore[attr-defined]
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
