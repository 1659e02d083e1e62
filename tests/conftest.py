"""Settings that every test shares."""

from hypothesis import settings

# The same examples on every run, and no time limit on one: a busy machine must not fail a test.
settings.register_profile("palate", derandomize=True, deadline=None, database=None)
settings.load_profile("palate")
