"""The command that tests all claims with stored records and prints the verdicts."""
