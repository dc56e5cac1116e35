"""Which widths: NetAdapt's steps, how far each candidate goes, and the simpler methods. Algorithms alone.

May import ``model`` and ``utils.common``, and NumPy. Latencies, errors and scores are callables or numbers that come
from outside: nothing here knows torch, files or data.
"""
