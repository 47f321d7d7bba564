"""Tests of files kill processes, not machines: waiting for the disk would only make them slow."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _do_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
