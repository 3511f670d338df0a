"""Great Expectations on Polars: an execution engine of our own, registered by ``registration.register``."""
