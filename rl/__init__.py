"""The RL stage: chunk-level PPO in simulation (paper, section 4.2)."""
