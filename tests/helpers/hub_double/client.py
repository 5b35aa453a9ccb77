"""This process as a client of the double: no Xet, no pauses, and what would have been waited."""

from __future__ import annotations

import types

from helpers.hub_double.state import TOKEN, Hub


def without_waiting(monkeypatch, hub: Hub) -> list[float]:
    """Point this process at the double. Returns the pauses between repeats, in seconds, which are not made."""
    import huggingface_hub

    waits: list[float] = []
    clock = types.SimpleNamespace(sleep=waits.append)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    monkeypatch.setattr("agenttuning.hub.wire.time", clock)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the double speaks LFS
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    return waits
