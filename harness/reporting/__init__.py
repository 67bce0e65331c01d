"""Reports of a sweep: the live display, the event log, and the diagnosis of its speed."""
