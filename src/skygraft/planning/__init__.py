"""The plan of a campaign: which image gets which sources, what that costs, and what will go wrong."""
