"""Palate's side of each comparison: one module a task, each run as a process of its own."""
