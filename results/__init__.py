"""What was measured: the ledger of a run, its manifest, statistics and tables."""
