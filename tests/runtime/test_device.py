"""Which precision a stage calculates in."""

from __future__ import annotations

import pytest
import torch

from wsss_cli.config import CamsConfig, resolve
from wsss_cli.errors import UsageError
from wsss_cli.methods import METHODS
from wsss_cli.runtime import device
from wsss_cli.runtime.device import choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("able", "exact", "chosen"), [(True, False, "bf16"), (True, True, "fp32"), (False, False, "fp32")]
)
def test_auto_is_bf16_where_it_is_fast(
    able: bool, exact: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the hardware multiplies it, and never for what must keep its digits."""
    monkeypatch.setattr(device, "_fast_bf16", lambda _: able)

    assert choose_precision("auto", CPU, exact=exact) == chosen
    assert choose_precision("bf16", CPU, exact=exact) == "bf16"


def test_fp16_is_for_gpus() -> None:
    """A CPU has no arithmetic for it."""
    with pytest.raises(UsageError, match="needs a GPU"):
        choose_precision("fp16", CPU, exact=False)


def test_published_inference_keeps_its_digits() -> None:
    """The presets that promise the authors' numbers do not depend on the hardware."""
    presets = [preset for name in METHODS.names() for preset in METHODS.load(name).CAMS_PRESETS.items()]

    assert len(presets) > len(METHODS.names())
    assert [name for name, values in presets if name != "default" and values.get("precision") != "fp32"] == []


@pytest.mark.parametrize(("typed", "chosen"), [("auto", "fp32"), ("bf16", "bf16")])
def test_auto_typed_is_no_wish_for_another_precision(typed: str, chosen: str) -> None:
    """Beside a preset that says which one; any other word wins over it."""
    for name in METHODS.names():
        paper = METHODS.load(name).CAMS_PRESETS["paper"]

        assert resolve(CamsConfig(precision=typed), paper, {"precision"}).precision == chosen
