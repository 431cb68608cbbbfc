"""The one forward model: extract patches, illuminate, propagate, measure."""
