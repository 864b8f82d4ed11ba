"""Our heads against numbers that the official code produced: every file of every registered method's folder."""

import pytest

from fsar.heads.checkpoints.official import list_official
from tests.conftest import GOLDENS
from tests.heads.goldens import METHODS, check

ELSEWHERE = {"baseline", "tsl", "simpleshot"}
"""Classifiers without weights to import: `test_tuned_classifiers.py`. Steps from pixels: `finetune/`."""

NO_HEAD = {"text_p4_4way"}
"""Task-Adapter++'s text tower alone: `test_task_adapter.py`."""

FILES = [(method, path) for method in sorted(METHODS) for path in sorted(GOLDENS.glob(f"{method}/*.safetensors"))]
CASES = [(method, path) for method, path in FILES if path.stem not in NO_HEAD]


@pytest.mark.skipif(not CASES, reason=f"no parity vectors at {GOLDENS} (set FSAR_GOLDENS)")
@pytest.mark.parametrize(("method", "path"), CASES, ids=[f"{method}/{path.stem}" for method, path in CASES])
def test_head_reproduces_the_official_numbers(method, path):
    check(method, path)


@pytest.mark.shared
def test_no_vectors_are_passed_over_in_silence():
    folders = {folder.name for folder in GOLDENS.glob("*") if any(folder.glob("*.safetensors"))}
    heads = {name for name in folders if not name.startswith("finetune_")}
    assert sorted(heads - set(METHODS) - ELSEWHERE) == []


def test_every_importer_has_parity_vectors_to_answer_to():
    assert set(list_official()) == set(METHODS)
