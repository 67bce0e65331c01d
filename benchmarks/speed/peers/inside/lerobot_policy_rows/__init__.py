"""A plugin of LeRobot's: ``lerobot-eval --policy.type=rows`` answers with our chunks. LeRobot finds its parts by their files' names."""

from .configuration_rows import RowsConfig as RowsConfig
