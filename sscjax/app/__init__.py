"""The program for people without a terminal: pages in the browser, served by this machine alone.

It starts the same commands as a terminal would, and reads what they leave in a run's folder.
"""
