"""PruneRegrow, its presets and its parts."""
