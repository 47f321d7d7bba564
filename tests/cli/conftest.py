"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pretending import Fake

import wsss_cli.stages
from wsss_cli.summary import Summary


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fake]:
    def install(answer: Callable[..., Summary] | BaseException | Summary, stage: str = "cams") -> Fake:
        def reply(*positional: Any) -> Summary:
            if isinstance(answer, BaseException):
                raise answer
            return answer(*positional) if callable(answer) else answer

        fake = Fake(reply)
        monkeypatch.setattr(wsss_cli.stages, stage, fake, raising=False)
        return fake

    return install
