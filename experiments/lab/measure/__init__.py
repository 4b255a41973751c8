"""What programs cost and how signals travel in them: only JAX is known here, no task, no study."""
