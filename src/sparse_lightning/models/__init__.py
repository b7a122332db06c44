"""LightningModules, and what they are built of: network, optimizer and schedule, metrics, noise."""
