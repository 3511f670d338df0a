"""Reports: one self-contained page a night, and the same as JSON."""
