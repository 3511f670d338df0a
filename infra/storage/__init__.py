"""Where features are kept: the offline store, the online stores, and what they share."""
