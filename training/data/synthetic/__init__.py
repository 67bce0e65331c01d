"""Language-action data: trajectories of six arms that were planned, not seen, with composed instructions (paper, section 3.2.3)."""
