"""The web server of `palate label`: people are shown items, and what they answer goes to the store."""
