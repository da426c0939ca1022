"""FITS files as what they are on disk: bytes, cards, pixels, and compressed tiles; what they mean is known outside."""
