"""What a backbone is called on the command line, and what that name means."""

from dataclasses import dataclass
from pathlib import Path

from fsar.errors import InputError, MissingError, unknown_name

LIBRARIES = {"open_clip": "open_clip", "torchvision": "torchvision", "timm": "timm", "hf": "hf.build"}
"""Name of a library -> the module here that builds its networks (`build`)."""
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".pyth", ".bin", ".tar", ".ckpt")
SHAPES = (
    "open_clip:NAME/TAG|FILE, torchvision:NAME/WEIGHTS|FILE, timm:NAME/TAG|FILE, hf:REPOSITORY[@REVISION]|FOLDER "
    "or random:LIBRARY/NAME[@SEED]"
)
MAIN = "main"
"""Revision of a repository where none is named."""


@dataclass(frozen=True)
class BackboneSpec:
    """A parsed backbone name. At most one of `tag`, `file`, `seed` says where the weights come from."""

    library: str
    name: str
    tag: str = ""
    """Name of published weights, as the library calls them."""
    file: Path | None = None
    """A checkpoint with the library's own parameter names; of transformers a model's folder."""
    seed: int | None = None
    """Seed of a random initialisation."""
    file_tag: str = ""
    """Published weights that `file` is said to hold: OpenAI's files do not say that they need QuickGELU."""

    @property
    def pretrained(self) -> str:
        """Return how the weights are recorded: a tag, `file` or `random@SEED`; their hash says the rest."""
        if self.seed is not None:
            return f"random@{self.seed}"
        return "file" if self.file is not None else self.tag


def parse_spec(text: str, weights: Path | None = None) -> BackboneSpec:
    """Return what `text` names; `weights` is a checkpoint file that takes the place of the published weights.

    Raises InputError for an unknown library, for no weights at all, and FileNotFoundError for a missing file.
    """
    library, _, rest = text.partition(":")
    if library == "random":
        return _parse_random(text, rest, weights)
    if library not in LIBRARIES:
        raise unknown_name(f"backbone library in {text!r} (a backbone is {SHAPES}):", library, [*LIBRARIES, "random"])
    if library == "hf" and rest:
        return _parse_hf(rest, weights)
    name, _, source = rest.partition("/")
    if not name:
        raise InputError(f"backbone {text!r} has no model name: write {SHAPES}")
    if weights is not None:
        return BackboneSpec(library, name, file=_existing(weights), file_tag=source)
    if not source:
        raise InputError(
            f"backbone {text!r} names no weights: add /TAG or /FILE, pass --weights FILE, "
            f"or ask for random:{library}/{name}"
        )
    if source.endswith(WEIGHT_SUFFIXES) or Path(source).is_file():
        return BackboneSpec(library, name, file=_existing(Path(source)))
    return BackboneSpec(library, name, tag=source)


def _parse_hf(text: str, weights: Path | None) -> BackboneSpec:
    """Return what follows `hf:`: a folder (or a file in it) is recorded by its last name, a repository by its own."""
    here = Path(text).expanduser()
    given = weights if weights is not None else here if here.exists() or _is_path(text) else None
    name, _, revision = text.partition("@")
    if given is None:
        return BackboneSpec("hf", name, tag=revision or MAIN)
    if not given.exists():
        raise MissingError(f"there is no folder {given}: hf: takes a model's folder or a repository like OWNER/NAME")
    folder = given.resolve() if given.is_dir() else given.resolve().parent
    return BackboneSpec("hf", name if weights is not None and not here.is_dir() else folder.name, file=folder)


def _is_path(text: str) -> bool:
    return text.startswith(("/", ".", "~")) or text.count("/") > 1 or text.endswith(WEIGHT_SUFFIXES)


def _parse_random(text: str, rest: str, weights: Path | None) -> BackboneSpec:
    if weights is not None:
        raise InputError(f"backbone {text!r} asks for random weights, so --weights {weights} cannot be used with it")
    rest, _, seed = rest.partition("@")
    library, _, name = rest.partition("/")
    if library not in LIBRARIES or not name:
        raise InputError(
            f"backbone {text!r} must be random:LIBRARY/NAME[@SEED] with LIBRARY one of {', '.join(LIBRARIES)}"
        )
    if seed and not seed.isdecimal():
        raise InputError(f"seed of backbone {text!r} must be a whole number of 0 or more, got {seed!r}")
    return BackboneSpec(library, name, seed=int(seed or 0))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist")
    return path
