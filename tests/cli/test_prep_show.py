"""`fsar-prep show`: the strip holds the frames and pixels that encoding gives the network."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fsar.cli.prep_show import command
from tests.videos import read_number, write_clip

SIZE = 64


def show(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=True)


def test_the_strip_shows_the_sampled_frames(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", n_frames=16)
    ended = show(clip, "--frames", 4, "--size", SIZE, "--resize-to", SIZE, "--out", tmp_path / "strip.png", "--json")
    assert ended.exit_code == 0, ended.output
    assert len(json.loads(ended.stdout)["frame_times_seconds"]) == 4
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    assert strip.shape == (SIZE, 4 * SIZE + 3 * 2, 3)
    numbers = [read_number(strip[:, i * (SIZE + 2) : i * (SIZE + 2) + SIZE]) for i in range(4)]
    assert numbers == [2, 6, 10, 14]  # the middle of each quarter of 16 frames


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["gone.mp4"], "does not exist"), (["clip.mp4", "--out", "strip.gif"], "must end in .png"),
     (["clip.mp4", "--store", "s.zarr", "--size", "8"], "the store's to say")],
)  # fmt: skip
def test_what_cannot_be_shown_is_said(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4")
    assert message in str(show(*arguments).exception)
