"""SimplerEnv's WidowX tasks, and out-of-distribution tasks in the same scenes, on mani-skill 3."""
