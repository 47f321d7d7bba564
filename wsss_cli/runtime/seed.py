"""Randomness that depends on the seed and the place in the work, never on what ran before."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(*parts: int) -> int:
    """A 63-bit number from the parts, e.g. (seed, epoch, index); stable over machines and versions."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(*parts: int) -> None:
    """Seed torch, numpy and random from the parts, and ask torch for repeatable kernels."""
    value = mix(*parts)
    torch.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def local_randomness(*parts: int) -> Iterator[None]:
    """Seed torch and random for the body and put their states back afterwards."""
    with torch.random.fork_rng(devices=[]):
        state = random.getstate()
        value = mix(*parts)
        torch.manual_seed(value)
        random.seed(value)
        try:
            yield
        finally:
            random.setstate(state)
