"""Where tensors live and in which precision they are multiplied."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from wsss_cli import timing
from wsss_cli.errors import EnvironmentProblemError, UsageError
from wsss_cli.ranks import Place

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, where: Place | None = None) -> torch.device:
    """`auto` is the first CUDA GPU, else the CPU; a device that is not there is an `EnvironmentProblemError`.

    `auto:2` is meant for the third process of a machine, so that each takes a GPU of its own as long as there are any.
    Of several ranks of a training on a machine each takes the GPU of its own number, which must be there; where torch
    sees one GPU only, that one, as each rank may have been shown its own.
    """
    if where is not None and where.ranks > 1 and name != "cpu":
        name = _of_rank(name, where)
    kind, _, number = name.partition(":")
    if kind == "auto" and (number.isdecimal() or name == kind):
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return (
            torch.device("cuda", int(number) % torch.cuda.device_count()) if number else torch.device("cuda")
        )
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"Unknown device '{name}'. Use auto, cpu, cuda or cuda:1.") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device is '{name}'; use auto, cpu, cuda or cuda:1.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblemError(f"--device is '{name}', but torch sees no GPU here. Use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentProblemError(
            f"--device is '{name}', but there are {torch.cuda.device_count()} GPUs."
        )
    return device


def _of_rank(name: str, where: Place) -> str:
    if name.startswith("cuda:") and where.local_ranks > 1:
        raise UsageError(
            f"--device is '{name}', one GPU for {where.local_ranks} ranks. Leave it out, and each rank takes its own."
        )
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    if torch.cuda.device_count() == 1:  # srun --gpus-per-task=1 shows each rank its own
        return "cuda:0"
    if where.local_rank >= torch.cuda.device_count():
        raise EnvironmentProblemError(
            f"Rank {where.rank} has no GPU of its own: torch sees {torch.cuda.device_count()} here for "
            f"{where.local_ranks} ranks. Start as many ranks as there are GPUs, or pass --device cpu."
        )
    return f"cuda:{where.local_rank}"


def choose_precision(name: str, device: torch.device, *, exact: bool) -> str:
    """`auto` is bf16 on hardware that multiplies it, unless the result is to be `exact`; else fp32."""
    if name != "auto":
        if name == "fp16" and device.type == "cpu":
            raise UsageError("--precision fp16 needs a GPU. Use fp32, or bf16 on a CPU that multiplies it.")
        return name
    return "bf16" if not exact and _fast_bf16(device) else "fp32"


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":  # emulated bf16 is 25 times slower than fp32
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which a forward pass runs in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_TYPES[precision])


def settle(device: torch.device) -> None:
    """Wait for the device where time is measured: a GPU works on after a call has returned."""
    if device.type == "cuda" and timing.current() is not None:
        torch.cuda.synchronize(device)


def loading_processes(workers: int, device: torch.device, ranks: int = 1) -> int:
    """How many processes load images: they pay where the network runs elsewhere; on a CPU they take its cores.

    `workers` is of each rank; `ranks` on this machine share its cores.
    """
    if workers:
        return workers
    return min(8, max(1, (os.cpu_count() or 1) // ranks)) if device.type == "cuda" else 0
