"""Pages: runs as a site of static files, from the leaderboard down to the frames of one episode.

A site is a function from a path to the bytes there (:mod:`.site`). ``vlarig page`` calls it for every path and writes the results
(:mod:`.writing`); ``vlarig view`` calls it for each path that a browser requests (:mod:`.serving`).
"""
