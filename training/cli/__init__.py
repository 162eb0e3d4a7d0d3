"""What the commands print and do beside training."""
