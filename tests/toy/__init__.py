"""A toy simulator, its suites and policies: for tests about the harness itself."""
