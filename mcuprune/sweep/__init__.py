"""Many prunes of one model: a grid of budgets, methods and seeds, run by an executor, compared on what they wrote."""
