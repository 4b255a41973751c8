"""What does one vector hold? Translation against the source's length."""
