"""What does length cost? Time and memory against length."""
