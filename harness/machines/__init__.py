"""Machines: this one, others that lend their workers by an env server, and those where Ray places workers and replicas."""
