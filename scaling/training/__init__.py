"""From a configuration to a record: optimizer, schedule, step, loop, checkpoints, metrics."""
