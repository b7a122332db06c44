"""Pure functions, tensors in and tensors out: masks, pruning, coactivation, densities, schedules."""
