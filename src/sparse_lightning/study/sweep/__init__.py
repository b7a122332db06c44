"""Many runs: their names, their processes, and their progress."""
