"""The costly parts of a network as compiled programs (torch.compile), for as long as a training lasts.

Compiled are the blocks of each backbone, one by one: blocks of the same shape share a program, and a block whose inside
is being read runs as it is, because a program does not call the hooks of what it was made from. Networks come back as
they were found, and the names of their weights never change.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch._dynamo import config

from wsss_cli.errors import EnvironmentProblemError, UsageError
from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.conformer import Conformer
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.nets.synced import SyncedBatchNorm

# Random numbers are those of the network as it is, and no kernel is chosen by a race that another one may win.
HOW: dict[str, Any] = {"backend": "inductor", "options": {"fallback_random": True, "deterministic": True}}
PROGRAMS = 1000  # of one function; torch's own bound of 8 is less than a network may have of different blocks
TALKERS = ("torch._dynamo", "torch._inductor", "torch._functorch")  # loggers
MISSING = {  # how torch calls it -> what it is
    "InvalidCxxCompiler": "a C++ compiler such as g++ (the variable CXX may name it)",
    "TritonMissing": "triton",
}
HEADS = ("pre_logits", "head", "classifier", "fc")  # of timm's CNNs, which features do not run through
LONGEST = 200  # characters of what the compiler says


def costly_parts(network: nn.Module) -> list[nn.Module]:
    """The blocks of every backbone in the network; a `UsageError` if there are none, or one that cannot be compiled."""
    parts: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, ViT):
            parts += module.blocks
        elif isinstance(module, Conformer):
            parts += [module.conv_1, module.trans_1, *module.levels]
        elif isinstance(module, CNN):
            parts += _blocks(module.trunk)
    if not parts:
        raise UsageError("--compile finds no blocks in this network. Leave it out.")
    if any(isinstance(module, SyncedBatchNorm) for part in parts for module in part.modules()):
        raise UsageError(
            "--compile cannot share the statistics of BatchNorm among ranks. Leave it out, or train in one process."
        )
    return parts


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The stages or residual blocks of a CNN; what merely runs one after the other is taken apart."""
    for name, child in module.named_children():
        if name in HEADS:
            continue
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _blocks(child)
        elif sum(bool(layer._parameters) for layer in child.modules()) > 1:
            yield child


@contextmanager
def compiled(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Run the parts as programs where they are trained; without parts nothing happens.

    What keeps torch from it is an `EnvironmentProblemError`, at once if it can compile nothing at all.
    """
    if not parts:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_silence())
        stack.enter_context(config.patch(recompile_limit=PROGRAMS, accumulated_recompile_limit=PROGRAMS))
        stack.enter_context(config.patch(optimize_ddp=False))  # it is for networks compiled as a whole
        stack.callback(torch.compiler.reset)
        try:
            _program(lambda x: x.sin() + 1)(torch.zeros(8, device=next(parts[0].parameters()).device))
            for part in parts:
                _replace_drop_paths(part, stack)
                _replace_forward(part, stack)
            yield
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
                raise
            cause = getattr(error, "inner_exception", error)
            if isinstance(cause, MemoryError | OSError | torch.OutOfMemoryError):
                raise cause from error  # the machine's trouble, not the compiler's
            raise EnvironmentProblemError(_sentence(cause)) from error


def _program(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled as a whole, anew for each shape: what one shape gives must not depend on earlier ones."""
    return torch.compile(function, fullgraph=True, dynamic=False, **HOW)


def _replace_forward(part: nn.Module, stack: ExitStack) -> None:
    plain = part.forward
    program = _program(plain)

    def forward(*args: Any, **kwargs: Any) -> Any:
        chosen = program if part.training and not _is_read(part) else plain
        return chosen(*args, **kwargs)

    part.forward = forward
    stack.callback(vars(part).pop, "forward")


def _is_read(part: nn.Module) -> bool:
    """Whether a hook waits inside; those of the part itself are called around it."""
    return any(
        module._forward_hooks or module._forward_pre_hooks for module in part.modules() if module is not part
    )


def _replace_drop_paths(part: nn.Module, stack: ExitStack) -> None:
    """Stochastic depth with its rate in a tensor: a number would ask for a program of each block's own."""
    for parent in list(part.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DropPath) and child.drop_prob:
                setattr(parent, name, _TensorDropPath(child))
                stack.callback(setattr, parent, name, child)


class _TensorDropPath(nn.Module):
    """What timm's DropPath does, with the same random numbers."""

    def __init__(self, like: DropPath) -> None:
        super().__init__()
        self.rate = torch.tensor(like.drop_prob, dtype=torch.float64)  # no buffer: checkpoints have none
        self.scale = like.scale_by_keep
        self.train(like.training)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ...) -> the same, some images of it 0."""
        return x * kept_paths(x.detach(), self.rate, self.scale) if self.training else x


@torch.library.custom_op("wsss::kept_paths", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def kept_paths(x: Tensor, rate: Tensor, scale: bool) -> Tensor:
    """Factors (B, 1, ...) of x (B, ...): 0 with the probability `rate`, else 1, or with `scale` 1 / (1 - rate)."""
    keep = 1 - rate.item()
    kept = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(keep)
    return kept.div_(keep) if scale and keep > 0 else kept


@kept_paths.register_fake
def _(x: Tensor, rate: Tensor, scale: bool) -> Tensor:  # noqa: ARG001
    return x.new_empty((len(x),) + (1,) * (x.ndim - 1))


@contextmanager
def _silence() -> Iterator[None]:
    """Without what the compiler says on the way, unless TORCH_LOGS asks for it."""
    talkers = () if "TORCH_LOGS" in os.environ else map(logging.getLogger, TALKERS)
    before = {talker: talker.level for talker in talkers}
    for talker in before:
        talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\._")
            yield
    finally:
        for talker, level in before.items():
            talker.setLevel(level)


def _sentence(cause: Exception) -> str:
    """What keeps torch from compiling, and what to do."""
    kind = type(cause).__name__
    if kind in MISSING:
        return (
            f"--compile needs {MISSING[kind]}, which torch does not find. Install it, or leave --compile out."
        )
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [""]
    line = next((line for line in lines if "error:" in line), lines[0])[:LONGEST].rstrip(". ")
    return f"torch cannot compile this network ({kind}: {line}). Mend that, or leave --compile out."
