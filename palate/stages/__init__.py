"""The stages of a run, one file each, and what plans, does and closes a run. They speak to one another through the run
directory alone. `people` asks for feedback, `trust` says whether to believe a run, `lab` does experiments."""
