"""The command that turns every study's records into verdicts."""
