"""Confusion matrix, scores and threshold sweep, against arithmetic by eye and a slow reference."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsss_cli.ops import metrics

GOLDEN = Path(__file__).parents[1] / "golden" / "aream_pipeline.npz"
SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).parents[2].parent / "shared"))
FULL_GOLDEN = SHARED / "golden" / "aream" / "pipeline_tiny.npz"
THRESHOLDS = [0.1, 0.25, 0.5, 0.9]


def mask(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.uint8)


def test_confusion_counts_by_truth_and_prediction() -> None:
    """Rows are truth, columns prediction, the last column uncertain; 255 of the truth is not counted."""
    truth = mask([0, 0, 1], [2, 255, 1])
    prediction = mask([0, 1, 1], [255, 2, 0])
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]
    assert metrics.confusion(truth, prediction, 3, 255).tolist() == expected


def test_strips_are_counted_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts by strips of rows, and sweeps joined from strips that see other classes, are those of all pixels."""
    random = np.random.default_rng(0)
    truth = np.sort(random.integers(0, 4, (20, 7)).astype(np.uint8), axis=0)
    maps = random.random((2, 20, 7), np.float32)
    whole = metrics.confusion(truth, truth.T.reshape(20, 7), 4, 3)
    sweep = metrics.sweep_counts(truth, maps, [1, 2], THRESHOLDS, 3)
    parts = [
        metrics.sweep_counts(truth[top : top + 3], maps[:, top : top + 3], [1, 2], THRESHOLDS, 3)
        for top in range(0, 20, 3)
    ]
    joined = metrics.joined(parts)
    monkeypatch.setattr(metrics, "STRIP", 16)

    assert len({tuple(part.truth) for part in parts}) > 1
    assert (metrics.confusion(truth, truth.T.reshape(20, 7), 4, 3) == whole).all()
    assert joined.truth.tolist() == sweep.truth.tolist()
    assert (joined.pixels == sweep.pixels).all()


def test_confusion_takes_wide_ids() -> None:
    """An id above 255 stays what it is, and 255 is a class where the ignore value is another one."""
    truth = np.array([[300, 255]], dtype=np.uint16)
    counts = metrics.confusion(truth, truth, 301, 65535)
    assert counts[300, 300] == 1
    assert counts[255, 255] == 1
    assert counts.sum() == 2


@pytest.mark.parametrize("classes", [1, 3, 255])
def test_confusion_of_bytes_is_that_of_wider_numbers(classes: int) -> None:
    """8-bit masks are counted in a way of their own."""
    random = np.random.default_rng(classes)
    truth, prediction = (random.integers(0, classes, (30, 40)).astype(np.uint8) for _ in range(2))
    for each in truth, prediction:
        each[random.random(each.shape) < 0.2] = 255
    wide = metrics.confusion(truth.astype(np.uint16), prediction.astype(np.uint16), classes, 255)
    narrow = metrics.confusion(truth, prediction, classes, 255)
    assert (narrow == wide).all()
    assert narrow.sum() == (truth != 255).sum()


@pytest.mark.parametrize(("where", "value"), [("prediction", 3), ("prediction", 254), ("truth", 3)])
def test_confusion_refuses_an_id_out_of_range(where: str, value: int) -> None:
    """An id equal to the number of classes is refused instead of landing in the next row."""
    masks = {"truth": mask([0, 1]), "prediction": mask([0, 1])}
    masks[where] = mask([0, value])
    with pytest.raises(ValueError, match=f"class id {value} in the {where} is out of range 0..2"):
        metrics.confusion(masks["truth"], masks["prediction"], 3, 255)


@pytest.mark.parametrize("shape", [(2, 3), (3, 1), (1, 2), (6,)])
def test_confusion_refuses_another_shape(shape: tuple[int, ...]) -> None:
    """A prediction that NumPy would broadcast is a size mismatch."""
    with pytest.raises(ValueError, match="size mismatch"):
        metrics.confusion(np.zeros((3, 2), np.uint8), np.zeros(shape, np.uint8), 2, 255)


def test_scores_by_hand() -> None:
    """IoU, precision, recall, accuracy and coverage of six pixels, with and without the uncertain one."""
    counts = np.array([[2, 1, 0, 1], [0, 2, 0, 0], [0, 0, 0, 0]], dtype=np.int64)
    strict = metrics.scores(counts)
    np.testing.assert_allclose(strict.iou[:2], [2 / 4, 2 / 3])
    np.testing.assert_allclose(strict.recall[:2], [2 / 4, 1])
    np.testing.assert_allclose(strict.precision[:2], [1, 2 / 3])
    assert strict.miou == pytest.approx(100 * (2 / 4 + 2 / 3) / 2)
    assert strict.pixel_accuracy == pytest.approx(100 * 4 / 6)
    assert strict.coverage == pytest.approx(100 * 5 / 6)
    lenient = metrics.scores(counts, ignore_uncertain=True)
    np.testing.assert_allclose(lenient.iou[:2], [2 / 3, 2 / 3])
    assert lenient.pixel_accuracy == pytest.approx(100 * 4 / 5)


def test_a_class_absent_from_the_truth_is_not_averaged() -> None:
    """A class that is only predicted costs its victims but has no share in the mean; an unseen one is NaN."""
    counts = np.array([[3, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=np.int64)
    result = metrics.scores(counts)
    assert result.present.tolist() == [True, False, False]
    assert result.miou == pytest.approx(75.0)
    assert np.isnan(result.iou[1])
    assert result.iou[2] == 0


def test_scores_of_nothing_are_nan() -> None:
    """Truth without a scored pixel has no mIoU, accuracy or coverage."""
    result = metrics.scores(np.zeros((2, 3), np.int64))
    assert np.isnan([result.miou, result.pixel_accuracy, result.coverage]).all()


def slow_confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros((classes, classes + 1), np.int64)
    for row, column in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if row != 255:
            counts[row, classes if column == 255 else column] += 1
    return counts


SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6))
IDS = st.sampled_from([0, 1, 2, 3, 255])


@given(data=st.data(), shape=SHAPES)
@settings(deadline=None, max_examples=50)
def test_confusion_equals_counting_pixel_by_pixel(data: st.DataObject, shape: tuple[int, int]) -> None:
    """The histogram trick counts what a loop over pixels counts."""
    truth = data.draw(arrays(np.uint8, shape, elements=IDS))
    prediction = data.draw(arrays(np.uint8, shape, elements=IDS))
    np.testing.assert_array_equal(
        metrics.confusion(truth, prediction, 4, 255), slow_confusion(truth, prediction, 4)
    )


def argmax_prediction(maps: np.ndarray, ids: list[int], threshold: float) -> np.ndarray:
    stack = np.concatenate([np.full((1, *maps.shape[1:]), threshold, np.float32), maps])
    return np.array([0, *ids], dtype=np.uint8)[stack.argmax(axis=0)]


VALUES = st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.5, 0.6, 0.9, 1.0]).map(np.float32)


@given(data=st.data(), shape=SHAPES, ids=st.lists(st.integers(1, 3), unique=True, max_size=3))
@settings(deadline=None, max_examples=50)
def test_sweep_equals_an_argmax_per_threshold(
    data: st.DataObject, shape: tuple[int, int], ids: list[int]
) -> None:
    """Every threshold of the sweep gives the confusion of the argmax with that background, ties included."""
    truth = data.draw(arrays(np.uint8, shape, elements=IDS))
    maps = data.draw(arrays(np.float32, (len(ids), *shape), elements=VALUES))
    sweep = metrics.sweep_counts(truth, maps, ids, THRESHOLDS, 255)
    curve = metrics.sweep_curve([sweep, sweep], 4, len(THRESHOLDS))
    for index, threshold in enumerate(THRESHOLDS):
        expected = slow_confusion(truth, argmax_prediction(maps, ids, threshold), 4)
        np.testing.assert_array_equal(metrics.confusion_at(sweep, index, 4), expected)
        np.testing.assert_allclose(curve[index], metrics.scores(2 * expected).miou, equal_nan=True)


def test_sweep_refuses_maps_of_another_size() -> None:
    """Maps that do not cover the truth pixel for pixel are refused."""
    with pytest.raises(ValueError, match="size mismatch"):
        metrics.sweep_counts(
            np.zeros((2, 3), np.uint8), np.zeros((1, 3, 2), np.float32), [1], THRESHOLDS, 255
        )


@pytest.mark.parametrize(
    "path", [GOLDEN, pytest.param(FULL_GOLDEN, marks=pytest.mark.real)], ids=["small", "full"]
)
def test_sweep_agrees_with_the_official_evaluator(path: Path) -> None:
    """The 79 mIoUs of AReAM's evaluator on four images, to 1e-9 percent."""
    if not path.is_file():
        pytest.skip(f"{path} is absent; set WSSS_SHARED to the folder that holds golden/")
    with np.load(path, allow_pickle=False) as golden:
        thresholds = golden["eval_thresholds"].tolist()
        sweeps = [
            metrics.sweep_counts(
                golden[f"eval_im{i}_gt"],
                golden[f"eval_im{i}_cam"],
                golden[f"eval_im{i}_key"] + 1,
                thresholds,
                255,
            )
            for i in range(4)
        ]
        curve = metrics.sweep_curve(sweeps, int(golden["eval_num_cls"]), len(thresholds))
        np.testing.assert_allclose(curve, golden["eval_miou"], rtol=0, atol=1e-9)


def test_average_precision_by_hand() -> None:
    """Positives at ranks 1 and 3 give (1/1 + 2/3) / 2; a class without positives has none."""
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    targets = np.array([[1, 0], [0, 0], [1, 0]])
    precision = metrics.average_precision(scores, targets)
    assert precision[0] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(precision[1])


def test_average_precision_of_equal_scores_does_not_depend_on_their_order() -> None:
    """A constant score is worth the share of positives, whichever image comes first."""
    scores = np.zeros((4, 2))
    targets = np.array([[1, 0], [0, 0], [0, 0], [0, 1]])
    np.testing.assert_allclose(metrics.average_precision(scores, targets), [0.25, 0.25])


def test_nearest_repeats_and_drops_pixels() -> None:
    """Enlarging repeats pixels and shrinking drops them; no id appears that was not there."""
    small = mask([1, 255], [7, 0])
    large = metrics.nearest(small, (4, 4))
    assert large.tolist() == [[1, 1, 255, 255]] * 2 + [[7, 7, 0, 0]] * 2
    np.testing.assert_array_equal(metrics.nearest(large, (2, 2)), small)
