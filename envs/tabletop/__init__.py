"""The embedded tabletop suite's simulator: a Panda over a table with coloured objects, trays and zones, on robosuite 1.5.2."""
