"""``python -m flows`` is ``featurefab``."""

from flows.cli import app

app()
