"""Readers of delivered files: STDF, CSV, Parquet and NDJSON, and a simulated fab that writes STDF."""
