"""The noise objective and the sampling loop."""
