"""The RoboCasa-GR1 adapter: a humanoid at a table, on upstream's own tasks."""
