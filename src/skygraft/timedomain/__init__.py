"""What changes with time: light curves, ephemerides, motion and parallax, windows of time, and templates."""
