"""Options that no head can work with are refused where the head is made."""

import os

import pytest

from fsar.errors import InputError
from fsar.heads import create_head
from fsar.heads.run_folder import write_tensors
from fsar.heads.setup.options import typed_options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tsn", {"metric": "euclidian"}, "metric must be 'cosine' or 'euclidean'"),
        ("proto", {"metric": "l2"}, "metric must be"),
        ("hyrsm", {"dim": 8, "relate": "video"}, "relate must be"),
        ("pal", {"dim": 8, "compat": "oficial"}, "compat must be"),
        ("crosstransformer", {"dim": 8, "compat": "oficial"}, "compat must be"),
        ("crosstransformer", {"dim": 8, "out_dim": 0}, "out_dim must be 1 or more"),
        ("hyrsm++", {"dim": 8, "compat": "oficial"}, "compat must be"),
        ("hyrsm", {"dim": 8, "n_heads": 0}, "n_heads must be 1 or more"),
        ("molo", {"dim": 8, "n_heads": 0}, "n_heads must be 1 or more"),
        ("hyrsm", {"dim": 8, "position": (0.0, 1.0)}, "position must be two numbers"),
        ("trx", {"dim": 8, "out_dim": 0}, "out_dim must be 1 or more"),
        ("trx", {"dim": 8, "dropout": 2.0}, "dropout must be between 0 and 1, got 2.0"),
        ("tsn", {"dim": 8, "adapter": "linear", "dropout": 1.5}, "dropout must be"),
        ("clip-fsar", {"text_exponent": 5.0}, "text_exponent must be between 0 and 1"),
        ("clip-fsar", {"depth": 0}, "depth must be 1 or more"),
        ("clip-proto-text", {"text_weight": 3.0}, "text_weight must be between 0 and 1"),
        ("trx", {}, "head 'trx' needs the option dim"),
    ],
)
def test_an_option_without_a_meaning_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        create_head(name, **options)


@pytest.mark.parametrize("text", ["position=1", "position=1,2,3"])
def test_a_pair_has_two_parts(text):
    with pytest.raises(InputError, match="option position"):
        typed_options("hyrsm", dict([text.split("=")]))
    assert typed_options("hyrsm", {"position": "50,1"}) == {"position": (50.0, 1.0)}


def test_weights_can_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "x.safetensors", {})
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
