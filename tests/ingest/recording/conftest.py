"""The small clips."""

from __future__ import annotations

import pytest

from ingest.simulate import ClipLibrary, ensure_clips


@pytest.fixture(scope="session")
def clips() -> ClipLibrary:
    return ensure_clips()
