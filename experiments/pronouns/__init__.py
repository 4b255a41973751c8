"""What a pronoun refers to, and which head attends to the antecedent."""
