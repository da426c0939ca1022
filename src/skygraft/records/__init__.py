"""Files of a campaign: where each lies, the plan, what was made of each image, and how far the campaign is."""
