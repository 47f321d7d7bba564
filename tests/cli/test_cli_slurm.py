"""`wsss slurm`: a script that Slurm would take, tried with an sbatch that runs each job at once."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wsss_cli.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))

import tiny_maps

# Runs what it is given at once, a task after another, unless the job that it waits for has failed; notes its options.
SBATCH = r"""#!/usr/bin/env bash
count=1
after=
for option in "$@"; do
  case $option in
    --array=*) count=${option#--array=1-}; count=${count%%%*} ;;
    --dependency=afterok:*) after=${option##*:} ;;
  esac
done
script=$(cat)
id=$((7000 + $(ls jobs | wc -l)))
printf '%q ' "$@" > "jobs/$id"
echo "$id;cluster"
[ -n "$after" ] && [ ! -e "ended/$after" ] && exit 0
for task in $(seq "$count"); do
  SLURM_ARRAY_TASK_ID=$task bash -c "$script" >> log 2>&1 || { echo "exit $?" >> log; exit 0; }
done
touch "ended/$id"
"""


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["slurm", *arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `sbatch` and `wsss` on the PATH, and images, maps and truth with awkward names."""
    for folder in ("bin", "jobs", "ended"):
        (tmp_path / folder).mkdir()
    python = f'#!/usr/bin/env bash\nexec {shlex.quote(sys.executable)} -m wsss_cli "$@"\n'
    for name, text in (("sbatch", SBATCH), ("wsss", python)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    tiny_maps.write_cams(tmp_path / "it's $HOME", tiny_maps.write_images(tmp_path / "images"))
    tiny_maps.write_truth(tmp_path / "truth")
    return tmp_path


def submit(script: str) -> str:
    """Run the script as a user does; what it says."""
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


CHAIN = (
    "--array 2 --partition gpu pseudo-labels {} -o masks --time 1:00:00 + eval masks --truth truth --gpus 1"
)


def test_two_commands_one_after_the_other(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Array, merge, array, merge, each after the one before; the folders are those of runs without shards."""
    maps = "it's $HOME"
    script = printed(capsys, *(maps if word == "{}" else word for word in CHAIN.split()), "--concurrent", "1")
    said = submit(script)

    assert said.splitlines() == [
        "pseudo-labels: job 7000", "merge of pseudo-labels: job 7001", "eval: job 7002", "merge of eval: job 7003",
    ]  # fmt: skip
    assert sorted(path.name for path in (cluster / "ended").iterdir()) == ["7000", "7001", "7002", "7003"]
    assert main(["status", "masks", "eval", "--verify"]) == 0
    assert "masks: pseudo-labels, complete, 4 done\neval: eval, complete\n" in capsys.readouterr().out
    options = [shlex.split((cluster / "jobs" / f"700{i}").read_text()) for i in range(4)]
    assert {"--array=1-2", "--time=1:00:00", "--requeue", "--signal=B:TERM@120"} <= set(options[0])
    assert {"--output=slurm/%x-%A_%a.log", "--kill-on-invalid-dep=yes"} <= set(options[0])
    assert {"--array=1-2%1", "--gpus=1", "--dependency=afterok:7001"} <= set(options[2])
    assert "--dependency=afterok:7000" in options[1]
    assert [option for option in options[3] if option.startswith(("--gpus", "--array"))] == []
    assert all("--partition=gpu" in each for each in options)
    assert (cluster / "slurm").is_dir()


@pytest.mark.parametrize(("allowed", "ended"), [((), 1), (("--allow-failed", "1"), 3)])
def test_a_failed_image_stops_the_chain_unless_allowed(
    cluster: Path, capsys: pytest.CaptureFixture[str], allowed: tuple[str, ...], ended: int
) -> None:
    """The array goes through and its merge ends with 3, so that what comes after does not begin; or is allowed to."""
    (cluster / "it's $HOME" / "items" / "a" / "2.npz").write_bytes(b"")
    words = ["--array", "2", *allowed, "pseudo-labels", "it's $HOME", "-o", "masks", "+", "status", "masks"]
    submit(printed(capsys, *words))

    assert len(list((cluster / "ended").iterdir())) == ended
    assert ("exit 3" in (cluster / "log").read_text()) is not bool(allowed)


def test_a_job_that_is_not_taken_ends_the_script(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What comes after it would never begin."""
    (cluster / "bin" / "sbatch").write_text("#!/usr/bin/env bash\necho asked >> log\nexit 1\n")
    script = printed(capsys, "--array", "2", "crf", "cams", "+", "pseudo-labels", "crf")
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True, check=False)

    assert done.returncode == 1
    assert (cluster / "log").read_text() == "asked\n"


def test_what_cannot_be_cut_is_one_job(capsys: pytest.CaptureFixture[str]) -> None:
    """A training takes the general options but no array; without --array nothing is cut, nor found to be."""
    words = ["--array", "3", "--after", "12", "train-cls", "images", "--labels", "l.csv"]
    script = printed(capsys, *words, "+", "cams", "cls/ckpt.pt", "images")
    assert "exec wsss train-cls images --labels l.csv\n" in script
    assert "--dependency=afterok:12 <<" in script
    assert 'exec wsss cams cls/ckpt.pt images --shard "$SLURM_ARRAY_TASK_ID/3"' in script
    assert "exec wsss merge cams\n" in script
    assert "exec wsss crf cams --shard none\n" in printed(capsys, "crf", "cams")
    assert "exec wsss merge export-rgb\n" in printed(capsys, *["export", "m", "--to", "rgb", "--array", "2"])


def test_what_may_lack_images_is_read_by_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    """--allow-failed would be in vain if the command after it refused the folder."""
    chain = ["crf", "cams", "+", "pseudo-labels", "crf", "+", "status", "pseudo-labels"]
    commands = [
        line for line in printed(capsys, "--allow-failed", "2", *chain).splitlines() if line[:4] == "exec"
    ]

    assert [line for line in commands if "--allow-partial" in line] == [
        "exec wsss pseudo-labels crf --allow-partial --shard none --allow-failed 2"
    ]
    assert "--allow-partial" not in printed(capsys, *chain)


def commands(script: str) -> list[str]:
    return [line.removeprefix("exec wsss ") for line in script.splitlines() if line.startswith("exec ")]


def test_a_file_of_defaults_goes_with_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which is checked with it; a command that has one of its own keeps that."""
    monkeypatch.chdir(tmp_path)
    Path("my own.toml").write_text('[crf]\nout = "here"\n[slurm]\narray = "2"\n')
    Path("wrong.toml").write_text("[crf]\nnosuch = 3\n")
    words = ["crf", "cams", "+", "pseudo-labels", "here", "--config=b.toml"]
    Path("b.toml").touch()

    assert commands(printed(capsys, "--config", "my own.toml", *words)) == [
        """crf cams --config 'my own.toml' --shard "$SLURM_ARRAY_TASK_ID/2" --allow-failed 100%""",
        "merge here --config 'my own.toml'",
        """pseudo-labels here --config=b.toml --shard "$SLURM_ARRAY_TASK_ID/2" --allow-failed 100%""",
        "merge pseudo-labels --config b.toml",
    ]
    assert main(["slurm", "crf", "cams", "--config", "wrong.toml"]) == 2
    assert "nosuch" in capsys.readouterr().err


def test_what_the_settings_leave_whole_is_one_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An array that was meant for the other commands; WSSS_SHARD may say that nothing is cut."""
    monkeypatch.setenv("WSSS_SHARD", "none")
    script = printed(
        capsys, "--array", "2", "refine", "cams", "--method", "irn", "+", "export", "m", "--to", "coco"
    )
    assert commands(script) == [
        "refine cams --method irn --shard none",
        "export m --to coco --shard none",
    ]


def test_ways_to_refine_that_learn() -> None:
    """What the settings say of them is what the refiners say themselves."""
    pytest.importorskip("torch")
    from wsss_cli.config import whole_refiner
    from wsss_cli.refiners import REFINERS

    for name in REFINERS.names():
        assert bool(whole_refiner(name)) == bool(REFINERS.load(name).TRAINING)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("crop x", "crop"),
        ("cams", "CKPT"),
        ("cams a b --nosuch 3", "--nosuch"),
        ("train-cls a --labels b --array 3", "cannot be cut"),
        ("cams a b --array 0", "--array is '0'"),
        ("cams a b --array", "--array needs a value"),
        ("cams a b --concurrent x", "--concurrent is 'x'"),
        ("cams a b +", "'+'"),
        ("+ cams a b", "'+'"),
        ("slurm cams a b", "prints a script"),
        ("cams a b --shard 1/2", "Leave it out"),
        ("--after x cams a b", "--after is 'x'"),
        ("cams a b --allow-failed x", "--allow-failed is 'x'"),
        ("--array 2 cams a b --executor ray", "into shards itself"),
        ("--array 2 cams a b --dry-run", "--dry-run"),
        ("export m --to coco --array 2", "--to coco"),
        ("refine cams --method irn --array 2", "--method irn"),
        ("--array 2 stream a b", "--crf-set threshold="),
        ("--array 2 cams a b --shard none", "Leave it out"),
    ],
)
def test_what_would_fail_is_refused_at_once(
    words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, one sentence, and no script: the commands' own parsers are asked."""
    assert main(["slurm", *words.split()]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["cams", "a", "b\nEND_OF_JOB\nrm -r x"], ["cams", "a", "b", "--time", "1\n2"]]
)
def test_no_word_ends_a_job_early(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A line break in a name would let it stand as a line of the script."""
    assert main(["slurm", *words]) == 2
    assert capsys.readouterr().out == ""
