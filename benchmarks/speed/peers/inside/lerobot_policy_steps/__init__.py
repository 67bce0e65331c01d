"""A plugin of LeRobot's: ``lerobot-eval --policy.type=steps`` answers with our chunks; LeRobot finds its parts by file names."""

from .configuration_steps import StepsConfig as StepsConfig
