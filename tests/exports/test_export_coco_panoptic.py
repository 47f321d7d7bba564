"""`--to coco-panoptic`: segment ids that agree with what is said of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from export_scenes import MASKS, made, pixels
from hypothesis import given, settings


@pytest.mark.parametrize("per", ["region", "class"])
@settings(deadline=None)
@given(mask=MASKS)
def test_segments_are_the_mask(mask: np.ndarray, per: str) -> None:
    """Ids in the PNG are exactly those listed, with their areas; background is a category, do-not-know is void."""
    files = made("coco-panoptic", {"a/1": mask}, per=per)
    value = json.loads(files["annotations/panoptic_train.json"])
    (annotation,) = value["annotations"]
    colours = pixels(files[f"annotations/panoptic_train/{annotation['file_name']}"]).astype(int)
    ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
    back = np.full(mask.shape, 255)
    for info in annotation["segments_info"]:
        inside = ids == info["id"]
        assert info["area"] == inside.sum() > 0
        rows, columns = np.nonzero(inside)
        left, top = columns.min(), rows.min()
        assert info["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        back[inside] = info["category_id"]

    assert set(np.unique(ids)) - {0} == {info["id"] for info in annotation["segments_info"]}
    assert (back == mask).all()
    assert [category["isthing"] for category in value["categories"]] == [0, *[int(per == "region")] * 2]
