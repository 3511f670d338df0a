"""Where the engine meets the world: settings, storage, sources, tracking and reports."""

from infra.wiring import connect

__all__ = ["connect"]
