"""The operator table: all that is known about an operator, what its attributes mean, what is fused."""
