"""Scripted experts: one module a suite; they read the instruction and the simulator's truth, never the goal."""
