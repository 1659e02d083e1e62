"""The peers' side of each comparison: run by the peer's own Python, they never import palate."""
