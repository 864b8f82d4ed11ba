"""Every snippet of every page runs, in the order in which a reader meets it."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.pages import RUN, SHOWN, blocks, pages, run_page
from tests.docs.prepare import PREPARE, RUN_ELSEWHERE

BY_NAME = {page.name: page for page in pages()}
EXECUTED = sorted(name for name, page in BY_NAME.items() if any(block.language in RUN for block in blocks(page)))


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_block_says_what_it_is(name: str) -> None:
    for block in blocks(BY_NAME[name]):
        assert block.language in RUN | SHOWN, f"{name}, line {block.line}: language {block.language!r}"
        if block.language == "toml":
            tomllib.loads(block.code)
        if block.language == "json":
            json.loads(block.code)


@pytest.mark.docs
@pytest.mark.parametrize("name", sorted(set(EXECUTED) - set(RUN_ELSEWHERE)))
def test_the_snippets_of_a_page_run(name: str, tmp_path: Path) -> None:
    prepare: Callable[[Path], None] = PREPARE.get(name, lambda folder: None)
    prepare(tmp_path)
    run_page(BY_NAME[name], tmp_path)


def test_pages_that_run_elsewhere_have_a_test_there() -> None:
    for name, test in RUN_ELSEWHERE.items():
        assert name in BY_NAME
        assert name in (Path(__file__).resolve().parents[1] / test).read_text()
