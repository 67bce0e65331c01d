"""Environments: the common API, embodiments, the wire, and one adapter for each simulator family.

Around them: ``simulation``, the programs that run in a simulator's own environment, and what a simulator needs on a machine:
``runtimes``, virtual environments and graphics drivers, and ``assets``, data files.
"""
