"""Commands about policies alone."""
