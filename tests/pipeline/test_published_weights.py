"""Published weights on machines without a connection: said at once, with every way on."""

import json
import socket
import time

import open_clip
import pytest
import timm
import torch
import torchvision
from click.testing import CliRunner

from fsar.cli.prep import prep
from fsar.errors import InputError
from fsar.files import sha256_file
from fsar.pipeline.backbones import load_backbone, published
from fsar.pipeline.backbones.published import published_weights
from fsar.pipeline.backbones.spec import parse_spec

SPECS = ["open_clip:ViT-B-32/openai", "torchvision:resnet18/IMAGENET1K_V1", "timm:resnet10t/c3_in1k"]


@pytest.fixture(autouse=True)
def away(monkeypatch, tmp_path):
    """A home without any cache, and a line that leads nowhere."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(socket, "create_connection", refuse(OSError(113, "No route to host")))


def refuse(error):
    def call(*arguments, **options):
        raise error

    return call


@pytest.mark.parametrize("spec", SPECS)
def test_no_connection_is_said_at_once_with_every_way_on(monkeypatch, spec):
    for library, function in ((open_clip, "create_model"), (timm, "create_model"), (torchvision.models, "get_model")):
        monkeypatch.setattr(library, function, refuse(AssertionError("the library was asked")))
    with pytest.raises(InputError) as caught:
        load_backbone(spec)
    message = str(caught.value)
    library, _, rest = spec.partition(":")
    assert "No route to host" in message
    assert f"`fsar-prep weights {spec}`" in message
    assert "--weights FILE" in message
    assert f"random:{library}/{rest.split('/')[0]}" in message


@pytest.mark.parametrize("spec", SPECS)
def test_a_library_that_fails_is_one_line_cut_between_words(monkeypatch, spec):
    monkeypatch.setattr(published, "_why_unreachable", lambda url: "")
    long = "words " * 100
    for library, function in ((open_clip, "create_model"), (timm, "create_model"), (torchvision.models, "get_model")):
        monkeypatch.setattr(library, function, refuse(OSError(f"the server is\naway {long}. And much more.")))
    with pytest.raises(InputError, match=r"the server is away words .*words \.\.\.\)\. `fsar-prep weights"):
        load_backbone(spec)


def test_a_dead_proxy_is_named(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    with pytest.raises(InputError, match=r"no connection to the proxy proxy\.example: No route to host"):
        load_backbone("torchvision:resnet18/IMAGENET1K_V1")


def test_a_silent_server_is_not_waited_for(monkeypatch):
    monkeypatch.undo()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(1)]  # fills the queue: no answer after it
        monkeypatch.setattr(published, "CONNECT_SECONDS", 0.2)
        start = time.monotonic()
        published._why_unreachable(f"https://127.0.0.1:{port}/x")
        assert time.monotonic() - start < 5
        for connection in held:
            connection.close()


def test_weights_on_this_machine_need_no_connection(tmp_path):
    found = published_weights(parse_spec(SPECS[1]))
    file = tmp_path / "torch" / "checkpoints" / found.file_name
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), file)
    assert published_weights(parse_spec(SPECS[1])).cached == file
    assert load_backbone(SPECS[1]).dim == 512


@pytest.mark.parametrize("spec", SPECS)
def test_the_command_names_file_address_hash_and_line(spec):
    result = CliRunner().invoke(prep, ["weights", spec, "--json"], standalone_mode=False)
    data = json.loads(result.stdout)
    assert data["url"].endswith(data["file"])
    assert data["url"].startswith("https://")
    assert data["sha256"] or data["page"]
    assert data["cached"] is None
    text = CliRunner().invoke(prep, ["weights", spec], standalone_mode=False).stdout
    assert f"--backbone {spec} --weights {data['file']}" in text


def test_a_file_that_was_brought_is_checked(tmp_path):
    file = tmp_path / "resnet18-f37072fd.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    line = ["weights", SPECS[1], "--file", str(file)]
    result = CliRunner().invoke(prep, line, standalone_mode=False)
    assert result.return_value == 1
    assert f"its sha256 is {sha256_file(file)}, it must be f37072fd...: fetch it again" in result.stdout


def test_a_file_that_fits_is_said_to(tmp_path):
    file = tmp_path / "model.safetensors"
    from safetensors.torch import save_file

    save_file(timm.create_model("resnet10t").state_dict(), file)
    result = CliRunner().invoke(prep, ["weights", SPECS[2], "--file", str(file)], standalone_mode=False)
    assert result.return_value == 0, result.stdout
    assert "is the right file and loads" in result.stdout
    save_file({"conv": torch.ones(2)}, file)
    assert CliRunner().invoke(prep, ["weights", SPECS[2], "--file", str(file)], standalone_mode=False).return_value == 1


def test_a_backbone_without_published_weights_is_one_error():
    result = CliRunner().invoke(prep, ["weights", "random:timm/resnet18"], standalone_mode=False)
    assert isinstance(result.exception, InputError)
    assert "names no published weights" in str(result.exception)
    assert "names no address" in str(
        CliRunner().invoke(prep, ["weights", "torchvision:resnet18/NO"], standalone_mode=False).exception
    )
