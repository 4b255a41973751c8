"""How models learn: the recipe, one pure step, and its compilation over members and devices."""
