"""The forms of a table: one module each, all of the same :class:`~vlarig.results.sheet.Sheet`."""
