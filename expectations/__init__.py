"""Rules and verdicts: what good data looks like, and whether data and models still look like that."""
