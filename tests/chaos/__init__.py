"""Chaos: real sweeps under storms of kills, stops, broken lines, full disks and torn ledgers, whose results must not change.

``python tests/chaos --help`` explains how to run a long storm by hand; ``tests/harness/test_storm.py`` runs short ones.
"""

#: Environment variable: folder of the storm; without it there is none.
STORM = "VLARIG_TEST_STORM"
