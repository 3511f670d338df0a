"""Where the engine meets the world: settings, storage, sources, tracking and reports."""
