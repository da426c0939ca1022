"""Work out what a campaign would do, and what it would cost."""
