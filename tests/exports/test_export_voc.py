"""`--to voc`: masks as VOC's own readers expect them."""

from __future__ import annotations

import numpy as np
import pytest
from export_scenes import MASKS, made, pixels, ring
from hypothesis import given, settings

from wsss_cli.data.masks import decode_mask
from wsss_cli.errors import RejectedInputError


@settings(deadline=None)
@given(MASKS)
def test_masks_come_back(mask: np.ndarray) -> None:
    """Palette indices are the mask, 255 included."""
    files = made("voc", {"a/1": mask})

    assert (decode_mask(files["SegmentationClass/a~1.png"], classes=2) == mask).all()


def test_lists_and_colours() -> None:
    """The list names the masks, the labelmap every colour that occurs in them."""
    files = made("voc", {"a/1": ring(), "b": ring()}, split="val")

    assert files["ImageSets/Segmentation/val.txt"] == b"a~1\nb\n"
    lines = files["labelmap.txt"].decode().splitlines()
    assert lines[1:] == [
        *("background:0,0,0::", "cat:128,0,0::", "hot dog:0,128,0::", "ignored:224,224,192::")
    ]
    assert pixels(files["SegmentationClass/b.png"]).ndim == 2


def test_a_name_that_would_break_the_labelmap_is_refused() -> None:
    """A colon separates fields there."""
    with pytest.raises(RejectedInputError, match=r"'a:b' cannot stand in labelmap\.txt"):
        made("voc", {"a": ring()}, classes=("a:b", "c"))
