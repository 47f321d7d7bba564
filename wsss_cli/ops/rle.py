"""Run lengths of binary masks, in the two codings that annotation tools exchange."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RLE_SIZES = (3, 4, 8, 16)  # bits of the four kinds of run lengths


def run_lengths(positions: NDArray[np.intp], length: int) -> list[int]:
    """Lengths of the runs of 0, 1, 0, ... in a sequence of `length` that is 1 at `positions` (ascending)."""
    if not positions.size:
        return [length]
    breaks = np.flatnonzero(np.diff(positions) != 1)
    starts = positions[np.concatenate(([0], breaks + 1))]
    ends = positions[np.concatenate((breaks, [-1]))] + 1
    edges = np.column_stack((starts, ends)).ravel()
    counts: list[int] = np.diff(np.concatenate(([0], edges, [length]))).tolist()
    return counts if counts[-1] else counts[:-1]


def coco_counts(counts: list[int]) -> str:
    """The text of COCO's compressed RLE: 5 bits a character; from the third run on, changes to the one before last."""
    text = []
    for index, count in enumerate(counts):
        rest = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = rest & 0x1F
            rest >>= 5
            more = rest != (-1 if bits & 0x10 else 0)
            text.append(chr(48 + bits + 0x20 * more))
    return "".join(text)


def rle_pack(counts: list[int], channels: int = 4) -> list[int]:
    """The bytes of @thi.ng/rle-pack for runs of 0 and 255, each value standing `channels` times (RGBA).

    32 bits number of values, 5 bits word size - 1, four times 4 bits length size - 1; then for every run a 1, 2 bits
    that choose the length size, length - 1, value. What Label Studio calls RLE.
    """
    bits = [f"{channels * sum(counts):032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in _RLE_SIZES)]
    for index, count in enumerate(counts):
        value = f"{255 * (index % 2):08b}"
        rest = channels * count
        while rest:
            part = min(rest, 1 << _RLE_SIZES[-1])
            kind = next(kind for kind, size in enumerate(_RLE_SIZES) if part <= 1 << size)
            bits.append(f"1{kind:02b}{part - 1:0{_RLE_SIZES[kind]}b}{value}")
            rest -= part
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
