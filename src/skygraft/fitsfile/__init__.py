"""FITS files at the level of bytes: cards, pixels and compressed tiles. What HDUs mean is up to `skygraft.formats`."""
