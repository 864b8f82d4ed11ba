"""Reading the text vectors that HCL publishes: what is read, and what is refused."""

import contextlib
import json
import os
import pickle

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.text.hcl import read_array, read_hcl_text

VECTORS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
VIDEOS = [("a1", "jump"), ("b1", "run"), ("a2", "jump")]


def write(folder, array=VECTORS, rows=None, protocol=3):
    embeddings, ids = folder / "x_embs.pkl", folder / "x_vid2embid.json"
    embeddings.write_bytes(pickle.dumps(array, protocol=protocol))
    ids.write_text(json.dumps({"a1": 2, "a2": 2, "b1": 0} if rows is None else rows))
    return embeddings, ids


def published(content: bytes) -> bytes:
    """Spell the modules as the numpy of the published files did."""
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.mark.parametrize("old_names", [True, False])
def test_classes_get_the_rows_of_their_videos(tmp_path, old_names):
    embeddings, ids = write(tmp_path)
    if old_names:
        embeddings.write_bytes(published(embeddings.read_bytes()))
    table = read_hcl_text(embeddings, ids, VIDEOS)
    assert table.class_names == ("jump", "run")
    np.testing.assert_array_equal(table.vectors, VECTORS[[2, 0]][None])


def test_texts_of_single_videos_are_averaged_only_when_asked(tmp_path):
    paths = write(tmp_path, rows={"a1": 2, "a2": 1, "b1": 0})
    with pytest.raises(InputError, match="'jump' different texts"):
        read_hcl_text(*paths, VIDEOS)
    table = read_hcl_text(*paths, VIDEOS, average=True)
    np.testing.assert_allclose(table.vectors[0, 0], VECTORS[[1, 2]].mean(0))


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("made-by-the-pickle",)


class HostileElement:
    """An array whose elements would run code."""

    def __reduce__(self):
        return np.array([Hostile()], dtype=object).__reduce__()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Hostile(), r"asks for (posix|nt)\.mkdir"),
        ([VECTORS, Hostile()], r"asks for (posix|nt)\.mkdir"),
        (HostileElement(), "got numbers of type"),
        (np.array(["a"], dtype="U1"), "got numbers of type"),
        (np.arange(6).reshape(2, 3), "got numbers of type"),
        (VECTORS.astype(np.float64), "must hold a float32 array"),
        (VECTORS[0], "must hold a float32 array"),
        ({"x": 1}, "got dict"),
    ],
)
def test_other_contents_are_refused_and_nothing_runs(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    embeddings, _ = write(tmp_path, array=content)
    with pytest.raises(InputError, match=message):
        read_array(embeddings)
    assert not (tmp_path / "made-by-the-pickle").exists()


@pytest.mark.parametrize("cut", [0, 1, 40, 100, 150])
def test_a_cut_file_is_refused(tmp_path, cut):
    embeddings, _ = write(tmp_path)
    embeddings.write_bytes(embeddings.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"x_embs\.pkl"):
        read_array(embeddings)


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path):
    embeddings, _ = write(tmp_path)
    content = embeddings.read_bytes()
    at = content.index(b"K\x03K\x05")  # the shape (3, 5)
    embeddings.write_bytes(content[:at] + b"K\xffK\xff" + content[at + 4 :])
    with pytest.raises(InputError, match=r"x_embs\.pkl"):
        read_array(embeddings)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a1": 2, "a2": 2}, r"no row for 1 videos \(b1\)"),
        ({"a1": 9, "a2": 9, "b1": 0}, "points to row 9, .* has 3"),
        ({"a1": "2", "a2": 2, "b1": 0}, "must map video ids to row numbers"),
        ([1, 2], "must map video ids to row numbers"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_hcl_text(*write(tmp_path, rows=rows), VIDEOS)


def test_a_text_file_that_is_not_json_is_refused(tmp_path):
    embeddings, ids = write(tmp_path)
    ids.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        read_hcl_text(embeddings, ids, VIDEOS)


def test_no_changed_byte_does_harm(tmp_path):
    """numpy's own unpickling crashes the process on some of these."""
    embeddings, _ = write(tmp_path)
    whole = embeddings.read_bytes()
    readable = 0
    for place in range(len(whole)):
        for value in {whole[place] ^ 1, whole[place] ^ 0x80, ord("b"), ord("N"), 0xFF}:
            embeddings.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            with contextlib.suppress(InputError):
                assert read_array(embeddings).dtype == np.float32
                readable += 1
    assert readable  # a number may change unseen
