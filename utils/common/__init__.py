"""What every room needs: errors, atomic writes of files, journals, resuming, safe pickles, flags, progress, workers.

May import ``model``, the standard library and, to read arrays, NumPy. Runs on Python 3.9. joblib, Ray, tqdm and
matplotlib are each imported by one file of this room only, and only when they are used.
"""
