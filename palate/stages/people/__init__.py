"""What people, judges and programs are asked, and what comes of it: candidates, the label page, quality, pairs."""
