"""The stages of a run, one file each. They speak to one another through the run directory alone."""
