"""Resources, budgets, costs as functions of widths, and widths that hold a budget."""
