"""Writes the expert's actions, for the parity test: ``python tests/record.py FILE``, a file of ``vlarig export --actions``."""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet

episodes = pyarrow.parquet.read_table(sys.argv[1]).to_pylist()
actions = {episode["task"]: np.array(episode["actions"], np.float32) for episode in episodes}
np.savez_compressed(Path(__file__).with_name("expert_actions.npz"), **actions)
