"""Compiled parts compute what the network computes, share programs, and leave it as it was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from wsss_cli.errors import EnvironmentProblemError, UsageError
from wsss_cli.methods import METHODS, Progress
from wsss_cli.nets import compiled as module
from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.nets.compiled import compiled, costly_parts
from wsss_cli.nets.segmenters import Segmenter
from wsss_cli.nets.synced import synchronise
from wsss_cli.ops.attention import AttentionSum

EARLY, LATE = (Progress(epoch, 10, 10 * epoch, 100) for epoch in (0, 9))
SMALL_CONFORMER = "conformer:width=12,heads=2,ratio=0.125"
TRIAL = 1  # the program that shows whether torch can compile at all


class Programs:
    """In place of the compiler: programs that do what they were made from, and how often each ran."""

    def __init__(self) -> None:
        self.ran: list[int] = []

    def __call__(self, graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        number = len(self.ran)
        self.ran.append(0)

        def program(*inputs: Any) -> Any:
            self.ran[number] += 1
            return graph.forward(*inputs)

        return program

    @property
    def runs(self) -> int:
        """Without that of the trial."""
        return sum(self.ran[TRIAL:])


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    made = Programs()
    monkeypatch.setattr(module, "HOW", {"backend": made})
    return made


def make(name: str, backbone: str = "tiny") -> Any:
    """A method with seeded weights that leaves branches out."""
    torch.manual_seed(0)
    method = METHODS.load(name)
    return method.build(load_backbone(backbone, drop_path=0.3).backbone, 3, method.TrainOptions())


def learnt(network: Any, terms: Callable[[Tensor], list[Tensor]]) -> dict[str, Tensor]:
    """The terms of one step on two pictures, and the gradient of every parameter."""
    network.train()
    torch.manual_seed(1)
    images = torch.randn(2, 3, 64, 64)
    images[0, 0, :, :32] += 1
    found = terms(images)
    torch.stack(found).sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad(set_to_none=True)
    return {**gradients, "terms": torch.stack(found).detach()}


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def compare_methods(name: str, backbone: str, place: Progress) -> None:
    targets = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    method = make(name, backbone)

    def terms(images: Tensor) -> list[Tensor]:
        return list(method.losses(images, targets, place).values())

    expected = learnt(method, terms)
    method.load_state_dict(make(name, backbone).state_dict())  # BatchNorm has moved its statistics
    with compiled(costly_parts(method)):
        assert_near(learnt(method, terms), expected)


SAMPLE = ("aream", "tiny"), ("cam", "tiny-cnn")  # the others in `make test-faults`
KINDS = [*((name, "tiny") for name in METHODS.names()), ("cam", "tiny-cnn")]


def test_what_a_cnn_s_features_do_not_run_through_is_left_out() -> None:
    """A head would be compiled and never run, and the rest of the network would go on as it is."""
    first, second, third = (nn.Conv2d(3, 3, 1) for _ in range(3))
    head = nn.ModuleDict({"second": second, "third": third})
    trunk = nn.ModuleDict({"features": nn.Sequential(first), "pre_logits": head})
    trunk.num_features = 3
    with pytest.raises(UsageError, match="finds no blocks"):
        costly_parts(CNN(trunk, 16, frozen_statistics=False))


@pytest.mark.parametrize(
    ("name", "backbone"),
    [pytest.param(*kind, marks=() if kind in SAMPLE else pytest.mark.faults) for kind in KINDS],
)
def test_every_method_learns_the_same(name: str, backbone: str, programs: Programs) -> None:
    """Losses and gradients of a first step, with stochastic depth."""
    compare_methods(name, backbone, EARLY)

    assert programs.runs


@pytest.mark.faults
@pytest.mark.parametrize(("name", "backbone"), [*KINDS, ("aream", SMALL_CONFORMER)])
def test_late_steps_learn_the_same(name: str, backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With label maps and attention that is read; forward and backward as the compiler gets them."""
    monkeypatch.setattr(module, "HOW", {"backend": "aot_eager"})
    compare_methods(name, backbone, EARLY)
    compare_methods(name, backbone, LATE)


@pytest.mark.parametrize("backbone", ["vit:width=24,layers=4,heads=2,patch=16,grid=4", "tiny-cnn"])
def test_a_segmenter_learns_the_same(backbone: str, programs: Programs) -> None:
    """It listens to blocks from outside: they are compiled all the same."""
    torch.manual_seed(0)
    segmenter = Segmenter(load_backbone(backbone, drop_path=0.3).backbone, 3)
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}

    def terms(images: Tensor) -> list[Tensor]:
        scores = segmenter(images)
        return [scores.logits.square().mean(), scores.tags.square().mean()]

    expected = learnt(segmenter, terms)
    segmenter.load_state_dict(before)
    parts = costly_parts(segmenter)
    with compiled(parts):
        assert_near(learnt(segmenter, terms), expected)

    assert programs.runs == len(parts)


def test_blocks_that_differ_in_stochastic_depth_share_a_program(programs: Programs) -> None:
    """The first block leaves nothing out; all the others are one program, whatever their rates."""
    torch.manual_seed(0)
    trunk = load_backbone("vit:width=24,layers=12,heads=2,patch=16,grid=4", drop_path=0.3).backbone.train()
    with compiled(costly_parts(trunk)):
        trunk(torch.randn(2, 3, 64, 64))

    assert programs.ran[TRIAL:] == [1, 11]


def test_a_block_that_is_read_runs_as_it_is(programs: Programs) -> None:
    """Its attention is that of the network, as hooks in a program are not called; the other block is a program."""
    trunk = load_backbone("tiny").backbone.train()
    images = torch.randn(1, 3, 64, 64)
    expected, found = (AttentionSum(1, 1, [0.0, 1.0], [0.0, 1.0]) for _ in range(2))
    trunk(images, expected)
    with compiled(costly_parts(trunk)):
        trunk(images, found)

    assert expected.affinity is not None
    assert found.affinity is not None
    torch.testing.assert_close(found.affinity, expected.affinity)
    assert programs.runs == 1


def test_nothing_is_compiled_where_nothing_is_learnt(programs: Programs) -> None:
    """In eval mode the network runs as it is."""
    trunk = load_backbone("tiny").backbone.eval()
    with compiled(costly_parts(trunk)), torch.no_grad():
        trunk(torch.randn(1, 3, 64, 64))

    assert programs.runs == 0


def test_a_network_comes_back_as_it_was_found(programs: Programs) -> None:  # noqa: ARG001
    """Also after an error; the names of the weights are the same within."""
    network = make("cam")
    modules, names = dict(network.named_modules()), list(network.state_dict())

    def stop() -> None:
        with compiled(costly_parts(network)):
            assert list(network.state_dict()) == names
            assert not any(isinstance(child, DropPath) for child in network.modules())
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        stop()
    assert dict(network.named_modules()) == modules
    assert [name for name, child in modules.items() if "forward" in vars(child)] == []


def test_what_no_backbone_has_and_what_ranks_cannot_share_is_refused() -> None:
    """One sentence each; a CNN in one process is taken apart into its residual blocks."""
    cnn = make("cam", "tiny-cnn")
    assert len(costly_parts(cnn)) == 3
    assert len(costly_parts(load_backbone("resnet18").backbone)) == 8

    with pytest.raises(UsageError, match="--compile finds no blocks in this network"):
        costly_parts(nn.Linear(2, 2))
    synchronise(cnn)
    with pytest.raises(UsageError, match="statistics of BatchNorm among ranks"):
        costly_parts(cnn)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "boom\n\nSet TORCH_LOGS for more.",
            r"torch cannot compile this network \(RuntimeError: boom\). Mend",
        ),
        (
            "C++ compile error\nOutput:\na.cpp:1: fatal error: Python.h: No such file\n",
            "Python.h: No such file",
        ),
    ],
)
def test_what_the_compiler_says_is_one_sentence(
    said: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it fails in the middle of a training, too."""
    made: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        made.append(1)
        if len(made) > TRIAL:
            raise RuntimeError(said)
        return graph.forward

    monkeypatch.setattr(module, "HOW", {"backend": backend})
    trunk = load_backbone("tiny").backbone.train()
    with pytest.raises(EnvironmentProblemError, match=told) as caught, compiled(costly_parts(trunk)):
        trunk(torch.randn(1, 3, 64, 64))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "need"), [("InvalidCxxCompiler", "a C"), ("TritonMissing", "triton")])
def test_what_is_not_there_is_named(kind: str, need: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler on a CPU, triton on a GPU."""

    def backend(*_: Any) -> Callable[..., Any]:
        raise type(kind, (RuntimeError,), {})("not found")

    monkeypatch.setattr(module, "HOW", {"backend": backend})
    with (
        pytest.raises(EnvironmentProblemError, match=f"--compile needs {need}.* Install it"),
        compiled(costly_parts(load_backbone("tiny").backbone)),
    ):
        pass
