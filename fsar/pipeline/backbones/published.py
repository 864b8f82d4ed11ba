"""Where published weights come from, whether they are on this machine, and whether they can be fetched at all."""

import os
import re
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fsar.errors import InputError
from fsar.pipeline.backbones.spec import MAIN, BackboneSpec

CONNECT_SECONDS = 5.0
"""Longest wait for a server that may be there; libraries try again for a minute."""


@dataclass(frozen=True)
class PublishedWeights:
    """The file behind `LIBRARY:NAME/TAG`, as the library itself names it."""

    spec: str
    url: str
    """Address of the file."""
    page: str
    """Page that describes the model; empty where the address stands alone."""
    sha256: str
    """Of the file, or how it begins; empty where the library knows none."""
    cache: str
    """Where the library keeps what it fetched."""
    cached: Path | None
    """The file on this machine."""

    @property
    def file_name(self) -> str:
        """Name of the file at its address."""
        return urlsplit(self.url).path.rpartition("/")[2]


def published_weights(spec: BackboneSpec) -> PublishedWeights:
    """Return what the library knows of the weights that `spec` names; nothing is fetched.

    Raises InputError where the library names no address for them.
    """
    name = f"{spec.library}:{spec.name}/{spec.tag}"
    find = {"open_clip": _of_open_clip, "timm": _of_timm, "torchvision": _of_torchvision, "hf": _of_hf}[spec.library]
    found = find(name, spec)
    if not found.url:
        raise InputError(f"{spec.library} names no address for the weights {name}")
    return found


def require_weights(spec: BackboneSpec) -> None:
    """Raise InputError at once where published weights are neither on this machine nor to be had.

    Libraries find that out after a minute of attempts.
    """
    try:
        found = published_weights(spec)
    except InputError:
        return  # an unknown name, or weights without an address: the library says more
    if found.cached is None:
        reason = _why_unreachable(found.url)
        if reason:
            raise unreachable(found.spec, reason)


def unreachable(spec: str, reason: str) -> InputError:
    """Return the error for published weights that cannot be fetched, with every way on."""
    library, _, rest = spec.partition(":")
    missing = f"the weights {spec} are not on this machine and cannot be fetched ({_shortened(reason)}). "
    if library == "hf":
        return InputError(
            f"{missing}`fsar-prep weights {spec}` says which files to bring from a connected machine; pass their "
            "folder with --weights FOLDER or as --backbone hf:FOLDER, or try things out with --backbone "
            "random:hf/videomae-tiny"
        )
    return InputError(
        f"{missing}`fsar-prep weights {spec}` says which file to bring from a connected machine; "
        f"pass it with --weights FILE, or try things out with --backbone random:{library}/{rest.partition('/')[0]}"
    )


def _shortened(text: str, most: int = 160) -> str:
    """Return the first sentence of a message in one line, cut between words."""
    import textwrap

    line = " ".join(re.sub(r"\s*<[^<>]*?(\[[^\]]*\] ?[^<>]*)>", r" \1", text).split())
    first = re.split(r"(?<=[a-z)])\. (?=[A-Z])", line)[0].rstrip(".")
    return textwrap.shorten(first, most, placeholder=" ...")


def _why_unreachable(url: str) -> str:
    """Return why no connection towards `url` can be made, through the proxy where there is one; empty if it can."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") and url.startswith(_hub()):
        return "HF_HUB_OFFLINE is set"
    proxies = {} if urllib.request.proxy_bypass(urlsplit(url).hostname or "") else urllib.request.getproxies()
    proxy = proxies.get(urlsplit(url).scheme) or proxies.get("all", "")
    target = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else urlsplit(url)
    port = target.port or {"https": 443, "http": 80}.get(target.scheme, 1080)
    try:
        socket.create_connection((target.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        through = f"the proxy {target.hostname}" if proxy else str(target.hostname)
        return f"no connection to {through}: {error.strerror or error}"
    return ""


def _of_open_clip(name: str, spec: BackboneSpec) -> PublishedWeights:
    import open_clip

    config: Mapping[str, Any] = open_clip.get_pretrained_cfg(spec.name, spec.tag) or {}
    if config.get("hf_hub"):  # which open_clip prefers
        repository, file = os.path.split(config["hf_hub"])
        plain = file or "open_clip_pytorch_model.bin"
        names = ("open_clip_model.safetensors", plain) if not file else (plain,)
        return _on_hub(name, repository, names)
    url = str(config.get("url", ""))
    file = url.rpartition("/")[2]
    whole, part = re.search(r"/([0-9a-f]{64})/", url), re.search(r"-([0-9a-f]{8})\.", file)
    folder = Path("~/.cache/clip").expanduser()
    sha256 = whole[1] if whole else part[1] if part else ""
    return PublishedWeights(name, url, "", sha256, str(folder), _existing(folder / file))


def _of_timm(name: str, spec: BackboneSpec) -> PublishedWeights:
    import timm

    try:
        config = timm.get_pretrained_cfg(f"{spec.name.partition('.')[0]}.{spec.tag}")
    except RuntimeError:  # no such model or tag
        config = None
    repository = config.hf_hub_id if config else None
    if config and repository:
        names = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
        return _on_hub(name, repository, names)
    return _in_torch_hub(name, str(getattr(config, "url", "") or ""))


def _of_torchvision(name: str, spec: BackboneSpec) -> PublishedWeights:
    import torchvision

    try:
        url = torchvision.models.get_model_weights(spec.name)[spec.tag].url
    except (KeyError, ValueError):
        url = ""
    return _in_torch_hub(name, url)


def _in_torch_hub(name: str, url: str) -> PublishedWeights:
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = url.rpartition("/")[2]
    part = re.search(r"-([0-9a-f]{8,64})\.", file)
    return PublishedWeights(name, url, "", part[1] if part else "", str(folder), _existing(folder / file))


def _of_hf(name: str, spec: BackboneSpec) -> PublishedWeights:
    short = f"hf:{spec.name}" + (f"@{spec.tag}" if spec.tag != MAIN else "")
    return _on_hub(short, spec.name, ("model.safetensors", "model.safetensors.index.json"), revision=spec.tag)


def _on_hub(name: str, repository: str, files: tuple[str, ...], *, revision: str | None = None) -> PublishedWeights:
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = str(constants.HF_HUB_CACHE)
    try:
        found = [try_to_load_from_cache(repository, file, cache_dir=folder, revision=revision) for file in files]
    except HFValidationError as error:
        raise InputError(f"{repository!r} is no name of a repository: {error}") from error
    cached = next((Path(path) for path in found if isinstance(path, str)), None)
    page = f"{_hub()}/{repository}"
    return PublishedWeights(name, hf_hub_url(repository, files[0], revision=revision), page, "", folder, cached)


def _hub() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
