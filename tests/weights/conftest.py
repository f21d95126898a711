from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds text embeddings of another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
