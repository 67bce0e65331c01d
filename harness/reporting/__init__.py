"""What is told of a sweep: while it runs, in its log, and when somebody asks why it was slow."""
