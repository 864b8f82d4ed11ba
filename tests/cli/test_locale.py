"""Names on disk are UTF-8, whatever the locale says."""

import os
import subprocess
import sys

import pytest

from tests.videos import write_clip


def test_a_catalog_holds_utf8_names_under_a_latin1_locale(tmp_path):
    made = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / "en_US.ISO-8859-1")]
    try:
        subprocess.run(made, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no definitions of locales on this machine")
    write_clip(tmp_path / "v" / "café" / "1.mp4", n_frames=2)
    environment = {**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": "en_US.ISO-8859-1"}
    environment.pop("PYTHONUTF8", None)
    encoding = [sys.executable, "-c", "import sys; print(sys.getfilesystemencoding())"]
    assert subprocess.run(encoding, env=environment, capture_output=True).stdout.strip() == b"iso8859-1"
    script = "import sys, fsar.cli.prep as p; sys.argv[0] = 'fsar-prep'; p.main()"
    arguments = ["index", "--dataset", "folder", "--videos", str(tmp_path / "v"), "--out", str(tmp_path / "c.csv")]
    subprocess.run([sys.executable, "-c", script, *arguments], env=environment, check=True, capture_output=True)
    assert (tmp_path / "c.csv").read_text(encoding="utf-8").splitlines()[1].startswith("café/1.mp4,v/café/1.mp4,café,")
