"""The bounds that this project promises, measured on real processes. `make bench`, or one of them:

PYTHONPATH=tests:bench .venv/bin/python -m bounds named|memory|wire|transfer
"""
