"""The machinery under the loops: stations of the online loop, generation, optimiser, checkpoints, metrics, seeding."""
