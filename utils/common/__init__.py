"""What every room needs: errors, whole files, journals, resuming, pickles that cannot execute, flags,
progress, workers.

May import ``model`` and the standard library, NumPy where arrays are read. Python 3.9; joblib, Ray, tqdm and matplotlib
are loaded only where they are used, and only one file names each of them.
"""
