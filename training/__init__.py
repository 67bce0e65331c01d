"""Training: the supervised stages of the paper's recipe, and the learner that the RL stage shares."""
