import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from fsar import list_heads, list_splits
from fsar.cli import prep_run, stage_process
from fsar.cli.run_file import STAGES, Stage, read_config
from fsar.cli.run_names import check_names
from fsar.cli.signals import INTERRUPTED
from fsar.errors import InputError, UsageError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.toml"))


def invoke(*arguments):
    return CliRunner().invoke(prep_run.command, [str(argument) for argument in arguments], standalone_mode=False)


def index_config(tmp_path, **more):
    videos = tmp_path / "data" / "walk"
    videos.mkdir(parents=True, exist_ok=True)
    (videos / "1.webm").write_bytes(b"video")
    path = tmp_path / "small.toml"
    table = {"dataset": "folder", "videos": str(tmp_path / "data"), "out": "catalog.csv", **more}
    path.write_text("[index]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_fits_the_commands(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = read_config(path, prep_run.stage_keys)
    check_names(stages, tmp_path, where=str(path))
    for stage in stages:
        prep_run.stage_command(stage.name).make_context(stage.name, list(stage.arguments)).close()
    wanted = {"train", "report"} if path.stem == "leaderboard" else {"index", "encode", "train", "eval"}
    assert wanted <= {stage.name for stage in stages}


def test_the_leaderboard_names_heads_and_splits_that_exist():
    (path,) = (path for path in CONFIGS if path.stem == "leaderboard")
    each = [table.get("each", {}) for table in tomllib.loads(path.read_text())["train"]]
    assert {name for table in each for name in table.get("head", [])} <= set(list_heads())
    assert {name for table in each for name in table["split"]} <= set(list_splits())


@pytest.mark.parametrize("path", [c for c in CONFIGS if c.stem != "leaderboard"], ids=lambda path: path.stem)
def test_every_shipped_config_names_heads_splits_and_files_that_exist(path):
    document = tomllib.loads(path.read_text())
    encodes = document["encode"] if isinstance(document["encode"], list) else [document["encode"]]
    assert {table["head"] for table in document["train"]} <= set(list_heads())
    assert set(document["eval"]["heads"]) <= {table["out"] for table in document["train"]} | set(list_heads())
    splits = {table.get("split") for table in (document["index"], *encodes, document["eval"])} - {None}
    assert len(splits) == (path.stem != "ssv2-sample")  # its annotations name the parts
    assert splits <= {*list_splits(), "videos/split.csv"}
    made = {document[stage]["out"] for stage in ("index", "extract") if stage in document}
    assert {encode["catalog"] for encode in encodes} <= made
    stores = {encode["out"] for encode in encodes}
    assert {table["store"] for table in document["train"] if "store" in table} == stores
    assert {table["videos"] for table in document["train"] if "videos" in table} <= made
    assert document["eval"]["store"] in stores


def test_the_demo_has_a_row_for_every_head_and_all_of_them_on_its_page():
    (path,) = (path for path in CONFIGS if path.stem == "demo")
    document = tomllib.loads(path.read_text())
    assert {table["head"] for table in document["train"]} == set(list_heads())
    assert set(document["report"]["runs"]) == {table["out"] for table in document["train"]}


def test_there_is_a_config_for_every_benchmark_dataset():
    assert {path.stem for path in CONFIGS} == {
        "demo",
        "leaderboard",
        "ssv2-sample",
        "hmdb51",
        "kinetics100",
        "ssv2-cmn",
        "ssv2-otam",
        "ucf101",
    }


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_of_every_stage_is_a_key(stage):
    keys = prep_run.stage_keys(stage)
    written = {f"--{key.name}" for key in keys.values() if not key.is_argument}
    for parameter in prep_run.stage_command(stage).params:
        if parameter.param_type_name == "option":
            assert written & set(parameter.opts)
        else:
            assert keys[parameter.name].is_argument


def test_stages_run_inside_the_folder_and_are_printed(tmp_path):
    result = invoke(index_config(tmp_path), "--out", tmp_path / "run")
    assert result.return_value == 0, result.output
    assert "+ fsar-prep index --dataset folder --videos" in result.output
    assert (tmp_path / "run" / "catalog.csv").is_file()
    assert "catalog.csv" in result.stdout


def test_a_dry_run_only_prints(tmp_path):
    result = invoke(index_config(tmp_path), "--out", tmp_path / "run", "--dry-run")
    assert result.return_value == 0
    assert "+ fsar-prep index" in result.output
    assert not (tmp_path / "run").exists()


def test_a_dry_run_as_json_lists_the_commands(tmp_path):
    result = invoke(index_config(tmp_path), "--out", tmp_path / "run", "--dry-run", "--json")
    document = json.loads(result.stdout)
    assert document["dry_run"] is True
    assert [line.split()[:2] for line in document["commands"]] == [["fsar-prep", "index"]]


def test_an_option_of_two_values_fits_its_command(tmp_path):
    path = tmp_path / "text.toml"
    path.write_text('[text]\nstore = "s.zarr"\nimport-hcl = ["a.pkl", "b.json"]\n')
    (stage,) = read_config(path, prep_run.stage_keys)
    assert stage.arguments == ("s.zarr", "--import-hcl", "a.pkl", "b.json")
    prep_run.stage_command("text").make_context("text", list(stage.arguments)).close()


def test_a_dry_run_of_everything_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from fsar.cli.prep_run import command\n"
        f"command.main([{str(CONFIGS[0])!r}, '--dry-run'], standalone_mode=False)\n"
        "assert not {'torch', 'av', 'zarr', 'h5py', 'open_clip'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "+ fsar-eval-head" in done.stderr


def test_overrides_reach_the_command(tmp_path):
    result = invoke(index_config(tmp_path), "--out", tmp_path / "run", "--set", f"index.out={tmp_path / 'other.csv'}")
    assert result.return_value == 0, result.output
    assert (tmp_path / "other.csv").is_file()


def test_the_chain_stops_at_the_first_failing_stage(tmp_path, capfd):
    path = index_config(tmp_path, split="none.csv")
    path.write_text(path.read_text().replace("[index]", "[[index]]") * 2)
    result = invoke(path, "--out", tmp_path / "run")
    assert result.return_value == 1
    assert result.output.count("+ fsar-prep index") == 1
    assert "stage index ended with exit code 1" in result.output
    assert "no split file none.csv" in capfd.readouterr().err


def test_keep_going_goes_on_after_partial_failures(tmp_path, capfd):
    path = index_config(tmp_path, split="none.csv")
    path.write_text(path.read_text().replace("[index]", "[[index]]") * 2)
    result = invoke(path, "--out", tmp_path / "run", "--keep-going")
    assert result.return_value == 1
    assert result.output.count("+ fsar-prep index") == 2


def test_a_wrong_value_is_refused_before_anything_runs(tmp_path):
    path = index_config(tmp_path, way="five")
    with pytest.raises(InputError, match=r"small\.toml, \[index\]: way: 'five' is not a valid integer"):
        read_config(path, prep_run.stage_keys)
    result = invoke(path, "--out", tmp_path / "run")
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ('[train]\nhead = "otma"\n', r"\[train\]: head: unknown head 'otma': did you mean otam"),
        ('[train]\n[train.each]\nhead = ["otam", "trxx"]\n', "head: unknown head 'trxx': did you mean trx"),
        (
            '[train]\nhead = "otam"\nfinetune = "timm:resnet1/x"\n',
            "finetune: unknown timm backbone 'resnet1'",
        ),
        ('[train]\nhead = "otam"\nfinetune = "last:2"\nway = "x"\n', "way: 'x' is not a valid integer"),
        ('[encode]\ncatalog = "c"\nout = "o.zarr"\nbackbone = "tim:resnet18"\n', "unknown backbone library"),
        ('[encode]\ncatalog = "c"\nout = "o.zarr"\nbackbone = "resnet18"\n', "unknown backbone library"),
        ('[encode]\ncatalog = "c"\nout = "o.zarr"\nbackbone = "random:hf/cilp"\n', "'cilp': did you mean clip"),
        ('[tune]\ncatalog = "c"\nout = "o"\nbackbone = "random:torchvision/resnet19@3"\n', "did you mean resnet1"),
        ('[tune]\ncatalog = "c"\nout = "o"\nbackbone = "open_clip:ViT-B-15/FILE.pt"\n', "did you mean ViT-B-1"),
        ('[train]\nhead = "otam"\nstore = "s"\nsplit = "ssv2-smal"\n', r"\[train\]: split: .* did you mean ssv2-small"),
        (
            '[train]\nhead = "otam"\nstore = "s"\npreset = "cache"\n',
            "preset: unknown preset 'cache': did you mean cached",
        ),
        ('[train]\nhead = "otam"\nstore = "s"\noption = "adap=none"\n', "option: .*did you mean adapter"),
        ('[train]\nhead = "otam"\nstore = "s"\noption = "adapter=nine"\n', "option: option adapter of head 'otam'"),
        ('[train]\nhead = "otam"\nstore = "s"\ndevice = "gpu"\n', "device: unknown device 'gpu'"),
        ('[train]\nhead = "otam"\nfinetune = "timm:test_resnet"\nimages = "squish"\n', "did you mean squash"),
        ('[eval]\nheads = ["otam", "otan"]\nstore = "s"\n', r"\[eval\]: heads: .*'otan': did you mean .*otam"),
        ('[eval]\nheads = "otam"\nstore = "s"\ncompare = "txr"\n', "compare: unknown run folder or head 'txr'"),
        (
            '[eval]\nheads = "otam"\nstore = "s"\nsplit = "hmdb52"\n',
            "split: unknown split 'hmdb52': did you mean hmdb51",
        ),
        (
            '[text]\nstore = "s"\nencoder = "clip:ViT-B-32"\n',
            r"\[text\]: encoder: text encoder 'clip:ViT-B-32' must be",
        ),
        ('[text]\nstore = "s"\nencoder = "open_clip:ViT-B-33/openai"\n', "encoder: .*did you mean ViT-B-32"),
        ('[text]\nstore = "s"\nencoder = "bert"\ntemplates = "clip-fsr"\n', "templates: .*did you mean clip-fsar"),
        ('[encode]\ncatalog = "c"\nout = "o"\nbackbone = "timm:test_resnet"\nsampler = "dens"\n', "did you mean dense"),
        ('[encode]\ncatalog = "c"\nout = "o"\nbackbone = "timm:test_resnet"\npixels = "trz"\n', "did you mean trx"),
        ('[encode]\ncatalog = "c"\nout = "o"\nbackbone = "timm:test_resnet"\ndecoder = "pyaw"\n', "did you mean pyav"),
    ],
)
def test_a_name_that_nobody_has_is_refused_before_anything_runs(tmp_path, stage, message):
    path = index_config(tmp_path)
    path.write_text(path.read_text() + stage)
    result = invoke(path, "--out", tmp_path / "run")
    assert isinstance(result.exception, UsageError)
    assert re.search(message, str(result.exception)), result.exception
    assert not (tmp_path / "run").exists()


def test_what_a_stage_will_make_is_not_looked_for(tmp_path):
    path = index_config(tmp_path)
    path.write_text(
        path.read_text() + '[encode]\ncatalog = "catalog.csv"\nout = "o.zarr"\nbackbone = "timm:test_resnet/tuned.pt"\n'
        '[train]\nhead = "otam"\nfinetune = "hf:folder/of/mine"\nout = "mine"\nsplit = "made/split"\n'
        '[text]\nstore = "s.zarr"\nencoder = "bert:folder"\ntemplates = "prompts.txt"\nsplit = "split.csv"\n'
        '[eval]\nheads = ["mine", "there", "runs/trx", "otam"]\nstore = "s.zarr"\ncompare = "tsn"\nsplit = "SSv2-CMN"\n'
    )
    (tmp_path / "there").mkdir()
    stages = read_config(path, prep_run.stage_keys)
    assert [stage.name for stage in stages] == ["index", "encode", "text", "train", "eval"]
    check_names(stages, tmp_path, where="file")


def test_a_mistake_in_the_file_is_one_of_usage(tmp_path):
    path = index_config(tmp_path, way="five")
    line = [sys.executable, "-m", "fsar.cli.prep", "run", str(path)]
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)


def wait_for(path, limit_seconds=20):
    end = time.monotonic() + limit_seconds
    while not path.exists():
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.01)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Make a stage of a small program: it says it is ready, waits, and tidies up when it is interrupted."""
    (tmp_path / "waiting_program.py").write_text(
        "import pathlib, sys, time\n"
        "def main():\n"
        "    try:\n"
        "        pathlib.Path('ready').touch()\n"
        "        time.sleep(30)\n"
        "    except KeyboardInterrupt:\n"
        "        pathlib.Path('tidy').touch()\n"
        "        sys.exit(130)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setitem(prep_run.PROGRAMS, "train", ("waiting", "waiting_program"))
    monkeypatch.setattr(stage_process, "GRACE_SECONDS", 0.1)

    def when_ready(action):
        def wait():
            wait_for(tmp_path / "ready")
            action()

        threading.Thread(target=wait, daemon=True).start()
        return prep_run.run_stage(Stage("train", ()), tmp_path, stage_process.StageProcesses())

    return when_ready


def test_an_interruption_waits_for_the_stage_to_tidy_up(program, tmp_path):
    assert program(lambda: os.kill(os.getpid(), signal.SIGINT)) == 130
    assert (tmp_path / "tidy").exists()


def test_termination_is_passed_on(program, tmp_path):
    assert program(lambda: os.kill(os.getpid(), signal.SIGTERM)) in INTERRUPTED
    assert (tmp_path / "tidy").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a child that its parent died")
@pytest.mark.parametrize("form", ["foreground", "background", "all signals blocked"])
def test_a_stage_does_not_outlive_a_killed_run(program, tmp_path, form):
    before = {
        "foreground": "",
        "background": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n",
        "all signals blocked": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n",
    }[form]
    code = before + (
        "from pathlib import Path; from fsar.cli import prep_run; from fsar.cli.run_file import Stage\n"
        "from fsar.cli.stage_process import StageProcesses\n"
        "prep_run.PROGRAMS['train'] = ('waiting', 'waiting_program')\n"
        "prep_run.run_stage(Stage('train', ()), Path('.'), StageProcesses())"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    wait_for(tmp_path / "ready")
    run.kill()
    run.wait()
    wait_for(tmp_path / "tidy")


FORKED = """
import sys
from pathlib import Path
from fsar.cli.stage_process import StageProcesses
stages = StageProcesses()
forks = stages._forks
for name, as_data in [("ended", False), ("failed", True), ("killed", False)]:
    print("before", name, end="; ")  # a fork must not print it again
    code = stages.run("program", "ending_program", [name], Path("there"), stdout_is_data=as_data)
    print("code", code)
print("forked:", forks, "torch" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_stages_are_forked_where_torch_was_not_yet_in_use(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "ending_program.py").write_text(
        "import os, pathlib, sys\n"
        "def main():\n"
        "    print(pathlib.Path.cwd().name, *sys.argv)\n"
        "    import torch\n"
        "    if sys.argv[1] == 'killed':\n"
        "        sys.stdout.flush()\n"
        "        os.kill(os.getpid(), 9)\n"
        "    sys.exit(sys.argv[1] == 'failed' and 3)\n"
    )
    ended = subprocess.run([sys.executable, "-c", FORKED], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.stdout.splitlines() == [
        "before ended; there program ended",
        "code 0",
        "before failed; code 3",
        "before killed; there program killed",
        "code 137",
        "forked: True False",
    ]
    assert "there program failed" in ended.stderr


def test_what_stages_share_is_imported_once_before_the_first(tmp_path):
    """Imports are most of what a small stage takes; where torch was imported by somebody else nothing is forked."""
    code = (
        "import sys; from fsar.cli.stage_process import SHARED_IMPORTS, StageProcesses\n"
        "stages = StageProcesses(); stages.prepare()\n"
        "print([name for name in SHARED_IMPORTS if name not in sys.modules], StageProcesses()._forks)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ended.stdout.split("\n")[0] == (
        "[] False" if sys.platform == "linux" else str([*stage_process.SHARED_IMPORTS]) + " False"
    )


def test_a_stage_whose_run_is_gone_before_it_starts_ends(tmp_path):
    code = "from fsar.cli.signals import end_with_parent; end_with_parent(1 << 30); print('went on')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == ((143, "") if sys.platform == "linux" else (0, "went on\n"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (130, "interrupted in stage index: run the same line again to go on"),
        (143, "interrupted in stage index: run the same line again to go on"),
        (137, "stage index was killed, often for want of memory"),
        (1, "stage index ended with exit code 1: mend it"),
    ],
)
def test_how_a_stage_ended_is_said_in_words(tmp_path, monkeypatch, code, message):
    monkeypatch.setattr(prep_run, "run_stage", lambda *arguments, **options: code)
    result = invoke(index_config(tmp_path), "--out", tmp_path / "run")
    assert result.return_value == code
    assert message in result.output


@pytest.mark.parametrize("ignored", [False, True])
def test_a_command_that_is_terminated_says_it_was_interrupted(tmp_path, ignored):
    code = (
        "import os, signal, sys, click\n"
        + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" * ignored
        + "from fsar.cli.common import run_command\n"
        "@click.command()\n"
        "def command():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "run_command(command, 'x')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 143
    assert ended.stderr.strip() == "interrupted: what was finished is kept; run the same command again to go on"


def test_results_of_all_runs_end_in_a_table(tmp_path):
    run = tmp_path / "run" / "runs" / "otam"
    run.mkdir(parents=True)
    facts = {"head": "otam", "split": "mine", "part": "test", "n_way": 5, "n_shot": [1, 5], "n_episodes": 100}
    (run / "result.json").write_text(json.dumps({**facts, "accuracy": 0.6543, "ci95": 0.0121}))
    (run.parent / "untested").mkdir()
    (run.parent / "untested" / "result.json").write_text(json.dumps({**facts, "accuracy": None}))
    result = invoke(index_config(tmp_path), "--out", tmp_path / "run")
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("otam")]
    assert line.split()[:9] == ["otam", "in", "runs/otam", "5", "1/5", "65.43", "1.21", "100", "test"]
    as_json = invoke(index_config(tmp_path), "--out", tmp_path / "run", "--json")
    assert json.loads(as_json.stdout)["results"][0]["path"] == "runs/otam/result.json"


def test_help_names_every_stage():
    text = invoke("--help").output
    assert all(stage in text for stage in STAGES)
    assert sys.executable not in text
