"""Tell people, browsers and machines how far a campaign is."""
