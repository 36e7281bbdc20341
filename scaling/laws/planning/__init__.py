"""What laws are for: budgets divided, counts reconciled, sweeps simulated and suggested."""
