"""Suites as Gymnasium environments, one or many, and as Stable-Baselines3 takes them."""
