"""Images of any number of bands: where each band is found, and how its numbers are scaled."""
