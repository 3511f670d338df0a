"""The MLflow server of a home: run by `infra.supervisor` in a process of its own."""

from __future__ import annotations

import sys

from infra.loopback import serve
from infra.settings import apply_isolation, load_settings


def main() -> None:
    """Serve the home's runs and models on the inherited socket."""
    settings = load_settings()
    stores = ("_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_SERVER_REGISTRY_STORE")
    apply_isolation(
        settings,
        dict.fromkeys(stores, settings.mlflow_uri)
        | {
            "_MLFLOW_SERVER_ARTIFACT_ROOT": settings.mlflow_artifacts.as_uri(),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "false",
        },
    )
    # One process, not four workers: and MLflow reads its environment on import.
    from mlflow.server.fastapi_app import app  # noqa: PLC0415

    serve(app, sys.argv[1:])


if __name__ == "__main__":
    main()
