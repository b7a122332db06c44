"""Pure functions on tensors: masks, pruning, growth, coactivation, densities, schedules."""
