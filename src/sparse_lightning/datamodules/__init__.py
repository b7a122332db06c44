"""LightningDataModules, and the loader for tensors in memory."""
