"""`fsar-prep tune`: what it refuses before it reads a video."""

import pytest
import torch
from click.testing import CliRunner

from fsar.cli.prep_tune import command
from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog


def run(folder, *words):
    rows = tuple(CatalogRow(name, folder / name, name, 1, "train") for name in "ab")
    write_catalog(Catalog(rows, "test"), folder / "catalog.csv")
    start = [str(folder / "catalog.csv"), "--backbone", "random:timm/test_resnet", "--out", str(folder / "w")]
    return CliRunner().invoke(command, [*start, *words])


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", "-1"],
        ["--lr", "-1"],
        ["--lr", "nan"],
        ["--lr", "inf"],
        ["--weight-decay", "nan"],
        ["--weight-decay", "-1"],
        ["--held-out", "nan"],
    ],
)
def test_numbers_that_nothing_can_be_trained_with_are_usage_errors(tmp_path, words):
    result = run(tmp_path, *words)
    assert result.exit_code == 2
    assert words[0] in result.output


@pytest.mark.parametrize(("device", "message"), [("bogus", "unknown device"), ("cuda", "no CUDA device")])
def test_a_device_that_is_not_there_is_said_so(tmp_path, device, message):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    result = run(tmp_path, "--device", device)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


@pytest.mark.parametrize("words", [["--antialias"], ["--no-antialias"]])
def test_the_retired_option_is_said_to_be_gone(tmp_path, words):
    result = run(tmp_path, *words)
    assert result.exit_code == 2
    assert "--antialias is gone" in result.output
