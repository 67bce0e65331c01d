"""Qwen-VLA, the paper's policy: a Qwen3.5 vision-language backbone and a flow-matching action expert."""
