"""The commands of ``vlarig``, a module each: ``main(arguments)`` returns the exit status."""
