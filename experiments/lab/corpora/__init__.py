"""Real text: sets, the tokens that they become, and which of them stand in a batch."""
