"""The recipe of a store: everything that decides its numbers, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from fsar.errors import InputError, count_of, unknown_name
from fsar.pipeline.encode.precision import PRECISIONS, Precision
from fsar.pipeline.pixels.spec import ImageSpec
from fsar.pipeline.video.clips import ClipShape

if TYPE_CHECKING:
    from fsar.pipeline.backbones import Backbone
    from fsar.pipeline.encode.clip_task import ClipTask

RECIPE_FORMAT = 1
PACKED = "packed"
"""The decoder of frames that were decoded before."""
DTYPES = ("float16", "float32")
_LATER: Mapping[str, Any] = {
    "arithmetic": "float32",
    "packed": None,
    "resize_width": 0,
    "clip": None,
    "centre": "even",
    "fold_batch_norm": False,
}
"""Fields that older recipes do not have, and what these mean by that."""


@dataclass(frozen=True)
class Recipe:
    """What decides the features of a video. Batch size, device and machine do not: they are recorded per run."""

    library: str
    backbone: str
    pretrained: str
    """Tag of the published weights, `file`, or `random@SEED`."""
    weights_sha256: str
    """Hash of the image tower that was loaded."""
    taps: tuple[str, ...]
    sampler: str
    sampler_version: int
    n_slots: int
    """Stored frames per view; of a network for clips, clips or their time steps."""
    resize_mode: str
    resize: int
    """Pixels before the crop."""
    size: int
    """Pixels after the crop."""
    interpolation: str
    antialias: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    text_sha256: str = ""
    """Hash of the text tower of the same CLIP model; empty where there is none."""
    quick_gelu: bool = False
    n_views: int = 1
    flip: bool = False
    """Whether views after the first may be mirrored."""
    jitter: bool = False
    """Whether the colours of views after the first are changed."""
    seed: int = 0
    """Seed of random frames and views."""
    decoder: str = "pyav"
    colour: str = "rgb24"
    precision: Precision = "fp32"
    """Arithmetic of the forward pass: `tf32` is that of GPUs for float32, `amp-` is autocast over float32 weights,
    `bf16` has bfloat16 weights too."""
    dtype: Literal["float16", "float32"] = "float16"
    """Type of the stored features."""
    format: int = RECIPE_FORMAT
    arithmetic: Literal["float32", "uint8"] = "float32"
    """Of resizing; `uint8` rounds as Pillow does."""
    packed: Mapping[str, Any] | None = None
    """Settings of the pack whose frames were read in place of the videos; None: the videos themselves."""
    resize_width: int = 0
    """Width before the crop where frames are squashed to another width than height `resize`."""
    clip: Mapping[str, int] | None = None
    """`length`, `stride` and `steps` of clips (see `ClipShape`); None for a network that sees single frames."""
    centre: Literal["even", "floor"] = "even"
    """How the place of a centre crop is rounded."""
    fold_batch_norm: bool = False
    """Whether batch norm is folded into the convolutions before it, which rounds otherwise."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.dtype not in DTYPES:
            raise unknown_name("feature dtype", self.dtype, DTYPES)
        for name in ("n_slots", "n_views"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_views == 1 and (self.flip or self.jitter):
            raise InputError("flip and jitter change only the views after the first: ask for 2 views or more")

    @property
    def recipe_id(self) -> str:
        """The sha256 of the recipe as canonical JSON."""
        from fsar.pipeline.store import recipe_id

        return recipe_id(self.to_dict())

    @property
    def clip_shape(self) -> ClipShape | None:
        """The clips that the network sees; None where it sees single frames."""
        return ClipShape(**self.clip) if self.clip is not None else None

    @property
    def n_frames_seen(self) -> int:
        """Frames of a view that the network sees."""
        shape = self.clip_shape
        return self.n_slots if shape is None else shape.n_clips(self.n_slots) * shape.length

    @property
    def image(self) -> ImageSpec:
        """The geometry and normalisation of a frame."""
        mean, std = tuple(self.mean), tuple(self.std)
        geometry = (self.resize_mode, self.resize, self.size, self.interpolation, self.antialias)
        return ImageSpec(*geometry, mean, std, self.arithmetic, self.resize_width, self.centre)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types; later ones only where they say something, so that older ids stay."""
        data = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in data.items() if name not in _LATER or value != _LATER[name]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_dict` wrote. Raises InputError for unknown or missing fields."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise InputError(f"recipe has unknown fields {', '.join(unknown)}: was it written by a newer version?")
        values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in data.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"recipe is incomplete: {error}") from error


def describe_pixels(recipe: Mapping[str, Any]) -> str | None:
    """Return in words how a recipe's frames were made; None for a recipe that is not of this form.

    E.g. "the videos, decoded by pyav; shorter side to 224 pixels (bicubic, antialiased, ...), CLIP's mean and std".
    """
    from fsar.pipeline.packs.layout import PackSettings
    from fsar.pipeline.pixels.published import tested_so
    from fsar.pipeline.pixels.spec import describe_image

    try:
        known = Recipe.from_dict(recipe)
        packed = PackSettings(**known.packed).describe() if known.packed is not None else None
        words, like = describe_image(known.image), tested_so(known.image)
    except (InputError, TypeError, ValueError):
        return None
    source = f"packed, {packed}" if packed else f"videos decoded by {known.decoder}"
    clips = f"{_describe_clips(known)}; " if known.clip else ""
    return f"{clips}{source}; {words}" + (f"; as tested by {', '.join(like)}" if like else "")


def _describe_clips(recipe: Recipe) -> str:
    shape = recipe.clip_shape
    assert shape is not None
    where = f"{shape.stride} apart" if shape.stride else "spread over the video"
    steps = f", {shape.steps} time steps of each" if shape.steps > 1 else ""
    return f"{count_of(shape.n_clips(recipe.n_slots), 'clip')} of {shape.length} frames {where}{steps}"


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return one line for each field in which two recipes differ."""
    from fsar.pipeline.store import differing_fields

    return differing_fields(first, second)


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    """Return the fields of a recipe that a loaded backbone fixes."""
    return {
        "library": backbone.library,
        "backbone": backbone.name,
        "pretrained": backbone.pretrained,
        "weights_sha256": backbone.weights_sha256,
        "text_sha256": backbone.text_sha256,
        "quick_gelu": backbone.quick_gelu,
    }


def task_of(video_id: str, path: str, recipe: Recipe, n_views: int = 1) -> ClipTask:
    """Return what is decoded of a video for a store of this recipe."""
    from fsar.pipeline.encode.clip_task import ClipTask

    settings = (recipe.sampler, recipe.n_slots, n_views, recipe.seed, recipe.decoder, recipe.clip_shape)
    return ClipTask(video_id, path, *settings)
