"""Where simulators and policies run, and the line to them: on this machine, on others that lend theirs, or where Ray places them."""
