"""What tests of several folders share: commands, records, and the equations in NumPy."""
