"""Child processes of every kind, a worker of a simulator or a replica of a policy: started, framed, watched, and ended.

A request passes ``line`` (which reply belongs to it), ``simulator`` or the replica (how long it may take), and ``child`` (the socket
pair, the watch, the end); ``launcher`` is the small program that starts the processes and watches their memory.
"""
