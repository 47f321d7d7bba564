"""Two ranks on this machine learn what one process learns from the same batches, and end together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.layers import BatchNormAct2d

from wsss_cli.cli import main
from wsss_cli.config import Execution
from wsss_cli.data.clearing import RESUME
from wsss_cli.data.masks import encode_mask
from wsss_cli.data.run import Run
from wsss_cli.errors import EnvironmentProblemError, UsageError
from wsss_cli.nets.synced import SyncedBatchNorm, synchronise
from wsss_cli.ranks import Place, place
from wsss_cli.reporter import Silent
from wsss_cli.runtime.device import choose_device, loading_processes
from wsss_cli.runtime.loading import EpochSampler, Share
from wsss_cli.runtime.schedule import Recipe

DEEDS = Path(__file__).with_name("rank_deeds.py")
STEPS = 20  # an epoch has one step, so that a row of metrics.json is a step
NEAR = 1e-4  # relative
TRAINING = (
    "--device=cpu", "--precision=fp32", "--drop-path=0", "--warmup-epochs=0", f"--epochs={STEPS}", "--batch-size=8",
    "--lr=1e-3",
)  # fmt: skip
CLS = ("train-cls", "images", "--labels=labels.csv", "--image-size=32", *TRAINING)
SEG = ("train-seg", "masks", "--crop-size=32", "--max-side=32", "--augment=none", *TRAINING)
CAM = (*CLS, "--method=cam", "--backbone=tiny")


def write_data(root: Path) -> None:
    """Eight pictures of two classes with labels, and masks with as many unknown pixels as it happens."""
    (root / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows, names = ["image,classes"], [f"p{number}" for number in range(8)]
    for number, name in enumerate(names):
        pixels = random.integers(0, 255, (36 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        rows.append(f"{name}.png,{('cat', 'dog', 'cat;dog', 'dog')[number % 4]}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    with Run(
        root / "masks", "pseudo-labels", configuration={}, classes=("cat", "dog"), inputs={}, ids=names, suffix=".png",
        facts={"images": str(root / "images"), "ignore": 255}, execution=Execution(), reporter=Silent(),
    ) as run:  # fmt: skip
        for number, name in enumerate(names):
            mask = random.choice([0, 1, 2, 255], (36 + number, 40), p=[0.3, 0.2, 0.2, 0.3]).astype(np.uint8)
            mask[: 4 * number] = 255
            run.write(name, encode_mask(mask, ("cat", "dog")), inputs={})


@dataclass
class Launched:
    """What became of the cases that two ranks performed."""

    root: Path
    code: int
    ranks: list[list[dict[str, Any]]]

    def codes(self, case: int) -> list[int]:
        """The exit code of each rank."""
        return [results[case]["code"] for results in self.ranks]

    def said(self, case: int) -> list[str]:
        """What each rank wrote on stderr."""
        return [results[case]["stderr"] for results in self.ranks]

    def history(self, name: str) -> list[dict[str, float]]:
        """The rows of a training."""
        rows: list[dict[str, float]] = json.loads((self.root / name / "metrics.json").read_text())["history"]
        return rows


def launch(root: Path, cases: list[dict[str, Any]]) -> Launched:
    """Two ranks under torchrun."""
    write_data(root)
    (root / "cases.json").write_text(json.dumps(cases))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", str(DEEDS), "cases.json", ".",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    files = [root / f"rank{rank}.json" for rank in (0, 1)]
    assert all(file.exists() for file in files), done.stderr
    return Launched(root, done.returncode, [json.loads(file.read_text()) for file in files])


def assert_same_curve(
    together: Launched, name: str, argv: tuple[str, ...], near: float = NEAR, alone: str = ""
) -> None:
    """One process, run here, has the same loss in each of the first steps; dropout, drawn anew in a rank, is off."""
    alone = f"alone-{alone or name}"  # where it is there already, nothing is left to do
    assert main([*argv, "-q", "-o", alone]) == 0
    mine, theirs = together.history(alone), together.history(name)

    assert len(mine) == len(theirs) == STEPS
    assert [row["loss"] for row in theirs] == pytest.approx([row["loss"] for row in mine], rel=near)
    assert mine[-1]["loss"] < mine[0]["loss"]


AREAM = (*CLS, "--method=aream", "--backbone=tiny", "--set=cls_epochs=10")
SEG_BN = (*SEG, "--backbone=tiny-cnn")
FIRST: list[dict[str, Any]] = [
    {"argv": [*CAM, "--accumulate=2", "--json", "-o", "cam"]},
    {"argv": [*AREAM, "-o", "aream"]},
    {"argv": [*SEG_BN, "-o", "seg"]},
    {"argv": [*CAM, "--accumulate=3", "-o", "uneven"]},
    {"argv": [*CAM, "-o", "other"], "rank 1": ["--lr=0.1"]},
    {"argv": [*CAM, "-o", "pieces"], "rank 1": ["--accumulate=2"]},
    {"argv": [*CAM, "-o", "pixels"], "rank 1": ["--max-pixels=1000"]},
    {"argv": [*CAM, "-o", "disk"], "spoil": "disk"},
    {"argv": [*CAM, "-o", "kill"], "spoil": "kill"},
]


@pytest.fixture(autouse=True)
def _no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Dropout2d, "forward", lambda _self, x: x)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    return launch(tmp_path_factory.mktemp("ranks") / "here", FIRST)


def test_two_ranks_learn_what_one_process_learns(together: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same loss in 20 steps: tags in pieces, AReAM with its affinity loss, and masks through BatchNorm."""
    monkeypatch.chdir(together.root)
    assert [together.codes(case) for case in range(3)] == 3 * [[0, 0]]
    assert "aff" in together.history("aream")[-1]
    assert_same_curve(together, "cam", CAM)
    assert_same_curve(together, "aream", AREAM)
    assert_same_curve(together, "seg", SEG_BN)


def test_only_the_first_rank_talks_and_the_manifest_counts_them(together: Launched) -> None:
    """One JSON object, one summary; the number of ranks is a fact of the place, not of the configuration."""
    loud, silent = (results[:3] for results in together.ranks)
    manifest = json.loads((together.root / "cam" / "manifest.json").read_text())

    assert json.loads(loud[0]["stdout"])["epoch"] == STEPS
    assert [result["stdout"] + result["stderr"] for result in silent] == ["", "", ""]
    assert (manifest["environment"]["ranks"], manifest["environment"]["accumulate"]) == (2, 2)
    assert "accumulate" not in manifest["configuration"]


@pytest.mark.parametrize(
    ("case", "code", "sentence"),
    [
        (3, 2, "--batch-size is 8; 2 ranks with --accumulate 3 cannot share it evenly"),
        (4, 2, "Rank 1 has another configuration than rank 0. Start every rank with the same command"),
        (5, 2, "Rank 1 has another --accumulate than rank 0."),
        (6, 2, "Rank 1 has another --max-pixels than rank 0."),
        (7, 5, "No space left on device"),
    ],
)
def test_what_is_wrong_in_one_rank_ends_both(together: Launched, case: int, code: int, sentence: str) -> None:
    """The same exit code in both, and one sentence in all."""
    whole = "".join(together.said(case))

    assert together.codes(case) == [code, code]
    assert whole.count("wsss: error[") == 1
    assert sentence in whole


def test_a_killed_rank_ends_the_other_and_one_process_continues(
    together: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 ends by itself or by torchrun's signal; what it kept goes on with another number of ranks."""
    monkeypatch.chdir(together.root)
    killed = together.ranks[0][-1]
    kept = (together.root / "kill" / RESUME).exists()

    assert together.code != 0
    assert len(together.ranks[1]) == len(FIRST) - 1
    assert killed["code"] in (5, 143)
    assert "the same command" in killed["stderr"]
    assert kept
    assert main([*CAM, "-q", "-o", "kill"]) == 0
    assert_same_curve(together, "kill", CAM, alone="cam")
    assert not (together.root / "kill" / RESUME).exists()


MCT = (*CLS, "--method=mct", "--backbone=tiny")
MORE = (*CLS, "--method=more", "--backbone=tiny", "--preset=scratch", "--lr=1e-4")
CRT = (*CLS, "--method=crt", "--backbone=tiny", "--image-size=64", "--set=tie_epochs=5")
CNN = (*CLS, "--method=cam", "--backbone=tiny-cnn")


@pytest.mark.faults
def test_the_other_methods_in_two_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MoRe's contrasts compare the images of a batch, of which each rank has a part: its curve is near, not equal."""
    monkeypatch.chdir(tmp_path)
    trainings = {"mct": MCT, "crt": CRT, "cnn": CNN, "more": MORE}
    two = launch(tmp_path / "here", [{"argv": [*argv, "-o", name]} for name, argv in trainings.items()])
    monkeypatch.chdir(two.root)
    for name, argv in trainings.items():
        assert_same_curve(two, name, argv, near=0.1 if name == "more" else NEAR)


@pytest.mark.faults
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler here"
)
def test_compiled_blocks_in_two_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same curve as that of one process without --compile; BatchNorm, which asks all ranks, is refused."""
    monkeypatch.chdir(tmp_path)
    cases = [{"argv": [*argv, "--compile", "-o", name]} for argv, name in ((CAM, "cam"), (CNN, "cnn"))]
    two = launch(tmp_path / "here", cases)
    monkeypatch.chdir(two.root)

    assert [two.codes(case) for case in range(2)] == [[0, 0], [2, 2]], two.said(0)
    assert_same_curve(two, "cam", CAM)
    assert "".join(two.said(1)).count("--compile cannot share the statistics of BatchNorm among ranks") == 1


@pytest.mark.parametrize(("ranks", "pieces"), [(1, 1), (2, 1), (4, 1), (1, 4), (2, 2)])
def test_shares_make_up_the_batches_of_one_process(ranks: int, pieces: int) -> None:
    """However a batch is shared out, its images and their order are the same."""
    recipe = Recipe(2, 4, 0.1, 0.0, 0.0, "cosine", "fp32", 3)
    whole = list(EpochSampler(9, recipe, 0))
    shares = [list(EpochSampler(9, recipe, 0, Share(rank, ranks, pieces))) for rank in range(ranks)]
    steps = [
        [place for piece in range(pieces) for share in shares for place in share[step * pieces + piece]]
        for step in range(len(whole))
    ]

    assert steps == whole


@pytest.mark.parametrize(
    ("length", "share", "sentence"),
    [
        (
            9,
            Share(0, 3),
            "--batch-size is 4; 3 ranks cannot share it evenly. Pass a --batch-size that 3 divides.",
        ),
        (9, Share(0, 1, 3), "--batch-size is 4; --accumulate 3 cannot share it evenly"),
        (3, Share(0, 2), "there are 3 images in a batch; 2 ranks cannot share it evenly"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(length: int, share: Share, sentence: str) -> None:
    """It is said which number is wrong, and which ones are right."""
    with pytest.raises(UsageError) as refused:
        share.batch(4, length)

    assert sentence in str(refused.value)


RANKS = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1",
}  # fmt: skip


def test_the_place_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun's variables, and alone without them."""
    assert place() == Place(0, 1, 0, 1)
    for name, value in RANKS.items():
        monkeypatch.setenv(name, value)

    assert place() == Place(3, 4, 1, 2)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("RANK", "", "WORLD_SIZE is 4, but RANK is not set. Start the command with torchrun."),
        ("MASTER_ADDR", "", "MASTER_ADDR is not set"),
        ("RANK", "-1", "RANK is '-1', which is no number of a rank."),
        ("RANK", "4", "RANK 4 of WORLD_SIZE 4"),
        ("WORLD_SIZE", "0", "WORLD_SIZE is '0'"),
    ],
)
def test_half_a_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    """A rank that does not know where it stands would train on its own."""
    for variable, text in {**RANKS, name: value}.items():
        monkeypatch.setenv(variable, text)
    with pytest.raises(UsageError) as refused:
        place()

    assert sentence in str(refused.value)


def test_the_whole_pipeline_is_not_for_ranks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but its trainings would be done by every rank at once."""
    for variable, text in RANKS.items():
        monkeypatch.setenv(variable, text)

    assert main(["run", "images", "--labels", "labels.csv"]) == 2
    assert "start 'wsss train-cls' and 'wsss train-seg' by themselves" in capsys.readouterr().err


def test_each_rank_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of its number on its machine, and the cores are divided; cpu stays cpu."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    second = Place(3, 4, 1, 2)

    assert choose_device("auto", second) == choose_device("cuda", second) == torch.device("cuda:1")
    assert choose_device("cpu", second) == torch.device("cpu")
    assert [loading_processes(0, torch.device("cuda"), ranks) for ranks in (1, 2, 20)] == [8, 6, 1]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_rank_that_sees_one_gpu_takes_it(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """As under Slurm, which shows each task its own as the first one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    assert [choose_device(device, Place(rank, 2, rank, 2)).index for rank in (0, 1)] == [0, 0]


@pytest.mark.parametrize(
    ("device", "where", "error", "sentence"),
    [
        ("cuda:1", Place(1, 2, 1, 2), UsageError, "one GPU for 2 ranks"),
        (
            "auto",
            Place(2, 3, 2, 3),
            EnvironmentProblemError,
            "Rank 2 has no GPU of its own: torch sees 2 here",
        ),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, where: Place, error: type[Exception], sentence: str
) -> None:
    """Two ranks never share one in silence."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(error) as refused:
        choose_device(device, where)

    assert sentence in str(refused.value)


def test_statistics_that_cannot_be_shared_are_refused() -> None:
    """Any but torch's own two-dimensional BatchNorm and timm's."""
    with pytest.raises(UsageError, match="BatchNorm1d in this network cannot share its statistics"):
        synchronise(torch.nn.Sequential(torch.nn.BatchNorm1d(3)))


def test_a_shared_norm_keeps_its_names_and_its_evaluation() -> None:
    """The state has the same names, also timm's with an activation, and trained networks give the same maps."""
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), BatchNormAct2d(3)).eval()
    images, names = torch.randn(2, 3, 4, 4), list(network.state_dict())
    before = network(images)
    synchronise(network)

    assert list(network.state_dict()) == names
    assert [type(module) for module in network] == 2 * [SyncedBatchNorm]
    assert torch.equal(network(images), before)
