"""Prefect flows over the platform, and the command line. Importing this package imports no Prefect."""
