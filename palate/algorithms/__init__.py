"""The two loops (supervised, online) and the small records that make each method out of them."""
