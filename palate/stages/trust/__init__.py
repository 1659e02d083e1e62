"""Whether to believe a run: gates and doctor, looks on the way, monitors, the reward model's report, exact truths."""
