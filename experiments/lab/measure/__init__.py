"""Time, memory, operation counts and Jacobians of any JAX function."""
